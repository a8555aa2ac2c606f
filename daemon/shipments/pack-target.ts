import { constants, readFileSync, statSync } from 'node:fs'
import { access, lstat, mkdir, readdir, realpath, statfs } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { parseCacheInfo } from '../../protocol/cache-info.ts'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { NARINFO_MAX_BYTES, parseNarinfo } from '../../protocol/narinfo.ts'
import { SPLIT_PART_BYTES, SPLIT_PARTS_MAX } from '../../protocol/shipment.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { parseHashPart, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import { readSmallFile } from '../holders/small-file.ts'

// The directory that a shipment goes to: what lies there, what room it has, and whether it is still the same one. A drive
// that is unmounted leaves an empty directory of the same name behind, on this machine's own disk.

/** A directory that takes a shipment. */
export interface ShipTarget {
  readonly dir: string
  readonly storeDir: string
  /** Bytes of a file that the file system takes at most. */
  readonly fileMax: number
  /** Bytes that may be written now, the reserve kept back. */
  room(): Promise<number>
  /** Bytes that a path with such a file takes. */
  costOf(fileBytes: number): number
  /** Throws SHIP_TARGET_GONE when what is there is not what was there at first. */
  check(): void
  /** Of the narinfos that lie there, in order. */
  hashParts(): Promise<HashPart[]>
  /** A path that lies there with its whole NAR file, as far as the sizes say. */
  read(hashPart: HashPart): Promise<ShipmentEntry | undefined>
  /** The same, and where it is not whole, why. */
  look(hashPart: HashPart): Promise<Look>
}

/** What lies under a hash part. */
export type Look =
  | { readonly entry: ShipmentEntry }
  | { readonly problem: string; readonly storePath?: StorePath | undefined }

export interface ShipTargetOptions {
  readonly dir: string
  readonly storeDir: string
  /** Directories of this host that no shipment may go to or into: stores, caches, state. */
  readonly forbidden: readonly string[]
  /** Instead of what the file system is known to take. */
  readonly fileMax?: number | undefined
  /** Only looks: nothing is made. */
  readonly readOnly?: boolean | undefined
}

/** Types of file systems by statfs(2) that take no file of 4 GiB. */
const MSDOS_SUPER_MAGIC = 0x4d44

/** Room left for manifest, index, and what travels back: a hundredth, within these. */
const RESERVE_MIN_BYTES = 1024 * 1024
const RESERVE_MAX_BYTES = 512 * 1024 * 1024
const RESERVE_SHARE = 0.01

/** What a narinfo takes at most times, and what a path takes of the index. */
const NARINFO_BYTES = 1024
const INDEX_BYTES = 160

/** Slack of one file where the file system does not say. */
const BLOCK_BYTES = 4096

const NARINFO_FILE = /^([0-9a-df-np-sv-z]{32})\.narinfo$/

/** Directories of a shipment: a link in place of one would lead what is written elsewhere. */
const DIRECTORIES = [
  'nar',
  'narwharf',
  'narwharf/index',
  'narwharf/channels',
  'narwharf/flakes',
  'narwharf/tarballs',
]

const isInside = (path: string, directory: string): boolean =>
  path === directory || path.startsWith(directory === sep ? sep : `${directory}${sep}`)

async function checkPlace({ dir, forbidden, readOnly }: ShipTargetOptions): Promise<string> {
  const unfit = (problem: string, cause?: unknown): never =>
    fail('SHIP_TARGET_UNFIT', { dir, problem }, cause)
  try {
    if (readOnly !== true) {
      await mkdir(dir).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error
      })
    }
    const real = await realpath(dir)
    if (!(await lstat(real)).isDirectory()) unfit('it is no directory')
    for (const place of forbidden) {
      const own = await realpath(place).catch(() => undefined)
      if (own !== undefined && isInside(real, own))
        unfit(`it belongs to ${own}, which this host uses itself`)
    }
    await access(real, constants.R_OK | constants.X_OK | (readOnly === true ? 0 : constants.W_OK))
    for (const name of DIRECTORIES) {
      const found = await lstat(join(real, name)).catch(() => undefined)
      if (found !== undefined && !found.isDirectory()) unfit(`${name} there is no directory`)
    }
    return real
  } catch (error) {
    return isNarwharfError(error) ? fail(error.code, error.data) : unfit(problemOf(error), error)
  }
}

function checkStoreDir(dir: string, storeDir: string): void {
  let bytes: Buffer
  try {
    bytes = readFileSync(join(dir, 'nix-cache-info'))
  } catch {
    return
  }
  // A disk that was full, or a kill of another program: it says nothing, and is written anew.
  if (bytes.length === 0) return
  const found = parseCacheInfo(bytes).storeDir
  if (found !== storeDir) {
    fail('SHIP_TARGET_UNFIT', {
      dir,
      problem: `it is a cache of ${found}, this host’s store is ${storeDir}`,
    })
  }
}

/** Bytes of a file that is no link; undefined for anything else. */
async function fileSizeOf(path: string): Promise<number | undefined> {
  try {
    const stats = await lstat(path)
    return stats.isFile() ? stats.size : undefined
  } catch {
    return undefined
  }
}

/** Bytes of a NAR that lies in several files, and how many; undefined where there are none. */
async function splitSizeOf(path: string): Promise<{ size: number; parts: number } | undefined> {
  let [size, parts] = [0, 0]
  while (parts < SPLIT_PARTS_MAX) {
    const part = await fileSizeOf(`${path}.${String(parts).padStart(3, '0')}`)
    if (part === undefined) break
    size += part
    parts++
  }
  return parts === 0 ? undefined : { size, parts }
}

async function lookAt(dir: string, hashPart: HashPart, storeDir: string): Promise<Look> {
  const bytes = await readSmallFile(join(dir, `${hashPart}.narinfo`), NARINFO_MAX_BYTES)
  if (bytes === undefined) return { problem: 'its narinfo cannot be read' }
  let info: NarInfo
  try {
    info = parseNarinfo(bytes, { storeDir, expected: hashPart })
  } catch (error) {
    return { problem: problemOf(error) }
  }
  const { storePath, url } = info
  const wanted = info.fileSize ?? (info.compression === 'none' ? info.narSize : undefined)
  const nar = join(dir, url)
  const whole = await fileSizeOf(nar)
  if (whole !== undefined && (wanted === undefined || whole === wanted)) {
    return { entry: { info, builtHere: false } }
  }
  if (whole !== undefined) return { storePath, problem: `${url} has ${whole} bytes, not ${wanted}` }
  const split = await splitSizeOf(nar)
  if (split === undefined) return { storePath, problem: `${url} is not there` }
  if (split.size === wanted && split.parts >= 2) {
    return { entry: { info, builtHere: false, parts: split.parts } }
  }
  return { storePath, problem: `${url} has ${split.size} bytes in its parts, not ${wanted}` }
}

/** Looks at a directory, and makes it where it is not there yet. Throws SHIP_TARGET_UNFIT. */
export async function openShipTarget(options: ShipTargetOptions): Promise<ShipTarget> {
  const { storeDir } = options
  const dir = await checkPlace(options)
  checkStoreDir(dir, storeDir)
  const { dev, ino } = statSync(dir, { bigint: true })
  const { type, bsize } = await statfs(dir)
  const block = bsize > 0 ? bsize : BLOCK_BYTES
  const inBlocks = (bytes: number): number => Math.ceil(bytes / block) * block
  const natural = type === MSDOS_SUPER_MAGIC ? SPLIT_PART_BYTES : Number.MAX_SAFE_INTEGER

  return {
    dir,
    storeDir,
    fileMax: Math.min(natural, options.fileMax ?? natural),
    async room() {
      const { blocks, bavail } = await statfs(dir)
      const share = blocks * bsize * RESERVE_SHARE
      const reserve = Math.min(RESERVE_MAX_BYTES, Math.max(RESERVE_MIN_BYTES, share))
      return Math.max(0, Math.floor(bavail * bsize - reserve))
    },
    costOf: fileBytes => inBlocks(fileBytes) + inBlocks(NARINFO_BYTES) + INDEX_BYTES,
    check() {
      let problem = 'another directory is there now: the drive was unmounted'
      try {
        const now = statSync(dir, { bigint: true })
        if (now.dev === dev && now.ino === ino) return
      } catch (error) {
        problem = problemOf(error)
      }
      fail('SHIP_TARGET_GONE', { dir, problem })
    },
    hashParts: async () =>
      (await readdir(dir))
        .flatMap(name => NARINFO_FILE.exec(name)?.[1] ?? [])
        .sort()
        .map(parseHashPart),
    async read(hashPart) {
      const look = await lookAt(dir, hashPart, storeDir)
      return 'entry' in look ? look.entry : undefined
    },
    look: hashPart => lookAt(dir, hashPart, storeDir),
  }
}
