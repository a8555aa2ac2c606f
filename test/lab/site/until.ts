/** Between two looks: short against everything that is measured, long enough to leave the processor to those who are waited for. */
const LOOK_EVERY_MS = 25

/**
 * Looks again and again until there is an answer, and returns it with how long it took. A look that throws, or sees nothing
 * (undefined or false), is no answer yet. Rejects with what was waited for and the last trouble when the time is over.
 */
export async function timed<T>(
  what: string,
  limitMs: number,
  look: () => T | undefined | false | Promise<T | undefined | false>,
  everyMs = LOOK_EVERY_MS,
): Promise<{ readonly value: T; readonly ms: number }> {
  const start = performance.now()
  let trouble: unknown
  for (;;) {
    try {
      const value = await look()
      if (value !== undefined && value !== false) return { value, ms: performance.now() - start }
      trouble = undefined
    } catch (error) {
      trouble = error
    }
    if (performance.now() - start > limitMs) {
      throw new Error(`not within ${limitMs} ms: ${what}`, { cause: trouble })
    }
    await new Promise(resolve => setTimeout(resolve, everyMs))
  }
}

/** As {@link timed}, the answer alone. */
export async function until<T>(...words: Parameters<typeof timed<T>>): Promise<T> {
  return (await timed<T>(...words)).value
}
