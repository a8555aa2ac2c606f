import type { PeeringLimits } from './limits.ts'

/** Who may try to pair, and how often. */
export interface RateLimit {
  /** Whether one more attempt from there is allowed now; counts it if so. */
  take(address: string): boolean
}

const MINUTE_MS = 60_000

/** Counts attempts per minute, by address and in all; `now` is a monotonic clock in ms. */
export function createRateLimit(
  limits: Pick<PeeringLimits, 'strangersPerMinute' | 'strangersPerMinuteAll'>,
  now: () => number = () => performance.now(),
): RateLimit {
  let minute = now()
  let all = 0
  // Bounded by strangersPerMinuteAll, as it is emptied every minute.
  const byAddress = new Map<string, number>()
  return {
    take(address) {
      if (now() - minute >= MINUTE_MS) {
        minute = now()
        all = 0
        byAddress.clear()
      }
      const own = byAddress.get(address) ?? 0
      if (all >= limits.strangersPerMinuteAll || own >= limits.strangersPerMinute) return false
      all++
      byAddress.set(address, own + 1)
      return true
    },
  }
}
