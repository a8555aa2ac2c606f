import { createHash, type Hash as Digest } from 'node:crypto'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { createExportReader, type ExportedPath } from '../../protocol/export-archive.ts'
import type { Compression } from '../../protocol/path-info.ts'
import { createFrameEncoder } from '../compression/zstd-frame.ts'
import { ZSTD_SLICE_BYTES } from '../workers/zstd-nar.ts'

// Takes an archive of `nix-store --export` apart, in one pass over its bytes: each NAR is hashed, packed and written to the
// cache's disk before its name is known, under a name that nothing reads. Runs in the thread of an import.

/** A path of the archive whose NAR lies on the disk, and which nobody has judged yet. */
export interface UnpackedPath extends ExportedPath {
  /** SHA-256. */
  readonly narHash: Uint8Array
  /** The first bytes of the NAR, which tell a file from a folder. */
  readonly head: Uint8Array
  /** The NAR file, not yet under a name of its own. */
  readonly unfinished: string
  readonly compression: Extract<Compression, 'none' | 'zstd'>
  /** SHA-256. */
  readonly fileHash: Uint8Array
  readonly fileSize: number
}

export interface Unpacker {
  /** Reads on. Throws EXPORT_INVALID, {@link SpoolError}; paths that were whole before are still to be taken. */
  write(chunk: Uint8Array): void
  /** Says that no more comes. Throws EXPORT_INVALID. */
  end(): void
  /** Paths that became whole since the last call; their files are the caller's now. */
  take(): readonly UnpackedPath[]
  /** Removes what is not taken. */
  close(): void
}

/** The disk would not take it. */
export class SpoolError extends Error {}

/** NARs below this are stored as they are: a block of the disk is not less than that. */
const PACK_FROM_BYTES = 4096

/** The beginning of a NAR that is kept at hand. */
const HEAD_BYTES = 128

/** A NAR on its way to the disk. */
interface Spooled {
  readonly file: string
  head: Buffer
  readonly narHash: Digest
  readonly fileHash: Digest
  /** Undefined until the first bytes are written. */
  handle: number | undefined
  fileSize: number
}

/** Unpacks into files in a directory, whose names begin with `prefix`. */
export function createUnpacker(dir: string, prefix: string, storeDir: string): Unpacker {
  const encode = createFrameEncoder()
  const slice = Buffer.allocUnsafeSlow(ZSTD_SLICE_BYTES)
  let filled = 0
  let count = 0
  let current: Spooled | undefined
  let whole: UnpackedPath[] = []

  const begin = (): Spooled => {
    const [narHash, fileHash] = [createHash('sha256'), createHash('sha256')]
    const file = join(dir, `${prefix}${++count}`)
    return { file, head: Buffer.alloc(0), narHash, fileHash, handle: undefined, fileSize: 0 }
  }

  const put = (spooled: Spooled, bytes: Buffer): void => {
    spooled.fileHash.update(bytes)
    spooled.fileSize += bytes.length
    try {
      spooled.handle ??= openSync(spooled.file, 'wx', 0o644)
      for (let at = 0; at < bytes.length;) at += writeSync(spooled.handle, bytes, at)
    } catch (error) {
      throw new SpoolError((error as Error).message, { cause: error })
    }
  }

  const flush = (spooled: Spooled, packed: boolean): void => {
    const bytes = slice.subarray(0, filled)
    put(spooled, packed ? encode(bytes) : bytes)
    filled = 0
  }

  const nar = (bytes: Buffer): void => {
    current ??= begin()
    const { head } = current
    if (head.length < HEAD_BYTES) {
      current.head = Buffer.concat([head, bytes.subarray(0, HEAD_BYTES - head.length)])
    }
    current.narHash.update(bytes)
    for (let at = 0; at < bytes.length;) {
      const copied = bytes.copy(slice, filled, at)
      at += copied
      filled += copied
      if (filled === slice.length) flush(current, true)
    }
  }

  const path = (exported: ExportedPath): void => {
    const spooled = current as Spooled
    const packed = exported.narSize >= PACK_FROM_BYTES
    if (filled > 0) flush(spooled, packed)
    closeSync(spooled.handle as number)
    current = undefined
    whole.push({
      ...exported,
      narHash: spooled.narHash.digest(),
      head: spooled.head,
      unfinished: spooled.file,
      compression: packed ? 'zstd' : 'none',
      fileHash: spooled.fileHash.digest(),
      fileSize: spooled.fileSize,
    })
  }

  const reader = createExportReader({ nar, path }, { storeDir })
  const take = (): readonly UnpackedPath[] => {
    const taken = whole
    whole = []
    return taken
  }

  return {
    write: chunk => reader.write(chunk),
    end: () => reader.end(),
    take,
    close() {
      if (current?.handle !== undefined) closeSync(current.handle)
      for (const file of [current?.file, ...take().map(({ unfinished }) => unfinished)]) {
        if (file !== undefined) rmSync(file, { force: true })
      }
      current = undefined
    },
  }
}
