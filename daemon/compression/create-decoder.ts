import type { Compression } from '../../protocol/path-info.ts'
import { createBzip2Decoder } from './bzip2-decoder.ts'
import type { Decoder, PackedSource } from './decoder.ts'
import { createXzDecoder } from './xz-decoder.ts'
import { createZlibDecoder } from './zlib-decoder.ts'
import { createZstdDecoder } from './zstd-decoder.ts'

/**
 * The decoder of a compression. All are strict: an empty file, a cut one and one with anything behind its end are damaged;
 * several members (frames, streams) one after the other are one content, as for the command line tools.
 */
export function createDecoder(
  compression: Exclude<Compression, 'none'>,
  source: PackedSource,
): Decoder {
  switch (compression) {
    case 'xz':
      return createXzDecoder(source)
    case 'zstd':
      return createZstdDecoder(source)
    case 'bzip2':
      return createBzip2Decoder(source)
    case 'gzip':
    case 'br':
      return createZlibDecoder(compression, source)
  }
}
