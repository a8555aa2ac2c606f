import { randomUUID } from 'node:crypto'
import { existsSync, rmSync } from 'node:fs'
import { access, constants, realpath, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { fail, problemOf } from '../../protocol/errors.ts'
import type { EjectReply } from '../../protocol/api-drives.ts'
import type { Problem } from '../../protocol/api.ts'
import type { DriveRows } from '../catalog/drives.ts'
import type { EventBus } from '../events.ts'
import type { HolderList } from '../holders/holder-list.ts'
import { createDriveHolder, driveHolderId } from '../holders/drive.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { createDriveBook, statusOf, type DriveCounts } from './drive-book.ts'
import type { Drive, Drives } from './drive.ts'
import { createDriveUses } from './drive-uses.ts'
import { ejectPlace } from './eject.ts'
import { findDrive } from './find-drive.ts'
import { adoptedId, identify } from './identity.ts'
import { drivesOf, type Mount } from './mount-table.ts'
import { openPlace, type Place } from './place.ts'
import { runProgram, type RunProgram } from './unmount.ts'
import { createMountWatch } from './watch.ts'

/** How often places are looked at for what was written there, ms. */
const LOOK_MS = 5000

/** How often the book notes that a plugged drive is there, ms: what a kill -9 may make it forget. */
const NOTE_MS = 60_000

/** How often devices are asked whether they still exist, ms. */
const DEVICE_MS = 1000

export interface DrivesOptions {
  /** `drives` of the configuration. */
  readonly watch: boolean
  readonly under: readonly string[]
  /** Folders of this host's own caches: on whatever disk they are, they are no drives. */
  readonly own?: readonly string[] | undefined
  readonly stateDir: string
  readonly hostName: string
  readonly storeDir: string
  readonly pool: NarPool
  readonly events: EventBus
  /** Where a drive's holder is put while it is there. */
  readonly holders: HolderList
  readonly rows: DriveRows
  /** Public keys whose manifests are believed, `name:base64`. */
  readonly keys: () => readonly string[]
  /** What was counted of a holder. */
  readonly counts: (holderId: string) => DriveCounts
  /** What the tests stand in for. */
  readonly readTable?: (() => Buffer) | undefined
  readonly readMs?: number | undefined
  readonly lookMs?: number | undefined
  readonly deviceExists?: ((source: string) => boolean) | undefined
  readonly run?: RunProgram | undefined
  readonly clock?: (() => number) | undefined
}

/** Facts of a drive by its holder's id, for those who tell who has what. */
export interface DriveFacts {
  readonly name: string
  readonly label?: string | undefined
  readonly mountPoint?: string | undefined
  readonly lastSeen: number
}

/** The room of the drives. */
export interface DrivesRoom extends Drives {
  factsOf(holderId: string): DriveFacts | undefined
  /** Drives that cannot be read at all. */
  problems(): readonly Problem[]
}

const keyOf = ({ id, device, root, mountPoint }: Mount): string =>
  JSON.stringify([id, device, root, mountPoint])

/** The drives of one host. */
export function createDrives(options: DrivesOptions): DrivesRoom {
  const { under, stateDir, hostName, events, holders, rows, counts } = options
  const { run = runProgram, clock = Date.now, deviceExists = existsSync } = options
  const book = createDriveBook(rows, clock)
  const places = new Map<string, Place>()
  /** Mounts that were ejected, or whose device is gone: they are not used again before they are mounted anew. */
  const done = new Set<string>()
  /** Mounts whose device could be seen: it is missed when it goes. */
  const seen = new Set<string>()
  const uses = createDriveUses()
  let mounts: readonly Mount[] = []
  let timers: NodeJS.Timeout[] = []

  const plugged = (): Drive[] => [...places.values()].flatMap(place => place.drives)

  const onCame = (drive: Drive): void => {
    book.seen(drive)
    if (drive.holder !== undefined) holders.add(drive.holder)
    events.emit('drive:plugged', drive.id)
  }
  const onWent = (drive: Drive, problem: string | undefined, replaced: boolean): void => {
    // What is being packed onto a drive makes another of it.
    uses.end(drive.id, replaced ? 'ship' : undefined)
    if (drive.holder !== undefined) {
      holders.remove(drive.holder.id)
      void drive.holder.close()
    }
    events.emit('drive:gone', drive.id, problem)
    book.went(drive)
  }

  const add = (key: string, mount: Mount, adopted: boolean): Place => {
    const isMounted = mount.device !== ''
    const place = openPlace({
      ...{ mount, adopted, keys: options.keys, onCame, onWent },
      isTaken: dir => options.own?.some(own => resolve(own) === dir) === true,
      identify: async files =>
        isMounted ? files.run(() => identify(mount)) : { id: adoptedId(mount.mountPoint) },
      uniqueId(id) {
        const taken = (one: string): boolean => plugged().some(drive => drive.id === one)
        if (!taken(id)) return id
        for (let n = 2; ; n++) if (!taken(`${id}~${n}`)) return `${id}~${n}`
      },
      nameOf: book.nameOf,
      makeHolder: ({ id: driveId, name, dir, contents: { shipment } }) =>
        createDriveHolder({
          ...{ driveId, name, dir, events, pool: options.pool, expectedStoreDir: options.storeDir },
          index:
            shipment?.signedBy === undefined
              ? undefined
              : {
                  manifest: shipment.manifest,
                  file: join(stateDir, 'drives', `${randomUUID()}.sqlite`),
                },
        }),
      onChanged(drive) {
        book.seen(drive)
        events.emit('drive:changed', drive.id)
      },
    })
    places.set(key, place)
    if (mount.source.startsWith('/dev/') && deviceExists(mount.source)) seen.add(key)
    return place
  }

  const remove = (key: string, problem?: string): void => {
    const place = places.get(key)
    places.delete(key)
    seen.delete(key)
    place?.end(problem)
  }

  const onTable = (table: readonly Mount[]): void => {
    mounts = table
    const now = new Map(drivesOf(table, under).map(mount => [keyOf(mount), mount]))
    for (const [key, place] of places) {
      if (place.adopted ? isLost(place, table) : !now.has(key)) remove(key)
    }
    for (const key of done) if (!now.has(key)) done.delete(key)
    for (const [key, mount] of now) {
      if (!places.has(key) && !done.has(key)) void add(key, mount, false).look()
    }
  }

  /** Whether an adopted folder was a mount of its own that is not there any more. */
  const isLost = ({ mount }: Place, table: readonly Mount[]): boolean =>
    mount.device !== '' && !table.some(one => keyOf(one) === keyOf(mount))

  /** A device that was pulled leaves its mount behind, which answers from memory until it is asked for more. */
  const checkDevices = (): void => {
    for (const [key, { mount }] of places) {
      if (!seen.has(key) || deviceExists(mount.source)) continue
      done.add(key)
      remove(key, 'it was pulled out without being ejected')
    }
  }

  const watch = createMountWatch({
    ...{ readTable: options.readTable, readMs: options.readMs, onTable },
  })

  /** Whose manifests are believed may be another now. */
  const lookAnew = (): void => {
    for (const place of places.values()) void place.look(true)
  }

  const find = (wanted: string): Drive | undefined => findDrive([...places.values()], wanted)

  /** The place of a folder: a mount of its own, wherever it is, or just a folder. */
  const folderMount = async (real: string): Promise<Mount> => {
    const mounted = mounts.findLast(({ mountPoint }) => mountPoint === real)
    if (mounted !== undefined) return mounted
    const readOnly = await access(real, constants.W_OK).then(
      () => false,
      () => true,
    )
    const nowhere = { id: 0, device: '', root: '/', source: '' }
    return { ...nowhere, mountPoint: real, fsType: 'folder', readOnly }
  }

  const adopt = async (dir: string): Promise<Drive> => {
    const unreadable = (problem: string): never => fail('DRIVE_UNREADABLE', { drive: dir, problem })
    const real = await realpath(dir).catch((error: unknown) => unreadable(problemOf(error)))
    const known = plugged().find(drive => drive.dir === real || drive.mountPoint === real)
    if (known !== undefined) return known
    if (!(await stat(real)).isDirectory()) unreadable('it is not a directory')
    watch.look()
    const mount = await folderMount(real)
    const key = keyOf(mount)
    done.delete(key)
    const place = places.get(key) ?? add(key, mount, true)
    await place.look()
    const [drive] = place.drives
    if (drive !== undefined) return drive
    if (place.adopted) remove(key)
    return unreadable(place.problem ?? 'nothing is there')
  }

  const eject = async (wanted: string): Promise<EjectReply> => {
    const drive = find(wanted)
    const entry = [...places].find(
      ([, place]) => drive !== undefined && place.drives.includes(drive),
    )
    if (drive === undefined || entry === undefined) return fail('DRIVE_UNKNOWN', { name: wanted })
    const [key, place] = entry
    const reply = await ejectPlace({
      ...{ drive, place, uses, events, run },
      leave() {
        done.add(key)
        remove(key)
      },
    })
    watch.look()
    return reply
  }

  return {
    async open() {
      if (timers.length > 0) return
      // What a killed daemon was reading.
      rmSync(join(stateDir, 'drives'), { recursive: true, force: true })
      book.open()
      events.on('members:changed', lookAnew)
      if (options.watch) watch.open()
      timers = [
        setInterval(checkDevices, DEVICE_MS),
        setInterval(() => {
          for (const place of places.values()) void place.look()
        }, options.lookMs ?? LOOK_MS),
        setInterval(() => plugged().forEach(book.seen), NOTE_MS),
      ].map(timer => timer.unref())
    },
    async close() {
      watch.close()
      events.off('members:changed', lookAnew)
      for (const timer of timers.splice(0)) clearInterval(timer)
      for (const key of [...places.keys()]) remove(key)
    },
    plugged,
    list() {
      const here = new Map(plugged().map(drive => [drive.id, drive]))
      return book
        .all()
        .map(entry => {
          const drive = here.get(entry.id)
          return statusOf(entry, drive, hostName, counts(driveHolderId(entry.id)), clock())
        })
        .sort(
          (a, b) =>
            Number(b.plugged) - Number(a.plugged) ||
            b.lastSeen.localeCompare(a.lastSeen) ||
            a.name.localeCompare(b.name),
        )
    },
    find,
    adopt,
    async release(id) {
      for (const [key, place] of places) {
        if (place.adopted && place.drives.some(drive => drive.id === id)) remove(key)
      }
    },
    use: (id, what) => (plugged().some(drive => drive.id === id) ? uses.add(id, what) : undefined),
    async look(id) {
      const asked = [...places.values()].filter(
        ({ drives }) => id === undefined || drives.some(drive => drive.id === id),
      )
      await Promise.all(asked.map(place => place.look(true)))
    },
    eject,
    factsOf(holderId) {
      if (!holderId.startsWith('drive:')) return undefined
      const id = holderId.slice('drive:'.length)
      const entry = book.get(id)
      if (entry === undefined) return undefined
      const drive = plugged().find(one => one.id === id)
      const { name, label, lastSeen } = entry
      return { name, label, mountPoint: drive?.mountPoint, lastSeen: drive ? clock() : lastSeen }
    },
    problems: () =>
      [...places.values()].flatMap(({ mount, problem }) =>
        problem === undefined
          ? []
          : [
              {
                what: `what is mounted at ${mount.mountPoint} cannot be looked at: ${problem}`,
                hint: 'if it is a drive, unplug it and plug it again, or check it: fsck, dmesg',
              },
            ],
      ),
    async idle() {
      watch.look()
      await Promise.all([...places.values()].map(place => place.look()))
    },
  }
}
