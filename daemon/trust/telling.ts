import {
  fingerprint,
  isSignature,
  parseSignature,
  verifyText,
  type Keyring,
} from '../../protocol/signature.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import { guessSource, judgeGiven } from './content-address.ts'
import type { Rules } from './rules.ts'
import type { Decision } from './trust.ts'

// What a host tells its peers of a holding, in its index. The same question as what it offers, but asked of every path it
// has: a full decision (a signature verified, one made, a row kept) costs 0.2 ms and 1 KB, minutes and a gigabyte for a
// million paths. So a signature under a trusted name is passed on unverified where no secret hangs on it: whoever reads
// an index verifies for itself, and a NAR is still only served after a decision.

/** What may be told to peers, `share.withPeers`. */
export type PeerSharing = 'all' | 'signed' | 'none'

/** What is told of a holding. */
export type Telling =
  | { readonly told: false }
  | {
      readonly told: true
      /** This host built it, signed it, or its operator vouches for it: its word, for those who trust members. */
      readonly vouched: boolean
      /** The content address, proven. */
      readonly ca?: string | undefined
      /** By keys that this host trusts, none of its own: peers know where it is from. */
      readonly signatures: readonly string[]
    }

const NOTHING: Telling = { told: false }

/** Signatures looked at for one path at most. */
const SIGNATURES_MAX = 16

const under = (keys: Keyring, signatures: readonly string[]): string[] =>
  signatures
    .filter(signature => isSignature(signature) && keys.has(parseSignature(signature).keyName))
    .slice(0, SIGNATURES_MAX)

/** What can be told without reading a NAR or asking twice; 'decide' where only a full decision says. Denied names are the caller's. */
export function judgeTelling(
  holder: Holder,
  holding: Holding,
  rules: Rules,
  sharing: PeerSharing,
): Telling | 'decide' {
  const { info } = holding
  if (sharing === 'none' || info.narHash.algorithm !== 'sha256') return NOTHING
  const given = judgeGiven(holder, holding, rules.storeDir)
  const ca =
    typeof given === 'object' && given.proven ? given.ca : guessSource(holding, rules.storeDir)
  let text: string | undefined
  const verified = (keys: Keyring) => (signature: string) =>
    verifyText((text ??= fingerprint(info)), signature, keys) !== undefined
  const claimed = under(rules.keys, info.signatures)
  // "Signed only" keeps the names of private paths here, and a name could be lent by a made-up signature.
  const signatures = sharing === 'signed' ? claimed.filter(verified(rules.keys)) : claimed
  const vouched =
    holding.builtHere ||
    (rules.vouchForStore && holder.kind === 'nix-store') ||
    (signatures.length === 0 && under(rules.ownKeys, info.signatures).some(verified(rules.ownKeys)))
  const isPublic = signatures.length > 0 || ca !== undefined
  if (isPublic || (vouched && sharing === 'all')) return { told: true, vouched, ca, signatures }
  // Where content is not yet read, it may turn out to be addressed by it.
  return vouched && holding.builtHere ? NOTHING : 'decide'
}

/** What follows from a full decision. */
export function tellDecided(decision: Decision, rules: Rules, sharing: PeerSharing): Telling {
  if (!decision.offered || sharing === 'none' || (sharing === 'signed' && !decision.public)) {
    return NOTHING
  }
  const { reason, key, ca, signatures } = decision
  const own = rules.secret.name
  return {
    told: true,
    vouched:
      reason === 'built-here' || reason === 'vouched' || (reason === 'signed' && key === own),
    ca,
    signatures: signatures.filter(signature => parseSignature(signature).keyName !== own),
  }
}
