// The side file of an export archive: what the archive's format has no place for. UTF-8 text, a line of JSON per path, as
// narwharf writes it:
//
//   {"path":"/nix/store/…","narHash":"sha256-…","narSize":123,"signatures":["name:base64"],"ca":"fixed:r:sha256:…"}
//
// The keys are those of `nix path-info --json`, whose output is read as well: an array of such objects (Nix before 2.19),
// or an object of them by path (since). So whoever has stock Nix only can write one too. Keys that are not known are ignored.
//
// The file needs no trust: a signature covers path, NAR hash, size and references, a content address leads to the path, and both
// are checked against the archive by whoever uses them. Left to others: that check.
import { formatContentAddress, parseContentAddress } from './content-address.ts'
import { fail, problemOf } from './errors.ts'
import { formatHash, parseHash, type Hash } from './hash.ts'
import { SIGNATURES_MAX } from './narinfo.ts'
import type { PathInfo } from './path-info.ts'
import { isSignature } from './signature.ts'
import { DEFAULT_STORE_DIR, hashPartOf, parseStorePath } from './store-path.ts'
import type { HashPart, StorePath } from './store-path.ts'

/** What is said of one path; none of it proven. */
export interface ExportSignatures {
  readonly storePath: StorePath
  readonly narHash: Hash
  /** Well-formed, not verified. */
  readonly signatures: readonly string[]
  /** Well-formed, as Nix writes it. */
  readonly ca?: string | undefined
}

/** What the side file says, by hash part. */
export type SignatureBook = ReadonlyMap<HashPart, ExportSignatures>

/** Bytes of a side file: 200,000 paths with two signatures each. */
export const SIGNATURES_FILE_MAX_BYTES = 64 * 1024 * 1024

/** Lines, empty ones too: each costs some time, whatever its length. */
const LINES_MAX = 500_000

/** Bytes of one line: {@link SIGNATURES_MAX} signatures with the longest names are 40 KB; a line of stock Nix has references too. */
const LINE_MAX_BYTES = 2 * 1024 * 1024

/** Bytes of the output of `nix path-info --json`, which is parsed whole: some 20,000 paths. */
const DOCUMENT_MAX_BYTES = 16 * 1024 * 1024

/** Takes a side file in pieces. After an error every call throws that error again. */
export interface SignaturesReader {
  /** Reads on. Throws EXPORT_SIGNATURES_INVALID. */
  write(chunk: Uint8Array): void
  /** Says that no more comes, and gives what was read. Throws EXPORT_SIGNATURES_INVALID. */
  end(): SignatureBook
}

const NEWLINE = 0x0a

type JsonObject = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Writes the line of one path. */
export function formatExportSignatures(info: PathInfo): string {
  const { storePath, narHash, narSize, signatures, ca } = info
  return `${JSON.stringify({ path: storePath, narHash: formatHash(narHash, 'sri'), narSize, signatures, ca })}\n`
}

/** A signature that is malformed is left out: another one of the path may be good. */
const readSignatures = (value: unknown): string[] =>
  (Array.isArray(value) ? (value as unknown[]) : [])
    .slice(0, SIGNATURES_MAX)
    .filter((one): one is string => typeof one === 'string' && isSignature(one))

/** The same of a content address, of which newer Nix writes kinds that are not known here. */
function readAddress(value: unknown): string | undefined {
  if (typeof value !== 'string' || value === '') return undefined
  try {
    return formatContentAddress(parseContentAddress(value))
  } catch {
    return undefined
  }
}

/** What an object says of a path; undefined where it says only that the path is not there. */
function readEntry(value: JsonObject, path: unknown, storeDir: string) {
  const { narHash } = value
  if (typeof path !== 'string') throw new Error('an entry has no path')
  const storePath = parseStorePath(path, storeDir)
  if (narHash === undefined || narHash === null) return undefined
  if (typeof narHash !== 'string') throw new Error(`the narHash of ${path} is no text`)
  return {
    storePath,
    narHash: parseHash(narHash, { algorithm: 'sha256' }),
    signatures: readSignatures(value.signatures),
    ca: readAddress(value.ca),
  }
}

/** The objects of a whole document, each with its path. */
function* entriesOf(document: unknown): Generator<readonly [value: JsonObject, path: unknown]> {
  const entries = Array.isArray(document)
    ? document.map((value: unknown) => [undefined, value] as const)
    : isObject(document)
      ? Object.entries(document)
      : undefined
  if (entries === undefined) throw new Error('it is neither lines of objects nor a list of them')
  for (const [key, value] of entries) {
    // Newer Nix writes null for a path that is not there.
    if (value === null) continue
    if (!isObject(value)) throw new Error('an entry is no object')
    yield [value, key ?? value.path]
  }
}

/** A reader of both forms: lines one by one, so that only what they say is kept; a document at the end. */
export function createSignaturesReader(storeDir: string = DEFAULT_STORE_DIR): SignaturesReader {
  const book = new Map<HashPart, ExportSignatures>()
  /** Undefined until the first line shows it. */
  let form: 'lines' | 'document' | undefined
  let pending: Buffer[] = []
  let pendingBytes = 0
  let bytes = 0
  let lines = 0
  let poison: { readonly error: unknown } | undefined

  const add = (value: JsonObject, path: unknown): void => {
    const entry = readEntry(value, path, storeDir)
    if (entry !== undefined) book.set(hashPartOf(entry.storePath), entry)
  }

  const keep = (piece: Buffer): void => {
    // The chunk is the writer's own again after the call.
    pending.push(Buffer.from(piece))
    pendingBytes += piece.length
    // A document on one line, as Nix writes it, is told by its length at the latest.
    if (form === undefined && pendingBytes > LINE_MAX_BYTES) form = 'document'
    const limit = form === 'document' ? DOCUMENT_MAX_BYTES : LINE_MAX_BYTES
    if (pendingBytes > limit) throw new Error(`more than ${limit} bytes in one piece`)
  }

  const takePending = (): string => {
    const text = Buffer.concat(pending, pendingBytes).toString('utf8')
    pending = []
    pendingBytes = 0
    return text
  }

  const takeLine = (): void => {
    const kept = pending
    const text = takePending()
    if (++lines > LINES_MAX) throw new Error(`more than ${LINES_MAX} lines`)
    if (text.trim() === '') return
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (error) {
      if (form === 'lines') throw new Error(`line ${lines} is no JSON`, { cause: error })
    }
    if (form === undefined) {
      form = isObject(value) && typeof value.path === 'string' ? 'lines' : 'document'
      if (form === 'document') return kept.forEach(keep)
    }
    if (!isObject(value)) throw new Error(`line ${lines} is no object`)
    add(value, value.path)
  }

  const read = (data: Buffer): void => {
    let at = 0
    while (at < data.length) {
      if (form === 'document') return keep(data.subarray(at))
      const newline = data.indexOf(NEWLINE, at)
      if (newline < 0) return keep(data.subarray(at))
      keep(data.subarray(at, newline + 1))
      at = newline + 1
      // It may have turned out to be a document just now.
      if (form === undefined || form === 'lines') takeLine()
    }
  }

  const guarded = <T>(action: () => T): T => {
    if (poison !== undefined) throw poison.error
    try {
      return action()
    } catch (error) {
      try {
        return fail('EXPORT_SIGNATURES_INVALID', { problem: problemOf(error) }, error)
      } catch (typed) {
        poison = { error: typed }
        throw typed
      }
    }
  }

  return {
    write(chunk) {
      guarded(() => {
        bytes += chunk.length
        if (bytes > SIGNATURES_FILE_MAX_BYTES) {
          throw new Error(`more than ${SIGNATURES_FILE_MAX_BYTES} bytes`)
        }
        read(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength))
      })
    },
    end: () =>
      guarded(() => {
        if (form !== 'document') takeLine()
        if (form === 'document') {
          for (const [value, path] of entriesOf(JSON.parse(takePending()))) add(value, path)
        }
        return book
      }),
  }
}
