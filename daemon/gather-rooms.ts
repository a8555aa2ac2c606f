import type { CacheDirWriter } from './holders/cache-dir-writer.ts'
import type { Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import type { Drives } from './drives/drive.ts'
import type { EventBus } from './events.ts'
import type { Jobs } from './jobs/jobs.ts'
import { createGathering } from './shipments/gather.ts'
import type { Merges } from './shipments/merge.ts'
import { openCacheSpace } from './shipments/merge-space.ts'
import { bringAlone } from './substitution/fetch.ts'
import type { Substitution } from './substitution/substitution.ts'
import type { WantRooms } from './want-rooms.ts'

// Drives and keepers at different hosts, put together: a keeper brings what is plugged elsewhere; a host with the drive and no
// wish to keep writes the receipt once a keeper has it all.

/** What it stands on. */
export interface GatherRoomParts {
  readonly config: Config
  readonly events: EventBus
  readonly catalog: Pick<Catalog, 'indexes'>
  readonly substitution: Substitution
  readonly jobs: Jobs
  readonly drives: Drives
  readonly merges: Merges
  readonly wants: WantRooms
  readonly writer: CacheDirWriter
  readonly push: (room: string, close: () => unknown) => void
}

/** Opens it. */
export function openGathering(parts: GatherRoomParts): void {
  const { config, events, catalog, substitution, jobs, drives, merges, wants, writer } = parts
  if (config.drives.merge === 'none') return
  if (config.cache.keepShipments) {
    const { dir, maxSize } = config.cache
    const gathering = createGathering({
      ...{ jobs, events, wanted: wants.wanted, share: wants.shareFar, drives: wants.farDrives },
      async *told(host) {
        for await (const entries of catalog.indexes.entries(host)) {
          yield entries.map(({ storePath }) => storePath)
        }
      },
      isMerged: (shipment, part) => wants.isMerged(shipment, part, 'self'),
      has: hashPart => writer.has(hashPart),
      openSpace: () => openCacheSpace({ dir, maxSize }),
      bring: storePath =>
        bringAlone(
          { substitution, target: writer, isHeld: part => wants.siteHas(part) },
          storePath,
        ),
    })
    gathering.open()
    parts.push('gathering', () => gathering.close())
    return
  }

  /** Parts whose receipt was begun since they were plugged. */
  const written = new Set<string>()
  const look = (): void => {
    for (const { id, contents, readOnly } of drives.plugged()) {
      const { manifest, signedBy } = contents.shipment ?? {}
      if (manifest === undefined || signedBy === undefined || readOnly) continue
      const key = `${id} ${manifest.id}/${manifest.part}`
      if (written.has(key) || !wants.isMerged(manifest.id, manifest.part, 'anybody')) continue
      written.add(key)
      // All of it is kept elsewhere, so that nothing but the receipt comes of it.
      merges.merge({ drive: id }).catch(() => written.delete(key))
    }
  }
  const onGone = (id: string): void => {
    for (const key of written) if (key.startsWith(`${id} `)) written.delete(key)
  }
  events.on('note:changed', look)
  events.on('drive:plugged', look)
  events.on('drive:gone', onGone)
  look()
  parts.push('receipts', () => {
    events.off('note:changed', look)
    events.off('drive:plugged', look)
    events.off('drive:gone', onGone)
  })
}
