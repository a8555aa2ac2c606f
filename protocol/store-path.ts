// Store paths: `<store dir>/<hash part>-<name>`, hash part 32 nix32 characters (20 bytes), name 1..211 characters of
// [0-9A-Za-z+-._?=] that is not "." or ".." and does not start with ".-" or "..-". And how a path follows from what it
// names. Sources: NixOS/nix src/libstore/path.cc, store-api.cc (makeStorePath), manual "Store Path Specification".
import { createHash } from 'node:crypto'
import { fail } from './errors.ts'
import { formatHash, hashOf } from './hash.ts'
import type { Hash } from './hash.ts'
import { encodeNix32 } from './nix32.ts'

/** The 32 nix32 characters that name a store path: `HashPart` only comes from a parser. */
export type HashPart = string & { readonly __brand: 'HashPart' }

/** `<hash part>-<name>`, without the store directory. */
export type BaseName = string & { readonly __brand: 'BaseName' }

/** `<store dir>/<hash part>-<name>`. */
export type StorePath = string & { readonly __brand: 'StorePath' }

export const DEFAULT_STORE_DIR = '/nix/store'

/** Characters of a hash part. */
export const HASH_PART_LENGTH = 32

/** Most characters of a name: 255, the longest file name, less the hash part, its dash and `.lock`-like suffixes (path.hh). */
export const NAME_MAX_LENGTH = 211

/** Most characters of a store directory: PATH_MAX of Linux less room for base name and a file inside. */
export const STORE_DIR_MAX_LENGTH = 1024

const HASH_PART = /^[0-9a-df-np-sv-z]{32}$/
const NAME = /^(?!\.\.?(?:-|$))[0-9A-Za-z+\-._?=]{1,211}$/
const BASE_NAME = /^[0-9a-df-np-sv-z]{32}-(?!\.\.?(?:-|$))[0-9A-Za-z+\-._?=]{1,211}$/
const STORE_DIR = /^(?:\/(?!\.\.?(?:\/|$))[!-.0-9;-~]+)+$/

const invalid = (value: string, problem: string): never =>
  fail('STORE_PATH_INVALID', { value, problem })

/** Reads a hash part; throws STORE_PATH_INVALID. */
export function parseHashPart(text: string): HashPart {
  if (!HASH_PART.test(text)) return invalid(text, 'a hash part has 32 nix32 characters')
  return text as HashPart
}

/** Whether a text may be the name of a store path. */
export const isStoreName = (text: string): boolean => NAME.test(text)

/** Reads `<hash part>-<name>`; throws STORE_PATH_INVALID. */
export function parseBaseName(text: string): BaseName {
  if (!BASE_NAME.test(text)) return invalid(text, baseNameProblem(text))
  return text as BaseName
}

/** Which rule a bad base name breaks: only for the message, off the hot path. */
function baseNameProblem(text: string): string {
  if (!HASH_PART.test(text.slice(0, HASH_PART_LENGTH))) {
    return 'it must begin with a hash part of 32 nix32 characters'
  }
  if (text[HASH_PART_LENGTH] !== '-') return 'no dash behind the hash part'
  const name = text.slice(HASH_PART_LENGTH + 1)
  if (name === '') return 'the name is empty'
  if (name.length > NAME_MAX_LENGTH) return `the name is longer than ${NAME_MAX_LENGTH} characters`
  if (/^\.\.?(?:-|$)/.test(name)) return 'the name is or begins like a relative path'
  return 'the name has a character other than 0-9 A-Z a-z + - . _ ? ='
}

/** Reads a whole store path (not one inside it) of that store directory; throws STORE_PATH_INVALID. */
export function parseStorePath(text: string, storeDir: string = DEFAULT_STORE_DIR): StorePath {
  const at = storeDir.length
  if (!text.startsWith(storeDir) || text[at] !== '/') return invalid(text, `not below ${storeDir}`)
  const baseName = text.slice(at + 1)
  if (!BASE_NAME.test(baseName)) return invalid(text, baseNameProblem(baseName))
  return text as StorePath
}

/** Reads a store directory: absolute, normalised, printable ASCII, no colon; throws STORE_PATH_INVALID. */
export function parseStoreDir(text: string): string {
  if (text.length > STORE_DIR_MAX_LENGTH) invalid(text, 'the store directory is too long')
  if (!STORE_DIR.test(text)) {
    invalid(text, 'a store directory is an absolute path without ".", "..", "//", space or colon')
  }
  return text
}

/** Where the base name starts: no base name has a slash, so the last one ends the store directory (-1 + 1 = 0 without any). */
const baseNameStart = (path: StorePath | BaseName): number => path.lastIndexOf('/') + 1

/** The hash part of a store path or base name. */
export function hashPartOf(path: StorePath | BaseName): HashPart {
  const start = baseNameStart(path)
  return path.slice(start, start + HASH_PART_LENGTH) as HashPart
}

/** The name of a store path or base name. */
export const nameOf = (path: StorePath | BaseName): string =>
  path.slice(baseNameStart(path) + HASH_PART_LENGTH + 1)

/** The base name of a store path. */
export const baseNameOf = (path: StorePath): BaseName => path.slice(baseNameStart(path)) as BaseName

/** The store directory of a store path. */
export const storeDirOf = (path: StorePath): string => path.slice(0, baseNameStart(path) - 1)

/** `<store dir>/<base name>`; the store directory must come from {@link parseStoreDir} or a constant. */
export const joinStorePath = (storeDir: string, baseName: BaseName): StorePath =>
  `${storeDir}/${baseName}` as StorePath

/** Bytes of a store path's hash, folded out of a SHA-256. */
const STORE_HASH_BYTES = 20

/**
 * The store path of a kind of object (`source`, `text:<refs>`, `output:out`), its hash and its name.
 * Throws STORE_PATH_INVALID for a name that may not be one.
 */
export function computeStorePath(
  type: string,
  hash: Hash,
  name: string,
  storeDir: string = DEFAULT_STORE_DIR,
): StorePath {
  if (!isStoreName(name)) invalid(name, 'not a valid name')
  const digest = createHash('sha256')
    .update(`${type}:${formatHash(hash, 'base16')}:${storeDir}:${name}`)
    .digest()
  const folded = Buffer.alloc(STORE_HASH_BYTES)
  digest.forEach((byte, index) => {
    const at = index % STORE_HASH_BYTES
    folded[at] = (folded[at] as number) ^ byte
  })
  return `${storeDir}/${encodeNix32(folded)}-${name}` as StorePath
}

const typeWithReferences = (
  type: string,
  references: readonly BaseName[],
  selfReference: boolean,
  storeDir: string,
): string => {
  // Base names are ASCII: the default sort is the byte order of Nix's std::set.
  const sorted = [...new Set(references)].sort()
  const paths = sorted.map(reference => `:${joinStorePath(storeDir, reference)}`)
  return type + paths.join('') + (selfReference ? ':self' : '')
}

/** What a text file's path follows from: name, SHA-256 of the content, references (base names). */
export interface TextObject {
  readonly name: string
  readonly hash: Hash
  readonly references: readonly BaseName[]
}

/** The path of a text file (`builtins.toFile`, .drv). Throws CONTENT_ADDRESS_INVALID for a hash other than sha256. */
export function computeTextPath(
  { name, hash, references }: TextObject,
  storeDir: string = DEFAULT_STORE_DIR,
): StorePath {
  if (hash.algorithm !== 'sha256') {
    fail('CONTENT_ADDRESS_INVALID', {
      value: `text:${formatHash(hash, 'nix32')}`,
      problem: 'a text file is addressed by sha256',
    })
  }
  return computeStorePath(
    typeWithReferences('text', references, false, storeDir),
    hash,
    name,
    storeDir,
  )
}

/** Whether a fixed output's hash is of the file's content or of its NAR. */
export type FixedOutputMethod = 'flat' | 'recursive'

/** What a fixed output's path follows from; only a recursive sha256 one may have references (base names, self not among them). */
export interface FixedOutputObject {
  readonly name: string
  readonly hash: Hash
  readonly method: FixedOutputMethod
  readonly references?: readonly BaseName[] | undefined
  readonly selfReference?: boolean | undefined
}

/** The path of a fixed output or an added source. Throws CONTENT_ADDRESS_INVALID where there may be no references. */
export function computeFixedOutputPath(
  { name, hash, method, references = [], selfReference = false }: FixedOutputObject,
  storeDir: string = DEFAULT_STORE_DIR,
): StorePath {
  if (method === 'recursive' && hash.algorithm === 'sha256') {
    const type = typeWithReferences('source', references, selfReference, storeDir)
    return computeStorePath(type, hash, name, storeDir)
  }
  const prefix = method === 'recursive' ? 'r:' : ''
  if (references.length > 0 || selfReference) {
    fail('CONTENT_ADDRESS_INVALID', {
      value: `fixed:${prefix}${formatHash(hash, 'nix32')}`,
      problem: 'only recursive sha256 content may have references',
    })
  }
  const inner = hashOf('sha256', `fixed:out:${prefix}${formatHash(hash, 'base16')}:`)
  return computeStorePath('output:out', inner, name, storeDir)
}
