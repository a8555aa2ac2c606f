import { fail, problemOf } from '../../protocol/errors.ts'
import {
  checkProof,
  makeProof,
  parseInvite,
  siteFingerprint,
  type Invite,
} from '../../protocol/invite.ts'
import {
  formatMemberList,
  MEMBERS_MAX,
  parseMemberList,
  withLines,
} from '../../protocol/member-list.ts'
import { credentialsOf, membershipOf } from '../../protocol/membership.ts'
import {
  decodePairingReply,
  encodeJoinFacts,
  encodePairingRequest,
  type PairingReply,
} from '../../protocol/pairing.ts'
import type { PeerAddress, PeerCandidate, PeerKey } from '../site.ts'
import { forgetSite, refuseRevokedKey, siteLabel, type Host } from './host.ts'
import type { PairingTransport } from './pairing-transport.ts'

// The side that asks: with an invite, or as a member whom another member has not heard of yet.

const NOTHING = Buffer.alloc(0)

/** The request of a host that joins with that invite, for one connection. */
export function joinRequest(host: Host, { secret }: Invite, handshakeHash: Uint8Array): Buffer {
  const rest = encodeJoinFacts({ name: host.name, nixKey: host.nixKey })
  const proof = makeProof(secret, { handshakeHash, role: 'joiner', key: host.key, rest })
  return encodePairingRequest({ kind: 'join', proof, rest })
}

/**
 * Takes the inviter's answer: the host belongs to the site when this returns. Throws PAIRING_REFUSED, SITE_FULL,
 * HOST_KEY_REVOKED, HOST_KEY_RENEWED, and MEMBER_LIST_INVALID or PAIRING_INVALID for an inviter that sends something else.
 */
export function finishJoin(host: Host, invite: Invite, bytes: Uint8Array, leave: boolean): void {
  const { kind, rest } = decodePairingReply(bytes)
  if (kind === 'revoked') refuseRevokedKey(host, leave)
  if (kind === 'full') fail('SITE_FULL', { count: MEMBERS_MAX })
  if (kind !== 'welcome') fail('PAIRING_REFUSED')
  const list = parseMemberList(rest)
  if (siteFingerprint(list.siteKey) !== invite.site) {
    fail('MEMBER_LIST_INVALID', { problem: 'of another site than the code is for' })
  }
  if (!membershipOf(list).members.has(host.key)) fail('PAIRING_REFUSED')
  const { site } = host.roster
  if (site?.list.siteKey === list.siteKey) {
    host.roster.set(withLines(site.list, list.lines.values()))
  } else {
    host.roster.set(list)
    // After the new list is in force: a site key of another site than the list's is not used by anything.
    if (site !== undefined) forgetSite(host)
  }
}

/** Where the inviter may be: what discovery saw first, as it was seen alive. Each place once. */
function placesOf(
  { inviter, addresses }: Invite,
  candidates: readonly PeerCandidate[],
): PeerAddress[] {
  const seen = candidates.filter(({ key }) => key === inviter).map(({ address }) => address)
  const places = [...seen, ...addresses]
  return [...new Map(places.map(place => [`${place.host} ${place.port}`, place])).values()]
}

/**
 * Joins the site of a code. All places where the inviter may be are tried at once: it lets the same host in once, however many
 * of them reach it. Throws INVITE_INVALID, SITE_TAKEN, PAIRING_FAILED, and what {@link finishJoin} throws.
 */
export async function joinSite(
  host: Host,
  code: string,
  transport: PairingTransport,
  candidates: readonly PeerCandidate[],
  leave: boolean,
): Promise<void> {
  const invite = parseInvite(code)
  const { site } = host.roster
  if (site !== undefined) {
    const isSame = siteFingerprint(site.list.siteKey) === invite.site
    const comesBack = isSame && !site.view.members.has(host.key)
    if (!comesBack && !leave) fail('SITE_TAKEN', { site: siteLabel(site) })
    if (isSame && site.view.revoked.has(host.key)) refuseRevokedKey(host, leave)
  }
  const places = placesOf(invite, candidates)
  if (places.length === 0) fail('PAIRING_FAILED', { problem: 'nobody has said where it is' })
  const inviter = invite.inviter as PeerKey
  const tries = places.map(place =>
    transport.exchange(place, inviter, handshakeHash => joinRequest(host, invite, handshakeHash)),
  )
  let reply
  try {
    reply = await Promise.any(tries)
  } catch (error) {
    const { errors } = error as AggregateError
    const problems = places.map(({ host: at, port }, n) => `${at}:${port}: ${problemOf(errors[n])}`)
    return fail('PAIRING_FAILED', { problem: problems.join('; ') }, error)
  }
  finishJoin(host, invite, reply, leave)
}

/**
 * Makes this host known to one that is not a member as far as this host knows: they may have been admitted on islands that
 * did not hear one another. First both prove to know the site; then it is shown what makes this host a member, and answers
 * with its list. Resolves to whether it is a member now; rejects where it cannot be reached.
 */
export async function introduceTo(
  host: Host,
  { key, address }: Pick<PeerCandidate, 'key' | 'address'>,
  transport: PairingTransport,
): Promise<boolean> {
  const { site } = host.roster
  const credentials = site === undefined ? undefined : credentialsOf(site.list, host.key)
  if (site === undefined || credentials === undefined) return false
  const secret = Buffer.from(site.list.siteKey, 'hex')
  const ask = async (kind: 'greet' | 'introduce', rest: Buffer) => {
    let handshakeHash: Buffer = NOTHING
    const bytes = await transport.exchange(address, key, hash => {
      handshakeHash = hash
      const proof = makeProof(secret, { handshakeHash, role: 'greeter', key: host.key, rest })
      return encodePairingRequest({ kind, proof, rest })
    })
    return { handshakeHash, answer: decodePairingReply(bytes) }
  }
  const isFellow = (answer: PairingReply, handshakeHash: Buffer): boolean =>
    answer.kind === 'greeted' &&
    checkProof(secret, { handshakeHash, role: 'greeted', key }, answer.rest)

  const greeting = await ask('greet', NOTHING)
  if (!isFellow(greeting.answer, greeting.handshakeHash)) return false
  const { answer } = await ask('introduce', formatMemberList(credentials))
  if (answer.kind === 'welcome') host.roster.take(answer.rest)
  return host.roster.site?.view.members.has(key) === true
}
