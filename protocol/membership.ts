// What the lines of a member list come to: who belongs to the site, who may admit, who is out for good.
//
//  1. An admin is whom the site key, or an admin, made one. A line of anybody else does not stand in a list.
//  2. A revocation by anybody who was ever made an admin counts, for good, also one by an admin who was revoked meanwhile on
//     another island: a lost revocation would go unseen, a wrong one is loud. Nobody takes one back; a host that is to come
//     again needs a new key.
//  3. A revocation names the last line of the revoked that still counts. Whom a revoked admin admitted or promoted before
//     stays; what it signs afterwards does not count, or it would come back by a second key. Where several revoked it, all of
//     them must have known the line.
//  4. A revocation by the site key makes everything void that the key ever signed, its revocations too: the remedy when a
//     dismissed admin strikes at others, or fills the list. Void lines are dropped from the list (member-list.ts).
import { fail } from './errors.ts'
import {
  adminsBy,
  chainOf,
  linesById,
  newMemberList,
  REVISION_MAX,
  SITE_AUTHOR,
  type Line,
  type MemberList,
  type Statement,
} from './member-list.ts'

/** A host of the site. */
export interface Member {
  readonly key: string
  readonly name: string
  readonly revision: number
  /** `name:base64`: what it signs store paths with. */
  readonly nixKey?: string | undefined
  /** It may admit and revoke. */
  readonly admin: boolean
}

/** A host that is no member, for the reason its list says. */
export interface FormerMember {
  readonly key: string
  /** Undefined where it was never admitted. */
  readonly name?: string | undefined
  readonly revision: number
}

/** What the lines of a list come to. */
export interface Membership {
  /** Undefined where only a restored site key has spoken yet. */
  readonly siteName: string | undefined
  readonly members: ReadonlyMap<string, Member>
  readonly revoked: ReadonlyMap<string, FormerMember>
  /** Admitted by an admin after its revocation, unknown to who revoked it: no members, until an admin invites them anew. */
  readonly orphaned: ReadonlyMap<string, FormerMember>
}

type Of<Kind extends Statement['kind']> = Extract<Statement, { readonly kind: Kind }>

/** The lines of one kind. */
const linesOf = <Kind extends Statement['kind']>(lines: readonly Line[], kind: Kind) =>
  lines.filter(
    (line): line is Line & { readonly statement: Of<Kind> } => line.statement.kind === kind,
  )

type Named = Line & { readonly statement: Of<'site'> | Of<'admit'> }

/** Of two names of one thing: the higher revision, then what sorts last; the same on every host. */
const isNewer = (line: Named, than: Named | undefined): boolean =>
  than === undefined ||
  line.statement.revision > than.statement.revision ||
  (line.statement.revision === than.statement.revision && line.text > than.text)

/** For each revoked key the ids of its lines that all who revoked it knew (rule 3). */
function keptLines(list: MemberList, lines: readonly Line[]): Map<string, ReadonlySet<string>> {
  const byId = linesById(list)
  const kept = new Map<string, ReadonlySet<string>>()
  for (const { statement } of linesOf(lines, 'revoke')) {
    const { key, last } = statement
    const known = chainOf(byId, last).filter(({ author }) => author === key)
    const ids = known.map(({ id }) => id)
    const before = kept.get(key)
    kept.set(key, new Set(before === undefined ? ids : ids.filter(id => before.has(id))))
  }
  return kept
}

type Admission = Line & { readonly statement: Of<'admit'> }

/** Which lines of a list are in force. */
interface Judgement {
  readonly lines: readonly Line[]
  /** Revoked keys with what still counts of theirs. */
  readonly kept: ReadonlyMap<string, ReadonlySet<string>>
  /** Whether it was signed before its author was revoked, or its author was not. */
  readonly counts: (line: Line) => boolean
  /** Who was an admin by lines that count, the nearest to the site key first. */
  readonly authors: ReadonlySet<string>
  readonly admissions: ReadonlyMap<string, Admission>
  /** Admissions that are not in force, of members too. */
  readonly lapsed: ReadonlyMap<string, Admission>
}

function judge(list: MemberList): Judgement {
  const lines = [...list.lines.values()]
  // Every author of a list was an admin once, so every revocation in it counts (rule 2).
  const kept = keptLines(list, lines)
  const counts = ({ author, id }: Line): boolean => kept.get(author)?.has(id) ?? true
  const authors = adminsBy(lines.filter(counts))
  const admissions = new Map<string, Admission>()
  const lapsed = new Map<string, Admission>()
  for (const line of linesOf(lines, 'admit')) {
    const { key } = line.statement
    const inForce = authors.has(line.author) && counts(line) && !kept.has(key)
    const map = inForce ? admissions : lapsed
    if (isNewer(line, map.get(key))) map.set(key, line)
  }
  return { lines, kept, counts, authors, admissions, lapsed }
}

/** Works out who belongs to the site: the same for the same lines, in whatever order they came. */
export function membershipOf(list: MemberList): Membership {
  const { lines, kept, authors, admissions, lapsed } = judge(list)
  let site: (Line & { readonly statement: Of<'site'> }) | undefined
  for (const line of linesOf(lines, 'site')) if (isNewer(line, site)) site = line
  const former = (key: string): FormerMember => {
    const statement = lapsed.get(key)?.statement
    return { key, name: statement?.name, revision: statement?.revision ?? 0 }
  }
  const orphans = [...lapsed.keys()].filter(key => !kept.has(key) && !admissions.has(key))
  return {
    siteName: site?.statement.name,
    members: new Map(
      [...admissions].map(([key, { statement }]) => {
        const { name, revision, nixKey } = statement
        return [key, { key, name, revision, nixKey, admin: authors.has(key) }]
      }),
    ),
    revoked: new Map([...kept.keys()].map(key => [key, former(key)])),
    orphaned: new Map(orphans.map(key => [key, former(key)])),
  }
}

/**
 * The few lines that make that host a member, to show to somebody who has not heard of it: its admission, and from grant to
 * grant up to the site key. Undefined where it is none.
 */
export function credentialsOf(list: MemberList, key: string): MemberList | undefined {
  const { lines, counts, authors, admissions } = judge(list)
  const admission = admissions.get(key)
  if (admission === undefined) return undefined
  const rank = new Map([...authors].map((author, at) => [author, at]))
  const rankOf = ({ author }: Line): number => rank.get(author) ?? Infinity
  const shown: Line[] = [admission]
  for (let { author } = admission; author !== SITE_AUTHOR;) {
    const grants = linesOf(lines, 'admin').filter(
      line => line.statement.key === author && counts(line),
    )
    // The grantor nearest to the site key comes before whom it granted, so this ends there.
    const grant = grants.reduce((best, line) => (rankOf(line) < rankOf(best) ? line : best))
    shown.push(grant)
    author = grant.author
  }
  return newMemberList(list.siteKey, shown)
}

/** The revision that a new name of that key needs to count. Throws MEMBER_LIST_INVALID past the last one. */
export function nextRevision({ members, orphaned }: Membership, key: string): number {
  const known = members.get(key)?.revision ?? orphaned.get(key)?.revision ?? 0
  if (known >= REVISION_MAX) fail('MEMBER_LIST_INVALID', { problem: 'too many names for one host' })
  return known + 1
}
