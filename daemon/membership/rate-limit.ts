// Strangers may ask, but not as often as they please: each by its key, and all of them together, since a key costs nothing.

/** Requests of one key in a window: a person mistypes a few times, a host whose reply was lost asks again. */
const PER_KEY = 12

/** Requests of all strangers in a window: each costs at most a hundred HMACs or one list of signatures. */
const IN_ALL = 1200

const WINDOW_MS = 60_000

/** Says whether one more request of that key is to be looked at. Bounded: what it remembers ends with the window. */
export function createRateLimit(monotonic: () => number): (key: string) => boolean {
  let since = -Infinity
  let all = 0
  const counts = new Map<string, number>()
  return key => {
    const now = monotonic()
    if (now - since >= WINDOW_MS) {
      since = now
      all = 0
      counts.clear()
    }
    all += 1
    if (all > IN_ALL) return false
    const count = (counts.get(key) ?? 0) + 1
    counts.set(key, count)
    return count <= PER_KEY
  }
}
