import type { Dir } from 'node:fs'
import { lstat, opendir } from 'node:fs/promises'
import { problemOf } from '../../protocol/errors.ts'
import { parseHashPart, type HashPart } from '../../protocol/store-path.ts'
import type { DriveFiles } from './drive-files.ts'
import { createHashPartFilter, type HashPartFilter } from './hash-part-filter.ts'
import type { Reachability } from './reachability.ts'

// The names on a drive: which hash parts it may have, so that nobody asks it in vain. A hostile drive may have a billion of
// them: they are read piece by piece, remembered in a filter of bounded size, and not read for ever.

/** Names of one turn of the drive. */
const NAMES_PER_TURN = 1000

/** Most names read of one folder: a minute of a USB stick. What lies behind them is found by those who ask for it. */
export const DRIVE_NAMES_MAX = 5_000_000

/** Room of a filter at first, and so many times what was there last; no more than for that many names (10 MB). */
const ROOM_FIRST = 128 * 1024
const ROOM_FACTOR = 2
const ROOM_MAX = DRIVE_NAMES_MAX

/** How old the answer to "did the folder change?" may be, ms. */
const LOOK_MS = 1

const NARINFO_FILE = /^([0-9a-df-np-sv-z]{32})\.narinfo$/

/** The names of one drive. */
export interface DriveNames {
  /** False only where it has no narinfo of that name now. */
  mayHave(part: HashPart): boolean
  /** Every name that looks like a narinfo's; throws HOLDER_UNREADABLE. */
  all(): AsyncIterable<HashPart>
  /** Reads them for `mayHave` alone. */
  read(): Promise<void>
  /** What may lie in nar/, by the URLs of narinfos. */
  nars(): Promise<{ mayHave(url: string): boolean }>
  /** Changes when a name came or went. */
  generation(): string
}

/** Makes the register of a drive's names. */
export function createDriveNames(files: DriveFiles, reach: Reachability): DriveNames {
  let names: { readonly stamp: string; readonly filter: HashPartFilter } | undefined
  let stands = false
  let lookAt = -Infinity
  let lastCount = ROOM_FIRST / ROOM_FACTOR
  let generationCount = 0

  const newFilter = (): HashPartFilter =>
    createHashPartFilter(Math.min(ROOM_MAX, Math.max(ROOM_FIRST, lastCount * ROOM_FACTOR)))

  async function* batchesOf(folder: string): AsyncGenerator<readonly string[]> {
    const path = `${files.dir}/${folder}`
    let opening: Promise<Dir> | undefined
    const open = async (): Promise<Dir | undefined> => {
      if (folder !== '.' && !(await lstat(path)).isDirectory()) return undefined
      return (opening = opendir(path, { bufferSize: NAMES_PER_TURN }))
    }
    const handle = await files.run(open).catch((error: unknown) => {
      // Nobody waits for it any more, and when it comes it must not stay open: nothing could be unmounted.
      opening?.then(dir => dir.close()).catch(() => undefined)
      throw error
    })
    if (handle === undefined) return
    try {
      for (let count = 0; count < DRIVE_NAMES_MAX; count += NAMES_PER_TURN) {
        const batch = await files.run(async () => {
          const some: string[] = []
          while (some.length < NAMES_PER_TURN) {
            const entry = await handle.read()
            if (entry === null) break
            some.push(entry.name)
          }
          return some
        })
        yield batch
        if (batch.length < NAMES_PER_TURN) return
      }
    } finally {
      await handle.close().catch(() => undefined)
    }
  }

  async function* all(): AsyncGenerator<HashPart, void, undefined> {
    const stamp = files.stampNow('.')
    const filter = newFilter()
    let count = 0
    let seen = 0
    try {
      for await (const batch of batchesOf('.')) {
        seen += batch.length
        for (const name of batch) {
          const text = NARINFO_FILE.exec(name)?.[1]
          if (text === undefined) continue
          const part = parseHashPart(text)
          filter.put(part)
          count++
          yield part
        }
      }
    } catch (error) {
      throw reach.down(problemOf(error), error)
    }
    lastCount = count
    // A folder that changed within a tick of its file system's clock may change again without a sign.
    const isSure = stamp !== undefined && !stamp.fresh && !filter.isFull && seen < DRIVE_NAMES_MAX
    names = isSure ? { stamp: stamp.text, filter } : undefined
    lookAt = -Infinity
  }

  return {
    all,
    mayHave(part) {
      if (names === undefined) return true
      const now = performance.now()
      if (now >= lookAt) {
        lookAt = now + LOOK_MS
        stands = files.stampNow('.')?.text === names.stamp
      }
      return !stands || names.filter.mayHave(part)
    },
    async read() {
      for await (const part of all()) void part
    },
    async nars() {
      const filter = newFilter()
      let whole = true
      let count = 0
      try {
        for await (const batch of batchesOf('nar')) {
          count += batch.length
          for (const name of batch) filter.put(name)
        }
        whole = count < DRIVE_NAMES_MAX && !filter.isFull
      } catch {
        whole = false
      }
      return { mayHave: url => !whole || filter.mayHave(url.slice('nar/'.length)) }
    },
    generation() {
      const stamps = ['.', 'nar', 'nix-cache-info'].map(name => files.stampNow(name))
      const text = stamps.map(stamp => stamp?.text ?? '-').join('/')
      return stamps.some(stamp => stamp?.fresh) ? `${text}/${++generationCount}` : text
    },
  }
}
