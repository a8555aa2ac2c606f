import { hashPartOf } from '../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { CacheDirInfo } from './cache-dir-info.ts'
import { originOf } from './cache-dir-lookup.ts'
import type { Origin } from './cache-dir-lookup.ts'
import { resolveBelow } from './file-stamp.ts'
import type { Holder, Holding } from './holder.ts'
import { isListing } from './listing-shape.ts'
import { LISTING_MAX_BYTES, orAbsent, readUnpacked } from './small-file.ts'
import { createUnsignedFacts, readListed } from './unsigned-facts.ts'

// What lies in a cache directory beside narinfos and NARs: listings, logs, realisations, build traces, debug info, all of
// it unsigned and only as good as its shape; and files taken out of NARs.

/** What the extras of one directory are read with. */
export interface CacheDirExtrasOptions {
  readonly dir: string
  readonly pool: NarPool
  readonly info: CacheDirInfo
  find(hashPart: HashPart): Holding | undefined
  isCurrent(holding: Holding): boolean
  originFor(holding: Holding): Origin | undefined
  openNar(holding: Holding, range?: ByteRange): ByteStream
  paths(): AsyncIterable<readonly StorePath[]>
  generation(): string
}

type CacheDirExtras = Pick<
  Holder,
  'listing' | 'log' | 'realisation' | 'buildTrace' | 'debugInfo' | 'readFile'
>

/** Most debug outputs whose NAR URL is kept to resolve debug info: some megabytes. */
const DEBUG_OUTPUTS_MAX = 10_000

/** Only outputs so named are looked through: separateDebugInfo of nixpkgs names them so. */
const DEBUG_NAME_END = '-debug'

/** Which store path a NAR URL belongs to, for the debug outputs; made anew when the directory has changed. */
function createDebugArchives({ find, paths, generation }: CacheDirExtrasOptions) {
  let known:
    { readonly generation: string; readonly byUrl: ReadonlyMap<string, StorePath> } | undefined
  let walk: Promise<ReadonlyMap<string, StorePath>> | undefined

  const collectArchives = async (): Promise<ReadonlyMap<string, StorePath>> => {
    const before = generation()
    const byUrl = new Map<string, StorePath>()
    for await (const batch of paths()) {
      for (const storePath of batch) {
        if (!storePath.endsWith(DEBUG_NAME_END) || byUrl.size >= DEBUG_OUTPUTS_MAX) continue
        const found = find(hashPartOf(storePath))
        const url = found && originOf(found)?.url
        if (url !== undefined) byUrl.set(url, storePath)
      }
    }
    known = { generation: before, byUrl }
    return byUrl
  }

  return async (url: string): Promise<StorePath | undefined> => {
    if (known?.generation !== generation()) {
      walk ??= collectArchives().finally(() => {
        walk = undefined
      })
      await walk
    }
    const storePath = known?.byUrl.get(url)
    if (storePath === undefined) return undefined
    const found = find(hashPartOf(storePath))
    return found && originOf(found)?.url === url ? storePath : undefined
  }
}

/** The verbs of a cache directory that are not about whole NARs. */
export function createCacheDirExtras(options: CacheDirExtrasOptions): CacheDirExtras {
  const { dir, pool, info, isCurrent, originFor } = options
  const debugArchive = createDebugArchives(options)

  /** A file beside the NARs; `relative` is made of parts that were checked. */
  const readBeside = async (relative: string, limit: number): Promise<Buffer | undefined> => {
    info.check()
    const resolved = resolveBelow(dir, relative)
    return resolved?.inside === true ? readUnpacked(pool, resolved.file, limit) : undefined
  }

  const madeListing = (holding: Holding): Promise<Buffer | undefined> =>
    orAbsent(async () => {
      const origin = originFor(holding)
      return origin && (await pool.listFile(origin.narFile, holding.compression))
    })

  return {
    async listing(holding) {
      if (!isCurrent(holding)) return undefined
      const { storePath, narSize } = holding.info
      const stored = await readBeside(`${hashPartOf(storePath)}.ls`, LISTING_MAX_BYTES)
      if (stored !== undefined && isListing(stored, narSize)) return stored
      return madeListing(holding)
    },

    ...createUnsignedFacts(readBeside, debugArchive),

    async readFile(holding, pathInside, limit) {
      const listing = await madeListing(holding)
      return readListed(
        { holding, listing, isCurrent, openNar: options.openNar },
        pathInside,
        limit,
      )
    },
  }
}
