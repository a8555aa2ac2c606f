import { encodeNix32 } from '../../protocol/nix32.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import type { NarUrl } from '../../protocol/nar-url.ts'
import type { EventBus } from '../events.ts'
import type { Holder, Holding, Witness } from '../holders/holder.ts'
import { holderListOf, type Holders } from '../holders/holder-list.ts'
import type { Trust } from '../trust/trust.ts'
import {
  findCandidates,
  findEverywhere,
  permits,
  rankCandidates,
  type Audience,
  type Candidate,
  type Elsewhere,
  type Finding,
  type LanSharing,
  type Sharing,
} from './candidates.ts'
import { contradiction } from './claims.ts'
import { chooseForNarinfo, renderNarinfo, type LiveCompression } from './narinfo-text.ts'
import { prepareNar, type NarReply, type PrepareOptions } from './nar-reply.ts'
import { RETURN_WAIT_MS, untilReturned } from './returning.ts'
import { createVerdicts, type Verdicts, type VerdictStore } from './verdicts.ts'

export interface SubstitutionOptions {
  /** This host's own, in order of preference: asked every time. The first stays for good. */
  readonly holders: Holders
  /** Asked when none of them has a path. */
  readonly peers?: Elsewhere | undefined
  /** Asked when nobody nearer has it. */
  readonly upstreams?: Elsewhere | undefined
  readonly trust: Trust
  readonly verdictStore: VerdictStore
  readonly narinfoStore: NarinfoStore
  /** Changes with everything but the path itself that a narinfo for this machine depends on: keys, rules, version. */
  readonly narinfoEpoch: string
  readonly events: EventBus
  /** The one store directory this host serves. */
  readonly storeDir: string
  readonly withLan: LanSharing
  /** Default: all. */
  readonly withPeers?: LanSharing | undefined
  readonly liveCompression: LiveCompression
  /** Told of what came from afar and went out whole and right, where it may be kept. */
  readonly delivered?: ((candidate: Candidate) => void) | undefined
  /** `trust.members`: whether what only peers can say counts. Default: no. */
  readonly trustMembers?: boolean | undefined
  /** How long a peer that went away in the middle of a NAR is waited for, ms; default {@link RETURN_WAIT_MS}. */
  readonly returnWaitMs?: number | undefined
  /** Bound of the rendered narinfos kept in memory, bytes. */
  readonly narinfoCacheBytes?: number | undefined
}

/** 12 MiB hold the narinfos of some 7,500 paths, twice what a desktop asks for in an upgrade; the catalog has the rest. */
export const NARINFO_CACHE_BYTES = 12 * 1024 * 1024

/** Narinfos kept over restarts (the catalog): the proof, signature and text of a path are made once, not once per start. */
export interface NarinfoStore {
  get(key: NarinfoKey): string | undefined
  put(key: NarinfoKey, text: string): void
}

export interface NarinfoKey {
  readonly holderId: string
  readonly hashPart: string
  readonly identity: string
  readonly epoch: string
}

/** What an entry costs beyond its text: its witness or candidate, map slots, strings. Measured by heap growth, bytes. */
const ENTRY_OVERHEAD_BYTES = 700

/** The identity of no holding: a row kept under it is found by nobody. */
const NO_IDENTITY = '-'

interface Entry {
  readonly text: string
  /** Whether what it says still stands; microseconds. */
  stillStands(): boolean
}

/** Given a hash part: who holds it, which copy may be trusted, what to tell the client, and the verified bytes. */
export interface Substitution extends Sharing {
  readonly verdicts: Verdicts
  /** The narinfo for that audience, a byte each character; or undefined: nobody has it, or it may not be offered. */
  narinfo(hashPart: HashPart, audience: Audience): string | undefined | Promise<string | undefined>
  /** The candidates that audience may have. */
  candidates(hashPart: HashPart, audience: Audience): Promise<Candidate[]>
  /** The body of a NAR URL, its first copy checked or being checked; undefined is a 404. */
  nar(url: NarUrl, audience: Audience, options: PrepareOptions): Promise<NarReply | undefined>
  /** What every holder says, refusals included. */
  findings(hashPart: HashPart): Promise<Finding[]>
  /** This host's own, of this moment. */
  readonly holders: readonly Holder[]
  /** Peers that say they have a path and are up. */
  peersFor(hashPart: HashPart): readonly Holder[]
  /** All peers that are up, the nearest first. */
  peersUp(): readonly Holder[]
  readonly trustsMembers: boolean
  close(): void
}

/** Whether only this host's own holders are asked: what comes from others reaches the asker by itself. */
const isNear = ({ peer, relay, nearOnly }: Audience) =>
  (peer === true && relay !== true) || nearOnly === true

const isFar = ({ holder }: Candidate) => holder.kind === 'peer' || holder.kind === 'upstream'

const audienceKey = (audience: Audience) =>
  (audience.loopback ? 1 : 0) + (audience.legacy ? 2 : 0) + (isNear(audience) ? 4 : 0)
const AUDIENCES = 8

/** Makes the room. It opens nothing by itself. */
export function createSubstitution(options: SubstitutionOptions): Substitution {
  const { trust, storeDir, events, peers, upstreams } = options
  const list = holderListOf(options.holders)
  const sharing: Sharing = { withLan: options.withLan, withPeers: options.withPeers ?? 'all' }
  // What this machine itself is told about a live path depends on nothing else, so it may come from before a restart.
  const [first] = list.current()
  const verdicts = createVerdicts(options.verdictStore, events)
  const cacheLimit = options.narinfoCacheBytes ?? NARINFO_CACHE_BYTES
  // One map per audience: what one may see must never be found by the other.
  const caches = Array.from({ length: AUDIENCES }, () => new Map<HashPart, Entry>())
  let cachedBytes = 0
  let closed = false

  const forget = (cache: Map<HashPart, Entry>, hashPart: HashPart, entry: Entry) => {
    cache.delete(hashPart)
    cachedBytes -= entry.text.length + ENTRY_OVERHEAD_BYTES
  }

  const remember = (cache: Map<HashPart, Entry>, hashPart: HashPart, entry: Entry) => {
    const old = cache.get(hashPart)
    if (old !== undefined) forget(cache, hashPart, old)
    cache.set(hashPart, entry)
    cachedBytes += entry.text.length + ENTRY_OVERHEAD_BYTES
    for (const other of caches) {
      for (const [key, oldest] of other) {
        if (cachedBytes <= cacheLimit) return
        forget(other, key, oldest)
      }
    }
  }

  // A copy found damaged is no longer offered, and its narinfo must not live on in memory.
  // Nor in the catalog, so that recalling one needs no look at verdicts. After a crash between the two it is told once more,
  // and its NAR is refused.
  const dropBad = ({ holderId, storePath }: { holderId: string; storePath: string }) => {
    const hashPart = storePath.slice(storeDir.length + 1, storeDir.length + 33) as HashPart
    for (const cache of caches) {
      const entry = cache.get(hashPart)
      if (entry !== undefined) forget(cache, hashPart, entry)
    }
    if (holderId !== first?.id) return
    options.narinfoStore.put(
      { holderId, hashPart, identity: NO_IDENTITY, epoch: options.narinfoEpoch },
      '',
    )
  }
  events.on('holding:bad', dropBad)

  /** Why a member's word for that holding does not count. */
  const contradicted = (holding: Holding): string | undefined =>
    contradiction(holding, peers?.claims?.(hashPartOf(holding.info.storePath)) ?? [], trust)

  const allowed = (all: readonly Candidate[], audience: Audience): Candidate[] =>
    rankCandidates(
      all.filter(
        ({ holder, holding, decision }) =>
          permits(decision, audience, sharing) && verdicts.known(holder, holding) !== 'bad',
      ),
    ).filter(
      ({ holding, decision }) =>
        decision.reason !== 'member' || contradicted(holding) === undefined,
    )

  const keyOf = (holder: Holder, hashPart: HashPart, { mark }: Witness): NarinfoKey => ({
    holderId: holder.id,
    hashPart,
    identity: mark,
    epoch: options.narinfoEpoch,
  })
  const mayWitness = (audience: Audience): boolean =>
    audience.loopback &&
    !audience.legacy &&
    first?.witness !== undefined &&
    first.storeDir === storeDir
  /** Undefined when it has none, or is out of reach. */
  const witnessOf = (hashPart: HashPart, audience: Audience): Witness | undefined => {
    if (!mayWitness(audience)) return undefined
    try {
      return first?.witness?.(hashPart)
    } catch {
      return undefined
    }
  }

  const recall = (hashPart: HashPart, witness: Witness | undefined): Entry | undefined => {
    if (first === undefined || witness === undefined) return undefined
    const kept = options.narinfoStore.get(keyOf(first, hashPart, witness))
    if (kept === undefined) return undefined
    return { text: kept, stillStands: witness.stillStands }
  }

  const entryOf = (hashPart: HashPart, candidate: Candidate, audience: Audience): Entry => {
    const { holder, holding } = candidate
    const text = renderNarinfo(candidate, audience, options.liveCompression)
    const witness = holder === first ? witnessOf(hashPart, audience) : undefined
    if (witness === undefined) return { text, stillStands: () => holder.isCurrent(holding) }
    // The witness is younger than the holding: only one that stood all the time may speak for it.
    if (holder.isCurrent(holding)) {
      options.narinfoStore.put(keyOf(holder, hashPart, witness), text)
    }
    return { text, stillStands: witness.stillStands }
  }

  const render = (hashPart: HashPart, all: readonly Candidate[], audience: Audience) => {
    const candidate = chooseForNarinfo(all, audience)
    if (candidate === undefined) return undefined
    // A better copy elsewhere may end what a member's word is worth, so it is weighed each time.
    if (candidate.decision.reason === 'member') {
      return renderNarinfo(candidate, audience, options.liveCompression)
    }
    const entry = entryOf(hashPart, candidate, audience)
    const cache = caches[audienceKey(audience)]
    if (cache !== undefined) remember(cache, hashPart, entry)
    return entry.text
  }

  /** What the first of the groups gives that has anything for that audience; at once where it answers at once. */
  const inTurn = (
    groups: readonly (() => readonly Holder[])[],
    hashPart: HashPart,
    audience: Audience,
  ): Candidate[] | Promise<Candidate[]> => {
    for (const [index, group] of groups.entries()) {
      const asked = group()
      if (asked.length === 0) continue
      const found = findCandidates(asked, trust, storeDir, hashPart)
      if (found instanceof Promise) {
        return found.then(all => {
          const good = allowed(all, audience)
          return good.length > 0 ? good : inTurn(groups.slice(index + 1), hashPart, audience)
        })
      }
      const good = allowed(found, audience)
      if (good.length > 0) return good
    }
    return []
  }
  /** A drive may be slow: what lies nearer does not wait for it. */
  const ownHolders = (): readonly [near: readonly Holder[], drives: readonly Holder[]] => {
    const all = list.current()
    const drives = all.filter(({ kind }) => kind === 'drive')
    return drives.length === 0
      ? [all, drives]
      : [all.filter(({ kind }) => kind !== 'drive'), drives]
  }
  const peersFor = (hashPart: HashPart) => peers?.able(hashPart) ?? []
  const upstreamsFor = (hashPart: HashPart) => upstreams?.able(hashPart) ?? []

  const forRelay = (hashPart: HashPart) => [
    ...list.current(),
    ...(peers?.able(hashPart, true) ?? []),
  ]

  /** For a NAR the peers stand behind the local copies, one of which may break on the way. */
  const find = (hashPart: HashPart, audience: Audience) =>
    inTurn(
      isNear(audience)
        ? [() => list.current()]
        : audience.relay === true
          ? [() => forRelay(hashPart)]
          : [() => [...list.current(), ...peersFor(hashPart)], () => upstreamsFor(hashPart)],
      hashPart,
      audience,
    )

  /** Whether somebody who was giving that NAR may come back and go on: then a 404 is not yet the answer. */
  const mayReturn = (url: NarUrl, audience: Audience, { resuming }: PrepareOptions): boolean =>
    (peers?.claims?.(url.hashPart) ?? []).some(({ holder, holding }) => {
      const { bytes } = holding.info.narHash
      if (url.narHash !== undefined && encodeNix32(bytes) !== url.narHash) return false
      if (resuming ? verdicts.isSpoilt(bytes) : !verdicts.brokeOff(bytes)) return false
      if (peers?.passedOver?.(holder, url.hashPart) !== undefined) return false
      if (verdicts.known(holder, holding) === 'bad') return false
      const decision = trust.decide(holder, holding)
      return !(decision instanceof Promise) && permits(decision, audience, sharing)
    })

  return {
    verdicts,
    ...sharing,
    get holders() {
      return list.current()
    },
    peersFor,
    peersUp: () => peers?.up?.() ?? [],
    trustsMembers: options.trustMembers ?? false,
    narinfo(hashPart, audience) {
      const cache = caches[audienceKey(audience)]
      const entry = cache?.get(hashPart)
      if (cache !== undefined && entry !== undefined) {
        if (entry.stillStands()) return entry.text
        forget(cache, hashPart, entry)
      }
      const witness = witnessOf(hashPart, audience)
      const recalled = recall(hashPart, witness)
      if (cache !== undefined && recalled !== undefined) {
        remember(cache, hashPart, recalled)
        return recalled.text
      }
      // A first holder that can be asked for a sign and gives none has nothing: most misses end here.
      const [near, drives] = ownHolders()
      const asked = witness === undefined && mayWitness(audience) ? near.slice(1) : near
      const found = inTurn(
        isNear(audience)
          ? [() => asked, () => drives]
          : [() => asked, () => drives, () => peersFor(hashPart), () => upstreamsFor(hashPart)],
        hashPart,
        audience,
      )
      return found instanceof Promise
        ? found.then(all => render(hashPart, all, audience))
        : render(hashPart, found, audience)
    },
    candidates: async (hashPart, audience) => find(hashPart, audience),
    async nar(url, audience, prepare) {
      const onWhole = (candidate: Candidate): void => {
        prepare.onWhole?.(candidate)
        if (prepare.keep === true && isFar(candidate)) options.delivered?.(candidate)
      }
      const attempt = async () =>
        prepareNar(url, await find(url.hashPart, audience), verdicts, { ...prepare, onWhole })
      const reply = await attempt()
      if (
        reply !== undefined ||
        audience.peer === true ||
        isNear(audience) ||
        prepare.probe === true
      )
        return reply
      return untilReturned({
        events,
        waitMs: options.returnWaitMs ?? RETURN_WAIT_MS,
        mayReturn: () => !closed && mayReturn(url, audience, prepare),
        attempt,
      })
    },
    async findings(hashPart) {
      const asked = [
        ...list.current(),
        ...(peers?.claiming(hashPart) ?? []),
        ...(upstreams?.claiming(hashPart) ?? []),
      ]
      const found = await findEverywhere(asked, trust, hashPart)
      return found.map(finding => {
        const { holder, holding, decision } = finding
        const problem = finding.problem ?? peers?.passedOver?.(holder, hashPart)
        if (problem !== undefined) return { holder, problem }
        const isWord = decision?.offered === true && decision.reason === 'member'
        if (holding === undefined || !isWord) return finding
        return { ...finding, contradiction: contradicted(holding) }
      })
    },
    close() {
      closed = true
      events.off('holding:bad', dropBad)
      verdicts.close()
      for (const cache of caches) cache.clear()
      cachedBytes = 0
    },
  }
}
