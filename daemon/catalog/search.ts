import { setImmediate as turn } from 'node:timers/promises'
import type { HolderKind } from '../holders/holder.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { BaseName, HashPart } from '../../protocol/store-path.ts'
import { hashOf, keyOf } from './path-book.ts'
import { nameMatcher, type CatalogQuery } from './query.ts'
import type { Statements } from './statements.ts'

/** Names looked at in one go where the index cannot narrow a pattern: about 3 ms, then others get their turn. */
const SCANNED_NAMES = 10_000

/** Matching names, and matches completed, in one go: about 3 ms. */
const TAKEN_NAMES = 250

/** Paths with one hash part: more than one only where a name was forged. */
const SAME_HASH_PART_MAX = 100

/** One holder of a match. */
export interface MatchHolder {
  readonly id: string
  readonly kind: HolderKind
  readonly storeDir: string
  readonly host: string
  readonly up: boolean
  /** Ms since 1970. */
  readonly lastSeen?: number | undefined
}

/** A path that the catalog knows somebody to hold. */
export interface CatalogMatch {
  readonly baseName: BaseName
  /** Bytes of the NAR, where known. */
  readonly narSize?: number | undefined
  readonly holders: readonly MatchHolder[]
}

export interface CatalogMatches {
  readonly matches: readonly CatalogMatch[]
  /** Paths that match beyond the limit. */
  readonly more: number
}

interface PathRow {
  readonly id: number
  readonly hash: Buffer
  readonly name: string
  readonly narSize: number | null
}

/** A path found. */
interface Found {
  readonly id: number
  readonly hashPart: string
  readonly name: string
  readonly narSize: number | null
}

const foundAs = ({ id, hash, narSize }: Omit<PathRow, 'name'>, name: string): Found => ({
  id,
  hashPart: encodeNix32(hash),
  name,
  narSize,
})

interface NameRow {
  readonly id: number
  readonly name: string
}

/** Names that match, in portions of a few milliseconds; between two, others have their turn. */
async function* matchingNames(sql: Statements, query: CatalogQuery): AsyncGenerator<NameRow[]> {
  const { glob, like, indexed } = nameMatcher(query)
  const upTo = indexed ? (sql('search.namesUpto').pluck().get() as number) : 0
  if (indexed) yield* indexedNames(sql, { glob, like, upTo })
  const last = sql('search.lastName').pluck().get() as number
  for (let after = upTo; after < last; after += SCANNED_NAMES) {
    const bounds = { after, upTo: after + SCANNED_NAMES, glob }
    const names = sql('search.namesBetween').all(bounds) as NameRow[]
    for (let at = 0; at < names.length; at += TAKEN_NAMES) {
      yield names.slice(at, at + TAKEN_NAMES)
      await turn()
    }
    await turn()
  }
}

async function* indexedNames(
  sql: Statements,
  { glob, like, upTo }: { readonly glob: string; readonly like: string; readonly upTo: number },
): AsyncGenerator<NameRow[]> {
  let names: NameRow[] = []
  for (const row of sql.unshared('search.namesLike').iterate({ glob, like, upTo })) {
    names.push(row as NameRow)
    if (names.length < TAKEN_NAMES) continue
    yield names
    names = []
    await turn()
  }
  yield names
}

/** Searches paths; takes its time in slices of a few milliseconds. `isOpen` turning false ends it with what it has. */
export async function searchPaths(
  sql: Statements,
  query: CatalogQuery,
  limit: number,
  isOpen: () => boolean,
): Promise<CatalogMatches> {
  if (query.kind === 'path') return searchHashPart(sql, query, limit)
  if (query.kind === 'glob' && query.hashPart !== undefined) {
    return searchHashPart(sql, query, limit)
  }
  const found: Found[] = []
  let more = 0
  for await (const names of matchingNames(sql, query)) {
    // Leaving the loop also ends the statement, so that the connection can be closed.
    if (!isOpen()) break
    let taken = 0
    for (; taken < names.length && found.length < limit; taken++) {
      const { id, name } = names[taken] as NameRow
      const rows = sql('search.pathsOfName').all({ name: id }) as Omit<PathRow, 'name'>[]
      const all = rows.map(row => foundAs(row, name)).sort(byHashPart)
      const room = limit - found.length
      found.push(...all.slice(0, room))
      more += Math.max(0, rows.length - room)
    }
    if (taken < names.length) {
      const rest = names.slice(taken).map(({ id }) => id)
      more += sql('search.countOfNames').pluck().get(JSON.stringify(rest)) as number
    }
  }
  found.sort((a, b) => compare(a.name, b.name) || byHashPart(a, b))
  const matches: CatalogMatch[] = []
  for (let at = 0; at < found.length && isOpen(); at += TAKEN_NAMES) {
    matches.push(...found.slice(at, at + TAKEN_NAMES).map(row => withHolders(sql, row)))
    await turn()
  }
  return { matches, more }
}

function searchHashPart(
  sql: Statements,
  query: Extract<CatalogQuery, { kind: 'path' | 'glob' }>,
  limit: number,
): CatalogMatches {
  const hash = hashOf(query.hashPart as HashPart)
  const rows = sql('search.byHashPart').all({
    key: keyOf(hash),
    hash,
    limit: SAME_HASH_PART_MAX,
  }) as PathRow[]
  const pattern = query.kind === 'glob' ? nameMatcher(query).glob : undefined
  const fits = rows.filter(({ name }) =>
    query.kind === 'path'
      ? query.name === undefined || query.name === name
      : sql('search.fits').pluck().get(name, pattern) === 1,
  )
  return {
    matches: fits.slice(0, limit).map(row => withHolders(sql, foundAs(row, row.name))),
    more: Math.max(0, fits.length - limit),
  }
}

function withHolders(sql: Statements, found: Found): CatalogMatch {
  const rows = sql('search.holdersOfPath').all({ path: found.id }) as HolderRow[]
  return {
    baseName: `${found.hashPart}-${found.name}` as BaseName,
    // What a holder here has seen itself before what others say.
    narSize: found.narSize ?? rows.find(row => row.narSize !== null)?.narSize ?? undefined,
    holders: rows.map(({ id, kind, storeDir, host, up, lastSeen }) => ({
      id,
      kind,
      storeDir,
      host,
      up: up === 1,
      lastSeen: lastSeen ?? undefined,
    })),
  }
}

interface HolderRow extends Omit<MatchHolder, 'up' | 'lastSeen'> {
  readonly up: number
  readonly lastSeen: number | null
  readonly narSize: number | null
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

const byHashPart = (a: Found, b: Found): number => compare(a.hashPart, b.hashPart)
