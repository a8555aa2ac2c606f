import { isNarwharfError } from '../../protocol/errors.ts'
import {
  formatBuildTrace,
  formatRealisation,
  formatRealisationId,
  parseBuildTrace,
  parseRealisation,
  parseRealisationId,
} from '../../protocol/realisation.ts'
import { isStoreName } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Holder, Holding } from './holder.ts'
import { findListed } from './listing-shape.ts'
import { collect, LISTING_MAX_BYTES, LOG_MAX_BYTES, orAbsent } from './small-file.ts'
import { SMALL_JSON_MAX_BYTES, splitInside } from './small-file.ts'

// What lies beside narinfos and NARs in every flat cache, wherever it is: logs, realisations, build traces, debug info.
// None of it is signed, so it counts only in its shape and is written anew.

/** A file by its path in the cache, made of parts that were checked: its bytes, or undefined. */
export type Beside = (path: string, limit: number) => Promise<Buffer | undefined>

/** Which store path the NAR of that URL (as in a narinfo) belongs to. */
export type StorePathOfUrl = (url: string) => StorePath | undefined | Promise<StorePath | undefined>

const BUILD_ID = /^[0-9a-f]{40}$/

/** The value a parser makes of hostile text, or undefined. */
export function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse()
  } catch (error) {
    if (isNarwharfError(error) || error instanceof SyntaxError) return undefined
    throw error
  }
}

/** Archive and member of a debug info link; undefined for what is none. */
function debugLink(bytes: Buffer): { archive: string; member: string } | undefined {
  const link: unknown = parsed(() => JSON.parse(bytes.toString()))
  if (typeof link !== 'object' || link === null) return undefined
  const { archive, member } = link as { archive?: unknown; member?: unknown }
  if (typeof archive !== 'string' || typeof member !== 'string') return undefined
  return member === '' || splitInside(member) === undefined ? undefined : { archive, member }
}

/** The verbs of a holder that are answered by files of a flat cache. */
export function createUnsignedFacts(
  beside: Beside,
  storePathOf: StorePathOfUrl,
): Pick<Holder, 'log' | 'realisation' | 'buildTrace' | 'debugInfo'> {
  return {
    log: derivation => beside(`log/${derivation}`, LOG_MAX_BYTES),

    async realisation(text) {
      const id = parsed(() => formatRealisationId(parseRealisationId(text)))
      if (id === undefined) return undefined
      const bytes = await beside(`realisations/${id}.doi`, SMALL_JSON_MAX_BYTES)
      const realisation = bytes && parsed(() => parseRealisation(bytes))
      if (realisation === undefined || formatRealisationId(realisation.id) !== id) return undefined
      return Buffer.from(formatRealisation(realisation))
    },

    async buildTrace(derivation, output) {
      if (!isStoreName(output)) return undefined
      const path = `build-trace-v2/${derivation}/${output}.doi`
      const bytes = await beside(path, SMALL_JSON_MAX_BYTES)
      return bytes && parsed(() => Buffer.from(formatBuildTrace(parseBuildTrace(bytes))))
    },

    async debugInfo(buildId) {
      if (!BUILD_ID.test(buildId)) return undefined
      for (const name of [`${buildId}.debug`, buildId]) {
        const bytes = await beside(`debuginfo/${name}`, SMALL_JSON_MAX_BYTES)
        const link = bytes && debugLink(bytes)
        // Relative to debuginfo/, as Nix writes it.
        const storePath = link && (await storePathOf(link.archive.replace(/^\.\.\//, '')))
        if (storePath !== undefined) return { storePath, member: link?.member ?? '' }
      }
      return undefined
    },
  }
}

/** What {@link readListed} reads from. */
export interface ListedSource {
  readonly holding: Holding
  /** Made from the NAR itself: a stored one could point at other bytes. */
  readonly listing: Buffer | undefined
  isCurrent(holding: Holding): boolean
  openNar(holding: Holding, range?: ByteRange): ByteStream
}

/** A file out of a NAR, by its listing; undefined where it is absent, larger than `limit`, or changes meanwhile. */
export async function readListed(
  { holding, listing, isCurrent, openNar }: ListedSource,
  pathInside: string,
  limit: number,
): Promise<Buffer | undefined> {
  if (listing === undefined || listing.length > LISTING_MAX_BYTES) return undefined
  const file = findListed(listing, pathInside)
  if (file === undefined || file.size > limit) return undefined
  if (file.size === 0) return isCurrent(holding) ? Buffer.alloc(0) : undefined
  const range = { offset: file.narOffset, end: file.narOffset + file.size }
  const bytes = await orAbsent(() => collect(openNar(holding, range), limit))
  return bytes?.length === file.size ? bytes : undefined
}
