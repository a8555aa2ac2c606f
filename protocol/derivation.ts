// Derivations, the .drv files of a Nix store: one ATerm, without white space.
//
//   drv     = "Derive([" output,* "],[" input,* "],[" string,* "]," system "," builder ",[" arg,* "],[" env,* "])"
//   output  = "(" name "," path "," hash-algorithm "," hash ")"
//   input   = "(" drv path ",[" output name,* "])"         env = "(" name "," value ")"
//   string  = '"' (byte or escape)* '"'                    escapes \" \\ \n \r \t
//
// An output is by its three strings: path only: input-addressed; path, `[r:]algo`, hex digits: fixed; `[r:]algo` only:
// floating; the same with the hash "impure": impure; none: deferred (its path is known after an input is built).
// `text:` and `git:` are experimental methods. The grammar has a fixed depth, so the parser cannot be driven deep;
// it runs once over the bytes. Stricter than Nix, so that a derivation has one spelling: no other escapes, no raw newline,
// return or tab in a string, hex in lower case, nothing twice in a list. Not read: DrvWithVersion (dynamic derivations).
// Source: NixOS/nix src/libstore/derivations.cc (parseDerivation, unparse).
import { isUtf8 } from 'node:buffer'
import { fail, problemOf } from './errors.ts'
import { HASH_BYTES, formatHash, isHashAlgorithm, parseHash } from './hash.ts'
import type { Hash, HashAlgorithm } from './hash.ts'
import {
  DEFAULT_STORE_DIR,
  computeFixedOutputPath,
  isStoreName,
  nameOf,
  parseStorePath,
  storeDirOf,
} from './store-path.ts'
import type { FixedOutputMethod, StorePath } from './store-path.ts'

/** Bytes of the largest .drv read; the largest of nixpkgs 20.09 has 3.2 MB. */
export const DERIVATION_MAX_BYTES = 64 * 1024 * 1024

/** Most items of one list (outputs, inputs, arguments, variables); real ones have some thousands. */
export const DERIVATION_LIST_MAX = 1_000_000

/** How an output's content becomes its hash; `text` and `git` are experimental. */
export type OutputMethod = FixedOutputMethod | 'text' | 'git'

/** One output, by what is known of its path before building. */
export type DerivationOutput =
  | { readonly kind: 'input-addressed'; readonly path: StorePath }
  | {
      readonly kind: 'fixed'
      readonly path: StorePath
      readonly method: OutputMethod
      readonly hash: Hash
    }
  | {
      readonly kind: 'floating' | 'impure'
      readonly method: OutputMethod
      readonly algorithm: HashAlgorithm
    }
  | { readonly kind: 'deferred' }

/** A derivation: maps and lists keep the order of the file, which Nix sorts. */
export interface Derivation {
  readonly outputs: ReadonlyMap<string, DerivationOutput>
  /** Names of the outputs used, by .drv path. */
  readonly inputDerivations: ReadonlyMap<StorePath, readonly string[]>
  readonly inputSources: readonly StorePath[]
  readonly system: string
  readonly builder: string
  readonly args: readonly string[]
  /** A Map, so that a variable named `__proto__` is one like any other. */
  readonly env: ReadonlyMap<string, string>
}

const QUOTE = 0x22
const BACKSLASH = 0x5c

const BRACKET = 0x5d
const TAB = 0x09
const NEWLINE = 0x0a
const RETURN = 0x0d

/** The byte that stands for an escaped one: n, r, t, the quote and the backslash. */
const ESCAPES: ReadonlyMap<number, number> = new Map([
  [0x6e, NEWLINE],
  [0x72, RETURN],
  [0x74, TAB],
  [QUOTE, QUOTE],
  [BACKSLASH, BACKSLASH],
])

const METHOD_PREFIXES: Readonly<Record<OutputMethod, string>> = {
  flat: '',
  recursive: 'r:',
  text: 'text:',
  git: 'git:',
}

/** Reads ATerm tokens off the bytes; every fault names its place. */
interface Reader {
  readonly bytes: Buffer
  readonly storeDir: string
  at: number
}

const broken = (offset: number, problem: string): never =>
  fail('DERIVATION_INVALID', { problem, offset })

function expect(reader: Reader, token: string): void {
  const { bytes, at } = reader
  for (let index = 0; index < token.length; index++) {
    if (bytes[at + index] === token.charCodeAt(index)) continue
    broken(at, at + index >= bytes.length ? 'it ends too soon' : `${token} expected`)
  }
  reader.at += token.length
}

/** A byte at a time: a replacing regular expression takes 20 s for a hostile 64 MiB of escapes. */
function unescape(raw: Buffer, start: number): Buffer {
  const plain = Buffer.allocUnsafe(raw.length)
  let length = 0
  for (let at = 0; at < raw.length; at++) {
    let byte = raw[at] as number
    if (byte === BACKSLASH) {
      const escaped = raw[++at] as number
      byte = ESCAPES.get(escaped) ?? broken(start + at, 'unknown escape')
    }
    plain[length++] = byte
  }
  return plain.subarray(0, length)
}

function readString(reader: Reader): string {
  const { bytes } = reader
  expect(reader, '"')
  const start = reader.at
  let end = start
  let escaped = false
  let highBits = 0
  for (; ; end++) {
    const byte = bytes[end]
    if (byte === undefined) return broken(start, 'unterminated string')
    if (byte === QUOTE) break
    if (byte === BACKSLASH) {
      escaped = true
      end++
    } else {
      if (byte === NEWLINE || byte === RETURN || byte === TAB) broken(end, 'unescaped white space')
      highBits |= byte
    }
  }
  reader.at = end + 1
  const raw = bytes.subarray(start, end)
  const plain = escaped ? unescape(raw, start) : raw
  if (highBits < 0x80) return plain.toString('latin1')
  // Nix takes any bytes; a JavaScript string could not give such ones back, so they are refused rather than changed.
  if (!isUtf8(plain)) broken(start, 'a string is not UTF-8')
  return plain.toString('utf8')
}

function readList(reader: Reader, readItem: () => void): void {
  expect(reader, '[')
  if (reader.bytes[reader.at] === BRACKET) {
    reader.at++
    return
  }
  for (let count = 1; ; count++) {
    if (count > DERIVATION_LIST_MAX) broken(reader.at, `more than ${DERIVATION_LIST_MAX} items`)
    readItem()
    if (reader.bytes[reader.at] === BRACKET) break
    expect(reader, ',')
  }
  reader.at++
}

function readStrings(reader: Reader): string[] {
  const strings: string[] = []
  readList(reader, () => strings.push(readString(reader)))
  return strings
}

/** Reads a string by another format's parser, whose complaint becomes one of the derivation. */
function readAs<T>(reader: Reader, parse: (text: string) => T): T {
  const start = reader.at
  const text = readString(reader)
  return parseAt(start, () => parse(text))
}

function parseAt<T>(offset: number, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    return fail('DERIVATION_INVALID', { problem: problemOf(error), offset }, error)
  }
}

const readStorePath = (reader: Reader): StorePath =>
  readAs(reader, text => parseStorePath(text, reader.storeDir))

/** Which of two readers would keep which of two values is anyone's guess: doubles are refused. */
function putOnce<K extends string, V>(map: Map<K, V>, key: K, value: V, offset: number): void {
  if (map.has(key)) broken(offset, `${key} given twice`)
  map.set(key, value)
}

function readOutputName(reader: Reader): string {
  const start = reader.at
  const name = readString(reader)
  if (!isStoreName(name)) broken(start, `${name} is no output name`)
  return name
}

function parseMethod(
  text: string,
  offset: number,
): { method: OutputMethod; algorithm: HashAlgorithm } {
  const colon = text.indexOf(':') + 1
  const prefix = text.slice(0, colon)
  const algorithm = text.slice(colon)
  for (const method of ['flat', 'recursive', 'text', 'git'] as const) {
    if (METHOD_PREFIXES[method] === prefix && isHashAlgorithm(algorithm)) {
      return { method, algorithm }
    }
  }
  return broken(offset, `unknown hash algorithm ${text}`)
}

function parseOutput(
  path: string,
  hashAlgorithm: string,
  digits: string,
  reader: Reader,
  offset: number,
): DerivationOutput {
  const storePath = () => parseAt(offset, () => parseStorePath(path, reader.storeDir))
  if (hashAlgorithm === '') {
    if (digits !== '') broken(offset, 'a hash without its algorithm')
    return path === '' ? { kind: 'deferred' } : { kind: 'input-addressed', path: storePath() }
  }
  const { method, algorithm } = parseMethod(hashAlgorithm, offset)
  if (digits === '' || digits === 'impure') {
    if (path !== '') broken(offset, 'an output whose hash is not known yet has a path')
    return { kind: digits === '' ? 'floating' : 'impure', method, algorithm }
  }
  if (digits.length !== HASH_BYTES[algorithm] * 2) {
    broken(offset, `the hash ${digits} is not ${HASH_BYTES[algorithm] * 2} hex digits`)
  }
  if (/[A-F]/.test(digits)) broken(offset, 'hex digits in upper case')
  const hash = parseAt(offset, () => parseHash(digits, { algorithm }))
  return { kind: 'fixed', path: storePath(), method, hash }
}

function readOutputs(reader: Reader): Map<string, DerivationOutput> {
  const outputs = new Map<string, DerivationOutput>()
  readList(reader, () => {
    const start = reader.at
    expect(reader, '(')
    const name = readOutputName(reader)
    expect(reader, ',')
    const path = readString(reader)
    expect(reader, ',')
    const algorithm = readString(reader)
    expect(reader, ',')
    const output = parseOutput(path, algorithm, readString(reader), reader, start)
    expect(reader, ')')
    putOnce(outputs, name, output, start)
  })
  if (outputs.size === 0) broken(reader.at, 'it has no output')
  const fixed = [...outputs.values()].some(({ kind }) => kind === 'fixed')
  if (fixed && (outputs.size > 1 || !outputs.has('out'))) {
    broken(reader.at, 'a fixed output is the only one and named "out"')
  }
  return outputs
}

function readInputDerivations(reader: Reader): Map<StorePath, readonly string[]> {
  const inputs = new Map<StorePath, readonly string[]>()
  readList(reader, () => {
    const start = reader.at
    expect(reader, '(')
    const path = readStorePath(reader)
    expect(reader, ',')
    const names: string[] = []
    readList(reader, () => names.push(readOutputName(reader)))
    expect(reader, ')')
    putOnce(inputs, path, names, start)
  })
  return inputs
}

function readEnv(reader: Reader): Map<string, string> {
  const env = new Map<string, string>()
  readList(reader, () => {
    const start = reader.at
    expect(reader, '(')
    const name = readString(reader)
    expect(reader, ',')
    const value = readString(reader)
    expect(reader, ')')
    putOnce(env, name, value, start)
  })
  return env
}

/** Reads a .drv file of that store directory, in one pass. Throws DERIVATION_INVALID with the offending byte's offset. */
export function parseDerivation(
  bytes: Uint8Array,
  { storeDir = DEFAULT_STORE_DIR }: { readonly storeDir?: string | undefined } = {},
): Derivation {
  if (bytes.length > DERIVATION_MAX_BYTES) {
    broken(DERIVATION_MAX_BYTES, `larger than ${DERIVATION_MAX_BYTES} bytes`)
  }
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const reader: Reader = { bytes: buffer, storeDir, at: 0 }
  expect(reader, 'Derive(')
  const outputs = readOutputs(reader)
  expect(reader, ',')
  const inputDerivations = readInputDerivations(reader)
  expect(reader, ',')
  const inputSources = new Set<StorePath>()
  readList(reader, () => {
    const start = reader.at
    const path = readStorePath(reader)
    if (inputSources.has(path)) broken(start, `${path} given twice`)
    inputSources.add(path)
  })
  expect(reader, ',')
  const system = readString(reader)
  expect(reader, ',')
  const builder = readString(reader)
  expect(reader, ',')
  const args = readStrings(reader)
  expect(reader, ',')
  const env = readEnv(reader)
  expect(reader, ')')
  if (reader.at !== bytes.length) broken(reader.at, 'something follows the end')
  return { outputs, inputDerivations, inputSources: [...inputSources], system, builder, args, env }
}

/** A fixed output: the path and what its content is promised to hash to. */
export interface FixedOutput {
  readonly path: StorePath
  readonly hash: Hash
  readonly method: FixedOutputMethod
}

/**
 * The fixed output of a derivation, or undefined where it has none or one by an experimental method.
 * Throws DERIVATION_INVALID when the path does not follow from the hash: then one of the two was forged.
 */
export function fixedOutput(derivation: Derivation): FixedOutput | undefined {
  const output = derivation.outputs.get('out')
  if (output?.kind !== 'fixed') return undefined
  const { path, hash, method } = output
  if (method === 'text' || method === 'git') return undefined
  const computed = computeFixedOutputPath({ name: nameOf(path), hash, method }, storeDirOf(path))
  if (computed !== path) broken(0, `output path ${path} does not follow from its hash`)
  return { path, hash, method }
}

const NEEDS_ESCAPE = /["\\\n\r\t]/g
const ESCAPED: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
}

const formatString = (text: string): string =>
  `"${text.replace(NEEDS_ESCAPE, character => ESCAPED[character] as string)}"`

const formatList = (items: readonly string[]): string => `[${items.join(',')}]`
const formatTuple = (items: readonly string[]): string => `(${items.join(',')})`

function formatOutput([name, output]: readonly [string, DerivationOutput]): string {
  const row = (path: string, algorithm: string, hash: string) =>
    formatTuple([name, path, algorithm, hash].map(formatString))
  switch (output.kind) {
    case 'deferred':
      return row('', '', '')
    case 'input-addressed':
      return row(output.path, '', '')
    case 'fixed': {
      const algorithm = METHOD_PREFIXES[output.method] + output.hash.algorithm
      return row(output.path, algorithm, formatHash(output.hash, 'base16', false))
    }
    case 'floating':
    case 'impure': {
      const algorithm = METHOD_PREFIXES[output.method] + output.algorithm
      return row('', algorithm, output.kind === 'impure' ? 'impure' : '')
    }
  }
}

/** Writes a derivation in the order it has: what {@link parseDerivation} read comes out byte for byte. */
export function formatDerivation(derivation: Derivation): string {
  const inputs = [...derivation.inputDerivations].map(([path, names]) =>
    formatTuple([formatString(path), formatList(names.map(formatString))]),
  )
  const env = [...derivation.env].map(pair => formatTuple(pair.map(formatString)))
  const parts = [
    formatList([...derivation.outputs].map(formatOutput)),
    formatList(inputs),
    formatList(derivation.inputSources.map(formatString)),
    formatString(derivation.system),
    formatString(derivation.builder),
    formatList(derivation.args.map(formatString)),
    formatList(env),
  ]
  return `Derive${formatTuple(parts)}`
}
