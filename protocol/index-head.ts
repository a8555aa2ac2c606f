// The signed head of a host's index: which log is in force, so that peers can take it from one another while the host is off.
//
//   head      = host{32} epoch:u64 core{32} length:u64     Ed25519 public key of the host; public key of the log (a hypercore)
//   signed    = head signature{64}                          numbers are big-endian and safe integers
//   signature = Ed25519 by the host's key over "narwharf index head 1\n" head
//
// The domain in front keeps a signature made for another purpose from counting here, and the other way round. The higher
// epoch counts; within one, the longer length. Left to others: whether the host is a member, and which head is newer.
import {
  PUBLIC_KEY_BYTES,
  SECRET_KEY_BYTES,
  SIGNATURE_BYTES,
  signBytes,
  verifyBytes,
} from './ed25519.ts'
import { fail } from './errors.ts'

/** Which log of a host is in force. */
export interface IndexHead {
  /** The host's public key, 64 lower-case hex digits. */
  readonly host: string
  /** Counts up whenever the host begins its log anew. */
  readonly epoch: number
  /** The log's own public key, 64 lower-case hex digits. */
  readonly core: string
  /** Blocks of the log when this was signed; more may have come since. */
  readonly length: number
}

const NUMBER_BYTES = 8
const CORE_AT = PUBLIC_KEY_BYTES + NUMBER_BYTES
const LENGTH_AT = CORE_AT + PUBLIC_KEY_BYTES
const HEAD_BYTES = LENGTH_AT + NUMBER_BYTES

/** Bytes of a signed head. */
export const SIGNED_HEAD_BYTES = HEAD_BYTES + SIGNATURE_BYTES

const DOMAIN = Buffer.from('narwharf index head 1\n', 'latin1')

const KEY = /^[0-9a-f]{64}$/

const invalid = (problem: string): never => fail('HEAD_INVALID', { problem })

function encodeHead({ host, epoch, core, length }: IndexHead): Buffer {
  if (!KEY.test(host) || !KEY.test(core)) invalid('a key is not 64 lower-case hex digits')
  for (const number of [epoch, length]) {
    if (!Number.isSafeInteger(number) || number < 0) invalid(`${number} is no number to sign`)
  }
  const bytes = Buffer.alloc(HEAD_BYTES)
  bytes.write(host, 'hex')
  bytes.writeBigUInt64BE(BigInt(epoch), PUBLIC_KEY_BYTES)
  bytes.write(core, CORE_AT, 'hex')
  bytes.writeBigUInt64BE(BigInt(length), LENGTH_AT)
  return bytes
}

const messageOf = (head: Uint8Array): Buffer => Buffer.concat([DOMAIN, head])

/**
 * The head as it travels, signed with the host's 64-byte secret key (sodium's: seed, then public key).
 * Throws HEAD_INVALID for a head that none can be, and for a key that is not the host's.
 */
export function signIndexHead(head: IndexHead, secretKey: Uint8Array): Buffer {
  const bytes = encodeHead(head)
  const publicKey = secretKey.subarray(SECRET_KEY_BYTES - PUBLIC_KEY_BYTES)
  if (
    secretKey.length !== SECRET_KEY_BYTES ||
    !bytes.subarray(0, PUBLIC_KEY_BYTES).equals(publicKey)
  ) {
    invalid('it is not for the key that signs it')
  }
  return Buffer.concat([bytes, signBytes(messageOf(bytes), secretKey)])
}

/**
 * Reads a signed head, `host` where it must be that host's. Throws HEAD_INVALID unless it is well-formed and the host that
 * it names has signed it.
 */
export function openIndexHead(signed: Uint8Array, host?: string): IndexHead {
  if (signed.length !== SIGNED_HEAD_BYTES) {
    return invalid(`it has ${signed.length} bytes, not ${SIGNED_HEAD_BYTES}`)
  }
  const bytes = Buffer.from(signed.buffer, signed.byteOffset, signed.byteLength)
  const named = bytes.toString('hex', 0, PUBLIC_KEY_BYTES)
  if (host !== undefined && named !== host) invalid('it is of another host')
  const numberAt = (at: number): number => {
    const number = bytes.readBigUInt64BE(at)
    return number > BigInt(Number.MAX_SAFE_INTEGER)
      ? invalid(`${number} is too large`)
      : Number(number)
  }
  const head = {
    host: named,
    epoch: numberAt(PUBLIC_KEY_BYTES),
    core: bytes.toString('hex', CORE_AT, LENGTH_AT),
    length: numberAt(LENGTH_AT),
  }
  const [publicKey, signature] = [bytes.subarray(0, PUBLIC_KEY_BYTES), bytes.subarray(HEAD_BYTES)]
  if (!verifyBytes(messageOf(bytes.subarray(0, HEAD_BYTES)), signature, publicKey)) {
    invalid('it is not signed by the host that it names')
  }
  return head
}
