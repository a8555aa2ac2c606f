import { setTimeout as wait } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Problem } from '../protocol/api.ts'
import type { Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { createDrives, type DrivesRoom } from './drives/drives.ts'
import type { EventBus } from './events.ts'
import type { HolderList } from './holders/holder-list.ts'
import type { NarPool } from './workers/nar-pool.ts'

// The rooms of drives in the order they are opened: the part of main that a host without a socket could do without.

/** What they stand on. */
export interface DriveParts {
  readonly config: Config
  readonly events: EventBus
  readonly log: Logger
  readonly catalog: Catalog
  readonly pool: NarPool
  /** The holders of this host, to which those of drives are added while they are plugged. */
  readonly holders: HolderList
  /** Keys whose manifests are believed. */
  readonly keys: () => readonly string[]
  /** Notes what is to be closed, in reverse. */
  readonly push: (room: string, close: () => unknown) => void
}

/** Drives as the rest of main sees them. */
export interface DriveRooms {
  readonly drives: DrivesRoom
  problems(): readonly Problem[]
}

/**
 * How long a start waits for the drives that are there already, ms: what is told to the peers of a drive would else be taken
 * back and told again.
 */
const FIRST_LOOK_MS = 2000

/** Opens them. */
export async function openDriveRooms(parts: DriveParts): Promise<DriveRooms> {
  const { config, events, log, catalog, push } = parts
  const drives = createDrives({
    ...config.drives,
    ...{ stateDir: config.stateDir, hostName: config.hostName, storeDir: config.store.dir },
    own: [config.cache.dir, ...config.cache.extraDirs],
    ...{ events, pool: parts.pool, holders: parts.holders, rows: catalog.drives, keys: parts.keys },
    counts: holderId => catalog.holders.list().find(({ id }) => id === holderId) ?? {},
  })
  const told = (id: string) => drives.list().find(drive => drive.id === id)?.name ?? id
  events.on('drive:plugged', id => log.info({ drive: id }, `drive ${told(id)} is plugged`))
  events.on('drive:gone', (id, problem) =>
    log.info(
      { drive: id },
      `drive ${told(id)} is gone${problem === undefined ? '' : `: ${problem}`}`,
    ),
  )
  await drives.open()
  push('the drives', () => drives.close())
  await Promise.race([drives.idle(), wait(FIRST_LOOK_MS, undefined, { ref: false })])
  return { drives, problems: () => drives.problems() }
}
