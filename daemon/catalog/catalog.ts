import type { Database } from 'better-sqlite3'
import type { Problem } from '../../protocol/api.ts'
import { problemOf } from '../../protocol/errors.ts'
import type { HolderKind } from '../holders/holder.ts'
import { createReadTurn, type ReadTurn } from '../read-turn.ts'
import { connect, isDamage, markDamaged, prepareDatabase } from './database.ts'
import { createHoldings, type Holdings } from './holdings.ts'
import { createDriveRows, type DriveRows } from './drives.ts'
import { createJobRows, type JobRows } from './jobs.ts'
import { createIndexes, type Indexes } from './indexes.ts'
import type { CatalogQuery } from './query.ts'
import {
  createDecisions,
  createVerifications,
  type Decisions,
  type MemoryParts,
  type Verifications,
  type DecisionKey,
} from './remembered.ts'
import { searchPaths, type CatalogMatches } from './search.ts'
import { createStatements, type Statements } from './statements.ts'
import { startWriter, startWriterHere, type WriterClient } from './writer-client.ts'

/** A holder as the catalog knows it; times in ms since 1970. */
export interface CatalogHolder {
  readonly id: string
  readonly kind: HolderKind
  readonly storeDir: string
  /** The machine it is on. */
  readonly host: string
  readonly up: boolean
  readonly lastSeen?: number | undefined
  readonly problem?: string | undefined
  /** Counted by the newest whole inventory. */
  readonly paths?: number | undefined
  readonly narBytes?: number | undefined
  readonly inventoryAt?: number | undefined
}

/**
 * The host's SQLite database: who holds which paths, and what was proven of them. A cache of facts that can be found
 * again, so damage costs time and nothing else: reads of a damaged catalog find nothing, writes are given up, and the
 * next start begins anew. Reads are synchronous on this thread; every write happens in a thread of its own.
 */
export interface Catalog {
  /** Throws CATALOG_TOO_NEW or CATALOG_UNUSABLE. */
  open(): Promise<void>
  /** Writes what waits, then closes. */
  close(): Promise<void>
  /** What a person should know of, e.g. that a damaged file was moved aside. */
  problems(): readonly Problem[]
  readonly decisions: Decisions
  /** Narinfos as they were last written for clients on this machine, kept like decisions, beside them. */
  readonly narinfos: Decisions
  readonly verifications: Verifications
  readonly holders: {
    upsert(holder: Omit<CatalogHolder, 'paths' | 'narBytes' | 'inventoryAt'>): Promise<void>
    list(): readonly CatalogHolder[]
    /** Takes a holder and its holdings out. */
    forget(id: string): Promise<void>
  }
  readonly holdings: Holdings
  /** What the hosts of the site say they hold, and this host's own log. */
  readonly indexes: Indexes
  /** Long work of this host, over restarts. */
  readonly jobs: JobRows
  /** The drives that this host has seen. */
  readonly drives: DriveRows
  /** Matches in order of name, at most `limit`, and how many more there are. */
  search(query: CatalogQuery, limit: number): Promise<CatalogMatches>
  /** Resolves when everything put so far is written. */
  flush(): Promise<void>
}

export interface CatalogOptions {
  /** `<state dir>/catalog.sqlite`. */
  readonly file: string
  /** Ms since 1970. */
  readonly clock?: (() => number) | undefined
  /** False writes on the calling thread: a program that serves nobody need not start one. Default true. */
  readonly writerThread?: boolean | undefined
  /** Paths that nobody has any more worth a search for references to them. */
  readonly sweepAt?: number | undefined
}

/** The catalog of one host, closed until `open()`. */
export function createCatalog({
  file,
  clock = Date.now,
  writerThread = true,
  sweepAt,
}: CatalogOptions): Catalog {
  let database: Database | undefined
  let statements: Statements | undefined
  let turn: ReadTurn | undefined
  // Searches take many turns: on a connection of their own they hold no old snapshot before anyone's eyes.
  let searching: { readonly database: Database; readonly sql: Statements } | undefined
  const searches = new Set<Promise<unknown>>()
  let client: WriterClient | undefined
  let problems: Problem[] = []
  let failure: Problem | undefined
  let closing: Promise<void> | undefined

  const onDamage = (problem: string): void => {
    if (problems.some(({ what }) => what.includes('is damaged'))) return
    markDamaged(file, problem)
    problems.push({
      what: `the catalog ${file} is damaged: ${problem}`,
      hint: 'restart narwharf: it moves the file aside and begins anew, nothing else is lost',
    })
  }
  const onWritten = (error: unknown): void => {
    // What is written now is no longer found waiting, so that it must be found in the file.
    turn?.end()
    failure =
      error === undefined
        ? undefined
        : {
            what: `the catalog ${file} cannot be written: ${problemOf(error)}`,
            hint: 'look for a full or read-only disk; until then proofs are worked out again after a restart',
          }
  }
  const readNow = <T>(work: (sql: Statements) => T): T | undefined => {
    if (statements === undefined) return undefined
    try {
      return work(statements)
    } catch (error) {
      if (!isDamage(error)) throw error
      onDamage(problemOf(error))
      return undefined
    }
  }
  const read = <T>(work: (sql: Statements) => T): T | undefined => {
    turn?.end()
    return readNow(work)
  }
  const readInTurn = <T>(work: (sql: Statements) => T): T | undefined => {
    if (turn === undefined) return undefined
    turn.share()
    return readNow(work)
  }
  const writer = (): WriterClient => {
    if (client === undefined) throw new Error('the catalog is closed')
    return client
  }

  const parts: MemoryParts = { read, writer, now: clock, onWritten }
  // What their own writing changes ends the turn, see above; nobody else writes them.
  const remembered: MemoryParts = { ...parts, read: readInTurn }
  const decisions = createDecisions(remembered)
  const narinfoKey = (key: DecisionKey) => ({ ...key, hashPart: `${key.hashPart}.narinfo` })
  const narinfos: Decisions = {
    get: key => decisions.get(narinfoKey(key)),
    put: (key, value) => decisions.put(narinfoKey(key), value),
  }
  const verifications = createVerifications(remembered)
  const indexes = createIndexes({ ...parts, isOpen: () => database !== undefined })
  /** New paths bring new names, which the name index takes up afterwards. */
  const followed = (): WriterClient => {
    const own = writer()
    return {
      ...own,
      ask: request =>
        own.ask(request).finally(() => {
          indexes.wake()
        }),
    }
  }
  const flush = async (): Promise<void> => {
    await Promise.all([decisions.flush(), verifications.flush()])
  }

  const close = async (): Promise<void> => {
    await flush()
    // The reader first: the last to close folds the write-ahead log into the file.
    statements = undefined
    turn?.end()
    turn = undefined
    database?.close()
    database = undefined
    const searched = searching
    searching = undefined
    await Promise.allSettled(searches)
    searched?.database.close()
    await indexes.stop()
    const ending = client
    client = undefined
    await ending?.close()
  }

  return {
    problems: () => (failure === undefined ? problems : [...problems, failure]),
    decisions,
    narinfos,
    verifications,
    flush,
    async open() {
      await closing
      if (database !== undefined) return
      problems = [...prepareDatabase(file)]
      failure = undefined
      database = connect(file, { readOnly: true })
      statements = createStatements(database)
      turn = createReadTurn(database)
      client = (writerThread ? startWriter : startWriterHere)(file, onDamage, { sweepAt })
      indexes.wake()
    },
    close() {
      closing ??= close().finally(() => {
        closing = undefined
      })
      return closing
    },
    holders: {
      async upsert({ up, lastSeen, problem, ...holder }) {
        await writer().ask({
          op: 'holder',
          row: { ...holder, up: up ? 1 : 0, lastSeen: lastSeen ?? null, problem: problem ?? null },
        })
      },
      async forget(holderId) {
        await writer().ask({ op: 'forget', holderId })
      },
      list: () =>
        (read(sql => sql('holders.list').all()) as HolderRow[] | undefined)?.map(ofRow) ?? [],
    },
    holdings: createHoldings(followed, clock),
    indexes,
    jobs: createJobRows(parts),
    drives: createDriveRows(parts),
    async search(query, limit) {
      if (database === undefined) return { matches: [], more: 0 }
      try {
        if (searching === undefined) {
          const own = connect(file, { readOnly: true })
          searching = { database: own, sql: createStatements(own) }
        }
        const mine = searching
        const work = searchPaths(mine.sql, query, limit, () => searching === mine)
        searches.add(work)
        return await work.finally(() => searches.delete(work))
      } catch (error) {
        if (!isDamage(error)) throw error
        onDamage(problemOf(error))
        return { matches: [], more: 0 }
      }
    },
  }
}

interface HolderRow {
  readonly id: string
  readonly kind: HolderKind
  readonly store_dir: string
  readonly host: string
  readonly up: number
  readonly last_seen: number | null
  readonly paths: number | null
  readonly nar_bytes: number | null
  readonly inventory_at: number | null
  readonly problem: string | null
}

const ofRow = (row: HolderRow): CatalogHolder => ({
  id: row.id,
  kind: row.kind,
  storeDir: row.store_dir,
  host: row.host,
  up: row.up === 1,
  lastSeen: row.last_seen ?? undefined,
  problem: row.problem ?? undefined,
  paths: row.paths ?? undefined,
  narBytes: row.nar_bytes ?? undefined,
  inventoryAt: row.inventory_at ?? undefined,
})
