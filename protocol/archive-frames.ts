// Two things in one body: an archive's bytes, and lines about it, in the order in which they come to be.
//
//   body  = { frame }
//   frame = kind: u8 ('A' or 'E'); length: u32, big endian; so many bytes
//
// `A` are the next bytes of the archive; `E` is one event as JSON in UTF-8. Nothing says where the body ends: the last event does.
import { fail } from './errors.ts'

const ARCHIVE = 0x41
const EVENT = 0x45
const HEAD_BYTES = 5

/** Bytes of an event: a path with a line of a hundred signatures, or the references that an archive does not have. */
export const FRAMED_EVENT_MAX_BYTES = 1024 * 1024

/** What stands before so many bytes of the archive. */
export function archiveFrameHead(length: number): Buffer {
  const head = Buffer.alloc(HEAD_BYTES)
  head[0] = ARCHIVE
  head.writeUInt32BE(length, 1)
  return head
}

/** The frame of an event. */
export function encodeEventFrame(event: unknown): Buffer {
  const text = Buffer.from(JSON.stringify(event))
  const head = archiveFrameHead(text.length)
  head[0] = EVENT
  return Buffer.concat([head, text])
}

/** What a body has in it, in its order. */
export type ArchiveFrame =
  /** The next bytes: a view of the chunk that was given. */
  { readonly bytes: Buffer } | { readonly event: unknown }

/** Takes a body apart, chunk by chunk; gives what each chunk brought. Throws FRAME_INVALID. */
export function createFrameReader(): (chunk: Buffer) => Generator<ArchiveFrame, void, undefined> {
  const head = Buffer.alloc(HEAD_BYTES)
  let headFilled = 0
  let left = 0
  let event: Buffer | undefined

  const begin = (): void => {
    left = head.readUInt32BE(1)
    const [kind = 0] = head
    if (kind !== ARCHIVE && kind !== EVENT) fail('FRAME_INVALID', { problem: `kind ${kind}` })
    if (kind !== EVENT) return
    if (left > FRAMED_EVENT_MAX_BYTES) fail('FRAME_INVALID', { problem: 'an event is too long' })
    event = Buffer.alloc(left)
  }
  const finish = (done: Buffer): ArchiveFrame => {
    event = undefined
    try {
      return { event: JSON.parse(done.toString('utf8')) as unknown }
    } catch (error) {
      return fail('FRAME_INVALID', { problem: 'an event is no JSON' }, error)
    }
  }

  return function* read(chunk) {
    for (let at = 0; at < chunk.length;) {
      if (headFilled < HEAD_BYTES) {
        const copied = chunk.copy(head, headFilled, at)
        at += copied
        headFilled += copied
        if (headFilled < HEAD_BYTES) return
        begin()
      }
      const part = chunk.subarray(at, at + left)
      at += part.length
      if (event !== undefined) part.copy(event, event.length - left)
      left -= part.length
      if (event === undefined && part.length > 0) yield { bytes: part }
      if (left > 0) continue
      headFilled = 0
      if (event !== undefined) yield finish(event)
    }
  }
}
