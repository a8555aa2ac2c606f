import { z } from 'zod'
import type { DriveStatus } from '../../protocol/api-drives.ts'
import type { DriveRow, DriveRows } from '../catalog/drives.ts'
import type { Drive } from './drive.ts'

// What this host knows of drives, those in a drawer included: one entry each, written down when a drive comes and goes.

/** Longest name: a file system's label has at most 255 bytes (btrfs). */
const NAME_MAX_CHARACTERS = 100

const shipment = z.object({
  id: z.string(),
  name: z.string(),
  depot: z.string(),
  part: z.number(),
  parts: z.number(),
  createdAt: z.string(),
  signedBy: z.string().optional(),
})

const value = z.object({
  label: z.string().optional(),
  fsType: z.string(),
  mountPoint: z.string(),
  dir: z.string(),
  readOnly: z.boolean(),
  adopted: z.boolean(),
  cache: z.boolean(),
  archives: z.array(z.string()),
  shipment: shipment.optional(),
})

type Value = z.output<typeof value>

/** What is kept of one drive. */
export interface BookEntry extends Value {
  readonly id: string
  readonly name: string
  /** Ms since 1970. */
  readonly firstSeen: number
  readonly lastSeen: number
}

/** What is counted in the catalog. */
export interface DriveCounts {
  readonly paths?: number | undefined
  readonly narBytes?: number | undefined
}

/** The book of drives. */
export interface DriveBook {
  /** Reads what was written down before. */
  open(): void
  get(id: string): BookEntry | undefined
  all(): readonly BookEntry[]
  /** The name a drive is told by: the one it has, or one that no other has. */
  nameOf(id: string, wish: string): string
  /** Writes down that a drive was seen, as it is. One with nothing on it is known only while it is there. */
  seen(drive: Drive): void
  went(drive: Drive): void
}

const entryOf = (row: DriveRow): BookEntry | undefined => {
  try {
    const { id, name, firstSeen, lastSeen } = row
    return { ...value.parse(JSON.parse(row.value)), id, name, firstSeen, lastSeen }
  } catch {
    // Of another version: it is written anew when the drive comes again.
    return undefined
  }
}

const shipmentOf = ({ contents }: Drive): Value['shipment'] => {
  const { manifest, signedBy } = contents.shipment ?? {}
  if (manifest === undefined) return undefined
  const { id, name, depot, part, parts, createdAt } = manifest
  return { ...{ id, name, depot, part, parts, createdAt }, ...(signedBy && { signedBy }) }
}

/** Whether there is nothing on it that anybody would look for later. */
const isBlank = ({ contents: { cache, shipment, archives } }: Drive): boolean =>
  !cache && shipment === undefined && archives.length === 0

/** The book over the rows of the catalog. `now` gives ms since 1970. */
export function createDriveBook(rows: DriveRows, now: () => number): DriveBook {
  const entries = new Map<string, BookEntry>()

  const seen = (drive: Drive): void => {
    const { id, name, label, fsType, mountPoint, dir, readOnly, adopted, contents } = drive
    const kept: Value = {
      ...{ label, fsType, mountPoint, dir, readOnly, adopted },
      cache: contents.cache,
      archives: [...contents.archives],
      shipment: shipmentOf(drive),
    }
    const lastSeen = now()
    const firstSeen = entries.get(id)?.firstSeen ?? lastSeen
    entries.set(id, { ...kept, id, name, firstSeen, lastSeen })
    if (isBlank(drive)) return
    void rows.put({ id, name, firstSeen, lastSeen, value: JSON.stringify(kept) })
  }

  return {
    seen,
    went(drive) {
      if (isBlank(drive)) entries.delete(drive.id)
      else seen(drive)
    },
    open() {
      for (const row of rows.list()) {
        const entry = entryOf(row)
        if (entry !== undefined) entries.set(entry.id, entry)
      }
    },
    get: id => entries.get(id),
    all: () => [...entries.values()],
    nameOf(id, wish) {
      const known = entries.get(id)?.name
      if (known !== undefined) return known
      const taken = new Set([...entries.values()].map(({ name }) => name))
      const base = wish.slice(0, NAME_MAX_CHARACTERS)
      if (!taken.has(base)) return base
      for (let n = 2; ; n++) if (!taken.has(`${base}-${n}`)) return `${base}-${n}`
    },
  }
}

function problemsOf({ problems, holder }: Drive): string[] {
  const down = holder?.problem?.()
  return down === undefined ? [...problems] : [...problems, `its cache is not used: ${down}`]
}

/** An entry as it is told. */
export function statusOf(
  entry: BookEntry,
  plugged: Drive | undefined,
  host: string,
  counts: DriveCounts,
  now: number,
): DriveStatus {
  const { label, shipment: told, firstSeen, lastSeen, archives, ...rest } = entry
  const { paths, narBytes } = counts
  return {
    ...rest,
    archives,
    ...(label === undefined ? {} : { label }),
    ...(told === undefined ? {} : { shipment: told as NonNullable<DriveStatus['shipment']> }),
    plugged: plugged !== undefined,
    ...(paths === undefined ? {} : { paths }),
    ...(narBytes === undefined ? {} : { narBytes }),
    firstSeen: new Date(firstSeen).toISOString(),
    lastSeen: new Date(plugged === undefined ? lastSeen : now).toISOString(),
    host,
    problems: plugged === undefined ? [] : problemsOf(plugged),
  }
}
