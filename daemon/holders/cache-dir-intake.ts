import { statSync } from 'node:fs'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fail, problemOf } from '../../protocol/errors.ts'
import { COMPRESSION_EXTENSIONS } from '../../protocol/nar-url.ts'
import { formatNarinfo } from '../../protocol/narinfo.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import { UNFINISHED } from './cache-dir-writer.ts'
import type { CopyControl, NarCopied, NarCopy } from './intake-file.ts'
import type { Settled, Settlement } from './intake-settle.ts'
import { createIntakeThreads, type IntakeThreads } from './intake-start.ts'

// Takes NAR files of another cache into this one as they are, many at a time: the second writer of a cache directory beside
// cache-dir-writer.ts, with the same promise: at every moment, wherever the power goes, it is a valid cache.

/** A path to be taken in. */
export interface IntakePath {
  /** As it shall stand here but for its URL: signatures and content address are proven; URL, file hash and size are the source's. */
  readonly info: NarInfo
  /** Directory of the source, and the file below it or its parts. */
  readonly root: string
  readonly files: readonly string[]
  /** The source's file hash is somebody's word who is trusted: the file is not unpacked. */
  readonly vouched: boolean
}

/** A NAR that lies here, checked, and has no name yet (unless it was here before). */
export interface TakenNar {
  readonly state: 'taken'
  /** As it will stand here. */
  readonly narinfo: NarInfo
  readonly unfinished: string | undefined
}

/** What came of a path. */
export type Taken = TakenNar | Exclude<NarCopied, { state: 'copied' }>

/** Any file of another cache, by what it must be. */
export interface IntakeFile {
  readonly root: string
  /** Below `root`, and below this cache. */
  readonly file: string
  readonly size: number
  /** 32 bytes. */
  readonly sha256: Uint8Array
  /** Its time here, ms since 1970. */
  readonly time: number
}

/** What came of a file; `here`: the same stands here. */
export type FileTaken =
  { readonly state: 'came' | 'here' } | Exclude<NarCopied, { state: 'copied' }>

export interface CacheIntake {
  /** Throws CACHE_UNWRITABLE. */
  open(): Promise<void>
  /** Stops what is under way, in the middle of a file too; nothing unfinished is left. */
  close(): Promise<void>
  /** Bytes read since `open`. */
  readonly bytes: number
  /** Stops copying: what is under way and what is asked for from now on is `stopped`. */
  stop(): void
  /** Copies the NAR and checks it; a few at a time are worth asking for. */
  take(path: IntakePath): Promise<Taken>
  /**
   * The same for files that the caller wrote below this cache itself, under names that begin with {@link UNFINISHED}: they are
   * only checked. `unfinished` is the one to be given its name; undefined where they are parts, which the caller names.
   */
  inspect(path: IntakePath, unfinished: string | undefined): Promise<Taken>
  /** Copies any file to `file` below this cache, replacing what stands there under that name when it is whole. */
  takeFile(file: IntakeFile): Promise<FileTaken>
  /** Lets go of a NAR that shall not stand. */
  drop(taken: TakenNar): Promise<void>
  /** Makes them stand, narinfos in this order: each behind what it refers to. Calls are worked off in their order. */
  settle(taken: readonly TakenNar[]): Promise<Settled>
}

/** How long what is under way may take to stop, ms; what reads a drive that hangs does not. */
const ENDS_WITHIN_MS = 3000

/** Gives a whole file its time and its name, on the disk before it has that. */
async function finishFile(unfinished: string, target: string, time: number): Promise<void> {
  await mkdir(dirname(target), { recursive: true })
  const handle = await open(unfinished, 'r+')
  try {
    await handle.utimes(time / 1000, time / 1000)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(unfinished, target)
  const folder = await open(dirname(target), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Intakes of this process, so that their unfinished files have different names. */
let intakes = 0

/** An intake of a cache directory, beside the cache-dir-writer and others of its kind. */
export function createCacheIntake({
  dir,
  threads: given,
}: {
  readonly dir: string
  /** Default: its own, which end with it. */
  readonly threads?: IntakeThreads | undefined
}): CacheIntake {
  const threads = given ?? createIntakeThreads()
  const control: CopyControl = {
    stop: new Int32Array(new SharedArrayBuffer(4)),
    bytes: new BigInt64Array(new SharedArrayBuffer(8)),
  }
  let lastId = 0
  const underWay = new Set<Promise<unknown>>()
  const unfinishedNars = new Set<string>()
  const prefix = `${UNFINISHED}${process.pid}-in${++intakes}-`

  const copyFile = (copy: Omit<NarCopy, 'control'>): Promise<NarCopied> => {
    const copying = threads.copy({ ...copy, control }).finally(() => underWay.delete(copying))
    underWay.add(copying)
    return copying
  }

  const takenOf = (path: IntakePath, copied: NarCopied, unfinished: string | undefined): Taken => {
    if (copied.state !== 'copied') return copied
    const { fileHash, fileSize } = copied
    const { compression } = path.info
    const url = `nar/${encodeNix32(fileHash)}.nar${COMPRESSION_EXTENSIONS[compression]}`
    const narinfo: NarInfo = {
      ...path.info,
      ...{ url, fileSize, fileHash: { algorithm: 'sha256', bytes: fileHash } },
    }
    return { state: 'taken', narinfo, unfinished }
  }

  /** A file of that content that is here already, e.g. since a merge that was broken off. */
  const standing = ({ info }: IntakePath): string | undefined => {
    const { fileHash, compression } = info
    if (fileHash?.algorithm !== 'sha256') return undefined
    const url = `nar/${encodeNix32(fileHash.bytes)}.nar${COMPRESSION_EXTENSIONS[compression]}`
    const found = statSync(join(dir, url), { throwIfNoEntry: false })
    return found?.isFile() === true && found.size === info.fileSize ? url : undefined
  }

  const inspect = async (path: IntakePath, unfinished: string | undefined): Promise<Taken> => {
    const { info, root, files, vouched } = path
    const copied = await copyFile({
      ...{ root, files, target: undefined, compression: info.compression, vouched },
      ...{ narHash: info.narHash.bytes, narSize: info.narSize, storePath: info.storePath },
    })
    return takenOf(path, copied, unfinished)
  }

  const copy = async (path: IntakePath, here?: string): Promise<Taken> => {
    const { info, root, files, vouched } = path
    const unfinished = here === undefined ? join(dir, 'nar', `${prefix}${++lastId}`) : undefined
    const request: Omit<NarCopy, 'control'> = {
      ...{ root: here === undefined ? root : dir, files: here === undefined ? files : [here] },
      ...{ target: unfinished, compression: info.compression, storePath: info.storePath },
      ...{ narHash: info.narHash.bytes, narSize: info.narSize, fileSize: info.fileSize },
      fileHash: info.fileHash?.algorithm === 'sha256' ? info.fileHash.bytes : undefined,
      vouched: vouched && info.fileHash?.algorithm === 'sha256',
    }
    if (unfinished !== undefined) unfinishedNars.add(unfinished)
    const copied = await copyFile(request)
    if (copied.state !== 'copied' && unfinished !== undefined) unfinishedNars.delete(unfinished)
    return takenOf(path, copied, unfinished)
  }

  const takeFile = async ({ root, file, size, sha256, time }: IntakeFile): Promise<FileTaken> => {
    const target = join(dir, file)
    const request: Omit<NarCopy, 'root' | 'target' | 'control'> = {
      ...{ files: [file], storePath: file, narHash: sha256, narSize: size },
      ...{ fileHash: sha256, fileSize: size, vouched: true, compression: 'none' },
    }
    const found = statSync(target, { throwIfNoEntry: false })
    if (found?.size === size) {
      const same = await copyFile({ ...request, root: dir, target: undefined })
      if (same.state === 'copied') return { state: 'here' }
    }
    const unfinished = join(dir, 'nar', `${prefix}${++lastId}`)
    unfinishedNars.add(unfinished)
    const copied = await copyFile({ ...request, root, target: unfinished })
    if (copied.state !== 'copied') {
      unfinishedNars.delete(unfinished)
      return copied
    }
    try {
      await finishFile(unfinished, target, time)
      return { state: 'came' }
    } catch (error) {
      await rm(unfinished, { force: true })
      const full = /^E(?:NOSPC|DQUOT)/.test(problemOf(error))
      return { state: 'unwritable', problem: problemOf(error), full }
    } finally {
      unfinishedNars.delete(unfinished)
    }
  }

  return {
    takeFile,
    get bytes() {
      return Number(Atomics.load(control.bytes, 0))
    },
    async open() {
      try {
        await mkdir(join(dir, 'nar'), { recursive: true })
      } catch (error) {
        fail('CACHE_UNWRITABLE', { dir, problem: problemOf(error) }, error)
      }
    },
    stop() {
      Atomics.store(control.stop, 0, 1)
    },
    async close() {
      Atomics.store(control.stop, 0, 1)
      let timer: NodeJS.Timeout | undefined
      const late = new Promise(resolve => {
        timer = setTimeout(resolve, ENDS_WITHIN_MS)
      })
      await Promise.race([Promise.allSettled(underWay), late])
      clearTimeout(timer)
      // Nobody asks for these any more, and a thread that hangs cannot remove its own.
      for (const left of unfinishedNars) await rm(left, { force: true })
      unfinishedNars.clear()
      if (given === undefined) await threads.close()
    },
    async take(path) {
      const here = standing(path)
      if (here !== undefined) {
        const checked = await copy(path, here)
        if (checked.state === 'taken' || checked.state === 'stopped') return checked
      }
      return copy(path)
    },
    inspect,
    async drop({ unfinished }) {
      if (unfinished === undefined) return
      unfinishedNars.delete(unfinished)
      await rm(unfinished, { force: true })
    },
    async settle(taken) {
      const settlement: Settlement = {
        dir,
        prefix: `${prefix}${++lastId}-`,
        nars: taken.flatMap(({ unfinished, narinfo }) =>
          unfinished === undefined ? [] : [{ unfinished, url: narinfo.url }],
        ),
        narinfos: taken.map(({ narinfo }) => ({
          hashPart: hashPartOf(narinfo.storePath),
          text: formatNarinfo(narinfo),
        })),
      }
      for (const { unfinished } of settlement.nars) unfinishedNars.delete(unfinished)
      return threads.settle(settlement)
    },
  }
}
