import { fail } from '../../protocol/errors.ts'
import { markOf, type NoteMark } from '../../protocol/host-notes.ts'
import type { NoteShelf, PeerKey } from '../site.ts'
import type { Link } from './link.ts'
import { NOTE_PART_BYTES, type NoteAsk, type NotePart } from './note-messages.ts'
import type { Timings } from './timings.ts'

/** Notes that are taken from one link at a time: each is up to 2 MB of memory until it is whole. */
const FETCHES_PER_LINK = 2

/** Tells every link which notes there are, fetches those that are newer, and gives parts of those that are here. */
export interface NoteExchange {
  /** All marks, to a link that just came. */
  greet(link: Link): void
  gone(link: Link): void
  marks(link: Link, marks: readonly NoteMark[]): void
  asked(link: Link, ask: NoteAsk): void
  /** Throws NOTE_INVALID for a note that is none. */
  part(link: Link, part: NotePart): void
  /** A note on the shelf is new; `soon` for what no other host will tell. */
  changed(soon: boolean): void
  /** The members changed: all is told again. */
  again(): void
  close(): void
}

interface Fetch {
  readonly mark: NoteMark
  readonly link: Link
  readonly parts: Uint8Array[]
  bytes: number
  timer: NodeJS.Timeout
}

interface Peer {
  /** Digests by host, as it was told or told itself. */
  readonly told: Map<string, string>
  /** What it has and we would like. */
  readonly offered: Map<string, NoteMark>
  running: number
}

export function createNoteExchange(
  shelf: NoteShelf,
  timings: Pick<Timings, 'headsMs' | 'relayMs' | 'noteMs'>,
  now: () => number,
): NoteExchange {
  const peers = new Map<Link, Peer>()
  const fetches = new Map<string, Fetch>()
  let timer: NodeJS.Timeout | undefined
  let dueAt = Infinity

  const tell = (link: Link, { told }: Peer) => {
    const fresh = shelf.marks().filter(({ host, digest }) => told.get(host) !== digest)
    for (const { host, digest } of fresh) told.set(host, digest)
    link.channel.noteMarks(fresh)
  }
  const flush = () => {
    timer = undefined
    dueAt = Infinity
    for (const [link, peer] of peers) tell(link, peer)
  }
  const changed = (soon: boolean) => {
    const delay = soon ? timings.headsMs : timings.relayMs
    if (timer !== undefined && dueAt <= now() + delay) return
    clearTimeout(timer)
    dueAt = now() + delay
    timer = setTimeout(flush, delay)
  }

  const end = (fetch: Fetch) => {
    clearTimeout(fetch.timer)
    fetches.delete(fetch.mark.host)
    const peer = peers.get(fetch.link)
    if (peer === undefined) return
    peer.running--
    if (peer.offered.get(fetch.mark.host)?.digest === fetch.mark.digest) {
      peer.offered.delete(fetch.mark.host)
    }
  }
  const ask = (fetch: Fetch) => {
    clearTimeout(fetch.timer)
    // Whoever gives nothing has not got it: the next one that offers it is asked.
    fetch.timer = setTimeout(() => {
      end(fetch)
      pump()
    }, timings.noteMs)
    const { host, sequence } = fetch.mark
    fetch.link.channel.askNote({ host: host as PeerKey, sequence, offset: fetch.bytes })
  }
  /** Begins whatever is wanted and may begin. */
  const pump = () => {
    for (const [link, peer] of peers) {
      for (const mark of peer.offered.values()) {
        if (peer.running >= FETCHES_PER_LINK) break
        if (!shelf.wants(mark)) peer.offered.delete(mark.host)
        else if (!fetches.has(mark.host)) {
          const fetch: Fetch = { mark, link, parts: [], bytes: 0, timer: setTimeout(() => {}, 0) }
          fetches.set(mark.host, fetch)
          peer.running++
          ask(fetch)
        }
      }
    }
  }

  const take = ({ mark, parts, link }: Fetch) => {
    const bytes = Buffer.concat(parts)
    const { sequence, digest } = markOf(bytes)
    if (sequence !== mark.sequence) fail('NOTE_INVALID', { problem: 'it is not the one announced' })
    peers.get(link)?.told.set(mark.host, digest)
    shelf.offer(bytes)
  }

  return {
    greet(link) {
      const peer: Peer = { told: new Map(), offered: new Map(), running: 0 }
      peers.set(link, peer)
      tell(link, peer)
    },
    gone(link) {
      peers.delete(link)
      for (const fetch of fetches.values()) if (fetch.link === link) end(fetch)
      pump()
    },
    marks(link, marks) {
      const peer = peers.get(link)
      if (peer === undefined) return
      for (const mark of marks) {
        peer.told.set(mark.host, mark.digest)
        // Members only: nobody fills the memory with hosts that there are not.
        if (shelf.wants(mark)) peer.offered.set(mark.host, mark)
        else peer.offered.delete(mark.host)
      }
      pump()
    },
    asked(link, { host, sequence, offset }) {
      const note = shelf.get(host)
      const stands = note !== undefined && markOf(note).sequence === sequence
      const bytes = stands ? note.subarray(offset, offset + NOTE_PART_BYTES) : Buffer.alloc(0)
      link.channel.notePart({ host, sequence, offset, bytes })
    },
    part(link, { host, sequence, offset, bytes }) {
      const fetch = fetches.get(host)
      if (fetch?.link !== link || fetch.mark.sequence !== sequence || fetch.bytes !== offset) return
      fetch.parts.push(bytes)
      fetch.bytes += bytes.length
      if (bytes.length > 0 && fetch.bytes < fetch.mark.size) return ask(fetch)
      end(fetch)
      try {
        if (bytes.length > 0) take(fetch)
      } finally {
        pump()
      }
    },
    changed,
    again() {
      for (const peer of peers.values()) peer.told.clear()
      changed(true)
    },
    close() {
      clearTimeout(timer)
      for (const fetch of fetches.values()) clearTimeout(fetch.timer)
      fetches.clear()
      peers.clear()
    },
  }
}
