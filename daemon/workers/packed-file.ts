import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { fail } from '../../protocol/errors.ts'
import type { PackedSource } from '../compression/decoder.ts'
import { failedOn, READ_FLAGS } from './fs-errors.ts'

/** Bytes of one read of a file that is decoded. */
const READ_BYTES = 64 * 1024

/** A file read from its start, by synchronous calls. */
export interface PackedFile {
  /** The next bytes, valid until the next call. Throws HOLDING_GONE or HOLDER_UNREADABLE. */
  readonly read: PackedSource
  /** Reads at a position; 0 at the end. */
  readAt(out: Buffer, position: number): number
  /** SHA-256 of what `read` gave, and its size; to be called once, at the end, only if hashing was asked for. */
  digest(): { readonly fileHash: Buffer; readonly fileSize: number }
  close(): void
}

/** Opens a NAR file: a regular file, no symlink. Throws HOLDING_GONE or HOLDER_UNREADABLE. */
export function openPackedFile(
  path: string,
  options: { readonly hashed?: boolean } = {},
): PackedFile {
  let fd = -1
  const close = (): void => {
    if (fd !== -1) closeSync(fd)
    fd = -1
  }
  try {
    fd = openSync(path, READ_FLAGS)
    if (!fstatSync(fd).isFile()) {
      fail('HOLDER_UNREADABLE', { holder: path, problem: 'it is not a file' })
    }
  } catch (error) {
    close()
    failedOn(path, error)
  }
  const hash = options.hashed === true ? createHash('sha256') : undefined
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES)
  let position = 0

  const readAt = (out: Buffer, from: number): number => {
    try {
      return readSync(fd, out, 0, out.length, from)
    } catch (error) {
      return failedOn(path, error)
    }
  }

  return {
    read() {
      const count = readAt(buffer, position)
      if (count === 0) return undefined
      position += count
      const bytes = buffer.subarray(0, count)
      hash?.update(bytes)
      return bytes
    },
    readAt,
    digest: () => ({ fileHash: hash?.digest() ?? Buffer.alloc(0), fileSize: position }),
    close,
  }
}
