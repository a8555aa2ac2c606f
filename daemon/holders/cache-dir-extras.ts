import { isNarwharfError } from '../../protocol/errors.ts'
import {
  formatRealisation,
  formatRealisationId,
  parseBuildTrace,
  formatBuildTrace,
  parseRealisation,
  parseRealisationId,
} from '../../protocol/realisation.ts'
import { hashPartOf, isStoreName } from '../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { CacheDirInfo } from './cache-dir-info.ts'
import { originOf } from './cache-dir-lookup.ts'
import type { Origin } from './cache-dir-lookup.ts'
import { resolveBelow } from './file-stamp.ts'
import type { Holder, Holding } from './holder.ts'
import { findListed, isListing } from './listing-shape.ts'
import {
  collect,
  LISTING_MAX_BYTES,
  LOG_MAX_BYTES,
  orAbsent,
  readUnpacked,
  SMALL_JSON_MAX_BYTES,
  splitInside,
} from './small-file.ts'

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

/** The value a parser makes of hostile text, or undefined. */
function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse()
  } catch (error) {
    if (isNarwharfError(error) || error instanceof SyntaxError) return undefined
    throw error
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

    log: derivation => readBeside(`log/${derivation}`, LOG_MAX_BYTES),

    async realisation(text) {
      const id = parsed(() => formatRealisationId(parseRealisationId(text)))
      if (id === undefined) return undefined
      const bytes = await readBeside(`realisations/${id}.doi`, SMALL_JSON_MAX_BYTES)
      if (bytes === undefined) return undefined
      const realisation = parsed(() => parseRealisation(bytes))
      if (realisation === undefined || formatRealisationId(realisation.id) !== id) return undefined
      return Buffer.from(formatRealisation(realisation))
    },

    async buildTrace(derivation, output) {
      if (!isStoreName(output)) return undefined
      const file = `build-trace-v2/${derivation}/${output}.doi`
      const bytes = await readBeside(file, SMALL_JSON_MAX_BYTES)
      if (bytes === undefined) return undefined
      return parsed(() => Buffer.from(formatBuildTrace(parseBuildTrace(bytes))))
    },

    async debugInfo(buildId) {
      if (!/^[0-9a-f]{40}$/.test(buildId)) return undefined
      for (const name of [`${buildId}.debug`, buildId]) {
        const bytes = await readBeside(`debuginfo/${name}`, SMALL_JSON_MAX_BYTES)
        const link: unknown = bytes && parsed(() => JSON.parse(bytes.toString()))
        if (typeof link !== 'object' || link === null) continue
        const { archive, member } = link as { archive?: unknown; member?: unknown }
        if (typeof archive !== 'string' || typeof member !== 'string') continue
        if (member === '' || splitInside(member) === undefined) continue
        // Relative to debuginfo/, as Nix writes it.
        const storePath = await debugArchive(archive.replace(/^\.\.\//, ''))
        if (storePath !== undefined) return { storePath, member }
      }
      return undefined
    },

    async readFile(holding, pathInside, limit) {
      // The listing made from the NAR itself: a stored one could point at other bytes.
      const listing = await madeListing(holding)
      if (listing === undefined || listing.length > LISTING_MAX_BYTES) return undefined
      const file = findListed(listing, pathInside)
      if (file === undefined || file.size > limit) return undefined
      if (file.size === 0) return isCurrent(holding) ? Buffer.alloc(0) : undefined
      const range = { offset: file.narOffset, end: file.narOffset + file.size }
      const bytes = await orAbsent(() => collect(options.openNar(holding, range), limit))
      return bytes?.length === file.size ? bytes : undefined
    },
  }
}
