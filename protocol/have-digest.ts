// The have digest, `narwharf/have/*.have`: which paths a site holds, in 4.2 bytes each. It may say of a path that it is there
// when it is not, once in 2^32 paths asked; never the other way round.
//
//   file      = "narwharf-have 1" LF length:u32le header section*      in the order the header names them
//   header    = signed JSON (signed-json.ts): format "narwharf-have", site, createdAt, root, shipments, sections
//   root      = SHA-256 of the hash parts, sorted, each with LF: two digests of the same paths have the same root
//   shipments = [{"id": shipment, "parts": [part, …], "of": parts}]    the ledger: what was merged whole, and which parts
//   sections  = [{"kind": text, "size": bytes, "sha256": hex, …}]      unknown kinds are passed over
//   kind set  = {…, "count": n, "salt": hex of 16 bytes}; its bytes:
//               quotients remainder:u32le{n}             Golomb-Rice codes of the gaps between the values, ascending from 0
//               quotients: for each gap floor(gap / 2^32) zero bits and a one bit, least significant bit of a byte first,
//               filled up with zero bits; remainder: gap mod 2^32
//               value of a hash part: with h = SipHash-2-4 of its 32 characters, keyed by the salt,
//               floor(floor(h / 2^32) * n / 2^32) * 2^32 + h mod 2^32
//   kinds "listing" (bitmaps over lists that both ends know) and "gone" (paths of the ledger that were collected) are
//   reserved. Where they come, less is in the set: who passes them over sends too much, never too little.
//
// A new salt each time: a path that was wrongly taken to be there is not so again. Whoever writes one gives it, nothing here
// is random. Source of the method: Golomb (1966), Rice (1979); as in BIP 158 (compact block filters for light clients).
// Left to others: whose signature counts.
import { createHash } from 'node:crypto'
import { jsonFields, type Invalid } from './canonical-json.ts'
import { fail } from './errors.ts'
import {
  parseHexOf,
  parsePlainText,
  parseShipmentId,
  parseSiteName,
  parseTime,
  SHIPMENT_PARTS_MAX,
} from './json-texts.ts'
import { createSipHash, SIPHASH_KEY_BYTES } from './siphash.ts'
import { checkMagic } from './magic.ts'
import {
  formatSignedJson,
  parseSignedJson,
  type Sign,
  type Signed,
  type SignedFormat,
} from './signed-json.ts'
import { sortHashParts, type SortedHashParts } from './sorted-hash-parts.ts'
import type { HashPart } from './store-path.ts'

/** Most paths of a digest: as many as keep value arithmetic exact in doubles (21 + 32 bits). */
export const HAVE_PATHS_MAX = 2 ** 21

/** Most shipments of the ledger, parts each. */
export const HAVE_SHIPMENTS_MAX = 4096

/** Most sections, known or not. */
const SECTIONS_MAX = 1024

/** Bytes of the header: 4,096 shipments of usually few parts. */
const HEADER_MAX_BYTES = 2 * 1024 * 1024

/** Bytes of the largest digest: 2 million paths have 9 MB; as much again for sections to come. */
export const HAVE_DIGEST_MAX_BYTES = 20 * 1024 * 1024

/** Bytes of a salt. */
export const HAVE_SALT_BYTES = SIPHASH_KEY_BYTES

const SHA256_BYTES = 32
const REMAINDER_BYTES = 4
const TWO_32 = 2 ** 32
const MAGIC = 'narwharf-have 1\n'
const LENGTH_BYTES = 4
const SET = 'set'

const FORMAT: SignedFormat = {
  name: 'narwharf-have',
  major: 1,
  minor: 0,
  code: 'HAVE_DIGEST_INVALID',
  maxBytes: HEADER_MAX_BYTES,
}

const invalid: Invalid = (problem, cause) => fail('HAVE_DIGEST_INVALID', { problem }, cause)

/** A shipment that was merged. */
export interface MergedShipment {
  readonly id: string
  /** Which parts, ascending, from 1. */
  readonly parts: readonly number[]
  /** How many there are. */
  readonly of: number
}

/** What a digest says beside the paths. */
export interface HaveDigestAbout {
  readonly site: string
  /** ISO 8601, UTC. */
  readonly createdAt: string
  readonly shipments: readonly MergedShipment[]
  /** {@link HAVE_SALT_BYTES} random bytes, new each time. */
  readonly salt: Uint8Array
}

/** What a site holds; its signature is not verified. */
export interface HaveDigest extends Signed {
  /** SHA-256 of the whole file, 64 hex digits: by this a shipment names what it was packed against. */
  readonly id: string
  readonly site: string
  readonly createdAt: string
  /** Paths. */
  readonly count: number
  /** Two digests of the same paths have the same, whatever their salts: 64 hex digits. */
  readonly root: string
  readonly shipments: readonly MergedShipment[]
  /** Whether the site holds that path; wrongly yes once in 2^32, never wrongly no. */
  readonly has: (hashPart: HashPart) => boolean
}

/** The values of hash parts among `count` under that salt: below count * 2^32. */
function valuesOf(salt: Uint8Array, count: number): (hashPart: HashPart) => number {
  const hash = createSipHash(salt)
  return hashPart => {
    const { high, low } = hash(hashPart)
    // At most 53 bits: exact.
    return Math.floor((high * count) / TWO_32) * TWO_32 + low
  }
}

function encodeSet(hashParts: SortedHashParts, salt: Uint8Array): Buffer {
  const { count } = hashParts
  const values = new Float64Array(count)
  const valueOf = valuesOf(salt, count)
  let filled = 0
  for (const hashPart of hashParts) values[filled++] = valueOf(hashPart)
  values.sort()
  // Quotients add up to less than count, and each has its one.
  const quotients = Buffer.alloc(Math.ceil((count * 2) / 8))
  const remainders = Buffer.alloc(count * REMAINDER_BYTES)
  let bit = 0
  let before = 0
  values.forEach((value, at) => {
    const gap = value - before
    const quotient = Math.floor(gap / TWO_32)
    bit += quotient
    quotients[bit >> 3] = (quotients[bit >> 3] as number) | (1 << (bit & 7))
    bit++
    remainders.writeUInt32LE(gap - quotient * TWO_32, at * REMAINDER_BYTES)
    before = value
  })
  return Buffer.concat([quotients.subarray(0, Math.ceil(bit / 8)), remainders])
}

/** The values of a set, ascending. */
function decodeSet(bytes: Buffer, count: number): Float64Array {
  const quotientBytes = bytes.length - count * REMAINDER_BYTES
  if (quotientBytes < Math.ceil(count / 8) || quotientBytes > Math.ceil((count * 2) / 8)) {
    invalid(`a set of ${count} paths does not have ${bytes.length} bytes`)
  }
  const quotients = bytes.subarray(0, quotientBytes)
  const isOne = (bit: number): boolean => ((quotients[bit >> 3] as number) & (1 << (bit & 7))) !== 0
  const bits = quotientBytes * 8
  const values = new Float64Array(count)
  let bit = 0
  let before = 0
  for (let at = 0; at < count; at++, bit++) {
    while (bit < bits && !isOne(bit)) {
      before += TWO_32
      bit++
    }
    if (bit === bits) invalid('a set has fewer paths than it says')
    before += bytes.readUInt32LE(quotientBytes + at * REMAINDER_BYTES)
    values[at] = before
  }
  if (before >= Math.max(1, count) * TWO_32) invalid('a value of a set is too large')
  if (bits - bit >= 8) invalid('a set is longer than it need be')
  while (bit < bits) if (isOne(bit++)) invalid('a set has more paths than it says')
  return values
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Characters hashed at a time: a million hash parts are 33 MB. */
const ROOT_STEP_CHARACTERS = 65_536

function rootOf(sorted: SortedHashParts): string {
  const hash = createHash('sha256')
  let text = ''
  for (const hashPart of sorted) {
    text += `${hashPart}\n`
    if (text.length < ROOT_STEP_CHARACTERS) continue
    hash.update(text, 'latin1')
    text = ''
  }
  return hash.update(text, 'latin1').digest('hex')
}

/**
 * The digest of a site's paths, in any order, doubles counted once. Throws HAVE_DIGEST_INVALID for what could not be read
 * again.
 */
export function encodeHaveDigest(
  hashParts: Iterable<HashPart>,
  { site, createdAt, shipments, salt }: HaveDigestAbout,
  sign: Sign,
): Buffer {
  if (salt.length !== HAVE_SALT_BYTES) invalid(`a salt of ${salt.length} bytes`)
  const tooMany = () => invalid(`more than ${HAVE_PATHS_MAX} paths`)
  const sorted = sortHashParts(hashParts, HAVE_PATHS_MAX, tooMany)
  const set = encodeSet(sorted, salt)
  const header = formatSignedJson(
    FORMAT,
    {
      site,
      createdAt,
      root: rootOf(sorted),
      shipments: shipments.map(({ id, parts, of }) => ({ id, parts, of })),
      sections: [
        {
          kind: SET,
          size: set.length,
          sha256: sha256(set),
          count: sorted.count,
          salt: Buffer.from(salt).toString('hex'),
        },
      ],
    },
    sign,
  )
  const length = Buffer.alloc(LENGTH_BYTES)
  length.writeUInt32LE(header.length)
  const bytes = Buffer.concat([Buffer.from(MAGIC), length, header, set])
  readHead(bytes)
  return bytes
}

interface SetSection {
  readonly bytes: Buffer
  readonly count: number
  readonly salt: Buffer
}

interface Head extends Omit<HaveDigest, 'id' | 'has' | 'count'> {
  readonly set: SetSection
}

const parseSha256 = parseHexOf(SHA256_BYTES)
const parseSalt = parseHexOf(HAVE_SALT_BYTES)

function readMerged(item: unknown, where: string): MergedShipment {
  const fields = jsonFields(item, where, invalid)
  const of = fields.number('of', SHIPMENT_PARTS_MAX, 1)
  const parts = fields.list('parts', of, part => part as number)
  parts.forEach((part, at) => {
    const before = parts[at - 1] ?? 0
    if (!Number.isSafeInteger(part) || part <= before || part > of)
      invalid(`${where} has odd parts`)
  })
  return { id: fields.text('id', parseShipmentId), parts, of }
}

/** Everything but the values of the set. */
function readHead(bytes: Buffer): Head {
  if (bytes.length > HAVE_DIGEST_MAX_BYTES) invalid(`larger than ${HAVE_DIGEST_MAX_BYTES} bytes`)
  const headerAt = MAGIC.length + LENGTH_BYTES
  checkMagic(bytes.subarray(0, MAGIC.length), MAGIC, invalid)
  if (bytes.length < headerAt) invalid('it ends too early')
  let at = headerAt + bytes.readUInt32LE(MAGIC.length)
  if (at > bytes.length) invalid('it ends too early')
  const { fields, signature, signedBytes } = parseSignedJson(FORMAT, bytes.subarray(headerAt, at))
  const sets: SetSection[] = []
  fields.list('sections', SECTIONS_MAX, (item, where) => {
    const section = jsonFields(item, where, invalid)
    const size = section.number('size', HAVE_DIGEST_MAX_BYTES)
    if (size > bytes.length - at) invalid('it ends too early')
    const body = bytes.subarray(at, (at += size))
    if (section.text('sha256', parseSha256) !== sha256(body)) invalid(`${where} is damaged`)
    if (section.text('kind', parsePlainText) !== SET) return
    const count = section.number('count', HAVE_PATHS_MAX)
    sets.push({ bytes: body, count, salt: Buffer.from(section.text('salt', parseSalt), 'hex') })
  })
  if (at < bytes.length) invalid(`${bytes.length - at} bytes too many`)
  const [set, ...more] = sets
  if (set === undefined || more.length > 0) return invalid('other than one set')
  return {
    site: fields.text('site', parseSiteName),
    createdAt: fields.text('createdAt', parseTime),
    root: fields.text('root', parseSha256),
    shipments: fields.list('shipments', HAVE_SHIPMENTS_MAX, readMerged),
    signature,
    signedBytes,
    set,
  }
}

/** Reads a digest strictly, within limits; 8 bytes a path are kept. Throws HAVE_DIGEST_INVALID, SHIPMENT_TOO_NEW. */
export function decodeHaveDigest(source: Uint8Array): HaveDigest {
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.length)
  const { set, ...head } = readHead(bytes)
  const { count, salt } = set
  const values = decodeSet(set.bytes, count)
  const valueOf = valuesOf(salt, count)
  return {
    ...head,
    id: sha256(bytes),
    count,
    has(hashPart) {
      const wanted = valueOf(hashPart)
      let [low, high] = [0, count]
      while (low < high) {
        const middle = (low + high) >>> 1
        if ((values[middle] as number) < wanted) low = middle + 1
        else high = middle
      }
      return low < count && values[low] === wanted
    },
  }
}
