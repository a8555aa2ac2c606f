/**
 * Bytes that a worker makes piece by piece, in its own time: one call is one slice of work (about a millisecond), so that
 * many sources take turns in one thread.
 */
export interface PullSource {
  /**
   * Puts the next bytes at the start of `out` and returns how many; fewer than fit, even none, when the slice is over, the
   * source is finished, or a segment's turn has come. Throws what is wrong with the source; after that only `close`.
   */
  fill(out: Buffer): number | Promise<number>
  /** Nothing more comes. */
  readonly finished: boolean
  /** A large file whose bytes come next and which the main thread reads by itself; to be taken before the next `fill`. */
  takeSegment?(): FileSegment | undefined
  /** Lets go of descriptors and memory; safe to call twice. */
  close(): void
}

/** Part of a file, and how to see that it is still that file. */
export interface FileSegment {
  /** A path as bytes. */
  readonly path: Uint8Array
  readonly device: number
  readonly inode: number
  /** Bytes of the whole file. */
  readonly fileSize: number
  readonly offset: number
  /** Exclusive. */
  readonly end: number
}
