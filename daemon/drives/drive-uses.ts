import { setTimeout as wait } from 'node:timers/promises'
import type { DriveUse } from './drive.ts'

/** How long whoever uses a drive that is to be ejected may take to end that, ms. */
const END_MS = 15_000

/** Who uses which drive. */
export interface DriveUses {
  /** Undefined for a drive that is leaving. */
  add(id: string, what: string): DriveUse | undefined
  /** The drive is gone; `but`: it is there, with something else on it, which is what that use makes. */
  end(id: string, but?: string): void
  /** Tells all who use those drives to end it, and waits; gives what is still going on after a while. */
  finish(ids: readonly string[]): Promise<string[]>
}

interface Use {
  readonly id: string
  readonly what: string
  readonly abort: AbortController
}

/** Nobody uses anything yet. */
export function createDriveUses(endMs = END_MS): DriveUses {
  const uses = new Set<Use>()
  const leaving = new Set<string>()
  let waiting: (() => void)[] = []

  const stop = (ids: readonly string[], but?: string): void => {
    for (const { id, what, abort } of uses) if (ids.includes(id) && what !== but) abort.abort()
  }
  const left = (ids: readonly string[]): Use[] => [...uses].filter(({ id }) => ids.includes(id))

  return {
    add(id, what) {
      if (leaving.has(id)) return undefined
      const use = { id, what, abort: new AbortController() }
      uses.add(use)
      return {
        signal: use.abort.signal,
        done() {
          uses.delete(use)
          for (const resolve of waiting.splice(0)) resolve()
        },
      }
    },
    end: (id, but) => stop([id], but),
    async finish(ids) {
      for (const id of ids) leaving.add(id)
      stop(ids)
      const late = new AbortController()
      let isLate = false
      const timeout = wait(endMs, undefined, { signal: late.signal, ref: false }).then(
        () => (isLate = true),
        () => undefined,
      )
      while (left(ids).length > 0 && !isLate) {
        await Promise.race([new Promise<void>(resolve => waiting.push(resolve)), timeout])
      }
      late.abort()
      waiting = []
      for (const id of ids) leaving.delete(id)
      return left(ids).map(({ what }) => what)
    },
  }
}
