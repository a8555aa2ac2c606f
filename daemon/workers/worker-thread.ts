import { Worker } from 'node:worker_threads'
import { NarwharfError } from '../../protocol/errors.ts'
import { giveBuffer } from './chunk-buffers.ts'
import type { FromWorker, ToWorker } from './messages.ts'

/** V8 heap of one worker, MiB: the names of one huge folder are the most that it ever holds. Its buffers lie outside. */
const HEAP_MIB = 256

/** Young generation, MiB: the default of 48 would be most of an idle worker's memory. */
const YOUNG_HEAP_MIB = 8

/** The same folder holds .ts in the source and .js in dist; the compiler rewrites import statements, not URLs. */
const ENTRY = new URL(
  `./nar-worker${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`,
  import.meta.url,
)

/** Whoever waits for a worker's messages about one id. */
export interface Listener {
  take(message: FromWorker): void
  /** The worker is gone and no message will come. */
  lost(error: Error): void
}

/** The main thread's end of one worker. */
export interface WorkerThread {
  /** Streams and tasks under way. */
  readonly busy: number
  readonly alive: boolean
  /** Listens for messages about `id`. */
  listen(id: number, listener: Listener): void
  /** Stops listening. */
  forget(id: number): void
  send(message: ToWorker, transfer?: readonly ArrayBuffer[]): void
  /** Ends the thread; listeners are told that it is lost. */
  terminate(problem: string): Promise<void>
}

/** Starts a worker. It keeps the process alive only while something is under way. */
export function startWorkerThread(): WorkerThread {
  const worker = new Worker(ENTRY, {
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB, maxYoungGenerationSizeMb: YOUNG_HEAP_MIB },
  })
  const listeners = new Map<number, Listener>()
  let alive = true

  const forget = (id: number): void => {
    listeners.delete(id)
    if (listeners.size === 0) worker.unref()
  }

  const lose = (problem: string): void => {
    if (!alive) return
    alive = false
    const listening = [...listeners.values()]
    listeners.clear()
    for (const listener of listening)
      listener.lost(new NarwharfError('NAR_WORKER_LOST', { problem }))
  }

  worker.on('message', (message: FromWorker) => {
    if ('unused' in message) for (const buffer of message.unused) giveBuffer(buffer)
    const listener = listeners.get(message.id)
    if (listener !== undefined) listener.take(message)
    else if ('buffer' in message && message.buffer !== undefined) giveBuffer(message.buffer)
  })
  worker.on('error', error => lose(error.message))
  worker.on('messageerror', error => lose(error.message))
  worker.on('exit', status => lose(`it ended with status ${status}`))
  worker.unref()

  return {
    get busy() {
      return listeners.size
    },
    get alive() {
      return alive
    },
    listen(id, listener) {
      listeners.set(id, listener)
      if (listeners.size === 1) worker.ref()
    },
    forget,
    send(message, transfer = []) {
      if (alive) worker.postMessage(message, [...transfer])
    },
    async terminate(problem) {
      lose(problem)
      await worker.terminate()
    },
  }
}
