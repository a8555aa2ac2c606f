import { constants, fstat, open as openFile, close, type Stats } from 'node:fs'
import { promisify } from 'node:util'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import { createFileStream } from '../workers/file-stream.ts'

// The bytes of a NAR file as it lies on a drive, or of the files that it was split into, as FAT32 has none over 4 GiB.

const openAsync = promisify(openFile)
const closeAsync = promisify(close)
const fstatAsync = promisify(
  (fd: number, done: (error: NodeJS.ErrnoException | null, stats: Stats) => void) =>
    fstat(fd, done),
)

const FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** A file that a NAR, or a part of it, lies in. */
export interface NarPart {
  /** Relative to the drive's folder. */
  readonly file: string
  readonly size: number
}

/** Opens a regular file of that size; ENOENT (as if gone) where it is not. */
async function openPart(path: string, size: number): Promise<number> {
  const fd = await openAsync(path, FLAGS, 0)
  try {
    const stats = await fstatAsync(fd)
    if (stats.isFile() && stats.size === size) return fd
  } catch (error) {
    await closeAsync(fd)
    throw error
  }
  await closeAsync(fd)
  throw Object.assign(new Error(`${path} is another file now`), { code: 'ENOENT' })
}

/** The bytes of some files, one behind the other. */
export function openDriveNar(
  dir: string,
  parts: readonly NarPart[],
  { offset = 0, end = Number.MAX_SAFE_INTEGER }: ByteRange,
): ByteStream {
  let current: ByteStream | undefined
  let destroyed = false

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    if (parts.length === 0) throw Object.assign(new Error('no such file'), { code: 'ENOENT' })
    let start = 0
    try {
      for (const { file, size } of parts) {
        const part = { offset: Math.max(0, offset - start), end: Math.min(size, end - start) }
        start += size
        if (part.offset >= part.end) continue
        const stream = createFileStream(() => openPart(`${dir}/${file}`, size), part)
        current = stream
        for await (const chunk of stream) {
          if (destroyed) {
            stream.recycle(chunk)
            return
          }
          yield chunk
        }
      }
    } finally {
      current?.destroy()
    }
  }

  const iterator = chunks()
  return {
    recycle: chunk => current?.recycle(chunk),
    destroy() {
      destroyed = true
      current?.destroy()
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}
