import { inflateRawSync } from 'node:zlib'
import { fail, NarwharfError } from '../../protocol/errors.ts'
import { decodeIndexBlock, PATH_HASH_BYTES } from '../../protocol/index-block.ts'
import type { IndexAdd } from '../../protocol/index-block.ts'
import type { BaseName } from '../../protocol/store-path.ts'
import { parsePeerKey, type PeerKey } from '../site.ts'
import { encodeRest, narHashAt } from './index-info.ts'
import { createIndexPages, readPage } from './index-pages.ts'
import { hashOf, type PathBook } from './path-book.ts'
import type { Statements } from './statements.ts'

// The writer's part of the indexes: blocks of a host's log become rows, in one transaction with how far it was read, so that
// an end at any point leaves a log applied up to a block.

/** Positions a log may give in its life: sixteen times the largest store aimed at. A log of a reasonable host is begun anew before. */
export const LOG_ENTRIES_MAX = 16_000_000

/** Infos of one path: as many hosts may differ about it (each log has one). */
const VARIANTS = 256

/** Pages of a log that goes taken out in one transaction: about 20 ms. */
const DROPPED_PAGES = 2

/** A log as it stands. */
export interface IndexLogRow {
  readonly number: number
  readonly epoch: number
  readonly core: string
  readonly state: 0 | 1 | 2
  storeDir: string | null
  blocks: number
  entries: number
  paths: number
  narBytes: number
}

/** States of a log. */
export const ARRIVING = 0
export const IN_FORCE = 1
export const LEAVING = 2

/** What an apply did. */
export interface IndexApplied {
  readonly entries: number
  readonly removed: number
}

const inflate = (bytes: Uint8Array, maxBytes: number): Uint8Array =>
  // Zero would mean no limit.
  inflateRawSync(bytes, { maxOutputLength: Math.max(1, maxBytes) })

const invalid = (problem: string): never => fail('INDEX_INVALID', { problem })

/** Logs in the writer. Every function belongs into a transaction; after one that was taken back call `forget`. */
export interface IndexWriter {
  /** Makes room for a log; goes on with one that is there already. */
  begin(holder: number, log: { readonly epoch: number; readonly core: string }): void
  apply(
    key: string,
    epoch: number,
    firstBlock: number,
    blocks: readonly Uint8Array[],
    at: number,
  ): IndexApplied
  finish(key: string, epoch: number, at: number): void
  /** One slice of taking out logs that are no more; false when there was nothing. */
  dropSome(): boolean
  forget(): void
}

/** `peer:<key>`: the id of a host in `holders`. */
export const holderIdOf = (key: string): string => `peer:${key}`

/** The key in such an id; undefined for the id of another kind of holder. */
export const peerKeyOf = (id: string): PeerKey | undefined =>
  parsePeerKey(id.slice(holderIdOf('').length))

/** The logs of a catalog that this connection writes. */
export function createIndexWriter(sql: Statements, book: PathBook): IndexWriter {
  const pages = createIndexPages(sql)
  const addInfo = sql('indexes.addInfo')
  const addClaim = sql('indexes.addClaim')

  const logsOf = (key: string): IndexLogRow[] =>
    sql('indexes.logs').all(holderIdOf(key)) as IndexLogRow[]

  const logOf = (key: string, epoch: number): IndexLogRow =>
    logsOf(key)
      .sort((a, b) => a.state - b.state)
      .find(log => log.epoch === epoch && log.state !== LEAVING) ??
    fail('INDEX_OUT_OF_ORDER', { peer: key, problem: `epoch ${epoch} was not begun` })

  const numberOfLink = (block: IndexAdd, link: number, inside: Float64Array, outside: number[]) =>
    (link < block.count ? inside[link] : outside[link - block.count]) as number

  /** What the block says lies outside of it, as paths. */
  const outsideOf = (block: IndexAdd, log: IndexLogRow): number[] =>
    block.outside.map(link => {
      if (typeof link === 'string') return referTo(link)
      const position = log.entries - link
      const info = position < 0 ? 0 : pages.get(log.number, position)
      if (info === 0) invalid(`nothing stands at position ${position}`)
      return Math.floor(info / VARIANTS)
    })
  const referTo = (baseName: BaseName): number =>
    book.refer(hashOf(baseName.slice(0, 32)), baseName.slice(33))

  const referencesOf = (
    block: IndexAdd,
    entry: number,
    inside: Float64Array,
    outside: number[],
  ): Float64Array => {
    const from = block.linkStarts[entry] as number
    const references = new Float64Array((block.linkStarts[entry + 1] as number) - from)
    for (let at = 0; at < references.length; at++) {
      references[at] = numberOfLink(block, block.links[from + at] as number, inside, outside)
    }
    references.sort()
    for (let at = 1; at < references.length; at++) {
      if (references[at] === references[at - 1]) invalid('an entry refers to one path twice')
    }
    return references
  }

  /** The info of that content, written where nobody said the same of the path yet. */
  const infoOf = (path: number, isNew: boolean, narHash: Buffer, narSize: number, rest: Buffer) => {
    const first = path * VARIANTS
    let free = first
    if (!isNew) {
      const rows = sql('indexes.infosOf').all(first, first + VARIANTS - 1) as InfoRow[]
      for (const row of rows) {
        if (row.narSize === narSize && row.narHash.equals(narHash) && row.rest.equals(rest)) {
          return row.id
        }
        if (row.id === free) free++
      }
      if (free === first + VARIANTS) invalid('too many hosts differ about a path')
    }
    addInfo.run(free, narHash, narSize, rest)
    return free
  }

  const dropIfUnclaimed = (info: number): void => {
    if (sql('indexes.isClaimed').get(info) !== undefined) return
    sql('indexes.dropInfo').run(info)
    book.release(Math.floor(info / VARIANTS))
  }

  /** Takes back what the log said of the path before: a host may say it anew. */
  const takeBack = (log: IndexLogRow, path: number): number | undefined => {
    const first = path * VARIANTS
    const row = sql('indexes.claimOf').get(first, first + VARIANTS - 1, log.number) as
      { info: number; position: number } | undefined
    if (row === undefined) return undefined
    sql('indexes.dropClaim').run(row.info, log.number)
    pages.set(log.number, row.position, 0)
    log.paths--
    log.narBytes -= sql('indexes.info').pluck().get(row.info) as number
    return row.info
  }

  const add = (log: IndexLogRow, block: IndexAdd): void => {
    if (log.entries + block.count > LOG_ENTRIES_MAX) invalid(`more than ${LOG_ENTRIES_MAX} entries`)
    log.storeDir ??= block.storeDir
    if (log.storeDir !== block.storeDir) {
      invalid(`store directory ${block.storeDir} after ${log.storeDir}`)
    }
    const inside = new Float64Array(block.count)
    const isNew = new Uint8Array(block.count)
    for (let entry = 0; entry < block.count; entry++) {
      const at = entry * PATH_HASH_BYTES
      const hash = block.hashes.subarray(at, at + PATH_HASH_BYTES)
      const name = block.names[entry] as string
      const known = book.find(hash, name)
      inside[entry] = known ?? book.add(hash, name)
      if (known === undefined) isNew[entry] = 1
    }
    const outside = outsideOf(block, log)
    for (let entry = 0; entry < block.count; entry++) {
      const path = inside[entry] as number
      const narSize = block.narSizes[entry] as number
      const references = referencesOf(block, entry, inside, outside)
      const deriver = block.derivers[entry]
      const rest = encodeRest(
        block,
        entry,
        references,
        deriver === undefined ? undefined : numberOfLink(block, deriver, inside, outside),
      )
      const before = isNew[entry] === 1 ? undefined : takeBack(log, path)
      const info = infoOf(path, isNew[entry] === 1, narHashAt(block, entry), narSize, rest)
      addClaim.run(info, log.number, log.entries, block.builtHere[entry])
      if (before !== undefined && before !== info) dropIfUnclaimed(before)
      pages.set(log.number, log.entries, info)
      log.entries++
      log.paths++
      log.narBytes += narSize
    }
    book.referred(inside, outside)
  }

  const remove = (log: IndexLogRow, positions: Float64Array): void => {
    for (const position of positions) {
      const info = position < log.entries ? pages.get(log.number, position) : 0
      if (info === 0) invalid(`nothing stands at position ${position}`)
      pages.set(log.number, position, 0)
      sql('indexes.dropClaim').run(info, log.number)
      log.paths--
      log.narBytes -= sql('indexes.info').pluck().get(info) as number
      dropIfUnclaimed(info)
    }
  }

  const applyBlocks = (log: IndexLogRow, blocks: readonly Uint8Array[]): IndexApplied => {
    let entries = 0
    let removed = 0
    for (const bytes of blocks) {
      const block = decodeIndexBlock(bytes, inflate)
      if (block.kind === 'add') {
        add(log, block)
        entries += block.count
      } else {
        remove(log, block.positions)
        removed += block.positions.length
      }
      log.blocks++
    }
    return { entries, removed }
  }

  return {
    begin(holder, { epoch, core }) {
      const logs = sql('indexes.logsOfHolder').all(holder) as IndexLogRow[]
      if (logs.some(log => log.epoch === epoch && log.core === core && log.state !== LEAVING))
        return
      for (const log of logs) {
        if (log.state === ARRIVING) sql('indexes.setState').run({ log: log.number, state: LEAVING })
      }
      // The first log of a host is in force from its first block: there is nothing better to keep until it is whole.
      const state = logs.some(log => log.state === IN_FORCE) ? ARRIVING : IN_FORCE
      sql('indexes.addLog').run({ holder, epoch, core, state })
    },
    apply(key, epoch, firstBlock, blocks, at) {
      const log = logOf(key, epoch)
      if (firstBlock > log.blocks) {
        const problem = `block ${firstBlock} came, ${log.blocks} is the next`
        return fail('INDEX_OUT_OF_ORDER', { peer: key, problem })
      }
      const fresh = blocks.slice(log.blocks - firstBlock)
      if (fresh.length === 0) return { entries: 0, removed: 0 }
      try {
        const applied = applyBlocks(log, fresh)
        pages.flush()
        sql('indexes.progress').run(log)
        if (log.state === IN_FORCE) sql('indexes.count').run({ ...log, at })
        return applied
      } catch (error) {
        if (!(error instanceof NarwharfError)) throw error
        const problem = `block ${log.blocks} of ${key}: ${error.data['problem'] ?? error.message}`
        return fail('INDEX_INVALID', { problem, peer: key, block: log.blocks }, error)
      }
    },
    finish(key, epoch, at) {
      const log = logOf(key, epoch)
      if (log.state === IN_FORCE) return
      for (const other of logsOf(key)) {
        if (other.state === IN_FORCE) {
          sql('indexes.setState').run({ log: other.number, state: LEAVING })
        }
      }
      sql('indexes.setState').run({ log: log.number, state: IN_FORCE })
      sql('indexes.count').run({ ...log, at })
    },
    dropSome() {
      const log = sql('indexes.leaving').pluck().get() as number | undefined
      if (log === undefined) return false
      for (let count = 0; count < DROPPED_PAGES; count++) {
        const row = sql('indexes.pageFrom').get(log, 0) as PageRow | undefined
        if (row === undefined) {
          sql('indexes.dropLog').run(log)
          // Its number may be given anew.
          pages.forget()
          return true
        }
        for (const info of readPage(row.infos)) {
          if (info === 0) continue
          sql('indexes.dropClaim').run(info, log)
          dropIfUnclaimed(info)
        }
        sql('indexes.dropPage').run(log, row.page)
      }
      return true
    },
    forget: pages.forget,
  }
}

interface InfoRow {
  readonly id: number
  readonly narHash: Buffer
  readonly narSize: number
  readonly rest: Buffer
}

/** A page of positions. */
export interface PageRow {
  readonly page: number
  readonly infos: Buffer
}
