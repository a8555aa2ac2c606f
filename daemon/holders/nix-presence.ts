import { problemOf } from '../../protocol/errors.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import { createHashPartFilter, type HashPartFilter } from './hash-part-filter.ts'
import type { NixDb, NixQueries } from './nix-db.ts'
import { LAST_GIVEN_ID, PATHS_AFTER } from './nix-rows.ts'

// Most questions are about paths that are not here: a client with three substituters asks each of them for everything. A
// filter over the hash parts of all rows answers those without the database, at four bytes a path. It never says no
// to a path that is there: rows that came since are taken in before it answers, and rows that went only cost a look.

/** Room for so many times the paths of the first walk; a filter that is full is given up until the next walk. */
const ROOM_FACTOR = 2

/** Rows taken in before an answer at most, a millisecond; with more to come the database is asked. */
const ROWS_PER_FOLD = 500

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
  readonly parts: HashPartFilter
  lastId: number
  /** Version of the database up to which rows are in; undefined while the walk goes on. */
  version: number | undefined
  complete: boolean
}

/** The filter of one database; `version` is its version as a question may rely on it. */
export function createNixPresence(db: NixDb, storeDir: string, version: () => number): NixPresence {
  let filter: Filter | undefined

  /** Takes in what came since; whether that was all, so that the filter may speak. */
  const fold = (into: Filter, now: number): boolean =>
    db.read(queries => {
      if (queries.file !== into.file || isRolledBack(queries, into.lastId) || into.parts.isFull) {
        filter = undefined
        return false
      }
      const rows = queries.all(PATHS_AFTER, into.lastId, ROWS_PER_FOLD)
      for (const [id, path] of rows) {
        into.lastId = id as number
        into.parts.put(String(path).slice(storeDir.length + 1, storeDir.length + 33))
      }
      if (rows.length === ROWS_PER_FOLD) return false
      into.version = now
      return true
    })

  return {
    begin(file, rows) {
      const parts = createHashPartFilter(rows * ROOM_FACTOR)
      filter = { file, parts, lastId: 0, version: undefined, complete: false }
    },
    add(part) {
      filter?.parts.put(part)
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
      return filter.parts.mayHave(part)
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
