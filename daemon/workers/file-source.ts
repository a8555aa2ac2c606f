import type { Compression } from '../../protocol/path-info.ts'
import { createDecoder } from '../compression/create-decoder.ts'
import type { Decoder } from '../compression/decoder.ts'
import { waitBeyond, waitWhole, type Growth } from './growth.ts'
import { NOT_YET, openPackedFile, type PackedFile } from './packed-file.ts'
import type { PullSource } from './pull-source.ts'

/** A file's unpacked bytes, and what the file itself was. */
export interface FileSource extends PullSource {
  /** SHA-256 and size of the file as it lies there; once `finished`, only if hashing was asked for. */
  digest: PackedFile['digest']
}

/** A decoder that leaves the bytes as they are. */
const createPlainDecoder = (file: PackedFile, start: number): Decoder => {
  let position = start
  return {
    fill(out) {
      const count = file.readAt(out, position)
      position += count
      return count
    },
    close() {},
  }
}

/** The same through `read`, which hashes. */
const createReadDecoder = (file: PackedFile): Decoder => {
  let bytes: Buffer = Buffer.alloc(0)
  let at = 0
  return {
    fill(out) {
      if (at === bytes.length) {
        const next = file.read()
        if (next === undefined) return 0
        bytes = next
        at = 0
      }
      const count = bytes.copy(out, 0, at)
      at += count
      return count
    },
    close() {},
  }
}

/** What can be asked for the next bytes again after it was told that they are not there yet; others wait for the whole file. */
const PATIENT: ReadonlySet<Compression> = new Set(['none', 'zstd', 'xz'])

/** How a file is read. */
export interface FileSourceOptions {
  readonly offset?: number | undefined
  readonly hashed?: boolean | undefined
  /** For a file that is still being written. */
  readonly growth?: Growth | undefined
}

/** Unpacked bytes of a file from `offset` on. Throws HOLDING_GONE, HOLDER_UNREADABLE, COMPRESSED_DATA_INVALID. */
export function createFileSource(
  path: string,
  compression: Compression,
  options: FileSourceOptions = {},
): FileSource {
  const { offset = 0, hashed = false, growth } = options
  const file = openPackedFile(path, { hashed, growth })
  const seekable = compression === 'none' && !hashed && growth === undefined
  let skip = seekable ? 0 : offset
  const decoder = seekable
    ? createPlainDecoder(file, offset)
    : compression === 'none'
      ? createReadDecoder(file)
      : createDecoder(compression, file.read)
  let finished = false

  const taken = (out: Buffer, count: number): number => {
    if (count === 0) finished = true
    const over = Math.min(skip, count)
    skip -= over
    if (over > 0) out.copyWithin(0, over, count)
    return count - over
  }

  const fill = (out: Buffer): number | Promise<number> => {
    if (growth?.state === 'growing' && !PATIENT.has(compression)) {
      return waitWhole(growth, path).then(() => fill(out))
    }
    try {
      const count = decoder.fill(out)
      return typeof count === 'number'
        ? taken(out, count)
        : count.then(awaited => taken(out, awaited))
    } catch (error) {
      if (error !== NOT_YET || growth === undefined) throw error
      return waitBeyond(growth, file.position).then(() => fill(out))
    }
  }

  return {
    fill,
    get finished() {
      return finished
    },
    digest: file.digest,
    close() {
      decoder.close()
      file.close()
    },
  }
}
