import { parentPort, workerData } from 'node:worker_threads'
import { connect, isDamage } from './database.ts'
import { createWriter, type WriterRequest } from './writer.ts'

/** A request with its number, and the one reply to it. `close` checkpoints, closes and ends the thread. */
export type ToWriter = { readonly id: number; readonly request: WriterRequest | 'close' }
export type FromWriter =
  | { readonly id: number; readonly reply: unknown }
  | { readonly id: number; readonly problem: string; readonly damage: boolean }

const port = parentPort
if (port === null) throw new Error('writer-thread is a worker thread')

const { file } = workerData as { file: string }
const database = connect(file, { readOnly: false })
const writer = createWriter(database)

port.on('message', ({ id, request }: ToWriter) => {
  const answer = (message: FromWriter): void => port.postMessage(message)
  try {
    if (request === 'close') {
      database.close()
      answer({ id, reply: undefined })
      port.close()
    } else {
      answer({ id, reply: writer.apply(request) })
    }
  } catch (error) {
    answer({ id, problem: (error as Error).message, damage: isDamage(error) })
  }
})
