import { createHash } from 'node:crypto'
import type { HashPart } from '../../protocol/store-path.ts'
import type { PeerKey } from '../site.ts'

/**
 * Which of these hosts fetches a path from an upstream for the whole site: the one whose key and the hash part together
 * have the highest digest (rendezvous hashing). All hosts that see the same members agree without a word, the paths
 * spread evenly, and a host that comes or goes moves only the paths that are its own. Undefined without members.
 */
export function fetcherOf(hashPart: HashPart, members: Iterable<PeerKey>): PeerKey | undefined {
  let best: PeerKey | undefined
  let bestDigest = ''
  for (const member of members) {
    const digest = createHash('sha256').update(`${hashPart}\n${member}`).digest('hex')
    if (best === undefined || digest > bestDigest) {
      best = member
      bestDigest = digest
    }
  }
  return best
}
