import { problemOf } from '../../protocol/errors.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { NixDb, NixQueries } from './nix-db.ts'
import { LAST_GIVEN_ID, PATHS_AFTER } from './nix-rows.ts'

// Most questions are about paths that are not here: a client with three substituters asks each of them for everything. A
// Bloom filter over the hash parts of all rows answers those without the database, at two bytes a path. It never says no
// to a path that is there: rows that came since are taken in before it answers, and rows that went only cost a look.

/** Bits for every path the filter has room for: with four looks 1 in 400 absent paths is looked up for nothing. */
const BITS_PER_PATH = 16

/** Room for so many times the paths of the first walk; a filter that is full is given up until the next walk. */
const ROOM_FACTOR = 2

/** Room of the smallest filter, paths: 128 KiB. */
const ROOM_MIN = 64 * 1024

/** Rows taken in before an answer at most, a millisecond; with more to come the database is asked. */
const ROWS_PER_FOLD = 500

/** Nix's base 32 digits to their values, by character code. */
const DIGIT_VALUES = new Uint8Array(128)
for (const [value, digit] of '0123456789abcdfghijklmnpqrsvwxyz'.split('').entries()) {
  DIGIT_VALUES[digit.charCodeAt(0)] = value
}

/** Digits of a hash part for one of the four looks, 5 bits each: a hash part is as good as random all through. */
const LOOKS = 4
const DIGITS_PER_LOOK = 6

/** Whether a database may have a hash part. */
export interface NixPresence {
  /** A walk over all rows of that database file begins. */
  begin(file: string, rows: number): void
  add(part: HashPart): void
  /** The walk is over: every row up to that id was added. */
  complete(file: string, lastId: number): void
  /** False only where no path has that hash part now. Throws HOLDER_UNREADABLE as the database does. */
  mayHave(part: HashPart): boolean
}

interface Filter {
  readonly file: string
  readonly bits: Uint8Array
  room: number
  lastId: number
  /** Version of the database up to which rows are in; undefined while the walk goes on. */
  version: number | undefined
  complete: boolean
}

const bitOf = (part: string, look: number, bits: number): number => {
  let value = 0
  const from = look * DIGITS_PER_LOOK
  for (let at = from; at < from + DIGITS_PER_LOOK; at++) {
    value = (value << 5) | (DIGIT_VALUES[part.charCodeAt(at) & 127] ?? 0)
  }
  return (value >>> 0) % bits
}

/** The filter of one database; `version` is its version as a question may rely on it. */
export function createNixPresence(db: NixDb, storeDir: string, version: () => number): NixPresence {
  let filter: Filter | undefined

  const put = (into: Filter, part: string): void => {
    into.room--
    const size = into.bits.length * 8
    for (let look = 0; look < LOOKS; look++) {
      const bit = bitOf(part, look, size)
      into.bits[bit >> 3] = (into.bits[bit >> 3] ?? 0) | (1 << (bit & 7))
    }
  }

  const has = ({ bits }: Filter, part: string): boolean => {
    const size = bits.length * 8
    for (let look = 0; look < LOOKS; look++) {
      const bit = bitOf(part, look, size)
      if (((bits[bit >> 3] ?? 0) & (1 << (bit & 7))) === 0) return false
    }
    return true
  }

  /** Takes in what came since; whether that was all, so that the filter may speak. */
  const fold = (into: Filter, now: number): boolean =>
    db.read(queries => {
      if (queries.file !== into.file || isRolledBack(queries, into.lastId) || into.room <= 0) {
        filter = undefined
        return false
      }
      const rows = queries.all(PATHS_AFTER, into.lastId, ROWS_PER_FOLD)
      for (const [id, path] of rows) {
        into.lastId = id as number
        put(into, String(path).slice(storeDir.length + 1, storeDir.length + 33))
      }
      if (rows.length === ROWS_PER_FOLD) return false
      into.version = now
      return true
    })

  return {
    begin(file, rows) {
      const room = Math.max(ROOM_MIN, rows * ROOM_FACTOR)
      const bits = new Uint8Array(Math.ceil((room * BITS_PER_PATH) / 8))
      filter = { file, bits, room, lastId: 0, version: undefined, complete: false }
    },
    add(part) {
      if (filter !== undefined) put(filter, part)
    },
    complete(file, lastId) {
      if (filter?.file !== file) return
      filter.lastId = lastId
      filter.complete = true
    },
    mayHave(part) {
      if (filter?.complete !== true) return true
      const now = version()
      if (filter.version !== now && !fold(filter, now)) return true
      return has(filter, part)
    },
  }
}

/** Whether ids that the filter has seen may be given again: after that it cannot follow. */
function isRolledBack(queries: NixQueries, lastId: number): boolean {
  try {
    return Number(queries.get(LAST_GIVEN_ID)?.[0] ?? 0) < lastId
  } catch (error) {
    if (/no such table/.test(problemOf(error))) return true
    throw error
  }
}
