import type { Compression } from '../../protocol/path-info.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { Decision, Trust } from '../trust/trust.ts'
import type { Claim } from './claims.ts'

/** A holding that may be offered: who has it, what it is, why it may be trusted. */
export interface Candidate {
  readonly holder: Holder
  readonly holding: Holding
  readonly decision: Extract<Decision, { offered: true }>
}

/** A holding as found, offered or not: what `why-not` explains. */
export interface Finding {
  readonly holder: Holder
  readonly holding?: Holding | undefined
  readonly decision?: Decision | undefined
  /** Why a member's word for it does not count. */
  readonly contradiction?: string | undefined
  readonly problem?: string | undefined
}

/** Who asks: decides what may be offered to them and in what shape. */
export interface Audience {
  /** On this machine: sees everything the host offers. */
  readonly loopback: boolean
  /** Nix before 2.4, which cannot read zstd and gzip NARs. */
  readonly legacy: boolean
  /** Another host of the site: it gets what this host itself holds, never what others hold, so that nothing goes in circles. */
  readonly peer?: boolean | undefined
  /** A peer that asks for what other peers hold, which it cannot reach: those are asked that this host reaches itself. */
  readonly relay?: boolean | undefined
  /** Is told only of what this host holds itself. */
  readonly nearOnly?: boolean | undefined
}

/** What may leave by an open LAN port, `share.withLan`. */
export type LanSharing = 'all' | 'signed' | 'none'

/** What may leave the host, and to whom. */
export interface Sharing {
  readonly withLan: LanSharing
  /** `share.withPeers`. */
  readonly withPeers: LanSharing
}

/** Whether a decision lets that audience have the path. */
export function permits(
  decision: Decision,
  audience: Audience,
  { withLan, withPeers }: Sharing,
): decision is Candidate['decision'] {
  if (!decision.offered) return false
  if (audience.loopback) return true
  const sharing = audience.peer === true ? withPeers : withLan
  return sharing === 'all' || (sharing === 'signed' && decision.public)
}

/** Holders that are not asked every time: peers, upstreams. */
export interface Elsewhere {
  /** Those that may give the path now, best first. Costs no network by itself. */
  able(hashPart: HashPart, nearOnly?: boolean): readonly Holder[]
  /** Those that are said to have it, within reach or not: for a person who asks why. */
  claiming(hashPart: HashPart): readonly Holder[]
  /** Those that are within reach, whatever they have. */
  up?(): readonly Holder[]
  /** Why one of them that could be asked is not, for now. */
  passedOver?(holder: Holder, hashPart: HashPart): string | undefined
  /** What all of those say of it; of members only, whose word may count. */
  claims?(hashPart: HashPart): readonly Claim[]
}

/**
 * The order in which candidates are used: as found (near before far), but what is merely vouched for by a member comes last,
 * and not at all where somebody has a proven copy with another content.
 */
export function rankCandidates(candidates: Candidate[]): Candidate[] {
  const isVouched = ({ decision }: Candidate) => decision.reason === 'member'
  if (!candidates.some(isVouched)) return candidates
  const proven = candidates.filter(one => !isVouched(one))
  const differs = (vouched: Candidate) =>
    proven.some(
      ({ decision, holding }) =>
        (decision.reason === 'signed' || decision.reason === 'content-addressed') &&
        Buffer.compare(holding.info.narHash.bytes, vouched.holding.info.narHash.bytes) !== 0,
    )
  return [...proven, ...candidates.filter(one => isVouched(one) && !differs(one))]
}

/** Compressions that Nix 2.3 and older read. */
const LEGACY_COMPRESSIONS: ReadonlySet<Compression> = new Set(['none', 'xz', 'bzip2', 'br'])

/** Whether that audience's Nix can unpack the compression. */
export function reads(audience: Audience, compression: Compression): boolean {
  return !audience.legacy || LEGACY_COMPRESSIONS.has(compression)
}

/**
 * How long a question to holders and trust may take before the asker is told "not here": Nix takes a hanging narinfo
 * for a dead cache and, at 2.8, gives up the whole build.
 */
export const FIND_BUDGET_MS = 4000

/** Rejects never, hangs never: undefined after the budget. */
async function within<T>(work: Promise<T>, budgetMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>(resolve => {
    timer = setTimeout(resolve, budgetMs, undefined)
  })
  try {
    return await Promise.race([work.catch(() => undefined), late])
  } finally {
    clearTimeout(timer)
  }
}

type Offered = Candidate | undefined

const offered = (holder: Holder, holding: Holding, decision: Decision): Offered =>
  decision.offered ? { holder, holding, decision } : undefined

/** Asks one holder, synchronously where it can. A holder that throws is out of reach: it has nothing now. */
function ask(
  holder: Holder,
  trust: Trust,
  storeDir: string,
  hashPart: HashPart,
): Offered | Promise<Offered> {
  if (holder.storeDir !== storeDir) return undefined
  try {
    const found = holder.find(hashPart)
    if (found === undefined) return undefined
    if (found instanceof Promise) {
      return found.then(async holding =>
        holding === undefined
          ? undefined
          : offered(holder, holding, await trust.decide(holder, holding)),
      )
    }
    const decision = trust.decide(holder, found)
    return decision instanceof Promise
      ? decision.then(decided => offered(holder, found, decided))
      : offered(holder, found, decision)
  } catch {
    return undefined
  }
}

/**
 * Everything that may be offered for a hash part, in the holders' order: at once when all of them answer at once (local
 * holders, decisions known), else within {@link FIND_BUDGET_MS}.
 */
export function findCandidates(
  holders: readonly Holder[],
  trust: Trust,
  storeDir: string,
  hashPart: HashPart,
  budgetMs = FIND_BUDGET_MS,
): Candidate[] | Promise<Candidate[]> {
  const answers = holders.map(holder => ask(holder, trust, storeDir, hashPart))
  const isCandidate = (answer: Offered): answer is Candidate => answer !== undefined
  if (!answers.some(answer => answer instanceof Promise)) {
    return (answers as Offered[]).filter(isCandidate)
  }
  return Promise.all(answers.map(answer => within(Promise.resolve(answer), budgetMs))).then(all =>
    all.filter(isCandidate),
  )
}

/** Asks every holder and keeps the refusals too. */
export async function findEverywhere(
  holders: readonly Holder[],
  trust: Trust,
  hashPart: HashPart,
): Promise<Finding[]> {
  return Promise.all(
    holders.map(async (holder): Promise<Finding> => {
      try {
        const holding = await holder.find(hashPart)
        if (holding === undefined) return { holder }
        return { holder, holding, decision: await trust.decide(holder, holding) }
      } catch (error) {
        return { holder, problem: error instanceof Error ? error.message : String(error) }
      }
    }),
  )
}
