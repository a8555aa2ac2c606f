import { basename, join } from 'node:path'
import { createDriveFiles, type DriveFiles } from '../holders/drive-files.ts'
import type { DriveHolder } from '../holders/drive.ts'
import type { Drive } from './drive.ts'
import type { DriveIdentity } from './identity.ts'
import type { Mount } from './mount-table.ts'
import { lookOver, recognise, type Found, type FoundPlace } from './recognise.ts'

// One file system (or adopted folder) that is there: what lies on it, looked at again when its names change.

export interface PlaceParts {
  readonly mount: Mount
  readonly adopted: boolean
  identify(files: DriveFiles): Promise<DriveIdentity>
  /** Public keys whose manifests are believed. */
  keys(): readonly string[]
  /** A folder that is used otherwise: no drive. */
  isTaken(dir: string): boolean
  /** No two places that are there have one id: a drive may have been copied bit by bit. */
  uniqueId(id: string): string
  nameOf(id: string, wish: string): string
  makeHolder(drive: Pick<Drive, 'id' | 'name' | 'dir' | 'contents'>): DriveHolder
  /** A drive is there, is another than it was, or is not there any more; `replaced`: it comes at once with something else on it. */
  onCame(drive: Drive): void
  onChanged(drive: Drive): void
  onWent(drive: Drive, problem: string | undefined, replaced: boolean): void
}

/** A file system that is there. */
export interface Place {
  readonly mount: Mount
  readonly adopted: boolean
  readonly drives: readonly Drive[]
  /** Looks whether anything changed, and recognises it then; never rejects. `anew`: without looking first. */
  look(anew?: boolean): Promise<void>
  /** Why it could not be recognised. */
  readonly problem: string | undefined
  /** It is gone, or to be used no more. */
  end(problem?: string): void
}

interface Held {
  readonly drive: Drive
  /** Equal while what lies there is the same. */
  readonly key: string
}

/** What makes another drive of it: what its holder was made with. */
const keyOf = ({ contents: { shipment, cache } }: FoundPlace): string =>
  JSON.stringify([cache, shipment?.manifest.id, shipment?.manifest.part, shipment?.signedBy])

const isEqual = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

/** Begins to look at a place. */
export function openPlace(parts: PlaceParts): Place {
  const { mount, adopted } = parts
  const files = createDriveFiles(`drive at ${mount.mountPoint}`, mount.mountPoint)
  const judged: Parameters<typeof recognise>[0]['judged'] = new Map()
  const held = new Map<string, Held>()
  let identity: DriveIdentity | undefined
  let seen: string | undefined
  let problem: string | undefined
  let ended = false
  let looking: Promise<void> | undefined

  const dirOf = (folder: string): string =>
    folder === '' ? mount.mountPoint : join(mount.mountPoint, folder)

  const driveOf = (place: FoundPlace, { id: base, label }: DriveIdentity): Drive => {
    const { folder, contents, problems } = place
    const id = folder === '' ? base : `${base}/${folder}`
    const last = basename(mount.mountPoint)
    const whole = label ?? contents.shipment?.manifest.name ?? last
    const name = parts.nameOf(id, folder === '' ? whole : `${whole}/${folder}`)
    const dir = dirOf(folder)
    return {
      ...{ id, name, label, dir, adopted, contents, problems },
      mountPoint: mount.mountPoint,
      fsType: mount.fsType,
      readOnly: mount.readOnly,
      holder: contents.cache ? parts.makeHolder({ id, name, dir, contents }) : undefined,
    }
  }

  const drop = (folder: string, why: string | undefined, replaced = false): void => {
    const drive = held.get(folder)?.drive
    held.delete(folder)
    if (drive !== undefined) parts.onWent(drive, why, replaced)
  }

  /** Takes note of what the holder found out since. */
  const watchHolder = async (folder: string, drive: Drive): Promise<void> => {
    await drive.holder?.ready()
    const why = drive.holder?.indexProblem
    const now = held.get(folder)
    if (why === undefined || now === undefined || now.drive.holder !== drive.holder) return
    const problems = [...now.drive.problems, `its index is not used: ${why}`]
    const next = { ...now.drive, problems }
    held.set(folder, { ...now, drive: next })
    parts.onChanged(next)
  }

  const take = async (place: FoundPlace, who: DriveIdentity): Promise<void> => {
    const { folder, contents, problems } = place
    const key = keyOf(place)
    const known = held.get(folder)
    if (known?.key === key) {
      const isSame =
        isEqual(known.drive.contents.archives, contents.archives) &&
        problems.every(one => known.drive.problems.includes(one))
      if (isSame) return
      const drive = { ...known.drive, contents, problems }
      held.set(folder, { key, drive })
      return parts.onChanged(drive)
    }
    drop(folder, undefined, true)
    const drive = driveOf(place, who)
    await drive.holder?.open()
    held.set(folder, { key, drive })
    parts.onCame(drive)
    void watchHolder(folder, drive)
  }

  const apply = async (found: Found, who: DriveIdentity): Promise<void> => {
    const places = found.places.filter(({ folder }) => !parts.isTaken(dirOf(folder)))
    const isBlank = places.length === 0 && (adopted || mount.source.startsWith('/dev/'))
    const blank: FoundPlace = { folder: '', contents: { cache: false, archives: [] }, problems: [] }
    const now = isBlank ? [blank] : places
    for (const folder of held.keys()) {
      if (!now.some(place => place.folder === folder)) drop(folder, undefined)
    }
    for (const place of now) {
      if (!ended) await take(place, who)
    }
  }

  const lookOnce = async (anew: boolean): Promise<void> => {
    if (files.isStuck) {
      problem ??= 'it does not answer'
      return
    }
    try {
      const who = identity ?? (await parts.identify(files))
      identity ??= { ...who, id: parts.uniqueId(who.id) }
      const names = await lookOver(files, ['', ...[...held.keys()].filter(name => name !== '')])
      if (!anew && names === seen) return
      const options = { files, keys: parts.keys(), folders: !adopted, judged }
      const found = await recognise(options)
      if (ended) return
      await apply(found, identity)
      seen = names
      problem = undefined
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error)
    }
  }

  return {
    mount,
    adopted,
    get drives() {
      return [...held.values()].map(({ drive }) => drive)
    },
    get problem() {
      return problem
    },
    look(anew = false) {
      // One look at a time; one that is only to see whether anything changed need not come behind another.
      if (looking !== undefined && !anew) return looking
      const before = looking ?? Promise.resolve()
      const mine = before
        .then(() => (ended ? undefined : lookOnce(anew)))
        .finally(() => {
          if (looking === mine) looking = undefined
        })
      looking = mine
      return mine
    },
    end(why) {
      if (ended) return
      ended = true
      for (const folder of [...held.keys()]) drop(folder, why)
      files.end()
    },
  }
}
