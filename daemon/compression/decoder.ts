import { fail } from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'

/** Gives packed bytes, some at a time, valid until the next call; undefined at the end of the file. */
export type PackedSource = () => Buffer | undefined

/** Packed bytes become unpacked ones, at the caller's pace and in constant memory. */
export interface Decoder {
  /**
   * Puts the next bytes at the start of `out` and returns how many, at least one; 0 at the end, which is only reached
   * behind complete, checked data with nothing else after it. Throws COMPRESSED_DATA_INVALID.
   */
  fill(out: Buffer): number | Promise<number>
  /** Frees what the decoder holds; safe to call twice. */
  close(): void
}

/** What a decoder throws. */
export function damaged(compression: Compression, problem: string, cause?: unknown): never {
  return fail('COMPRESSED_DATA_INVALID', { compression, problem }, cause)
}

/** How every decoder says that data stops in the middle. */
export const ENDS_EARLY = 'it ends early'

/** How every decoder says that something follows the end. */
export const TRAILING = 'something else follows its end'
