// The manifest of a shipment, `narwharf/shipment.json`: what is on the drive, signed by the depot. Signed JSON (signed-json.ts)
// with the members of ShipmentManifest by their names; terms and an example stand in docs/shipment-format.md.
//
//   file     = "narwharf/" directory of its kind "/" segment *("/" segment)
//   segment  = 1..255 of 0-9 A-Z a-z . _ + = @ , -     the first no dot, the last no dot: what every file system stores
//
// Left to others: whether the key that signed counts, whether the files are there and have those hashes.
import { createHash } from 'node:crypto'
import { jsonFields, type Invalid } from './canonical-json.ts'
import { fail } from './errors.ts'
import {
  parseHexOf,
  parsePlainText,
  parseShipmentId,
  parseSiteName,
  parseTime,
  SHIPMENT_ID_BYTES,
  SHIPMENT_PARTS_MAX,
} from './json-texts.ts'
import { checkNarUrl } from './narinfo.ts'
import {
  formatSignedJson,
  parseSignedJson,
  type Sign,
  type Signed,
  type SignedFormat,
} from './signed-json.ts'
import { parseStoreDir, parseStorePath, type StorePath } from './store-path.ts'

/** Where the manifest lies on a drive. */
export const SHIPMENT_MANIFEST_FILE = 'narwharf/shipment.json'

/** Bytes of the largest manifest: a channel's 100,000 roots have 8 MB, 50,000 tarballs 10 MB. */
export const SHIPMENT_MANIFEST_MAX_BYTES = 24 * 1024 * 1024

/** Most roots: every path of a large channel. */
export const SHIPMENT_ROOTS_MAX = 200_000

/** Most sections: the sources of all of nixpkgs are some 50,000 tarballs. */
export const SHIPMENT_SECTIONS_MAX = 65_536

/** Most split NARs: each is larger than 4 GiB. */
export const SHIPMENT_SPLITS_MAX = 10_000

/** Bytes of a part of a split NAR but the last: FAT32 stores 4 GiB less one byte, this is the last whole MiB below. */
export const SPLIT_PART_BYTES = 4 * 1024 ** 3 - 1024 ** 2

/** Most parts of one NAR: three digits. */
export const SPLIT_PARTS_MAX = 1000

/** Longest file name of a section, `narwharf/` and all. */
const FILE_MAX_CHARACTERS = 1024

const SHA256_BYTES = 32

/** Directory below `narwharf/` of each kind of section. */
export const SECTION_DIRECTORIES = {
  index: 'index',
  channel: 'channels',
  flake: 'flakes',
  tarball: 'tarballs',
  archive: 'archives',
  have: 'have',
  want: 'want',
} as const

/** What a section is. */
export type ShipmentSectionKind = keyof typeof SECTION_DIRECTORIES

/** One file below `narwharf/` that the depot put there. */
export interface ShipmentSection {
  readonly kind: ShipmentSectionKind
  /** Relative to the drive's shipment, `narwharf/…`: never leaves it. */
  readonly file: string
  readonly size: number
  /** 64 hex digits. */
  readonly sha256: string
}

/** A NAR that is larger than FAT32 allows: `nar/X.nar.zst` lies there as `nar/X.nar.zst.000`, `.001` and so on. */
export interface ShipmentSplit {
  readonly url: string
  /** At least 2. All but the last are of one size, usually {@link SPLIT_PART_BYTES}. */
  readonly parts: number
}

/** What is on one drive. */
export interface ShipmentManifest {
  /** 32 hex digits by {@link shipmentIdOf}: the same content has the same id; all parts of one shipment share it. */
  readonly id: string
  /** Host name of the packer. */
  readonly depot: string
  /** What people call it: the drive's label or what the packer said. */
  readonly name: string
  /** From 1. */
  readonly part: number
  readonly parts: number
  /** ISO 8601, UTC. */
  readonly createdAt: string
  readonly storeDir: string
  /** The have digest it was packed against: the site and the digest's id. */
  readonly against?: { readonly site: string; readonly digest: string } | undefined
  /** Store paths of this part, bytes of their NARs and of the files these lie in. */
  readonly paths: number
  readonly narBytes: number
  readonly fileBytes: number
  /** What was asked for and lies in any part. */
  readonly roots: readonly StorePath[]
  readonly sections: readonly ShipmentSection[]
  readonly splits: readonly ShipmentSplit[]
}

/** A manifest as it was read; whose signature counts is for others to say ({@link verifySigned}). */
export interface SignedShipment extends Signed {
  readonly manifest: ShipmentManifest
}

const FORMAT: SignedFormat = {
  name: 'narwharf-shipment',
  major: 1,
  minor: 0,
  code: 'SHIPMENT_INVALID',
  maxBytes: SHIPMENT_MANIFEST_MAX_BYTES,
}

const invalid: Invalid = (problem, cause) => fail('SHIPMENT_INVALID', { problem }, cause)

const SEGMENT = /^(?!\.)[0-9A-Za-z._+=@,-]{0,254}[0-9A-Za-z_+=@,-]$/

/** Reads the file name of a section of that kind; throws SHIPMENT_INVALID for one that could lead anywhere else. */
export function parseSectionFile(file: string, kind: ShipmentSectionKind): string {
  const directory = `narwharf/${SECTION_DIRECTORIES[kind]}/`
  if (file.length > FILE_MAX_CHARACTERS)
    invalid(`a file name is longer than ${FILE_MAX_CHARACTERS}`)
  if (!file.startsWith(directory)) invalid(`${file} is not below ${directory}`)
  const segments = file.slice(directory.length).split('/')
  if (!segments.every(segment => SEGMENT.test(segment))) invalid(`${file} is no file name to use`)
  return file
}

const isKind = (text: string): text is ShipmentSectionKind =>
  Object.hasOwn(SECTION_DIRECTORIES, text)

const parseSha256 = parseHexOf(SHA256_BYTES)

/** Undefined for a kind that a newer version brought: it is covered by the signature and passed over. */
function readSection(item: unknown, where: string): ShipmentSection | undefined {
  const fields = jsonFields(item, where, invalid)
  const kind = fields.text('kind', parsePlainText)
  if (!isKind(kind)) return undefined
  return {
    kind,
    file: parseSectionFile(fields.text('file', String), kind),
    size: fields.number('size', Number.MAX_SAFE_INTEGER),
    sha256: fields.text('sha256', parseSha256),
  }
}

function parseSplitUrl(url: string): string {
  checkNarUrl(url)
  if (!url.startsWith('nar/') || url.includes('?')) throw new Error('no file below nar/')
  return url
}

function readSplit(item: unknown, where: string): ShipmentSplit {
  const fields = jsonFields(item, where, invalid)
  return {
    url: fields.text('url', parseSplitUrl),
    parts: fields.number('parts', SPLIT_PARTS_MAX, 2),
  }
}

/** FAT and NTFS know no case: two names that differ in nothing else are one file there. */
function checkOnce(names: readonly string[], what: string): void {
  const seen = new Set<string>()
  for (const name of names) {
    const folded = name.toLowerCase()
    if (seen.has(folded)) invalid(`${what} ${name} comes twice`)
    seen.add(folded)
  }
}

/**
 * Reads a manifest strictly, within limits. Members and kinds of sections that a newer minor version brought are left out;
 * the signature covers them. Throws SHIPMENT_INVALID, and SHIPMENT_TOO_NEW for a newer major version.
 */
export function parseShipment(bytes: Uint8Array): SignedShipment {
  const { fields, signature, signedBytes } = parseSignedJson(FORMAT, bytes)
  const storeDir = fields.text('storeDir', parseStoreDir)
  const parts = fields.number('parts', SHIPMENT_PARTS_MAX, 1)
  const manifest: ShipmentManifest = {
    id: fields.text('id', parseShipmentId),
    depot: fields.text('depot', parseSiteName),
    name: fields.text('name', parsePlainText),
    part: fields.number('part', parts, 1),
    parts,
    createdAt: fields.text('createdAt', parseTime),
    storeDir,
    against: fields.optionalObject('against', against => ({
      site: against.text('site', parseSiteName),
      digest: against.text('digest', parseSha256),
    })),
    paths: fields.number('paths', Number.MAX_SAFE_INTEGER),
    narBytes: fields.number('narBytes', Number.MAX_SAFE_INTEGER),
    fileBytes: fields.number('fileBytes', Number.MAX_SAFE_INTEGER),
    roots: fields.texts('roots', SHIPMENT_ROOTS_MAX, text => parseStorePath(text, storeDir)),
    sections: fields
      .list('sections', SHIPMENT_SECTIONS_MAX, readSection)
      .filter(section => section !== undefined),
    splits: fields.list('splits', SHIPMENT_SPLITS_MAX, readSplit),
  }
  checkOnce(
    manifest.sections.map(({ file }) => file),
    'section',
  )
  checkOnce(
    manifest.splits.map(({ url }) => url),
    'split NAR',
  )
  return { manifest, signature, signedBytes }
}

/** Writes and signs a manifest. Throws SHIPMENT_INVALID for one that could not be read again. */
export function formatShipment(manifest: ShipmentManifest, sign: Sign): Buffer {
  const { against, sections, splits } = manifest
  const bytes = formatSignedJson(
    FORMAT,
    {
      id: manifest.id,
      depot: manifest.depot,
      name: manifest.name,
      part: manifest.part,
      parts: manifest.parts,
      createdAt: manifest.createdAt,
      storeDir: manifest.storeDir,
      against: against && { site: against.site, digest: against.digest },
      paths: manifest.paths,
      narBytes: manifest.narBytes,
      fileBytes: manifest.fileBytes,
      roots: manifest.roots,
      sections: sections.map(({ kind, file, size, sha256 }) => ({ kind, file, size, sha256 })),
      splits: splits.map(({ url, parts }) => ({ url, parts })),
    },
    sign,
  )
  parseShipment(bytes)
  return bytes
}

/** The files that a split NAR lies in, in order. */
export const splitFiles = ({ url, parts }: ShipmentSplit): string[] =>
  Array.from({ length: parts }, (_, part) => `${url}.${String(part).padStart(3, '0')}`)

/** What a shipment's id follows from, over all its parts. */
export interface ShipmentContent {
  /** Store path and NAR hash in hex. */
  readonly paths: Iterable<{ readonly storePath: StorePath; readonly narHash: string }>
  /** All sections but index files: how these are cut does not make another shipment. */
  readonly sections: Iterable<Pick<ShipmentSection, 'file' | 'sha256'>>
}

/** The id of a shipment by what it holds, in whatever order it is told: 32 hex digits. */
export function shipmentIdOf({ paths, sections }: ShipmentContent): string {
  const lines = [
    ...Array.from(paths, ({ storePath, narHash }) => `path ${storePath} ${narHash}\n`),
    ...Array.from(sections, ({ file, sha256 }) => `file ${file} ${sha256}\n`),
  ].sort()
  const hash = createHash('sha256').update('narwharf shipment 1\n')
  for (const line of lines) hash.update(line)
  return hash.digest('hex').slice(0, SHIPMENT_ID_BYTES * 2)
}
