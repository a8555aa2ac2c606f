import { fail, isNarwharfError, NarwharfError } from '../../protocol/errors.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Holding } from './holder.ts'

/** What a NAR stream is held against. */
export interface NarGuard {
  readonly holderId: string
  readonly holding: Holding
  readonly range?: ByteRange | undefined
  /** Bytes of the whole: the NAR's, or the NAR file's; undefined where only its making tells. */
  readonly totalBytes: number | undefined
  isCurrent(): boolean
  /** Starts the bytes; `end` is undefined where the stream should run to its own end, so that surplus is noticed. */
  open(range: ByteRange): ByteStream
}

/** Failures of the file system that mean: what was there is not there any more. */
const VANISHED: ReadonlySet<unknown> = new Set(['ENOENT', 'ENOTDIR', 'ESTALE', 'ELOOP'])

/** Whether a file system call failed because the file went away (or became something else). */
export const isVanished = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && VANISHED.has(error.code)

/**
 * A stream of exactly the bytes promised: HOLDING_GONE when the holding does not stand at the start, vanishes on the way or
 * no longer stands before the last chunk goes out (what came may be half one copy, half another); NAR_MISMATCH
 * when the count is wrong.
 */
export function guardNar(guard: NarGuard): ByteStream {
  const { holding, range } = guard
  const totalBytes = guard.totalBytes ?? Number.POSITIVE_INFINITY
  const path = holding.info.storePath
  const offset = Math.min(range?.offset ?? 0, totalBytes)
  const end = Math.min(range?.end ?? totalBytes, totalBytes)
  const expected = Math.max(0, end - offset)
  let inner: ByteStream | undefined
  let destroyed = false

  const gone = (cause?: unknown): never =>
    fail('HOLDING_GONE', { path, holder: guard.holderId }, cause)
  const miscounted = (actual: number): never =>
    fail('NAR_MISMATCH', { path, field: 'size', actual: offset + actual, expected: end })

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    if (!guard.isCurrent()) gone()
    if (expected === 0) return
    let sent = 0
    try {
      inner = guard.open({ offset, end: end < totalBytes ? end : undefined })
      for await (const chunk of inner) {
        if (destroyed) return
        sent += chunk.length
        if (sent > expected) miscounted(sent)
        if (sent === expected && !guard.isCurrent()) gone()
        yield chunk
      }
      if (destroyed) return
      if (guard.totalBytes === undefined) {
        if (!guard.isCurrent()) gone()
      } else if (sent < expected) miscounted(sent)
    } catch (error) {
      if (isNarwharfError(error, 'HOLDING_GONE')) throw error
      // A tree deleted under its reader looks damaged; that it is gone is the better reason.
      if (isVanished(error) || !guard.isCurrent()) gone(error)
      throw error
    } finally {
      inner?.destroy()
    }
  }

  const iterator = chunks()
  return {
    recycle: chunk => inner?.recycle(chunk),
    destroy() {
      destroyed = true
      inner?.destroy()
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}

/** Runs one check of a whole NAR: undefined when right, else the error that says what is wrong with the copy. */
export async function checkNar(
  { holderId, holding, isCurrent }: Pick<NarGuard, 'holderId' | 'holding' | 'isCurrent'>,
  digest: () => Promise<{ readonly narHash: Uint8Array; readonly narSize: number }>,
): Promise<Error | undefined> {
  const { storePath, narHash, narSize } = holding.info
  try {
    if (!isCurrent()) fail('HOLDING_GONE', { path: storePath, holder: holderId })
    const found = await digest()
    if (found.narSize !== narSize) {
      fail('NAR_MISMATCH', {
        path: storePath,
        field: 'size',
        actual: found.narSize,
        expected: narSize,
      })
    }
    if (Buffer.compare(found.narHash, narHash.bytes) !== 0) {
      fail('NAR_MISMATCH', {
        path: storePath,
        field: 'hash',
        actual: Buffer.from(found.narHash).toString('hex'),
        expected: Buffer.from(narHash.bytes).toString('hex'),
      })
    }
    return undefined
  } catch (error) {
    if (error instanceof Error && error.name === 'AbortError') throw error
    if (isVanished(error) || !isCurrent()) {
      return new NarwharfError('HOLDING_GONE', { path: storePath, holder: holderId }, error)
    }
    if (
      isNarwharfError(error, 'NAR_MISMATCH') ||
      isNarwharfError(error, 'NAR_INVALID') ||
      isNarwharfError(error, 'COMPRESSED_DATA_INVALID')
    ) {
      return error
    }
    // Out of descriptors, a worker that died, a disk that does not answer: that says nothing of the NAR.
    throw error
  }
}
