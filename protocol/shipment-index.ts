// A file of `narwharf/index/*.blk`: path infos of a shipment and where their NARs lie, so that a merge reads a few large
// files rather than 100,000 narinfos. A file stands for itself: positions (index-block.ts) count its entries from 0.
//
//   file    = "narwharf-index 1" LF storeDir:text *record 0 count     count of all entries: a file that is cut off shows it
//   record  = length body                                           >= 1, bytes of the body
//   body    = blockLength block files
//   block   = an add record of index-block.ts, of that store directory
//   files   = where the NARs of its entries lie (shipment-files.ts)
//
// Left to others: deflate and inflate, and whether any of it is true (the NAR is hashed before it is offered).
import { createColumnWriter } from './columns.ts'
import { encodeIndexAdd, pathsForBlock, type Deflate } from './index-block-encode.ts'
import {
  decodeIndexBlock,
  INDEX_BLOCK_MAX_BYTES,
  indexPathsOf,
  type Inflate,
} from './index-block.ts'
import { checkMagic } from './magic.ts'
import type { NarInfo } from './path-info.ts'
import {
  decodeFiles,
  encodeFiles,
  FILES_PLAIN_MAX_BYTES,
  indexColumns,
  invalid,
  within,
} from './shipment-files.ts'
import {
  baseNameOf,
  parseStoreDir,
  STORE_DIR_MAX_LENGTH,
  storeDirOf,
  type BaseName,
} from './store-path.ts'

export { shipmentNarUrl } from './shipment-files.ts'

/** A path of a shipment. */
export interface ShipmentEntry {
  readonly info: NarInfo
  /** The depot says it built it itself, or vouches for it. */
  readonly builtHere: boolean
  /** Files that its NAR is split into (`.000` on); undefined where it lies in one. */
  readonly parts?: number | undefined
}

/** Most entries of one file: bounds what a reader remembers (25 MB of base names); a larger shipment has several files. */
export const SHIPMENT_INDEX_ENTRIES_MAX = 2 ** 18

/** Bytes of the largest record. */
export const SHIPMENT_RECORD_MAX_BYTES = INDEX_BLOCK_MAX_BYTES + FILES_PLAIN_MAX_BYTES

/** Bytes of the longest number: 35 bits. */
const NUMBER_MAX_BYTES = 5

/** How a file begins. */
const MAGIC = 'narwharf-index 1\n'

/** Where a shipment's n-th index file lies, n from 1: in the order in which they are read. */
export const shipmentIndexFile = (n: number): string =>
  `narwharf/index/${String(n).padStart(6, '0')}.blk`

/** Writes one file, piece by piece. */
export interface ShipmentIndexWriter {
  /** Entries so far; no more than {@link SHIPMENT_INDEX_ENTRIES_MAX} go into one file. */
  readonly count: number
  /**
   * The next bytes of the file, for entries that follow those before: put a path behind what it refers to. 500 at once make
   * the smallest file. Throws SHIPMENT_INVALID for what cannot be said.
   */
  readonly add: (entries: readonly ShipmentEntry[]) => Buffer
  /** The last bytes. */
  readonly finish: () => Buffer
}

function sized(body: Buffer): Buffer {
  const record = createColumnWriter(body.length + NUMBER_MAX_BYTES)
  record.number(body.length)
  record.bytes(body)
  return record.finish()
}

/** A writer of one file. File hashes other than SHA-256 are left out, as are signatures that are not well-formed. */
export function createShipmentIndexWriter(storeDir: string, deflate: Deflate): ShipmentIndexWriter {
  const positions = new Map<BaseName, number>()
  let started = false
  const head = (): Buffer => {
    if (started) return Buffer.alloc(0)
    started = true
    const header = createColumnWriter()
    header.bytes(Buffer.from(MAGIC))
    header.text(within(() => parseStoreDir(storeDir)))
    return header.finish()
  }
  const record = (entries: readonly ShipmentEntry[]): Buffer => {
    const firstPosition = positions.size
    for (const { info } of entries) {
      const baseName = baseNameOf(info.storePath)
      if (positions.has(baseName)) invalid(`${baseName} comes twice`)
      if (storeDirOf(info.storePath) !== storeDir) invalid(`${info.storePath} is of another store`)
    }
    const place = { firstPosition, positionOf: (name: BaseName) => positions.get(name) }
    const block = within(() => encodeIndexAdd(entries, place, deflate))
    const files = encodeFiles(entries, deflate)
    entries.forEach(({ info }, at) => positions.set(baseNameOf(info.storePath), firstPosition + at))
    const body = createColumnWriter(block.length + files.length + NUMBER_MAX_BYTES)
    body.number(block.length)
    body.bytes(block)
    body.bytes(files)
    return sized(body.finish())
  }
  return {
    get count() {
      return positions.size
    },
    add(entries) {
      if (positions.size + entries.length > SHIPMENT_INDEX_ENTRIES_MAX) {
        invalid(`more than ${SHIPMENT_INDEX_ENTRIES_MAX} paths`)
      }
      const pieces = [head()]
      for (let start = 0; start < entries.length;) {
        const some = entries.slice(start, start + pathsForBlock(entries, start))
        pieces.push(record(some))
        start += some.length
      }
      return Buffer.concat(pieces)
    },
    finish() {
      const end = createColumnWriter(16)
      end.number(0)
      end.number(positions.size)
      return Buffer.concat([head(), end.finish()])
    },
  }
}

/** One whole file, for entries that fit into one. Throws SHIPMENT_INVALID. */
export function encodeShipmentIndex(
  entries: readonly ShipmentEntry[],
  storeDir: string,
  deflate: Deflate,
): Buffer {
  const writer = createShipmentIndexWriter(storeDir, deflate)
  return Buffer.concat([writer.add(entries), writer.finish()])
}

interface Place {
  readonly storeDir: string
  /** By position. */
  readonly baseNames: BaseName[]
  readonly entriesMax: number
  readonly inflate: Inflate
}

function decodeRecord(body: Buffer, place: Place): ShipmentEntry[] {
  const { storeDir, baseNames, entriesMax, inflate } = place
  const outer = indexColumns(body)
  const blockBytes = outer.bytes(outer.number(INDEX_BLOCK_MAX_BYTES))
  const block = within(() => decodeIndexBlock(blockBytes, inflate))
  if (block.kind !== 'add') return invalid('a record that adds nothing')
  if (block.storeDir !== storeDir) return invalid(`a block of ${block.storeDir}`)
  if (baseNames.length + block.count > entriesMax) invalid(`more than ${entriesMax} paths`)
  const paths = within(() => indexPathsOf(block, baseNames.length, position => baseNames[position]))
  for (const { info } of paths) baseNames.push(baseNameOf(info.storePath))
  return decodeFiles(paths, outer.bytes(outer.left()), inflate)
}

/** Says how many bytes it wants next, and is given them. */
type Reading<T> = Generator<number, T, Buffer>

function* readNumber(max: number): Reading<number> {
  const bytes: number[] = []
  while (bytes.length < NUMBER_MAX_BYTES) {
    const byte = (yield 1).readUInt8()
    bytes.push(byte)
    if (byte < 0x80) break
  }
  return indexColumns(Buffer.from(bytes)).number(max)
}

function* readFile(
  inflate: Inflate,
  entriesMax: number,
  emit: (entries: ShipmentEntry[]) => void,
): Reading<void> {
  checkMagic(yield MAGIC.length, MAGIC, invalid)
  const dirLength = yield* readNumber(STORE_DIR_MAX_LENGTH)
  const dir = yield dirLength
  const storeDir = within(() => parseStoreDir(dir.toString('latin1')))
  const place: Place = { storeDir, baseNames: [], entriesMax, inflate }
  for (;;) {
    const length = yield* readNumber(SHIPMENT_RECORD_MAX_BYTES)
    if (length === 0) break
    emit(decodeRecord(yield length, place))
  }
  const count = yield* readNumber(entriesMax)
  if (count !== place.baseNames.length)
    invalid(`it has ${place.baseNames.length} paths and says ${count}`)
}

/** Takes a file in pieces of any size. After an error every call throws that error again. */
export interface ShipmentIndexReader {
  /** Reads on: the entries that are whole now, in the order of the file. Throws SHIPMENT_INVALID. */
  readonly write: (chunk: Uint8Array) => ShipmentEntry[]
  /** Says that no more comes. Throws SHIPMENT_INVALID unless the file is complete. */
  readonly end: () => void
}

/** A reader of one file, which remembers at most one record and the base names so far. */
export function createShipmentIndexReader(
  inflate: Inflate,
  entriesMax: number = SHIPMENT_INDEX_ENTRIES_MAX,
): ShipmentIndexReader {
  let entries: ShipmentEntry[] = []
  const reading = readFile(inflate, entriesMax, some => entries.push(...some))
  let chunks: Buffer[] = []
  let have = 0
  let need = 0
  let done = false
  let broken: unknown

  const step = (bytes: Buffer): void => {
    const next = reading.next(bytes)
    done = next.done === true
    need = next.done === true ? 1 : next.value
  }
  const guarded = <T>(work: () => T): T => {
    if (broken !== undefined) throw broken
    try {
      return work()
    } catch (error) {
      broken = error
      throw error
    }
  }
  step(Buffer.alloc(0))
  return {
    write: chunk =>
      guarded(() => {
        chunks.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length))
        have += chunk.length
        if (have >= need) {
          const all = Buffer.concat(chunks)
          let at = 0
          while (all.length - at >= need) {
            if (done) invalid('bytes behind its end')
            step(all.subarray(at, (at += need)))
          }
          chunks = [all.subarray(at)]
          have = all.length - at
        }
        const whole = entries
        entries = []
        return whole
      }),
    end: () =>
      guarded(() => {
        if (!done) invalid('it ends too early')
      }),
  }
}

/** The entries of one file that comes in chunks, a record's at a time. Throws SHIPMENT_INVALID where it is broken. */
export async function* readShipmentIndex(
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  inflate: Inflate,
): AsyncGenerator<readonly ShipmentEntry[], void, undefined> {
  const reader = createShipmentIndexReader(inflate)
  for await (const chunk of chunks) {
    const entries = reader.write(chunk)
    if (entries.length > 0) yield entries
  }
  reader.end()
}
