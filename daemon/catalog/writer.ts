import type { Database } from 'better-sqlite3'
import { KEPT_DRIVES, type DriveRow } from './drives.ts'
import { KEPT_JOBS, type JobRow } from './jobs.ts'
import { createIndexWriter, holderIdOf, type IndexApplied } from './index-writer.ts'
import { createPathBook, hashOf, keyOf, type PathBook } from './path-book.ts'
import { createStatements, type Statements } from './statements.ts'

// The one place that writes. It runs in a thread of its own (writer-thread.ts): a first scan of a million paths costs a
// minute of inserts, and merges of the name index take 300 ms at once; on the main thread every narinfo would wait.

/** Decisions and verifications kept: what was not used within the last this many uses is forgotten (about 0.5 GB of file). */
export const REMEMBERED_ROWS = 1_000_000

/** Rows deleted in one transaction of a sweep: short enough to keep the write-ahead log small. */
const SWEEP_ROWS = 2000

export interface DecisionRow {
  readonly holderId: string
  readonly hashPart: string
  readonly identity: string
  readonly epoch: string
  readonly day: number
  readonly value: string
}

export interface VerificationRow {
  readonly holderId: string
  readonly identity: string
  readonly day: number
  readonly verifiedAt: number
  readonly problem: string | null
}

export interface HolderUpsert {
  readonly id: string
  readonly kind: string
  readonly storeDir: string
  readonly host: string
  readonly up: number
  readonly lastSeen: number | null
  readonly problem: string | null
}

/** A path as a scan or a change brings it: hash part, name, and bytes of its NAR where known. */
export type PathRow = readonly [hashPart: string, name: string, narSize?: number | undefined]

/** What the writer is asked; each has its reply in {@link WriterReplies}. */
export type WriterRequest =
  | { readonly op: 'decisions'; readonly rows: readonly DecisionRow[] }
  | { readonly op: 'verifications'; readonly rows: readonly VerificationRow[] }
  | { readonly op: 'holder'; readonly row: HolderUpsert }
  | { readonly op: 'forget'; readonly holderId: string }
  | { readonly op: 'scanBegin'; readonly holderId: string }
  | { readonly op: 'scanPaths'; readonly scan: number; readonly paths: readonly PathRow[] }
  | {
      readonly op: 'scanSizes'
      readonly scan: number
      readonly sizes: readonly (readonly [pathId: number, narSize: number])[]
    }
  | { readonly op: 'scanEnd'; readonly scan: number; readonly at: number }
  | { readonly op: 'scanAbort'; readonly scan: number }
  | { readonly op: 'add'; readonly holderId: string; readonly paths: readonly PathRow[] }
  | { readonly op: 'remove'; readonly holderId: string; readonly paths: readonly PathRow[] }
  | { readonly op: 'removeParts'; readonly holderId: string; readonly hashParts: readonly string[] }
  | {
      readonly op: 'indexBegin'
      readonly key: string
      /** Undefined for this host's own log: it is no peer, and nobody is told of it as a holder. */
      readonly host: string | undefined
      readonly epoch: number
      readonly core: string
    }
  | {
      readonly op: 'indexApply'
      readonly key: string
      readonly epoch: number
      readonly firstBlock: number
      readonly blocks: readonly Uint8Array[]
      readonly at: number
    }
  | {
      readonly op: 'indexFinish'
      readonly key: string
      readonly epoch: number
      readonly at: number
    }
  | { readonly op: 'indexForget'; readonly key: string }
  | { readonly op: 'job'; readonly row: JobRow }
  | { readonly op: 'drive'; readonly row: DriveRow }
  /** One slice of what can wait: old logs taken out, names indexed, loose paths swept. Replies whether there was any. */
  | { readonly op: 'tidy' }

/** Counts of a finished scan. */
export interface ScanResult {
  readonly paths: number
  readonly narBytes: number
  readonly added: number
  readonly removed: number
}

/** What a change made of a holder's counts. */
export interface Growth {
  readonly paths: number
  readonly narBytes: number
}

export interface WriterReplies {
  decisions: undefined
  verifications: undefined
  holder: undefined
  forget: undefined
  scanBegin: number
  /** Where in the batch a path stands whose size is not known yet, and its id for `scanSizes`. */
  scanPaths: { readonly unsized: readonly (readonly [index: number, pathId: number])[] }
  scanSizes: undefined
  scanEnd: ScanResult
  scanAbort: undefined
  add: Growth
  remove: Growth
  removeParts: Growth & { readonly removed: readonly PathRow[] }
  indexBegin: undefined
  indexApply: IndexApplied
  indexFinish: undefined
  indexForget: undefined
  job: undefined
  drive: undefined
  tidy: boolean
}

interface Scan {
  readonly holder: number
  readonly holderId: string
  /** One bit per path id that the holder still has: 125 KB for a million. */
  seen: Uint8Array
  paths: number
  narBytes: number
  added: number
}

export interface WriterOptions {
  /** Paths that nobody has worth a search for references to them. */
  readonly sweepAt?: number | undefined
}

/** Names added to the trigram index in one slice: about 30 ms. */
const INDEXED_NAMES = 2000

/**
 * Page cache of the writer, KiB, and pages of write-ahead log between checkpoints (16 MB). What a million paths are looked
 * up by is 40 MB spread at random: with a third of it in memory every batch reads and writes the rest again.
 */
const WRITER_CACHE_KIB = 48 * 1024
const CHECKPOINT_PAGES = 4000

/** Blocks of an index after which the cache is given back once all is quiet: fewer have not filled it. */
const BULK_BLOCKS = 100

/** The writer over a connection of its own. Throws what SQLite throws; a failed request leaves nothing half-written. */
export function createWriter(
  database: Database,
  { sweepAt }: WriterOptions = {},
): {
  apply(request: WriterRequest): WriterReplies[keyof WriterReplies]
} {
  database.pragma(`cache_size = -${WRITER_CACHE_KIB}`)
  database.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`)
  const sql = createStatements(database)
  let blocksSinceShrunk = 0
  const scans = new Map<number, Scan>()
  let lastScan = 0
  const book = createPathBook(sql, sweepAt)
  const indexes = createIndexWriter(sql, book)
  const inTransaction = <T>(work: () => T): T => {
    try {
      return database.transaction(work)()
    } catch (error) {
      book.forget()
      indexes.forget()
      throw error
    }
  }

  const apply = (request: WriterRequest): WriterReplies[keyof WriterReplies] => {
    switch (request.op) {
      case 'decisions':
        return inTransaction(() => remember(sql, 'decisions', request.rows))
      case 'verifications':
        return inTransaction(() => remember(sql, 'verifications', request.rows))
      case 'holder':
        sql('holders.upsert').run(request.row)
        return undefined
      case 'forget':
        sweep(newScan(request.holderId))
        sql('holders.forget').run(request.holderId)
        return undefined
      case 'scanBegin':
        scans.set(++lastScan, newScan(request.holderId))
        return lastScan
      case 'scanPaths': {
        const scan = scanOf(request.scan)
        return inTransaction(() => ({ unsized: scanPaths(sql, book, scan, request.paths) }))
      }
      case 'scanSizes': {
        const scan = scanOf(request.scan)
        return inTransaction(() => {
          for (const [path, narSize] of request.sizes) {
            sql('holdings.setSize').run({ id: path, narSize })
            scan.narBytes += narSize
          }
          return undefined
        })
      }
      case 'scanEnd': {
        const scan = scanOf(request.scan)
        scans.delete(request.scan)
        const removed = sweep(scan)
        const { paths, narBytes, added } = scan
        sql('holders.counted').run({
          id: scan.holderId,
          paths,
          narBytes,
          inventoryAt: request.at,
        })
        return { paths, narBytes, added, removed }
      }
      case 'scanAbort':
        scans.delete(request.scan)
        return undefined
      case 'add':
        return inTransaction(() => {
          const holder = numberOf(sql, request.holderId)
          return grown(
            holder,
            request.paths.map(path => add(holder, path)),
          )
        })
      case 'remove':
        return inTransaction(() => {
          const holder = numberOf(sql, request.holderId)
          const rows = request.paths.map(path => look(sql, holder, path))
          return grown(
            holder,
            rows.flatMap(row => (row?.held === 1 ? [remove(holder, row)] : [])),
          )
        })
      case 'removeParts':
        return inTransaction(() => {
          const holder = numberOf(sql, request.holderId)
          const removed: PathRow[] = []
          const growths: Growth[] = []
          for (const hashPart of request.hashParts) {
            const rows = heldOfPart(sql, holder, hashPart)
            for (const row of rows) {
              removed.push([hashPart, row.name])
              growths.push(remove(holder, row))
            }
          }
          return { removed, ...grown(holder, growths) }
        })
      case 'indexBegin':
        return inTransaction(() => {
          const id = holderIdOf(request.key)
          if (request.host !== undefined) sql('indexes.peer').run({ id, host: request.host })
          indexes.begin(numberOf(sql, id), request)
          return undefined
        })
      case 'indexApply': {
        const { key, epoch, firstBlock, blocks, at } = request
        blocksSinceShrunk += blocks.length
        return inTransaction(() => indexes.apply(key, epoch, firstBlock, blocks, at))
      }
      case 'indexFinish':
        return inTransaction(() => {
          indexes.finish(request.key, request.epoch, request.at)
          return undefined
        })
      case 'indexForget':
        return inTransaction(() => {
          const id = holderIdOf(request.key)
          sql('indexes.leaveAll').run(numberOf(sql, id))
          sql('holders.forget').run(id)
          return undefined
        })
      case 'job':
        return inTransaction(() => {
          sql('jobs.put').run(request.row)
          sql('jobs.prune').run({ window: KEPT_JOBS })
          return undefined
        })
      case 'drive':
        return inTransaction(() => {
          sql('drives.put').run(request.row)
          sql('drives.prune').run({ kept: KEPT_DRIVES })
          return undefined
        })
      case 'tidy': {
        const some = inTransaction(
          () => indexes.dropSome() || book.indexNames(INDEXED_NAMES) || book.sweepSome(),
        )
        if (!some && blocksSinceShrunk >= BULK_BLOCKS) {
          database.pragma('shrink_memory')
          blocksSinceShrunk = 0
        }
        return some
      }
    }
  }

  const scansOf = (holder: number): Scan[] =>
    [...scans.values()].filter(scan => scan.holder === holder)

  /** Also for a scan under way, which would take it for gone. */
  const add = (holder: number, path: PathRow): Growth => {
    const { id, narSize, held } = hold(sql, book, holder, path)
    for (const scan of scansOf(holder)) {
      if (isSeen(scan, id)) continue
      see(scan, id)
      scan.paths++
      scan.narBytes += narSize ?? 0
      scan.added += 1 - held
    }
    return held === 1 ? { paths: 0, narBytes: 0 } : { paths: 1, narBytes: narSize ?? 0 }
  }

  const remove = (holder: number, { id, narSize }: Omit<PathState, 'held'>): Growth => {
    for (const scan of scansOf(holder)) {
      if (!isSeen(scan, id)) continue
      unsee(scan, id)
      scan.paths--
      scan.narBytes -= narSize ?? 0
    }
    drop(sql, book, holder, id)
    return { paths: -1, narBytes: -(narSize ?? 0) }
  }

  const grown = (holder: number, parts: readonly Growth[]): Growth => {
    const paths = parts.reduce((sum, part) => sum + part.paths, 0)
    const narBytes = parts.reduce((sum, part) => sum + part.narBytes, 0)
    if (parts.length > 0) sql('holdings.grown').run({ holder, paths, narBytes })
    return { paths, narBytes }
  }

  const newScan = (holderId: string): Scan => {
    const holder = inTransaction(() => numberOf(sql, holderId))
    return { holder, holderId, seen: new Uint8Array(1024), paths: 0, narBytes: 0, added: 0 }
  }

  const scanOf = (number: number): Scan => {
    const scan = scans.get(number)
    if (scan === undefined) throw new Error(`no scan ${number} is under way`)
    return scan
  }

  const sweep = (scan: Scan): number => {
    let removed = 0
    for (let after = 0; ;) {
      const rows = sql('holdings.held')
        .pluck()
        .all({ holder: scan.holder, after, limit: SWEEP_ROWS }) as number[]
      const last = rows.at(-1)
      if (last === undefined) return removed
      const gone = rows.filter(path => !isSeen(scan, path))
      if (gone.length > 0) {
        inTransaction(() => {
          for (const path of gone) drop(sql, book, scan.holder, path)
        })
      }
      removed += gone.length
      after = last
    }
  }

  return { apply }
}

function numberOf(sql: Statements, holderId: string): number {
  const known = sql('holders.numberOf').pluck().get(holderId) as number | undefined
  return known ?? (sql('holders.mint').pluck().get(holderId) as number)
}

function remember(
  sql: Statements,
  group: 'decisions' | 'verifications',
  rows: readonly (DecisionRow | VerificationRow)[],
): undefined {
  for (const { holderId, ...row } of rows) {
    sql(`${group}.put`).run({ ...row, holder: numberOf(sql, holderId) })
  }
  sql(`${group}.prune`).run({ window: REMEMBERED_ROWS })
}

interface PathState {
  readonly id: number
  readonly narSize: number | null
  readonly held: number
}

interface HeldRow extends Omit<PathState, 'held'> {
  readonly name: string
}

function look(sql: Statements, holder: number, [hashPart, name]: PathRow): PathState | undefined {
  const hash = hashOf(hashPart)
  return sql('holdings.look').get({ holder, key: keyOf(hash), hash, name }) as PathState | undefined
}

function heldOfPart(sql: Statements, holder: number, hashPart: string): HeldRow[] {
  const hash = hashOf(hashPart)
  return sql('holdings.ofPart').all({ holder, key: keyOf(hash), hash }) as HeldRow[]
}

/** Makes the holding (and path and name) where missing; tells how the path stood before. */
function hold(sql: Statements, book: PathBook, holder: number, path: PathRow): PathState {
  const [hashPart, name, narSize] = path
  const state = look(sql, holder, path)
  if (state !== undefined) {
    if (state.held === 0) sql('holdings.hold').run({ holder, path: state.id })
    if (state.narSize === null && narSize !== undefined) {
      sql('holdings.setSize').run({ id: state.id, narSize })
    }
    return { ...state, narSize: state.narSize ?? narSize ?? null }
  }
  const id = book.add(hashOf(hashPart), name, narSize)
  sql('holdings.hold').run({ holder, path: id })
  return { id, narSize: narSize ?? null, held: 0 }
}

function drop(sql: Statements, book: PathBook, holder: number, path: number): void {
  sql('holdings.drop').run({ holder, path })
  book.release(path)
}

function scanPaths(
  sql: Statements,
  book: PathBook,
  scan: Scan,
  paths: readonly PathRow[],
): [number, number][] {
  const unsized: [number, number][] = []
  paths.forEach((path, index) => {
    const state = hold(sql, book, scan.holder, path)
    // A holder that lists a path twice (two narinfo files for one) has it once.
    if (isSeen(scan, state.id)) return
    see(scan, state.id)
    scan.paths++
    if (state.held === 0) scan.added++
    if (state.narSize === null) unsized.push([index, state.id])
    else scan.narBytes += state.narSize
  })
  return unsized
}

function isSeen(scan: Scan, path: number): boolean {
  return ((scan.seen[path >>> 3] ?? 0) & (1 << (path & 7))) !== 0
}

function unsee(scan: Scan, path: number): void {
  const byte = path >>> 3
  scan.seen[byte] = (scan.seen[byte] ?? 0) & ~(1 << (path & 7))
}

function see(scan: Scan, path: number): void {
  const byte = path >>> 3
  if (byte >= scan.seen.length) {
    const larger = new Uint8Array(Math.max(byte + 1, scan.seen.length * 2))
    larger.set(scan.seen)
    scan.seen = larger
  }
  scan.seen[byte] = (scan.seen[byte] ?? 0) | (1 << (path & 7))
}
