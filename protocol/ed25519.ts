// Ed25519 keys as raw bytes, laid out as libsodium and the Noise handshake take them: public key 32 bytes, secret key 64
// (seed, then public key). What is signed for one purpose must not pass for another: every message starts with a domain
// that its format names. Source: RFC 8032; RFC 8410 for the DER around raw keys.
import {
  createPrivateKey,
  createPublicKey,
  sign as edSign,
  verify as edVerify,
  type KeyObject,
} from 'node:crypto'

export const SEED_BYTES = 32
export const PUBLIC_KEY_BYTES = 32
export const SECRET_KEY_BYTES = SEED_BYTES + PUBLIC_KEY_BYTES
export const SIGNATURE_BYTES = 64

/** DER before a raw Ed25519 public key (SubjectPublicKeyInfo) and seed (PKCS #8). */
const PUBLIC_DER_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')
const SEED_DER_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')

/** A key pair as sodium lays it out. */
export interface KeyPairBytes {
  /** 32 bytes. */
  readonly publicKey: Buffer
  /** 64 bytes: the seed, then the public key. */
  readonly secretKey: Buffer
}

const privateKeyOf = (seed: Uint8Array): KeyObject =>
  createPrivateKey({ key: Buffer.concat([SEED_DER_PREFIX, seed]), format: 'der', type: 'pkcs8' })

/** The key pair that grows from a seed of 32 bytes. */
export function keyPairFromSeed(seed: Uint8Array): KeyPairBytes {
  const publicKey = Buffer.from(
    createPublicKey(privateKeyOf(seed))
      .export({ format: 'der', type: 'spki' })
      .subarray(PUBLIC_DER_PREFIX.length),
  )
  return { publicKey, secretKey: Buffer.concat([seed, publicKey]) }
}

/** Signs with a secret key of 64 bytes: 64 bytes. */
export const signBytes = (message: Uint8Array, secretKey: Uint8Array): Buffer =>
  edSign(null, message, privateKeyOf(secretKey.subarray(0, SEED_BYTES)))

/** Verifies for one public key of 32 bytes, which is read once: a list has thousands of signatures by few keys. */
export function createVerifier(
  publicKey: Uint8Array,
): (message: Uint8Array, signature: Uint8Array) => boolean {
  const key = createPublicKey({
    key: Buffer.concat([PUBLIC_DER_PREFIX, publicKey]),
    format: 'der',
    type: 'spki',
  })
  return (message, signature) => edVerify(null, message, key, signature)
}

/** Whether the signature of that message is by that public key of 32 bytes. */
export const verifyBytes = (
  message: Uint8Array,
  signature: Uint8Array,
  publicKey: Uint8Array,
): boolean => createVerifier(publicKey)(message, signature)
