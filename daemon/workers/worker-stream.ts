import type { ByteRange, ByteStream } from './byte-stream.ts'
import { createLoans, giveBuffer, takeBuffer } from './chunk-buffers.ts'
import { readSegment } from './file-segment.ts'
import { STREAM_CREDIT } from './limits.ts'
import { reviveError, type FromWorker, type StreamRequest } from './messages.ts'
import type { WorkerThread } from './worker-thread.ts'

/** Buffers are sent to a worker in twos: half the messages. */
const BUFFERS_PER_MESSAGE = 2

/**
 * The bytes of a request, from a worker that `pick` chooses when the consumer asks for the first chunk. The worker is given
 * one buffer to begin with, enough for a small NAR, and more as the consumer takes chunks.
 */
export function createWorkerStream(
  pick: () => { readonly thread: WorkerThread; readonly id: number },
  request: StreamRequest,
  { offset = 0, end = Infinity }: ByteRange,
): ByteStream {
  const loans = createLoans()
  const arrived: FromWorker[] = []
  let lost: Error | undefined
  let wake: (() => void) | undefined
  let destroyed = false
  /** Set while the worker works for this stream. */
  let running: { readonly thread: WorkerThread; readonly id: number } | undefined
  /** Buffers at the worker, or on their way from it. */
  let lent = 0

  const start = (): void => {
    running = pick()
    const { thread, id } = running
    thread.listen(id, {
      take(message) {
        // After its last message a worker knows nothing more of the id.
        if (message.op !== 'chunk' && message.op !== 'segment') settleWorker()
        arrived.push(message)
        wake?.()
      },
      lost(error) {
        running = undefined
        lost = error
        wake?.()
      },
    })
    const buffers = [takeBuffer()]
    lent = 1
    thread.send({ op: 'stream', id, request, offset, end, buffers }, buffers)
  }

  const settleWorker = (): void => {
    running?.thread.forget(running.id)
    running = undefined
  }

  const topUp = (): void => {
    lent--
    if (running === undefined || STREAM_CREDIT - lent < BUFFERS_PER_MESSAGE) return
    const buffers = Array.from({ length: STREAM_CREDIT - lent }, takeBuffer)
    lent = STREAM_CREDIT
    running.thread.send({ op: 'buffers', id: running.id, buffers }, buffers)
  }

  const release = (): void => {
    destroyed = true
    if (running !== undefined) {
      const { thread, id } = running
      settleWorker()
      thread.send({ op: 'stop', id })
    }
    for (const message of arrived) {
      if ('buffer' in message && message.buffer !== undefined) giveBuffer(message.buffer)
    }
    arrived.length = 0
    wake?.()
  }

  /** The next message; undefined once the stream was destroyed. */
  const next = async (): Promise<FromWorker | undefined> => {
    for (;;) {
      if (destroyed) return undefined
      const message = arrived.shift()
      if (message !== undefined) return message
      if (lost !== undefined) throw lost
      await new Promise<void>(resolve => (wake = resolve))
      wake = undefined
    }
  }

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    if (destroyed) return
    try {
      start()
      for (;;) {
        const message = await next()
        if (message === undefined) return
        switch (message.op) {
          case 'chunk':
            topUp()
            yield loans.lend(message.buffer, message.length)
            break
          case 'segment':
            for await (const chunk of readSegment(message.segment, loans)) {
              if (destroyed) {
                loans.settle(chunk)
                return
              }
              yield chunk
            }
            break
          case 'error':
            throw reviveError(message.error)
          default:
            if ('buffer' in message && message.buffer !== undefined) {
              yield loans.lend(message.buffer, message.length ?? 0)
            }
            return
        }
      }
    } finally {
      release()
    }
  }

  const iterator = chunks()
  return {
    [Symbol.asyncIterator]: () => iterator,
    recycle: loans.settle,
    destroy() {
      release()
      iterator.return().catch(() => undefined)
    },
  }
}
