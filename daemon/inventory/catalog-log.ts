import type { Indexes } from '../catalog/indexes.ts'
import type { PeerKey } from '../site.ts'
import type { OwnLog } from './own-index.ts'

/** What this host's own log says, as the catalog has it: gossip applies every change there before its append resolves. */
export function createCatalogLog(
  indexes: Pick<Indexes, 'told' | 'positionsOf' | 'whole'>,
  key: PeerKey,
): OwnLog {
  return {
    has: path => indexes.positionsOf(key, [path])[0] !== undefined,
    find: path => indexes.told(key, path),
    whole: () => indexes.whole(key),
  }
}
