import { createHash } from 'node:crypto'
import { link } from 'node:fs/promises'
import { isNarwharfError } from '../../protocol/errors.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import { followGrowth, waitWhole } from '../workers/growth.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { checkNar, guardNar } from './guarded-nar.ts'
import type { Holding, KeptNar, Verification } from './holder.ts'
import { orAbsent } from './small-file.ts'
import type { DownloadLease, Downloads } from './upstream-downloads.ts'
import type { FetchReply, FetchRequest } from './upstream-transport.ts'
import { createWeightedCache } from './weighted-cache.ts'

// The NARs of an upstream: every verb reads the one file that a download leaves behind, so that the bytes cross the link
// once, whoever asks and how often.

/** NAR files fetched only to look into them (a proof, a listing); larger ones must be here for another reason. */
export const PEEK_MAX_BYTES = 4 * 1024 * 1024

/** What a file without a told size may have beyond its NAR: packing what cannot be packed adds less than this. */
const PACKING_SLACK = 1.02
const PACKING_SLACK_BYTES = 64 * 1024

/** Files remembered whose hash or size is not what the narinfo says. */
const WRONG_FILES_MAX = 4096

const ORIGIN = Symbol('what an upstream said of a holding')

/** What a holding of an upstream stands on. */
interface Origin {
  readonly info: NarInfo
  readonly key: string
  readonly stamp: string
  /** The narinfo is no longer believed: the NAR was not there, or somebody said to forget it. */
  gone: boolean
}

interface UpstreamHolding extends Holding {
  readonly [ORIGIN]: Origin
}

const originOf = (holding: Holding): Origin | undefined =>
  (holding as Partial<UpstreamHolding>)[ORIGIN]

export interface UpstreamNarsOptions {
  readonly holderId: string
  readonly pool: NarPool
  readonly downloads: Downloads
  /** Asks for a file from a byte on. */
  fetch(request: FetchRequest): Promise<FetchReply>
  /** Whether it can be fetched now. */
  isUp(hashPart: HashPart): boolean
  /** The upstream has the narinfo, not the NAR. */
  vanished(hashPart: HashPart): void
  /** A NAR turned out wrong. */
  bad(holding: Holding, problem: string): void
}

export interface UpstreamNars {
  /** The holding that a narinfo stands for; the same object while nothing changes. */
  holdingOf(info: NarInfo): Holding
  /** Whether all bytes are here: then it can be given whatever the link does. */
  isHere(holding: Holding): boolean
  isCurrent(holding: Holding): boolean
  openNar(holding: Holding, range?: ByteRange): ByteStream
  openFile(holding: Holding, range?: ByteRange): ByteStream
  verify(holding: Holding, signal?: AbortSignal): Promise<Verification>
  kept(holding: Holding): KeptNar | undefined
  /** A listing made from the NAR, where it is here or small. */
  madeListing(holding: Holding): Promise<Buffer | undefined>
  /** What was said is no longer believed, and the bytes go. */
  forget(info: NarInfo): void
}

/** Gives the lease back with the stream. */
function leased(lease: DownloadLease, open: (lease: DownloadLease) => ByteStream): ByteStream {
  const stream = open(lease)
  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    try {
      yield* stream
    } finally {
      lease.release()
    }
  }
  const iterator = chunks()
  return {
    recycle: chunk => stream.recycle(chunk),
    destroy() {
      stream.destroy()
      lease.release()
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}

const isDamage = (problem: unknown): boolean => !isNarwharfError(problem, 'HOLDING_GONE')

/** Makes the NAR side of one upstream. */
export function createUpstreamNars(options: UpstreamNarsOptions): UpstreamNars {
  const { holderId, pool, downloads } = options
  const holdings = createWeightedCache<UpstreamHolding>(WRONG_FILES_MAX, WRONG_FILES_MAX)
  /** Stamps of files whose hash is not what the narinfo says while the NAR is right. */
  const wrongFiles = new Set<string>()

  // The upstream is part of the key: what one calls by a name must never go on in what another calls so.
  const keyOf = ({ url, compression, fileHash, narHash, storePath }: NarInfo): string => {
    const facts = [holderId, storePath, url, compression, fileHash?.bytes, narHash.bytes]
    const digest = createHash('sha256').update(facts.map(fact => fact?.toString()).join('\n'))
    return `${hashPartOf(storePath)}-${digest.digest('hex').slice(0, 40)}`
  }

  const holdingOf = (info: NarInfo): UpstreamHolding => {
    const key = keyOf(info)
    const stamp = downloads.stampOf(key)
    const wrongFile = wrongFiles.has(stamp)
    const identity = `${key}.${stamp}${wrongFile ? '.n' : ''}`
    const made = holdings.get(key)
    if (made?.identity === identity && !made[ORIGIN].gone) return made
    const { url: _url, compression, fileHash, fileSize, ...pathInfo } = info
    const holding: UpstreamHolding = {
      info: pathInfo,
      identity,
      builtHere: false,
      compression,
      fileSize: wrongFile ? undefined : fileSize,
      fileHash: wrongFile ? undefined : fileHash,
      [ORIGIN]: { info, key, stamp, gone: false },
    }
    holdings.set(key, holding, 1)
    return holding
  }

  /** Whether the holding is still what the upstream says, within reach or not. */
  const stands = (holding: Holding): boolean => {
    const origin = originOf(holding)
    return origin !== undefined && !origin.gone && downloads.stampOf(origin.key) === origin.stamp
  }

  const isHere = (holding: Holding): boolean => {
    const origin = originOf(holding)
    return origin !== undefined && downloads.isWhole(origin.key, origin.info.fileSize)
  }

  const isUp = ({ info }: Holding): boolean => options.isUp(hashPartOf(info.storePath))

  const lease = (holding: Holding): DownloadLease => {
    const origin = originOf(holding) as Origin
    const { info, key } = origin
    const size = info.compression === 'none' ? info.narSize : info.fileSize
    const guess = info.narSize * PACKING_SLACK + PACKING_SLACK_BYTES
    return downloads.lease({
      key,
      size: wrongFiles.has(origin.stamp) ? undefined : size,
      maxBytes: Math.ceil(Math.max(size ?? 0, guess)),
      async source(offset, signal) {
        const hashPart = hashPartOf(info.storePath)
        const reply = await options.fetch({ path: info.url, hashPart, offset, signal })
        if (reply.status === 404 || reply.status === 410) {
          origin.gone = true
          options.vanished(hashPart)
        }
        return reply
      },
    })
  }

  /** What is being read goes on over a cut: the download has its own patience. */
  const started = new WeakSet<Holding>()

  const guarded = (
    holding: Holding,
    range: ByteRange | undefined,
    totalBytes: number | undefined,
    open: (lease: DownloadLease, part: ByteRange) => ByteStream,
  ): ByteStream =>
    guardNar({
      holderId,
      holding,
      range,
      totalBytes,
      isCurrent: () =>
        stands(holding) && (isHere(holding) || isUp(holding) || started.has(holding)),
      open(part) {
        started.add(holding)
        return leased(lease(holding), leaseOf => open(leaseOf, part))
      },
    })

  const openNar = (holding: Holding, range?: ByteRange): ByteStream => {
    const { compression } = holding
    return guarded(holding, range, holding.info.narSize, ({ file, growth, read }, part) =>
      compression === 'none' ? read(part) : pool.decompress(file, compression, part, growth),
    )
  }

  /** One reading of the whole file, as it comes. */
  const check = async (
    holding: Holding,
    { file, growth }: DownloadLease,
    signal: AbortSignal | undefined,
  ): Promise<Error | undefined> =>
    checkNar({ holderId, holding, isCurrent: () => stands(holding) }, async () => {
      const narSizeMax = holding.info.narSize
      const found = await pool.digestFile(file, holding.compression, signal, { growth, narSizeMax })
      const { fileHash, fileSize } = holding
      const hashFits =
        fileHash === undefined ||
        (fileHash.algorithm === 'sha256' && Buffer.compare(fileHash.bytes, found.fileHash) === 0)
      if (!hashFits || (fileSize !== undefined && fileSize !== found.fileSize)) {
        // Nix ignores FileHash, and the NAR may be right whatever it says: it is only not told further.
        if (wrongFiles.size >= WRONG_FILES_MAX) wrongFiles.clear()
        wrongFiles.add(originOf(holding)?.stamp ?? '')
      }
      return found
    })

  return {
    holdingOf,
    isHere,
    isCurrent: holding => stands(holding) && (isHere(holding) || isUp(holding)),
    openNar,
    openFile: (holding, range) =>
      guarded(
        holding,
        range,
        holding.compression === 'none' ? holding.info.narSize : holding.fileSize,
        ({ read }, part) => read(part),
      ),
    async verify(holding, signal) {
      signal?.throwIfAborted()
      if (!stands(holding)) return { problem: await check(holding, NO_LEASE, signal) }
      const { key } = originOf(holding) as Origin
      const leaseOf = lease(holding)
      try {
        const problem = await check(holding, leaseOf, signal)
        if (problem === undefined || !isDamage(problem)) return { problem }
        if (leaseOf.resumed) {
          // The first part may be of another day's file: it is worth one whole attempt. Whoever reads must ask anew.
          downloads.discard(key)
        } else {
          downloads.condemn(key)
          options.bad(holding, problem.message)
        }
        return { problem }
      } finally {
        leaseOf.release()
      }
    },
    kept(holding) {
      if (!stands(holding) || !isHere(holding)) return undefined
      // What was found wrong about the file meanwhile is known of the newest holding.
      const { info } = originOf(holding) as Origin
      const { compression, fileHash, fileSize } = holdingOf(info)
      return {
        ...{ compression, fileHash, fileSize },
        async link(to) {
          const leaseOf = lease(holding)
          try {
            return await link(leaseOf.file, to).then(
              () => true,
              () => false,
            )
          } finally {
            leaseOf.release()
          }
        },
      }
    },
    madeListing: holding =>
      orAbsent(async () => {
        if (!stands(holding)) return undefined
        const { fileSize = holding.info.narSize, compression } = holding
        if (!isHere(holding) && (fileSize > PEEK_MAX_BYTES || !isUp(holding))) return undefined
        const leaseOf = lease(holding)
        try {
          const { growth, file } = leaseOf
          if (growth !== undefined) await waitWhole(followGrowth(growth), file)
          return await pool.listFile(leaseOf.file, compression)
        } finally {
          leaseOf.release()
        }
      }),
    forget(info) {
      const key = keyOf(info)
      const made = holdings.get(key)
      if (made !== undefined) made[ORIGIN].gone = true
      holdings.delete(key)
      downloads.discard(key)
    },
  }
}

/** For a check that says that the holding is gone and reads nothing. */
const NO_LEASE: DownloadLease = {
  file: '',
  growth: undefined,
  resumed: false,
  read() {
    throw new Error('nothing is leased')
  },
  release() {},
}
