import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { problemOf } from '../../protocol/errors.ts'
import { COMPRESSION_EXTENSIONS } from '../../protocol/nar-url.ts'
import { formatNarinfo } from '../../protocol/narinfo.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import { UNFINISHED } from '../holders/cache-dir-writer.ts'
import type { Settled } from '../holders/intake-settle.ts'
import type { FromImport, ImportPlace, ReadReply, ToImport } from './import-desk.ts'
import type { UnpackedPath } from './import-unpack.ts'

/** A path that was judged and shall stand in the cache. */
export interface AcceptedPath {
  readonly unpacked: UnpackedPath
  /** As its narinfo will have it: signatures and content address are proven. */
  readonly info: PathInfo
}

/** The cache's side of one import. */
export interface ImportIntake {
  /** A buffer for the next bytes. Two or three serve an archive of any length: nothing is left for a garbage collector that sees no need. */
  buffer(): Buffer
  /** Takes on the next bytes, or says that none follow. Calls are worked off in their order. Rejects when the thread is lost. */
  read(bytes: Uint8Array | undefined): Promise<ReadReply>
  /** Makes paths stand, in this order: the first `standing` of them do, and of the others, if there was a problem, nothing is left. */
  settle(
    paths: readonly AcceptedPath[],
  ): Promise<{ readonly standing: number; readonly problem?: string }>
  /** Lets go of what shall not stand. */
  drop(paths: readonly UnpackedPath[]): Promise<void>
  /** Ends the thread and leaves nothing unfinished behind. */
  close(): Promise<void>
}

/** Bytes of the archive that are looked at together. */
const PIECE_BYTES = 1024 * 1024

/** V8 heap of the thread, MiB; its buffers lie outside. */
const HEAP_MIB = 48
const YOUNG_MIB = 4

let imports = 0

/** Where the work is done: its answers come in the order of the questions. */
export interface ImportThread {
  ask(message: ToImport): Promise<FromImport>
  end(): Promise<unknown>
}

/** Starts a thread for one import. */
export function startImportThread(place: ImportPlace): ImportThread {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const worker = new Worker(new URL(`./import-thread.${extension}`, import.meta.url), {
    workerData: place,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB, maxYoungGenerationSizeMb: YOUNG_MIB },
  })
  const waiting: { resolve: (reply: FromImport) => void; reject: (error: Error) => void }[] = []
  let gone: Error | undefined
  const onGone = (problem: string): void => {
    gone ??= new Error(`the thread of the import has ended: ${problem}`)
    for (const { reject } of waiting.splice(0)) reject(gone)
  }
  worker.on('message', (reply: FromImport) => waiting.shift()?.resolve(reply))
  worker.on('error', error => onGone(problemOf(error)))
  worker.on('exit', () => onGone('it was stopped'))
  return {
    ask: message =>
      new Promise((resolve, reject) => {
        if (gone !== undefined) return reject(gone)
        waiting.push({ resolve, reject })
        const { buffer } = message.op === 'read' ? (message.bytes ?? {}) : {}
        worker.postMessage(message, buffer instanceof ArrayBuffer ? [buffer] : [])
      }),
    end: () => worker.terminate(),
  }
}

/** Removes files of an import that nobody will give a name. */
async function removeLeft(dirs: readonly string[], prefix: string): Promise<void> {
  for (const dir of dirs) {
    const names = await readdir(dir).catch(() => [])
    const left = names.filter(name => name.startsWith(prefix))
    await Promise.all(left.map(name => rm(join(dir, name), { force: true })))
  }
}

/** Starts the intake of one import into a cache directory, beside its other writers. `read` hands over the bytes: they are its own then. */
export function startImportIntake(
  dir: string,
  storeDir: string,
  startThread: (place: ImportPlace) => ImportThread = startImportThread,
): ImportIntake {
  const prefix = `${UNFINISHED}${process.pid}-import-${++imports}-`
  const narDir = join(dir, 'nar')
  const thread = startThread({ narDir, prefix, storeDir })
  const idle: ArrayBuffer[] = []
  let closed = false

  return {
    buffer: () => Buffer.from(idle.pop() ?? new ArrayBuffer(PIECE_BYTES)),
    async read(bytes) {
      const reply = (await thread.ask({ op: 'read', bytes })) as ReadReply
      if (reply.buffer !== undefined) idle.push(reply.buffer)
      return reply
    },
    async drop(paths) {
      if (paths.length === 0) return
      await thread.ask({ op: 'drop', files: paths.map(({ unfinished }) => unfinished) })
    },
    async settle(paths) {
      const files = paths.map(({ unpacked, info }) => {
        const { compression, fileSize, unfinished } = unpacked
        const fileHash = { algorithm: 'sha256', bytes: unpacked.fileHash } as const
        const url = `nar/${encodeNix32(fileHash.bytes)}.nar${COMPRESSION_EXTENSIONS[compression]}`
        const text = formatNarinfo({ ...info, url, compression, fileHash, fileSize })
        return { nar: { unfinished, url }, narinfo: { hashPart: hashPartOf(info.storePath), text } }
      })
      const settled = (await thread.ask({
        op: 'settle',
        settlement: {
          ...{ dir, prefix: `${prefix}info-` },
          nars: files.map(({ nar }) => nar),
          narinfos: files.map(({ narinfo }) => narinfo),
        },
      })) as Settled
      const { narinfos: standing, problem } = settled
      return problem === undefined ? { standing } : { standing, problem }
    },
    async close() {
      if (closed) return
      closed = true
      await thread.ask({ op: 'close' }).catch(() => undefined)
      await thread.end()
      await removeLeft([narDir, dir], prefix)
    },
  }
}
