import { hashPartOf } from '../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { IndexedHolding, PeerAddress, PeerIndexes, PeerKey } from '../site.ts'
import type { Holder, Holding } from './holder.ts'
import type { NarSpool } from './nar-spool.ts'
import { createPeerStalls } from './peer-stalls.ts'
import { createPeerHolder, peerHolderId, type PeerHolder, type PeerTransport } from './peer.ts'

/** What is known of the peers, from memory at once. */
export interface PeerFacts {
  isUp(key: PeerKey): boolean
  /** All that are. */
  up?(): Iterable<PeerKey>
  /** Those among them that are connected with a peer that this host cannot reach itself. */
  through?(key: PeerKey): readonly PeerKey[]
  /** Where it was seen, best first. */
  addresses(key: PeerKey): readonly PeerAddress[]
  nameOf(key: PeerKey): string | undefined
  /** Round trip time, ms, where it is known. */
  rttMs?(key: PeerKey): number | undefined
}

export interface PeerHoldersOptions {
  /** This host's own key: its own index is not a peer's. */
  readonly ownKey: PeerKey
  readonly indexes: PeerIndexes
  readonly facts: PeerFacts
  readonly transport: PeerTransport
  readonly spool: NarSpool
  /** Every path a peer's index names. */
  readonly paths: (key: PeerKey) => AsyncIterable<readonly StorePath[]>
  readonly storeDir: string
  readonly events: EventBus
  /** Monotonic milliseconds. */
  readonly now?: (() => number) | undefined
}

/** The peers' holders, made as they are needed. */
export interface PeerHolders {
  holder(key: PeerKey): Holder
  /**
   * Those that say they have it and are up: fewest transfers first, then the nearest; who stalled lately last, and not at all
   * for the path that it stalled on. One catalog lookup. Where none is, those that another peer can reach, unless only what is
   * near is wanted.
   */
  able(hashPart: HashPart, nearOnly?: boolean): readonly Holder[]
  /** All that are up, the nearest first. */
  up(): readonly Holder[]
  /** Why one that is up is not asked for it now. */
  passedOver(holder: Holder, hashPart: HashPart): string | undefined
  /** All that say they have it. */
  claiming(hashPart: HashPart): readonly Holder[]
  /** What all of those say of it, on or off. */
  claims(
    hashPart: HashPart,
  ): readonly { readonly name: string; readonly holder: Holder; readonly holding: Holding }[]
}

/** Ways that are tried to a peer behind others. */
const RELAYS_MAX = 2

/** Makes them over the catalog's picture of the peers' indexes. */
export function createPeerHolders(options: PeerHoldersOptions): PeerHolders {
  const { ownKey, facts, spool } = options
  const stalls = createPeerStalls(options.now)
  const holders = new Map<PeerKey, PeerHolder>()
  const behind = new Map<string, PeerHolder>()

  // Each holder that is asked next asks for the same hash part again.
  let last: { hashPart: HashPart; version: number; found: readonly IndexedHolding[] } | undefined
  const indexes: PeerIndexes = {
    get version() {
      return options.indexes.version
    },
    find(hashPart) {
      const { version } = options.indexes
      if (last?.hashPart === hashPart && last.version === version) return last.found
      last = { hashPart, version, found: options.indexes.find(hashPart) }
      return last.found
    },
  }

  const nameOf = (key: PeerKey): string => facts.nameOf(key) ?? key.slice(0, 12)

  const holder = (key: PeerKey): PeerHolder => {
    const known = holders.get(key)
    if (known !== undefined) return known
    const { transport, storeDir, events } = options
    const made = createPeerHolder({
      ...{ key, indexes, transport, spool, storeDir, events },
      name: nameOf(key),
      onStall: hashPart => stalls.note(key, hashPart),
      alsoHeldBy: holding =>
        able(hashPartOf(holding.info.storePath)).flatMap(other => {
          const source = other.id === peerHolderId(key) ? undefined : other.sourceOf(holding)
          return source ?? []
        }),
      isUp: () => facts.isUp(key),
      addresses: () => facts.addresses(key),
      paths: () => options.paths(key),
    })
    holders.set(key, made)
    return made
  }

  /** A peer behind another one. */
  const relayed = (key: PeerKey): PeerHolder[] =>
    (facts.through?.(key) ?? [])
      .filter(relay => facts.isUp(relay) && relay !== key && facts.nameOf(relay) !== undefined)
      .slice(0, RELAYS_MAX)
      .map(relay => {
        const place = `${key}@${relay}`
        const known = behind.get(place)
        if (known !== undefined) return known
        const { transport, storeDir, events } = options
        const made = createPeerHolder({
          ...{ key, indexes, transport, spool, storeDir, events },
          name: `${nameOf(key)} through ${nameOf(relay)}`,
          relay,
          isUp: () => facts.isUp(relay) && (facts.through?.(key) ?? []).includes(relay),
          addresses: () => facts.addresses(relay),
          paths: () => options.paths(key),
        })
        behind.set(place, made)
        return made
      })

  // Infinity - Infinity is no order.
  const nearer = (a: number, b: number) => (a === b ? 0 : a - b)
  const rttOf = (key: PeerKey): number => facts.rttMs?.(key) ?? Infinity

  const claimants = (hashPart: HashPart): PeerKey[] =>
    indexes
      .find(hashPart)
      .map(({ peer }) => peer)
      .filter(peer => peer !== ownKey && facts.nameOf(peer) !== undefined)

  const able = (hashPart: HashPart, nearOnly = false): readonly PeerHolder[] => {
    const all = claimants(hashPart)
    const up = all.filter(key => facts.isUp(key) && stalls.restOf(key, hashPart) === undefined)
    if (up.length === 0 && !nearOnly) {
      return all.filter(key => !facts.isUp(key)).flatMap(relayed)
    }
    if (up.length < 2) return up.map(holder)
    const weighed = up.map(key => ({
      key,
      slow: Number(stalls.isSlow(key)),
      running: spool.running(peerHolderId(key)),
      rtt: rttOf(key),
    }))
    return weighed
      .sort((a, b) => a.slow - b.slow || a.running - b.running || nearer(a.rtt, b.rtt))
      .map(({ key }) => holder(key))
  }

  return {
    holder,
    able,
    up: () =>
      [...(facts.up?.() ?? [])]
        .filter(key => key !== ownKey && facts.nameOf(key) !== undefined)
        .sort((a, b) => nearer(rttOf(a), rttOf(b)))
        .map(holder),
    passedOver({ id }, hashPart) {
      const key = [...holders].find(([, one]) => one.id === id)?.[0]
      const rest = key && stalls.restOf(key, hashPart)
      if (key === undefined || rest === undefined) return undefined
      const seconds = Math.ceil(rest / 1000)
      return `${nameOf(key)} sent nothing when it was asked; it is asked again in ${seconds} s`
    },
    claiming: hashPart =>
      claimants(hashPart).map(
        key => (facts.isUp(key) ? undefined : relayed(key)[0]) ?? holder(key),
      ),
    claims: hashPart =>
      claimants(hashPart).flatMap(key => {
        const holding = holder(key).claimed(hashPart)
        return holding === undefined ? [] : [{ name: nameOf(key), holder: holder(key), holding }]
      }),
  }
}
