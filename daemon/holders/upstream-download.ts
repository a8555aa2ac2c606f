import { open, type FileHandle } from 'node:fs/promises'
import type { GrowthWriter } from '../workers/growth.ts'
import type { Clock } from './clock.ts'
import type { FetchReply } from './upstream-transport.ts'

/** Asks for a file from a byte on; rejects while nobody answers. */
export type DownloadSource = (offset: number, signal: AbortSignal) => Promise<FetchReply>

/** One file on its way: into where, from where, how much of it at most. */
export interface Download {
  readonly file: string
  /** What is there already, and how it grows. */
  readonly growth: GrowthWriter
  readonly signal: AbortSignal
  readonly size: number | undefined
  readonly maxBytes: number
  readonly source: DownloadSource
  readonly clock: Clock
  readonly retryMs: readonly number[]
}

/**
 * `partial`: what came is good to go on from; `useless`: it is not, or there is no such file; `wrong`: the upstream has
 * something else than it said, and will have it when asked again.
 */
export type DownloadEnd = 'whole' | 'partial' | 'useless' | 'wrong'

/** Bytes kept together for one write; an HTTP body comes in pieces of up to 64 KiB. */
const WRITE_BYTES = 256 * 1024

/** Thrown to end a download in one of those ways; any other error is worth another try. */
class Ended extends Error {
  readonly end: DownloadEnd
  constructor(end: DownloadEnd) {
    super(end)
    this.end = end
  }
}

/** Writes pieces behind one another, several at once where they come quickly, and says so when they are there. */
function createAppender(handle: FileHandle, growth: GrowthWriter) {
  let waiting: Buffer[] = []
  let waitingBytes = 0
  let writing: Promise<void> | undefined

  const write = async (): Promise<void> => {
    while (waiting.length > 0) {
      const pieces = waiting
      waiting = []
      waitingBytes = 0
      let position = growth.available
      const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
      const { bytesWritten } = await handle.writev(pieces, position)
      // A full disk may take a part; the rest of it is then the next call's error.
      if (bytesWritten < length) {
        const rest = Buffer.concat(pieces).subarray(bytesWritten)
        await handle.write(rest, 0, rest.length, position + bytesWritten)
      }
      position += length
      growth.advance(position)
    }
  }

  return {
    async add(piece: Buffer): Promise<void> {
      waiting.push(piece)
      waitingBytes += piece.length
      writing ??= write().finally(() => (writing = undefined))
      // The error is thrown by whoever waits for the write.
      writing.catch(() => undefined)
      if (waitingBytes >= WRITE_BYTES) await writing
    },
    async flush(): Promise<void> {
      await writing
    },
  }
}

/** Whether a body that begins at the start agrees with what is there; gives what is new of each piece. */
async function pastKnown(
  handle: FileHandle,
  piece: Buffer,
  position: number,
  known: number,
): Promise<Buffer> {
  const overlap = Math.min(piece.length, known - position)
  if (overlap <= 0) return piece
  const old = Buffer.allocUnsafe(overlap)
  const { bytesRead } = await handle.read(old, 0, overlap, position)
  if (bytesRead < overlap || !old.equals(piece.subarray(0, overlap))) throw new Ended('useless')
  return piece.subarray(overlap)
}

/** One reply's part of the file. */
async function takeReply(download: Download, handle: FileHandle, reply: FetchReply): Promise<void> {
  const { growth, size, maxBytes, signal } = download
  const known = growth.available
  const { status, total } = reply
  if (status === 416) throw new Ended(total === known && known > 0 ? 'whole' : 'useless')
  if (status === 404 || status === 410 || status === 403 || status === 401) {
    throw new Ended('useless')
  }
  if (status !== 200 && status !== 206) throw new Error(`it answers ${status}`)
  if (total !== undefined && (total > maxBytes || total !== (size ?? total))) {
    throw new Ended('wrong')
  }
  if (reply.offset > known || Number.isNaN(reply.offset)) throw new Ended('useless')
  const appender = createAppender(handle, growth)
  let position = reply.offset
  try {
    for await (const piece of reply.body) {
      if (signal.aborted) throw new Ended('partial')
      if (position + piece.length > (size ?? maxBytes)) throw new Ended('wrong')
      const fresh = position < known ? await pastKnown(handle, piece, position, known) : piece
      position += piece.length
      if (fresh.length > 0) await appender.add(fresh)
    }
  } finally {
    await appender.flush()
  }
  if (total !== undefined && position < total) throw new Error('the transfer was cut')
  // Without a told length the end of the body is all the sign there is; a known size says whether it came too soon.
  if (size !== undefined && position < size) throw new Error('the transfer ended early')
  throw new Ended(growth.available === position ? 'whole' : 'useless')
}

/**
 * Fetches the rest of a file, over cuts: after each it goes on from the last byte, after a few in a row without a new byte
 * it gives up. Never rejects.
 */
export async function runDownload(download: Download): Promise<DownloadEnd> {
  const { file, growth, signal, size, source, clock, retryMs } = download
  let handle: FileHandle | undefined
  try {
    if (size !== undefined && growth.available === size) return 'whole'
    if (size !== undefined && growth.available > size) return 'useless'
    handle = await open(file, 'r+')
    for (let failures = 0; failures <= retryMs.length; failures++) {
      if (failures > 0) await clock.sleep(retryMs[failures - 1] ?? 0, signal)
      if (signal.aborted) return 'partial'
      const before = growth.available
      let reply: FetchReply | undefined
      try {
        reply = await source(before, signal)
        await takeReply(download, handle, reply)
      } catch (error) {
        if (error instanceof Ended)
          return signal.aborted && error.end !== 'whole' ? 'partial' : error.end
      } finally {
        reply?.destroy()
      }
      // It moves: the patience is for a link that does not.
      if (growth.available > before) failures = 0
    }
    return 'partial'
  } catch {
    // The disk is full or went away.
    return 'partial'
  } finally {
    await handle?.close().catch(() => undefined)
  }
}
