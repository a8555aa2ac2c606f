import { fail, isNarwharfError, NarwharfError } from '../../protocol/errors.ts'
import { formatNarUrl } from '../../protocol/nar-url.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { IndexedHolding, PeerAddress, PeerIndexes, PeerKey } from '../site.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import type { Holder, Holding, Verification } from './holder.ts'
import type { NarSpool, SpoolNar } from './nar-spool.ts'
import { createPeerExtras } from './peer-extras.ts'
import { openPeerNar } from './peer-nar.ts'
import type { SpoolSource } from './spool-transfer.ts'
import { createWeightedCache } from './weighted-cache.ts'

/** What a peer answers. */
export interface PeerTransportReply {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  /** Throws PEER_BROKE when it ends too early, PEER_STALLED when nothing comes. */
  readonly body: AsyncIterable<Buffer>
  destroy(): void
}

/** How a peer is asked (peering). Rejects with PEER_UNREACHABLE, PEER_BROKE or PEER_STALLED, never waits for ever. */
export interface PeerTransport {
  request(
    key: PeerKey,
    addresses: readonly PeerAddress[],
    request: {
      readonly path: string
      readonly range?: { readonly offset: number; readonly end?: number | undefined } | undefined
      readonly signal?: AbortSignal | undefined
    },
  ): Promise<PeerTransportReply>
}

export interface PeerHolderOptions {
  readonly key: PeerKey
  /** For people. */
  readonly name: string
  readonly indexes: PeerIndexes
  readonly transport: PeerTransport
  readonly spool: NarSpool
  /** The peer that is asked in its stead, as this host cannot reach it; it is then who answers for the bytes. */
  readonly relay?: PeerKey | undefined
  /** Whether it is connected just now, from memory. */
  readonly isUp: () => boolean
  /** Where it was seen, best first. */
  readonly addresses: () => readonly PeerAddress[]
  /** Every path its index names; for walks over everything. */
  readonly paths: () => AsyncIterable<readonly StorePath[]>
  readonly storeDir: string
  /** Told when it took a request for that path and sent nothing, or next to nothing. */
  readonly onStall?: ((hashPart: HashPart) => void) | undefined
  /** Sources of the same NAR: others may give a part of a large one. */
  readonly alsoHeldBy?: ((holding: Holding) => readonly SpoolSource[]) | undefined
  readonly events: EventBus
}

/** A peer's holder also says what its index says while it is off. */
export interface PeerHolder extends Holder {
  /** What its index says it holds, on or off; undefined for what cannot be. */
  claimed(hashPart: HashPart): Holding | undefined
  /** Its bytes of the NAR with that hash, where it says it has it and was not caught lying about it. */
  sourceOf(holding: Holding): SpoolSource | undefined
}

/** Bytes of the largest NAR that a peer may announce: four times the largest of nixpkgs, and no number that means nothing. */
const NAR_MAX_BYTES = 1024 ** 4

/** Lies remembered per peer, for `why-not` and so that it is not asked for the same again. */
const LIES_MAX = 1000

/** Holdings kept so that `find` and `isCurrent` cost no catalog lookup while no index changes. */
const FOUND_MAX = 2000

/** First word of the URL of what a peer gets from another one: `/relay/nar/…`. */
export const RELAY_PREFIX = 'relay'

/** The id of a peer's holder. */
export const peerHolderId = (key: string): string => `peer:${key}`

/**
 * The holder of another host of the site. What it has is known from its index, without network; its bytes are not believed:
 * they go through the spool, which knows what they must turn out to be.
 */
export function createPeerHolder(options: PeerHolderOptions): PeerHolder {
  const { key, relay, name, indexes, transport, spool, isUp, storeDir, events } = options
  const id = peerHolderId(relay === undefined ? key : `${key}@${relay}`)
  const asked = relay ?? key
  const prefix = relay === undefined ? '' : `/${RELAY_PREFIX}`
  const lies = new Map<string, string>()
  const found = createWeightedCache<{ readonly version: number; readonly holding?: Holding }>(
    FOUND_MAX,
    FOUND_MAX,
  )

  const checkUp = (): void => {
    if (!isUp()) fail('HOLDER_UNREADABLE', { holder: id, problem: `${name} is off` })
  }

  const holdingOf = (hashPart: HashPart, entry: IndexedHolding): Holding | undefined => {
    const { info, builtHere } = entry
    const { storePath, narHash, narSize } = info
    const plausible =
      storePath.startsWith(`${storeDir}/`) &&
      hashPartOf(storePath) === hashPart &&
      narHash.algorithm === 'sha256' &&
      Number.isSafeInteger(narSize) &&
      narSize > 0 &&
      narSize <= NAR_MAX_BYTES
    if (!plausible) return undefined
    const identity = `${encodeNix32(narHash.bytes)}.${narSize}${builtHere ? '.built' : ''}`
    return { info, identity, builtHere, compression: 'none' }
  }

  const lookUp = (hashPart: HashPart): Holding | undefined => {
    const known = found.get(hashPart)
    const { version } = indexes
    if (known?.version === version) return known.holding
    const entry = indexes.find(hashPart).find(({ peer }) => peer === key)
    const holding = entry && holdingOf(hashPart, entry)
    // Misses are not kept: they are the catalog's to answer fast, and there is no end of them.
    if (holding === undefined) found.delete(hashPart)
    else found.set(hashPart, { version, holding }, 1)
    return holding
  }

  const isCurrent = (holding: Holding): boolean =>
    isUp() && lookUp(hashPartOf(holding.info.storePath))?.identity === holding.identity

  const gone = (holding: Holding, cause?: unknown): never =>
    fail('HOLDING_GONE', { path: holding.info.storePath, holder: id }, cause)

  const lied = (identity: string, { storePath }: SpoolNar, problem: string): void => {
    if (lies.has(identity)) return
    for (const oldest of lies.keys()) {
      if (lies.size < LIES_MAX) break
      lies.delete(oldest)
    }
    lies.set(identity, problem)
    events.emit('peer:lied', asked, `${storePath}: ${problem}`)
  }

  async function* noteStall(
    bytes: AsyncIterable<Buffer>,
    hashPart: HashPart,
  ): AsyncGenerator<Buffer, void, undefined> {
    try {
      yield* bytes
    } catch (error) {
      // Who is off by now did not stall: it may be back in a moment.
      if (isNarwharfError(error, 'PEER_STALLED') && isUp()) options.onStall?.(hashPart)
      throw error
    }
  }

  const sourceOf = (holding: Holding): SpoolSource => ({
    id,
    name,
    ...(options.alsoHeldBy !== undefined && { others: () => options.alsoHeldBy?.(holding) ?? [] }),
    open(offset, signal, end) {
      const hashPart = hashPartOf(holding.info.storePath)
      const narHash = encodeNix32(holding.info.narHash.bytes)
      const bytes = openPeerNar({
        ...{ peer: name, holderId: id, holding, offset, end, signal },
        get: (path, range) =>
          transport.request(asked, options.addresses(), { path, range, signal }),
        path: `${prefix}/${formatNarUrl({ hashPart, narHash, compression: 'none' })}`,
      })
      return noteStall(bytes, hashPart)
    },
    lied: (nar, problem) => lied(holding.identity, nar, problem),
  })

  const openNar = (holding: Holding, range?: ByteRange): ByteStream => {
    let inner: ByteStream | undefined
    let over = false
    async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
      if (over) return
      if (!isCurrent(holding)) gone(holding)
      inner = spool.read(holding.info, sourceOf(holding), range)
      yield* inner
    }
    const iterator = chunks()
    return {
      [Symbol.asyncIterator]: () => iterator,
      recycle: chunk => inner?.recycle(chunk),
      destroy() {
        over = true
        inner?.destroy()
        iterator.return().catch(() => undefined)
      },
    }
  }

  const verify = async (holding: Holding, signal?: AbortSignal): Promise<Verification> => {
    const { storePath } = holding.info
    signal?.throwIfAborted()
    const lie = lies.get(holding.identity)
    if (lie !== undefined) {
      return {
        problem: new NarwharfError('NAR_MISMATCH', {
          path: storePath,
          field: 'content',
          actual: lie,
          expected: 'what its index says',
        }),
      }
    }
    try {
      if (!isCurrent(holding)) gone(holding)
      await spool.whole(holding.info, sourceOf(holding), signal)
      return {}
    } catch (error) {
      if (isNarwharfError(error, 'NAR_MISMATCH') || isNarwharfError(error, 'HOLDING_GONE')) {
        return { problem: error }
      }
      throw error
    }
  }

  return {
    id,
    kind: 'peer',
    title: `peer ${name}`,
    storeDir,
    fleeting: true,
    async open() {},
    async close() {},
    problem: () => (isUp() ? undefined : `${name} is off`),
    find(hashPart) {
      checkUp()
      return lookUp(hashPart)
    },
    claimed: lookUp,
    sourceOf(holding) {
      const own = lookUp(hashPartOf(holding.info.storePath))
      const isSame =
        own?.info.narSize === holding.info.narSize &&
        Buffer.compare(own.info.narHash.bytes, holding.info.narHash.bytes) === 0
      return isSame && isUp() && !lies.has(own.identity) ? sourceOf(own) : undefined
    },
    isCurrent,
    openNar,
    verify,
    kept(holding) {
      const { narHash, narSize } = holding.info
      const here = spool.kept(holding.info)
      return here && { ...here, compression: 'none', fileHash: narHash, fileSize: narSize }
    },
    ...createPeerExtras({
      key,
      get: path => transport.request(asked, options.addresses(), { path: `${prefix}${path}` }),
      isUp,
      isCurrent,
      lookUp,
      verify,
      openNar,
    }),
    async *paths() {
      checkUp()
      yield* options.paths()
    },
    generation: () => `${indexes.version}${isUp() ? '' : ' off'}`,
  }
}
