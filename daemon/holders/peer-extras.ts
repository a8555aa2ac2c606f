import { isNarwharfError } from '../../protocol/errors.ts'
import { createListing } from '../../protocol/nar/listing.ts'
import { createNarReader } from '../../protocol/nar/reader.ts'
import { parseNarUrl } from '../../protocol/nar-url.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { PeerKey } from '../site.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Holder, Holding, Verification } from './holder.ts'
import { findListed, isListing } from './listing-shape.ts'
import type { PeerTransportReply } from './peer.ts'
import { collect, LISTING_MAX_BYTES } from './small-file.ts'
import { createUnsignedFacts } from './unsigned-facts.ts'

// What a peer tells beside NARs. None of it is signed, so it counts only in its shape; files inside a path are read from
// the NAR once that was verified.

/** NARs out of which a file is read: whole paths are fetched for it, so only small ones. */
const READ_FILE_NAR_MAX_BYTES = 64 * 1024 * 1024

export interface PeerExtrasOptions {
  readonly key: PeerKey
  get(path: string): Promise<PeerTransportReply>
  isUp(): boolean
  isCurrent(holding: Holding): boolean
  lookUp(hashPart: HashPart): Holding | undefined
  verify(holding: Holding): Promise<Verification>
  openNar(holding: Holding, range?: ByteRange): ByteStream
}

type PeerExtras = Pick<
  Holder,
  'listing' | 'log' | 'realisation' | 'buildTrace' | 'debugInfo' | 'readFile'
>

/** The verbs of a peer's holder that are not about whole NARs. */
export function createPeerExtras(options: PeerExtrasOptions): PeerExtras {
  const { isUp, isCurrent, openNar } = options

  /** A small body, or undefined: absent, too large, out of reach. */
  const small = async (path: string, limit: number): Promise<Buffer | undefined> => {
    if (!isUp()) return undefined
    try {
      const reply = await options.get(path)
      const body: ByteStream = {
        [Symbol.asyncIterator]: () => reply.body[Symbol.asyncIterator](),
        recycle() {},
        destroy: () => reply.destroy(),
      }
      if (reply.status === 200) return await collect(body, limit)
      reply.destroy()
      return undefined
    } catch (error) {
      if (isNarwharfError(error)) return undefined
      throw error
    }
  }

  return {
    async listing(holding) {
      if (!isCurrent(holding)) return undefined
      const { storePath, narSize } = holding.info
      const bytes = await small(`/${hashPartOf(storePath)}.ls`, LISTING_MAX_BYTES)
      return bytes !== undefined && isListing(bytes, narSize) ? bytes : undefined
    },

    ...createUnsignedFacts(
      (path, limit) => small(`/${path}`, limit),
      url => {
        const nar = parseNarUrl(url.replace(/^nar\//, ''))
        return nar && options.lookUp(nar.hashPart)?.info.storePath
      },
    ),

    async readFile(holding, pathInside, limit) {
      if (holding.info.narSize > READ_FILE_NAR_MAX_BYTES || !isCurrent(holding)) return undefined
      try {
        if ((await options.verify(holding)).problem !== undefined) return undefined
        const listing = createListing()
        const reader = createNarReader(listing.handler)
        for await (const chunk of openNar(holding)) reader.write(chunk)
        reader.end()
        const file = findListed(listing.json(), pathInside)
        if (file === undefined || file.size > limit) return undefined
        if (file.size === 0) return Buffer.alloc(0)
        const range = { offset: file.narOffset, end: file.narOffset + file.size }
        return await collect(openNar(holding, range), limit)
      } catch (error) {
        if (isNarwharfError(error)) return undefined
        throw error
      }
    },
  }
}
