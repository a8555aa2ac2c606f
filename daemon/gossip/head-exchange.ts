import type { PeerKey } from '../site.ts'
import type { HeadBook, KnownHead } from './head-book.ts'
import type { Link } from './link.ts'
import type { Timings } from './timings.ts'

/** Tells every link the heads that it does not know yet, gathered, and each once. */
export interface HeadExchange {
  /** Everything, to a link that just came. */
  greet(link: Link): void
  gone(link: Link): void
  /** A link has shown that it knows this head. */
  heard(link: Link, head: KnownHead): void
  /** A head is newer than before; `soon` for what no other host will tell. */
  changed(soon: boolean): void
  /** What links know may not hold any more (the members changed): all is told again. */
  again(): void
  close(): void
}

interface Told {
  readonly core: string
  readonly length: number
}

export function createHeadExchange(
  heads: HeadBook,
  timings: Timings,
  now: () => number,
): HeadExchange {
  const links = new Map<Link, Map<PeerKey, Told>>()
  let timer: NodeJS.Timeout | undefined
  let dueAt = Infinity

  const tell = (link: Link, told: Map<PeerKey, Told>) => {
    const fresh: Uint8Array[] = []
    for (const { host, core, length, bytes } of heads.all()) {
      const before = told.get(host)
      if (before?.core === core && before.length >= length) continue
      told.set(host, { core, length })
      fresh.push(bytes)
    }
    link.channel.heads(fresh)
  }
  const flush = () => {
    timer = undefined
    dueAt = Infinity
    for (const [link, told] of links) tell(link, told)
  }
  return {
    greet(link) {
      const told = new Map<PeerKey, Told>()
      links.set(link, told)
      tell(link, told)
    },
    gone: link => void links.delete(link),
    heard(link, { host, core, length }) {
      const told = links.get(link)
      const before = told?.get(host)
      if (before?.core !== core || before.length < length) told?.set(host, { core, length })
    },
    changed(soon) {
      const delay = soon ? timings.headsMs : timings.relayMs
      if (timer !== undefined && dueAt <= now() + delay) return
      clearTimeout(timer)
      dueAt = now() + delay
      timer = setTimeout(flush, delay)
    },
    again() {
      for (const told of links.values()) told.clear()
      this.changed(true)
    },
    close() {
      clearTimeout(timer)
      links.clear()
    },
  }
}
