// The note of a host: small facts that it tells its site beside its index, so that they are known while it is off. What it
// wishes for, whether it keeps what shipments bring, the drives it knows, the shipments it merges and has merged.
//
//   note      = "NWN1" host{32} sequence:u64 body signature{64}     big-endian; a safe integer
//   body      = canonical JSON (canonical-json.ts), LF; members that are not known are passed over
//   signature = Ed25519 by the host's key over "narwharf host note 1\n" and everything before the signature
//
// Of two notes of a host the higher sequence counts; of two with one sequence (its state came from a copy) neither: the host
// goes on to a third. Store paths stand as base names, as all are below `storeDir`. Left to others: whether the host is a
// member, and how notes travel.
import { createHash } from 'node:crypto'
import {
  PUBLIC_KEY_BYTES,
  SECRET_KEY_BYTES,
  SIGNATURE_BYTES,
  signBytes,
  verifyBytes,
} from './ed25519.ts'
import { invalidNote as invalid, readHostNote, writeHostNote } from './host-note-fields.ts'
import type { HostNote } from './host-note-fields.ts'

/** Bytes of a signed note: wants of 20,000 paths, and digests of two drives with 100,000 each. */
export const NOTE_MAX_BYTES = 2 * 1024 * 1024

/** Bytes of a digest by which two notes of one sequence are told apart. */
export const NOTE_DIGEST_BYTES = 8

const MAGIC = Buffer.from('NWN1', 'latin1')
const SEQUENCE_AT = MAGIC.length + PUBLIC_KEY_BYTES
const BODY_AT = SEQUENCE_AT + 8
const DOMAIN = Buffer.from('narwharf host note 1\n', 'latin1')

/** A note as it was opened. */
export interface OpenedNote {
  /** Public key of the host that signed it, 64 lower-case hex digits. */
  readonly host: string
  readonly sequence: number
  readonly note: HostNote
}

/**
 * The note as it travels, signed with the host's 64-byte secret key (sodium's: seed, then public key). Throws NOTE_INVALID for
 * one that no reader would take.
 */
export function signHostNote(note: HostNote, sequence: number, secretKey: Uint8Array): Buffer {
  if (secretKey.length !== SECRET_KEY_BYTES) invalid('the key that signs it is none')
  if (!Number.isSafeInteger(sequence) || sequence < 0) invalid(`${sequence} is no sequence number`)
  const number = Buffer.alloc(BODY_AT - SEQUENCE_AT)
  number.writeBigUInt64BE(BigInt(sequence))
  const publicKey = secretKey.subarray(SECRET_KEY_BYTES - PUBLIC_KEY_BYTES)
  const body = writeHostNote(note)
  readHostNote(body)
  const head = Buffer.concat([MAGIC, publicKey, number, body])
  const bytes = Buffer.concat([head, signBytes(Buffer.concat([DOMAIN, head]), secretKey)])
  if (bytes.length > NOTE_MAX_BYTES) invalid(`it has ${bytes.length} bytes`)
  return bytes
}

/**
 * Reads a signed note, `host` where it must be that host's. Throws NOTE_INVALID unless it is well-formed and the host that it
 * names has signed it.
 */
export function openHostNote(signed: Uint8Array, host?: string): OpenedNote {
  const bytes = Buffer.from(signed.buffer, signed.byteOffset, signed.byteLength)
  const end = bytes.length - SIGNATURE_BYTES
  if (bytes.length > NOTE_MAX_BYTES) invalid(`it has ${bytes.length} bytes`)
  if (end <= BODY_AT || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    return invalid('it does not begin like a note')
  }
  const publicKey = bytes.subarray(MAGIC.length, SEQUENCE_AT)
  const named = publicKey.toString('hex')
  if (host !== undefined && named !== host) invalid('it is of another host')
  const sequence = bytes.readBigUInt64BE(SEQUENCE_AT)
  if (sequence > BigInt(Number.MAX_SAFE_INTEGER)) invalid(`${sequence} is too large`)
  const message = Buffer.concat([DOMAIN, bytes.subarray(0, end)])
  if (!verifyBytes(message, bytes.subarray(end), publicKey)) {
    invalid('it is not signed by the host that it names')
  }
  return {
    host: named,
    sequence: Number(sequence),
    note: readHostNote(bytes.subarray(BODY_AT, end)),
  }
}

/** What a host says of a note before anybody asks for it. */
export interface NoteMark {
  /** 64 lower-case hex digits. */
  readonly host: string
  readonly sequence: number
  /** Bytes of the signed note. */
  readonly size: number
  /** {@link NOTE_DIGEST_BYTES} as hex. */
  readonly digest: string
}

/** The mark of a signed note. */
export function markOf(signed: Uint8Array): NoteMark {
  const bytes = Buffer.from(signed.buffer, signed.byteOffset, signed.byteLength)
  return {
    host: bytes.toString('hex', MAGIC.length, SEQUENCE_AT),
    sequence: Number(bytes.readBigUInt64BE(SEQUENCE_AT)),
    size: bytes.length,
    digest: createHash('sha256').update(bytes).digest().toString('hex', 0, NOTE_DIGEST_BYTES),
  }
}

const MARK_BYTES = PUBLIC_KEY_BYTES + 8 + 4 + NOTE_DIGEST_BYTES

/** Marks one after the other: `host{32} sequence:u64 size:u32 digest{8}`. */
export function encodeNoteMarks(marks: readonly NoteMark[]): Buffer {
  const bytes = Buffer.alloc(marks.length * MARK_BYTES)
  marks.forEach(({ host, sequence, size, digest }, index) => {
    const at = index * MARK_BYTES
    bytes.write(host, at, 'hex')
    bytes.writeBigUInt64BE(BigInt(sequence), at + PUBLIC_KEY_BYTES)
    bytes.writeUInt32BE(size, at + PUBLIC_KEY_BYTES + 8)
    bytes.write(digest, at + PUBLIC_KEY_BYTES + 12, 'hex')
  })
  return bytes
}

/** Reads marks. Throws NOTE_INVALID for a piece of one, and for one that speaks of a note that none can be. */
export function decodeNoteMarks(encoded: Uint8Array): NoteMark[] {
  const bytes = Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength)
  if (bytes.length % MARK_BYTES !== 0) invalid(`marks of ${bytes.length} bytes`)
  const marks: NoteMark[] = []
  for (let at = 0; at < bytes.length; at += MARK_BYTES) {
    const sequence = bytes.readBigUInt64BE(at + PUBLIC_KEY_BYTES)
    const size = bytes.readUInt32BE(at + PUBLIC_KEY_BYTES + 8)
    if (sequence > BigInt(Number.MAX_SAFE_INTEGER)) invalid(`${sequence} is too large`)
    if (size <= BODY_AT + SIGNATURE_BYTES || size > NOTE_MAX_BYTES)
      invalid(`a note of ${size} bytes`)
    marks.push({
      host: bytes.toString('hex', at, at + PUBLIC_KEY_BYTES),
      sequence: Number(sequence),
      size,
      digest: bytes.toString('hex', at + PUBLIC_KEY_BYTES + 12, at + MARK_BYTES),
    })
  }
  return marks
}
