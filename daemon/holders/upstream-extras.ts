import { isUtf8 } from 'node:buffer'
import { setImmediate as yieldToEventLoop } from 'node:timers/promises'
import { isNarwharfError } from '../../protocol/errors.ts'
import {
  formatBuildTrace,
  formatRealisation,
  formatRealisationId,
  parseBuildTrace,
  parseRealisation,
  parseRealisationId,
} from '../../protocol/realisation.ts'
import { hashPartOf, isStoreName, type StorePath } from '../../protocol/store-path.ts'
import { createDecoder } from '../compression/create-decoder.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Clock } from './clock.ts'
import type { Holder, Holding } from './holder.ts'
import { findListed, isListing } from './listing-shape.ts'
import {
  collect,
  LISTING_MAX_BYTES,
  LOG_MAX_BYTES,
  orAbsent,
  packingOf,
  SMALL_JSON_MAX_BYTES,
  splitInside,
} from './small-file.ts'
import type { SmallReply } from './upstream-link.ts'
import { createWeightedCache } from './weighted-cache.ts'

// What an upstream has beside narinfos and NARs: unsigned, only as good as its shape, and not worth a NAR over a slow link.

/** What the extras of one upstream are made from. */
export interface UpstreamExtrasOptions {
  readonly clock: Clock
  /** How long "there is none" stands, ms. */
  readonly absentMs: number
  small(path: string, limit: number): Promise<SmallReply>
  isCurrent(holding: Holding): boolean
  /** The listing of a NAR that is here already or small enough to be fetched for it. */
  madeListing(holding: Holding): Promise<Buffer | undefined>
  openNar(holding: Holding, range?: ByteRange): ByteStream
  /** Which known path's NAR has that URL. */
  byUrl(url: string): StorePath | undefined
}

type UpstreamExtras = Pick<
  Holder,
  'listing' | 'log' | 'realisation' | 'buildTrace' | 'debugInfo' | 'readFile'
>

/** Names remembered that the upstream does not have. */
const ABSENT_MAX = 10_000

/** Bytes unpacked before others have their turn. */
const UNPACK_BYTES = 64 * 1024

/** Unpacks a small file that is packed (caches keep logs so, and no header that tells survives); undefined past `limit`. */
async function unpacked(bytes: Buffer, limit: number): Promise<Buffer | undefined> {
  const compression = packingOf(bytes) ?? (isUtf8(bytes) ? undefined : 'br')
  if (compression === undefined) return bytes
  let given = false
  const decoder = createDecoder(compression, () => {
    if (given) return undefined
    given = true
    return bytes
  })
  const parts: Buffer[] = []
  let length = 0
  try {
    for (;;) {
      const part = Buffer.allocUnsafe(UNPACK_BYTES)
      const count = await decoder.fill(part)
      if (count === 0) return Buffer.concat(parts, length)
      length += count
      if (length > limit) return undefined
      parts.push(part.subarray(0, count))
      await yieldToEventLoop()
    }
  } catch (error) {
    // A log may hold any bytes: what does not unpack as brotli, which has no magic, is what it is.
    if (compression === 'br') return bytes
    throw error
  } finally {
    decoder.close()
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

/** The verbs of an upstream that are not about whole NARs. */
export function createUpstreamExtras(options: UpstreamExtrasOptions): UpstreamExtras {
  const { clock, isCurrent } = options
  const absent = createWeightedCache<number>(ABSENT_MAX, ABSENT_MAX)

  /** A file beside the NARs; `path` is made of parts that were checked. */
  const beside = (path: string, limit: number): Promise<Buffer | undefined> =>
    orAbsent(async () => {
      if ((absent.get(path) ?? 0) > clock.now()) return undefined
      const { status, body } = await options.small(path, limit)
      if (status === 404 || status === 410) absent.set(path, clock.now() + options.absentMs, 1)
      return body && unpacked(body, limit)
    })

  return {
    async listing(holding) {
      if (!isCurrent(holding)) return undefined
      const { storePath, narSize } = holding.info
      const stored = await beside(`${hashPartOf(storePath)}.ls`, LISTING_MAX_BYTES)
      if (stored !== undefined && isListing(stored, narSize)) return stored
      return options.madeListing(holding)
    },

    log: derivation => beside(`log/${derivation}`, LOG_MAX_BYTES),

    async realisation(text) {
      const id = parsed(() => formatRealisationId(parseRealisationId(text)))
      if (id === undefined) return undefined
      const file = `realisations/${encodeURIComponent(id)}.doi`
      const bytes = await beside(file, SMALL_JSON_MAX_BYTES)
      const realisation = bytes && parsed(() => parseRealisation(bytes))
      if (realisation === undefined || formatRealisationId(realisation.id) !== id) return undefined
      return Buffer.from(formatRealisation(realisation))
    },

    async buildTrace(derivation, output) {
      if (!isStoreName(output)) return undefined
      const file = `build-trace-v2/${derivation}/${output}.doi`
      const bytes = await beside(file, SMALL_JSON_MAX_BYTES)
      return bytes && parsed(() => Buffer.from(formatBuildTrace(parseBuildTrace(bytes))))
    },

    async debugInfo(buildId) {
      if (!/^[0-9a-f]{40}$/.test(buildId)) return undefined
      for (const name of [`${buildId}.debug`, buildId]) {
        const bytes = await beside(`debuginfo/${name}`, SMALL_JSON_MAX_BYTES)
        const link: unknown = bytes && parsed(() => JSON.parse(bytes.toString()))
        if (typeof link !== 'object' || link === null) continue
        const { archive, member } = link as { archive?: unknown; member?: unknown }
        if (typeof archive !== 'string' || typeof member !== 'string') continue
        if (member === '' || splitInside(member) === undefined) continue
        // Relative to debuginfo/, as Nix writes it.
        const storePath = options.byUrl(archive.replace(/^\.\.\//, ''))
        if (storePath !== undefined) return { storePath, member }
      }
      return undefined
    },

    async readFile(holding, pathInside, limit) {
      if (!isCurrent(holding)) return undefined
      // The listing made from the NAR itself: a stored one could point at other bytes.
      const listing = await options.madeListing(holding)
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
