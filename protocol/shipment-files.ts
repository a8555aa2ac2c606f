// Where the NARs of a block's entries lie: what stands behind each block in a file of `narwharf/index/` (shipment-index.ts).
//
//   files   = rawLength plainLength raw deflated            deflated (raw DEFLATE, to the end) inflates to plainLength bytes
//   plain   = code:byte{n}                                  n: entries of the block
//             fileSize{codes without asNar}                 0 unknown
//             parts{codes with split}                       2 to 1000
//             urls:text                                     of the codes with url, joined by "\n"
//   raw     = fileHash32{codes with fileHash}
//   code    = compression | fileHash << 3 | asNar << 4 | url << 5 | split << 6
//   compression = 0 none, 1 xz, 2 zstd, 3 bzip2, 4 gzip, 5 br
//
// asNar: the file is the NAR itself, so hash and size are its own. Without url it is `nar/<file hash>.nar<extension>`.
// Numbers and text: columns.ts.
import { createColumnReader, createColumnWriter, type ColumnReader } from './columns.ts'
import { fail, problemOf } from './errors.ts'
import { HASH_BYTES, sameHash, type Hash } from './hash.ts'
import type { Deflate } from './index-block-encode.ts'
import { INDEX_ENTRIES_MAX, type IndexPath, type Inflate } from './index-block.ts'
import { COMPRESSION_EXTENSIONS } from './nar-url.ts'
import { checkNarUrl, NAR_URL_MAX_LENGTH } from './narinfo.ts'
import { encodeNix32 } from './nix32.ts'
import type { Compression } from './path-info.ts'
import type { ShipmentEntry } from './shipment-index.ts'
import { SPLIT_PARTS_MAX } from './shipment.ts'

/** Bytes of the largest `plain`: 512 entries, each with the longest URL. */
export const FILES_PLAIN_MAX_BYTES = INDEX_ENTRIES_MAX * (NAR_URL_MAX_LENGTH + 16)

/** Compressions by their number. */
const COMPRESSIONS: readonly Compression[] = ['none', 'xz', 'zstd', 'bzip2', 'gzip', 'br']

const COMPRESSION_MASK = 7
const HAS_FILE_HASH = 8
const AS_NAR = 16
const HAS_URL = 32
const SPLIT = 64
const CODE_MAX = 127

const FILE_HASH_BYTES = HASH_BYTES.sha256

/** Throws the error of an index file. */
export const invalid = (problem: string, cause?: unknown): never =>
  fail('SHIPMENT_INVALID', { problem: `index file: ${problem}` }, cause)

/** Raises what a part's own parser found as a fault of the file. */
export function within<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    return invalid(problemOf(error), error)
  }
}

/** A reader of columns of an index file. */
export const indexColumns = (bytes: Uint8Array): ColumnReader =>
  createColumnReader(bytes, 'SHIPMENT_INVALID', 'index file')

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

/** The bytes of `files` for the entries of a block. Throws SHIPMENT_INVALID for what cannot be said. */
export function encodeFiles(entries: readonly ShipmentEntry[], deflate: Deflate): Buffer {
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

/** Reads `files` and fills in where the NARs of those paths lie. */
export function decodeFiles(
  paths: readonly IndexPath[],
  files: Uint8Array,
  inflate: Inflate,
): ShipmentEntry[] {
  const { plain, raw } = openFiles(files, inflate)
  const codes = plain.bytes(paths.length)
  const count = (flag: number): number =>
    codes.reduce((sum, code) => sum + Number((code & flag) !== 0), 0)
  const sizes = plain.numbers(paths.length - count(AS_NAR)).values()
  const parts = plain.numbers(count(SPLIT), SPLIT_PARTS_MAX).values()
  const urls = readUrls(plain, count(HAS_URL)).values()
  plain.end()
  const entries = paths.map(({ info, builtHere }, at): ShipmentEntry => {
    const code = codes[at] as number
    const compression = compressionOf(code)
    const asNar = (code & AS_NAR) !== 0
    const fileHash = asNar ? info.narHash : (code & HAS_FILE_HASH) === 0 ? undefined : sha256Of(raw)
    const fileSize = asNar ? info.narSize : next(sizes) || undefined
    const url =
      (code & HAS_URL) !== 0
        ? next(urls)
        : fileHash === undefined
          ? invalid('neither a file hash nor a URL')
          : shipmentNarUrl(fileHash.bytes, compression)
    const split = (code & SPLIT) === 0 ? undefined : next(parts)
    if (split !== undefined && split < 2) invalid(`split into ${split}`)
    return {
      // Named one by one: a spread takes longer than all the rest here.
      info: {
        storePath: info.storePath,
        narHash: info.narHash,
        narSize: info.narSize,
        references: info.references,
        ca: info.ca,
        signatures: info.signatures,
        deriver: info.deriver,
        url,
        compression,
        fileHash,
        fileSize,
      },
      builtHere,
      parts: split,
    }
  })
  raw.end()
  return entries
}

function openFiles(
  files: Uint8Array,
  inflate: Inflate,
): { readonly plain: ColumnReader; readonly raw: ColumnReader } {
  const outer = indexColumns(files)
  const rawLength = outer.number(INDEX_ENTRIES_MAX * FILE_HASH_BYTES)
  const plainLength = outer.number(FILES_PLAIN_MAX_BYTES)
  const raw = indexColumns(outer.bytes(rawLength))
  const deflated = outer.bytes(outer.left())
  const plain = within(() => inflate(deflated, plainLength))
  if (plain.length !== plainLength) invalid('it inflates to another length than it says')
  return { plain: indexColumns(plain), raw }
}

function readUrls(plain: ColumnReader, count: number): string[] {
  const text = plain.text(FILES_PLAIN_MAX_BYTES)
  // Split even when there should be none: then there must be no text either.
  const urls = count === 0 && text === '' ? [] : text.split('\n', count + 1)
  if (urls.length !== count) invalid(`other than ${count} URLs`)
  for (const url of urls) within(() => checkNarUrl(url))
  return urls
}

function compressionOf(code: number): Compression {
  const compression = COMPRESSIONS[code & COMPRESSION_MASK]
  if (compression === undefined || code > CODE_MAX) return invalid(`unknown code ${code}`)
  // One spelling: what is the NAR itself is not compressed, and its hash stands in the block already.
  const odd = compression !== 'none' || (code & HAS_FILE_HASH) !== 0
  return (code & AS_NAR) !== 0 && odd ? invalid(`odd code ${code}`) : compression
}

const sha256Of = (raw: ColumnReader): Hash => ({
  algorithm: 'sha256',
  bytes: raw.bytes(FILE_HASH_BYTES),
})

/** The next of a column that has as many as there are entries to ask for one. */
const next = <T>(column: Iterator<T>): T => column.next().value as T
