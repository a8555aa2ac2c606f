import {
  close,
  closeSync,
  fstat,
  fstatSync,
  open,
  openSync,
  readSync,
  realpathSync,
  statSync,
} from 'node:fs'
import type { BigIntStats } from 'node:fs'
import { promisify } from 'node:util'
import { OPEN_FLAGS } from './small-file.ts'

// Whether a file is still the one that was looked at: device, inode, size and both times. What replaces a file has another
// inode; what writes into it sets its times, unless it does so within the same tick of the kernel's clock.

/** A file's state, and whether it was changed so lately that a further change might not show in it. */
export interface FileStamp {
  /** Equal for equal states. */
  readonly text: string
  readonly isFile: boolean
  readonly size: number
  readonly fresh: boolean
  /** When it changed last, whatever its owner set as time, ms since 1970. */
  readonly changedAt: number
}

/** How long after a change a second one may get the same time: a tick of 10 ms (CONFIG_HZ=100), twice. */
const TICK_MS = 20

/** A file's state by its stats; `tickMs` is how coarse its file system's clock may be. */
export function stampOfStats(stats: BigIntStats, tickMs = TICK_MS): FileStamp {
  const changedAt = Number(stats.ctimeMs)
  const ageMs = Date.now() - changedAt
  return {
    text: `${stats.dev}.${stats.ino}.${stats.size}.${stats.mtimeNs}.${stats.ctimeNs}`,
    isFile: stats.isFile(),
    size: Number(stats.size),
    fresh: ageMs >= -tickMs && ageMs <= tickMs,
    changedAt,
  }
}

/** The state of what is at a path, links followed; undefined where nothing can be seen. */
export function stampOf(path: string): FileStamp | undefined {
  try {
    const stats = statSync(path, { bigint: true, throwIfNoEntry: false })
    return stats && stampOfStats(stats)
  } catch {
    return undefined
  }
}

/** Where a path below a directory really leads. */
export interface Resolved {
  /** Without links. */
  readonly file: string
  readonly inside: boolean
}

/**
 * Where a path below a directory really leads; undefined where there is nothing. Links that stay inside are followed, one
 * that leads out is to be refused: a drive or a share could otherwise show any file of this machine.
 */
export function resolveBelow(dir: string, relative: string): Resolved | undefined {
  try {
    const file = realpathSync.native(`${dir}/${relative}`)
    const top = realpathSync.native(dir)
    return { file, inside: file.startsWith(top === '/' ? top : `${top}/`) }
  } catch {
    return undefined
  }
}

/** Reads a small file at once if it is in the state of that stamp; undefined where it is not, or cannot be read. */
export function readStamped(file: string, stamp: FileStamp): Buffer | undefined {
  let fd: number | undefined
  try {
    fd = openSync(file, OPEN_FLAGS)
    if (stampOfStats(fstatSync(fd, { bigint: true })).text !== stamp.text) return undefined
    const buffer = Buffer.allocUnsafe(stamp.size)
    let length = 0
    while (length < stamp.size) {
      const bytesRead = readSync(fd, buffer, length, stamp.size - length, length)
      if (bytesRead === 0) return undefined
      length += bytesRead
    }
    return buffer
  } catch {
    return undefined
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

const openAsync = promisify(open)
const fstatAsync = promisify(
  (fd: number, done: (error: NodeJS.ErrnoException | null, stats: BigIntStats) => void) =>
    fstat(fd, { bigint: true }, done),
)
const closeAsync = promisify(close)

/** Opens a file for reading if it is in the state of that stamp; ENOENT (as if gone) where it is not. */
export async function openStamped(path: string, stamp: FileStamp): Promise<number> {
  const fd = await openAsync(path, OPEN_FLAGS, 0)
  try {
    if (stampOfStats(await fstatAsync(fd)).text === stamp.text) return fd
  } catch (error) {
    await closeAsync(fd)
    throw error
  }
  await closeAsync(fd)
  throw Object.assign(new Error(`${path} is another file now`), { code: 'ENOENT' })
}
