import type { HashPart } from '../../protocol/store-path.ts'
import type { NarUrl } from '../../protocol/nar-url.ts'
import type { EventBus } from '../events.ts'
import type { Holder } from '../holders/holder.ts'
import type { Trust } from '../trust/trust.ts'
import {
  findCandidates,
  findEverywhere,
  permits,
  type Audience,
  type Candidate,
  type Finding,
  type LanSharing,
} from './candidates.ts'
import { chooseForNarinfo, renderNarinfo, type LiveCompression } from './narinfo-text.ts'
import { prepareNar, type NarReply, type PrepareOptions } from './nar-reply.ts'
import { createVerdicts, type Verdicts, type VerdictStore } from './verdicts.ts'

export interface SubstitutionOptions {
  /** In order of preference. */
  readonly holders: readonly Holder[]
  readonly trust: Trust
  readonly verdictStore: VerdictStore
  readonly events: EventBus
  /** The one store directory this host serves. */
  readonly storeDir: string
  readonly withLan: LanSharing
  readonly liveCompression: LiveCompression
  /** Bound of the rendered narinfos kept in memory, bytes. */
  readonly narinfoCacheBytes?: number | undefined
}

/** 32 MiB hold the narinfos of some 40,000 paths, more than one machine asks for between two garbage collections. */
export const NARINFO_CACHE_BYTES = 32 * 1024 * 1024

/** What an entry costs beyond its text: the candidate, map slots, strings. Measured by heap growth, bytes. */
const ENTRY_OVERHEAD_BYTES = 1500

interface Entry {
  readonly candidate: Candidate
  readonly text: Buffer
}

/** Given a hash part: who holds it, which copy may be trusted, what to tell the client, and the verified bytes. */
export interface Substitution {
  readonly verdicts: Verdicts
  /** The narinfo for that audience, or undefined: nobody has it, or it may not be offered. */
  narinfo(hashPart: HashPart, audience: Audience): Buffer | undefined | Promise<Buffer | undefined>
  /** The candidates that audience may have. */
  candidates(hashPart: HashPart, audience: Audience): Promise<Candidate[]>
  /** The body of a NAR URL, its first copy checked or being checked; undefined is a 404. */
  nar(url: NarUrl, audience: Audience, options: PrepareOptions): Promise<NarReply | undefined>
  /** What every holder says, refusals included. */
  findings(hashPart: HashPart): Promise<Finding[]>
  /** What of it may leave by an open LAN port. */
  readonly withLan: LanSharing
  readonly holders: readonly Holder[]
  close(): void
}

const audienceKey = (audience: Audience) => (audience.loopback ? 1 : 0) + (audience.legacy ? 2 : 0)
const AUDIENCES = 4

/** Makes the room. It opens nothing by itself. */
export function createSubstitution(options: SubstitutionOptions): Substitution {
  const { holders, trust, storeDir, withLan, events } = options
  const verdicts = createVerdicts(options.verdictStore, events)
  const cacheLimit = options.narinfoCacheBytes ?? NARINFO_CACHE_BYTES
  // One map per audience: what one may see must never be found by the other.
  const caches = Array.from({ length: AUDIENCES }, () => new Map<HashPart, Entry>())
  let cachedBytes = 0

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
  const dropBad = ({ storePath }: { storePath: string }) => {
    const hashPart = storePath.slice(storeDir.length + 1, storeDir.length + 33) as HashPart
    for (const cache of caches) {
      const entry = cache.get(hashPart)
      if (entry !== undefined) forget(cache, hashPart, entry)
    }
  }
  events.on('holding:bad', dropBad)

  const allowed = (all: readonly Candidate[], audience: Audience): Candidate[] =>
    all.filter(
      ({ holder, holding, decision }) =>
        permits(decision, audience, withLan) && verdicts.known(holder, holding) !== 'bad',
    )

  const render = (hashPart: HashPart, all: readonly Candidate[], audience: Audience) => {
    const candidate = chooseForNarinfo(allowed(all, audience), audience)
    if (candidate === undefined) return undefined
    const text = renderNarinfo(candidate, audience, options.liveCompression)
    const cache = caches[audienceKey(audience)]
    if (cache !== undefined) remember(cache, hashPart, { candidate, text })
    return text
  }

  const find = (hashPart: HashPart) => findCandidates(holders, trust, storeDir, hashPart)

  return {
    verdicts,
    withLan,
    holders,
    narinfo(hashPart, audience) {
      const cache = caches[audienceKey(audience)]
      const entry = cache?.get(hashPart)
      if (cache !== undefined && entry !== undefined) {
        if (entry.candidate.holder.isCurrent(entry.candidate.holding)) return entry.text
        forget(cache, hashPart, entry)
      }
      const found = find(hashPart)
      return found instanceof Promise
        ? found.then(all => render(hashPart, all, audience))
        : render(hashPart, found, audience)
    },
    candidates: async (hashPart, audience) => allowed(await find(hashPart), audience),
    async nar(url, audience, prepare) {
      const candidates = allowed(await find(url.hashPart), audience)
      return prepareNar(url, candidates, verdicts, prepare)
    },
    findings: hashPart => findEverywhere(holders, trust, hashPart),
    close() {
      events.off('holding:bad', dropBad)
      verdicts.close()
      for (const cache of caches) cache.clear()
      cachedBytes = 0
    },
  }
}
