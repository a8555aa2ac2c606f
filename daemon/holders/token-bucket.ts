import type { Clock } from './clock.ts'

/** Bytes a second of several transfers together. */
export interface TokenBucket {
  /**
   * Waits until something may be sent or fetched; `small` goes before `bulk`. Between asking and {@link spend} others may
   * have been let through as well: the debt is paid by whoever comes next.
   */
  ready(lane: Lane, signal?: AbortSignal): Promise<void>
  /** Takes bytes that went over the link. */
  spend(bytes: number): void
  /** Bytes to spend between two calls of `ready`, so that a narinfo need not wait long behind a NAR. */
  readonly sliceBytes: number
}

/** A narinfo that somebody waits for, or the bytes of a NAR. */
export type Lane = 'small' | 'bulk'

/** What may be spent at once after a pause, in seconds of the rate. */
const BURST_SECONDS = 1

/** Bulk bytes between two looks at who waits, in seconds of the rate. */
const SLICE_SECONDS = 0.25

const SECOND_MS = 1000

/** Makes a bucket of that many bytes a second. */
export function createTokenBucket(rate: number, clock: Clock): TokenBucket {
  const burst = rate * BURST_SECONDS
  let tokens = burst
  let filledAt = clock.now()
  const lanes: Readonly<Record<Lane, (() => void)[]>> = { small: [], bulk: [] }
  let letting = false

  const fill = (): void => {
    const now = clock.now()
    // A clock set back gives nothing and takes nothing.
    const elapsed = Math.max(0, now - filledAt)
    filledAt = now
    tokens = Math.min(burst, tokens + (elapsed / SECOND_MS) * rate)
  }

  /** Lets the waiting through one after the other, each when what was spent before is paid. */
  const letThrough = async (): Promise<void> => {
    if (letting) return
    letting = true
    for (;;) {
      fill()
      if (tokens <= 0) {
        await clock.sleep(Math.max(1, Math.ceil((-tokens / rate) * SECOND_MS)))
        continue
      }
      const next = lanes.small.shift() ?? lanes.bulk.shift()
      if (next === undefined) break
      next()
      // Whoever was let through spends before the next has its turn.
      await Promise.resolve()
      await Promise.resolve()
    }
    letting = false
  }

  return {
    sliceBytes: Math.max(1, Math.floor(rate * SLICE_SECONDS)),
    ready: (lane, signal) =>
      new Promise((resolve, reject) => {
        signal?.throwIfAborted()
        const abort = (): void => {
          const place = lanes[lane].indexOf(go)
          if (place >= 0) lanes[lane].splice(place, 1)
          reject(signal?.reason as Error)
        }
        const go = (): void => {
          signal?.removeEventListener('abort', abort)
          resolve()
        }
        signal?.addEventListener('abort', abort, { once: true })
        lanes[lane].push(go)
        void letThrough()
      }),
    spend(bytes) {
      fill()
      tokens -= bytes
    },
  }
}

/** No limit at all. */
export const UNLIMITED: TokenBucket = {
  sliceBytes: Infinity,
  ready: async () => undefined,
  spend() {},
}
