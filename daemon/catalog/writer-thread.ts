import { parentPort, workerData } from 'node:worker_threads'
import { connect, isDamage } from './database.ts'
import { isNarwharfError, type ErrorCode, type ErrorData } from '../../protocol/errors.ts'
import { createWriter, type WriterOptions, type WriterRequest } from './writer.ts'

/** A request with its number, and the one reply to it. `close` checkpoints, closes and ends the thread. */
export type ToWriter = { readonly id: number; readonly request: WriterRequest | 'close' }
export type FromWriter =
  | { readonly id: number; readonly reply: unknown }
  | {
      readonly id: number
      readonly problem: string
      readonly damage: boolean
      /** What makes a narwharf error again on the other side. */
      readonly typed: { readonly code: ErrorCode; readonly data: ErrorData } | undefined
    }

const port = parentPort
if (port === null) throw new Error('writer-thread is a worker thread')

const { file, options } = workerData as { file: string; options: WriterOptions }
const database = connect(file, { readOnly: false })
const writer = createWriter(database, options)

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
    const typed = isNarwharfError(error) ? { code: error.code, data: error.data } : undefined
    answer({ id, problem: (error as Error).message, damage: isDamage(error), typed })
  }
})
