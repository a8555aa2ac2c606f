import { createBrotliCompress, createGzip, constants } from 'node:zlib'
import type { Transform } from 'node:stream'
import { createRequire } from 'node:module'
import { CompressStream } from 'zstd-napi'
import type { Compression } from '../../protocol/path-info.ts'

const require = createRequire(import.meta.url)

/**
 * A stream that packs bytes with the quickest setting of a compression, for the rare NAR whose packed file is gone while
 * its content is not. Undefined for 'none' and for bzip2, which no kept library writes.
 */
export function createEncoder(compression: Compression): Transform | undefined {
  switch (compression) {
    case 'gzip':
      return createGzip({ level: 1 })
    case 'br':
      return createBrotliCompress({ params: { [constants.BROTLI_PARAM_QUALITY]: 1 } })
    case 'zstd':
      return new CompressStream({ compressionLevel: 1 })
    case 'xz': {
      // Loaded when needed: its native part costs 2 MB and most daemons never pack xz.
      const lzma = require('lzma-native') as typeof import('lzma-native')
      return lzma.createCompressor({ preset: 0 }) as unknown as Transform
    }
    case 'none':
    case 'bzip2':
      return undefined
  }
}

/** Whether {@link createEncoder} has one. */
export function canEncode(compression: Compression): boolean {
  return compression !== 'none' && compression !== 'bzip2'
}
