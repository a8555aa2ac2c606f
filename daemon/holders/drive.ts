import { randomBytes } from 'node:crypto'
import { isNarwharfError } from '../../protocol/errors.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { ShipmentManifest } from '../../protocol/shipment.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { joinFiles } from '../workers/packed-file.ts'
import { createCacheDirInfo } from './cache-dir-info.ts'
import { createDriveExtras } from './drive-extras.ts'
import { createDriveFiles } from './drive-files.ts'
import { openDriveIndex, type DriveIndex } from './drive-index.ts'
import { createDriveLookup, driveOriginOf, recalledHolding } from './drive-lookup.ts'
import { openDriveNar } from './drive-nar.ts'
import { createDriveNames } from './drive-names.ts'
import { checkNar, guardNar } from './guarded-nar.ts'
import type { HeldPath, Holder, Holding } from './holder.ts'
import { createReachability } from './reachability.ts'

// A flat binary cache on a drive. It is read as a cache directory is, but for three things: whoever made it is a stranger, so
// no link is followed and every NAR lies flat in nar/; it may be slow or die, so `find` gives a promise, and one that gives no
// answer is out of reach for as long; and it comes and goes, so what was verified holds for one plugging only.
//
// Where a manifest is believed, its index tells what narinfos say. They are not compared with the narinfo files: the index is
// covered by the manifest's signature, the files by nothing, and either way trust decides by the signatures of each path.

/** A flat binary cache on a drive. */
export interface DriveHolder extends Holder {
  readonly kind: 'drive'
  /** How many paths the index tells of; undefined while it is read, and where there is none that is believed. */
  readonly indexedPaths: number | undefined
  /** Why the index is not used. */
  readonly indexProblem: string | undefined
  /** Resolves when the names are known and the index is read, or cannot be. */
  ready(): Promise<void>
  /**
   * Every path with what its narinfo says, in the order in which it was packed where a trusted index tells (references
   * first), else as the directory lists them. In batches; bounded memory; throws HOLDER_UNREADABLE when the drive goes.
   */
  entries(): AsyncIterable<readonly ShipmentEntry[]>
}

export interface DriveHolderOptions {
  /** Of the drive: the holder is `drive:<id>`. */
  readonly driveId: string
  /** What people call it. */
  readonly name?: string | undefined
  /** Where the cache stands. */
  readonly dir: string
  readonly pool: NarPool
  /** The host's store directory: a cache of another one is down. */
  readonly expectedStoreDir?: string | undefined
  readonly events?: EventBus | undefined
  /** A manifest that is believed, and where the database of its index is made. */
  readonly index?: { readonly manifest: ShipmentManifest; readonly file: string } | undefined
}

/** The holder id of a drive. */
export const driveHolderId = (driveId: string): string => `drive:${driveId}`

/** Paths of one batch of a walk. */
const PATHS_PER_BATCH = 500

/** The holder of a cache on a drive. `close()` ends all that waits for it. */
export function createDriveHolder(options: DriveHolderOptions): DriveHolder {
  const { dir, pool, events } = options
  const id = driveHolderId(options.driveId)
  const reach = createReachability(id, events)
  const info = createCacheDirInfo(dir, options.expectedStoreDir, reach)
  const files = createDriveFiles(id, dir)
  const salt = randomBytes(6).toString('base64url')
  let index: DriveIndex | undefined
  let indexProblem: string | undefined
  const lookup = createDriveLookup({ files, reach, salt, index: () => index })
  const names = createDriveNames(files, reach)
  const abort = new AbortController()
  let opening: Promise<void> | undefined
  /** What lies in nar/, as it was when it was read last. */
  let nars: Awaited<ReturnType<typeof names.nars>> | undefined

  /** The store directory; throws HOLDER_UNREADABLE. Costs one look at a name that the kernel has in memory. */
  const check = (): string => {
    if (abort.signal.aborted) throw reach.down('the drive is gone')
    if (files.isStuck) throw reach.down('the drive does not answer')
    return info.check()
  }
  const isUp = (): boolean => {
    try {
      check()
      return true
    } catch {
      return false
    }
  }
  const mayHave = (part: HashPart): boolean =>
    files.isStuck || index?.mayHave(part) === true || names.mayHave(part)

  const recall = (part: HashPart): Holding | undefined => {
    const entry = nars === undefined ? undefined : index?.find(part)
    return entry !== undefined && nars?.mayHave(entry.info.url) === true
      ? recalledHolding(entry.info)
      : undefined
  }

  const isCurrent = (holding: Holding): boolean => isUp() && lookup.isCurrent(holding)

  const find = (part: HashPart): Holding | undefined | Promise<Holding | undefined> => {
    const storeDir = check()
    if (!mayHave(part)) return undefined
    return lookup.known(part) ?? lookup.find(part, storeDir)
  }

  const guard = (holding: Holding) => ({
    ...{ holderId: id, holding, isCurrent: () => isCurrent(holding) },
  })
  const fileOf = (holding: Holding): string =>
    joinFiles(driveOriginOf(holding)?.nars.map(({ file }) => `${dir}/${file}`) ?? [dir])

  const fileBytes = (holding: Holding, totalBytes: number, range?: ByteRange): ByteStream =>
    guardNar({
      ...{ ...guard(holding), range, totalBytes },
      open: part => openDriveNar(dir, driveOriginOf(holding)?.nars ?? [], part),
    })

  const openNar = (holding: Holding, range?: ByteRange): ByteStream => {
    const { narSize } = holding.info
    if (holding.compression === 'none') return fileBytes(holding, narSize, range)
    return guardNar({
      ...{ ...guard(holding), range, totalBytes: narSize },
      open: part => pool.decompress(fileOf(holding), holding.compression, part),
    })
  }

  /** What the index does not tell of: put there later, or by somebody else. */
  async function* beside(
    told: DriveIndex | undefined,
    storeDir: string,
  ): AsyncGenerator<readonly ShipmentEntry[], void, undefined> {
    let batch: ShipmentEntry[] = []
    for await (const part of names.all()) {
      if (told?.has(part) === true) continue
      const found = await lookup.peek(part, storeDir)
      if (found !== undefined) batch.push({ builtHere: false, ...found })
      if (batch.length < PATHS_PER_BATCH) continue
      yield batch
      batch = []
    }
    if (batch.length > 0) yield batch
  }

  /** The index, once it is read: a few seconds for it spare hours of narinfos. */
  const whenReady = async (): Promise<DriveIndex | undefined> => {
    check()
    await opening
    check()
    return index
  }

  async function* entries(): AsyncGenerator<readonly ShipmentEntry[], void, undefined> {
    const told = await whenReady()
    for await (const batch of told?.entries() ?? []) {
      check()
      yield batch
    }
    yield* beside(told, check())
  }

  async function* heldPaths(): AsyncGenerator<readonly HeldPath[], void, undefined> {
    const told = await whenReady()
    if (told !== undefined) {
      const there = await names.nars()
      nars = there
      for await (const batch of told.held()) {
        check()
        yield batch.filter(({ url }) => there.mayHave(url))
      }
    }
    for await (const batch of beside(told, check())) {
      yield batch.map(({ info: { storePath, narSize } }) => ({ storePath, narSize }))
    }
  }

  async function* paths(): AsyncGenerator<readonly StorePath[], void, undefined> {
    for await (const batch of heldPaths()) yield batch.map(({ storePath }) => storePath)
  }

  const open = async (): Promise<void> => {
    isUp()
    const loading = options.index
    await Promise.all([
      names.read().catch(() => undefined),
      loading === undefined
        ? undefined
        : openDriveIndex({ dir, ...loading, signal: abort.signal }).then(
            async made => {
              nars = await names.nars()
              if (abort.signal.aborted) made.close()
              else index = made
            },
            (error: Error) => {
              indexProblem = error.message
            },
          ),
    ])
  }

  return {
    id,
    kind: 'drive',
    title: options.name === undefined ? undefined : `drive ${options.name}`,
    get storeDir() {
      return info.storeDir
    },
    get indexedPaths() {
      return index?.paths
    },
    get indexProblem() {
      return indexProblem
    },
    async open() {
      opening ??= open()
    },
    ready: async () => opening,
    async close() {
      abort.abort()
      files.end()
      await opening
      index?.close()
    },
    problem: () => (isUp() ? undefined : reach.problem),
    find,
    mayHave,
    recall,
    isCurrent,
    openNar,
    openFile: (holding, range) => fileBytes(holding, holding.fileSize ?? 0, range),
    async verify(holding, signal) {
      const problem = await checkNar(guard(holding), async () => {
        const digest = await pool.digestFile(fileOf(holding), holding.compression, signal)
        const { fileHash } = holding
        if (
          fileHash !== undefined &&
          (fileHash.algorithm !== 'sha256' || Buffer.compare(fileHash.bytes, digest.fileHash) !== 0)
        ) {
          lookup.forgetFileHash(holding)
        }
        return digest
      })
      if (problem !== undefined && !isNarwharfError(problem, 'HOLDING_GONE')) {
        reach.bad(holding.identity, holding.info.storePath, problem.message)
      }
      return { problem }
    },
    ...createDriveExtras({ files, pool, check, isCurrent, fileOf, openNar, entries, find: find }),
    entries,
    paths,
    heldPaths,
    generation: () => (isUp() ? `${index?.id ?? '-'}/${names.generation()}` : 'down'),
  }
}
