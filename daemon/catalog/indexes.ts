import { setImmediate as turn } from 'node:timers/promises'
import { joinStorePath, nameOf, hashPartOf } from '../../protocol/store-path.ts'
import type { BaseName, StorePath } from '../../protocol/store-path.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { IndexEntry, PeerIndexes, PeerKey } from '../site.ts'
import { decodeRest } from './index-info.ts'
import { PAGE_ENTRIES, readPage } from './index-pages.ts'
import {
  ARRIVING,
  IN_FORCE,
  holderIdOf,
  type IndexApplied,
  type IndexLogRow,
  type PageRow,
} from './index-writer.ts'
import { hashOf, keyOf } from './path-book.ts'
import type { Statements } from './statements.ts'
import type { WriterClient } from './writer-client.ts'

/** How far a log is applied. */
export interface IndexPosition {
  readonly epoch: number
  /** The log's public key. */
  readonly core: string
  /** Blocks applied: the number of the next one. */
  readonly blocks: number
  /** Positions given: that of the next entry. */
  readonly entries: number
  /** False while the log arrives beside an older one that stays in force until `finish`. */
  readonly inForce: boolean
}

/** One host's index as a person may ask for it. */
export interface IndexSummary {
  readonly key: PeerKey
  /** Its name; empty for this host's own. */
  readonly host: string
  readonly epoch: number
  readonly inForce: boolean
  readonly blocks: number
  readonly paths: number
  readonly narBytes: number
}

/** An entry of a log in force. */
export interface IndexEntryAt {
  readonly position: number
  readonly storePath: StorePath
  /** SHA-256, 32 bytes. */
  readonly narHash: Buffer
}

/**
 * The indexes of hosts: blocks in, holdings out. A host's log of one epoch is begun, applied block by block, and finished; what
 * it says is searchable while it arrives when there was none before, else from `finish` on. Hash look-ups see a block once
 * `apply` resolves; name searches too, a little slower until the name index has caught up.
 */
export interface Indexes extends PeerIndexes {
  /** The log under way or, if `which` says so or there is none, the one in force; undefined when nothing was begun. */
  position(key: PeerKey, which?: 'newest' | 'in-force'): IndexPosition | undefined
  /**
   * Begins an epoch beside the one in force, or goes on with it where it was begun before (another that was arriving is given
   * up). `host` is the peer's name; undefined for this host's own log, which `find` and searches leave out.
   */
  begin(
    key: PeerKey,
    log: { readonly epoch: number; readonly core: string; readonly host: string | undefined },
  ): Promise<void>
  /**
   * Applies blocks from `firstBlock` on, all or none; those applied before are skipped. Rejects with INDEX_OUT_OF_ORDER for an
   * epoch not begun or a gap, with INDEX_INVALID (naming peer and block) for what no honest host writes. Many blocks at once
   * (64) are twice as fast as one by one.
   */
  apply(
    key: PeerKey,
    epoch: number,
    firstBlock: number,
    blocks: readonly Uint8Array[],
  ): Promise<IndexApplied>
  /** The epoch comes into force; the rows of the older one go in the background. */
  finish(key: PeerKey, epoch: number): Promise<void>
  /** The host is no member any more: nothing of its index is found once this resolves; the rows go in the background. */
  forget(key: PeerKey): Promise<void>
  list(): readonly IndexSummary[]
  /** Live entries of the log (in force unless told), in order of position, a page at a time; others have their turn between. */
  entries(key: PeerKey, epoch?: number): AsyncIterable<readonly IndexEntryAt[]>
  /** The same with all that is known of them. */
  whole(key: PeerKey, epoch?: number): AsyncIterable<readonly IndexEntry[]>
  /** What the log in force says of that path; undefined where it does not name it. */
  told(key: PeerKey, path: StorePath): IndexEntry | undefined
  /** Where those paths stand in the log (in force unless told); undefined for one that does not. */
  positionsOf(
    key: PeerKey,
    paths: readonly (StorePath | BaseName)[],
    epoch?: number,
  ): (number | undefined)[]
  /** Resolves when nothing is left to do in the background. */
  tidied(): Promise<void>
}

/** What the indexes need of the catalog. */
export interface IndexesParts {
  /** Runs a read; undefined when the catalog is closed or damaged. */
  read<T>(work: (sql: Statements) => T): T | undefined
  writer(): WriterClient
  isOpen(): boolean
  /** Ms since 1970. */
  now(): number
  /** Told what went wrong in the background, or undefined when it went well. */
  onWritten(error: unknown): void
}

interface InfoRow {
  readonly narHash: Buffer
  readonly narSize: number
  readonly rest: Buffer
  readonly builtHere: number
  readonly name: string
}

interface FindRow extends InfoRow {
  readonly storeDir: string
  readonly holder: string
}

interface EntryRow extends InfoRow {
  readonly hash: Buffer
}

/** Longest time in one go spent reading entries, ms: a narinfo request may wait behind it. */
const SLICE_MS = 4

const KEY_AT = holderIdOf('').length

/** The indexes of a catalog. */
export function createIndexes(
  parts: IndexesParts,
): Indexes & { wake(): void; stop(): Promise<void> } {
  const { read, writer } = parts
  let version = 0
  /** Whether a peer's log is in force, as of that version. */
  let hasPeers = true
  let peersAt = -1
  let applying = 0
  let tidying: Promise<void> | undefined

  /** True when all is done, false when it made way. */
  const tidy = async (): Promise<boolean> => {
    while (parts.isOpen()) {
      // What is on its way in comes first: tidying beside it would make both slower.
      if (applying > 0) return false
      if (!(await writer().ask({ op: 'tidy' }))) break
    }
    return true
  }
  const wake = (): void => {
    if (tidying !== undefined || applying > 0) return
    tidying = tidy().then(
      done => {
        tidying = undefined
        parts.onWritten(undefined)
        if (!done) wake()
      },
      (error: unknown) => {
        tidying = undefined
        parts.onWritten(error)
      },
    )
  }
  const changing = async <T>(work: () => Promise<T>): Promise<T> => {
    applying++
    try {
      const result = await work()
      version++
      return result
    } finally {
      applying--
      wake()
    }
  }

  /** A host alone must not pay for peers at every miss. */
  const anyPeer = (): boolean => {
    if (peersAt !== version) {
      const row = read(sql => sql('indexes.anyPeer').get() ?? null)
      if (row === undefined) return true
      hasPeers = row !== null
      peersAt = version
    }
    return hasPeers
  }

  const logs = (key: PeerKey): readonly IndexLogRow[] =>
    read(sql => sql('indexes.logs').all(holderIdOf(key)) as IndexLogRow[]) ?? []
  const logInForce = (key: PeerKey, epoch: number | undefined): IndexLogRow | undefined =>
    logs(key).find(({ state, epoch: own }) =>
      epoch === undefined ? state === IN_FORCE : own === epoch && state <= IN_FORCE,
    )
  const baseName = (sql: Statements, path: number): BaseName | undefined => {
    const row = sql('indexes.baseName').get(path) as { hash: Buffer; name: string } | undefined
    return row === undefined ? undefined : (`${encodeNix32(row.hash)}-${row.name}` as BaseName)
  }

  const entryOf = (sql: Statements, storePath: StorePath, row: InfoRow): IndexEntry => {
    const { references, deriver, ca, signatures } = decodeRest(row.rest)
    const named = references.map(path => baseName(sql, path) ?? lostPath(path))
    return {
      builtHere: row.builtHere === 1,
      info: {
        storePath,
        narHash: { algorithm: 'sha256', bytes: row.narHash },
        narSize: row.narSize,
        references: named.sort(),
        ca,
        signatures,
        deriver: deriver === undefined ? undefined : baseName(sql, deriver),
      },
    }
  }
  /** What `make` makes of each live entry of a log, in order, a few milliseconds' worth at a time. */
  async function* slices<T>(
    key: PeerKey,
    epoch: number | undefined,
    make: (sql: Statements, at: StorePath, row: EntryRow, position: number) => T,
  ): AsyncGenerator<T[]> {
    const log = logInForce(key, epoch)
    const storeDir = log?.storeDir
    if (log === undefined || typeof storeDir !== 'string') return
    for (let next = 0; ;) {
      const until = performance.now() + SLICE_MS
      const slice = read(sql => {
        const from = Math.floor(next / PAGE_ENTRIES)
        const row = sql('indexes.pageFrom').get(log.number, from) as PageRow | undefined
        if (row === undefined) return undefined
        const made: T[] = []
        const first = row.page * PAGE_ENTRIES
        const infos = readPage(row.infos)
        let at = Math.max(0, next - first)
        for (; at < infos.length && performance.now() < until; at++) {
          const info = infos[at] as number
          const entry = sql('indexes.entry').get(info, log.number) as EntryRow | undefined
          if (entry === undefined) continue
          const baseName = `${encodeNix32(entry.hash)}-${entry.name}` as BaseName
          made.push(make(sql, joinStorePath(storeDir, baseName), entry, first + at))
        }
        next = first + at
        return made
      })
      if (slice === undefined) return
      if (slice.length > 0) yield slice
      await turn()
    }
  }

  return {
    get version() {
      return version
    },
    find(hashPart) {
      if (!anyPeer()) return []
      const found = read(sql => {
        const hash = hashOf(hashPart)
        const rows = sql('indexes.find').all(keyOf(hash), hash) as FindRow[]
        return rows.map(row => ({
          ...entryOf(sql, joinStorePath(row.storeDir, `${hashPart}-${row.name}` as BaseName), row),
          peer: row.holder.slice(KEY_AT) as PeerKey,
        }))
      })
      return found ?? []
    },
    position(key, which = 'newest') {
      const known = logs(key)
      const arriving =
        which === 'newest' ? known.find(({ state }) => state === ARRIVING) : undefined
      const log = arriving ?? known.find(({ state }) => state === IN_FORCE)
      if (log === undefined) return undefined
      const { epoch, core, blocks, entries, state } = log
      return { epoch, core, blocks, entries, inForce: state === IN_FORCE }
    },
    async begin(key, { epoch, core, host }) {
      await changing(() => writer().ask({ op: 'indexBegin', key, epoch, core, host }))
    },
    apply: (key, epoch, firstBlock, blocks) =>
      changing(() =>
        writer().ask({ op: 'indexApply', key, epoch, firstBlock, blocks, at: parts.now() }),
      ),
    async finish(key, epoch) {
      await changing(() => writer().ask({ op: 'indexFinish', key, epoch, at: parts.now() }))
    },
    async forget(key) {
      await changing(() => writer().ask({ op: 'indexForget', key }))
    },
    list() {
      const rows = read(sql => sql('indexes.list').all() as ListRow[]) ?? []
      return rows.map(({ id, host, epoch, state, blocks, paths, narBytes }) => ({
        key: id.slice(KEY_AT) as PeerKey,
        host,
        epoch,
        inForce: state === IN_FORCE,
        blocks,
        paths,
        narBytes,
      }))
    },
    entries: (key, epoch) =>
      slices(key, epoch, (_, storePath, { narHash }, position) => ({
        position,
        storePath,
        narHash,
      })),
    whole: (key, epoch) => slices(key, epoch, entryOf),
    told(key, path) {
      const log = logInForce(key, undefined)
      if (log === undefined) return undefined
      return read(sql => {
        const hash = hashOf(hashPartOf(path))
        const where = { key: keyOf(hash), hash, name: nameOf(path), log: log.number }
        const row = sql('indexes.told').get(where) as InfoRow | undefined
        return row === undefined ? undefined : entryOf(sql, path, row)
      })
    },
    positionsOf(key, paths, epoch) {
      const log = logInForce(key, epoch)
      const found =
        log === undefined
          ? undefined
          : read(sql =>
              paths.map(path => {
                const hash = hashOf(hashPartOf(path))
                const where = { key: keyOf(hash), hash, name: nameOf(path), log: log.number }
                return sql('indexes.positionOf').pluck().get(where) as number | undefined
              }),
            )
      return found ?? paths.map(() => undefined)
    },
    async tidied() {
      while (tidying !== undefined) await tidying
    },
    wake,
    async stop() {
      await tidying
    },
  }
}

interface ListRow {
  readonly id: string
  readonly host: string
  readonly epoch: number
  readonly state: number
  readonly blocks: number
  readonly paths: number
  readonly narBytes: number
}

/** A path that an info refers to is never taken out: only a damaged file has none. */
function lostPath(path: number): never {
  throw new Error(`the catalog has no path ${path}`)
}
