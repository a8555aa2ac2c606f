import { accessSync, constants, statSync } from 'node:fs'
import { CACHE_INFO_MAX_BYTES, parseCacheInfo } from '../../protocol/cache-info.ts'
import { problemOf } from '../../protocol/errors.ts'
import { DEFAULT_STORE_DIR } from '../../protocol/store-path.ts'
import { readStamped, resolveBelow, stampOf } from './file-stamp.ts'
import type { Reachability } from './reachability.ts'

const INFO_FILE = 'nix-cache-info'

/** What keeps an eye on whether a directory is a cache, and of which store directory. */
export interface CacheDirInfo {
  /** The store directory last known. */
  readonly storeDir: string
  /** Looks again (one stat call where nothing changed) and gives the store directory; throws HOLDER_UNREADABLE. */
  check(): string
}

/**
 * Makes the watch over `nix-cache-info`: a missing file means the default store directory, a malformed one, or another
 * store directory than expected, puts the holder down until it is mended. A directory that had the file and now lies on
 * another device without it is a mount point whose drive is gone, not an empty cache.
 */
export function createCacheDirInfo(
  dir: string,
  expectedStoreDir: string | undefined,
  reach: Reachability,
): CacheDirInfo {
  let storeDir = expectedStoreDir ?? DEFAULT_STORE_DIR
  /** What the newest state of the file said. */
  let read:
    { readonly stamp: string; readonly storeDir?: string; readonly problem?: string } | undefined
  let deviceWithInfo: number | undefined

  const readInfo = (): typeof read => {
    const stamp = stampOf(`${dir}/${INFO_FILE}`)
    if (stamp === undefined) return undefined
    if (read?.stamp === stamp.text && !stamp.fresh) return read
    const refuse = (problem: string) => ({ stamp: stamp.text, problem })
    if (!stamp.isFile) return refuse(`${INFO_FILE} is not a regular file`)
    if (stamp.size > CACHE_INFO_MAX_BYTES) return refuse(`${INFO_FILE} is too large`)
    const resolved = resolveBelow(dir, INFO_FILE)
    if (resolved?.inside === false) return refuse(`${INFO_FILE} lies outside the cache`)
    const bytes = resolved && readStamped(resolved.file, stamp)
    if (bytes === undefined) return refuse(`${INFO_FILE} cannot be read`)
    try {
      return { stamp: stamp.text, storeDir: parseCacheInfo(bytes).storeDir }
    } catch (error) {
      return refuse(problemOf(error))
    }
  }

  const checkDirectory = (): void => {
    let device: number
    try {
      const stats = statSync(dir)
      if (!stats.isDirectory()) throw reach.down(`${dir} is not a directory`)
      device = stats.dev
      // Without the right to look inside, everything in it would seem absent.
      accessSync(dir, constants.R_OK | constants.X_OK)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      if (code === 'ENOENT') throw reach.down(`${dir} does not exist`, error)
      if (code === 'HOLDER_UNREADABLE') throw error
      throw reach.down(problemOf(error), error)
    }
    if (deviceWithInfo !== undefined && deviceWithInfo !== device) {
      throw reach.down(`${dir} is not mounted`)
    }
  }

  return {
    get storeDir() {
      return storeDir
    },
    check() {
      const known = read
      read = readInfo()
      if (read === undefined) {
        checkDirectory()
        storeDir = DEFAULT_STORE_DIR
      } else {
        if (read.storeDir === undefined) throw reach.down(read.problem ?? 'unreadable')
        storeDir = read.storeDir
        if (read !== known) {
          deviceWithInfo = statSync(dir, { throwIfNoEntry: false })?.dev
        }
      }
      if (expectedStoreDir !== undefined && storeDir !== expectedStoreDir) {
        throw reach.down(`its StoreDir is ${storeDir}, this host's ${expectedStoreDir}`)
      }
      reach.up()
      return storeDir
    },
  }
}
