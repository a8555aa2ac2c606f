import type { FetchEvent } from '../protocol/api.ts'
import { keyring, parsePublicKey } from '../protocol/signature.ts'
import { parseStorePath, type StorePath } from '../protocol/store-path.ts'
import type { Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import type { Drives } from './drives/drive.ts'
import type { HolderList } from './holders/holder-list.ts'
import type { IntakeThreads } from './holders/intake-start.ts'
import type { Downloads } from './holders/upstream-downloads.ts'
import type { Inventory } from './inventory/inventory.ts'
import type { Jobs } from './jobs/jobs.ts'
import { createShipping } from './shipments/shipping.ts'
import type { Substitution } from './substitution/substitution.ts'
import type { TrustRoom } from './trust/trust-room.ts'
import type { NarPool } from './workers/nar-pool.ts'

// Packing and checking of shipments, put together: the part of main that a host without drives could do without.

/** What they stand on. */
export interface ShipmentParts {
  readonly config: Config
  readonly catalog: Catalog
  readonly pool: NarPool
  readonly trust: TrustRoom
  readonly holders: HolderList
  readonly substitution: Substitution
  readonly inventory: Pick<Inventory, 'whoHas'>
  readonly jobs: Jobs
  readonly drives: Drives
  readonly downloads: Downloads
  readonly fetch: (paths: readonly StorePath[], signal?: AbortSignal) => AsyncIterable<FetchEvent>
  /** Keys whose manifests are believed. */
  readonly keys: () => readonly string[]
  readonly threads: IntakeThreads
}

/** Puts `ship` and `verify` together, for the API. */
export function openShipping(parts: ShipmentParts) {
  const { config, catalog, holders, inventory, jobs, keys } = parts
  const storeDir = config.store.dir
  const shipping = createShipping({
    ...parts,
    ...{ storeDir, hostName: config.hostName, cacheDir: config.cache.dir },
    verifications: catalog.verifications,
    forbidden: [
      ...[config.cache.dir, ...config.cache.extraDirs, config.stateDir],
      ...(config.store.enable ? [`${config.store.root.replace(/\/$/, '')}${storeDir}`] : []),
    ],
    holders: () => holders.current(),
    keys: () => keyring(keys().map(parsePublicKey)),
    async search(pattern) {
      const { matches } = await inventory.whoHas(pattern)
      return matches.map(({ storePath }) => parseStorePath(storePath, storeDir))
    },
  })
  return { ...shipping, jobs }
}
