import { isIP } from 'node:net'
import { fail } from '../../protocol/errors.ts'
import type { PeerAddress, PeerKey } from '../site.ts'

// What two hosts of a site say to each other beside the logs themselves: bytes to values and back, strictly. The other end
// is a member, which does not make it sane.

/** A hello is a name, a version and a few numbers. */
export const HELLO_LIMIT_BYTES = 4096
/** A member is some 200 bytes of the list; this is room for 5,000. */
export const MEMBER_LIST_MESSAGE_LIMIT_BYTES = 1 << 20
/** More heads or addresses than this go in several messages. */
export const BATCH_LIMIT_BYTES = 1 << 16
/** A signed head is a host, an epoch, a key, a length and a signature. */
export const HEAD_LIMIT_BYTES = 1024
/** Addresses told in one message: more hosts than a site has. */
export const TOLD_LIMIT = 512
/** Connections told in one message: more hosts than a site has. */
export const REACH_LIMIT = 1024
/** A ping carries a number that the pong gives back. */
export const PING_BYTES = 8

const NAME_LIMIT_CHARACTERS = 63
const VERSION_LIMIT_CHARACTERS = 64
/** Upstreams of one host: more than anybody configures. */
export const UPSTREAMS_LIMIT = 64
const UPSTREAM = /^[0-9a-f]{16}$/
const KEY_BYTES = 32
const KEY = /^[0-9a-f]{64}$/
/** Nothing that steers a terminal or forges a log line, in any script. */
const PRINTABLE = /^[^\p{Cc}\u2028-\u202e\u2066-\u2069]*$/u

/** What a host says of itself before anything else; fields that are not known are passed over, so that later versions say more. */
export interface Hello {
  readonly name: string
  readonly version: string
  /** `network.port`: gossip by UDP, peering by TCP. */
  readonly port: number
  /** Names of the upstream caches that it can fetch from for others. */
  readonly upstreams: readonly string[]
}

/** Where another member was last met. */
export interface ToldPeer {
  readonly key: PeerKey
  readonly address: PeerAddress
}

const invalid = (message: string, problem: string): never =>
  fail('PEER_MESSAGE_INVALID', { message, problem })

function limited(message: string, bytes: Uint8Array, limit: number): void {
  if (bytes.length > limit) invalid(message, `${bytes.length} bytes, more than ${limit}`)
}

function parseJson(message: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return invalid(message, 'not JSON')
  }
}

const isText = (value: unknown, limit: number): value is string =>
  typeof value === 'string' && value.length <= limit && PRINTABLE.test(value)

const isPort = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) > 0 && (value as number) <= 65_535

const isUpstreams = (value: unknown): value is readonly string[] =>
  Array.isArray(value) &&
  value.length <= UPSTREAMS_LIMIT &&
  value.every(name => typeof name === 'string' && UPSTREAM.test(name))

export function encodeHello(hello: Hello): Buffer {
  return Buffer.from(JSON.stringify(hello))
}

/** Throws PEER_MESSAGE_INVALID. */
export function decodeHello(bytes: Uint8Array): Hello {
  limited('hello', bytes, HELLO_LIMIT_BYTES)
  const value = parseJson('hello', bytes)
  if (typeof value !== 'object' || value === null) return invalid('hello', 'not an object')
  const { name, version, port, upstreams = [] } = value as Readonly<Record<string, unknown>>
  if (!isText(name, NAME_LIMIT_CHARACTERS)) return invalid('hello', 'bad name')
  if (!isText(version, VERSION_LIMIT_CHARACTERS)) return invalid('hello', 'bad version')
  if (!isPort(port)) return invalid('hello', 'bad port')
  if (!isUpstreams(upstreams)) return invalid('hello', 'bad upstreams')
  return { name, version, port, upstreams }
}

/** The list as it travels, checked for size only: membership reads it. Throws PEER_MESSAGE_INVALID. */
export function checkMemberList(bytes: Uint8Array): Uint8Array {
  limited('member list', bytes, MEMBER_LIST_MESSAGE_LIMIT_BYTES)
  return bytes
}

/** Signed heads, each behind its length (2 bytes, big endian), in messages of at most {@link BATCH_LIMIT_BYTES}. */
export function encodeHeads(heads: Iterable<Uint8Array>): Buffer[] {
  const messages: Buffer[] = []
  let parts: Uint8Array[] = []
  let bytes = 0
  const flush = () => {
    if (parts.length > 0) messages.push(Buffer.concat(parts))
    parts = []
    bytes = 0
  }
  for (const head of heads) {
    if (bytes + 2 + head.length > BATCH_LIMIT_BYTES) flush()
    const length = Buffer.alloc(2)
    length.writeUInt16BE(head.length)
    parts.push(length, head)
    bytes += 2 + head.length
  }
  flush()
  return messages
}

/** Throws PEER_MESSAGE_INVALID; signatures are not looked at here. */
export function decodeHeads(bytes: Uint8Array): Uint8Array[] {
  limited('heads', bytes, BATCH_LIMIT_BYTES)
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const heads: Uint8Array[] = []
  let at = 0
  while (at < view.length) {
    if (at + 2 > view.length) return invalid('heads', 'cut short')
    const length = view.readUInt16BE(at)
    const end = at + 2 + length
    if (length === 0 || length > HEAD_LIMIT_BYTES) return invalid('heads', 'bad length of a head')
    if (end > view.length) return invalid('heads', 'cut short')
    // A copy: the message's buffer is the stream's and would be kept alive by what is remembered.
    heads.push(Buffer.from(view.subarray(at + 2, end)))
    at = end
  }
  return heads
}

export function encodeTold(peers: readonly ToldPeer[]): Buffer {
  return Buffer.from(
    JSON.stringify(
      peers.slice(0, TOLD_LIMIT).map(({ key, address }) => [key, address.host, address.port]),
    ),
  )
}

/** Throws PEER_MESSAGE_INVALID. */
export function decodeTold(bytes: Uint8Array): ToldPeer[] {
  limited('told peers', bytes, BATCH_LIMIT_BYTES)
  const value = parseJson('told peers', bytes)
  if (!Array.isArray(value)) return invalid('told peers', 'not a list')
  if (value.length > TOLD_LIMIT) return invalid('told peers', `more than ${TOLD_LIMIT}`)
  return value.map((one: unknown): ToldPeer => {
    const [key, host, port] = Array.isArray(one) ? (one as readonly unknown[]) : []
    if (typeof key !== 'string' || !KEY.test(key)) return invalid('told peers', 'bad key')
    if (typeof host !== 'string' || isIP(host) === 0) return invalid('told peers', 'bad address')
    if (!isPort(port)) return invalid('told peers', 'bad port')
    return { key: key as PeerKey, address: { host, port } }
  })
}

/** Keys of 32 bytes, one behind the other. */
export function encodeReach(keys: readonly PeerKey[]): Buffer {
  return Buffer.from(keys.slice(0, REACH_LIMIT).join(''), 'hex')
}

/** Throws PEER_MESSAGE_INVALID. */
export function decodeReach(bytes: Uint8Array): PeerKey[] {
  limited('connections', bytes, REACH_LIMIT * KEY_BYTES)
  if (bytes.length % KEY_BYTES !== 0) return invalid('connections', 'cut short')
  const keys: PeerKey[] = []
  for (let at = 0; at < bytes.length; at += KEY_BYTES) {
    keys.push(Buffer.from(bytes.subarray(at, at + KEY_BYTES)).toString('hex') as PeerKey)
  }
  return keys
}

/** Throws PEER_MESSAGE_INVALID. */
export function checkPing(bytes: Uint8Array): Uint8Array {
  if (bytes.length !== PING_BYTES) invalid('ping', `${bytes.length} bytes, not ${PING_BYTES}`)
  return bytes
}
