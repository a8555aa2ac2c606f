import { availableParallelism } from 'node:os'
import { fail } from '../../protocol/errors.ts'
import type { ByteRange, ByteStream } from './byte-stream.ts'
import { reviveError, type StreamRequest, type TaskRequest, type TaskResults } from './messages.ts'
import type { NarPool } from './nar-pool.ts'
import { createWorkerStream } from './worker-stream.ts'
import { startWorkerThread, type WorkerThread } from './worker-thread.ts'

/** Most threads by default: four fill a 10 Gbit/s network. */
const MAX_THREADS = 4

/**
 * How long after `open` a first thread is started, ms. Later than a host takes to start and to meet the others, on a machine
 * where its processor time is missed then, and soon enough that the first NAR seldom waits for it.
 */
const WARM_MS = 2000

/** Threads by default: one core is the main thread's; two at least, so that one serves while another decodes xz. */
const defaultThreads = (): number => Math.min(MAX_THREADS, Math.max(2, availableParallelism() - 1))

export interface NarPoolOptions {
  /** Most worker threads. */
  readonly threads?: number | undefined
  readonly warmMs?: number | undefined
  /** How a thread is started. */
  readonly startThread?: (() => WorkerThread) | undefined
}

/** Makes the pool; threads are started when there is work for them, and anew where one was lost. */
export function createNarPool(options: NarPoolOptions = {}): NarPool {
  const { threads: count = defaultThreads(), startThread = startWorkerThread } = options
  const { warmMs = WARM_MS } = options
  let threads: WorkerThread[] = []
  let isOpen = false
  let warming: NodeJS.Timeout | undefined
  let lastId = 0

  /** The thread with the least to do. */
  const pick = (): { readonly thread: WorkerThread; readonly id: number } => {
    if (!isOpen) fail('NAR_WORKER_LOST', { problem: 'the pool is closed' })
    threads = threads.filter(({ alive }) => alive)
    let best: WorkerThread | undefined
    for (const thread of threads) {
      if (best === undefined || thread.busy < best.busy) best = thread
    }
    if (best === undefined || (best.busy > 0 && threads.length < count)) {
      best = startThread()
      threads.push(best)
    }
    return { thread: best, id: ++lastId }
  }

  const stream = (request: StreamRequest, range: ByteRange = {}): ByteStream =>
    createWorkerStream(pick, request, range)

  const run = <R extends TaskRequest>(
    request: R,
    signal?: AbortSignal,
  ): Promise<TaskResults[R['kind']]> =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const { thread, id } = pick()
      const done = (): void => {
        thread.forget(id)
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = (): void => {
        done()
        thread.send({ op: 'stop', id })
        reject(signal?.reason as Error)
      }
      signal?.addEventListener('abort', onAbort)
      thread.listen(id, {
        take(message) {
          done()
          if (message.op === 'result') resolve(message.result as TaskResults[R['kind']])
          else if (message.op === 'error') reject(reviveError(message.error))
        },
        lost(error) {
          done()
          reject(error)
        },
      })
      thread.send({ op: 'task', id, request })
    })

  return {
    async open() {
      if (isOpen) return
      isOpen = true
      // One is ready for the first request, unless that comes at once.
      warming = setTimeout(() => {
        if (threads.length === 0) threads.push(startThread())
      }, warmMs).unref()
    },
    async close() {
      isOpen = false
      clearTimeout(warming)
      const ending = threads
      threads = []
      await Promise.all(ending.map(thread => thread.terminate('the daemon is closing')))
    },
    dump: (root, range) => stream({ kind: 'dump', root }, range),
    dumpZstd: (root, range) => stream({ kind: 'dump-zstd', root }, range),
    decompress: (file, compression, range, growth) =>
      stream({ kind: 'decompress', file, compression, growth }, range),
    async digestTree(root, signal) {
      const { narHash, narSize } = await run({ kind: 'digest-tree', root }, signal)
      return { narHash: Buffer.from(narHash), narSize }
    },
    async digestFile(file, compression, signal, options) {
      const result = await run({ kind: 'digest-file', file, compression, ...options }, signal)
      const { narHash, fileHash } = result
      return { ...result, narHash: Buffer.from(narHash), fileHash: Buffer.from(fileHash) }
    },
    async listTree(root) {
      return Buffer.from((await run({ kind: 'list-tree', root })).listing)
    },
    async listFile(file, compression) {
      return Buffer.from((await run({ kind: 'list-file', file, compression })).listing)
    },
  }
}
