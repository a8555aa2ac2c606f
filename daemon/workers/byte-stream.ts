/**
 * Bytes as chunks, pulled. A consumer that is done with a chunk gives it back by `recycle` (after the write has
 * completed), so that a few buffers serve a stream of any length; forgetting to is only slower. Leaving the loop
 * early (or `destroy`) releases everything behind it. Errors are thrown out of the loop.
 */
export interface ByteStream extends AsyncIterable<Buffer> {
  recycle(chunk: Buffer): void
  /** Stops and releases; safe to call twice and after the end. */
  destroy(): void
}

/** Part of a byte sequence: from `offset` (default 0) to `end`, exclusive (default the end). */
export interface ByteRange {
  readonly offset?: number | undefined
  readonly end?: number | undefined
}
