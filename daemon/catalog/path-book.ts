import { decodeNix32 } from '../../protocol/nix32.ts'
import { referredIn } from './index-info.ts'
import type { Statements } from './statements.ts'

// Paths and names in the writer: each stands once, whoever speaks of it. Ids are kept in memory where that saves look-ups;
// a transaction that is taken back must be followed by `forget`.

/** Names whose ids are kept, in each of two generations (4 MB): rebuilds of one package share a name, some ten thousand paths apart. */
const KNOWN_NAMES_MAX = 25_000

/** Bytes of a hash that are its key: the most that a small integer of SQLite and a JavaScript number both hold. */
const KEY_BYTES = 6

/** Bytes of a store path's hash. */
const HASH_BYTES = 20

/** Loose paths worth a look through all infos (a second or two a million): some megabytes. */
const SWEEP_AT = 20_000

/** Loose paths that one sweep takes on: 16 MB of memory. */
const SWEEP_PATHS_MAX = 250_000

/** Infos looked through, and paths taken out, in one slice: about 20 ms. */
const SWEPT_INFOS = 5000
const SWEPT_PATHS = 1000

/** The number by which a path is looked up; others may share it. */
export const keyOf = (hash: Buffer): number => hash.readUIntBE(0, KEY_BYTES)

/** The hash of a hash part of 32 nix32 characters. */
export const hashOf = (hashPart: string): Buffer => decodeNix32(hashPart, HASH_BYTES)

/** Paths by hash and name. */
export interface PathBook {
  find(hash: Buffer, name: string): number | undefined
  /** Writes a path that {@link find} did not find. */
  add(hash: Buffer, name: string, narSize?: number): number
  /** A path spoken of as a reference: where it is new, it is loose. */
  refer(hash: Buffer, name: string): number
  /** Takes a path out, now or by the next sweep, unless somebody has it. */
  release(path: number): void
  /** Takes a path out that nothing refers to, unless somebody has it. */
  drop(path: number): void
  /** New infos refer to those paths. */
  referred(...paths: readonly ArrayLike<number>[]): void
  /** One slice of taking out paths that nobody has and nothing refers to; false when there was too little to do. */
  sweepSome(): boolean
  /** Adds up to `limit` names to the trigram index; whether there are more. */
  indexNames(limit: number): boolean
  /** What is kept in memory may not be so any more. */
  forget(): void
}

interface Sweep {
  readonly unwanted: Set<number>
  /** Infos up to this id are looked through; undefined: all are. */
  after: number | undefined
}

interface InfoRow {
  readonly id: number
  readonly rest: Buffer
}

/** The paths of a catalog that this connection writes. */
export function createPathBook(sql: Statements, sweepAt: number = SWEEP_AT): PathBook {
  let names = new Map<string, number>()
  let olderNames = new Map<string, number>()
  const findPath = sql('paths.find').pluck()
  const findName = sql('paths.nameId').pluck()
  const addPath = sql('paths.add')
  const addName = sql('paths.addName')
  let nextPath = 0
  let namesUpto = 0
  let loose = 0
  let sweep: Sweep | undefined

  const forgetNames = (): void => {
    names.clear()
    olderNames.clear()
  }
  const forget = (): void => {
    forgetNames()
    nextPath = (sql('paths.lastId').pluck().get() as number) + 1
    namesUpto = sql('paths.namesUpto').pluck().get() as number
    sweep = undefined
  }
  forget()
  loose = sql('paths.countLoose').pluck().get() as number

  const setNamesUpto = (upto: number): void => {
    sql('paths.setNamesUpto').run(upto)
    namesUpto = upto
  }
  const nameId = (name: string): number => {
    let id = names.get(name)
    if (id !== undefined) return id
    id = olderNames.get(name) ?? (findName.get(name) as number | undefined)
    if (id === undefined) {
      id = Number(addName.run(name).lastInsertRowid)
      // SQLite gives the largest id anew once its row is gone; then no name stands above it.
      if (id <= namesUpto) setNamesUpto(id - 1)
    }
    if (names.size >= KNOWN_NAMES_MAX) {
      olderNames = names
      names = new Map()
    }
    names.set(name, id)
    return id
  }
  const find = (hash: Buffer, name: string): number | undefined =>
    findPath.get(keyOf(hash), hash, name) as number | undefined
  const add = (hash: Buffer, name: string, narSize?: number): number => {
    addPath.run(nextPath, keyOf(hash), hash, nameId(name), narSize ?? null)
    return nextPath++
  }
  const isHeld = (path: number): boolean => sql('paths.isHeld').get({ path }) !== undefined
  const loosen = (path: number): void => {
    loose += sql('paths.loosen').run(path).changes
  }
  const drop = (path: number): void => {
    if (isHeld(path)) return
    const name = sql('paths.drop').pluck().get(path)
    if (name === undefined) return
    const { changes } = sql('paths.dropName').run({ name })
    // Which of the names it was is not known here.
    if (changes > 0) forgetNames()
    if (path === nextPath - 1) nextPath = path
  }

  /** Those that may go, by id, until something is seen to refer to them. */
  const beginSweep = (): Sweep => ({
    unwanted: new Set(sql('paths.loose').pluck().all(SWEEP_PATHS_MAX) as number[]),
    after: 0,
  })
  const keep = (path: number): void => void sweep?.unwanted.delete(path)
  const lookThrough = (current: Sweep): void => {
    const rows = sql('paths.rests').all(current.after, SWEPT_INFOS) as InfoRow[]
    for (const { rest } of rows) for (const path of referredIn(rest)) keep(path)
    current.after = rows.at(-1)?.id
  }
  const takeOut = (current: Sweep): void => {
    let left = SWEPT_PATHS
    for (const path of current.unwanted) {
      if (left-- === 0) return
      current.unwanted.delete(path)
      sql('paths.tighten').run(path)
      drop(path)
    }
    // What is still referred to stays loose, and counts again when it comes to be looked at.
    sweep = undefined
    loose = 0
  }

  return {
    find,
    add,
    drop,
    forget,
    refer(hash, name) {
      const known = find(hash, name)
      if (known !== undefined) return known
      const path = add(hash, name)
      loosen(path)
      return path
    },
    release(path) {
      // Only infos refer to paths: without any there is nothing to look for.
      if (sql('paths.anyInfo').get() === undefined) drop(path)
      else if (!isHeld(path)) loosen(path)
    },
    referred(...lists) {
      if (sweep === undefined) return
      for (const list of lists) for (let at = 0; at < list.length; at++) keep(list[at] as number)
    },
    sweepSome() {
      if (sweep === undefined) {
        if (loose < sweepAt) return false
        sweep = beginSweep()
      }
      if (sweep.after !== undefined) lookThrough(sweep)
      else takeOut(sweep)
      return true
    },
    indexNames(limit) {
      const last = sql('paths.lastNameOf').pluck().get(namesUpto, limit) as number | null
      if (last === null) return false
      sql('paths.indexNames').run(namesUpto, last)
      setNamesUpto(last)
      return true
    },
  }
}
