import type { PeerKey } from '../site.ts'
import type { Link } from './link.ts'

// Who is connected with whom: a host on two networks leads from one to the other, for those who know that it does.

/** What the hosts tell each other of their connections. */
export interface Reach {
  /** A link came or went: the others are told soon. */
  greet(link: Link): void
  gone(link: Link): void
  /** A link says with whom its host is connected. */
  told(link: Link, keys: readonly PeerKey[]): void
  /** Hosts that are connected with that one, and with us. */
  through(key: PeerKey): readonly PeerKey[]
  close(): void
}

/** Gathers changes for so long, ms. */
export function createReach(delayMs: number): Reach {
  const links = new Map<Link, { told: string; reaches: ReadonlySet<PeerKey> }>()
  let timer: NodeJS.Timeout | undefined

  const tell = (): void => {
    timer = undefined
    const keys = [...new Set([...links.keys()].map(({ key }) => key))].sort()
    for (const [link, one] of links) {
      const others = keys.filter(key => key !== link.key)
      const told = others.join()
      if (told === one.told) continue
      one.told = told
      link.channel.reach(others)
    }
  }
  const soon = (): void => {
    timer ??= setTimeout(tell, delayMs)
  }

  return {
    greet(link) {
      links.set(link, { told: '', reaches: new Set() })
      soon()
    },
    gone(link) {
      links.delete(link)
      soon()
    },
    told(link, keys) {
      const one = links.get(link)
      if (one !== undefined) one.reaches = new Set(keys)
    },
    through: key => [
      ...new Set([...links].flatMap(([link, { reaches }]) => (reaches.has(key) ? [link.key] : []))),
    ],
    close() {
      clearTimeout(timer)
      timer = undefined
      links.clear()
    },
  }
}
