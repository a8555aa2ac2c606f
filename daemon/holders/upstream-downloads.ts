import { randomBytes } from 'node:crypto'
import {
  closeSync,
  mkdirSync,
  open as openCallback,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { fail, problemOf } from '../../protocol/errors.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import { createLoans, takeBuffer } from '../workers/chunk-buffers.ts'
import { createFileStream } from '../workers/file-stream.ts'
import { createGrowth, waitBeyond, type GrowthWriter } from '../workers/growth.ts'
import { CHUNK_BYTES } from '../workers/limits.ts'
import type { Clock } from './clock.ts'
import { runDownload, type DownloadSource } from './upstream-download.ts'

// The NAR files that came, or are coming, over the links: each lies in the state directory under its key while it grows,
// any number of readers follow it, and what a cut, a stop or a kill left of it is where the next attempt goes on. It is
// a cache: the files used longest ago go when there are too many.

/** A file wanted. */
export interface DownloadRequest {
  /** Which file: {@link Downloads} with the same key share its bytes. Lower-case letters, digits and dashes. */
  readonly key: string
  /** Bytes of the file where known; else only `maxBytes` bounds it. */
  readonly size?: number | undefined
  readonly maxBytes: number
  readonly source: DownloadSource
}

/** An interest in a file; when the last one is released before the end, the download stops where it is. */
export interface DownloadLease {
  readonly file: string
  /** For the worker threads; undefined when the file is whole. */
  readonly growth: SharedArrayBuffer | undefined
  /** Whether some of its bytes came before this run of the download: if it is wrong, they may be why. */
  readonly resumed: boolean
  /** The file's bytes, as they come. Throws HOLDING_GONE when the end does not come. */
  read(range?: ByteRange): ByteStream
  release(): void
}

/** The files of all upstreams of one state directory. */
export interface Downloads {
  /** Finds what earlier runs left. */
  open(): void
  close(): Promise<void>
  /** Names the bytes that lie, or will lie, under a key: changes when they are thrown away. */
  stampOf(key: string): string
  /** Whether all bytes are here, so that no link is needed; `size` where known. */
  isWhole(key: string, size?: number): boolean
  lease(request: DownloadRequest): DownloadLease
  /** Throws the bytes away; what comes next under the key are others. */
  discard(key: string): void
  /** Throws the bytes away because they are wrong, and keeps the stamp: what was found out of it stays known. */
  condemn(key: string): void
}

export interface DownloadsOptions {
  readonly dir: string
  /** Bytes of all files together that are nobody's at the moment; those in use are not counted out. */
  readonly maxBytes?: number | undefined
  readonly clock: Clock
  /** Waits after failures in a row; when they are used up, the readers are told that the end does not come. */
  readonly retryMs?: readonly number[] | undefined
}

/** 20 GiB: the NARs of a large desktop upgrade. */
export const DOWNLOADS_MAX_BYTES = 20 * 1024 ** 3

/** Some two minutes in all, less than a Nix client waits for a stalled transfer (300 s). */
export const RETRY_MS: readonly number[] = [300, 1000, 2000, 4000, 8000, 15_000, 30_000, 60_000]

/** What was found wrong is asked for again after this: a mirror may have been mended. */
const CONDEMNED_MS = 6 * 3600_000

const FILE_NAME = /^([0-9a-z-]{1,150})\.([0-9a-f]{16})$/

const openDescriptor = promisify(openCallback)

const newStamp = (): string => randomBytes(8).toString('hex')

/** A download under way, or the last one of its key. */
interface Running {
  readonly growth: GrowthWriter
  readonly abort: AbortController
  readonly ended: Promise<void>
  readonly resumed: boolean
}

interface Entry {
  readonly key: string
  stamp: string
  leases: number
  /** Bytes on disk when nothing runs. */
  bytes: number
  whole: boolean
  condemnedUntil: number
  usedAt: number
  running: Running | undefined
}

/** Makes the register of a directory; nobody else may use that directory. */
export function createDownloads(options: DownloadsOptions): Downloads {
  const { dir, clock, maxBytes = DOWNLOADS_MAX_BYTES, retryMs = RETRY_MS } = options
  const entries = new Map<string, Entry>()
  let closed = false

  const fileOf = ({ key, stamp }: Entry): string => join(dir, `${key}.${stamp}`)

  const entryOf = (key: string): Entry => {
    let entry = entries.get(key)
    if (entry === undefined) {
      entry = {
        key,
        stamp: newStamp(),
        leases: 0,
        bytes: 0,
        whole: false,
        condemnedUntil: 0,
        usedAt: clock.now(),
        running: undefined,
      }
      entries.set(key, entry)
    }
    if (entry.condemnedUntil !== 0 && entry.condemnedUntil <= clock.now()) {
      entry.condemnedUntil = 0
      entry.stamp = newStamp()
    }
    return entry
  }

  const drop = (entry: Entry): void => {
    entry.running?.abort.abort()
    entry.running?.growth.end('broken')
    entry.running = undefined
    rmSync(fileOf(entry), { force: true })
    entry.bytes = 0
    entry.whole = false
  }

  /** Removes what was used longest ago until the rest fits. */
  const trim = (): void => {
    const idle = [...entries.values()].filter(entry => entry.leases === 0 && entry.bytes > 0)
    let total = idle.reduce((sum, { bytes }) => sum + bytes, 0)
    for (const entry of idle.sort((a, b) => a.usedAt - b.usedAt)) {
      if (total <= maxBytes) return
      total -= entry.bytes
      drop(entry)
      entries.delete(entry.key)
    }
  }

  const start = (entry: Entry, request: DownloadRequest): Running => {
    // It is there before the first byte is, so that a reader may open it.
    try {
      closeSync(openSync(fileOf(entry), 'a', 0o600))
    } catch (error) {
      fail('HOLDER_UNREADABLE', { holder: fileOf(entry), problem: problemOf(error) }, error)
    }
    const growth = createGrowth(entry.bytes)
    const abort = new AbortController()
    const run = async (): Promise<void> => {
      // The one before may still be writing its last bytes.
      await before?.ended
      const end = await runDownload({
        file: fileOf(entry),
        growth,
        signal: abort.signal,
        size: request.size,
        maxBytes: request.maxBytes,
        source: request.source,
        clock,
        retryMs,
      })
      growth.end(end === 'whole' ? 'whole' : 'broken')
      if (entry.running !== running) return
      entry.running = undefined
      entry.bytes = growth.available
      entry.whole = end === 'whole'
      if (end === 'useless' || end === 'wrong') drop(entry)
      if (end === 'useless') entry.stamp = newStamp()
      if (end === 'wrong') entry.condemnedUntil = clock.now() + CONDEMNED_MS
    }
    const before = entry.running
    const running: Running = {
      growth,
      abort,
      resumed: entry.bytes > 0,
      ended: Promise.resolve()
        .then(run)
        .catch(() => growth.end('broken')),
    }
    entry.running = running
    return running
  }

  const leaseOf = (entry: Entry, running: Running | undefined): DownloadLease => {
    const file = fileOf(entry)
    let released = false
    entry.leases++
    const release = (): void => {
      if (released) return
      released = true
      entry.leases--
      entry.usedAt = clock.now()
      if (entry.leases > 0) return
      running?.abort.abort()
      trim()
    }
    return {
      file,
      growth: running?.growth.memory,
      resumed: running?.resumed ?? true,
      release,
      read({ offset = 0, end = Number.MAX_SAFE_INTEGER } = {}) {
        if (running === undefined)
          return createFileStream(() => openDescriptor(file, 'r', 0), { offset, end })
        return readGrowing(file, running.growth, offset, end)
      },
    }
  }

  return {
    open() {
      closed = false
      mkdirSync(dir, { recursive: true, mode: 0o700 })
      for (const name of readdirSync(dir)) {
        const [, key, stamp] = FILE_NAME.exec(name) ?? []
        if (key === undefined || stamp === undefined) continue
        const stats = statSync(join(dir, name))
        const entry = entryOf(key)
        if (stats.size < entry.bytes) {
          // A key has one file; of two that a crash left the longer one is worth more.
          rmSync(join(dir, name), { force: true })
          continue
        }
        if (entry.bytes > 0) rmSync(fileOf(entry), { force: true })
        Object.assign(entry, { stamp, bytes: stats.size, usedAt: stats.mtimeMs })
      }
      trim()
    },
    async close() {
      closed = true
      const ending = [...entries.values()].flatMap(({ running }) => running ?? [])
      for (const { abort } of ending) abort.abort()
      await Promise.all(ending.map(({ ended }) => ended))
    },
    stampOf: key => entryOf(key).stamp,
    isWhole(key, size) {
      const entry = entries.get(key)
      if (entry === undefined || entry.condemnedUntil !== 0) return false
      return entry.whole || (size !== undefined && entry.bytes === size)
    },
    lease(request) {
      const entry = entryOf(request.key)
      if (closed || entry.condemnedUntil !== 0) {
        fail('HOLDING_GONE', { path: request.key, holder: 'this host' })
      }
      if (entry.whole) {
        const now = new Date(clock.now())
        try {
          utimesSync(fileOf(entry), now, now)
          return leaseOf(entry, undefined)
        } catch {
          // Somebody cleaned up: it is to be fetched again.
          drop(entry)
        }
      }
      const { running } = entry
      const useful = running?.growth.state === 'growing' && !running.abort.signal.aborted
      if (!useful && running !== undefined) entry.bytes = running.growth.available
      return leaseOf(entry, useful ? running : start(entry, request))
    },
    discard(key) {
      const entry = entries.get(key)
      if (entry === undefined) return
      drop(entry)
      entry.stamp = newStamp()
      entry.condemnedUntil = 0
    },
    condemn(key) {
      const entry = entryOf(key)
      drop(entry)
      entry.condemnedUntil = clock.now() + CONDEMNED_MS
    },
  }
}

/** A growing file's bytes as they come. */
function readGrowing(file: string, growth: GrowthWriter, offset: number, end: number): ByteStream {
  const loans = createLoans()
  let destroyed = false
  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    let handle: FileHandle | undefined
    let position = offset
    try {
      while (position < end && !destroyed) {
        await waitBeyond(growth, position)
        const room = Math.min(growth.available, end) - position
        if (room <= 0) {
          if (growth.state === 'whole') return
          fail('HOLDING_GONE', { path: file, holder: 'this host' })
        }
        handle ??= await open(file, 'r')
        const buffer = takeBuffer()
        const target = Buffer.from(buffer, 0, Math.min(CHUNK_BYTES, room))
        const { bytesRead } = await handle.read(target, 0, target.length, position)
        if (bytesRead === 0) fail('HOLDING_GONE', { path: file, holder: 'this host' })
        position += bytesRead
        yield loans.lend(buffer, bytesRead)
      }
    } finally {
      await handle?.close()
    }
  }
  const iterator = chunks()
  return {
    recycle: loans.settle,
    destroy() {
      destroyed = true
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}
