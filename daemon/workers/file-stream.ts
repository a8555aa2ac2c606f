import { close, read } from 'node:fs'
import { promisify } from 'node:util'
import type { ByteStream } from './byte-stream.ts'
import { createLoans, giveBuffer, takeBuffer, type Loans } from './chunk-buffers.ts'
import { CHUNK_BYTES, READS_UNDER_WAY } from './limits.ts'

const closeFile = promisify(close)

const readAt = (fd: number, target: Buffer, position: number): Promise<number> =>
  new Promise((resolve, reject) => {
    read(fd, target, 0, target.length, position, (error, count) => {
      if (error === null) resolve(count)
      else reject(error)
    })
  })

/** Part of a file: from `offset` up to `end`, exclusive. */
export interface FilePart {
  readonly offset: number
  readonly end: number
}

/** One read under way: how much came, into which buffer. */
interface Reading {
  readonly buffer: ArrayBuffer
  readonly wanted: number
  readonly count: Promise<number>
}

async function readWhole(fd: number, target: Buffer, position: number): Promise<number> {
  let filled = 0
  while (filled < target.length) {
    const count = await readAt(fd, target.subarray(filled), position + filled)
    if (count === 0) break
    filled += count
  }
  return filled
}

/**
 * The bytes of a part of an open file, a few reads ahead of the consumer, in buffers lent by `loans`. Ends early where the
 * file does. The descriptor stays open; when the generator has returned, no read uses it any more.
 */
export async function* readFilePart(
  fd: number,
  { offset, end }: FilePart,
  loans: Loans,
): AsyncGenerator<Buffer, void, undefined> {
  const readings: Reading[] = []
  let position = offset
  try {
    for (;;) {
      while (readings.length < READS_UNDER_WAY && position < end) {
        const buffer = takeBuffer()
        const wanted = Math.min(CHUNK_BYTES, end - position)
        const count = readWhole(fd, Buffer.from(buffer, 0, wanted), position)
        // A failure is thrown when its turn comes; until then it must not count as unhandled.
        count.catch(() => undefined)
        readings.push({ buffer, wanted, count })
        position += wanted
      }
      const reading = readings[0]
      if (reading === undefined) return
      const count = await reading.count
      readings.shift()
      if (count === 0) giveBuffer(reading.buffer)
      else yield loans.lend(reading.buffer, count)
      if (count < reading.wanted) return
    }
  } finally {
    // A descriptor closed under a running read may by then be another file's.
    await Promise.allSettled(readings.map(({ count }) => count))
    for (const { buffer } of readings) giveBuffer(buffer)
  }
}

/**
 * A file's bytes from `offset` up to `end` (exclusive). `open` gives a file descriptor that the stream then owns and closes.
 * A file that turns out shorter ends the stream early; errors of `open` and of the reads are thrown out of the loop as
 * they are.
 */
export function createFileStream(open: () => Promise<number>, part: FilePart): ByteStream {
  const loans = createLoans()
  let destroyed = false

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    const fd = await open()
    try {
      if (destroyed) return
      for await (const chunk of readFilePart(fd, part, loans)) {
        if (destroyed) {
          loans.settle(chunk)
          return
        }
        yield chunk
      }
    } finally {
      await closeFile(fd).catch(() => undefined)
    }
  }

  const iterator = chunks()
  return {
    recycle: loans.settle,
    destroy() {
      destroyed = true
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}
