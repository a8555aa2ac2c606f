import { statSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { fail, problemOf } from '../../protocol/errors.ts'
import { COMPRESSION_EXTENSIONS } from '../../protocol/nar-url.ts'
import { formatNarinfo } from '../../protocol/narinfo.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import { UNFINISHED } from './cache-dir-writer.ts'
import type { IntakeShared, NarCopied, NarCopy } from './intake-file.ts'
import type { Settled, Settlement } from './intake-settle.ts'
import type { FromIntake, ToIntake } from './intake-thread.ts'

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

export interface CacheIntake {
  /** Starts its threads. Throws CACHE_UNWRITABLE. */
  open(): Promise<void>
  /** Stops them, in the middle of a file too; that leaves nothing. */
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
  /** Lets go of a NAR that shall not stand. */
  drop(taken: TakenNar): Promise<void>
  /** Makes them stand, narinfos in this order: each behind what it refers to. Calls are worked off in their order. */
  settle(taken: readonly TakenNar[]): Promise<Settled>
}

/** Threads that copy: one hashes and unpacks while the other reads. */
const COPIERS = 2

/** How long a thread may take to come to an end by itself, ms; one that reads a drive that hangs does not. */
const ENDS_WITHIN_MS = 3000

/** V8 heap of a thread, MiB; its buffers lie outside. */
const HEAP_MIB = 48
const YOUNG_MIB = 4

interface Thread {
  ask(request: ToIntake): Promise<NarCopied | Settled>
  readonly asked: number
  end(): Promise<void>
}

function startThread(shared: IntakeShared): Thread {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const worker = new Worker(new URL(`./intake-thread.${extension}`, import.meta.url), {
    workerData: shared,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB, maxYoungGenerationSizeMb: YOUNG_MIB },
  })
  const waiting = new Map<
    number,
    { resolve: (reply: NarCopied | Settled) => void; reject: (error: Error) => void }
  >()
  let gone: Error | undefined
  const onGone = (problem: string): void => {
    gone ??= new Error(`a copying thread has ended: ${problem}`)
    for (const { reject } of waiting.values()) reject(gone)
    waiting.clear()
  }
  worker.on('message', ({ id, reply }: FromIntake) => {
    waiting.get(id)?.resolve(reply)
    waiting.delete(id)
  })
  worker.on('error', error => onGone(problemOf(error)))
  worker.on('exit', () => onGone('it was stopped'))
  return {
    ask: request =>
      new Promise((resolve, reject) => {
        if (gone !== undefined) return reject(gone)
        waiting.set(request.id, { resolve, reject })
        worker.postMessage(request)
      }),
    get asked() {
      return waiting.size
    },
    async end() {
      const idle = async () => {
        while (waiting.size > 0) await new Promise(resolve => worker.once('message', resolve))
      }
      let timer: NodeJS.Timeout | undefined
      const late = new Promise(resolve => {
        timer = setTimeout(resolve, ENDS_WITHIN_MS)
      })
      await Promise.race([idle(), late])
      clearTimeout(timer)
      await worker.terminate()
    },
  }
}

/** The intake of a cache directory; only one may be open at a time, beside the cache-dir-writer. */
export function createCacheIntake({ dir }: { readonly dir: string }): CacheIntake {
  const shared: IntakeShared = {
    stop: new Int32Array(new SharedArrayBuffer(4)),
    reading: new Int32Array(new SharedArrayBuffer(4)),
    bytes: new BigInt64Array(new SharedArrayBuffer(8)),
  }
  let copiers: readonly Thread[] = []
  let settler: Thread | undefined
  let lastId = 0
  const unfinishedNars = new Set<string>()
  const prefix = `${UNFINISHED}${process.pid}-in-`

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
    const thread = copiers.reduce((a, b) => (b.asked < a.asked ? b : a))
    const request: NarCopy = {
      ...{ root, files, target: undefined, compression: info.compression, vouched },
      ...{ narHash: info.narHash.bytes, narSize: info.narSize, storePath: info.storePath },
    }
    const copied = (await thread.ask({ op: 'copy', id: ++lastId, copy: request })) as NarCopied
    return takenOf(path, copied, unfinished)
  }

  const copy = async (path: IntakePath, here?: string): Promise<Taken> => {
    const { info, root, files, vouched } = path
    const thread = copiers.reduce((a, b) => (b.asked < a.asked ? b : a))
    const id = ++lastId
    const unfinished = here === undefined ? join(dir, 'nar', `${prefix}${id}`) : undefined
    const request: NarCopy = {
      ...{ root: here === undefined ? root : dir, files: here === undefined ? files : [here] },
      ...{ target: unfinished, compression: info.compression, storePath: info.storePath },
      ...{ narHash: info.narHash.bytes, narSize: info.narSize, fileSize: info.fileSize },
      fileHash: info.fileHash?.algorithm === 'sha256' ? info.fileHash.bytes : undefined,
      vouched: vouched && info.fileHash?.algorithm === 'sha256',
    }
    if (unfinished !== undefined) unfinishedNars.add(unfinished)
    const copied = (await thread.ask({ op: 'copy', id, copy: request })) as NarCopied
    if (copied.state !== 'copied' && unfinished !== undefined) unfinishedNars.delete(unfinished)
    return takenOf(path, copied, unfinished)
  }

  return {
    get bytes() {
      return Number(Atomics.load(shared.bytes, 0))
    },
    async open() {
      if (settler !== undefined) return
      try {
        await mkdir(join(dir, 'nar'), { recursive: true })
      } catch (error) {
        fail('CACHE_UNWRITABLE', { dir, problem: problemOf(error) }, error)
      }
      Atomics.store(shared.stop, 0, 0)
      Atomics.store(shared.bytes, 0, 0n)
      copiers = Array.from({ length: COPIERS }, () => startThread(shared))
      settler = startThread(shared)
    },
    stop() {
      Atomics.store(shared.stop, 0, 1)
    },
    async close() {
      Atomics.store(shared.stop, 0, 1)
      const ending = [...copiers, ...(settler === undefined ? [] : [settler])]
      copiers = []
      settler = undefined
      await Promise.all(ending.map(thread => thread.end()))
      // Nobody asks for these any more, and a thread that hung could not remove its own.
      for (const left of unfinishedNars) await rm(left, { force: true })
      unfinishedNars.clear()
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
      const id = ++lastId
      const settlement: Settlement = {
        dir,
        prefix: `${prefix}${id}-`,
        nars: taken.flatMap(({ unfinished, narinfo }) =>
          unfinished === undefined ? [] : [{ unfinished, url: narinfo.url }],
        ),
        narinfos: taken.map(({ narinfo }) => ({
          hashPart: hashPartOf(narinfo.storePath),
          text: formatNarinfo(narinfo),
        })),
      }
      for (const { unfinished } of settlement.nars) unfinishedNars.delete(unfinished)
      return (await settler?.ask({ op: 'settle', id, settlement })) as Settled
    },
  }
}
