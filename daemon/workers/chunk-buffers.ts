import { CHUNK_BYTES, IDLE_BUFFERS } from './limits.ts'

// The memory in which bytes travel, one list for all streams: fresh buffers cost a page fault for each 4 KiB, which at
// gigabytes a second is more than the copying.

const idle: ArrayBuffer[] = []

/** A buffer of CHUNK_BYTES, with any content. */
export const takeBuffer = (): ArrayBuffer => idle.pop() ?? new ArrayBuffer(CHUNK_BYTES)

/** Gives a buffer back; of another size or too many, it is left to the garbage collector. */
export const giveBuffer = (buffer: ArrayBufferLike): void => {
  if (idle.length < IDLE_BUFFERS && buffer.byteLength === CHUNK_BYTES) {
    idle.push(buffer as ArrayBuffer)
  }
}

/** Buffers that are with one consumer, so that what comes back twice, or from elsewhere, counts once or not at all. */
export interface Loans {
  /** Lends the first `length` bytes. */
  lend(buffer: ArrayBuffer, length: number): Buffer
  /** Takes a chunk back. */
  settle(chunk: Buffer): void
}

export function createLoans(): Loans {
  const lent = new Set<ArrayBufferLike>()
  return {
    lend(buffer, length) {
      lent.add(buffer)
      return Buffer.from(buffer, 0, length)
    },
    settle({ buffer }) {
      if (lent.delete(buffer)) giveBuffer(buffer)
    },
  }
}
