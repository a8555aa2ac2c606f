import { setImmediate as turn } from 'node:timers/promises'
import { fail, problemOf } from '../../protocol/errors.ts'
import { hashPartOf, parseStorePath } from '../../protocol/store-path.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { HeldPath, HolderChange, HolderFollower } from './holder.ts'
import { BLOCK_PREFIXES, blockOf, createKnownParts } from './known-parts.ts'
import type { KnownParts } from './known-parts.ts'
import type { NixDb, NixQueries } from './nix-db.ts'
import type { NixPresence } from './nix-presence.ts'
import { COUNT_ALL, COUNT_BETWEEN, LAST_GIVEN_ID, NEWEST_ID } from './nix-rows.ts'
import { SIZED_BETWEEN, SIZED_WITHIN } from './nix-rows.ts'

// What came to a live store stands behind the highest id known, since Nix never gives an id twice. What went leaves no
// trace: the rows of 1024 blocks of paths are counted (0.1 s for a million rows, a few ms for a usual store) and only a
// block whose count is not what it should be is compared with what was known of it.

/** Rows of one step: under a millisecond of the event loop. */
const ROWS_PER_STEP = 500

/** How long counting may hold the event loop before others have their turn, ms. */
const SLICE_MS = 2

/** After looking for what went, that many times as long is rested: a store that changes all the time costs a third at most. */
const REST_FACTOR = 2

export interface NixFollowerOptions {
  readonly db: NixDb
  readonly storeDir: string
  /** Told of a database that cannot be read any more. */
  readonly holderId: string
  /** Is told of every row that a walk meets. */
  readonly presence?: NixPresence | undefined
  /** Ms of a clock that only goes forward. */
  readonly clock?: (() => number) | undefined
}

interface State {
  readonly file: string
  readonly parts: KnownParts
  /** Rows that each block should have. */
  readonly counts: Uint32Array
  lastId: number
  /** Additions are told up to this version of the database, and what went up to that one. */
  version: number
  sweptVersion: number
  walked: boolean
}

type Row = readonly [id: number, path: string, narSize: unknown]

/** The follower of one database. */
export function createNixFollower(options: NixFollowerOptions): HolderFollower {
  const { db, storeDir, holderId, presence, clock = () => performance.now() } = options
  let state: State | undefined
  let restUntil = -Infinity

  const blockOfPath = (path: string): number => blockOf(path.slice(storeDir.length + 1))

  /** Undefined for a row that no holding comes of, as far as it is read here. */
  const heldOf = ([, path, narSize]: Row): HeldPath | undefined => {
    if (typeof narSize !== 'number' || !Number.isSafeInteger(narSize) || narSize <= 0) {
      return undefined
    }
    try {
      return { storePath: parseStorePath(String(path), storeDir), narSize }
    } catch {
      return undefined
    }
  }

  /** Takes rows that are new to the state in. */
  const take = (into: State, rows: readonly Row[]): HeldPath[] => {
    const held: HeldPath[] = []
    for (const row of rows) {
      const block = blockOfPath(String(row[1]))
      if (block >= 0) into.counts[block] = (into.counts[block] ?? 0) + 1
      const path = heldOf(row)
      if (path === undefined) continue
      into.parts.add(hashPartOf(path.storePath))
      held.push(path)
    }
    return held
  }

  /** Rows of the same database; undefined where another stands in its place. */
  const rowsOf = (
    from: State,
    sql: string,
    ...parameters: readonly (string | number)[]
  ): readonly Row[] | undefined =>
    db.read(queries =>
      queries.file === from.file
        ? (queries.all(sql, ...parameters) as unknown as readonly Row[])
        : undefined,
    )

  async function* all(): AsyncGenerator<readonly HeldPath[], void, undefined> {
    state = undefined
    const start = db.read(queries => ({
      file: queries.file,
      version: queries.version(),
      lastId: queries.get(NEWEST_ID)?.[0] as number,
      rows: queries.get(COUNT_ALL)?.[0] as number,
    }))
    presence?.begin(start.file, start.rows)
    const mine: State = {
      file: start.file,
      version: start.version,
      lastId: start.lastId,
      parts: createKnownParts(),
      counts: new Uint32Array(BLOCK_PREFIXES.length),
      sweptVersion: start.version,
      walked: false,
    }
    state = mine
    for (let last = 0; ;) {
      const rows = rowsOf(mine, SIZED_BETWEEN, last, start.lastId, ROWS_PER_STEP)
      if (rows === undefined || state !== mine) {
        return fail('HOLDER_UNREADABLE', {
          holder: holderId,
          problem: 'its database was replaced while it was read',
        })
      }
      const newest = rows.at(-1)
      if (newest === undefined) break
      last = newest[0]
      const held = take(mine, rows)
      for (const { storePath } of held) presence?.add(hashPartOf(storePath))
      yield held
      await turn()
    }
    mine.walked = true
    presence?.complete(mine.file, start.lastId)
  }

  async function* added(from: State, version: number): AsyncGenerator<HolderChange> {
    for (;;) {
      const rows = rowsOf(from, SIZED_BETWEEN, from.lastId, Number.MAX_SAFE_INTEGER, ROWS_PER_STEP)
      const newest = rows?.at(-1)
      if (rows === undefined || newest === undefined) break
      from.lastId = newest[0]
      const held = take(from, rows)
      if (held.length > 0) yield { added: held, removed: [] }
      await turn()
    }
    from.version = version
  }

  /** What a block has now, where its rows are not as many as they should be. */
  const compare = (from: State, block: number, prefix: string): HolderChange | undefined => {
    const low = `${storeDir}/${prefix}`
    const bounds = [low, `${low}~`, from.lastId] as const
    const counted = rowsOf(from, COUNT_BETWEEN, ...bounds)?.[0]?.[0]
    if (counted === undefined || counted === from.counts[block]) return undefined
    const rows = rowsOf(from, SIZED_WITHIN, ...bounds)
    if (rows === undefined) return undefined
    from.counts[block] = rows.length
    const now = new Map<HashPart, HeldPath>()
    for (const row of rows) {
      const path = heldOf(row)
      if (path !== undefined) now.set(hashPartOf(path.storePath), path)
    }
    const difference = from.parts.become(block, new Set(now.keys()))
    return {
      added: difference.added.map(part => now.get(part) as HeldPath),
      removed: difference.removed,
    }
  }

  async function* swept(from: State, version: number): AsyncGenerator<HolderChange> {
    let until = clock() + SLICE_MS
    let spent = 0
    // A collection takes a little from every block: one step each would cost the listener a thousand transactions.
    let added: HeldPath[] = []
    let removed: HashPart[] = []
    for (const [block, prefix] of BLOCK_PREFIXES.entries()) {
      const change = compare(from, block, prefix)
      if (change !== undefined) {
        added.push(...change.added)
        removed.push(...change.removed)
      }
      if (added.length + removed.length >= ROWS_PER_STEP) {
        yield { added, removed }
        added = []
        removed = []
      }
      if (clock() <= until) continue
      spent += SLICE_MS
      await turn()
      until = clock() + SLICE_MS
    }
    if (added.length + removed.length > 0) yield { added, removed }
    from.sweptVersion = version
    restUntil = clock() + REST_FACTOR * (spent + SLICE_MS)
  }

  async function* steps(
    from: State,
    version: number,
    sweep: boolean,
  ): AsyncGenerator<HolderChange> {
    if (version !== from.version) yield* added(from, version)
    if (sweep) yield* swept(from, version)
  }

  return {
    all,
    changes() {
      const from = state
      if (from === undefined) return 'lost'
      let now: { readonly version: number; readonly rolledBack: boolean }
      try {
        now = db.read(queries => {
          const version = queries.version()
          return { version, rolledBack: version !== from.version && isRolledBack(queries, from) }
        })
      } catch {
        // Out of reach, and told so: what is there when it comes back is seen then.
        return undefined
      }
      if (now.rolledBack) {
        state = undefined
        return 'lost'
      }
      const sweep = from.walked && now.version !== from.sweptVersion && clock() >= restUntil
      if (now.version === from.version && !sweep) return undefined
      return steps(from, now.version, sweep)
    },
  }
}

/** Whether what is there cannot have followed from the state: another file, or one that gave fewer ids. */
function isRolledBack(queries: NixQueries, { file, lastId }: State): boolean {
  if (queries.file !== file) return true
  try {
    return Number(queries.get(LAST_GIVEN_ID)?.[0] ?? 0) < lastId
  } catch (error) {
    // Without the counter of ids they may be given twice, and nothing can be followed.
    if (/no such table/.test(problemOf(error))) return true
    throw error
  }
}
