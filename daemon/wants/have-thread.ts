import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import {
  isNarwharfError,
  problemOf,
  type ErrorCode,
  type ErrorData,
} from '../../protocol/errors.ts'
import { makeDigest, type HaveTask, type MadeDigest } from './have-task.ts'

// A thread that makes one have digest and ends. A million paths keep it busy for seconds; the main thread only signs.

/** What the thread is given. */
export interface HaveOrder {
  readonly task: HaveTask
  /** Woken when the signature is there. */
  readonly wake: SharedArrayBuffer
}

/** What it says: bytes to sign, then the digest, or why there is none. */
export type FromHave =
  | { readonly sign: Uint8Array }
  | MadeDigest
  | {
      readonly problem: string
      readonly typed: { readonly code: ErrorCode; readonly data: ErrorData } | undefined
    }

const port = parentPort
if (port === null) throw new Error('have-thread is a worker thread')
const say = (message: FromHave): void => port.postMessage(message)
const { task, wake } = workerData as HaveOrder

try {
  // The key stays with trust: the bytes go there and the signature comes back.
  const made = makeDigest(task, bytes => {
    say({ sign: bytes })
    Atomics.wait(new Int32Array(wake), 0, 0)
    return String(receiveMessageOnPort(port)?.message)
  })
  say(made)
} catch (error) {
  const typed = isNarwharfError(error) ? { code: error.code, data: error.data } : undefined
  say({ problem: problemOf(error), typed })
}
