// Whether more sources make one NAR come faster. That shows only when it is tried: the way they share, or this host itself,
// may be what is slow.

/** Sources at a time: more gain little, and each keeps a holder busy. */
const SOURCES_MAX = 4

/** How often the pace is looked at, ms. */
export const LOOK_MS = 1000

/** Looks that a pace is taken over: a second alone says little on a busy machine. */
const LOOKS = 2

/** What another source must add to be kept. */
const GAIN = 1.15

/** What a look found. */
export interface Pace {
  /** Bytes that arrived so far, from all sources. */
  readonly bytes: number
  /** Sources at work. */
  readonly sources: number
  /** Whether there is enough left to divide, and anybody else who has it. */
  readonly mayAdd: boolean
}

/** What is to be done about it. */
export type Advice = 'add' | 'drop' | 'stay'

/** Watches one transfer from its first byte on. */
export function createPaceWatch(): (pace: Pace) => Advice {
  let last: Pace | undefined
  let looks = 0
  let bytes = 0
  /** The pace before the newest source came, bytes per look; undefined while none is on trial. */
  let before: number | undefined
  let settled = false

  const begin = (): void => {
    looks = 0
    bytes = 0
  }
  return pace => {
    const previous = last
    last = pace
    if (settled || previous === undefined) return 'stay'
    if (previous.sources !== pace.sources) {
      // One came, or went: what came meanwhile is neither's pace. Who went by itself is on trial no more.
      if (pace.sources < previous.sources) before = undefined
      begin()
      return 'stay'
    }
    looks++
    bytes += pace.bytes - previous.bytes
    if (looks < LOOKS) return 'stay'
    const now = bytes / looks
    begin()
    if (before !== undefined && pace.sources > 1 && now < before * GAIN) {
      settled = true
      return 'drop'
    }
    before = undefined
    if (!pace.mayAdd || pace.sources >= SOURCES_MAX) return 'stay'
    before = now
    return 'add'
  }
}
