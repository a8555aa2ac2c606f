import type { Clock } from './clock.ts'

/** Keeps a dead upstream from being asked: open after failures, closed again by a probe in the background. */
export interface Breaker {
  /** Why it is open; undefined while it is closed. */
  readonly problem: string | undefined
  /** Something answered. */
  succeeded(): void
  /** Something failed: `grave` (nobody answers at all) opens at once, others when they come in a row. */
  failed(problem: string, grave: boolean): void
  close(): void
}

export interface BreakerOptions {
  readonly clock: Clock
  /** Tries whether the upstream is back: rejects while it is not. */
  readonly probe: (signal: AbortSignal) => Promise<unknown>
  /** Waits between probes; the last one repeats. */
  readonly backoffMs?: readonly number[] | undefined
  /** 0..1, spreads the waits so that the hosts of a site do not all probe in the same second. */
  readonly random?: (() => number) | undefined
  readonly onOpen?: ((problem: string) => void) | undefined
  readonly onClose?: (() => void) | undefined
}

/** The first probe comes soon, as most failures are of one moment; later ones cost some 300 bytes each. */
export const PROBE_BACKOFF_MS: readonly number[] = [
  500, 2000, 5000, 15_000, 30_000, 60_000, 120_000,
]

/** Replies of 5xx in a row: one bad file of a cache must not put out all others. */
const FAILURES_IN_A_ROW = 3

/** By how much of itself a wait varies. */
const JITTER = 0.2

/** Makes a closed breaker. */
export function createBreaker(options: BreakerOptions): Breaker {
  const { clock, probe, backoffMs = PROBE_BACKOFF_MS, random = Math.random } = options
  const closing = new AbortController()
  let problem: string | undefined
  let inARow = 0
  let probing = false

  const succeeded = (): void => {
    inARow = 0
    if (problem === undefined) return
    problem = undefined
    options.onClose?.()
  }

  const probeUntilBack = async (): Promise<void> => {
    if (probing) return
    probing = true
    for (let turn = 0; problem !== undefined; turn++) {
      const base = backoffMs[Math.min(turn, backoffMs.length - 1)] ?? 0
      await clock.sleep(base * (1 + JITTER * (2 * random() - 1)), closing.signal)
      if (closing.signal.aborted) break
      // Something else may have got an answer meanwhile.
      if (problem === undefined) break
      try {
        await probe(closing.signal)
        succeeded()
      } catch (error) {
        if (!closing.signal.aborted) trip(error instanceof Error ? error.message : String(error))
      }
    }
    probing = false
  }

  const trip = (why: string): void => {
    if (closing.signal.aborted || problem === why) return
    problem = why
    options.onOpen?.(why)
    void probeUntilBack()
  }

  return {
    get problem() {
      return problem
    },
    succeeded,
    failed(why, grave) {
      inARow++
      if (grave || inARow >= FAILURES_IN_A_ROW) trip(why)
    },
    close: () => closing.abort(),
  }
}
