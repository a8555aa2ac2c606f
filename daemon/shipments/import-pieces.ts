// The bytes of an archive on their way to the thread that takes it apart.

/** The items of a stream that may hang; throws the signal's reason as soon as it is given. */
async function* untilAborted<T>(
  items: AsyncIterable<T>,
  signal: AbortSignal | undefined,
): AsyncGenerator<T> {
  if (signal === undefined) return yield* items
  let stop: ((reason: unknown) => void) | undefined
  const onAbort = (): void => stop?.(signal.reason)
  signal.addEventListener('abort', onAbort)
  const iterator = items[Symbol.asyncIterator]()
  try {
    for (;;) {
      signal.throwIfAborted()
      // No race with one promise for all: that would keep every item until the end.
      const next = await new Promise<IteratorResult<T>>((resolve, reject) => {
        stop = reject
        iterator.next().then(resolve, reject)
      })
      if (next.done === true) return
      yield next.value
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** The archive in pieces, each a buffer that `take` gave, filled but for the last: they are the receiver's. */
export async function* inPieces(
  archive: AsyncIterable<Uint8Array>,
  take: () => Buffer,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  let piece: Buffer | undefined
  let filled = 0
  for await (const chunk of untilAborted(archive, signal)) {
    for (let at = 0; at < chunk.length;) {
      piece ??= take()
      const part = chunk.subarray(at, at + piece.length - filled)
      piece.set(part, filled)
      at += part.length
      filled += part.length
      if (filled < piece.length) continue
      yield piece
      piece = undefined
      filled = 0
    }
  }
  if (piece !== undefined) yield piece.subarray(0, filled)
}
