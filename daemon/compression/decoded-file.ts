import { createHash } from 'node:crypto'
import { constants, createReadStream } from 'node:fs'
import { createRequire } from 'node:module'
import { Readable, type Duplex } from 'node:stream'
import { createBrotliDecompress, createGunzip } from 'node:zlib'
import { DecompressStream } from 'zstd-napi'
import { isNarwharfError, NarwharfError } from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'

const require = createRequire(import.meta.url)

/** Bytes of one read of the packed file. */
const READ_BYTES = 256 * 1024

/** xz's dictionary may ask for gigabytes; `xz -9` needs 65 MiB to unpack, `-9e` with large dictionaries twice that. */
const XZ_MEMORY_LIMIT_BYTES = 256 * 1024 * 1024

/** zstd's window: 128 MiB is what `zstd -d` accepts without being told to take more. */
const ZSTD_WINDOW_LOG_MAX = 27

/** A packed file being unpacked, in constant memory. */
export interface DecodedFile {
  /** Unpacked bytes. Throws COMPRESSED_DATA_INVALID for damaged data, HOLDING_GONE for a file that went away. */
  chunks(): AsyncIterable<Buffer>
  /** SHA-256 and size of the file itself, once `chunks` has ended; only where asked for. */
  fileDigest(): { readonly fileHash: Buffer; readonly fileSize: number }
  destroy(): void
}

/** A decoder stream, undefined where the bytes lie unpacked. */
function createDecoder(compression: Compression): NodeJS.ReadWriteStream | undefined {
  switch (compression) {
    case 'none':
      return undefined
    case 'gzip':
      return createGunzip({ chunkSize: READ_BYTES })
    case 'br':
      return createBrotliDecompress({ chunkSize: READ_BYTES })
    case 'zstd':
      return new DecompressStream({ windowLogMax: ZSTD_WINDOW_LOG_MAX })
    case 'xz': {
      // Loaded where it is needed: most workers never meet an xz file.
      const lzma = require('lzma-native') as typeof import('lzma-native')
      return lzma.createStream('streamDecoder', { memlimit: XZ_MEMORY_LIMIT_BYTES } as never)
    }
    case 'bzip2': {
      const unbzip2 = require('unbzip2-stream') as () => NodeJS.ReadWriteStream
      return unbzip2()
    }
  }
}

/** Opens a packed file for one pass. */
export function createDecodedFile(
  file: string,
  compression: Compression,
  options: { readonly hashed?: boolean } = {},
): DecodedFile {
  // A symlink is not followed out of the cache, a FIFO in its place does not hang the thread.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
  const source = createReadStream(file, {
    flags: flags as unknown as string,
    highWaterMark: READ_BYTES,
  })
  const hash = options.hashed === true ? createHash('sha256') : undefined
  let fileSize = 0
  const decoder = createDecoder(compression)

  const explain = (error: unknown): unknown => {
    if (isNarwharfError(error)) return error
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') {
      return new NarwharfError('HOLDING_GONE', { path: file, holder: 'its cache' }, error)
    }
    if (decoder === undefined || (error as NodeJS.ErrnoException).syscall !== undefined)
      return error
    return new NarwharfError('COMPRESSED_DATA_INVALID', { compression, problem: message }, error)
  }

  const destroy = () => {
    source.destroy()
    ;(decoder as Duplex | undefined)?.destroy?.()
  }

  async function* packed(): AsyncGenerator<Buffer, void, undefined> {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      hash?.update(chunk)
      fileSize += chunk.length
      yield chunk
    }
  }

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    try {
      if (decoder === undefined) {
        yield* packed()
        return
      }
      const feed = Readable.from(packed(), { objectMode: false, highWaterMark: READ_BYTES })
      const failed = new Promise<never>((_resolve, reject) => {
        feed.once('error', reject)
        decoder.once('error', reject)
      })
      failed.catch(() => undefined)
      feed.pipe(decoder)
      const decoded =
        decoder instanceof Readable
          ? decoder
          : new Readable({ highWaterMark: READ_BYTES }).wrap(decoder)
      const iterator = (decoded as AsyncIterable<Buffer>)[Symbol.asyncIterator]()
      for (;;) {
        const next = await Promise.race([iterator.next(), failed])
        if (next.done === true) return
        yield next.value
      }
    } catch (error) {
      throw explain(error)
    } finally {
      destroy()
    }
  }

  return {
    chunks,
    destroy,
    fileDigest: () => ({ fileHash: hash?.digest() ?? Buffer.alloc(0), fileSize }),
  }
}
