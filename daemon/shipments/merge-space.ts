import { opendir, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'

// How much may still come into a cache: its quota, and what must stay free on the disk for everything else on the machine.

/** What stays free of a disk: this many bytes or that part of it, whichever is more, but never more than a tenth. */
const RESERVE_BYTES = 1024 ** 3
const RESERVE_PART = 0.02
const RESERVE_PART_MAX = 0.1

/** Bytes that a path takes beside its NAR file: narinfo, inode, the rest of the last block of both. */
export const PATH_OVERHEAD_BYTES = 8192

/** File sizes asked for at once. */
const STATS_AT_ONCE = 64

/** The room that a cache directory has. */
export interface CacheSpace {
  /** Bytes that may still be written now. */
  room(): Promise<number>
  /** Says that so many came, for the quota. */
  took(bytes: number): void
  /** Bytes that are kept free of the disk. */
  readonly reserve: number
}

export interface CacheSpaceOptions {
  readonly dir: string
  /** `cache.maxSize`, bytes. */
  readonly maxSize: number
  /** Default: see above. */
  readonly reserve?: number | undefined
}

/** Bytes of the NAR files of a cache directory. */
async function usedBytes(dir: string): Promise<number> {
  let bytes = 0
  let names: string[] = []
  const add = async (): Promise<void> => {
    const sizes = await Promise.all(
      names.map(name =>
        stat(join(dir, 'nar', name)).then(
          ({ size }) => size + PATH_OVERHEAD_BYTES,
          () => 0,
        ),
      ),
    )
    for (const size of sizes) bytes += size
    names = []
  }
  for await (const { name } of await opendir(join(dir, 'nar'))) {
    names.push(name)
    if (names.length === STATS_AT_ONCE) await add()
  }
  await add()
  return bytes
}

/** Looks at a cache directory and its disk. */
export async function openCacheSpace({
  dir,
  maxSize,
  reserve,
}: CacheSpaceOptions): Promise<CacheSpace> {
  const { blocks, bsize } = await statfs(dir)
  const total = blocks * bsize
  const kept =
    reserve ?? Math.min(Math.max(RESERVE_BYTES, total * RESERVE_PART), total * RESERVE_PART_MAX)
  let used = await usedBytes(dir)
  return {
    reserve: kept,
    async room() {
      const now = await statfs(dir)
      return Math.max(0, Math.min(now.bavail * now.bsize - kept, maxSize - used))
    },
    took(bytes) {
      used += bytes
    },
  }
}
