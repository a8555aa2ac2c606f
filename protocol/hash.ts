// Hashes in every spelling Nix knows: `algo:base16`, `algo:nix32`, `algo:base64`, SRI `algo-base64`, and each of the
// first three bare where the algorithm is known from elsewhere. The spelling is told by its length, which no two
// spellings of one algorithm share. Source: NixOS/nix src/libutil/hash.cc (Hash::parseAny), W3C Subresource Integrity.
import { createHash } from 'node:crypto'
import { fail, problemOf } from './errors.ts'
import { decodeNix32, encodeNix32, nix32Length } from './nix32.ts'

/** Hash algorithms Nix names. md5 is parsed (old fixed outputs have it) but never anchors trust. */
export type HashAlgorithm = 'md5' | 'sha1' | 'sha256' | 'sha512'

/** A hash: algorithm and raw bytes (md5 16, sha1 20, sha256 32, sha512 64). */
export interface Hash {
  readonly algorithm: HashAlgorithm
  readonly bytes: Uint8Array
}

/** How a hash is written. `sri` always names its algorithm. */
export type HashSpelling = 'base16' | 'nix32' | 'base64' | 'sri'

/** Bytes of a digest, by algorithm. */
export const HASH_BYTES: Readonly<Record<HashAlgorithm, number>> = {
  md5: 16,
  sha1: 20,
  sha256: 32,
  sha512: 64,
}

/** Longest hash text looked at, in characters: `sha512:` and 128 hex digits are 135. */
const HASH_TEXT_MAX_CHARACTERS = 160

/** Whether a text names one of the four algorithms, in Nix's lower case. */
export const isHashAlgorithm = (text: string): text is HashAlgorithm =>
  Object.hasOwn(HASH_BYTES, text)

const invalid = (value: string, problem: string): never => fail('HASH_INVALID', { value, problem })

const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const base64Length = (byteLength: number): number => Math.ceil(byteLength / 3) * 4

function decodeDigits(text: string, digits: string, algorithm: HashAlgorithm): Buffer {
  const byteLength = HASH_BYTES[algorithm]
  switch (digits.length) {
    case byteLength * 2:
      if (!/^[0-9a-fA-F]+$/.test(digits)) return invalid(text, 'not hexadecimal')
      return Buffer.from(digits, 'hex')
    case nix32Length(byteLength):
      try {
        return decodeNix32(digits, byteLength)
      } catch (error) {
        return invalid(text, problemOf(error))
      }
    case base64Length(byteLength): {
      const bytes = Buffer.from(digits, 'base64')
      // Node skips what is not base64; only the canonical spelling comes back as it went in.
      if (bytes.length !== byteLength || bytes.toString('base64') !== digits) {
        return invalid(text, 'not canonical base64')
      }
      return bytes
    }
    default:
      return invalid(text, `${digits.length} characters fit no spelling of ${algorithm}`)
  }
}

/**
 * Reads a hash in any spelling; `algorithm`, where given, allows bare digits and must agree with a written one.
 * Throws HASH_INVALID.
 */
export function parseHash(
  text: string,
  { algorithm }: { readonly algorithm?: HashAlgorithm | undefined } = {},
): Hash {
  if (text.length > HASH_TEXT_MAX_CHARACTERS) invalid(text, 'too long')
  const separator = text.search(/[:-]/)
  if (separator < 0) {
    if (algorithm === undefined) return invalid(text, 'no algorithm')
    return { algorithm, bytes: decodeDigits(text, text, algorithm) }
  }
  const written = text.slice(0, separator)
  if (!isHashAlgorithm(written)) return invalid(text, 'unknown algorithm')
  if (algorithm !== undefined && written !== algorithm) invalid(text, `${algorithm} expected`)
  const digits = text.slice(separator + 1)
  if (text[separator] === '-' && digits.length !== base64Length(HASH_BYTES[written])) {
    invalid(text, 'an SRI hash is in base64')
  }
  return { algorithm: written, bytes: decodeDigits(text, digits, written) }
}

/** Writes a hash, `algo:digits` or bare digits (`withAlgorithm` false); `sri` is always `algo-base64`. */
export function formatHash(hash: Hash, spelling: HashSpelling, withAlgorithm = true): string {
  const prefix = withAlgorithm ? `${hash.algorithm}:` : ''
  switch (spelling) {
    case 'nix32':
      return prefix + encodeNix32(hash.bytes)
    case 'base16':
      return prefix + asBuffer(hash.bytes).toString('hex')
    case 'base64':
      return prefix + asBuffer(hash.bytes).toString('base64')
    case 'sri':
      return `${hash.algorithm}-${asBuffer(hash.bytes).toString('base64')}`
  }
}

/** Hashes bytes (or the UTF-8 of a string) held in memory. */
export const hashOf = (algorithm: HashAlgorithm, data: Uint8Array | string): Hash => ({
  algorithm,
  bytes: createHash(algorithm).update(data).digest(),
})

/** Whether two hashes have the same algorithm and bytes. */
export const sameHash = (a: Hash, b: Hash): boolean =>
  a.algorithm === b.algorithm && asBuffer(a.bytes).equals(b.bytes)

/**
 * Throws HASH_NOT_TRUSTED unless the hash may anchor trust: never md5, and nothing but `needed` where that is given
 * (a NAR hash must be sha256). sha1 passes without `needed`: Nix takes `fixed:r:sha1` paths without a signature.
 */
export function requireTrustAnchor(hash: Hash, needed?: HashAlgorithm): void {
  if (hash.algorithm === 'md5' || (needed !== undefined && hash.algorithm !== needed)) {
    fail('HASH_NOT_TRUSTED', { algorithm: hash.algorithm })
  }
}
