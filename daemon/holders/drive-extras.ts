import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { DriveFiles } from './drive-files.ts'
import { driveOriginOf } from './drive-lookup.ts'
import type { Holder, Holding } from './holder.ts'
import { isListing } from './listing-shape.ts'
import { LISTING_MAX_BYTES, orAbsent, readUnpacked } from './small-file.ts'
import { createUnsignedFacts, readListed } from './unsigned-facts.ts'

// What lies on a drive beside narinfos and NARs: listings, logs, realisations, build traces, debug info, only as good as its
// shape; and files taken out of NARs.

export interface DriveExtrasOptions {
  readonly files: DriveFiles
  readonly pool: NarPool
  /** Throws HOLDER_UNREADABLE. */
  check(): string
  isCurrent(holding: Holding): boolean
  /** As the pool takes it. */
  fileOf(holding: Holding): string
  openNar(holding: Holding, range?: ByteRange): ByteStream
  entries(): AsyncIterable<readonly ShipmentEntry[]>
  find(part: HashPart): Holding | undefined | Promise<Holding | undefined>
}

type DriveExtras = Pick<
  Holder,
  'listing' | 'log' | 'realisation' | 'buildTrace' | 'debugInfo' | 'readFile'
>

/** Most debug outputs whose NAR URL is kept to resolve debug info: some megabytes. */
const DEBUG_OUTPUTS_MAX = 10_000

/** separateDebugInfo of nixpkgs names them so. */
const DEBUG_NAME_END = '-debug'

/** The verbs of a drive that are not about whole NARs. */
export function createDriveExtras(options: DriveExtrasOptions): DriveExtras {
  const { files, pool, isCurrent } = options
  /** Which debug output a NAR's URL belongs to; collected when it is first asked for, as one plugging changes little. */
  let debugOutputs: Promise<ReadonlyMap<string, StorePath>> | undefined

  const readBeside = async (relative: string, limit: number): Promise<Buffer | undefined> => {
    options.check()
    // Nobody's `..` comes here: the names are parts that were checked.
    const stamp = await files.run(() => files.stampOf(relative))
    if (stamp?.isFile !== true || stamp.size > limit) return undefined
    return readUnpacked(pool, `${files.dir}/${relative}`, limit)
  }

  const collect = async (): Promise<ReadonlyMap<string, StorePath>> => {
    const outputs = new Map<string, StorePath>()
    for await (const batch of options.entries()) {
      for (const { info } of batch) {
        const isDebug = info.storePath.endsWith(DEBUG_NAME_END)
        if (isDebug && outputs.size < DEBUG_OUTPUTS_MAX) outputs.set(info.url, info.storePath)
      }
    }
    return outputs
  }

  const debugOutput = async (url: string): Promise<StorePath | undefined> => {
    debugOutputs ??= collect().catch(() => {
      debugOutputs = undefined
      return new Map()
    })
    const storePath = (await debugOutputs).get(url)
    const found = storePath && (await options.find(hashPartOf(storePath)))
    return found && driveOriginOf(found)?.url === url ? storePath : undefined
  }

  const madeListing = (holding: Holding): Promise<Buffer | undefined> =>
    orAbsent(() => pool.listFile(options.fileOf(holding), holding.compression))

  return {
    async listing(holding) {
      if (!isCurrent(holding)) return undefined
      const { storePath, narSize } = holding.info
      const stored = await readBeside(`${hashPartOf(storePath)}.ls`, LISTING_MAX_BYTES)
      if (stored !== undefined && isListing(stored, narSize)) return stored
      return madeListing(holding)
    },

    ...createUnsignedFacts(readBeside, debugOutput),

    async readFile(holding, pathInside, limit) {
      if (!isCurrent(holding)) return undefined
      const listing = await madeListing(holding)
      return readListed(
        { holding, listing, isCurrent, openNar: options.openNar },
        pathInside,
        limit,
      )
    },
  }
}
