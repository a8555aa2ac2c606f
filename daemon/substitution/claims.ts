import { fingerprint } from '../../protocol/signature.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { Trust } from '../trust/trust.ts'

// What members say of a path, held against each other.

/** What a member's index says of a path, whether it is within reach or not. */
export interface Claim {
  /** The member's, for people. */
  readonly name: string
  readonly holder: Holder
  readonly holding: Holding
}

/** Names of hosts that one sentence lists. */
const NAMES_MAX = 5

const list = (names: readonly string[]): string =>
  names.length <= NAMES_MAX
    ? names.join(', ')
    : `${names.slice(0, NAMES_MAX).join(', ')} and ${names.length - NAMES_MAX} more`

const isProven = ({ holder, holding }: Claim, trust: Trust): boolean => {
  // A peer's holding is decided at once; what is not proven by now is not proven.
  const decision = trust.decide(holder, holding)
  return (
    !(decision instanceof Promise) &&
    decision.offered &&
    (decision.reason === 'signed' || decision.reason === 'content-addressed')
  )
}

/**
 * Why nobody's mere word for this holding counts, as a sentence; undefined where nothing contradicts it.
 *
 * A path that one member says is this and another says is that is given by neither, be they on or off: else whoever lies
 * has but to wait until the honest one is off. A proof (a trusted signature, a content address) ends it: then that content
 * counts, and no other. Two honest hosts that built a path which does not build the same way twice contradict each other
 * too, and get a clean miss for each other's copy; their own copies are not concerned. A member that lies can so keep an
 * unsigned path from travelling, which `why-not` shows with its name, but cannot put its own in the place.
 */
export function contradiction(
  holding: Holding,
  claims: readonly Claim[],
  trust: Trust,
): string | undefined {
  // Content, size and references: what a signature would cover.
  const content = fingerprint(holding.info)
  const others = claims.filter(claim => fingerprint(claim.holding.info) !== content)
  if (others.length === 0) return undefined
  const same = claims.filter(claim => !others.includes(claim))
  if (same.some(claim => isProven(claim, trust))) return undefined
  const proven = others.filter(claim => isProven(claim, trust))
  if (proven.length > 0) {
    return `its content is not the one that ${list(proven.map(({ name }) => name))} can prove`
  }
  return `members disagree on its content, and nobody has a proof: ${list(same.map(({ name }) => name))} against ${list(others.map(({ name }) => name))}`
}
