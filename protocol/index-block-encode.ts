// Writes the blocks whose format stands at the head of index-block.ts.
import { createColumnWriter, UINT32_MAX } from './columns.ts'
import type { ColumnWriter } from './columns.ts'
import { parseContentAddress } from './content-address.ts'
import { fail } from './errors.ts'
import { sameHash } from './hash.ts'
import {
  BLOCK_ADD,
  BLOCK_REMOVE,
  CA_KINDS,
  INDEX_BLOCK_MAX_BYTES,
  INDEX_ENTRIES_MAX,
  INDEX_KEYS_MAX,
  INDEX_PLAIN_MAX_BYTES,
  INDEX_REFERENCES_MAX,
  INDEX_REMOVALS_MAX,
  INDEX_SIGNATURES_MAX,
  PATH_HASH_BYTES,
  SIGNATURE_BYTES,
} from './index-block.ts'
import type { IndexPath } from './index-block.ts'
import { decodeNix32 } from './nix32.ts'
import type { PathInfo } from './path-info.ts'
import { isSignature, parseSignature } from './signature.ts'
import { baseNameOf, HASH_PART_LENGTH, nameOf, storeDirOf } from './store-path.ts'
import type { BaseName } from './store-path.ts'

/** Raw DEFLATE. */
export type Deflate = (bytes: Uint8Array) => Uint8Array

/** Where a block comes to stand. */
export interface IndexAddPlace {
  /** The position of its first entry. */
  readonly firstPosition: number
  /**
   * The position of an entry of an earlier block that is not removed; asked once a block for each path. Undefined where
   * the log has none: then the base name is written, at 20 bytes more.
   */
  positionOf(baseName: BaseName): number | undefined
}

const invalid = (problem: string): never => fail('INDEX_INVALID', { problem })

/** Bytes of the base names that one block may come to have, counted without looking whether the log has them. */
const BLOCK_WEIGHT_MAX = INDEX_PLAIN_MAX_BYTES / 4

/**
 * Paths as add records, in their order, as few as go. References within them, too, are by position: put a path after what it
 * refers to. Throws what {@link encodeIndexAdd} throws.
 */
export function encodeIndexAdds(
  paths: readonly IndexPath[],
  place: IndexAddPlace,
  deflate: Deflate,
): Buffer[] {
  const positions = new Map<BaseName, number>()
  const positionOf = (baseName: BaseName): number | undefined =>
    positions.get(baseName) ?? place.positionOf(baseName)
  const blocks: Buffer[] = []
  for (let start = 0; start < paths.length;) {
    const some = paths.slice(start, start + pathsForBlock(paths, start))
    const firstPosition = place.firstPosition + start
    blocks.push(encodeIndexAdd(some, { firstPosition, positionOf }, deflate))
    some.forEach(({ info }, at) => positions.set(baseNameOf(info.storePath), firstPosition + at))
    start += some.length
  }
  return blocks
}

/**
 * How many of the paths, from `start` on, go into one block: at most 500, fewer where they have thousands of references or
 * signatures. At least one (while any is left); {@link encodeIndexAdd} may yet refuse it.
 */
export function pathsForBlock(paths: readonly IndexPath[], start = 0): number {
  let weight = 0
  let count = 0
  while (count < USUAL_ENTRIES && start + count < paths.length) {
    const { info } = paths[start + count] as IndexPath
    for (const reference of info.references) weight += reference.length
    weight += info.storePath.length + info.signatures.length * SIGNATURE_BYTES
    if (weight > BLOCK_WEIGHT_MAX && count > 0) break
    count++
  }
  return count
}

/** Entries of a block that is full: measured best between size (1000: 2 % less) and cost of the smallest change. */
const USUAL_ENTRIES = 500

/** A path taken apart for the columns. */
interface Row {
  readonly info: PathInfo
  readonly builtHere: boolean
  readonly baseName: BaseName
  readonly name: string
}

/**
 * An add record. Signatures that are not well-formed and content addresses that narwharf cannot read are left out: they prove
 * nothing. Throws INDEX_INVALID for what no block can say: nothing, more than 512 paths, one path twice, several store
 * directories, a NAR hash other than sha256, more references or signatures than the limits.
 */
export function encodeIndexAdd(
  paths: readonly IndexPath[],
  place: IndexAddPlace,
  deflate: Deflate,
): Buffer {
  const rows = paths.map(({ info, builtHere }): Row => {
    const baseName = baseNameOf(info.storePath)
    return { info, builtHere, baseName, name: nameOf(baseName) }
  })
  const storeDir = checkRows(rows)
  const links = linkRows(rows, place)
  const plain = createColumnWriter()
  const raw = createColumnWriter()
  plain.text(storeDir)
  plain.number(rows.length)
  plain.text(rows.map(({ name }) => name).join('\n'))
  for (const { baseName } of rows) raw.bytes(hashBytesOf(baseName))
  for (const { info } of rows) raw.bytes(info.narHash.bytes)

  const addresses = rows.map(({ info }) => addressOf(info))
  const flags = Buffer.alloc(rows.length)
  rows.forEach(({ builtHere }, at) => {
    flags[at] = ((addresses[at] as Address).kind << 1) | (builtHere ? 1 : 0)
  })
  plain.bytes(flags)
  plain.numbers(rows.map(({ info }) => info.narSize))
  plain.number(links.distances.length)
  plain.numbers(links.distances)
  plain.number(links.baseNames.length)
  plain.text(links.baseNames.map(nameOf).join('\n'))
  for (const baseName of links.baseNames) raw.bytes(hashBytesOf(baseName))
  plain.numbers(links.codes.map(codes => codes.length))
  for (const codes of links.codes) plain.numbers(codes)
  writeDerivers(rows, links.derivers, plain, raw)
  for (const { hash } of addresses) if (hash !== undefined) raw.bytes(hash)
  writeSignatures(rows, plain, raw)
  return assemble(raw.finish(), plain.finish(), deflate)
}

function assemble(raw: Buffer, plain: Buffer, deflate: Deflate): Buffer {
  if (plain.length > INDEX_PLAIN_MAX_BYTES) invalid(`more than ${INDEX_PLAIN_MAX_BYTES} bytes`)
  const block = createColumnWriter()
  block.number(BLOCK_ADD)
  block.number(raw.length)
  block.number(plain.length)
  block.bytes(raw)
  block.bytes(deflate(plain))
  const bytes = block.finish()
  if (bytes.length > INDEX_BLOCK_MAX_BYTES) invalid(`larger than ${INDEX_BLOCK_MAX_BYTES} bytes`)
  return bytes
}

function checkRows(rows: readonly Row[]): string {
  const [first] = rows
  if (first === undefined) return invalid('nothing to add')
  if (rows.length > INDEX_ENTRIES_MAX) invalid(`more than ${INDEX_ENTRIES_MAX} paths`)
  const storeDir = storeDirOf(first.info.storePath)
  for (const { info } of rows) {
    const { storePath, narHash, narSize, references } = info
    if (storeDirOf(storePath) !== storeDir) invalid(`${storePath} is not below ${storeDir}`)
    if (narHash.algorithm !== 'sha256') invalid(`${storePath} has a NAR hash other than sha256`)
    if (!Number.isSafeInteger(narSize) || narSize < 1) invalid(`${storePath} has no NAR size`)
    if (references.length > INDEX_REFERENCES_MAX) {
      invalid(`${storePath} has more than ${INDEX_REFERENCES_MAX} references`)
    }
  }
  return storeDir
}

const hashBytesOf = (baseName: BaseName): Buffer =>
  decodeNix32(baseName.slice(0, HASH_PART_LENGTH), PATH_HASH_BYTES)

/** A path that the block speaks of: one of its rows, or one outside, which then has a number. */
interface Slot {
  readonly baseName: BaseName
  /** Where it is a row; past all rows where it is none. */
  row: number
  /** How often it is spoken of where its row does not do, being none or a later one. */
  uses: number
  /** How many rows have it as their deriver, likewise. */
  derived: number
  number: number | undefined
}

interface Links {
  readonly distances: readonly number[]
  readonly baseNames: readonly BaseName[]
  /** Of each row, ascending. */
  readonly codes: readonly Float64Array[]
  /** Of each row: the link to its deriver; undefined where only a hash of its own can tell it. */
  readonly derivers: readonly (number | undefined)[]
}

function linkRows(rows: readonly Row[], place: IndexAddPlace): Links {
  const slots = new Map<BaseName, Slot>()
  const slotOf = (baseName: BaseName): Slot => {
    let slot = slots.get(baseName)
    if (slot === undefined) {
      slot = { baseName, row: rows.length, uses: 0, derived: 0, number: undefined }
      slots.set(baseName, slot)
    }
    return slot
  }
  rows.forEach(({ baseName }, at) => {
    const slot = slotOf(baseName)
    if (slot.row < rows.length) invalid(`${baseName} comes twice`)
    slot.row = at
  })
  // By slot from here on: a thousand base names are looked up four thousand times otherwise, and again for the codes.
  const references = rows.map(({ info }, at) =>
    info.references.map(reference => {
      const slot = slotOf(reference)
      if (slot.row > at) slot.uses++
      return slot
    }),
  )
  const derivers = rows.map(({ info: { deriver }, name }, at) => {
    if (deriver === undefined) return undefined
    const slot = slotOf(deriver)
    if (slot.row > at) {
      slot.derived++
      if (!isInline(deriver, name)) slot.uses++
    }
    return slot
  })
  const outside = numberSlots(slots.values(), place)
  const codeOf = ({ row, number }: Slot, at: number): number =>
    row <= at ? (at - row) * 2 : (number as number) * 2 + 1
  return {
    ...outside,
    codes: references.map((all, at) => {
      // `from` with a function is ten times slower than this.
      const codes = new Float64Array(all.length)
      for (let i = 0; i < codes.length; i++) codes[i] = codeOf(all[i] as Slot, at)
      return codes.sort()
    }),
    derivers: derivers.map((slot, at) =>
      slot === undefined || (slot.row > at && slot.number === undefined)
        ? undefined
        : codeOf(slot, at),
    ),
  }
}

/** Numbers what lies outside: positions first, then base names, each by use: what is used most then takes one byte, the same each time. */
function numberSlots(
  slots: Iterable<Slot>,
  { firstPosition, positionOf }: IndexAddPlace,
): Pick<Links, 'distances' | 'baseNames'> {
  const known: [slot: Slot, distance: number][] = []
  const unknown: Slot[] = []
  for (const slot of slots) {
    if (slot.uses + slot.derived === 0) continue
    const position = positionOf(slot.baseName)
    slot.uses += slot.derived
    if (position !== undefined) known.push([slot, distanceTo(position, firstPosition)])
    // The deriver of one path alone, and nothing else, is written where that path is.
    else if (slot.uses > 1 || slot.derived === 0) unknown.push(slot)
  }
  known.sort(([a], [b]) => b.uses - a.uses)
  unknown.sort((a, b) => b.uses - a.uses)
  known.forEach(([slot], at) => {
    slot.number = at
  })
  unknown.forEach((slot, at) => {
    slot.number = known.length + at
  })
  return {
    distances: known.map(([, distance]) => distance),
    baseNames: unknown.map(({ baseName }) => baseName),
  }
}

/** Whether a deriver's name is the start of the path's own and `.drv`, as it is for nearly every output. */
const isInline = (deriver: BaseName, name: string): boolean =>
  deriver.endsWith('.drv') && name.startsWith(nameOf(deriver).slice(0, -DRV.length))

const DRV = '.drv'

function distanceTo(position: number, firstPosition: number): number {
  const distance = firstPosition - position
  if (!(distance >= 1 && distance <= UINT32_MAX)) {
    return invalid(`position ${position} is not before ${firstPosition}`)
  }
  return distance
}

function writeDerivers(
  rows: readonly Row[],
  links: Links['derivers'],
  plain: ColumnWriter,
  raw: ColumnWriter,
): void {
  const cuts: number[] = []
  const codes = rows.map(({ info: { deriver }, name }, at) => {
    if (deriver === undefined) return 0
    const link = links[at]
    if (link !== undefined) return link + 2
    raw.bytes(hashBytesOf(deriver))
    cuts.push(name.length - (nameOf(deriver).length - DRV.length))
    return 1
  })
  plain.numbers(codes)
  plain.numbers(cuts)
}

interface Address {
  readonly kind: number
  readonly hash?: Uint8Array | undefined
}

function addressOf({ ca, narHash }: PathInfo): Address {
  if (ca === undefined) return { kind: 0 }
  let address: ReturnType<typeof parseContentAddress>
  try {
    address = parseContentAddress(ca)
  } catch {
    return { kind: 0 }
  }
  const { hash } = address
  const recursive = address.kind === 'fixed' && address.method === 'recursive'
  if (recursive && sameHash(hash, narHash)) return { kind: CA_KINDS.indexOf('nar-hash') }
  const method = address.kind === 'text' ? 'text' : recursive ? 'fixed:r' : 'fixed'
  const kind = CA_KINDS.findIndex(text => text === `${method}:${hash.algorithm}`)
  return { kind, hash: hash.bytes }
}

interface Signed {
  readonly keyName: string
  readonly bytes: Buffer
}

function writeSignatures(rows: readonly Row[], plain: ColumnWriter, raw: ColumnWriter): void {
  const signed = rows.map(({ info }): Signed[] => {
    const texts = new Set(info.signatures.filter(isSignature))
    if (texts.size > INDEX_SIGNATURES_MAX) {
      invalid(`${info.storePath} has more than ${INDEX_SIGNATURES_MAX} signatures`)
    }
    return Array.from(texts, text => {
      const { keyName, base64 } = parseSignature(text)
      return { keyName, bytes: Buffer.from(base64, 'base64') }
    }).sort((a, b) =>
      a.keyName === b.keyName ? a.bytes.compare(b.bytes) : a.keyName < b.keyName ? -1 : 1,
    )
  })
  const keyNames = [...new Set(signed.flat().map(({ keyName }) => keyName))].sort()
  if (keyNames.length > INDEX_KEYS_MAX) invalid(`signed by more than ${INDEX_KEYS_MAX} keys`)
  const numberOf = new Map(keyNames.map((name, at) => [name, at]))
  plain.number(keyNames.length)
  plain.text(keyNames.join('\n'))
  plain.numbers(signed.map(all => all.length))
  for (const all of signed) {
    plain.numbers(all.map(({ keyName }) => numberOf.get(keyName) as number))
    for (const { bytes } of all) raw.bytes(bytes)
  }
}

/** Remove records for the positions (without doubles, in any order): as few as the limit allows, none for none. */
export function encodeIndexRemoves(positions: readonly number[]): Buffer[] {
  const sorted = [...positions].sort((a, b) => a - b)
  const blocks: Buffer[] = []
  for (let from = 0; from < sorted.length; from += INDEX_REMOVALS_MAX) {
    const some = sorted.slice(from, from + INDEX_REMOVALS_MAX)
    const block = createColumnWriter()
    block.number(BLOCK_REMOVE)
    block.number(some.length)
    some.forEach((position, at) => {
      const delta = at === 0 ? position : position - (some[at - 1] as number) - 1
      if (!Number.isSafeInteger(delta) || delta < 0 || position > UINT32_MAX) {
        invalid(`position ${position} is none, or comes twice`)
      }
      block.number(delta)
    })
    blocks.push(block.finish())
  }
  return blocks
}
