import type { EventBus } from '../events.ts'

// A NAR broke off because the host that sent it went away, and nobody else has it. Nix asks for the rest after a third of a
// second and takes a 404 for the last word, so it had better wait a little for a host that was only restarted.

/**
 * How long somebody may be waited for, ms. A daemon that was killed and started anew is there after 2 s, on a slow machine
 * after 10 s; Nix bears 300 s without a byte.
 */
export const RETURN_WAIT_MS = 15_000

/** Who was killed may be there again before it was seen to be gone, so nobody will say that it came back: ms between attempts. */
const RETRY_MS = 500

/** Resolves when a peer comes up, or after that time. */
function peerUpWithin(events: EventBus, ms: number): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      clearTimeout(timer)
      events.off('peer:up', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    events.on('peer:up', done)
  })
}

/** Tries until somebody can give it, nobody is left who may come back, or the time is over. */
export async function untilReturned<T>(options: {
  readonly events: EventBus
  readonly waitMs: number
  readonly mayReturn: () => boolean
  readonly attempt: () => Promise<T | undefined>
}): Promise<T | undefined> {
  const { events, waitMs, mayReturn, attempt } = options
  const deadline = performance.now() + waitMs
  for (;;) {
    const left = deadline - performance.now()
    if (left <= 0 || !mayReturn()) return undefined
    await peerUpWithin(events, Math.min(RETRY_MS, left))
    const result = await attempt()
    if (result !== undefined) return result
  }
}
