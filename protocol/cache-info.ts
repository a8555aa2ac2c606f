// `nix-cache-info`, the file at the root of a binary cache: lines `Name: value`; StoreDir, WantMassQuery (0 or 1),
// Priority (lower is asked first); other names are ignored. Often written by hand, so white space around a value and a
// missing last newline pass. Source: NixOS/nix src/libstore/binary-cache-store.cc (BinaryCacheStore::init).
import { isAscii } from 'node:buffer'
import { fail, problemOf } from './errors.ts'
import { parseStoreDir } from './store-path.ts'

/** What a binary cache says of itself. */
export interface CacheInfo {
  readonly storeDir: string
  /** Whether it likes being asked for many paths at once (`nix-env -qas`). */
  readonly wantMassQuery: boolean
  /** 0..{@link PRIORITY_MAX}, lower is asked first; undefined where the file is silent (Nix >= 2.8 then takes 0). */
  readonly priority?: number | undefined
}

/** Bytes of the largest nix-cache-info read; real ones have about 60. */
export const CACHE_INFO_MAX_BYTES = 16 * 1024

/** Nix keeps the priority in a C++ int. */
export const PRIORITY_MAX = 2 ** 31 - 1

const invalid = (problem: string): never => fail('CACHE_INFO_INVALID', { problem })

/** Reads a nix-cache-info; throws CACHE_INFO_INVALID. */
export function parseCacheInfo(bytes: Uint8Array): CacheInfo {
  if (bytes.length > CACHE_INFO_MAX_BYTES) invalid(`larger than ${CACHE_INFO_MAX_BYTES} bytes`)
  if (!isAscii(bytes)) invalid('not ASCII text')
  const fields = new Map<string, string>()
  for (const line of Buffer.from(bytes).toString('latin1').split('\n')) {
    const colon = line.indexOf(':')
    if (colon < 0) {
      if (line.trim() !== '') invalid(`line without a colon: ${line}`)
      continue
    }
    const name = line.slice(0, colon)
    // Whoever reads the first and whoever reads the last would disagree about the store.
    if (fields.has(name)) invalid(`${name} given twice`)
    fields.set(name, line.slice(colon + 1).trim())
  }
  const storeDir = fields.get('StoreDir')
  if (storeDir === undefined) return invalid('no StoreDir')
  try {
    parseStoreDir(storeDir)
  } catch (error) {
    return fail('CACHE_INFO_INVALID', { problem: problemOf(error) }, error)
  }
  const wantMassQuery = fields.get('WantMassQuery') ?? '0'
  if (!/^[01]$/.test(wantMassQuery)) invalid(`WantMassQuery ${wantMassQuery} is neither 0 nor 1`)
  const priority = fields.get('Priority')
  if (priority !== undefined && (!/^\d{1,10}$/.test(priority) || Number(priority) > PRIORITY_MAX)) {
    invalid(`Priority ${priority} is not a whole number of 0..${PRIORITY_MAX}`)
  }
  return {
    storeDir,
    wantMassQuery: wantMassQuery === '1',
    priority: priority === undefined ? undefined : Number(priority),
  }
}

/** Writes a nix-cache-info; always give a priority where clients read it. */
export const formatCacheInfo = ({ storeDir, wantMassQuery, priority }: CacheInfo): string =>
  `StoreDir: ${storeDir}\nWantMassQuery: ${wantMassQuery ? 1 : 0}\n` +
  (priority === undefined ? '' : `Priority: ${priority}\n`)
