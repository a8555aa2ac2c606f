import { createHash } from 'node:crypto'
import { lstatSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as yieldToEventLoop } from 'node:timers/promises'
import { problemOf } from '../../protocol/errors.ts'
import { hashPartOf, parseStorePath } from '../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { digestSmallTree, readSmallTree, SMALL_NAR_BYTES } from '../workers/small-tree.ts'
import { stampOf } from './file-stamp.ts'
import { checkNar, guardNar } from './guarded-nar.ts'
import type { Holder, Holding, Witness } from './holder.ts'
import { createNixFollower } from './nix-changes.ts'
import { createNixDb } from './nix-db.ts'
import { createNixPresence } from './nix-presence.ts'
import {
  hashPartRange,
  MARK_BY_HASH_PART,
  parseRow,
  PATHS_AFTER,
  ROW_BY_HASH_PART,
  ROW_BY_ID,
  sameRow,
} from './nix-rows.ts'
import type { NixRow } from './nix-rows.ts'
import { createNixExtras } from './nix-store-extras.ts'
import { createReachability } from './reachability.ts'
import { orAbsent, readInside } from './small-file.ts'

/** A live Nix store and how to read it. */
export interface NixStoreOptions {
  /** Root of a chroot store (`nix --store ROOT`), `/` for the machine's own: where the store directory really lies. */
  readonly root: string
  /** The store directory as its paths spell it, `/nix/store`. */
  readonly storeDir: string
  /** Path of db.sqlite. */
  readonly db: string
  readonly pool: NarPool
  /** Nix's log directory; default `<root>/nix/var/log/nix`. */
  readonly logDir?: string | undefined
  readonly events?: EventBus | undefined
}

/** Rows of one step of a walk over all paths: under a millisecond of the event loop. */
const PATHS_PER_BATCH = 500

/** NAR hash digits in an identity: with row id and inode enough to tell any two apart. */
const IDENTITY_HASH_DIGITS = 16

/** What a holding of a live store is checked against. */
interface Origin {
  readonly row: NixRow
  readonly root: string
  readonly rootStamp: string
  /** Version of the database at which the row was last seen again: asking for it while finding would cost a third more. */
  version: number | undefined
}

const ORIGIN = Symbol('row and root of a live path')

interface LiveHolding extends Holding {
  readonly [ORIGIN]: Origin
}

const originOf = (holding: Holding): Origin | undefined => (holding as Partial<LiveHolding>)[ORIGIN]

/** Inode and change time of a path's root, or undefined where there is none: Nix makes and deletes paths by their roots. */
function rootStampOf(root: string): string | undefined {
  try {
    const stats = lstatSync(root, { bigint: true, throwIfNoEntry: false })
    return stats && `${stats.dev}.${stats.ino}.${stats.ctimeNs}`
  } catch {
    return undefined
  }
}

/** How old the answer to "did anything change?" may be: what changed less than that ago changed while the question was asked. */
const VERSION_MS = 1

/**
 * How often a root is looked at on behalf of one witness while names in the store directory change: rows go before files, so
 * this only notices a store damaged by hand. While none changes no root comes or goes.
 */
const ROOT_LOOK_MS = 1000

/** Digits of a digest in a mark (base64): 190 bits. */
const MARK_DIGITS = 32

/** The holder of a live Nix store, read beside the nix-daemon that owns it. */
export function createNixStoreHolder(options: NixStoreOptions): Holder {
  const { storeDir, pool, events } = options
  const id = `nix-store:${join(options.root, storeDir)}`
  const physicalDir = join(options.root, storeDir)
  const reach = createReachability(id, events)
  const db = createNixDb(options.db, reach)
  let seenVersion: number | undefined

  const noticeVersion = (version: number): number => {
    if (version !== seenVersion) {
      const first = seenVersion === undefined
      seenVersion = version
      if (!first) events?.emit('holder:changed', id)
    }
    return version
  }

  const asked = { version: 0, names: '', until: 0 }
  /** The database's version, asked at most once a millisecond: under load that is once for dozens of requests. */
  const versionNow = (now = performance.now()): number => {
    if (now >= asked.until) {
      asked.version = noticeVersion(db.read(queries => queries.version()))
      const stamp = stampOf(physicalDir)
      // A directory that changed within the last tick may change again and look the same: that is equal to nothing.
      asked.names = stamp === undefined || stamp.fresh ? '' : stamp.text
      asked.until = now + VERSION_MS
    }
    return asked.version
  }

  const presence = createNixPresence(db, storeDir, () => versionNow())

  const physical = (storePath: string): string => physicalDir + storePath.slice(storeDir.length)

  const identityOf = (row: NixRow, rootStamp: string): string => {
    const digits = String(row.columns[2]).slice(-IDENTITY_HASH_DIGITS)
    return `${row.id}.${row.registrationTime}.${digits}.${rootStamp}`
  }

  const find = (hashPart: HashPart): Holding | undefined => {
    if (!presence.mayHave(hashPart)) return undefined
    const [above, below] = hashPartRange(storeDir, hashPart)
    const columns = db.read(queries => queries.get(ROW_BY_HASH_PART, above, below))
    if (columns === undefined) return undefined
    let row: NixRow
    try {
      row = parseRow(columns, storeDir)
    } catch (error) {
      reach.bad(columns.join('\0'), String(columns[1]), problemOf(error))
      return undefined
    }
    const root = physical(row.info.storePath)
    const rootStamp = rootStampOf(root)
    // The collector takes the row first and the files after; a row without files is a damaged store.
    if (rootStamp === undefined) return undefined
    const holding: LiveHolding = {
      info: row.info,
      identity: identityOf(row, rootStamp),
      builtHere: row.ultimate,
      compression: 'none',
      [ORIGIN]: { row, root, rootStamp, version: undefined },
    }
    return holding
  }

  const markOf = (hashPart: HashPart): { mark: string; root: string } | undefined => {
    const [above, below] = hashPartRange(storeDir, hashPart)
    const columns = db.readInTurn(
      queries => queries.get(MARK_BY_HASH_PART, above, below),
      VERSION_MS,
    )
    if (columns === undefined) return undefined
    const root = physical(String(columns[1]))
    const rootStamp = rootStampOf(root)
    if (rootStamp === undefined) return undefined
    // Kept for every narinfo in memory, so no longer than it must be.
    const digest = createHash('sha256').update(columns.join(' ')).digest('base64')
    return { mark: `${digest.slice(0, MARK_DIGITS)} ${rootStamp}`, root }
  }

  const witness = (hashPart: HashPart): Witness | undefined => {
    if (!presence.mayHave(hashPart)) return undefined
    let lookedAt = performance.now()
    let version = versionNow(lookedAt)
    let { names } = asked
    const found = markOf(hashPart)
    if (found === undefined) return undefined
    const { mark, root } = found
    return {
      mark,
      stillStands() {
        try {
          const now = performance.now()
          const current = versionNow(now)
          if (current === version) {
            if (asked.names === names && names !== '') return true
            if (now - lookedAt < ROOT_LOOK_MS) return true
            lookedAt = now
            names = asked.names
            return mark.endsWith(` ${rootStampOf(root)}`)
          }
          version = current
          names = asked.names
          lookedAt = now
          return markOf(hashPart)?.mark === mark
        } catch {
          return false
        }
      },
    }
  }

  const isCurrent = (holding: Holding): boolean => {
    const origin = originOf(holding)
    try {
      if (origin === undefined) {
        return find(hashPartOf(holding.info.storePath))?.identity === holding.identity
      }
      const version = versionNow()
      const same =
        version === origin.version ||
        db.read(queries => {
          const columns = queries.get(ROW_BY_ID, origin.row.id)
          if (columns === undefined || !sameRow(columns, origin.row.columns)) return false
          origin.version = version
          return true
        })
      return same && rootStampOf(origin.root) === origin.rootStamp
    } catch {
      return false
    }
  }

  const guard = (holding: Holding) => ({
    holderId: id,
    holding,
    isCurrent: () => isCurrent(holding),
  })

  const isSmall = ({ info }: Holding): boolean => info.narSize <= SMALL_NAR_BYTES

  const dump = (holding: Holding, part: ByteRange): ByteStream => {
    const { storePath, narSize } = holding.info
    const root = physical(storePath)
    return isSmall(holding) ? readSmallTree(root, narSize, part) : pool.dump(root, part)
  }

  async function* paths(): AsyncGenerator<readonly StorePath[], void, undefined> {
    let last = 0
    for (;;) {
      const rows = db.read(queries => queries.all(PATHS_AFTER, last, PATHS_PER_BATCH))
      if (rows.length === 0) return
      const batch: StorePath[] = []
      for (const [rowId, path] of rows) {
        last = rowId as number
        try {
          batch.push(parseStorePath(String(path), storeDir))
        } catch {
          continue
        }
      }
      yield batch
      await yieldToEventLoop()
    }
  }

  return {
    id,
    kind: 'nix-store',
    storeDir,
    async open() {
      try {
        noticeVersion(db.read(queries => queries.version()))
      } catch {
        // It is told as down; it comes up by itself with the first question after the database is there.
      }
    },
    async close() {
      db.close()
    },
    problem() {
      try {
        db.read(queries => queries.version())
      } catch {
        return reach.problem
      }
      return undefined
    },
    find,
    witness,
    isCurrent,
    openNar: (holding, range) =>
      guardNar({
        ...guard(holding),
        range,
        totalBytes: holding.info.narSize,
        open: part => dump(holding, part),
      }),
    openZstd: (holding, range) =>
      guardNar({
        ...guard(holding),
        range,
        totalBytes: undefined,
        open: part => pool.dumpZstd(physical(holding.info.storePath), part),
      }),
    async verify(holding, signal) {
      const root = physical(holding.info.storePath)
      const problem = await checkNar(guard(holding), async () => {
        const small = isSmall(holding) ? await digestSmallTree(root, signal) : undefined
        return small ?? (await pool.digestTree(root, signal))
      })
      return { problem }
    },
    async listing(holding) {
      if (!isCurrent(holding)) return undefined
      return orAbsent(() => pool.listTree(physical(holding.info.storePath)))
    },
    async readFile(holding, pathInside, limit) {
      if (!isCurrent(holding)) return undefined
      return readInside(physical(holding.info.storePath), pathInside, limit)
    },
    ...createNixExtras({
      db,
      pool,
      storeDir,
      physicalDir,
      logDir: options.logDir ?? join(options.root, 'nix/var/log/nix'),
      find,
    }),
    paths,
    follow: () => createNixFollower({ db, storeDir, holderId: id, presence }),
    generation() {
      try {
        return noticeVersion(db.read(queries => queries.version()))
      } catch {
        return 'down'
      }
    },
  }
}
