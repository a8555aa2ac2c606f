// What two hosts say to one another before they know each other as members: one request and one reply on a fresh Noise
// connection, in which each already proved its key.
//
//   request = u8 version (1) · u8 kind · 32 proof · rest
//     1 join       proof by the invite's secret; rest = name LF nix-key, or name alone
//     2 greet      proof by the site key's public half, which only its hosts know; no rest
//     3 introduce  the same proof; rest = the lines of the member list that make who asks a member (membership.ts)
//   reply   = u8 version (1) · u8 kind · rest
//     0 refused    no rest: the same whatever was wrong, so that a stranger learns nothing
//     1 welcome    rest = the member list
//     2 greeted    rest = 32 proof by the site key's public half: both know the same site
//     3 revoked    to a good proof of a key that was revoked; no rest
//     4 full       to a good proof, when the site has no room; no rest
import { fail } from './errors.ts'
import { PROOF_BYTES } from './invite.ts'
import {
  isMemberName,
  isNixKey,
  MEMBER_LIST_MAX_BYTES,
  MEMBER_NAME_MAX_CHARACTERS,
  NIX_KEY_MAX_CHARACTERS,
} from './member-list.ts'

const VERSION = 1
const HEAD_BYTES = 2

/** Bytes of a request at most: eight lines of a member list, a chain of admins longer than any site needs. */
export const PAIRING_REQUEST_MAX_BYTES = 4096

/** Bytes of a reply at most: a member list and what stands before it. */
export const PAIRING_REPLY_MAX_BYTES = HEAD_BYTES + MEMBER_LIST_MAX_BYTES

/** Name, line end, signing key. */
const JOIN_REST_MAX_BYTES = MEMBER_NAME_MAX_CHARACTERS + 1 + NIX_KEY_MAX_CHARACTERS

/** What a host says of itself when it joins. */
export interface JoinFacts {
  readonly name: string
  /** `name:base64`: what it signs store paths with. */
  readonly nixKey?: string | undefined
}

const REQUEST_KINDS = { join: 1, greet: 2, introduce: 3 } as const
const REPLY_KINDS = { refused: 0, welcome: 1, greeted: 2, revoked: 3, full: 4 } as const

/** A request taken apart; the proof is not checked yet. */
export interface PairingRequest {
  readonly kind: keyof typeof REQUEST_KINDS
  readonly proof: Buffer
  /** What the proof covers besides the connection. */
  readonly rest: Buffer
}

/** A reply taken apart. */
export interface PairingReply {
  readonly kind: keyof typeof REPLY_KINDS
  readonly rest: Buffer
}

const invalid = (problem: string): never => fail('PAIRING_INVALID', { problem })

function kindOf<Kind extends string>(
  bytes: Buffer,
  kinds: Readonly<Record<Kind, number>>,
  limitBytes: number,
): Kind {
  if (bytes.length > limitBytes) return invalid('it is too long')
  if (bytes[0] !== VERSION) return invalid('it is of another version')
  const found = (Object.keys(kinds) as Kind[]).find(kind => kinds[kind] === bytes[1])
  return found ?? invalid('it is of an unknown kind')
}

export const encodePairingRequest = ({ kind, proof, rest }: PairingRequest): Buffer =>
  Buffer.concat([Uint8Array.of(VERSION, REQUEST_KINDS[kind]), proof, rest])

/** Takes a request apart. Throws PAIRING_INVALID. */
export function decodePairingRequest(bytes: Uint8Array): PairingRequest {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const kind = kindOf(all, REQUEST_KINDS, PAIRING_REQUEST_MAX_BYTES)
  const proof = all.subarray(HEAD_BYTES, HEAD_BYTES + PROOF_BYTES)
  const rest = all.subarray(HEAD_BYTES + PROOF_BYTES)
  if (proof.length < PROOF_BYTES) return invalid('it ends within its proof')
  if (kind === 'greet' && rest.length > 0) return invalid('it has more than its kind allows')
  if (kind === 'join' && rest.length > JOIN_REST_MAX_BYTES) return invalid('it is too long')
  return { kind, proof, rest }
}

export const encodePairingReply = ({ kind, rest }: PairingReply): Buffer =>
  Buffer.concat([Uint8Array.of(VERSION, REPLY_KINDS[kind]), rest])

/** Takes a reply apart. Throws PAIRING_INVALID. */
export function decodePairingReply(bytes: Uint8Array): PairingReply {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const kind = kindOf(all, REPLY_KINDS, PAIRING_REPLY_MAX_BYTES)
  const rest = all.subarray(HEAD_BYTES)
  const wanted = kind === 'greeted' ? PROOF_BYTES : 0
  if (kind !== 'welcome' && rest.length !== wanted) return invalid('it is not as long as its kind')
  return { kind, rest }
}

/** What a joining host says of itself, as bytes. */
export const encodeJoinFacts = ({ name, nixKey }: JoinFacts): Buffer =>
  Buffer.from(nixKey === undefined ? name : `${name}\n${nixKey}`)

/** Reads what a joining host says of itself. Throws PAIRING_INVALID. */
export function decodeJoinFacts(rest: Uint8Array): JoinFacts {
  const [name = '', nixKey, ...more] = Buffer.from(rest).toString('latin1').split('\n')
  if (!isMemberName(name) || more.length > 0) return invalid('it does not name its host')
  if (nixKey === undefined) return { name }
  return isNixKey(nixKey) ? { name, nixKey } : invalid('what it names is no signing key')
}
