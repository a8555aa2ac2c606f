import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type Database from 'better-sqlite3'

// The client's memory of what caches said: ~/.cache/nix/binary-cache-v*.sqlite. Nix asks no cache again for a path that it
// remembers: 30 days for "is here", an hour for "is not". Tables after Nix's src/libstore/nar-info-disk-cache.cc.

/** What one of Nix's cache files remembers of our URL. */
export interface RememberedAnswers {
  readonly file: string
  /** Hash parts it believes absent, in force at most that long after. */
  readonly absent: number
  /** Paths it believes present, newest first, at most {@link PRESENT_LIMIT}. */
  readonly present: readonly { readonly hashPart: string; readonly name: string }[]
  /** Why it could not be read. */
  readonly problem?: string
}

/** Paths looked up again in one check: as many as one question to the daemon takes. */
export const PRESENT_LIMIT = 200

/** Seconds for which Nix believes that a path is there (narinfo-cache-positive-ttl). */
const POSITIVE_TTL_SECONDS = 2_592_000

/** A reader must not wait for a Nix that is writing. */
const BUSY_TIMEOUT_MS = 1000

/** Folders of this user's and, where it may be read, the daemon's cache. */
export function cacheFolders(env: NodeJS.ProcessEnv): string[] {
  const own = join(env.XDG_CACHE_HOME || join(env.HOME ?? '/', '.cache'), 'nix')
  return [...new Set([own, '/root/.cache/nix'])]
}

function cacheFiles(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter(name => /^binary-cache-v\d+\.sqlite$/.test(name))
      .sort()
      .map(name => join(folder, name))
  } catch {
    return []
  }
}

/** One spelling of a cache's URL: no slash at the end, no parameters (`?priority=10`). */
export const plainUrl = (url: string): string => url.replace(/\?.*$/, '').replace(/\/+$/, '')

function readOne(
  file: string,
  open: typeof Database,
  urls: ReadonlySet<string>,
  nowSeconds: number,
  negativeTtlSeconds: number,
): RememberedAnswers {
  let database
  try {
    database = new open(file, { readonly: true, timeout: BUSY_TIMEOUT_MS })
    const caches = (
      database.prepare('SELECT id, url FROM BinaryCaches').all() as { id: number; url: string }[]
    ).filter(({ url }) => urls.has(plainUrl(url)))
    const countAbsent = database
      .prepare('SELECT count(*) FROM NARs WHERE cache = ? AND present = 0 AND timestamp > ?')
      .pluck()
    const listPresent = database.prepare(
      `SELECT hashPart, namePart AS name FROM NARs
       WHERE cache = ? AND present = 1 AND timestamp > ? ORDER BY timestamp DESC LIMIT ?`,
    )
    let absent = 0
    const present: { hashPart: string; name: string }[] = []
    for (const { id } of caches) {
      absent += countAbsent.get(id, nowSeconds - negativeTtlSeconds) as number
      const rows = listPresent.all(id, nowSeconds - POSITIVE_TTL_SECONDS, PRESENT_LIMIT)
      present.push(...(rows as { hashPart: string; name: string }[]))
    }
    return { file, absent, present: present.slice(0, PRESENT_LIMIT) }
  } catch (error) {
    return { file, absent: 0, present: [], problem: (error as Error).message }
  } finally {
    database?.close()
  }
}

/** What Nix's cache files remember of those URLs (in {@link plainUrl} form); they are opened read-only. */
export async function rememberedAnswers(
  env: NodeJS.ProcessEnv,
  urls: ReadonlySet<string>,
  now: Date,
  negativeTtlSeconds: number,
): Promise<RememberedAnswers[]> {
  const files = cacheFolders(env).flatMap(cacheFiles)
  if (files.length === 0) return []
  const { default: open } = await import('better-sqlite3')
  const nowSeconds = Math.floor(now.getTime() / 1000)
  return files.map(file => readOne(file, open, urls, nowSeconds, negativeTtlSeconds))
}
