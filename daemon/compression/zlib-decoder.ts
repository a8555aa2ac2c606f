import { createBrotliDecompress, createGunzip } from 'node:zlib'
import { damaged, ENDS_EARLY, TRAILING, type Decoder, type PackedSource } from './decoder.ts'

/** Bytes of one piece of output: gzip packs zeros 1,000-fold, brotli more, so output is made in such steps. */
const OUTPUT_BYTES = 64 * 1024

/** Decodes gzip members or a brotli stream with Node's zlib, which only works through a stream: so this one waits. */
export function createZlibDecoder(compression: 'gzip' | 'br', source: PackedSource): Decoder {
  const options = { chunkSize: OUTPUT_BYTES, readableHighWaterMark: OUTPUT_BYTES }
  const stream = compression === 'gzip' ? createGunzip(options) : createBrotliDecompress(options)
  const iterator = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer, void>
  let output: Buffer = Buffer.alloc(0)
  let at = 0
  let begun = false
  let closed = false
  let fed = 0

  const explain = (error: unknown): never => {
    const { code, message } = error as NodeJS.ErrnoException
    const early = code === 'Z_BUF_ERROR' || message === 'unexpected end of file'
    return damaged(compression, early ? ENDS_EARLY : message, error)
  }

  /** The next packed bytes, when those before are used up. */
  const feed = (): void => {
    if (closed) return
    let packed: Buffer | undefined
    try {
      packed = source()
    } catch (error) {
      stream.destroy(error as Error)
      return
    }
    if (packed === undefined) {
      stream.end()
      return
    }
    fed += packed.length
    stream.write(packed, error => {
      // An error comes out of the iterator as well.
      if (error === null || error === undefined) feed()
    })
  }

  const next = async (out: Buffer): Promise<number> => {
    if (!begun) {
      begun = true
      feed()
    }
    let result: IteratorResult<Buffer, void>
    try {
      result = await iterator.next()
    } catch (error) {
      return explain(error)
    }
    if (result.done === true) {
      if (fed === 0) damaged(compression, ENDS_EARLY)
      // zlib stops at the end of its own data and says how far it took what it was given.
      if (stream.bytesWritten < fed || source() !== undefined) damaged(compression, TRAILING)
      return 0
    }
    output = result.value
    at = 0
    return take(out)
  }

  const take = (out: Buffer): number => {
    const count = output.copy(out, 0, at)
    at += count
    return count
  }

  return {
    fill(out) {
      if (closed) return 0
      return at < output.length ? take(out) : next(out)
    },
    close() {
      if (closed) return
      closed = true
      // Work under way in zlib's thread ends by itself; its result is dropped.
      stream.on('error', () => undefined)
      stream.destroy()
    },
  }
}
