import { opendir } from 'node:fs/promises'
import { resolve } from 'node:path'
import { setImmediate as yieldToEventLoop } from 'node:timers/promises'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { hashPartOf, parseHashPart } from '../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import { createFileStream } from '../workers/file-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { createCacheDirFollower } from './cache-dir-changes.ts'
import { createCacheDirExtras } from './cache-dir-extras.ts'
import { createCacheDirInfo } from './cache-dir-info.ts'
import { createLookup, originOf } from './cache-dir-lookup.ts'
import type { Origin } from './cache-dir-lookup.ts'
import { openStamped, stampOf } from './file-stamp.ts'
import { checkNar, guardNar } from './guarded-nar.ts'
import type { Holder, Holding } from './holder.ts'
import { createNamePresence } from './name-presence.ts'
import { createReachability } from './reachability.ts'

/** A flat binary cache directory, as `nix copy --to file://` writes it. */
export interface CacheDirOptions {
  readonly dir: string
  readonly pool: NarPool
  /** The host's store directory: a cache of another one is down. */
  readonly expectedStoreDir?: string | undefined
  readonly events?: EventBus | undefined
}

/** How long a walk over all narinfos may hold the event loop before others have their turn. */
const SLICE_MS = 2

/** Paths of one batch of the walk. */
const PATHS_PER_BATCH = 500

const NARINFO_FILE = /^([0-9a-df-np-sv-z]{32})\.narinfo$/

/** The holder of a flat binary cache directory; sees at the next question what was changed behind its back. */
export function createCacheDirHolder(options: CacheDirOptions): Holder {
  const { pool } = options
  const dir = resolve(options.dir)
  const id = `cache-dir:${dir}`
  const reach = createReachability(id, options.events)
  const info = createCacheDirInfo(dir, options.expectedStoreDir, reach)
  const lookup = createLookup(dir, reach)
  let generationCount = 0
  let seenGeneration: string | undefined

  const presence = createNamePresence(dir)

  const find = (hashPart: HashPart): Holding | undefined =>
    presence.mayHave(hashPart) ? lookup.find(hashPart, info.check()) : undefined

  const isUp = (): boolean => {
    try {
      info.check()
      return true
    } catch {
      return false
    }
  }

  const isCurrent = (holding: Holding): boolean => {
    if (!isUp()) return false
    if (originOf(holding) !== undefined) return lookup.isCurrent(holding)
    return find(hashPartOf(holding.info.storePath))?.identity === holding.identity
  }

  const originFor = (holding: Holding): Origin | undefined => {
    if (originOf(holding) !== undefined) return originOf(holding)
    const found = isUp() ? find(hashPartOf(holding.info.storePath)) : undefined
    return found && originOf(found)
  }

  const guard = (holding: Holding) => ({
    holderId: id,
    holding,
    isCurrent: () => isCurrent(holding),
  })

  /** The file's bytes through a descriptor that was checked itself: what the name leads to later does not matter. */
  const fileBytes = (holding: Holding, totalBytes: number, range?: ByteRange): ByteStream =>
    guardNar({
      ...guard(holding),
      range,
      totalBytes,
      open: ({ offset = 0, end }) => {
        const origin = originFor(holding)
        return createFileStream(
          async () => {
            if (origin === undefined) {
              throw Object.assign(new Error('no such file'), { code: 'ENOENT' })
            }
            return openStamped(origin.narFile, origin.narStamp)
          },
          { offset, end: end ?? Number.MAX_SAFE_INTEGER },
        )
      },
    })

  const openNar = (holding: Holding, range?: ByteRange): ByteStream => {
    const { narSize } = holding.info
    if (holding.compression === 'none') return fileBytes(holding, narSize, range)
    return guardNar({
      ...guard(holding),
      range,
      totalBytes: narSize,
      open: part => pool.decompress(originFor(holding)?.narFile ?? dir, holding.compression, part),
    })
  }

  /** The names in the directory that look like narinfos. */
  async function* hashParts(): AsyncGenerator<HashPart, void, undefined> {
    try {
      const names = presence.reading()
      for await (const entry of await opendir(dir, { bufferSize: PATHS_PER_BATCH })) {
        const name = NARINFO_FILE.exec(entry.name)?.[1]
        if (name === undefined) continue
        const hashPart = parseHashPart(name)
        names.add(hashPart)
        yield hashPart
      }
      names.done()
    } catch (error) {
      throw reach.down(problemOf(error), error)
    }
  }

  async function* paths(): AsyncGenerator<readonly StorePath[], void, undefined> {
    const storeDir = info.check()
    let batch: StorePath[] = []
    let sliceStart = performance.now()
    for await (const hashPart of hashParts()) {
      const found = lookup.peek(hashPart, storeDir)
      if (found !== undefined) batch.push(found.storePath)
      if (batch.length >= PATHS_PER_BATCH) {
        yield batch
        batch = []
      }
      if (performance.now() - sliceStart > SLICE_MS) {
        await yieldToEventLoop()
        sliceStart = performance.now()
      }
    }
    if (batch.length > 0) yield batch
  }

  const generation = (): string => {
    if (!isUp()) return 'down'
    const stamps = [dir, `${dir}/nar`, `${dir}/nix-cache-info`].map(stampOf)
    const text = stamps.map(stamp => stamp?.text ?? '-').join('/')
    // Another file within the same tick of the clock would not show.
    const current = stamps.some(stamp => stamp?.fresh) ? `${text}/${++generationCount}` : text
    if (seenGeneration !== undefined && seenGeneration !== current) {
      options.events?.emit('holder:changed', id)
    }
    seenGeneration = current
    return current
  }

  return {
    id,
    kind: 'cache-dir',
    get storeDir() {
      return info.storeDir
    },
    async open() {
      isUp()
    },
    async close() {},
    problem: () => (isUp() ? undefined : reach.problem),
    find,
    isCurrent,
    openNar,
    openFile: (holding, range) => fileBytes(holding, holding.fileSize ?? 0, range),
    async verify(holding, signal) {
      const origin = originFor(holding)
      const problem = await checkNar(guard(holding), async () => {
        const digest = await pool.digestFile(origin?.narFile ?? dir, holding.compression, signal)
        const { fileHash } = holding
        // Nix ignores FileHash, and the NAR is right whatever it says: it is only not told further.
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
    ...createCacheDirExtras({
      dir,
      pool,
      info,
      find,
      isCurrent,
      originFor,
      openNar,
      paths,
      generation,
    }),
    paths,
    follow: () => createCacheDirFollower({ dir, info, lookup, hashParts }),
    generation,
  }
}
