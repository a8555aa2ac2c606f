import { fingerprint, isSignature, signText, verifyText } from '../../protocol/signature.ts'
import { parseSignature, type Keyring, type SecretKey } from '../../protocol/signature.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import { guessSource, judgeGiven, searchAddress } from './content-address.ts'
import type { ContentReader } from './content-digest.ts'
import type { Decision } from './trust.ts'

/** Signatures verified for one path at most, 0.1 ms each: a hostile narinfo may bring a hundred under a trusted name. */
const VERIFIED_MAX = 16

/** Key names told of a refused path. */
const TOLD_KEYS_MAX = 10

/** What decides besides the holding. */
export interface Rules {
  /** The configured public keys. */
  readonly keys: Keyring
  /** This host's own. */
  readonly ownKeys: Keyring
  readonly secret: SecretKey
  /** Whether the operator vouches for the whole live store. */
  readonly vouchForStore: boolean
  /** Whether a peer's word for what it built is enough. */
  readonly trustMembers: boolean
  /** A content address must lead to a path below this one. */
  readonly storeDir: string
  readonly reader: ContentReader
}

/** A decision, and whether asking again later may find another. */
export interface Outcome {
  readonly decision: Decision
  readonly passing: boolean
}

interface Signers {
  /** By configured keys: signatures, and the name of the first. */
  readonly good: readonly string[]
  readonly key?: string | undefined
  readonly own: boolean
  readonly untrustedKeys: readonly string[]
}

function checkSignatures(info: PathInfo, text: string, { keys, ownKeys }: Rules): Signers {
  const good: string[] = []
  const untrusted = new Set<string>()
  let key: string | undefined
  let own = false
  let verified = 0
  for (const signature of info.signatures) {
    if (!isSignature(signature)) continue
    const { keyName } = parseSignature(signature)
    const known = keys.has(keyName) || ownKeys.has(keyName)
    if (known && verified++ < VERIFIED_MAX) {
      if (verifyText(text, signature, keys) !== undefined) {
        if (!good.includes(signature)) good.push(signature)
        key ??= keyName
        continue
      }
      if (verifyText(text, signature, ownKeys) !== undefined) {
        own = true
        continue
      }
    }
    if (untrusted.size < TOLD_KEYS_MAX) untrusted.add(keyName)
  }
  return { good, key, own, untrustedKeys: [...untrusted] }
}

/**
 * Decides by the first rule that fits: a signature by a trusted key, a content address that is proven, built here (or, by
 * its word, on the peer that has it), vouched for. At once unless content must be read for a proof. Denied names are the caller's to refuse.
 */
export function applyRules(
  holder: Holder,
  holding: Holding,
  rules: Rules,
): Outcome | Promise<Outcome> {
  const { info } = holding
  // Nothing but sha256 says what the bytes are: without it neither signature nor address means anything.
  if (info.narHash.algorithm !== 'sha256') {
    return {
      decision: { offered: false, reason: 'no-trusted-signature', untrustedKeys: [] },
      passing: false,
    }
  }
  const text = fingerprint(info)
  const signers = checkSignatures(info, text, rules)
  const given = judgeGiven(holder, holding, rules.storeDir)
  const ownKey = rules.secret.name
  const offer = (
    reason: Extract<Decision, { offered: true }>['reason'],
    facts: { readonly public: boolean; readonly ca?: string | undefined; readonly key?: string },
  ): Decision => ({
    offered: true,
    reason,
    ...facts,
    signatures: [...new Set([...signers.good, signText(text, rules.secret)])],
  })
  const settled = (decision: Decision): Outcome => ({ decision, passing: false })

  if (signers.key !== undefined) {
    // The signature covers the NAR hash, so an address that leads to the path needs no reading.
    const ca = typeof given === 'object' ? given.ca : guessSource(holding, rules.storeDir)
    return settled(offer('signed', { key: signers.key, public: true, ca }))
  }
  const ca =
    typeof given === 'object' && given.proven ? given.ca : guessSource(holding, rules.storeDir)
  if (signers.own) {
    return settled(offer('signed', { key: ownKey, public: ca !== undefined, ca }))
  }
  if (ca !== undefined) return settled(offer('content-addressed', { public: true, ca }))
  if (holder.kind === 'peer' || holder.kind === 'upstream') {
    // Nothing more is looked for: a proof would have to be read over the network, and this is on the way of narinfos.
    const isMembersWord = holder.kind === 'peer' && holding.builtHere && rules.trustMembers
    if (isMembersWord) return settled(offer('member', { public: false }))
    const { untrustedKeys } = signers
    return settled({ offered: false, reason: 'no-trusted-signature', untrustedKeys })
  }
  if (holding.builtHere) return settled(offer('built-here', { public: false }))

  const withoutAddress = (): Decision => {
    if (rules.vouchForStore && holder.kind === 'nix-store') {
      return offer('vouched', { public: false })
    }
    const { untrustedKeys } = signers
    const reason = given === 'absent' ? 'no-trusted-signature' : 'ca-mismatch'
    return { offered: false, reason, untrustedKeys }
  }
  return searchAddress(rules.reader, holder, holding, given, rules.storeDir).then(
    search =>
      search.ca !== undefined
        ? settled(offer('content-addressed', { public: true, ca: search.ca }))
        : { decision: withoutAddress(), passing: !search.final },
    // It could not be read now: that is no proof of anything, so it is asked again.
    () => ({ decision: withoutAddress(), passing: true }),
  )
}
