/** The first pause after a stranger did not know the site; it doubles each time. */
const FIRST_PAUSE_MS = 30_000

/** A foreign site's host in the same LAN is asked once an hour. */
const LAST_PAUSE_MS = 3_600_000

/** Strangers remembered; forging more only makes this host ask again, never grow. */
const REMEMBERED_MAX = 1000

/** Keeps introductions from being repeated at every sighting: in tests and in daemons the same, by a clock that never jumps. */
export function createSightings(monotonic: () => number) {
  const tried = new Map<string, { readonly again: number; readonly pauseMs: number }>()
  return {
    /** Whether that stranger is to be asked now; says yes once for each pause. */
    mayTry(key: string): boolean {
      const now = monotonic()
      const last = tried.get(key)
      if (last !== undefined && now < last.again) return false
      const pauseMs = Math.min((last?.pauseMs ?? FIRST_PAUSE_MS / 2) * 2, LAST_PAUSE_MS)
      tried.delete(key)
      const [oldest] = tried.keys()
      if (oldest !== undefined && tried.size >= REMEMBERED_MAX) tried.delete(oldest)
      tried.set(key, { again: now + pauseMs, pauseMs })
      return true
    },
  }
}
