import { lstatSync, statSync } from 'node:fs'
import Database from 'better-sqlite3'
import { problemOf } from '../../protocol/errors.ts'
import { createReadTurn, type ReadTurn } from '../read-turn.ts'
import type { Reachability } from './reachability.ts'

// db.sqlite of a Nix store, read beside the nix-daemon that writes it. It is in WAL mode: a reader neither blocks writers
// nor the garbage collector, but a long read would keep the WAL from being reused, so every read here is one statement run
// to its end, or ends with the turn of the event loop. Opened in one of two ways:
//
//   shared      mode=ro. Needs -shm and -wal, or the right to make them.
//   immutable   immutable=1, without locks, for a user who may not make them while no writer is there (Nix up to 2.8 takes
//               -wal and -shm away at rest). SQLite then believes that the file never changes, so the file is compared
//               before and after every query, and reopened after every change.

// better-sqlite3 has no other way to immutable=1 than a URI, and reads this once, when its first database is opened.
process.env['SQLITE_USE_URI'] ??= '1'

/** How long a statement may wait for a writer in the way (only without WAL): the event loop stands still meanwhile. */
const BUSY_TIMEOUT_MS = 250

/** How soon a database that could not be opened is tried again although its file looks the same (no descriptors, no memory). */
const RETRY_MS = 1000

/** How often one query may meet a changed file before the database counts as out of reach. */
const ATTEMPTS_MAX = 4

/** The versions of one opening, as SQLite counts them: 32 bits. */
const VERSIONS_PER_OPENING = 2 ** 32

/** What may be asked within one read. */
export interface NixQueries {
  /** First row, as an array of columns, or undefined. */
  get(sql: string, ...parameters: readonly (string | number)[]): readonly unknown[] | undefined
  all(sql: string, ...parameters: readonly (string | number)[]): readonly (readonly unknown[])[]
  /** Changes whenever anybody has written to the database, or another one stands in its place. */
  version(): number
  /** Counts the databases opened in this place: row ids of different ones have nothing to do with each other. */
  readonly opening: number
  /** Device and inode of the file: row ids of one file go on, however often it was opened. */
  readonly file: string
}

export interface NixDb {
  /** Runs short queries of what is there now; throws HOLDER_UNREADABLE when the database is out of reach. */
  read<T>(query: (queries: NixQueries) => T): T
  /**
   * The same of what was there within this turn of the event loop, after the newest `read` in it: at half the cost where
   * many are asked in one turn. The file's place is not looked at again when it was within `lookMs`.
   */
  readInTurn<T>(query: (queries: NixQueries) => T, lookMs: number): T
  close(): void
}

interface Connection extends NixQueries {
  readonly dev: number
  readonly ino: number
  /** The file's state at opening; undefined when shared. */
  readonly frozen: string | undefined
  /** Undefined when frozen: there are no locks to share. */
  readonly turn: ReadTurn | undefined
  close(): void
}

/** What must not change under an immutable reader. */
function stampOf(file: string): string {
  const main = statSync(file, { bigint: true })
  const wal = lstatSync(`${file}-wal`, { bigint: true, throwIfNoEntry: false })
  return `${main.dev}.${main.ino}.${main.size}.${main.mtimeNs}.${main.ctimeNs}.${wal?.size ?? 0n}`
}

const hasUnmergedWal = (file: string): boolean => {
  const wal = lstatSync(`${file}-wal`, { throwIfNoEntry: false })
  return wal !== undefined && wal.size > 0
}

const sqliteCode = (error: unknown): string =>
  error instanceof Database.SqliteError ? error.code : ''

const isRefused = (error: unknown): boolean =>
  /^SQLITE_(?:READONLY|CANTOPEN)/.test(sqliteCode(error))

const uriOf = (file: string): string =>
  `file:${file.split('/').map(encodeURIComponent).join('/')}?mode=ro&immutable=1`

function connect(file: string, opening: number, immutable: boolean): Connection {
  const { dev, ino } = statSync(file)
  const frozen = immutable ? stampOf(file) : undefined
  const database = new Database(immutable ? uriOf(file) : file, {
    readonly: true,
    fileMustExist: true,
    timeout: BUSY_TIMEOUT_MS,
  })
  const statements = new Map<string, Database.Statement>()
  const prepared = (sql: string): Database.Statement => {
    let statement = statements.get(sql)
    if (statement === undefined) {
      statement = database.prepare(sql).raw()
      statements.set(sql, statement)
    }
    return statement
  }
  const turn = immutable ? undefined : createReadTurn(database)
  const connection: Connection = {
    dev,
    ino,
    frozen,
    turn,
    opening,
    file: `${dev}.${ino}`,
    get: (sql, ...parameters) => prepared(sql).get(...parameters) as unknown[] | undefined,
    all: (sql, ...parameters) => prepared(sql).all(...parameters) as unknown[][],
    version() {
      const base = opening * VERSIONS_PER_OPENING
      if (frozen !== undefined) return base
      return base + ((prepared('pragma data_version').get() as [number])[0] ?? 0)
    },
    close() {
      turn?.end()
      database.close()
    },
  }
  try {
    // SQLite touches the file only now: whether it is a database, readable, and of Nix.
    connection.get('select 1 from ValidPaths, Refs limit 1')
    return connection
  } catch (error) {
    database.close()
    throw error
  }
}

/** Makes the reader of one db.sqlite; nothing is opened before the first read. */
export function createNixDb(file: string, reach: Reachability): NixDb {
  let connection: Connection | undefined
  let openings = 0
  let lookedAt = -Infinity
  let failed: { readonly key: string; readonly atMs: number; readonly problem: string } | undefined
  let closed = false

  const drop = (): void => {
    connection?.close()
    connection = undefined
  }

  const explain = (error: unknown): string => {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR') return `${file} does not exist`
    if (code === 'EACCES') return `this user may not read ${file}`
    if (isRefused(error) && hasUnmergedWal(file)) {
      return `this user may not read ${file}-wal and -shm (${problemOf(error)})`
    }
    return `${file}: ${problemOf(error)}`
  }

  /** Tells apart whether it is worth trying again: the file, its rights or its log have changed. */
  const failureKey = (): string => {
    try {
      return stampOf(file)
    } catch (error) {
      return problemOf(error)
    }
  }

  const openAgain = (): Connection => {
    const key = failureKey()
    if (failed?.key === key && Date.now() - failed.atMs < RETRY_MS) throw reach.down(failed.problem)
    try {
      try {
        connection = connect(file, openings + 1, false)
      } catch (error) {
        if (!isRefused(error) || hasUnmergedWal(file)) throw error
        connection = connect(file, openings + 1, true)
      }
      openings++
      failed = undefined
      return connection
    } catch (error) {
      const problem = explain(error)
      failed = { key, atMs: Date.now(), problem }
      throw reach.down(problem, error)
    }
  }

  const isStill = (open: Connection): boolean => {
    if (open.frozen !== undefined) return failureKey() === open.frozen
    try {
      const now = statSync(file, { throwIfNoEntry: false })
      return now !== undefined && now.ino === open.ino && now.dev === open.dev
    } catch {
      return false
    }
  }

  const current = (lookMs: number): Connection => {
    if (closed) throw reach.down('the holder is closed')
    if (connection !== undefined) {
      const now = performance.now()
      if (connection.frozen === undefined && now - lookedAt < lookMs) return connection
      lookedAt = now
      if (isStill(connection)) return connection
      drop()
    }
    return openAgain()
  }

  const read = <T>(query: (queries: NixQueries) => T, inTurn: boolean, lookMs: number): T => {
    let problem = 'it is being written and this user may not read its log'
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const open = current(lookMs)
      try {
        if (inTurn) open.turn?.share()
        else open.turn?.end()
        const result = query(open)
        if (open.frozen === undefined || isStill(open)) {
          reach.up()
          return result
        }
      } catch (error) {
        if (!(error instanceof Database.SqliteError)) throw error
        problem = `${file}: ${error.message}`
        if (/^SQLITE_(?:BUSY|LOCKED)/.test(error.code)) throw reach.down(problem, error)
      }
      drop()
    }
    throw reach.down(problem)
  }

  return {
    read: query => read(query, false, 0),
    readInTurn: (query, lookMs) => read(query, true, lookMs),
    close() {
      closed = true
      drop()
    },
  }
}
