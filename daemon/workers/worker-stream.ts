import { close as closeFd } from 'node:fs'
import type { Worker } from 'node:worker_threads'
import { fail, NarwharfError } from '../../protocol/errors.ts'
import type { ByteRange, ByteStream } from './byte-stream.ts'
import { createFileStream } from './file-stream.ts'
import { STREAM_CREDIT } from './limits.ts'
import type { FromWorker, StreamRequest, ToWorker, WireError } from './messages.ts'

/** The error that a worker met, as it was there. */
export function revive({ code, data, errno, message }: WireError): Error {
  if (code !== undefined) return new NarwharfError(code, data)
  return errno === undefined
    ? new Error(message)
    : Object.assign(new Error(message), { code: errno })
}

/** Whoever waits for a worker's messages about one id. */
export interface Listener {
  take(message: FromWorker): void
}

/** A worker thread and who listens to it. */
export interface Thread {
  readonly worker: Worker
  readonly listeners: Map<number, Listener>
  send(message: ToWorker, transfer?: ArrayBuffer[]): void
}

/** One stream out of a worker; it begins when the consumer asks for the first chunk. */
export function createWorkerStream(
  thread: Thread,
  id: number,
  request: StreamRequest,
  { offset = 0, end = Infinity }: ByteRange,
): ByteStream {
  const queue: FromWorker[] = []
  let wake: (() => void) | undefined
  let state: 'new' | 'running' | 'over' = 'new'
  let segment: ByteStream | undefined
  /** Chunks of the worker at the consumer, and those of segments. */
  const lent = new Set<ArrayBufferLike>()

  const close = () => {
    if (state === 'running') {
      thread.listeners.delete(id)
      thread.send({ op: 'stop', id })
    }
    state = 'over'
    for (const message of queue) if (message.op === 'segment') closeFd(message.fd, () => {})
    queue.length = 0
    segment?.destroy()
    wake?.()
  }

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    if (state === 'over') return
    state = 'running'
    thread.listeners.set(id, {
      take(message) {
        queue.push(message)
        wake?.()
      },
    })
    thread.send({ op: 'stream', id, request, offset, end, credit: STREAM_CREDIT })
    try {
      for (;;) {
        const message = queue.shift()
        if (message === undefined) {
          if ((state as string) === 'over') return
          if (lent.size >= STREAM_CREDIT) {
            // The consumer asks for more without giving anything back: its first chunk is written off.
            const [oldest] = lent
            if (oldest !== undefined) lent.delete(oldest)
            thread.send({ op: 'more', id })
          }
          await new Promise<void>(resolve => (wake = resolve))
          wake = undefined
        } else if (message.op === 'chunk') {
          lent.add(message.buffer)
          yield Buffer.from(message.buffer, 0, message.length)
        } else if (message.op === 'segment') {
          const { fd } = message
          segment = createFileStream(async () => fd, {
            offset: message.offset,
            end: message.offset + message.length,
          })
          let got = 0
          for await (const chunk of segment) {
            got += chunk.length
            yield chunk
          }
          if (got < message.length && (state as string) !== 'over') {
            const path = 'root' in request ? request.root : request.file
            fail('NAR_MISMATCH', { path, field: 'size', actual: got, expected: message.length })
          }
          thread.send({ op: 'more', id })
        } else {
          thread.listeners.delete(id)
          state = 'over'
          if (message.op === 'error') throw revive(message.error)
          return
        }
      }
    } finally {
      close()
    }
  }

  const iterator = chunks()
  return {
    [Symbol.asyncIterator]: () => iterator,
    recycle(chunk) {
      const { buffer } = chunk
      if (!lent.delete(buffer)) {
        segment?.recycle(chunk)
        return
      }
      thread.send({ op: 'more', id, buffer: buffer as ArrayBuffer }, [buffer as ArrayBuffer])
    },
    destroy: close,
  }
}
