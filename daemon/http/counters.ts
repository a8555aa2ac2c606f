/** What was served since the start: plain numbers, so that counting costs nothing on the hot path. */
export interface Counters {
  narinfos: number
  misses: number
  nars: number
  narBytes: number
  /** NAR transfers that ended before their last byte, by the client or by a holder. */
  narsBroken: number
}

export function createCounters(): Counters {
  return { narinfos: 0, misses: 0, nars: 0, narBytes: 0, narsBroken: 0 }
}
