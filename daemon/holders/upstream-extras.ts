import { isUtf8 } from 'node:buffer'
import { setImmediate as yieldToEventLoop } from 'node:timers/promises'
import { hashPartOf, type StorePath } from '../../protocol/store-path.ts'
import { createDecoder } from '../compression/create-decoder.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Clock } from './clock.ts'
import type { Holder, Holding } from './holder.ts'
import { isListing } from './listing-shape.ts'
import { LISTING_MAX_BYTES, orAbsent, packingOf } from './small-file.ts'
import { createUnsignedFacts, readListed } from './unsigned-facts.ts'
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

    // The one character of store path names that a URL does not take as it is.
    ...createUnsignedFacts(
      (path, limit) => beside(path.replaceAll('?', '%3F'), limit),
      options.byUrl,
    ),

    async readFile(holding, pathInside, limit) {
      if (!isCurrent(holding)) return undefined
      const listing = await options.madeListing(holding)
      return readListed(
        { holding, listing, isCurrent, openNar: options.openNar },
        pathInside,
        limit,
      )
    },
  }
}
