// Keys and signatures of store paths: Ed25519 over a fingerprint, every text `name:base64` (public key 32 bytes,
// secret key 64: seed and public key as libsodium keeps them, signature 64). The fingerprint is
//   1;<store path>;sha256:<nix32 NAR hash>;<NAR size>;<references as full paths, sorted, comma-joined>
// URL, compression, deriver and CA are not covered. Source: NixOS/nix src/libstore/path-info.cc, src/libutil/signature/.
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign as edSign,
  verify as edVerify,
} from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { fail } from './errors.ts'
import { formatHash, requireTrustAnchor } from './hash.ts'
import type { PathInfo } from './path-info.ts'
import { joinStorePath, storeDirOf } from './store-path.ts'

/** A public key under its name; several keys may share one name. */
export interface PublicKey {
  readonly name: string
  /** The 32 bytes, in base64: two keys are one when this is equal. */
  readonly base64: string
  readonly key: KeyObject
}

/** A secret key and its public half; the seed stays inside the KeyObject, so that no log or dump shows it. */
export interface SecretKey {
  readonly name: string
  readonly key: KeyObject
  readonly publicKey: PublicKey
}

/** Keys to verify against, by name. */
export type Keyring = ReadonlyMap<string, readonly PublicKey[]>

/** Most characters of a key name: a host or cache name and a number. */
export const KEY_NAME_MAX_LENGTH = 255

const SEED_BYTES = 32
const PUBLIC_BYTES = 32

/** DER around a raw Ed25519 public key (SubjectPublicKeyInfo) and seed (PKCS #8), RFC 8410. */
const PUBLIC_DER_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')
const SEED_DER_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')

const KEY_NAME = /^[\x21-\x39\x3b-\x7e]{1,255}$/
/** 64 bytes end in 2 digits of which the last carries 2 bits: one of A Q g w, or there would be several spellings. */
const SIGNATURE = /^([\x21-\x39\x3b-\x7e]{1,255}):([A-Za-z0-9+/]{85}[AQgw]==)$/

const invalidKey = (problem: string): never => fail('KEY_INVALID', { problem })

/** Messages never quote a key: a secret one may have been given by mistake. */
function splitKey(text: string, bytes: number): { name: string; raw: Buffer } {
  const colon = text.indexOf(':')
  const name = text.slice(0, Math.max(colon, 0))
  if (!KEY_NAME.test(name)) {
    invalidKey(
      'the name before the colon must be 1..255 printable ASCII characters without space or colon',
    )
  }
  const digits = text.slice(colon + 1)
  const raw = Buffer.from(digits.slice(0, bytes * 2), 'base64')
  if (raw.length !== bytes || raw.toString('base64') !== digits) {
    invalidKey(`behind the colon there must be ${bytes} bytes in base64`)
  }
  return { name, raw }
}

const publicKeyFrom = (name: string, raw: Buffer): PublicKey => ({
  name,
  base64: raw.toString('base64'),
  key: createPublicKey({
    key: Buffer.concat([PUBLIC_DER_PREFIX, raw]),
    format: 'der',
    type: 'spki',
  }),
})

const rawPublicKey = (key: KeyObject): Buffer =>
  key.export({ format: 'der', type: 'spki' }).subarray(PUBLIC_DER_PREFIX.length)

function secretKeyFrom(name: string, key: KeyObject): SecretKey {
  return { name, key, publicKey: publicKeyFrom(name, rawPublicKey(createPublicKey(key))) }
}

/** A new key of that name. Throws KEY_INVALID for a name that cannot stand before a colon. */
export function generateKeyPair(name: string): SecretKey {
  if (!KEY_NAME.test(name)) invalidKey('the name must be 1..255 printable characters without colon')
  return secretKeyFrom(name, generateKeyPairSync('ed25519').privateKey)
}

/** Reads `name:base64` of a public key; throws KEY_INVALID. */
export function parsePublicKey(text: string): PublicKey {
  const { name, raw } = splitKey(text, PUBLIC_BYTES)
  return publicKeyFrom(name, raw)
}

/** Reads `name:base64` of a secret key, one final newline allowed; throws KEY_INVALID, also when its halves do not belong together. */
export function parseSecretKey(text: string): SecretKey {
  const { name, raw } = splitKey(text.replace(/\n$/, ''), SEED_BYTES + PUBLIC_BYTES)
  const secret = secretKeyFrom(
    name,
    createPrivateKey({
      key: Buffer.concat([SEED_DER_PREFIX, raw.subarray(0, SEED_BYTES)]),
      format: 'der',
      type: 'pkcs8',
    }),
  )
  if (secret.publicKey.base64 !== raw.subarray(SEED_BYTES).toString('base64')) {
    invalidKey('the public half does not belong to the secret half')
  }
  return secret
}

/** Writes a public key as `trusted-public-keys` takes it. */
export const formatPublicKey = ({ name, base64 }: PublicKey): string => `${name}:${base64}`

/** Writes a secret key as nix-store --generate-binary-cache-key does (without a final newline). Keep it from logs. */
export function formatSecretKey(secret: SecretKey): string {
  const seed = secret.key
    .export({ format: 'der', type: 'pkcs8' })
    .subarray(SEED_DER_PREFIX.length, SEED_DER_PREFIX.length + SEED_BYTES)
  const raw = Buffer.concat([seed, Buffer.from(secret.publicKey.base64, 'base64')])
  return `${secret.name}:${raw.toString('base64')}`
}

/** The public half. */
export const publicKeyOf = (secret: SecretKey): PublicKey => secret.publicKey

/** Keys by name, doubles dropped. */
export function keyring(keys: Iterable<PublicKey>): Keyring {
  const byName = new Map<string, PublicKey[]>()
  for (const key of keys) {
    const named = byName.get(key.name)
    if (named === undefined) byName.set(key.name, [key])
    else if (!named.some(({ base64 }) => base64 === key.base64)) named.push(key)
  }
  return byName
}

/** A signature's text taken apart, well-formed and canonical. */
export interface Signature {
  readonly keyName: string
  /** 88 characters. */
  readonly base64: string
}

/** Whether a text is a signature that may be passed on: one bad `Sig:` aborts Nix 2.34. */
export const isSignature = (text: string): boolean => SIGNATURE.test(text)

/** Reads `name:base64` of a signature; throws SIGNATURE_INVALID. */
export function parseSignature(text: string): Signature {
  const match = SIGNATURE.exec(text)
  if (match === null) {
    return fail('SIGNATURE_INVALID', { value: text, problem: 'not name:<64 bytes in base64>' })
  }
  const [, keyName = '', base64 = ''] = match
  return { keyName, base64 }
}

/** What a signature of a path covers. Throws HASH_NOT_TRUSTED when the NAR hash is not sha256. */
export function fingerprint(
  info: Pick<PathInfo, 'storePath' | 'narHash' | 'narSize' | 'references'>,
  storeDir: string = storeDirOf(info.storePath),
): string {
  requireTrustAnchor(info.narHash, 'sha256')
  // Base names all go below one directory, so sorted base names are sorted paths.
  const paths = info.references.map(reference => joinStorePath(storeDir, reference))
  const hash = formatHash(info.narHash, 'nix32')
  return `1;${info.storePath};${hash};${info.narSize};${paths.sort().join(',')}`
}

/** Signs any text (a fingerprint of a path or a realisation): `name:base64`. */
export const signText = (text: string, secret: SecretKey): string =>
  `${secret.name}:${edSign(null, Buffer.from(text), secret.key).toString('base64')}`

/** Whether the signature of that text is by one of the keys: its key's name, or undefined. Malformed signatures are by none. */
export function verifyText(text: string, signature: string, keys: Keyring): string | undefined {
  const match = SIGNATURE.exec(signature)
  if (match === null) return undefined
  const [, keyName = '', base64 = ''] = match
  const bytes = Buffer.from(base64, 'base64')
  const data = Buffer.from(text)
  const named = keys.get(keyName) ?? []
  return named.some(({ key }) => edVerify(null, data, key, bytes)) ? keyName : undefined
}

/** The signature of a path info by that key, `name:base64`. */
export const sign = (info: PathInfo, secret: SecretKey): string =>
  signText(fingerprint(info), secret)

/** The name of the key by which that signature of the path info verifies, or undefined. */
export const verifySignature = (
  info: PathInfo,
  signature: string,
  keys: Keyring,
): string | undefined => verifyText(fingerprint(info), signature, keys)
