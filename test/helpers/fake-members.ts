import NoiseSecretStream from '@hyperswarm/secret-stream'
import type { Members, PeerKey } from '../../daemon/site.ts'

/** A membership in memory, which knows who belongs to a site by a set that several may share. */
export interface FakeMembers extends Members {
  readonly site: Set<PeerKey>
  /** Takes a host off this one's list only. */
  revoke(key: PeerKey): void
}

/** A new host, put into the site. */
export function fakeMembers(site: Set<PeerKey>, name: string): FakeMembers {
  const keyPair = NoiseSecretStream.keyPair()
  const key = keyPair.publicKey.toString('hex') as PeerKey
  const revoked = new Set<PeerKey>()
  site.add(key)
  return {
    site,
    key,
    keyPair,
    siteName: 'test',
    isMember: other => site.has(other) && !revoked.has(other),
    nameOf: other => (other === key ? name : undefined),
    list: () => undefined,
    offer: () => 'same',
    revoke: other => void revoked.add(other),
  }
}
