import type { IntakeThreads } from './holders/intake-start.ts'
import type { CacheDirWriter } from './holders/cache-dir-writer.ts'
import type { HolderList } from './holders/holder-list.ts'
import type { Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import type { Drives } from './drives/drive.ts'
import type { EventBus } from './events.ts'
import type { Jobs } from './jobs/jobs.ts'
import { createMerges, type Merges, type MergesOptions } from './shipments/merge.ts'
import type { Substitution } from './substitution/substitution.ts'
import type { TrustRoom } from './trust/trust-room.ts'

// Merging, put together: the part of main that a host without drives could do without.

/** What it stands on. */
export interface MergeRoomParts extends Pick<
  MergesOptions,
  'siteName' | 'share' | 'wanted' | 'wantsMissing' | 'travel'
> {
  readonly config: Config
  readonly events: EventBus
  readonly catalog: Pick<Catalog, 'indexes'>
  readonly trust: TrustRoom
  readonly holders: HolderList
  readonly substitution: Substitution
  readonly jobs: Jobs
  /** What copies. */
  readonly threads: IntakeThreads
  readonly drives: Drives
  readonly writer: CacheDirWriter
  readonly push: (room: string, close: () => unknown) => void
}

/** Opens it; what is plugged already, and what was interrupted, begins. */
export async function openMerging(parts: MergeRoomParts): Promise<Merges> {
  const { config, catalog, holders } = parts
  const merges = createMerges({
    ...parts,
    ...{ storeDir: config.store.dir, hostName: config.hostName },
    cache: { dir: config.cache.dir, maxSize: config.cache.maxSize },
    keeper: config.cache.keepShipments,
    policy: config.drives.merge,
    async siteHas(hashPart, butHolder) {
      if (catalog.indexes.find(hashPart).length > 0) return true
      for (const holder of holders.current()) {
        if (holder.id === butHolder) continue
        // One that is out of reach has nothing now.
        const held = await Promise.resolve()
          .then(() => holder.find(hashPart))
          .catch(() => undefined)
        if (held !== undefined) return true
      }
      return false
    },
  })
  await merges.open()
  parts.push('merging', () => merges.close())
  return merges
}
