// A file of `narwharf/index/*.blk`: path infos of a shipment and where their NARs lie, so that a merge reads a few large
// files rather than 100,000 narinfos. A file stands for itself: positions (index-block.ts) count its entries from 0.
//
//   file    = "narwharf-index 1" LF storeDir:text *record 0x00 count     count of all entries: a file that is cut off shows it
//   record  = length{>= 1} body                             length of the body in bytes
//   body    = blockLength block deflatedLength plainLength raw deflated
//   block   = an add record of index-block.ts, of that store directory
//   plain   = code:byte{n}                                  n: entries of the block
//             fileSize{n less those that are as the NAR}    0 unknown
//             parts{codes with split}                       >= 2
//             urls:text                                     of the codes with url, joined by "\n"
//   raw     = fileHash32{codes with fileHash}
//   code    = compression | fileHash << 3 | asNar << 4 | url << 5 | split << 6      compression by COMPRESSIONS
//   text, numbers: columns.ts; raw and plain as in index-block.ts
//
// asNar: the file is the NAR itself, so hash and size are its own. Without url it is the usual one, `nar/<file hash>.nar<ext>`.
// Left to others: deflate and inflate, and whether any of it is true (the NAR is hashed before it is offered).
import { createColumnReader, createColumnWriter, UINT32_MAX } from './columns.ts'
import type { ColumnReader } from './columns.ts'
import { fail, problemOf } from './errors.ts'
import { HASH_BYTES, sameHash } from './hash.ts'
import { encodeIndexAdd, pathsForBlock, type Deflate } from './index-block-encode.ts'
import {
  decodeIndexBlock,
  INDEX_BLOCK_MAX_BYTES,
  INDEX_ENTRIES_MAX,
  indexPathsOf,
  type IndexPath,
  type Inflate,
} from './index-block.ts'
import { checkNarUrl, NAR_URL_MAX_LENGTH } from './narinfo.ts'
import { COMPRESSION_EXTENSIONS } from './nar-url.ts'
import { encodeNix32 } from './nix32.ts'
import type { Compression, NarInfo } from './path-info.ts'
import { SPLIT_PARTS_MAX } from './shipment.ts'
import { baseNameOf, parseStoreDir, STORE_DIR_MAX_LENGTH, type BaseName } from './store-path.ts'

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

/** Bytes of the largest `plain`: 512 entries, each with the longest URL. */
const PLAIN_MAX_BYTES = INDEX_ENTRIES_MAX * (NAR_URL_MAX_LENGTH + 16)

/** Bytes of the largest record. */
export const SHIPMENT_RECORD_MAX_BYTES = INDEX_BLOCK_MAX_BYTES + PLAIN_MAX_BYTES

const MAGIC = Buffer.from('narwharf-index 1\n', 'latin1')

/** Compressions by their number. */
const COMPRESSIONS: readonly Compression[] = ['none', 'xz', 'zstd', 'bzip2', 'gzip', 'br']

const COMPRESSION_MASK = 7
const HAS_FILE_HASH = 8
const AS_NAR = 16
const HAS_URL = 32
const SPLIT = 64
const CODE_MAX = 127

const FILE_HASH_BYTES = HASH_BYTES.sha256

const invalid = (problem: string, cause?: unknown): never =>
  fail('SHIPMENT_INVALID', { problem: `index file: ${problem}` }, cause)

/** Raises what a part's own parser found as a fault of the file. */
function within<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    return invalid(problemOf(error), error)
  }
}

/** Where a shipment's n-th index file lies, n from 1: in the order in which they are read. */
export const shipmentIndexFile = (n: number): string =>
  `narwharf/index/${String(n).padStart(6, '0')}.blk`

/** The usual URL of a file with that SHA-256. */
export const shipmentNarUrl = (fileHash: Uint8Array, compression: Compression): string =>
  `nar/${encodeNix32(fileHash)}.nar${COMPRESSION_EXTENSIONS[compression]}`

/** Where one NAR lies, as the columns say it. */
interface FileCode {
  readonly code: number
  readonly fileHash?: Uint8Array | undefined
}

function codeOf({ info, parts }: ShipmentEntry): FileCode {
  const { compression, fileHash, fileSize, narHash, narSize, url } = info
  const hash = fileHash?.algorithm === 'sha256' ? fileHash : undefined
  const asNar =
    compression === 'none' && fileSize === narSize && hash !== undefined && sameHash(hash, narHash)
  let code = COMPRESSIONS.indexOf(compression)
  if (asNar) code |= AS_NAR
  else if (hash !== undefined) code |= HAS_FILE_HASH
  if (hash === undefined || url !== shipmentNarUrl(hash.bytes, compression)) code |= HAS_URL
  if (parts !== undefined) code |= SPLIT
  return { code, fileHash: code & HAS_FILE_HASH ? hash?.bytes : undefined }
}

/** The columns that say where the NARs of a block's entries lie. */
function encodeFiles(entries: readonly ShipmentEntry[], deflate: Deflate): Buffer {
  const plain = createColumnWriter()
  const raw = createColumnWriter()
  const codes = entries.map(codeOf)
  plain.bytes(Buffer.from(codes.map(({ code }) => code)))
  const urls: string[] = []
  entries.forEach(({ info }, at) => {
    const { code, fileHash } = codes[at] as FileCode
    if (fileHash !== undefined) raw.bytes(fileHash)
    if ((code & AS_NAR) === 0) plain.number(info.fileSize ?? 0)
    if ((code & HAS_URL) !== 0) {
      within(() => checkNarUrl(info.url))
      urls.push(info.url)
    }
  })
  for (const { parts, info } of entries) {
    if (parts === undefined) continue
    if (parts < 2 || parts > SPLIT_PARTS_MAX) invalid(`${info.url} is split into ${parts}`)
    plain.number(parts)
  }
  plain.text(urls.join('\n'))
  const columns = plain.finish()
  const body = createColumnWriter()
  const rawBytes = raw.finish()
  body.number(rawBytes.length)
  body.number(columns.length)
  body.bytes(rawBytes)
  body.bytes(deflate(columns))
  return body.finish()
}

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

/** A writer of one file. File hashes other than SHA-256 are left out, as are signatures that are not well-formed. */
export function createShipmentIndexWriter(storeDir: string, deflate: Deflate): ShipmentIndexWriter {
  const positions = new Map<BaseName, number>()
  let started = false
  const head = (): Buffer => {
    if (started) return Buffer.alloc(0)
    started = true
    const header = createColumnWriter()
    header.bytes(MAGIC)
    header.text(within(() => parseStoreDir(storeDir)))
    return header.finish()
  }
  const record = (entries: readonly ShipmentEntry[]): Buffer => {
    const firstPosition = positions.size
    const place = { firstPosition, positionOf: (name: BaseName) => positions.get(name) }
    const block = within(() => encodeIndexAdd(entries, place, deflate))
    const files = encodeFiles(entries, deflate)
    for (const { info } of entries) {
      const baseName = baseNameOf(info.storePath)
      if (positions.has(baseName)) invalid(`${baseName} comes twice`)
      positions.set(baseName, positions.size)
    }
    const writer = createColumnWriter(block.length + files.length + 16)
    const lengthOfBlock = createColumnWriter(16)
    lengthOfBlock.number(block.length)
    const prefix = lengthOfBlock.finish()
    writer.number(prefix.length + block.length + files.length)
    writer.bytes(prefix)
    writer.bytes(block)
    writer.bytes(files)
    return writer.finish()
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
  readonly inflate: Inflate
}

/** Fills in where the NARs lie. */
function readFiles(
  paths: readonly IndexPath[],
  outer: ColumnReader,
  inflate: Inflate,
): ShipmentEntry[] {
  const rawLength = outer.number(INDEX_ENTRIES_MAX * FILE_HASH_BYTES)
  const plainLength = outer.number(PLAIN_MAX_BYTES)
  const raw = columnsOf(outer.bytes(rawLength))
  const deflated = outer.bytes(outer.left())
  const plainBytes = within(() => inflate(deflated, plainLength))
  if (plainBytes.length !== plainLength) invalid('it inflates to another length than it says')
  const plain = columnsOf(plainBytes)
  const codes = plain.bytes(paths.length)
  const count = (flag: number): number =>
    codes.reduce((sum, code) => sum + Number((code & flag) !== 0), 0)
  const sizes = plain.numbers(paths.length - count(AS_NAR), Number.MAX_SAFE_INTEGER)
  const parts = plain.numbers(count(SPLIT), SPLIT_PARTS_MAX)
  const urlText = plain.text(PLAIN_MAX_BYTES)
  const urls = count(HAS_URL) === 0 && urlText === '' ? [] : urlText.split('\n', paths.length + 1)
  if (urls.length !== count(HAS_URL)) invalid('other than one URL for each that needs one')
  plain.end()
  const next = { size: 0, part: 0, url: 0 }
  const entries = paths.map(({ info, builtHere }, at): ShipmentEntry => {
    const code = codes[at] as number
    const compression = COMPRESSIONS[code & COMPRESSION_MASK]
    if (compression === undefined || code > CODE_MAX) return invalid(`unknown code ${code}`)
    const asNar = (code & AS_NAR) !== 0
    if (asNar && (compression !== 'none' || (code & HAS_FILE_HASH) !== 0))
      invalid(`odd code ${code}`)
    const fileHash = asNar
      ? info.narHash
      : (code & HAS_FILE_HASH) !== 0
        ? ({ algorithm: 'sha256', bytes: raw.bytes(FILE_HASH_BYTES) } as const)
        : undefined
    const fileSize = asNar ? info.narSize : sizes[next.size++] || undefined
    return {
      info: {
        ...info,
        url: urlOf(code, compression, fileHash?.bytes),
        compression,
        fileHash,
        fileSize,
      },
      builtHere,
      parts: (code & SPLIT) === 0 ? undefined : partsOf(parts[next.part++] as number),
    }
  })
  raw.end()
  return entries

  function urlOf(code: number, compression: Compression, fileHash: Uint8Array | undefined): string {
    if ((code & HAS_URL) === 0) {
      return fileHash === undefined
        ? invalid('neither a file hash nor a URL')
        : shipmentNarUrl(fileHash, compression)
    }
    const url = urls[next.url++] as string
    within(() => checkNarUrl(url))
    return url
  }
}

const partsOf = (parts: number): number => (parts < 2 ? invalid(`split into ${parts}`) : parts)

const columnsOf = (bytes: Uint8Array): ColumnReader =>
  createColumnReader(bytes, 'SHIPMENT_INVALID', 'index file')

function decodeRecord(body: Buffer, { storeDir, baseNames, inflate }: Place): ShipmentEntry[] {
  const outer = columnsOf(body)
  const blockBytes = outer.bytes(outer.number(INDEX_BLOCK_MAX_BYTES))
  const block = within(() => decodeIndexBlock(blockBytes, inflate))
  if (block.kind !== 'add') return invalid('a record that adds nothing')
  if (block.storeDir !== storeDir) return invalid(`a block of ${block.storeDir}`)
  const paths = within(() => indexPathsOf(block, baseNames.length, position => baseNames[position]))
  if (baseNames.length + paths.length > SHIPMENT_INDEX_ENTRIES_MAX) {
    invalid(`more than ${SHIPMENT_INDEX_ENTRIES_MAX} paths`)
  }
  for (const { info } of paths) baseNames.push(baseNameOf(info.storePath))
  return readFiles(paths, outer, inflate)
}

/** Says how many bytes it wants next, and is given them. */
type Reading<T> = Generator<number, T, Buffer>

const NUMBER_MAX_BYTES = 5

function* readNumber(max: number): Reading<number> {
  const bytes: number[] = []
  for (;;) {
    const [byte = 0] = yield 1
    bytes.push(byte)
    if (byte < 0x80 || bytes.length === NUMBER_MAX_BYTES) break
  }
  const columns = columnsOf(Buffer.from(bytes))
  return columns.number(Math.min(max, UINT32_MAX))
}

function* readFile(inflate: Inflate, emit: (entries: ShipmentEntry[]) => void): Reading<void> {
  const magic = yield MAGIC.length
  if (!magic.equals(MAGIC)) invalid('it does not begin like one of this version')
  const dirLength = yield* readNumber(STORE_DIR_MAX_LENGTH)
  const dir = yield dirLength
  const storeDir = within(() => parseStoreDir(dir.toString('latin1')))
  const place: Place = { storeDir, baseNames: [], inflate }
  for (;;) {
    const length = yield* readNumber(SHIPMENT_RECORD_MAX_BYTES)
    if (length === 0) break
    emit(decodeRecord(yield length, place))
  }
  const count = yield* readNumber(SHIPMENT_INDEX_ENTRIES_MAX)
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
export function createShipmentIndexReader(inflate: Inflate): ShipmentIndexReader {
  let entries: ShipmentEntry[] = []
  const reading = readFile(inflate, some => entries.push(...some))
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
