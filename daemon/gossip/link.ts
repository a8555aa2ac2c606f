import type { SwarmConnection } from 'hyperswarm'
import type { NoteMark } from '../../protocol/host-notes.ts'
import type { PeerAddress, PeerKey } from '../site.ts'
import { openChannel, type Channel } from './channel.ts'
import { PING_BYTES, type Hello, type ToldPeer } from './messages.ts'
import type { NoteAsk, NotePart } from './note-messages.ts'
import type { Timings } from './timings.ts'

/** A member's connection after its hello. */
export interface Link {
  readonly key: PeerKey
  readonly hello: Hello
  readonly channel: Channel
  readonly connection: SwarmConnection
  /** Where it listens: the address it came from with the port it says. */
  readonly address: PeerAddress | undefined
  /** Of the newest ping; undefined before the first came back. */
  rttMs: number | undefined
}

/** What the room does with a link. */
export interface LinkListener {
  up(link: Link): void
  /** Only after `up`. */
  down(link: Link, problem: string): void
  memberList(link: Link, list: Uint8Array): void
  heads(link: Link, heads: readonly Uint8Array[]): void
  told(link: Link, peers: readonly ToldPeer[]): void
  noteMarks(link: Link, marks: readonly NoteMark[]): void
  noteAsked(link: Link, ask: NoteAsk): void
  notePart(link: Link, part: NotePart): void
  reach(link: Link, keys: readonly PeerKey[]): void
  lied(key: PeerKey, problem: string): void
}

/** How a dual-stack socket writes an IPv4 address. */
const MAPPED = '::ffff:'

function addressOf(connection: SwarmConnection, port: number): PeerAddress | undefined {
  const host = connection.rawStream?.remoteHost ?? undefined
  return host === undefined
    ? undefined
    : { host: host.startsWith(MAPPED) ? host.slice(MAPPED.length) : host, port }
}

/**
 * Takes a connection that just came: hello first, then pings, until silence or close. Nothing here throws or is left
 * behind: the connection's end ends the timers. `now` is monotonic: the clock may jump.
 */
export function openLink(
  key: PeerKey,
  connection: SwarmConnection,
  hello: Hello,
  on: LinkListener,
  { timings, now }: { readonly timings: Timings; readonly now: () => number },
): void {
  let link: Link | undefined
  let heardAt = now()
  let problem = 'the connection ended'

  const drop = (why: string) => {
    problem = why
    connection.destroy()
  }
  const helloTimer = setTimeout(() => drop('no hello'), timings.helloMs)
  let pingTimer: NodeJS.Timeout | undefined
  connection.on('error', (error: Error) => (problem = error.message))
  connection.once('close', () => {
    clearTimeout(helloTimer)
    clearInterval(pingTimer)
    if (link !== undefined) on.down(link, problem)
    link = undefined
  })

  /** What is said after the end is not listened to. */
  const withLink = (act: (link: Link) => void) => {
    if (link !== undefined && !connection.destroyed) act(link)
  }
  const channel = openChannel(connection, hello, {
    hello(said) {
      if (connection.destroyed || channel === undefined) return
      clearTimeout(helloTimer)
      heardAt = now()
      link = {
        key,
        hello: said,
        channel,
        connection,
        address: addressOf(connection, said.port),
        rttMs: undefined,
      }
      pingTimer = setInterval(() => {
        if (now() - heardAt > timings.deadMs) return drop('no answer to pings')
        const payload = Buffer.alloc(PING_BYTES)
        payload.writeDoubleBE(now())
        channel.ping(payload)
      }, timings.pingMs)
      on.up(link)
    },
    memberList: list => withLink(link => on.memberList(link, list)),
    heads: heads => withLink(link => on.heads(link, heads)),
    told: peers => withLink(link => on.told(link, peers)),
    noteMarks: marks => withLink(link => on.noteMarks(link, marks)),
    noteAsked: ask => withLink(link => on.noteAsked(link, ask)),
    notePart: part => withLink(link => on.notePart(link, part)),
    reach: keys => withLink(link => on.reach(link, keys)),
    pong: payload =>
      withLink(link => {
        heardAt = now()
        const took = heardAt - Buffer.from(payload).readDoubleBE()
        // A pong with a number of its own making says nothing about the way.
        if (took >= 0 && took <= timings.deadMs) link.rttMs = took
      }),
    bad(why) {
      on.lied(key, why)
      drop(why)
    },
    closed: () => drop('it closed the conversation'),
  })
  if (channel === undefined) drop('a second conversation')
}
