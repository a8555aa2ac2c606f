import type { PeerStatus, SiteMember } from '../../protocol/api.ts'

/** The other hosts of a site by name: those that gossip knows something of, and the members that were never met. */
export function listPeers(
  known: readonly PeerStatus[],
  members: readonly SiteMember[],
): PeerStatus[] {
  const keys = new Set(known.map(({ key }) => key))
  const unmet = members
    .filter(({ key, self, state }) => state === 'member' && !self && !keys.has(key))
    .map(({ key, name }) => ({ name, key, up: false, paths: 0, narBytes: 0, lag: 0 }))
  return [...known, ...unmet].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
}
