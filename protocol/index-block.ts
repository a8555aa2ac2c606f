// The index block: one record of a host's index log (a hypercore block), and one part of the files `narwharf/index/*.blk`
// of a shipment. Terms, reasons and an example stand in docs/index-format.md.
//
//   block    = add | remove
//   add      = 0x01 rawLength plainLength raw deflated   deflated (raw DEFLATE, to the end) inflates to plainLength bytes: plain
//   remove   = 0x02 count first delta{count-1}           positions ascending; a delta is the distance to the one before, less 1
//
//   plain    = storeDir:text count                       below, n = count, L = outside positions, M = outside base names
//              names:text                                n names joined by "\n"
//              flags:byte{n}                             bit 0 built here; bits 1-4 kind of content address (CA_KINDS)
//              narSize{n}
//              L distance{L}                             a path this many entries before the block's first one, >= 1
//              M outsideNames:text                       joined by "\n"; their hashes lie in raw
//              linkCount{n} link{sum}                    the references of each entry, ascending
//              deriver{n} cut{derivers that are 1}       0 none; 1 <name less its last `cut` characters>.drv, hash in raw; else link + 2
//              K keyNames:text                           names of the keys that signed, ascending, joined by "\n"
//              signatureCount{n} key{sum}                number of a key name; a path's ascend by key, then by bytes
//   raw      = hash20{n} narHash32{n} outsideHash20{M} deriverHash20{derivers that are 1} caHash{as kinds say} signature64{sum}
//   link     = even: link/2 entries back in this block, 0 is the entry itself; odd: outside number (link-1)/2, positions first
//   text     = length byte{length}                       numbers: LEB128, see columns.ts
//
// What deflate cannot make smaller (raw) stands apart from what it can (plain). Left to others: deflate and inflate
// themselves, what a position stands for (that takes the log's earlier blocks), and whether any of it is true.
import { createColumnReader, UINT32_MAX } from './columns.ts'
import type { ColumnReader } from './columns.ts'
import { formatContentAddress } from './content-address.ts'
import type { ContentAddress } from './content-address.ts'
import { fail, problemOf } from './errors.ts'
import { HASH_BYTES } from './hash.ts'
import { REFERENCES_MAX, SIGNATURES_MAX } from './narinfo.ts'
import { encodeNix32 } from './nix32.ts'
import type { PathInfo } from './path-info.ts'
import { isSignature, KEY_NAME_MAX_LENGTH } from './signature.ts'
import { joinStorePath, parseStoreDir } from './store-path.ts'
import { isStoreName, NAME_MAX_LENGTH, STORE_DIR_MAX_LENGTH } from './store-path.ts'
import type { BaseName } from './store-path.ts'

/** First byte of a block: what kind of record it is. */
export const BLOCK_ADD = 1
export const BLOCK_REMOVE = 2

/** Most entries of one add record: more makes a block no smaller, and one added path costs a whole decode of its block. */
export const INDEX_ENTRIES_MAX = 512

/** Most positions of one remove record: a day's garbage collection in a few blocks. */
export const INDEX_REMOVALS_MAX = 16_384

/** Bytes of the largest block, as it travels: 500 usual entries have 45 KB, with four signatures each 170 KB. */
export const INDEX_BLOCK_MAX_BYTES = 2 * 1024 * 1024

/** Bytes of the largest `plain`, inflated: one entry with 10,000 references by base name, and then some. */
export const INDEX_PLAIN_MAX_BYTES = 4 * 1024 * 1024

/** Most references and signatures of one entry: what a narinfo may have. */
export const INDEX_REFERENCES_MAX = REFERENCES_MAX
export const INDEX_SIGNATURES_MAX = SIGNATURES_MAX

/** Most different keys whose signatures one block has. */
export const INDEX_KEYS_MAX = 1024

/** Bytes of a store path's hash, a NAR hash, a signature. */
export const PATH_HASH_BYTES = 20
export const NAR_HASH_BYTES = HASH_BYTES.sha256
export const SIGNATURE_BYTES = 64

/** Kinds of content address by their number in the flags: 0 has none, 1 is `fixed:r:sha256` of the NAR hash itself. */
export const CA_KINDS = [
  'none',
  'nar-hash',
  'text:sha256',
  'fixed:md5',
  'fixed:sha1',
  'fixed:sha256',
  'fixed:sha512',
  'fixed:r:md5',
  'fixed:r:sha1',
  'fixed:r:sha256',
  'fixed:r:sha512',
] as const

/** A path in an index: what is known of it, and whether the host says it built it itself (or its operator vouches for it). */
export interface IndexPath {
  readonly info: PathInfo
  readonly builtHere: boolean
}

/**
 * An add record, its columns as they are good for bulk work. A link is a number: below `count` an entry of this block,
 * from there on `outside[link - count]`: how many entries before this block's first one, or a base name.
 */
export interface IndexAdd {
  readonly kind: 'add'
  readonly storeDir: string
  readonly count: number
  /** 20 bytes an entry. */
  readonly hashes: Buffer
  readonly names: readonly string[]
  /** 32 bytes an entry, SHA-256. */
  readonly narHashes: Buffer
  readonly narSizes: Float64Array
  /** 1 or 0. */
  readonly builtHere: Uint8Array
  readonly cas: readonly (string | undefined)[]
  readonly outside: readonly (number | BaseName)[]
  /** References of entry i: links[linkStarts[i]] up to linkStarts[i + 1]. */
  readonly links: Float64Array
  readonly linkStarts: Uint32Array
  /** A link, or undefined. */
  readonly derivers: readonly (number | undefined)[]
  readonly keyNames: readonly string[]
  /** Signatures of entry i, likewise; 64 bytes each in `signatures`, their key names by number in `signatureKeys`. */
  readonly signatureStarts: Uint32Array
  readonly signatureKeys: Float64Array
  readonly signatures: Buffer
}

/** Entries that are no more, by their positions in the log, ascending. */
export interface IndexRemove {
  readonly kind: 'remove'
  readonly positions: Float64Array
}

/** One record of an index log. Positions count the entries of its add records, in order, from 0. */
export type IndexBlock = IndexAdd | IndexRemove

/** Raw DEFLATE backwards: throws for anything that is not, or makes more than `maxBytes`. */
export type Inflate = (bytes: Uint8Array, maxBytes: number) => Uint8Array

const invalid = (problem: string, cause?: unknown): never =>
  fail('INDEX_INVALID', { problem }, cause)

const reader = (bytes: Uint8Array, what: string): ColumnReader =>
  createColumnReader(bytes, 'INDEX_INVALID', what)

/** Reads a block. Throws INDEX_INVALID for anything but one well-formed record within the limits. */
export function decodeIndexBlock(bytes: Uint8Array, inflate: Inflate): IndexBlock {
  if (bytes.length > INDEX_BLOCK_MAX_BYTES) invalid(`larger than ${INDEX_BLOCK_MAX_BYTES} bytes`)
  const outer = reader(bytes.subarray(1), 'the block')
  if (bytes[0] === BLOCK_ADD) return decodeAdd(outer, inflate)
  if (bytes[0] === BLOCK_REMOVE) return decodeRemove(outer)
  return invalid(`unknown kind of record ${bytes[0] ?? '(empty)'}`)
}

function decodeRemove(outer: ColumnReader): IndexRemove {
  const count = outer.number(INDEX_REMOVALS_MAX)
  if (count === 0) invalid('nothing to remove')
  const positions = outer.numbers(count, UINT32_MAX)
  outer.end()
  for (let i = 1; i < count; i++) {
    positions[i] = (positions[i] as number) + (positions[i - 1] as number) + 1
  }
  if ((positions[count - 1] as number) > UINT32_MAX) invalid('a position is too large')
  return { kind: 'remove', positions }
}

function decodeAdd(outer: ColumnReader, inflate: Inflate): IndexAdd {
  const rawLength = outer.number(INDEX_BLOCK_MAX_BYTES)
  const plainLength = outer.number(INDEX_PLAIN_MAX_BYTES)
  const rawBytes = outer.bytes(rawLength)
  const deflated = outer.bytes(outer.left())
  let plainBytes: Uint8Array
  try {
    plainBytes = inflate(deflated, plainLength)
  } catch (error) {
    return invalid(`it cannot be inflated: ${problemOf(error)}`, error)
  }
  if (plainBytes.length !== plainLength) invalid('it inflates to another length than it says')
  return decodeColumns(reader(plainBytes, 'the columns'), reader(rawBytes, 'the raw part'))
}

function decodeColumns(plain: ColumnReader, raw: ColumnReader): IndexAdd {
  const storeDir = parsedStoreDir(plain.text(STORE_DIR_MAX_LENGTH))
  const count = plain.number(INDEX_ENTRIES_MAX)
  if (count === 0) invalid('nothing to add')
  const names = readNames(plain, count)
  const flags = plain.bytes(count)
  const narSizes = plain.numbers(count)
  const distances = plain.numbers(plain.number(plain.left()), UINT32_MAX)
  const outsideNames = readNames(plain, plain.number(plain.left()))
  const linkCounts = plain.numbers(count, INDEX_REFERENCES_MAX)
  const linkStarts = startsOf(linkCounts)
  const wireLinks = plain.numbers(linkStarts[count] as number)
  const wireDerivers = plain.numbers(count)
  const inline = wireDerivers.filter(code => code === DERIVER_INLINE).length
  const cuts = plain.numbers(inline, NAME_MAX_LENGTH)
  const keyNames = readKeyNames(plain)
  const signatureStarts = startsOf(plain.numbers(count, INDEX_SIGNATURES_MAX))
  const signatureKeys = plain.numbers(signatureStarts[count] as number)
  plain.end()

  const hashes = raw.bytes(count * PATH_HASH_BYTES)
  const narHashes = raw.bytes(count * NAR_HASH_BYTES)
  const outside: (number | BaseName)[] = [...distances]
  for (const name of outsideNames) outside.push(baseNameFrom(raw.bytes(PATH_HASH_BYTES), name))
  const linked = { count, outside: outside.length }
  const links = readLinks(wireLinks, linkStarts, linked)
  const derivers = readDerivers(wireDerivers, cuts, { names, raw, outside, linked })
  const cas = readContentAddresses(flags, narHashes, raw)
  const signatures = raw.bytes(signatureKeys.length * SIGNATURE_BYTES)
  raw.end()

  if (distances.includes(0)) invalid('a distance is 0')
  if (narSizes.includes(0)) invalid('a NAR size is 0')
  checkSignatures(signatureStarts, signatureKeys, signatures, keyNames.length)
  const builtHere = flags.map(byte => byte & 1)
  return {
    kind: 'add',
    storeDir,
    count,
    hashes,
    names,
    narHashes,
    narSizes,
    builtHere,
    cas,
    outside,
    links,
    linkStarts,
    derivers,
    keyNames,
    signatureStarts,
    signatureKeys,
    signatures,
  }
}

function parsedStoreDir(text: string): string {
  try {
    return parseStoreDir(text)
  } catch (error) {
    return invalid(problemOf(error), error)
  }
}

function readNames(plain: ColumnReader, count: number): string[] {
  const text = plain.text(plain.left())
  // Split even when there should be none: then there must be no text either.
  const names = count === 0 && text === '' ? [] : text.split('\n', count + 1)
  if (names.length !== count) invalid(`other than ${count} names`)
  for (const name of names) if (!isStoreName(name)) invalid(`${name} is not a name`)
  return names
}

function readKeyNames(plain: ColumnReader): string[] {
  const count = plain.number(INDEX_KEYS_MAX)
  const text = plain.text(count * (KEY_NAME_MAX_LENGTH + 1))
  const names = count === 0 && text === '' ? [] : text.split('\n', count + 1)
  if (names.length !== count) invalid(`other than ${count} key names`)
  names.forEach((name, at) => {
    if (!isSignature(`${name}:${ANY_SIGNATURE}`)) invalid(`${name} is not a key name`)
    if (at > 0 && name <= (names[at - 1] as string)) invalid('the key names do not ascend')
  })
  return names
}

/** Digits of some signature: with a name before them they show whether that is one. */
const ANY_SIGNATURE = `${'A'.repeat(86)}==`

function startsOf(counts: Float64Array): Uint32Array {
  const starts = new Uint32Array(counts.length + 1)
  let sum = 0
  counts.forEach((count, at) => {
    starts[at + 1] = sum += count
  })
  return starts
}

interface Linked {
  readonly count: number
  readonly outside: number
}

/** A link as it is written, seen from entry `at`, as a link of {@link IndexAdd}. */
function linkOf(code: number, at: number, { count, outside }: Linked): number {
  if (code % 2 === 0) {
    const back = code / 2
    return back > at ? invalid('a link leads to before the block') : at - back
  }
  const number = (code - 1) / 2
  return number < outside ? count + number : invalid('a link leads nowhere')
}

function readLinks(codes: Float64Array, starts: Uint32Array, linked: Linked): Float64Array {
  const links = new Float64Array(codes.length)
  for (let entry = 0; entry < linked.count; entry++) {
    const end = starts[entry + 1] as number
    let before = -1
    for (let at = starts[entry] as number; at < end; at++) {
      const code = codes[at] as number
      if (code <= before) invalid('the links of an entry do not ascend')
      before = code
      links[at] = linkOf(code, entry, linked)
    }
  }
  return links
}

/** Deriver: none, written out, or (from 2 on) a link. */
const DERIVER_NONE = 0
const DERIVER_INLINE = 1

interface DeriverParts {
  readonly names: readonly string[]
  readonly raw: ColumnReader
  readonly outside: (number | BaseName)[]
  readonly linked: Linked
}

function readDerivers(
  codes: Float64Array,
  cuts: Float64Array,
  { names, raw, outside, linked }: DeriverParts,
): (number | undefined)[] {
  let inline = 0
  return Array.from(codes, (code, entry) => {
    if (code === DERIVER_NONE) return undefined
    if (code !== DERIVER_INLINE) return linkOf(code - 2, entry, linked)
    const name = names[entry] as string
    const cut = cuts[inline++] as number
    if (cut > name.length) invalid('a deriver leaves more of a name away than there is')
    const deriver = `${name.slice(0, name.length - cut)}.drv`
    if (!isStoreName(deriver)) invalid(`${deriver} is not a name`)
    return linked.count - 1 + outside.push(baseNameFrom(raw.bytes(PATH_HASH_BYTES), deriver))
  })
}

/** What the kinds of content address say, by number. */
const CONTENT_ADDRESSES = CA_KINDS.map(kind => {
  const [method = '', ...rest] = kind.split(':')
  const algorithm = (rest.at(-1) ?? 'sha256') as ContentAddress['hash']['algorithm']
  return (bytes: Uint8Array): ContentAddress =>
    method === 'text'
      ? { kind: 'text', hash: { algorithm, bytes } }
      : {
          kind: 'fixed',
          method: rest.length === 1 ? 'flat' : 'recursive',
          hash: { algorithm, bytes },
        }
})

/** Bytes of the hash in raw, by kind. */
const CA_HASH_BYTES = CA_KINDS.map(kind =>
  kind === 'none' || kind === 'nar-hash'
    ? 0
    : HASH_BYTES[kind.slice(kind.lastIndexOf(':') + 1) as keyof typeof HASH_BYTES],
)

const CA_OF_NAR_HASH = CA_KINDS.indexOf('nar-hash')
const CA_RECURSIVE_SHA256 = CA_KINDS.indexOf('fixed:r:sha256')

function readContentAddresses(
  flags: Buffer,
  narHashes: Buffer,
  raw: ColumnReader,
): (string | undefined)[] {
  return Array.from(flags, (byte, entry) => {
    const kind = byte >> 1
    if (kind === 0) return undefined
    const size = CA_HASH_BYTES[kind]
    if (size === undefined) return invalid(`unknown flags ${byte}`)
    const narHash = narHashes.subarray(entry * NAR_HASH_BYTES, (entry + 1) * NAR_HASH_BYTES)
    if (kind === CA_OF_NAR_HASH) {
      return formatContentAddress({
        kind: 'fixed',
        method: 'recursive',
        hash: { algorithm: 'sha256', bytes: narHash },
      })
    }
    const bytes = raw.bytes(size)
    if (kind === CA_RECURSIVE_SHA256 && bytes.equals(narHash)) {
      invalid('a content address is written longer than it need be')
    }
    return formatContentAddress((CONTENT_ADDRESSES[kind] as (typeof CONTENT_ADDRESSES)[0])(bytes))
  })
}

function checkSignatures(
  starts: Uint32Array,
  keys: Float64Array,
  signatures: Buffer,
  keyCount: number,
): void {
  for (const key of keys) if (key >= keyCount) invalid('a signature is by a key without name')
  for (let entry = 0; entry + 1 < starts.length; entry++) {
    const end = starts[entry + 1] as number
    for (let at = (starts[entry] as number) + 1; at < end; at++) {
      const order = (keys[at] as number) - (keys[at - 1] as number)
      const [from, middle] = [(at - 1) * SIGNATURE_BYTES, at * SIGNATURE_BYTES]
      const to = middle + SIGNATURE_BYTES
      if (
        order < 0 ||
        (order === 0 && signatures.compare(signatures, middle, to, from, middle) >= 0)
      )
        invalid('the signatures of an entry do not ascend')
    }
  }
}

/** `<nix32 of the hash>-<name>`. */
const baseNameFrom = (hash: Uint8Array, name: string): BaseName =>
  `${encodeNix32(hash)}-${name}` as BaseName

/** The base name of an entry. */
export const baseNameAt = ({ hashes, names }: IndexAdd, entry: number): BaseName =>
  baseNameFrom(
    hashes.subarray(entry * PATH_HASH_BYTES, (entry + 1) * PATH_HASH_BYTES),
    names[entry] as string,
  )

/** The signatures of an entry as `name:base64`, in the order of the block. */
export function signaturesAt(block: IndexAdd, entry: number): string[] {
  const texts: string[] = []
  const end = block.signatureStarts[entry + 1] as number
  for (let at = block.signatureStarts[entry] as number; at < end; at++) {
    const name = block.keyNames[block.signatureKeys[at] as number] as string
    const bytes = block.signatures.subarray(at * SIGNATURE_BYTES, (at + 1) * SIGNATURE_BYTES)
    texts.push(`${name}:${bytes.toString('base64')}`)
  }
  return texts
}

/**
 * The path infos of an add record whose first entry has that position. `baseNameOf` tells what stands at an earlier
 * position of the log. Throws INDEX_INVALID where it knows none, and where an entry refers to one path twice.
 */
export function indexPathsOf(
  block: IndexAdd,
  firstPosition: number,
  baseNameOf: (position: number) => BaseName | undefined,
): IndexPath[] {
  const inside = block.names.map((_, entry) => baseNameAt(block, entry))
  const outside = block.outside.map(link =>
    typeof link === 'string'
      ? link
      : (baseNameOf(firstPosition - link) ??
        invalid(`nothing stands at position ${firstPosition - link}`)),
  )
  const named = (link: number): BaseName =>
    (link < block.count ? inside[link] : outside[link - block.count]) as BaseName
  return inside.map((baseName, entry) => {
    const references: BaseName[] = []
    const end = block.linkStarts[entry + 1] as number
    for (let at = block.linkStarts[entry] as number; at < end; at++) {
      references.push(named(block.links[at] as number))
    }
    references.sort()
    for (let at = 1; at < references.length; at++) {
      if (references[at] === references[at - 1]) invalid(`${baseName} refers to one path twice`)
    }
    const deriver = block.derivers[entry]
    const narHash = block.narHashes.subarray(entry * NAR_HASH_BYTES, (entry + 1) * NAR_HASH_BYTES)
    return {
      info: {
        storePath: joinStorePath(block.storeDir, baseName),
        narHash: { algorithm: 'sha256', bytes: narHash },
        narSize: block.narSizes[entry] as number,
        references,
        ca: block.cas[entry],
        signatures: signaturesAt(block, entry),
        deriver: deriver === undefined ? undefined : named(deriver),
      },
      builtHere: block.builtHere[entry] === 1,
    }
  })
}
