import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createSocket } from 'node:dgram'
import { join } from 'node:path'
import pino from 'pino'
import type { Test } from 'tap'
import { createEventBus, type EventBus } from '../../../daemon/events.ts'
import { createGossip, type Gossip, type GossipOptions } from '../../../daemon/gossip/gossip.ts'
import type { IndexEntry, Members, NoteShelf, PeerKey } from '../../../daemon/site.ts'
import { keyPairFromSeed } from '../../../protocol/ed25519.ts'
import { encodeNix32 } from '../../../protocol/nix32.ts'
import type { StorePath } from '../../../protocol/store-path.ts'
import { tempDir } from '../../helpers/scope.ts'
import { fakeIndexes, type FakeIndexes } from './fake-indexes.ts'

/** Who belongs to the site, as every room of a test sees it: change it and say `members:changed`. */
export interface Site {
  readonly members: Set<PeerKey>
  list: Buffer
}

export interface Host {
  readonly name: string
  readonly key: PeerKey
  readonly port: number
  readonly stateDir: string
  readonly keyPair: Members['keyPair']
  readonly events: EventBus
  readonly indexes: FakeIndexes
  readonly gossip: Gossip
  /** Lists that membership was offered. */
  readonly lists: string[]
  /** What was logged. */
  readonly logged: string[]
  membersChanged(): void
}

export const createSite = (): Site => ({ members: new Set(), list: Buffer.from('list 1') })

export const storePathOf = (name: string): StorePath =>
  `/nix/store/${encodeNix32(createHash('sha1').update(name).digest())}-${name}` as StorePath

export const entry = (name: string, references: readonly string[] = []): IndexEntry => ({
  info: {
    storePath: storePathOf(name),
    narHash: { algorithm: 'sha256', bytes: createHash('sha256').update(name).digest() },
    narSize: 1000,
    references: references.map(one => storePathOf(one).slice(11)).sort() as never,
    signatures: [],
  },
  builtHere: true,
})

/** A UDP port that was free a moment ago. */
export async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4')
  socket.bind(0)
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  return port
}

export interface HostOptions extends Partial<Omit<GossipOptions, 'members' | 'notes'>> {
  /** Makes what keeps the notes, before gossip. */
  readonly withNotes?: (parts: {
    readonly members: Members
    readonly events: EventBus
    readonly stateDir: string
  }) => NoteShelf
  /** The same host again, as after a restart. */
  readonly again?: Host
}

/** A host's gossip room with a fake catalog and a fake membership; opened, and closed with the test. */
export async function startHost(
  t: Test,
  site: Site,
  name: string,
  { again, withNotes, ...options }: HostOptions = {},
): Promise<Host> {
  const keyPair = again?.keyPair ?? keyPairFromSeed(randomBytes(32))
  const key = keyPair.publicKey.toString('hex') as PeerKey
  const port = again?.port ?? (await freeUdpPort())
  const stateDir = options.stateDir ?? again?.stateDir ?? tempDir(t, 'gossip')
  const events = createEventBus()
  const indexes = (options.indexes as FakeIndexes | undefined) ?? again?.indexes ?? fakeIndexes()
  const lists: string[] = []
  const logged: string[] = []
  site.members.add(key)
  const members: Members = {
    key,
    keyPair,
    siteName: 'test',
    isMember: other => site.members.has(other),
    nameOf: other => (site.members.has(other) ? `host-${other.slice(0, 4)}` : undefined),
    list: () => site.list,
    offer(list) {
      lists.push(Buffer.from(list).toString())
      return 'same'
    },
  }
  const gossip = createGossip({
    members,
    port,
    hostName: name,
    version: '1.2.3',
    stateDir,
    indexes,
    events,
    log: pino({ level: 'info' }, { write: (line: string) => void logged.push(line) }),
    addresses: () => ['127.0.0.1'],
    notes: withNotes?.({ members, events, stateDir }),
    ...options,
    timings: { backoffsMs: [100, 200, 400, 1000], saveMs: 10, relayMs: 50, ...options.timings },
  })
  t.teardown(() => gossip.close())
  await gossip.open()
  return {
    name,
    key,
    port,
    stateDir: join(stateDir),
    keyPair,
    events,
    indexes,
    gossip,
    lists,
    logged,
    membersChanged: () => void events.emit('members:changed'),
  }
}

/** Says to one host where another is. */
export const sight = (to: Host, other: { readonly key: PeerKey; readonly port: number }): void =>
  void to.events.emit('peer:sighted', {
    key: other.key,
    address: { host: '127.0.0.1', port: other.port },
    source: 'static',
  })

/** Resolves when it is so; looked at whenever anything happens at the host. */
export function until(host: Host, holds: () => boolean): Promise<void> {
  if (holds()) return Promise.resolve()
  const notices = ['peer:up', 'peer:down', 'peer:lied', 'index:changed', 'members:changed'] as const
  return new Promise(resolve => {
    const look = () => {
      if (!holds()) return
      for (const notice of notices) host.events.off(notice, look)
      resolve()
    }
    for (const notice of notices) host.events.on(notice, look)
  })
}

export const isUp = (host: Host, other: Host): boolean =>
  host.gossip.status().some(({ key, up }) => key === other.key && up)

/** Makes two hosts know each other, and waits until both say so. */
export async function connect(a: Host, b: Host): Promise<void> {
  sight(a, b)
  await Promise.all([until(a, () => isUp(a, b)), until(b, () => isUp(b, a))])
}
