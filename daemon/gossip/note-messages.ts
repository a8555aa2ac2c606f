import { fail } from '../../protocol/errors.ts'
import { decodeNoteMarks, encodeNoteMarks, type NoteMark } from '../../protocol/host-notes.ts'
import type { PeerKey } from '../site.ts'
import { BATCH_LIMIT_BYTES } from './messages.ts'

// What hosts say to each other about their notes: marks of what one has, questions for a part of one, and that part. Whoever
// wants a note asks for it part by part, so that pings and heads get between and a slow reader is sent nothing unasked.

/** Bytes of a note in one message. */
export const NOTE_PART_BYTES = 32 * 1024

/** Marks of one message: 52 bytes each. */
const MARKS_PER_MESSAGE = 1000

const KEY_BYTES = 32
const SEQUENCE_BYTES = 8
const OFFSET_BYTES = 4
const HEAD_BYTES = KEY_BYTES + SEQUENCE_BYTES + OFFSET_BYTES

/** Which part of which note. */
export interface NoteAsk {
  readonly host: PeerKey
  readonly sequence: number
  readonly offset: number
}

/** A part; without bytes where the note is not there any more. */
export interface NotePart extends NoteAsk {
  readonly bytes: Uint8Array
}

const invalid = (problem: string): never =>
  fail('PEER_MESSAGE_INVALID', { message: 'note', problem })

/** Marks in messages of at most {@link BATCH_LIMIT_BYTES}. */
export function encodeMarks(marks: readonly NoteMark[]): Buffer[] {
  const messages: Buffer[] = []
  for (let at = 0; at < marks.length; at += MARKS_PER_MESSAGE) {
    messages.push(encodeNoteMarks(marks.slice(at, at + MARKS_PER_MESSAGE)))
  }
  return messages
}

/** Throws PEER_MESSAGE_INVALID and NOTE_INVALID. */
export function decodeMarks(bytes: Uint8Array): NoteMark[] {
  if (bytes.length > BATCH_LIMIT_BYTES) invalid(`${bytes.length} bytes of marks`)
  return decodeNoteMarks(bytes)
}

export function encodePart({ host, sequence, offset, bytes }: NotePart): Buffer {
  const head = Buffer.alloc(HEAD_BYTES)
  head.write(host, 'hex')
  head.writeBigUInt64BE(BigInt(sequence), KEY_BYTES)
  head.writeUInt32BE(offset, KEY_BYTES + SEQUENCE_BYTES)
  return Buffer.concat([head, bytes])
}

/** Throws PEER_MESSAGE_INVALID. */
export function decodePart(message: Uint8Array): NotePart {
  const { length } = message
  if (length < HEAD_BYTES || length > HEAD_BYTES + NOTE_PART_BYTES) invalid(`${length} bytes`)
  const bytes = Buffer.from(message.buffer, message.byteOffset, length)
  const sequence = bytes.readBigUInt64BE(KEY_BYTES)
  if (sequence > BigInt(Number.MAX_SAFE_INTEGER)) invalid(`number ${sequence} is too large`)
  return {
    host: bytes.toString('hex', 0, KEY_BYTES) as PeerKey,
    sequence: Number(sequence),
    offset: bytes.readUInt32BE(KEY_BYTES + SEQUENCE_BYTES),
    // A copy: the message's buffer is the stream's and would be kept alive by what is remembered.
    bytes: Buffer.from(bytes.subarray(HEAD_BYTES)),
  }
}

export const encodeAsk = (ask: NoteAsk): Buffer => encodePart({ ...ask, bytes: Buffer.alloc(0) })

/** Throws PEER_MESSAGE_INVALID. */
export function decodeAsk(message: Uint8Array): NoteAsk {
  const { host, sequence, offset, bytes } = decodePart(message)
  if (bytes.length > 0) invalid('a question with something behind it')
  return { host, sequence, offset }
}
