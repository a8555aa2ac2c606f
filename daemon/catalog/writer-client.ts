import { Worker } from 'node:worker_threads'
import type { FromWriter, ToWriter } from './writer-thread.ts'
import { NarwharfError, problemOf } from '../../protocol/errors.ts'
import { connect, isDamage } from './database.ts'
import { createWriter } from './writer.ts'
import type { WriterOptions, WriterReplies, WriterRequest } from './writer.ts'

/** V8 heap of the writer's thread, MiB: its batches are small, the rest is SQLite's own memory. */
const WRITER_HEAP_MIB = 64
const WRITER_YOUNG_MIB = 8

/** The main thread's end of the writer: requests are answered in order. */
export interface WriterClient {
  /** Rejects when SQLite refuses (full disk, damage) or the thread is gone. */
  ask<R extends WriterRequest>(request: R): Promise<WriterReplies[R['op']]>
  /** Finishes what was asked, closes the connection and ends the thread. */
  close(): Promise<void>
}

interface Waiting {
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
}

/** Starts the writer's thread on a prepared catalog file. `onDamage` is told when SQLite finds the file damaged. */
export function startWriter(
  file: string,
  onDamage: (problem: string) => void,
  options: WriterOptions = {},
): WriterClient {
  // The same folder holds .ts in the source and .js in dist; only import statements are rewritten by the compiler.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const worker = new Worker(new URL(`./writer-thread.${extension}`, import.meta.url), {
    workerData: { file, options },
    resourceLimits: {
      maxOldGenerationSizeMb: WRITER_HEAP_MIB,
      maxYoungGenerationSizeMb: WRITER_YOUNG_MIB,
    },
  })
  const waiting = new Map<number, Waiting>()
  let lastId = 0
  let gone: Error | undefined

  const settle = (): void => {
    // Only an unanswered request keeps the process alive.
    if (waiting.size === 0) worker.unref()
  }
  const end = (error: Error): void => {
    gone ??= error
    for (const { reject } of waiting.values()) reject(error)
    waiting.clear()
  }

  worker.on('message', (message: FromWriter) => {
    const entry = waiting.get(message.id)
    waiting.delete(message.id)
    settle()
    if ('problem' in message) {
      if (message.damage) onDamage(message.problem)
      const { typed, problem } = message
      entry?.reject(
        typed === undefined ? new Error(problem) : new NarwharfError(typed.code, typed.data),
      )
    } else {
      entry?.resolve(message.reply)
    }
  })
  worker.on('error', error => end(error instanceof Error ? error : new Error(String(error))))
  worker.on('exit', () => end(new Error('the catalog writer has ended')))
  worker.unref()

  const send = (request: WriterRequest | 'close'): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (gone !== undefined) return reject(gone)
      const message: ToWriter = { id: ++lastId, request }
      waiting.set(message.id, { resolve, reject })
      worker.ref()
      worker.postMessage(message)
    })

  return {
    ask: <R extends WriterRequest>(request: R) => send(request) as Promise<WriterReplies[R['op']]>,
    close: async () => {
      if (gone !== undefined) return
      const ended = new Promise<void>(resolve => worker.once('exit', () => resolve()))
      await send('close').catch(() => worker.terminate())
      worker.ref()
      await ended
    },
  }
}

/** The same without a thread, for programs that do not mind waiting for a disk: tests, one-off commands. */
export function startWriterHere(
  file: string,
  onDamage: (problem: string) => void,
  options: WriterOptions = {},
): WriterClient {
  const database = connect(file, { readOnly: false })
  const writer = createWriter(database, options)
  return {
    ask: async <R extends WriterRequest>(request: R) => {
      try {
        return writer.apply(request) as WriterReplies[R['op']]
      } catch (error) {
        if (isDamage(error)) onDamage(problemOf(error))
        throw error
      }
    },
    close: async () => {
      database.close()
    },
  }
}
