// narinfo, the text by which a binary cache describes one path.
//
//   file  = line+                       every line ends in "\n", the last one too; no CR, no BOM, no control character
//   line  = name ": " value             name [A-Za-z0-9_-]+; unknown names are ignored, known ones come once but Sig
//
//   StorePath full path · URL · Compression (missing: bzip2) · FileHash · FileSize · NarHash (sha256, any spelling) ·
//   NarSize (> 0) · References (base names; missing: none) · Deriver (base name or unknown-deriver) · Sig* · CA
//
// Stricter than Nix, which takes the last of doubled fields, follows `URL: file:///etc/passwd`, and dies of some malformed
// ones: whatever is not exactly this counts as absent. Source: NixOS/nix src/libstore/nar-info.cc.
// Left to others: whether signatures verify and the content address proves the path.
import { formatContentAddress, parseContentAddress } from './content-address.ts'
import { fail, problemOf } from './errors.ts'
import { formatHash, parseHash } from './hash.ts'
import type { Hash } from './hash.ts'
import type { Compression, NarInfo } from './path-info.ts'
import { isSignature } from './signature.ts'
import { DEFAULT_STORE_DIR, hashPartOf, parseBaseName, parseStorePath } from './store-path.ts'
import type { BaseName, HashPart, StorePath } from './store-path.ts'

/** Bytes of the largest narinfo read: room for {@link REFERENCES_MAX} references of usual length. */
export const NARINFO_MAX_BYTES = 1024 * 1024

/** Most references of one path; the largest real ones (all of TeX Live, a desktop's system path) have some thousands. */
export const REFERENCES_MAX = 10_000

/** Most signatures of one path, the malformed ones counted: each costs a verification. */
export const SIGNATURES_MAX = 100

/** Most characters of a field name, known or not. */
const FIELD_NAME_MAX_LENGTH = 64

/** Most characters of a NAR URL below its cache. */
export const NAR_URL_MAX_LENGTH = 2048

const COMPRESSIONS: ReadonlySet<string> = new Set<Compression>([
  'none',
  'xz',
  'zstd',
  'bzip2',
  'gzip',
  'br',
])

const isCompression = (text: string): text is Compression => COMPRESSIONS.has(text)

const FIELD_NAME = /^[A-Za-z0-9_-]+$/
/** All control characters but newline: none has business in a narinfo, and CR splits headers. */
const CONTROL = /[^\n\x20-\x7e\x80-\xff]/
/** Printable ASCII without space, `"`, `#`, `<`, `>`, `\`, `^`, backquote, `{`, `|`, `}`. */
const URL_CHARACTERS = /^[!$-;=?-[\]_a-z~]+$/
/** What nearly every cache writes: accepted by a look, since every rule below holds for it. */
const USUAL_URL = /^nar\/[0-9a-z]{1,200}\.nar(?:\.[0-9a-z]{1,8})?$/
/** What a server or file system may read as separator, dot, escape or control character after decoding. */
const URL_BAD_ESCAPE = /%(?:[01]|2[05ef]|5c|7f|[89a-f]|(?![0-9a-f]{2}))/i

const invalid = (problem: string): never => fail('NARINFO_INVALID', { problem })

/**
 * Checks that a NAR URL stays below its cache, as a URL and as a file name: relative, no scheme, no empty, `.` or `..`
 * segment however encoded, printable ASCII; a query is allowed. Throws NARINFO_INVALID.
 */
export function checkNarUrl(url: string): void {
  if (USUAL_URL.test(url)) return
  if (url.length > NAR_URL_MAX_LENGTH) invalid(`URL longer than ${NAR_URL_MAX_LENGTH} characters`)
  if (!URL_CHARACTERS.test(url)) invalid(`URL ${url} is empty or has an odd character`)
  if (URL_BAD_ESCAPE.test(url)) invalid(`URL ${url} hides a character behind %`)
  // A file:// cache takes the query for a part of the file name: it must not climb either.
  const segments = url.split(/[/?]/)
  if (segments.some(segment => segment === '..' || segment === '.')) {
    invalid(`URL ${url} leaves the cache`)
  }
  const path = url.split('?', 1)[0] as string
  if (path.split('/').includes('')) invalid(`URL ${url} is absolute or has an empty segment`)
  if (/^[^/?]*:/.test(url)) invalid(`URL ${url} has a scheme`)
}

/** How strictly to read: the store directory, and what was asked for. */
export interface NarinfoOptions {
  readonly storeDir?: string | undefined
  /** The hash part asked for: a narinfo of another one is refused. */
  readonly expected?: HashPart | undefined
  /** The whole path, where known: a narinfo of the same hash part and another name is refused too. */
  readonly expectedPath?: StorePath | undefined
}

const FIELDS = [
  'StorePath',
  'URL',
  'Compression',
  'FileHash',
  'FileSize',
  'NarHash',
  'NarSize',
  'References',
  'Deriver',
  'CA',
] as const
type Field = (typeof FIELDS)[number]
const FIELD_NAMES: ReadonlySet<string> = new Set(FIELDS)
const isField = (name: string): name is Field => FIELD_NAMES.has(name)

interface Lines {
  readonly fields: ReadonlyMap<Field, string>
  readonly signatures: readonly string[]
}

function readLines(text: string): Lines {
  const fields = new Map<Field, string>()
  const signatures = new Set<string>()
  let signatureLines = 0
  let start = 0
  while (start < text.length) {
    const end = text.indexOf('\n', start)
    if (end < 0) return invalid('the last line has no newline')
    const colon = text.indexOf(':', start)
    const name = text.slice(start, colon < 0 || colon > end ? end : colon)
    if (name.length > FIELD_NAME_MAX_LENGTH || !FIELD_NAME.test(name)) {
      return invalid(`odd field name ${name}`)
    }
    // Nix skips one character behind the colon whatever it is.
    if (text[start + name.length + 1] !== ' ') return invalid(`no colon and space behind ${name}`)
    const value = text.slice(start + name.length + 2, end)
    if (isField(name)) {
      if (fields.has(name)) invalid(`${name} given twice`)
      fields.set(name, value)
    } else if (name === 'Sig') {
      if (++signatureLines > SIGNATURES_MAX) invalid(`more than ${SIGNATURES_MAX} signatures`)
      // Dropped, not fatal: another signature of the path may be good.
      if (isSignature(value)) signatures.add(value)
    }
    start = end + 1
  }
  return { fields, signatures: [...signatures] }
}

const required = (lines: Lines, field: Field): string =>
  lines.fields.get(field) ?? invalid(`no ${field}`)

function parseSize(field: Field, text: string): number {
  const size = Number(text)
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(text) || !Number.isSafeInteger(size)) {
    return invalid(`${field} ${text} is not a whole number of at most ${Number.MAX_SAFE_INTEGER}`)
  }
  return size
}

function parseNarHash(text: string): Hash {
  const hash = parseHash(text)
  if (hash.algorithm !== 'sha256') invalid(`NarHash is ${hash.algorithm}, not sha256`)
  return hash
}

function parseReferences(text: string): readonly BaseName[] {
  if (text === '') return []
  const words = text.split(' ', REFERENCES_MAX + 1)
  if (words.length > REFERENCES_MAX) invalid(`more than ${REFERENCES_MAX} references`)
  const references = words.map(parseBaseName)
  for (let at = 1; at < references.length; at++) {
    if ((references[at - 1] as string) >= (references[at] as string)) {
      return [...new Set(references)].sort()
    }
  }
  return references
}

function parseDeriver(text: string | undefined, storeDir: string): BaseName | undefined {
  if (text === undefined || text === 'unknown-deriver') return undefined
  // Some caches write the whole path, which is plain enough.
  return parseBaseName(text.startsWith(`${storeDir}/`) ? text.slice(storeDir.length + 1) : text)
}

function parseStorePathField(lines: Lines, options: NarinfoOptions, storeDir: string): StorePath {
  const storePath = parseStorePath(required(lines, 'StorePath'), storeDir)
  const { expected, expectedPath } = options
  if (
    (expected !== undefined && hashPartOf(storePath) !== expected) ||
    (expectedPath !== undefined && storePath !== expectedPath)
  ) {
    invalid(`it describes ${storePath}, another path was asked for`)
  }
  return storePath
}

function parseFields(lines: Lines, options: NarinfoOptions): NarInfo {
  const { storeDir = DEFAULT_STORE_DIR } = options
  const storePath = parseStorePathField(lines, options, storeDir)
  const url = required(lines, 'URL')
  checkNarUrl(url)
  const compression = lines.fields.get('Compression') ?? 'bzip2'
  if (!isCompression(compression)) return invalid(`unknown compression ${compression}`)
  const fileHash = lines.fields.get('FileHash')
  const fileSize = lines.fields.get('FileSize')
  const narHash = parseNarHash(required(lines, 'NarHash'))
  const narSize = parseSize('NarSize', required(lines, 'NarSize'))
  if (narSize === 0) invalid('NarSize is 0')
  const ca = lines.fields.get('CA')
  return {
    storePath,
    url,
    compression,
    fileHash: fileHash === undefined ? undefined : parseHash(fileHash),
    // Nix writes 0 where it does not know.
    fileSize: fileSize === undefined ? undefined : parseSize('FileSize', fileSize) || undefined,
    narHash,
    narSize,
    references: parseReferences(lines.fields.get('References') ?? ''),
    deriver: parseDeriver(lines.fields.get('Deriver'), storeDir),
    signatures: lines.signatures,
    // An empty one is none, as in Nix; any other is written anew, so that one address has one text.
    ca: ca === undefined || ca === '' ? undefined : formatContentAddress(parseContentAddress(ca)),
  }
}

const asText = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')

/**
 * Reads a narinfo strictly. References come sorted and without doubles, malformed signatures are left out, the content
 * address is well-formed. Throws NARINFO_INVALID, whatever is wrong.
 */
export function parseNarinfo(bytes: Uint8Array, options: NarinfoOptions = {}): NarInfo {
  if (bytes.length > NARINFO_MAX_BYTES) invalid(`larger than ${NARINFO_MAX_BYTES} bytes`)
  const text = asText(bytes)
  if (CONTROL.test(text)) invalid('it has a control character')
  const lines = readLines(text)
  try {
    return parseFields(lines, options)
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('invalid narinfo: ')) throw error
    return fail('NARINFO_INVALID', { problem: problemOf(error) }, error)
  }
}

/** Writes a narinfo in the order of Nix; `References: ` always, with its trailing space when there are none. */
export function formatNarinfo(info: NarInfo): string {
  let text = `StorePath: ${info.storePath}\nURL: ${info.url}\nCompression: ${info.compression}\n`
  if (info.fileHash !== undefined) text += `FileHash: ${formatHash(info.fileHash, 'nix32')}\n`
  if (info.fileSize !== undefined) text += `FileSize: ${info.fileSize}\n`
  text += `NarHash: ${formatHash(info.narHash, 'nix32')}\nNarSize: ${info.narSize}\n`
  text += `References: ${info.references.join(' ')}\n`
  if (info.deriver !== undefined) text += `Deriver: ${info.deriver}\n`
  for (const signature of info.signatures) text += `Sig: ${signature}\n`
  if (info.ca !== undefined) text += `CA: ${info.ca}\n`
  return text
}
