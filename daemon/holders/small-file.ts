import { isUtf8 } from 'node:buffer'
import { constants } from 'node:fs'
import { lstat, open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { promisify } from 'node:util'
import { brotliDecompress } from 'node:zlib'
import { isNarwharfError } from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'

// Small files beside the NARs, read whole into memory. Every one has a limit, and is a regular file or absent: a link is
// not followed, and a FIFO or device put in its place does not hang the daemon.

/** Bytes of the largest build log passed on: the longest of nixpkgs (chromium, llvm) stay below. */
export const LOG_MAX_BYTES = 32 * 1024 * 1024

/** Bytes of the largest listing read from a file: some 100,000 entries; larger ones are made anew off the main thread. */
export const LISTING_MAX_BYTES = 16 * 1024 * 1024

/** Bytes of the largest realisation, build trace or debug info file: one with thousands of dependencies has this. */
export const SMALL_JSON_MAX_BYTES = 1024 * 1024

/** Opens without following a last symbolic link and without waiting for the other end of a FIFO. */
export const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

const isSystemError = (error: unknown): boolean =>
  error instanceof Error && 'syscall' in error && 'code' in error

/** The work's value, or undefined where the file system or the data refused; other errors pass (they are our own bugs). */
export async function orAbsent<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    if (isSystemError(error) || isNarwharfError(error)) return undefined
    throw error
  }
}

async function readAll(handle: FileHandle, limit: number): Promise<Buffer | undefined> {
  const stats = await handle.stat()
  if (!stats.isFile() || stats.size > limit) return undefined
  const buffer = Buffer.alloc(stats.size)
  let length = 0
  while (length < buffer.length) {
    const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length)
    if (bytesRead === 0) break
    length += bytesRead
  }
  return buffer.subarray(0, length)
}

/** A regular file of at most `limit` bytes, or undefined: absent, larger, unreadable, a link or no file. */
export function readSmallFile(path: string, limit: number): Promise<Buffer | undefined> {
  return orAbsent(async () => {
    const handle = await open(path, OPEN_FLAGS)
    try {
      return await readAll(handle, limit)
    } finally {
      await handle.close()
    }
  })
}

/** The names of a path inside a tree ('' is the tree itself); undefined where it would leave it. */
export function splitInside(pathInside: string): readonly string[] | undefined {
  if (pathInside === '') return []
  const names = pathInside.split('/')
  const fine = names.every(
    name => name !== '' && name !== '.' && name !== '..' && !name.includes('\0'),
  )
  return fine ? names : undefined
}

/** The path of something inside a tree, once all folders on the way, the root included, are found to be folders and not links. */
async function walkInside(root: string, pathInside: string): Promise<string | undefined> {
  let path = root
  const names = splitInside(pathInside)
  if (names === undefined) return undefined
  for (const name of names) {
    if (!(await lstat(path)).isDirectory()) return undefined
    path = `${path}/${name}`
  }
  return path
}

/** Whether that is a regular file inside a tree, reached without a symbolic link. */
export async function isFileInside(root: string, pathInside: string): Promise<boolean> {
  const found = await orAbsent(async () => {
    const path = await walkInside(root, pathInside)
    return path !== undefined && (await lstat(path)).isFile()
  })
  return found ?? false
}

/** A small file inside a tree; no component, the tree's root included, may be a symbolic link. */
export function readInside(
  root: string,
  pathInside: string,
  limit: number,
): Promise<Buffer | undefined> {
  return orAbsent(async () => {
    const path = await walkInside(root, pathInside)
    return path === undefined ? undefined : readSmallFile(path, limit)
  })
}

/** A stream's bytes in one buffer; undefined once they are more than `limit`. */
export async function collect(stream: ByteStream, limit: number): Promise<Buffer | undefined> {
  const parts: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of stream) {
      length += chunk.length
      if (length > limit) return undefined
      parts.push(Buffer.from(chunk))
      stream.recycle(chunk)
    }
  } finally {
    stream.destroy()
  }
  return Buffer.concat(parts, length)
}

const MAGICS: readonly (readonly [Exclude<Compression, 'none' | 'br'>, Buffer])[] = [
  ['xz', Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00])],
  ['zstd', Buffer.from([0x28, 0xb5, 0x2f, 0xfd])],
  ['bzip2', Buffer.from('BZh')],
  ['gzip', Buffer.from([0x1f, 0x8b])],
]

/** How a file is packed, by its first bytes; undefined where they say nothing (brotli has no such sign). */
export const packingOf = (bytes: Buffer): Exclude<Compression, 'none' | 'br'> | undefined =>
  MAGICS.find(([, magic]) => bytes.subarray(0, magic.length).equals(magic))?.[0]

const unbrotli = promisify(brotliDecompress)

/**
 * A small file's text, unpacked where it is packed: Nix's `log-compression` and `ls-compression` pack a file without
 * changing its name, and a file:// cache keeps no header that tells. Brotli has no magic, so what is no UTF-8 is tried.
 */
export async function readUnpacked(
  pool: NarPool,
  path: string,
  limit: number,
): Promise<Buffer | undefined> {
  const raw = await readSmallFile(path, limit)
  if (raw === undefined) return undefined
  const packed = packingOf(raw)
  if (packed !== undefined) {
    return orAbsent(() => collect(pool.decompress(path, packed), limit))
  }
  if (isUtf8(raw)) return raw
  // A log may hold any bytes: what does not unpack is what it is.
  return unbrotli(raw, { maxOutputLength: limit }).catch(() => raw)
}
