import { readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { createFileSource } from './file-source.ts'
import { followGrowth } from './growth.ts'
import { SEGMENT_BYTES } from './limits.ts'
import { packError, type StreamRequest, type ToWorker } from './messages.ts'
import type { PullSource } from './pull-source.ts'
import { createStreamWork } from './stream-work.ts'
import { createTaskWork } from './task-work.ts'
import { createTreeNar } from './tree-nar.ts'
import type { Send, SliceResult, Work } from './work.ts'
import { createZstdNar } from './zstd-nar.ts'

// One worker thread: many streams and tasks, a slice of work each in turn, so that a large one does not starve small ones.

const port = parentPort
if (port === null) throw new Error('nar-worker runs in a worker thread')

/**
 * How far a worker stands back for the thread that answers (nice(2)): with six streams on two processors a narinfo then
 * waits half as long, and nothing is lost where a processor is free.
 */
const NICENESS = 10

/** On Linux a priority belongs to a thread and its number is a process id to setpriority(2); elsewhere all stay equal. */
function standBack(): void {
  try {
    const thread = /\/task\/(\d+)$/.exec(readlinkSync('/proc/thread-self'))?.[1]
    if (thread !== undefined) setPriority(Number(thread), NICENESS)
  } catch {
    // No /proc, or not allowed: only slower for others.
  }
}

standBack()

const send: Send = (message, transfer = []) => port.postMessage(message, [...transfer])

const works = new Map<number, Work>()
/** Whose turn comes, in order; an id may be gone by then. */
let queue: number[] = []
/** Ids with nothing to do until buffers come. */
const waiting = new Set<number>()
let turning = false

const finish = (id: number): void => {
  works.delete(id)
  waiting.delete(id)
}

const failWork = (id: number, work: Work, error: unknown): void => {
  // It was stopped meanwhile: nobody listens.
  if (works.get(id) !== work) return
  finish(id)
  const unused = work.close()
  send({ op: 'error', id, error: packError(error), unused }, unused)
}

const settle = (id: number, work: Work, result: SliceResult): void => {
  if (works.get(id) !== work) return
  if (result === 'done') {
    finish(id)
    work.close()
  } else if (result === 'more') {
    queue.push(id)
  } else {
    waiting.add(id)
  }
}

const runSlice = (id: number): void => {
  const work = works.get(id)
  if (work === undefined) return
  try {
    const result = work.slice()
    if (typeof result === 'string') settle(id, work, result)
    else {
      result.then(
        late => {
          settle(id, work, late)
          wake()
        },
        (error: unknown) => failWork(id, work, error),
      )
    }
  } catch (error) {
    failWork(id, work, error)
  }
}

/** One slice for each that wants one, then messages are let in. */
function turn(): void {
  turning = false
  const round = queue
  queue = []
  for (const id of round) runSlice(id)
  wake()
}

function wake(): void {
  if (turning || queue.length === 0) return
  turning = true
  setImmediate(turn)
}

function openSource(request: StreamRequest, offset: number): PullSource {
  switch (request.kind) {
    case 'dump':
      return createTreeNar(request.root, { offset, segmentBytes: SEGMENT_BYTES })
    case 'dump-zstd':
      return createZstdNar(request.root, offset)
    case 'decompress': {
      const { file, compression, growth } = request
      return createFileSource(file, compression, {
        offset,
        growth: growth && followGrowth(growth),
      })
    }
  }
}

function begin(id: number, create: () => Work, given: readonly ArrayBuffer[]): void {
  let work: Work
  try {
    work = create()
  } catch (error) {
    send({ op: 'error', id, error: packError(error), unused: given }, given)
    return
  }
  works.set(id, work)
  // The first slice at once: a small NAR is one message there and one back.
  runSlice(id)
  wake()
}

port.on('message', (message: ToWorker) => {
  const { id } = message
  switch (message.op) {
    case 'stream': {
      const { request, offset, end, buffers } = message
      const length = Math.max(0, end - offset)
      begin(
        id,
        () => createStreamWork(id, openSource(request, offset), length, buffers, send),
        buffers,
      )
      break
    }
    case 'task':
      begin(id, () => createTaskWork(id, message.request, send), [])
      break
    case 'buffers': {
      const work = works.get(id)
      if (work === undefined) {
        // The stream ended while they were under way.
        send({ op: 'stopped', id, unused: message.buffers }, message.buffers)
        break
      }
      work.give?.(message.buffers)
      if (waiting.delete(id)) {
        queue.push(id)
        wake()
      }
      break
    }
    case 'stop': {
      const work = works.get(id)
      if (work === undefined) break
      finish(id)
      const unused = work.close()
      send({ op: 'stopped', id, unused }, unused)
      break
    }
  }
})
