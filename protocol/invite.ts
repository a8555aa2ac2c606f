// The code that lets one host into a site, and the proof that a host has it.
//
//   code  = "nw" and groups of 5 digits of Crockford's base 32, hyphens between; of these bytes:
//           u8 version (1) · 16 secret · 32 inviter's public key · 8 fingerprint of the site key
//           · u8 n, 0..4 · n address · 4 checksum (SHA-256 of "narwharf invite 1" LF and all before)
//   address = u8 4 or 6 · 4 or 16 bytes · u16 port, big-endian
//   proof = HMAC-SHA-256(secret, "narwharf pair 1" LF · handshake hash · u8 length of role · role · key of who proves · rest)
//
// The proof covers the hash of the Noise handshake it is sent in: relayed over another connection it proves nothing. The
// secret never travels. That a code is used once and in time is the inviter's business (daemon/membership).
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { decodeCrockford, encodeCrockford, inGroups, withoutGaps } from './crockford.ts'
import { PUBLIC_KEY_BYTES } from './ed25519.ts'
import { fail } from './errors.ts'

/** 128 bits: nobody guesses it, so nothing but time and use has to end it. */
export const INVITE_SECRET_BYTES = 16

/** 64 bits of the site key's hash: enough to tell sites apart, no secret. */
const FINGERPRINT_BYTES = 8

/** Enough for a host on two networks, with both families; more only makes a code longer to type. */
export const INVITE_ADDRESSES_MAX = 4

const VERSION = 1
const CHECKSUM_BYTES = 4
const ADDRESS_BYTES = { 4: 4, 6: 16 } as const
const ADDRESSES_AT = 1 + INVITE_SECRET_BYTES + PUBLIC_KEY_BYTES + FINGERPRINT_BYTES
const PREFIX = 'nw'
const GROUP_DIGITS = 5

/** Longest code: 138 bytes, 221 digits, hyphens; twice that for what people type between. */
const CODE_MAX_CHARACTERS = 600

/** Where the inviter listens. */
export interface InviteAddress {
  /** Numeric IPv4 or IPv6. */
  readonly host: string
  readonly port: number
}

/** What a code says. */
export interface Invite {
  readonly secret: Buffer
  /** The inviter's public key, 64 hex digits: the only host that knows the secret. */
  readonly inviter: string
  /** {@link siteFingerprint} of the site, 16 hex digits. */
  readonly site: string
  readonly addresses: readonly InviteAddress[]
}

const invalid = (problem: string): never => fail('INVITE_INVALID', { problem })

/** Tells sites apart without naming their key. */
export const siteFingerprint = (siteKey: string): string =>
  createHash('sha256')
    .update('narwharf site 1\n')
    .update(siteKey)
    .digest('hex')
    .slice(0, FINGERPRINT_BYTES * 2)

const checksum = (bytes: Uint8Array): Buffer =>
  createHash('sha256')
    .update('narwharf invite 1\n')
    .update(bytes)
    .digest()
    .subarray(0, CHECKSUM_BYTES)

function ipv4Bytes(host: string): Buffer | undefined {
  const parts = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(host)?.slice(1).map(Number)
  return parts?.every(part => part <= 255) === true ? Buffer.from(parts) : undefined
}

function ipv6Bytes(host: string): Buffer | undefined {
  const halves = host.split('::')
  const [head = [], tail = []] = halves.map(half => (half === '' ? [] : half.split(':')))
  const missing = 8 - head.length - tail.length
  const fits = halves.length === 2 ? missing >= 1 : halves.length === 1 && missing === 0
  const words = [...head, ...Array.from({ length: Math.max(missing, 0) }, () => '0'), ...tail]
  if (!fits || !words.every(word => /^[0-9a-fA-F]{1,4}$/.test(word))) return undefined
  return Buffer.from(words.map(word => word.padStart(4, '0')).join(''), 'hex')
}

const formatIpv6 = (bytes: Buffer): string =>
  Array.from({ length: 8 }, (_, at) => bytes.readUInt16BE(at * 2).toString(16)).join(':')

function encodeAddress({ host, port }: InviteAddress): Buffer {
  const four = ipv4Bytes(host)
  const bytes = four ?? ipv6Bytes(host) ?? invalid(`${host} is no numeric address`)
  return Buffer.from([four === undefined ? 6 : 4, ...bytes, port >> 8, port & 0xff])
}

/** The code of an invite, on one line. Throws INVITE_INVALID for an address that is not numeric. */
export function formatInvite({ secret, inviter, site, addresses }: Invite): string {
  const some = addresses.slice(0, INVITE_ADDRESSES_MAX)
  const bytes = Buffer.concat([
    Uint8Array.of(VERSION),
    secret,
    Buffer.from(inviter, 'hex'),
    Buffer.from(site, 'hex'),
    Uint8Array.of(some.length),
    ...some.map(encodeAddress),
  ])
  const digits = encodeCrockford(Buffer.concat([bytes, checksum(bytes)]))
  return `${PREFIX}-${inGroups(digits, GROUP_DIGITS)}`
}

function decodeAddresses(bytes: Buffer): InviteAddress[] {
  const addresses: InviteAddress[] = []
  let at = 1
  while (at < bytes.length) {
    const family = bytes[at]
    if (family !== 4 && family !== 6) return invalid('it names an address of an unknown kind')
    const end = at + 1 + ADDRESS_BYTES[family]
    if (end + 2 > bytes.length) return invalid('it ends within an address')
    const raw = bytes.subarray(at + 1, end)
    const host = family === 4 ? [...raw].join('.') : formatIpv6(raw)
    const port = bytes.readUInt16BE(end)
    if (port === 0) return invalid('it names port 0')
    addresses.push({ host, port })
    at = end + 2
  }
  return addresses.length === bytes[0] && addresses.length <= INVITE_ADDRESSES_MAX
    ? addresses
    : invalid('it does not have as many addresses as it says')
}

/**
 * Reads a code as somebody typed it: case, blanks and hyphens do not matter, I and L are 1, O is 0. Throws INVITE_INVALID,
 * which tells a typing error from something that was never a code, and never quotes it: the code is a secret.
 */
export function parseInvite(text: string): Invite {
  if (text.length > CODE_MAX_CHARACTERS) return invalid('it is too long for one')
  const digits = withoutGaps(text)
  if (digits.slice(0, PREFIX.length).toLowerCase() !== PREFIX) {
    return invalid(`a code begins with ${PREFIX}-`)
  }
  const bytes = decodeCrockford(digits.slice(PREFIX.length))
  if (bytes === undefined || bytes.length < ADDRESSES_AT + 1 + CHECKSUM_BYTES) {
    return invalid('it is mistyped or incomplete')
  }
  const content = bytes.subarray(0, -CHECKSUM_BYTES)
  if (!checksum(content).equals(bytes.subarray(-CHECKSUM_BYTES))) {
    return invalid('it is mistyped or incomplete (its checksum does not fit)')
  }
  if (content[0] !== VERSION) return invalid('it was made by another version of narwharf')
  const keyAt = 1 + INVITE_SECRET_BYTES
  const siteAt = keyAt + PUBLIC_KEY_BYTES
  return {
    secret: Buffer.from(content.subarray(1, keyAt)),
    inviter: content.subarray(keyAt, siteAt).toString('hex'),
    site: content.subarray(siteAt, ADDRESSES_AT).toString('hex'),
    addresses: decodeAddresses(content.subarray(ADDRESSES_AT)),
  }
}

/** What a proof is about. */
export interface ProofOf {
  /** Of the Noise handshake of the connection it is sent in. */
  readonly handshakeHash: Uint8Array
  /** Who proves: an answer must not pass for a question. */
  readonly role: 'joiner' | 'greeter' | 'greeted'
  /** The public key of who proves, as the handshake proved it: 64 hex digits. */
  readonly key: string
  /** Whatever else is to be covered. */
  readonly rest?: Uint8Array | undefined
}

/** Bytes of a proof. */
export const PROOF_BYTES = 32

/** Proves to know a secret in that connection: 32 bytes. */
export function makeProof(secret: Uint8Array, { handshakeHash, role, key, rest }: ProofOf): Buffer {
  const mac = createHmac('sha256', secret).update('narwharf pair 1\n').update(handshakeHash)
  mac.update(Uint8Array.of(role.length)).update(role).update(Buffer.from(key, 'hex'))
  return mac.update(rest ?? new Uint8Array()).digest()
}

/** Whether a proof of 32 bytes is good, in a time that does not tell how much of it is. */
export const checkProof = (secret: Uint8Array, of: ProofOf, proof: Uint8Array): boolean =>
  timingSafeEqual(makeProof(secret, of), proof)
