import { fail } from '../../protocol/errors.ts'
import { parseHash } from '../../protocol/hash.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { isSignature } from '../../protocol/signature.ts'
import { parseBaseName, parseStorePath } from '../../protocol/store-path.ts'
import type { BaseName, HashPart } from '../../protocol/store-path.ts'

// Rows of db.sqlite (schema 10 of Nix 2.3 to 2.36, src/libstore/schema.sql) to path infos. A row that is not what Nix
// writes counts as absent.

/** References come in the same statement: one lock of the database instead of two. No store path has a newline. */
const COLUMNS = `v.id, v.path, v.hash, v.registrationTime, v.deriver, v.narSize, v.ultimate, v.sigs, v.ca,
  (select group_concat(r.path, char(10)) from Refs join ValidPaths r on r.id = reference where referrer = v.id)
  from ValidPaths v`

/** A path by the range of {@link hashPartRange}: the unique index on `path` serves it. */
export const ROW_BY_HASH_PART = `select ${COLUMNS} where v.path > ? and v.path < ? limit 1`

/** Everything of a row that may change or tells it apart; references never change under one id. */
export const MARK_BY_HASH_PART = `select id, path, hash, registrationTime, deriver, ultimate, sigs, ca
  from ValidPaths where path > ? and path < ? limit 1`

/** The same row again. */
export const ROW_BY_ID = `select ${COLUMNS} where v.id = ?`

/** Ids and paths in the order of ids, which are never used twice: a walk goes on where it stopped. */
export const PATHS_AFTER = 'select id, path from ValidPaths where id > ? order by id limit ?'

/** The same up to an id, with sizes. */
export const SIZED_BETWEEN =
  'select id, path, narSize from ValidPaths where id > ? and id <= ? order by id limit ?'

export const COUNT_ALL = 'select count(*) from ValidPaths'

/** The newest id that is there, and the newest ever given (the table is AUTOINCREMENT): less than before after a rollback. */
export const NEWEST_ID = 'select coalesce(max(id), 0) from ValidPaths'
export const LAST_GIVEN_ID = `select seq from sqlite_sequence where name = 'ValidPaths'`

/** Rows between two texts up to an id, from the index on `path` alone: 0.1 us a row, where the table itself takes ten times that. */
export const COUNT_BETWEEN =
  'select count(*) from ValidPaths where path > ? and path < ? and id <= ?'
export const SIZED_WITHIN =
  'select id, path, narSize from ValidPaths where path > ? and path < ? and id <= ?'

/** Bounds, exclusive, of the paths with that hash part: '.' is the character behind '-'. */
export const hashPartRange = (storeDir: string, hashPart: HashPart): readonly [string, string] => [
  `${storeDir}/${hashPart}-`,
  `${storeDir}/${hashPart}.`,
]

/** A row, checked. */
export interface NixRow {
  readonly id: number
  readonly registrationTime: number
  readonly columns: readonly unknown[]
  readonly info: PathInfo
  readonly ultimate: boolean
}

type Columns = readonly [
  id: number,
  path: unknown,
  hash: unknown,
  registrationTime: number,
  deriver: unknown,
  narSize: unknown,
  ultimate: unknown,
  sigs: unknown,
  ca: unknown,
  references: unknown,
]

/** Whether two readings of a row say the same. */
export const sameRow = (a: readonly unknown[], b: readonly unknown[]): boolean =>
  a.every((column, index) => column === b[index])

const invalid = (value: unknown, problem: string): never =>
  fail('STORE_PATH_INVALID', { value: String(value), problem })

function referencesOf(text: unknown, storeDir: string): readonly BaseName[] {
  if (typeof text !== 'string') return []
  const prefix = storeDir.length + 1
  const references = text
    .split('\n')
    .map(path => parseStorePath(path, storeDir).slice(prefix) as BaseName)
  // Base names are ASCII: the default order is the order of bytes.
  return references.sort()
}

/** The deriver is hearsay: a malformed one is left out, the path itself is still what its hash says. */
function deriverOf(text: unknown, storeDir: string): BaseName | undefined {
  if (typeof text !== 'string' || !text.startsWith(`${storeDir}/`)) return undefined
  try {
    return parseBaseName(text.slice(storeDir.length + 1))
  } catch {
    return undefined
  }
}

/** Checks a row; throws STORE_PATH_INVALID or HASH_INVALID for one that Nix would not have written. */
export function parseRow(columns: readonly unknown[], storeDir: string): NixRow {
  const [id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca, references] =
    columns as Columns
  const storePath = parseStorePath(String(path), storeDir)
  const narHash = parseHash(String(hash))
  if (narHash.algorithm !== 'sha256') invalid(path, `its NAR hash is ${narHash.algorithm}`)
  if (typeof narSize !== 'number' || !Number.isSafeInteger(narSize) || narSize <= 0) {
    return invalid(path, `its NAR size is ${String(narSize)}`)
  }
  return {
    id,
    registrationTime,
    columns,
    ultimate: ultimate === 1,
    info: {
      storePath,
      narHash,
      narSize,
      references: referencesOf(references, storeDir),
      ca: typeof ca === 'string' && ca !== '' ? ca : undefined,
      signatures: typeof sigs === 'string' ? sigs.split(' ').filter(isSignature) : [],
      deriver: deriverOf(deriver, storeDir),
    },
  }
}
