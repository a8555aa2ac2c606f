import { keyPairFromSeed, SEED_BYTES } from '../../protocol/ed25519.ts'
import { fail } from '../../protocol/errors.ts'
import {
  isMemberName,
  lastLineOf,
  newMemberList,
  withLines,
  type MemberList,
  type Statement,
} from '../../protocol/member-list.ts'
import {
  membershipOf,
  nextRevision,
  type FormerMember,
  type Member,
  type Membership,
} from '../../protocol/membership.ts'
import { formatRecovery, parseRecovery } from '../../protocol/recovery.ts'
import { newKeyPair } from './host-key.ts'
import {
  forgetSite,
  freeName,
  refuseRevokedKey,
  siteKeyNeeded,
  siteLabel,
  siteOfHost,
  siteToManage,
  writeSiteKey,
  type Host,
} from './host.ts'
import { signAll } from './roster.ts'

// What an admin does on its own host: make a site, bring its key back, promote, revoke.

/** What the site key says of the host that holds it. */
const adminLines = (host: Host, view: Membership): Statement[] => [
  { kind: 'admin', key: host.key },
  {
    kind: 'admit',
    key: host.key,
    revision: nextRevision(view, host.key),
    name: freeName(view.members, host.name, host.key),
    nixKey: host.nixKey,
  },
]

const emptyList = (siteKey: string): MemberList => newMemberList(siteKey, [])

/** Makes a site of which this host is the first member and admin; the four lines are its key. Throws SITE_TAKEN, MEMBER_NAME_INVALID. */
export function initSite(host: Host, name: string): string[] {
  const { site } = host.roster
  if (site !== undefined) fail('SITE_TAKEN', { site: siteLabel(site) })
  if (!isMemberName(name)) fail('MEMBER_NAME_INVALID', { name })
  const pair = newKeyPair()
  const list = emptyList(pair.publicKey.toString('hex'))
  const statements: Statement[] = [
    { kind: 'site', revision: 1, name },
    ...adminLines(host, membershipOf(list)),
  ]
  // The key first: a list without it would be a site that nobody can bring back.
  writeSiteKey(host, pair)
  host.roster.set(withLines(list, signAll(list, statements, pair)))
  return formatRecovery(pair.secretKey.subarray(0, SEED_BYTES))
}

/** The four lines to write down. Throws SITE_NONE, SITE_KEY_ABSENT. */
export const recoveryOf = (host: Host): string[] =>
  formatRecovery(siteKeyNeeded(host, siteOfHost(host)).secretKey.subarray(0, SEED_BYTES))

/**
 * Brings the written-down key to this host, which becomes an admin by it: of the site it belongs to, or of the one it then
 * looks for with nothing but this key. Throws RECOVERY_INVALID, SITE_KEY_FOREIGN, HOST_KEY_REVOKED, HOST_KEY_RENEWED.
 */
export function recoverSite(host: Host, text: string, leave: boolean): void {
  const pair = keyPairFromSeed(parseRecovery(text))
  const siteKey = pair.publicKey.toString('hex')
  const { site } = host.roster
  const isForeign = site !== undefined && site.list.siteKey !== siteKey
  if (isForeign && !leave) fail('SITE_KEY_FOREIGN', { site: siteLabel(site) })
  const list = site === undefined || isForeign ? emptyList(siteKey) : site.list
  const view = membershipOf(list)
  if (view.revoked.has(host.key)) refuseRevokedKey(host, leave)
  if (isForeign) forgetSite(host)
  writeSiteKey(host, pair)
  const statements = view.members.get(host.key)?.admin === true ? [] : adminLines(host, view)
  host.roster.set(withLines(list, signAll(list, statements, pair)))
}

type Known = Member | FormerMember

/** A key, or as much of its beginning as a table shows. */
const KEY_PREFIX = /^[0-9a-f]{8,64}$/

/** Whom a name or key means. Throws MEMBER_UNKNOWN, MEMBER_AMBIGUOUS. */
function findHost(among: readonly ReadonlyMap<string, Known>[], who: string): Known {
  const all = among.flatMap(map => [...map.values()])
  const byKey = KEY_PREFIX.test(who)
  const found = all.filter(({ key, name }) => name === who || (byKey && key.startsWith(who)))
  if (found.length > 1) fail('MEMBER_AMBIGUOUS', { name: who, count: found.length })
  return found[0] ?? fail('MEMBER_UNKNOWN', { name: who })
}

/** Makes a member an admin; one that is one already stays it. Throws SITE_NOT_ADMIN, MEMBER_UNKNOWN, MEMBER_AMBIGUOUS. */
export function promoteMember(host: Host, who: string): string {
  const { list, view } = siteToManage(host)
  const { key, name = key } = findHost([view.members], who)
  if (view.members.get(key)?.admin !== true) {
    host.roster.set(withLines(list, signAll(list, [{ kind: 'admin', key }], host.keyPair)))
  }
  return name
}

/** What a revocation came to. */
export interface Revoked {
  readonly name: string
  readonly key: string
  /** Hosts that were members, or admins, only by the revoked one's word and were signed anew. */
  readonly kept: readonly string[]
  /** Hosts that the revoked one had revoked, and that are members again (with `entirely`). */
  readonly back: readonly string[]
}

/**
 * Revokes a host for good. `entirely`, with the site key: whatever it signed is void, also whom it revoked. Throws
 * SITE_NOT_ADMIN, MEMBER_UNKNOWN, MEMBER_AMBIGUOUS, MEMBER_SELF, SITE_KEY_ABSENT.
 */
export function revokeMember(host: Host, who: string, entirely: boolean): Revoked {
  const site = entirely ? siteOfHost(host) : siteToManage(host)
  const { list, view } = site
  const { key, name = key } = findHost(
    entirely ? [view.members, view.orphaned, view.revoked] : [view.members, view.orphaned],
    who,
  )
  if (key === host.key) fail('MEMBER_SELF')
  const signer = entirely ? siteKeyNeeded(host, site) : host.keyPair
  const last = entirely ? undefined : lastLineOf(list, key)
  const others = [...view.members.values()].filter(member => member.key !== key)

  const revocation = signAll(list, [{ kind: 'revoke', key, last }], signer)
  const bare = membershipOf(withLines(list, revocation)).members
  const demoted = others.filter(({ key: other, admin }) => admin && bare.get(other)?.admin !== true)
  // With the revocation in one list, or lines of admins whom only the revoked one had made would be dropped.
  const grants = demoted.map(({ key: other }): Statement => ({ kind: 'admin', key: other }))
  const all = signAll(list, [{ kind: 'revoke', key, last }, ...grants], signer)
  const managed = withLines(list, all)
  const after = membershipOf(managed)
  const lost = others.filter(({ key: other }) => !after.members.has(other))
  const admissions = lost.map(({ key: other, name: called, nixKey }): Statement => ({
    kind: 'admit',
    key: other,
    revision: nextRevision(after, other),
    name: called,
    nixKey,
  }))
  host.roster.set(withLines(managed, signAll(managed, admissions, signer)))
  const back = [...after.members.values()].filter(member => view.revoked.has(member.key))
  return {
    name,
    key,
    kept: [...new Set([...demoted, ...lost].map(member => member.name))].sort(),
    back: back.map(member => member.name).sort(),
  }
}
