import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { fail } from '../../protocol/errors.ts'
import type { PackedSource } from '../compression/decoder.ts'
import { failedOn, READ_FLAGS } from './fs-errors.ts'
import type { Growth } from './growth.ts'

/** Bytes of one read of a file that is decoded. */
const READ_BYTES = 64 * 1024

/** Thrown by `read` where the file is still growing: ask again when it has. The decoders of zstd and xz stand that. */
export const NOT_YET = new Error('the file is still growing')

/** A file read from its start, by synchronous calls. */
export interface PackedFile {
  /** The next bytes, valid until the next call. Throws HOLDING_GONE, HOLDER_UNREADABLE, and {@link NOT_YET}. */
  readonly read: PackedSource
  /** Bytes that `read` gave. */
  readonly position: number
  /** Reads at a position; 0 at the end. */
  readAt(out: Buffer, position: number): number
  /** SHA-256 of what `read` gave, and its size; to be called once, at the end, only if hashing was asked for. */
  digest(): { readonly fileHash: Buffer; readonly fileSize: number }
  close(): void
}

/** Stands between the names of files that are one NAR file together: no name has it. */
const JOINT = '\0'

/** The name of a NAR file that lies in several, in order: every verb of the pool takes it for a file. */
export const joinFiles = (files: readonly string[]): string => files.join(JOINT)

/** A file, or several as one. */
interface RawFile {
  readAt(out: Buffer, position: number): number
  close(): void
}

function openOne(path: string): RawFile & { readonly size: number } {
  let fd = -1
  const close = (): void => {
    if (fd !== -1) closeSync(fd)
    fd = -1
  }
  try {
    fd = openSync(path, READ_FLAGS)
    const stats = fstatSync(fd)
    if (!stats.isFile()) fail('HOLDER_UNREADABLE', { holder: path, problem: 'it is not a file' })
    return {
      size: stats.size,
      close,
      readAt(out, from) {
        try {
          return readSync(fd, out, 0, out.length, from)
        } catch (error) {
          return failedOn(path, error)
        }
      },
    }
  } catch (error) {
    close()
    return failedOn(path, error)
  }
}

/** Only one part is open at a time. */
function openRaw(path: string): RawFile {
  const names = path.split(JOINT)
  if (names.length === 1) return openOne(path)
  const sizes = names.map(name => {
    const part = openOne(name)
    part.close()
    return part.size
  })
  let current: { readonly at: number; readonly file: RawFile } | undefined
  return {
    readAt(out, from) {
      let offset = from
      const at = sizes.findIndex(size => {
        if (offset < size) return true
        offset -= size
        return false
      })
      const name = names[at]
      if (name === undefined) return 0
      if (current?.at !== at) {
        current?.file.close()
        current = { at, file: openOne(name) }
      }
      const room = (sizes[at] ?? 0) - offset
      return current.file.readAt(out.length > room ? out.subarray(0, room) : out, offset)
    },
    close: () => current?.file.close(),
  }
}

/** Opens a NAR file (or several, joined): regular files, no symlinks. Throws HOLDING_GONE or HOLDER_UNREADABLE. */
export function openPackedFile(
  path: string,
  options: { readonly hashed?: boolean; readonly growth?: Growth | undefined } = {},
): PackedFile {
  const { growth } = options
  const { readAt, close } = openRaw(path)
  const hash = options.hashed === true ? createHash('sha256') : undefined
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
  let position = 0

  return {
    read() {
      // The state first: what was written before the word that it is whole is then seen too.
      const state = growth?.state
      const room = growth === undefined ? READ_BYTES : growth.available - position
      if (room <= 0) {
        if (state === 'growing') throw NOT_YET
        if (state === 'broken') fail('HOLDING_GONE', { path, holder: 'this host' })
        return undefined
      }
      const count = readAt(room < READ_BYTES ? buffer.subarray(0, room) : buffer, position)
      if (count === 0) return undefined
      position += count
      const bytes = buffer.subarray(0, count)
      hash?.update(bytes)
      return bytes
    },
    get position() {
      return position
    },
    readAt,
    digest: () => ({ fileHash: hash?.digest() ?? Buffer.alloc(0), fileSize: position }),
    close,
  }
}
