import { availableParallelism } from 'node:os'
import { close as closeFd } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { fail } from '../../protocol/errors.ts'
import type { Compression } from '../../protocol/path-info.ts'
import type { ByteRange, ByteStream } from './byte-stream.ts'
import type { NarPool } from './nar-pool.ts'
import { createWorkerStream, revive, type Listener, type Thread } from './worker-stream.ts'
import type { FromWorker, StreamRequest, TaskRequest, TaskResult } from './messages.ts'

/** Threads: all cores but the main thread's, two at least (one hashes while the other serves), four at most. */
const defaultThreads = () => Math.min(4, Math.max(2, availableParallelism() - 1))

/** The worker's file beside this one, in the source and in dist. */
const WORKER = new URL(
  `./nar-worker${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`,
  import.meta.url,
)

/** Makes the pool. */
export function createNarPool(options: { readonly threads?: number } = {}): NarPool {
  const count = options.threads ?? defaultThreads()
  let threads: (Thread | undefined)[] = []
  let isOpen = false
  let nextId = 1

  const startThread = (): Thread => {
    const worker = new Worker(WORKER, { trackUnmanagedFds: false })
    const listeners = new Map<number, Listener>()
    const thread: Thread = {
      worker,
      listeners,
      send: (message, transfer = []) => worker.postMessage(message, transfer),
    }
    worker.on('message', (message: FromWorker) => {
      const listener = listeners.get(message.id)
      if (listener !== undefined) listener.take(message)
      else if (message.op === 'segment') closeFd(message.fd, () => {})
    })
    const lost = (error?: Error) => {
      const index = threads.indexOf(thread)
      if (index === -1) return
      // Begun anew when it is needed: one that cannot even start must not be started over and over.
      threads[index] = undefined
      const message = `a worker thread ended: ${error?.message ?? 'stopped'}`
      for (const [id, listener] of listeners) listener.take({ op: 'error', id, error: { message } })
      listeners.clear()
    }
    worker.on('error', lost)
    worker.on('exit', () => lost())
    return thread
  }

  /** The thread with the least to do, started if it is not there yet. */
  const pick = (): Thread => {
    if (!isOpen) fail('HOLDER_UNREADABLE', { holder: 'the worker pool', problem: 'it is closed' })
    let best: Thread | undefined
    for (let index = 0; index < count; index++) {
      const thread = (threads[index] ??= startThread())
      if (best === undefined || thread.listeners.size < best.listeners.size) best = thread
      if (best.listeners.size === 0) break
    }
    return best as Thread
  }

  const open = (request: StreamRequest, range: ByteRange = {}): ByteStream =>
    createWorkerStream(pick(), nextId++, request, range)

  const run = (request: TaskRequest, signal?: AbortSignal): Promise<TaskResult> =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const thread = pick()
      const id = nextId++
      const done = () => {
        thread.listeners.delete(id)
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = () => {
        done()
        thread.send({ op: 'stop', id })
        reject(signal?.reason as Error)
      }
      signal?.addEventListener('abort', onAbort)
      thread.listeners.set(id, {
        take(message) {
          done()
          if (message.op === 'error') reject(revive(message.error))
          else if (message.op === 'end') resolve(message.result ?? {})
        },
      })
      thread.send({ op: 'task', id, request })
    })

  const narDigest = ({ narHash, narSize }: TaskResult) => ({
    narHash: Buffer.from(narHash ?? []),
    narSize: narSize ?? 0,
  })
  const listing = (result: TaskResult) => Buffer.from(result.listing ?? [])

  return {
    async open() {
      if (isOpen) return
      isOpen = true
      // One is ready for the first request; the others come when there is work for them.
      threads = [startThread()]
    },
    async close() {
      isOpen = false
      const ending = threads.filter(thread => thread !== undefined)
      threads = []
      for (const { listeners } of ending) {
        for (const [id, listener] of listeners) {
          listener.take({ op: 'error', id, error: { message: 'the daemon is closing' } })
        }
      }
      await Promise.all(ending.map(({ worker }) => worker.terminate()))
    },
    dump: (root, range) => open({ kind: 'dump', root }, range),
    dumpZstd: (root, range) => open({ kind: 'dump-zstd', root }, range),
    decompress: (file, compression, range) =>
      open({ kind: 'decompress', file, compression }, range),
    digestTree: async (root, signal) => narDigest(await run({ kind: 'digest-tree', root }, signal)),
    async digestFile(file: string, compression: Compression, signal) {
      const result = await run({ kind: 'digest-file', file, compression }, signal)
      const fileHash = Buffer.from(result.fileHash ?? [])
      return { ...narDigest(result), fileHash, fileSize: result.fileSize ?? 0 }
    },
    listTree: async root => listing(await run({ kind: 'list-tree', root })),
    listFile: async (file, compression) =>
      listing(await run({ kind: 'list-file', file, compression })),
  }
}
