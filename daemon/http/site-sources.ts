import type { Membership } from '../membership/membership.ts'
import type { PairingTransport } from '../membership/pairing-transport.ts'
import type { PeerAddress, PeerCandidate, PeerKey } from '../site.ts'
import { parseInvite } from '../../protocol/invite.ts'
import type { SiteSources } from './api-site.ts'

/** What else a host knows when it joins. */
export interface SiteSurroundings {
  readonly membership: Membership
  /** How bytes reach a host that does not know this one yet. */
  readonly transport: PairingTransport
  /** Hosts that discovery sees now. */
  readonly candidates: () => readonly PeerCandidate[]
}

/** Membership as the control API asks for it. */
export function siteSources({ membership, transport, candidates }: SiteSurroundings): SiteSources {
  const site = () => membership.siteName ?? ''
  const named = (code: string, addresses: readonly PeerAddress[]): PeerCandidate[] => {
    if (addresses.length === 0) return []
    const key = parseInvite(code).inviter as PeerKey
    return addresses.map(address => ({ key, address, source: 'static' }))
  }
  return {
    members: () => ({ state: membership.state(), members: membership.members() }),
    init: name => ({ lines: membership.init(name), site: site() }),
    recovery: () => ({ lines: membership.recovery(), site: site() }),
    forgetSiteKey: () => membership.forgetSiteKey(),
    recover: (text, options) => membership.recover(text, options),
    invite: wish => ({ ...membership.invite(wish), site: site() }),
    promote: who => membership.promote(who),
    revoke: (who, options) => membership.revoke(who, options),
    join: (code, { leave, addresses }) =>
      membership.join(code, transport, [...named(code, addresses), ...candidates()], { leave }),
  }
}
