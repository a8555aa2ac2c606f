// JSON in one spelling, to sign and to compare: RFC 8785 with whole numbers only.
//
//   members sorted by their names' UTF-16 units, each name once; no white space; strings as JSON.stringify writes them;
//   numbers are safe integers, none is -0; at most 16 levels deep
//
// And a reader of the fields of such a value, which names what is wrong and ignores what it is not asked for.
// Source: RFC 8785 (JSON Canonicalization Scheme), sections 3.2.2 and 3.2.3.
import { isUtf8 } from 'node:buffer'
import { problemOf } from './errors.ts'

/** What has a canonical spelling; members that are undefined are left out. */
export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue | undefined }

/** Levels of lists and objects: what narwharf writes has four, newer versions may nest deeper. */
const DEPTH_MAX = 16

/** Throws the error of a format, with that problem. */
export type Invalid = (problem: string, cause?: unknown) => never

/** Half of a surrogate pair alone: UTF-8 cannot say it, so two texts would be one in bytes. */
const LONE_SURROGATE = /\p{Surrogate}/u

function stringText(text: string, invalid: Invalid): string {
  if (LONE_SURROGATE.test(text)) invalid('a text has half a character')
  return JSON.stringify(text)
}

/** The canonical spelling of a value, without a newline. Calls `invalid` for one that has none. */
export function formatCanonicalJson(value: JsonValue, invalid: Invalid, depth = 0): string {
  switch (typeof value) {
    case 'string':
      return stringText(value, invalid)
    case 'number':
      if (!Number.isSafeInteger(value) || Object.is(value, -0))
        invalid(`${value} is no whole number`)
      return String(value)
    case 'boolean':
      return String(value)
    default:
  }
  if (value === null) return 'null'
  if (depth === DEPTH_MAX) invalid(`nested deeper than ${DEPTH_MAX}`)
  if (isList(value)) {
    return `[${value.map(item => formatCanonicalJson(item, invalid, depth + 1)).join(',')}]`
  }
  const members: string[] = []
  // The default sort is by UTF-16 units.
  for (const name of Object.keys(value).sort()) {
    const member = value[name]
    if (member === undefined) continue
    members.push(`${stringText(name, invalid)}:${formatCanonicalJson(member, invalid, depth + 1)}`)
  }
  return `{${members.join(',')}}`
}

const isList = (value: JsonValue): value is readonly JsonValue[] => Array.isArray(value)

/** Reads the canonical spelling of an object with a newline behind it, and no other spelling. Calls `invalid`. */
export function parseCanonicalJson(
  bytes: Uint8Array,
  invalid: Invalid,
): Readonly<Record<string, JsonValue>> {
  if (!isUtf8(bytes)) return invalid('not UTF-8')
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')
  let value: JsonValue
  try {
    value = JSON.parse(text) as JsonValue
  } catch (error) {
    return invalid(problemOf(error), error)
  }
  if (typeof value !== 'object' || value === null || isList(value)) return invalid('no object')
  // Names given twice, blanks, 1e3 for 1000: another reader might take them otherwise than this one.
  if (`${formatCanonicalJson(value, invalid)}\n` !== text) {
    invalid('not in canonical form: names sorted, each once, no white space, a newline at the end')
  }
  return value as Readonly<Record<string, JsonValue>>
}

/** Reads a text, or throws; what it throws becomes the problem of the field. */
export type ParseText<T> = (text: string) => T

/** The fields of one object. Each verb calls `invalid` where the field is absent or not as it should be. */
export interface JsonFields {
  readonly flag: (name: string) => boolean
  readonly text: <T>(name: string, parse: ParseText<T>) => T
  readonly optionalText: <T>(name: string, parse: ParseText<T>) => T | undefined
  /** A whole number from `min` (0 unless told) to `max`. */
  readonly number: (name: string, max: number, min?: number) => number
  /** At most `max` items. */
  readonly list: <T>(name: string, max: number, read: (item: unknown, where: string) => T) => T[]
  /** At most `max` texts. */
  readonly texts: <T>(name: string, max: number, parse: ParseText<T>) => T[]
  readonly optionalObject: <T>(name: string, read: (fields: JsonFields) => T) => T | undefined
}

/** A reader of the fields of what should be an object; `where` names it in problems. */
export function jsonFields(value: unknown, where: string, invalid: Invalid): JsonFields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return invalid(`${where} is no object`)
  }
  const has = (name: string): boolean => Object.hasOwn(value, name)
  // Own members only: a __proto__ in hostile JSON is a name like any other.
  const get = (name: string): unknown =>
    has(name) ? (value as Record<string, unknown>)[name] : undefined
  const parsed = <T>(item: unknown, what: string, parse: ParseText<T>): T => {
    if (typeof item !== 'string') return invalid(`${what} is no text`)
    try {
      return parse(item)
    } catch (error) {
      return invalid(`${what}: ${problemOf(error)}`, error)
    }
  }
  const text: JsonFields['text'] = (name, parse) => parsed(get(name), `${where}.${name}`, parse)
  const object = (name: string): JsonFields => jsonFields(get(name), `${where}.${name}`, invalid)
  const list: JsonFields['list'] = (name, max, read) => {
    const items = get(name)
    if (!Array.isArray(items)) return invalid(`${where}.${name} is no list`)
    if (items.length > max) invalid(`${where}.${name} has more than ${max} items`)
    return items.map((item: unknown, at) => read(item, `${where}.${name}[${at}]`))
  }
  return {
    flag(name) {
      const flag = get(name)
      return typeof flag === 'boolean'
        ? flag
        : invalid(`${where}.${name} is neither true nor false`)
    },
    text,
    optionalText: (name, parse) => (has(name) ? text(name, parse) : undefined),
    number(name, max, min = 0) {
      const number = get(name)
      if (!Number.isSafeInteger(number) || (number as number) < min || (number as number) > max) {
        return invalid(`${where}.${name} is no whole number from ${min} to ${max}`)
      }
      return number as number
    },
    list,
    texts: (name, max, parse) => list(name, max, (item, what) => parsed(item, what, parse)),
    optionalObject: (name, read) => (has(name) ? read(object(name)) : undefined),
  }
}
