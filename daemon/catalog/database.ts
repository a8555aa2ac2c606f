import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import SqliteDatabase, { type Database } from 'better-sqlite3'
import { fail, isNarwharfError } from '../../protocol/errors.ts'
import type { Problem } from '../../protocol/api.ts'

/** Damaged files kept for a look, newest last: more only fill the disk. */
const DAMAGED_KEPT = 3

/**
 * After an unclean end, a file up to this many bytes is checked whole before use (about a second); a larger one is
 * trusted until a read finds it damaged.
 */
const CHECKED_WHOLE_BYTES = 256 * 1024 * 1024

/**
 * Page cache of a connection, KiB. The writer's is for trees that rows go into at random; a lookup that finds its page in the
 * kernel's cache instead costs 1.4 of 11 us more, and 150 MB are to be enough for the daemon.
 */
const WRITER_CACHE_KIB = 16 * 1024
const READER_CACHE_KIB = 3 * 1024

/** How long a connection waits for the other's write, ms: only the first moments of a start can meet. */
const BUSY_TIMEOUT_MS = 5000

const MIGRATIONS = new URL('./migrations/', import.meta.url)

function migrations(): readonly { readonly version: number; readonly sql: string }[] {
  return readdirSync(MIGRATIONS)
    .filter(name => /^\d{3}\.sql$/.test(name))
    .sort()
    .map(name => ({
      version: Number.parseInt(name, 10),
      sql: readFileSync(new URL(name, MIGRATIONS), 'utf8'),
    }))
}

/** Opens one connection. `readOnly` refuses writes but may still recover a WAL left by a kill. */
export function connect(file: string, options: { readonly readOnly: boolean }): Database {
  const database = new SqliteDatabase(file, { timeout: BUSY_TIMEOUT_MS })
  try {
    database.pragma(`cache_size = -${options.readOnly ? READER_CACHE_KIB : WRITER_CACHE_KIB}`)
    database.pragma('temp_store = MEMORY')
    database.pragma('foreign_keys = ON')
    if (options.readOnly) {
      database.pragma('query_only = ON')
    } else {
      database.pragma('journal_mode = WAL')
      // A power cut may lose the newest rows, never tear the file; each can be found again.
      database.pragma('synchronous = NORMAL')
    }
  } catch (error) {
    database.close()
    throw error
  }
  return database
}

/** Whether SQLite says that the file itself is damaged, as opposed to a full disk or a lock. */
export function isDamage(error: unknown): boolean {
  return error instanceof SqliteDatabase.SqliteError && /^SQLITE_(CORRUPT|NOTADB)/.test(error.code)
}

function migrate(database: Database, file: string): void {
  const known = migrations()
  const newest = known.at(-1)?.version ?? 0
  const found = Number(database.pragma('user_version', { simple: true }))
  if (found > newest) fail('CATALOG_TOO_NEW', { file, found, known: newest })
  for (const { version, sql } of known) {
    if (version <= found) continue
    database.transaction(() => {
      database.exec(sql)
      database.pragma(`user_version = ${version}`)
    })()
  }
}

function prepareOnce(file: string): void {
  // A write-ahead log is only left where the last run did not close.
  const uncleanEnd = existsSync(`${file}-wal`) && statSync(`${file}-wal`).size > 0
  const database = connect(file, { readOnly: false })
  try {
    if (uncleanEnd && statSync(file).size <= CHECKED_WHOLE_BYTES) {
      const answer = String(database.pragma('quick_check(1)', { simple: true }))
      if (answer !== 'ok') throw new SqliteDatabase.SqliteError(answer, 'SQLITE_CORRUPT')
    }
    migrate(database, file)
  } finally {
    database.close()
  }
}

/** The note that a running daemon leaves when it met damage: the next start begins anew. */
function markOf(file: string): string {
  return `${file}.is-damaged`
}

/** Leaves word for the next {@link prepareDatabase} that the file is damaged. */
export function markDamaged(file: string, problem: string): void {
  writeFileSync(markOf(file), `${problem}\n`)
}

function moveAside(file: string): string {
  let n = 1
  while (existsSync(`${file}.damaged-${n}`)) n++
  const aside = `${file}.damaged-${n}`
  for (const suffix of ['', '-wal', '-shm']) {
    if (existsSync(file + suffix)) renameSync(file + suffix, aside + suffix)
  }
  for (const suffix of ['', '-wal', '-shm']) {
    rmSync(`${file}.damaged-${n - DAMAGED_KEPT}${suffix}`, { force: true })
  }
  rmSync(markOf(file), { force: true })
  return aside
}

/**
 * Makes the catalog file ready: creates it, migrates it, moves a damaged one aside (`<file>.damaged-<n>`) and begins anew,
 * saying so in the returned problems. Throws CATALOG_TOO_NEW, or CATALOG_UNUSABLE when the file cannot be used at all.
 */
export function prepareDatabase(file: string): readonly Problem[] {
  const problems: Problem[] = []
  const beginAnew = (why: string): void => {
    const aside = moveAside(file)
    problems.push({
      what: `the catalog was damaged (${why}) and has been begun anew; the old one is kept as ${aside}`,
      hint: 'nothing is lost: the catalog only holds facts that are found again; look at the disk if it recurs',
    })
  }
  try {
    mkdirSync(dirname(file), { recursive: true })
    if (existsSync(markOf(file))) beginAnew(readFileSync(markOf(file), 'utf8').trim())
    try {
      prepareOnce(file)
    } catch (error) {
      if (!isDamage(error)) throw error
      beginAnew((error as Error).message)
      prepareOnce(file)
    }
  } catch (error) {
    if (isNarwharfError(error)) throw error
    fail('CATALOG_UNUSABLE', { file, problem: (error as Error).message }, error)
  }
  return problems
}
