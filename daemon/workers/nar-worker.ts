import { createHash } from 'node:crypto'
import { parentPort } from 'node:worker_threads'
import { isNarwharfError } from '../../protocol/errors.ts'
import { createListing } from '../../protocol/nar/listing.ts'
import { createNarReader } from '../../protocol/nar/reader.ts'
import type { Compression } from '../../protocol/path-info.ts'
import { createDecodedFile } from '../compression/decoded-file.ts'
import { createFrameEncoder } from '../compression/zstd-frame.ts'
import type {
  FromWorker,
  StreamRequest,
  TaskRequest,
  TaskResult,
  ToWorker,
  WireError,
} from './messages.ts'
import { CHUNK_BYTES, SEGMENT_BYTES, ZSTD_SLICE_BYTES } from './limits.ts'
import { createTreeNar } from './tree-nar.ts'

// One worker thread: many streams and tasks, a slice of work each in turn, so that a large one does not starve small ones.

const port = parentPort
if (port === null) throw new Error('nar-worker runs in a worker thread')

/** Work that goes on slice by slice. `false`: waiting or done. */
interface Job {
  readonly id: number
  slice(): boolean
  stop(): void
}

const jobs = new Map<number, Job & { credit: number }>()
const ready: number[] = []
let turning = false

const send = (message: FromWorker, transfer: ArrayBuffer[] = []) =>
  port.postMessage(message, transfer)

function wireError(error: unknown): WireError {
  if (isNarwharfError(error)) return { code: error.code, data: error.data, message: error.message }
  const { message, code } = error as NodeJS.ErrnoException
  return { message, errno: code }
}

/** Buffers that came back, for whichever stream needs one next. */
const spare: ArrayBuffer[] = []
const SPARE_MAX = 16
const takeBuffer = () => spare.pop() ?? new ArrayBuffer(CHUNK_BYTES)

const finish = (id: number, message: FromWorker) => {
  jobs.delete(id)
  send(message)
}

/** Runs one slice of each ready job, then lets messages in. */
function turn(): void {
  turning = false
  for (let count = ready.length; count > 0; count--) {
    const id = ready.shift() as number
    const job = jobs.get(id)
    if (job === undefined) continue
    try {
      if (job.slice()) ready.push(id)
    } catch (error) {
      job.stop()
      finish(id, { op: 'error', id, error: wireError(error) })
    }
  }
  if (ready.length > 0) wake()
}

function wake(): void {
  if (turning) return
  turning = true
  setImmediate(turn)
}

function start(job: Job & { credit: number }): void {
  jobs.set(job.id, job)
  ready.push(job.id)
  // The first slice at once: a small NAR is one message there and one back.
  if (!turning) turn()
}

/** A NAR of a tree, in buffers and segments. */
function dumpJob(id: number, root: string, offset: number, end: number, credit: number) {
  const nar = createTreeNar(root, { skip: offset, segmentBytes: SEGMENT_BYTES })
  let left = end - offset
  const job = {
    id,
    credit,
    slice() {
      if (left <= 0) {
        nar.close()
        finish(id, { op: 'end', id })
        return false
      }
      if (job.credit <= 0) return false
      const buffer = takeBuffer()
      const length = nar.fill(Buffer.from(buffer, 0, Math.min(CHUNK_BYTES, left)))
      left -= length
      if (length > 0) {
        job.credit--
        send({ op: 'chunk', id, buffer, length }, [buffer])
      } else spare.push(buffer)
      const segment = nar.takeSegment()
      if (segment !== undefined) {
        const count = Math.min(segment.length, left)
        left -= count
        job.credit--
        send({ op: 'segment', id, fd: segment.fd, offset: segment.offset, length: count })
      } else if (length === 0) {
        nar.close()
        finish(id, { op: 'end', id })
        return false
      }
      return job.credit > 0 || left <= 0
    },
    stop: () => nar.close(),
  }
  return job
}

/** The same NAR as zstd frames. */
function zstdJob(id: number, root: string, offset: number, end: number, credit: number) {
  const nar = createTreeNar(root)
  const encode = createFrameEncoder()
  const slice = Buffer.allocUnsafeSlow(ZSTD_SLICE_BYTES)
  let skip = offset
  let left = end - offset
  let frame: Buffer = Buffer.alloc(0)
  const job = {
    id,
    credit,
    slice() {
      if (job.credit <= 0) return false
      if (frame.length === 0 && left > 0) {
        let filled = 0
        for (let got = 1; got > 0 && filled < slice.length; filled += got) {
          got = nar.fill(slice.subarray(filled))
        }
        if (filled > 0) frame = encode(slice.subarray(0, filled))
        const over = Math.min(skip, frame.length)
        skip -= over
        frame = frame.subarray(over)
        if (filled > 0 && frame.length === 0) return true
      }
      const count = Math.min(frame.length, CHUNK_BYTES, left)
      if (count <= 0) {
        nar.close()
        finish(id, { op: 'end', id })
        return false
      }
      const buffer = takeBuffer()
      frame.copy(Buffer.from(buffer), 0, 0, count)
      frame = frame.subarray(count)
      left -= count
      job.credit--
      send({ op: 'chunk', id, buffer, length: count }, [buffer])
      return job.credit > 0
    },
    stop: () => nar.close(),
  }
  return job
}

/** Decompressed bytes of a file: the decoder has its own pace, so this job is a loop that waits for credit. */
function decompressJob(
  id: number,
  file: string,
  compression: Compression,
  offset: number,
  end: number,
  credit: number,
) {
  const source = createDecodedFile(file, compression)
  let resume: (() => void) | undefined
  let stopped = false
  const job = {
    id,
    credit,
    slice() {
      resume?.()
      return false
    },
    stop() {
      stopped = true
      source.destroy()
      resume?.()
    },
  }
  const run = async () => {
    let at = 0
    for await (const decoded of source.chunks()) {
      let from = Math.max(0, offset - at)
      const to = Math.min(decoded.length, end - at)
      at += decoded.length
      while (from < to) {
        while (job.credit === 0 && !stopped) await new Promise<void>(next => (resume = next))
        if (stopped) return
        const count = Math.min(to - from, CHUNK_BYTES)
        const buffer = takeBuffer()
        decoded.copy(Buffer.from(buffer), 0, from, from + count)
        from += count
        job.credit--
        send({ op: 'chunk', id, buffer, length: count }, [buffer])
      }
      if (at >= end) break
    }
    source.destroy()
    finish(id, { op: 'end', id })
  }
  run().catch((error: unknown) => {
    if (!stopped) finish(id, { op: 'error', id, error: wireError(error) })
  })
  return job
}

function openStream(
  id: number,
  request: StreamRequest,
  offset: number,
  end: number,
  credit: number,
): Job & { credit: number } {
  switch (request.kind) {
    case 'dump':
      return dumpJob(id, request.root, offset, end, credit)
    case 'dump-zstd':
      return zstdJob(id, request.root, offset, end, credit)
    case 'decompress':
      return decompressJob(id, request.file, request.compression, offset, end, credit)
  }
}

/** Reads a whole tree slice by slice and hands the bytes to `take`. */
function treeTask(
  id: number,
  root: string,
  take: (bytes: Buffer) => void,
  result: () => TaskResult,
) {
  const nar = createTreeNar(root)
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES)
  return {
    id,
    credit: 1,
    slice() {
      const length = nar.fill(buffer)
      if (length > 0) {
        take(buffer.subarray(0, length))
        return true
      }
      nar.close()
      finish(id, { op: 'end', id, result: result() })
      return false
    },
    stop: () => nar.close(),
  }
}

/** Reads a whole NAR file through its decoder. */
function fileTask(
  id: number,
  file: string,
  compression: Compression,
  take: (bytes: Buffer) => void,
  result: (file: { fileHash: Buffer; fileSize: number }) => TaskResult,
) {
  const source = createDecodedFile(file, compression, { hashed: true })
  let stopped = false
  const run = async () => {
    for await (const bytes of source.chunks()) {
      if (stopped) return
      take(bytes)
    }
    finish(id, { op: 'end', id, result: result(source.fileDigest()) })
  }
  run().catch((error: unknown) => {
    source.destroy()
    if (!stopped) finish(id, { op: 'error', id, error: wireError(error) })
  })
  return {
    id,
    credit: 0,
    slice: () => false,
    stop() {
      stopped = true
      source.destroy()
    },
  }
}

function openTask(id: number, request: TaskRequest): Job & { credit: number } {
  const hash = createHash('sha256')
  let narSize = 0
  switch (request.kind) {
    case 'digest-tree':
      return treeTask(
        id,
        request.root,
        bytes => {
          hash.update(bytes)
          narSize += bytes.length
        },
        () => ({ narHash: hash.digest(), narSize }),
      )
    case 'digest-file': {
      const reader = createNarReader({})
      return fileTask(
        id,
        request.file,
        request.compression,
        bytes => {
          reader.write(bytes)
          hash.update(bytes)
          narSize += bytes.length
        },
        file => {
          reader.end()
          return { narHash: hash.digest(), narSize, ...file }
        },
      )
    }
    case 'list-tree':
    case 'list-file': {
      const listing = createListing()
      const reader = createNarReader(listing.handler)
      const take = (bytes: Buffer) => reader.write(bytes)
      const result = () => {
        reader.end()
        return { listing: listing.json() }
      }
      return request.kind === 'list-tree'
        ? treeTask(id, request.root, take, result)
        : fileTask(id, request.file, request.compression, take, result)
    }
  }
}

port.on('message', (message: ToWorker) => {
  const { id } = message
  const job = jobs.get(id)
  switch (message.op) {
    case 'stream':
    case 'task':
      try {
        start(
          message.op === 'task'
            ? openTask(id, message.request)
            : openStream(id, message.request, message.offset, message.end, message.credit),
        )
      } catch (error) {
        send({ op: 'error', id, error: wireError(error) })
      }
      break
    case 'more':
      if (message.buffer !== undefined && spare.length < SPARE_MAX) spare.push(message.buffer)
      if (job === undefined) break
      job.credit++
      if (job.credit === 1) {
        ready.push(id)
        if (!turning) turn()
      }
      break
    case 'stop':
      jobs.delete(id)
      job?.stop()
      break
  }
})
