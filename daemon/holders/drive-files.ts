import { lstatSync, type BigIntStats } from 'node:fs'
import { lstat, open } from 'node:fs/promises'
import { NarwharfError, problemOf } from '../../protocol/errors.ts'
import { stampOfStats, type FileStamp } from './file-stamp.ts'
import { OPEN_FLAGS } from './small-file.ts'

// Reading on a drive. A stick can take seconds for a file, and one that is about to die takes minutes: nothing here is done on
// the thread that answers clients but looking at names that the kernel has in memory, few things are done at a time, and a
// drive that gives no answer is not asked again until it has given it. Links are not followed, devices and FIFOs not opened.

/** Things asked of one drive at a time: hanging ones must not take all of libuv's four threads. */
const UNDER_WAY_MAX = 1

/** A drive that has not answered for this long is out of reach, ms: a sleeping disk spins up within it, mostly. */
const STUCK_MS = 2000

/** Nobody waits longer for one answer, ms. */
const ANSWER_MS = 10_000

/** FAT counts in steps of 2 s, exFAT of 10 ms: what changed less than this ago may change again without a sign, ms. */
const COARSE_TICK_MS = 2500
const COARSE_STEP_NS = 10_000_000n

/** A file's state; times that are so round are a coarse clock's. */
const stateOf = (stats: BigIntStats): FileStamp =>
  stats.ctimeNs % COARSE_STEP_NS === 0n ? stampOfStats(stats, COARSE_TICK_MS) : stampOfStats(stats)

/** A small regular file as it was read. */
export interface ReadFile {
  readonly stamp: FileStamp
  /** Undefined where it is larger than was asked for, or no regular file. */
  readonly bytes?: Buffer | undefined
  readonly problem?: string | undefined
}

/** Times, each with a default. */
export interface DriveTimings {
  readonly stuckMs?: number | undefined
  readonly answerMs?: number | undefined
}

/** The files of one drive. Paths are relative to its folder and made of parts that were checked. */
export interface DriveFiles {
  readonly dir: string
  /** It has not answered for a while: it is not to be asked now. */
  readonly isStuck: boolean
  /** Does something on the drive when its turn has come; rejects with HOLDER_UNREADABLE when it takes too long, or the drive goes. */
  run<T>(work: () => Promise<T>): Promise<T>
  /** Undefined where there is nothing, or the way to it is a link. To be called within {@link run}. */
  read(file: string, limit: number): Promise<ReadFile | undefined>
  /** The first bytes of a regular file. */
  readHead(file: string, length: number): Promise<Buffer | undefined>
  stampOf(file: string): Promise<FileStamp | undefined>
  /** The same at once, of a file that was just looked at: its state is in the kernel's memory. */
  stampNow(file: string): FileStamp | undefined
  /** The drive is gone: whoever waits for it is told. */
  end(): void
}

const isAbsent = (error: unknown): boolean =>
  ['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes((error as NodeJS.ErrnoException).code ?? '')

/** A link, a device without a driver, a socket: what it is will not change by asking. */
const isOdd = (error: unknown): boolean =>
  ['ELOOP', 'ENXIO'].includes((error as NodeJS.ErrnoException).code ?? '')

const foldersOf = (file: string): string[] => {
  const names = file.split('/').slice(0, -1)
  return names.map((_, at) => names.slice(0, at + 1).join('/'))
}

/** Makes the reader of a drive's folder. */
export function createDriveFiles(
  holderId: string,
  dir: string,
  { stuckMs = STUCK_MS, answerMs = ANSWER_MS }: DriveTimings = {},
): DriveFiles {
  const waiting: (() => void)[] = []
  const refusals = new Set<(error: Error) => void>()
  /** When each thing under way was begun. */
  const begun = new Set<{ readonly at: number }>()
  let ended = false

  const unreadable = (problem: string): NarwharfError =>
    new NarwharfError('HOLDER_UNREADABLE', { holder: holderId, problem })
  const next = (): void => waiting.shift()?.()

  const start = <T>(work: () => Promise<T>): Promise<T> => {
    const entry = { at: performance.now() }
    begun.add(entry)
    return work().finally(() => {
      begun.delete(entry)
      next()
    })
  }

  const isInside = async (file: string): Promise<boolean> => {
    for (const folder of foldersOf(file)) {
      if (!(await lstat(`${dir}/${folder}`)).isDirectory()) return false
    }
    return true
  }

  return {
    dir,
    get isStuck() {
      const now = performance.now()
      for (const { at } of begun) if (now - at > stuckMs) return true
      return false
    },
    run: work =>
      new Promise((resolve, reject) => {
        if (ended) return reject(unreadable('it is gone'))
        const settle = (): void => {
          clearTimeout(timer)
          refusals.delete(refuse)
        }
        const refuse = (error: Error): void => {
          settle()
          reject(error)
        }
        const timer = setTimeout(() => refuse(unreadable('it does not answer')), answerMs).unref()
        refusals.add(refuse)
        const begin = (): void => {
          if (!refusals.has(refuse)) return next()
          start(work).then(
            value => {
              settle()
              resolve(value)
            },
            (error: unknown) =>
              refuse(error instanceof NarwharfError ? error : unreadable(problemOf(error))),
          )
        }
        if (begun.size < UNDER_WAY_MAX) begin()
        else waiting.push(begin)
      }),
    async read(file, limit) {
      try {
        if (!(await isInside(file))) return undefined
        const handle = await open(`${dir}/${file}`, OPEN_FLAGS)
        try {
          const stamp = stateOf(await handle.stat({ bigint: true }))
          if (!stamp.isFile) return { stamp, problem: 'is not a regular file' }
          if (stamp.size > limit) return { stamp, problem: `is larger than ${limit} bytes` }
          const bytes = Buffer.allocUnsafe(stamp.size)
          let length = 0
          while (length < bytes.length) {
            const { bytesRead } = await handle.read(bytes, length, bytes.length - length, length)
            if (bytesRead === 0) break
            length += bytesRead
          }
          return { stamp, bytes: bytes.subarray(0, length) }
        } finally {
          await handle.close()
        }
      } catch (error) {
        if (isAbsent(error) || isOdd(error)) return undefined
        throw error
      }
    },
    async readHead(file, length) {
      try {
        if (!(await isInside(file))) return undefined
        const handle = await open(`${dir}/${file}`, OPEN_FLAGS)
        try {
          if (!(await handle.stat()).isFile()) return undefined
          const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0)
          return buffer.subarray(0, bytesRead)
        } finally {
          await handle.close()
        }
      } catch (error) {
        if (isAbsent(error) || isOdd(error)) return undefined
        throw error
      }
    },
    async stampOf(file) {
      try {
        if (!(await isInside(file))) return undefined
        return stateOf(await lstat(`${dir}/${file}`, { bigint: true }))
      } catch (error) {
        if (isAbsent(error)) return undefined
        throw error
      }
    },
    stampNow(file) {
      try {
        for (const folder of foldersOf(file)) {
          if (!lstatSync(`${dir}/${folder}`).isDirectory()) return undefined
        }
        const stats = lstatSync(`${dir}/${file}`, { bigint: true, throwIfNoEntry: false })
        return stats && stateOf(stats)
      } catch {
        return undefined
      }
    },
    end() {
      ended = true
      for (const refuse of refusals) refuse(unreadable('it is gone'))
      waiting.length = 0
    },
  }
}
