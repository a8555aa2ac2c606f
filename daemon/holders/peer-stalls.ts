import type { HashPart } from '../../protocol/store-path.ts'
import type { PeerKey } from '../site.ts'

// Which peers accept a request and then send nothing. Each costs its asker the whole stall limit, and Nix asks five times.

/** For how long it is passed over at first, ms: three times what it just cost. */
const REST_MS = 30_000

/** And at most, ms: by then whoever was only overloaded may have recovered. */
const REST_MAX_MS = 10 * 60_000

/** Pairs of peer and path remembered. */
const REMEMBERED_MAX = 10_000

interface Stall {
  readonly restMs: number
  readonly until: number
}

/** What is known of peers that stalled; in memory. */
export interface PeerStalls {
  /** It stalled in the middle of that path, though it is up. */
  note(key: PeerKey, hashPart: HashPart): void
  /** For how long it is not to be asked for that path, ms; undefined where it may be. */
  restOf(key: PeerKey, hashPart: HashPart): number | undefined
  /** Whether it stalled lately, whatever it was asked for: others are asked first. */
  isSlow(key: PeerKey): boolean
}

/** Makes the memory; the rest doubles with each stall that follows soon after the last one's rest. */
export function createPeerStalls(now: () => number = () => performance.now()): PeerStalls {
  const byPath = new Map<string, Stall>()
  const slowUntil = new Map<PeerKey, number>()
  const keyOf = (key: PeerKey, hashPart: HashPart): string => `${key} ${hashPart}`

  return {
    note(key, hashPart) {
      const place = keyOf(key, hashPart)
      const last = byPath.get(place)
      // Requests that ran side by side tell of one and the same stall.
      if (last !== undefined && last.until > now()) return
      const isAgain = last !== undefined && now() - last.until < REST_MAX_MS
      const restMs = isAgain ? Math.min(2 * last.restMs, REST_MAX_MS) : REST_MS
      byPath.delete(place)
      byPath.set(place, { restMs, until: now() + restMs })
      slowUntil.set(key, now() + restMs)
      if (byPath.size <= REMEMBERED_MAX) return
      for (const oldest of byPath.keys()) {
        byPath.delete(oldest)
        return
      }
    },
    restOf(key, hashPart) {
      const left = (byPath.get(keyOf(key, hashPart))?.until ?? 0) - now()
      return left > 0 ? left : undefined
    },
    isSlow: key => (slowUntil.get(key) ?? 0) > now(),
  }
}
