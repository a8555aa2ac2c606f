import { close, read } from 'node:fs'
import { promisify } from 'node:util'
import type { ByteStream } from './byte-stream.ts'

/** Bytes of one read: large enough that the round trip through libuv's threads does not count. */
const CHUNK_BYTES = 256 * 1024

/** Most idle buffers kept for later streams (8 MiB): what 16 streams of two buffers each leave behind. */
const IDLE_BUFFERS_MAX = 32

const readAt = promisify(read)
const closeFile = promisify(close)

/** Whole buffers that no stream uses now. */
const idle: Buffer[] = []

const takeBuffer = (): Buffer => idle.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES)

const giveBack = (buffer: Buffer): void => {
  if (idle.length < IDLE_BUFFERS_MAX) idle.push(buffer)
}

/**
 * A file's bytes from `offset` up to `end` (exclusive), one read ahead of the consumer. `open` gives a file descriptor
 * that the stream then owns and closes. A file that turns out shorter ends the stream early; errors of `open` and
 * of the reads are thrown out of the loop as they are.
 */
export function createFileStream(
  open: () => Promise<number>,
  { offset, end }: { readonly offset: number; readonly end: number },
): ByteStream {
  /** Buffers at the consumer, by the memory that a chunk is a view of. */
  const lent = new Map<ArrayBufferLike, Buffer>()
  let destroyed = false

  const readChunk = async (fd: number, position: number): Promise<Buffer | undefined> => {
    const wanted = Math.min(CHUNK_BYTES, end - position)
    if (wanted <= 0) return undefined
    const buffer = takeBuffer()
    const { bytesRead } = await readAt(fd, buffer, 0, wanted, position)
    if (bytesRead === 0) {
      giveBack(buffer)
      return undefined
    }
    lent.set(buffer.buffer, buffer)
    return buffer.subarray(0, bytesRead)
  }

  const recycle = (chunk: Buffer): void => {
    const buffer = lent.get(chunk.buffer)
    if (buffer === undefined) return
    lent.delete(chunk.buffer)
    giveBack(buffer)
  }

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    const fd = await open()
    let ahead: Promise<Buffer | undefined> | undefined
    try {
      let position = offset
      ahead = readChunk(fd, position)
      for (;;) {
        const chunk: Buffer | undefined = await ahead
        ahead = undefined
        if (chunk === undefined) return
        if (destroyed) {
          recycle(chunk)
          return
        }
        position += chunk.length
        ahead = readChunk(fd, position)
        // Its failure is thrown when its turn comes; until then it must not count as unhandled.
        ahead.catch(() => undefined)
        yield chunk
      }
    } finally {
      // A descriptor closed under a running read may by then be another file's.
      const unused = await ahead?.catch(() => undefined)
      if (unused !== undefined) recycle(unused)
      await closeFile(fd).catch(() => undefined)
    }
  }

  const iterator = chunks()
  return {
    recycle,
    destroy() {
      destroyed = true
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}
