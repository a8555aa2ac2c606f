import { isNarwharfError } from '../../protocol/errors.ts'
import type { EventBus } from '../events.ts'
import type { Holder, Holding } from '../holders/holder.ts'

/**
 * Whether the bytes of a holding are what its path info promises. `gone` means that it changed or vanished while being
 * read: nothing is known, ask again.
 */
export type Verdict = 'good' | 'bad' | 'gone'

/** Where verdicts are kept over restarts, so that no unchanged NAR is hashed twice (the catalog). */
export interface VerdictStore {
  get(holderId: string, identity: string): { readonly problem?: string | undefined } | undefined
  put(holderId: string, identity: string, problem?: string): void
}

/** An interest in a verdict; when the last one is released before the end, the reading stops. */
export interface VerdictLease {
  readonly verdict: Promise<Verdict>
  release(): void
}

/** Verdicts, each worked out once and shared by all who wait for it. */
export interface Verdicts {
  /** What is known already, without reading anything. */
  known(holder: Holder, holding: Holding): Verdict | undefined
  /** Why a bad one is bad. */
  problem(holder: Holder, holding: Holding): string | undefined
  lease(holder: Holder, holding: Holding): VerdictLease
  /** Marks a holding damaged by what was seen elsewhere (a transfer that came out wrong). */
  condemn(holder: Holder, holding: Holding, problem: string): void
  /** Wrong bytes of a NAR with that hash may be with a client: it must not be given the rest. */
  spoil(narHash: Uint8Array): void
  /** Whether that was so within the last minute, in which clients resume. */
  isSpoilt(narHash: Uint8Array): boolean
  /** A NAR with that hash broke off, as the peer that sent it went away. */
  breakOff(narHash: Uint8Array): void
  /** Whether that was so within the last minute. */
  brokeOff(narHash: Uint8Array): boolean
  close(): void
}

/** How long a fleeting holder's wrong copy is remembered, ms: by then its disk may be mended. */
const FLEETING_BAD_MS = 24 * 3600_000

/** How long nobody may resume after wrong bytes went out: Nix tries again within 5 s, in steps of up to 2.4 s. */
const SPOILT_MS = 60_000

/** How long a break is remembered: Nix comes back within 5 s, and a person who starts it again within a minute. */
const BROKEN_MS = 60_000

/** Most entries of each of these memories. */
const REMEMBERED_MAX = 10_000

/** Values that are forgotten after a while, or when there are too many. */
function createShortMemory<V>(keepMs: number) {
  const entries = new Map<string, { readonly value: V; readonly until: number }>()
  return {
    get(key: string): V | undefined {
      const entry = entries.get(key)
      if (entry !== undefined && entry.until > performance.now()) return entry.value
      entries.delete(key)
      return undefined
    },
    set(key: string, value: V): void {
      entries.delete(key)
      entries.set(key, { value, until: performance.now() + keepMs })
      if (entries.size <= REMEMBERED_MAX) return
      for (const oldest of entries.keys()) {
        entries.delete(oldest)
        return
      }
    },
  }
}

interface Running {
  readonly verdict: Promise<Verdict>
  readonly abort: AbortController
  waiting: number
}

/** Why a read failed, when that says the NAR is damaged rather than that the reading went wrong. */
const isDamage = (error: unknown): error is Error =>
  isNarwharfError(error, 'NAR_MISMATCH') ||
  isNarwharfError(error, 'NAR_INVALID') ||
  isNarwharfError(error, 'COMPRESSED_DATA_INVALID')

/** Makes the register of verdicts over a store that outlives the process. */
export function createVerdicts(store: VerdictStore, events: EventBus): Verdicts {
  const running = new Map<string, Running>()
  const fleetingBad = createShortMemory<string>(FLEETING_BAD_MS)
  const spoilt = createShortMemory<true>(SPOILT_MS)
  const broken = createShortMemory<true>(BROKEN_MS)
  const keyOf = (holder: Holder, holding: Holding) => `${holder.id}\n${holding.identity}`
  const hashKey = (narHash: Uint8Array) => Buffer.from(narHash).toString('base64')

  const rowOf = (
    holder: Holder,
    holding: Holding,
  ): { readonly problem?: string | undefined } | undefined => {
    if (holder.fleeting !== true) return store.get(holder.id, holding.identity)
    const problem = fleetingBad.get(keyOf(holder, holding))
    return problem === undefined ? undefined : { problem }
  }

  const condemn = (holder: Holder, holding: Holding, problem: string) => {
    if (holder.fleeting === true) fleetingBad.set(keyOf(holder, holding), problem)
    else store.put(holder.id, holding.identity, problem)
    spoilt.set(hashKey(holding.info.narHash.bytes), true)
    events.emit('holding:bad', {
      holderId: holder.id,
      storePath: holding.info.storePath,
      problem,
    })
  }

  const work = async (holder: Holder, holding: Holding, signal: AbortSignal): Promise<Verdict> => {
    let problem: Error | undefined
    try {
      problem = (await holder.verify(holding, signal)).problem
    } catch (error) {
      if (
        isNarwharfError(error, 'PEER_BROKE') &&
        isNarwharfError(error.cause, 'PEER_UNREACHABLE')
      ) {
        broken.set(hashKey(holding.info.narHash.bytes), true)
      }
      if (!isDamage(error)) return 'gone'
      problem = error
    }
    // What was read may already be something else than what was asked about: then it says nothing.
    if (!holder.isCurrent(holding)) return 'gone'
    if (problem === undefined) {
      if (holder.fleeting !== true) store.put(holder.id, holding.identity)
      return 'good'
    }
    if (!isDamage(problem)) return 'gone'
    condemn(holder, holding, problem.message)
    return 'bad'
  }

  const known = (holder: Holder, holding: Holding): Verdict | undefined => {
    const row = rowOf(holder, holding)
    if (row === undefined) return undefined
    return row.problem === undefined ? 'good' : 'bad'
  }

  return {
    known,
    problem: (holder, holding) => rowOf(holder, holding)?.problem,
    condemn,
    spoil: narHash => spoilt.set(hashKey(narHash), true),
    isSpoilt: narHash => spoilt.get(hashKey(narHash)) === true,
    breakOff: narHash => broken.set(hashKey(narHash), true),
    brokeOff: narHash => broken.get(hashKey(narHash)) === true,
    lease(holder, holding) {
      const settled = known(holder, holding)
      if (settled !== undefined) return { verdict: Promise.resolve(settled), release() {} }
      const key = keyOf(holder, holding)
      let entry = running.get(key)
      if (entry === undefined) {
        const abort = new AbortController()
        // Whoever waits must get a word: a check that failed for whatever reason says nothing of the bytes.
        const verdict = work(holder, holding, abort.signal)
          .catch((): Verdict => 'gone')
          .finally(() => running.delete(key))
        entry = { verdict, abort, waiting: 0 }
        running.set(key, entry)
      }
      const leased = entry
      leased.waiting++
      let released = false
      return {
        verdict: leased.verdict,
        release() {
          if (released) return
          released = true
          leased.waiting--
          if (leased.waiting === 0) leased.abort.abort()
        },
      }
    },
    close() {
      for (const { abort } of running.values()) abort.abort()
    },
  }
}
