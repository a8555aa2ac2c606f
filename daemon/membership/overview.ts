import type { Problem, SiteMember } from '../../protocol/api.ts'
import { siteLabel, type Host } from './host.ts'

/** Members by name, then those that are none any more. */
export function listMembers({ roster, key: own }: Host): SiteMember[] {
  const { site } = roster
  if (site === undefined) return []
  const { members, revoked, orphaned } = site.view
  const former =
    (state: SiteMember['state']) => (one: { key: string; name?: string | undefined }) => ({
      name: one.name ?? '',
      key: one.key,
      admin: false,
      state,
      self: one.key === own,
    })
  const byName = (a: SiteMember, b: SiteMember) =>
    a.name < b.name ? -1 : a.name > b.name ? 1 : a.key < b.key ? -1 : 1
  return [
    [...members.values()].map(({ key, name, admin, nixKey }): SiteMember => {
      const rest = nixKey === undefined ? {} : { nixKey }
      return { name, key, admin, state: 'member', self: key === own, ...rest }
    }),
    [...orphaned.values()].map(former('orphaned')),
    [...revoked.values()].map(former('revoked')),
  ].flatMap(group => group.sort(byName))
}

/** What a person should know of the host and its site. */
export function standingProblems({ roster, key, keyPair }: Host, twin: boolean): Problem[] {
  const problems: Problem[] = []
  if (twin) {
    problems.push({
      what: `another machine uses this host’s key ${keyPair.publicKey.toString('hex')}`,
      hint: 'a state directory was copied: give one of the two a new one, and join again there',
    })
  }
  const { site } = roster
  if (site === undefined || site.view.members.has(key)) return problems
  const revoked = site.view.revoked.has(key)
  problems.push({
    what: `this host ${revoked ? 'was revoked in' : 'is no member of'} the site ${siteLabel(site)}`,
    hint: revoked
      ? 'an admin makes a code with narwharf invite; then here: narwharf join CODE --leave'
      : 'an admin makes a code with narwharf invite; then here: narwharf join CODE',
  })
  return problems
}
