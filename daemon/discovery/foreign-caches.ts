import type { EventBus } from '../events.ts'
import type { PeerKey } from '../site.ts'

// Binary caches of other programs that were announced on the LAN as `_nix-serve._tcp`: harmonia, nix-serve and their like
// behind an avahi service file. They speak HTTP; the announcement has no more than name and port.

/** Foreign caches used at once: each becomes a holder that is asked for every miss. */
export const CACHES_MAX = 32

/** Caches of one address. */
export const CACHES_PER_ADDRESS_MAX = 4

/** One announcement. */
export interface SeenCache {
  readonly host: string
  readonly port: number
  readonly serviceName: string
  /** Whose it is, where another narwharf serves it. */
  readonly key: PeerKey | undefined
}

/** The caches that are there now. */
export interface ForeignCaches {
  /** Notes an announcement, which holds for `ttlMs`; one too many is not taken, since those in use serve well. */
  see(cache: SeenCache, ttlMs: number): void
  goodbye(serviceName: string, host: string): void
  expire(): void
  /** Lets go of every cache that is not wanted (any more). */
  keepOnly(wanted: (cache: SeenCache) => boolean): void
  list(): readonly string[]
}

/** An empty list, which says `cache:sighted` and `cache:gone`. `now` in ms. */
export function createForeignCaches(events: EventBus, now: () => number): ForeignCaches {
  const caches = new Map<string, SeenCache & { until: number }>()

  const drop = (url: string): void => {
    caches.delete(url)
    events.emit('cache:gone', url)
  }
  const dropWhere = (matches: (cache: SeenCache & { until: number }) => boolean): void => {
    for (const [url, cache] of caches) if (matches(cache)) drop(url)
  }

  return {
    see(cache, ttlMs) {
      const url = `http://${cache.host}:${cache.port}`
      const until = now() + ttlMs
      const known = caches.get(url)
      if (known !== undefined) {
        known.until = until
        return
      }
      const neighbours = [...caches.values()].filter(({ host }) => host === cache.host)
      if (caches.size >= CACHES_MAX || neighbours.length >= CACHES_PER_ADDRESS_MAX) return
      caches.set(url, { ...cache, until })
      events.emit('cache:sighted', url)
    },
    goodbye: (serviceName, host) =>
      dropWhere(cache => cache.serviceName === serviceName && cache.host === host),
    expire: () => dropWhere(({ until }) => until <= now()),
    keepOnly: wanted => dropWhere(cache => !wanted(cache)),
    list: () => [...caches.keys()],
  }
}
