import { createHash } from 'node:crypto'
import { open, readdir, readFile, realpath, stat, statfs } from 'node:fs/promises'
import type { Mount } from './mount-table.ts'
import { readSuperblock, SUPERBLOCK_BYTES, type FileSystemFacts } from './superblock.ts'

// Which drive it is: the file system's UUID, wherever it is plugged and whatever the kernel calls its device. udev tells it in
// links and in its database; where there is no udev, the device's first bytes do, if this process may read them.

/** Links of /dev/disk looked through at most: a server with a thousand disks has some thousands. */
const LINKS_MAX = 10_000

/** Characters of a digest that stands for what has no UUID. */
const DIGEST_CHARACTERS = 32

/** Places where the system tells of its devices; tests have others. */
export interface DevicePlaces {
  readonly byUuid: string
  readonly byLabel: string
  readonly udevData: string
}

const PLACES: DevicePlaces = {
  byUuid: '/dev/disk/by-uuid',
  byLabel: '/dev/disk/by-label',
  udevData: '/run/udev/data',
}

/** What is known of a drive before anything on it is looked at. */
export interface DriveIdentity extends FileSystemFacts {
  readonly id: string
}

const digest = (...parts: readonly unknown[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, DIGEST_CHARACTERS)

const orUndefined = async <T>(work: Promise<T>): Promise<T | undefined> =>
  work.catch(() => undefined)

/** udev writes characters that are odd in a file name as \x and two hex digits of each byte. */
export function unescapeUdev(text: string): string {
  const bytes = text.replace(/\\x([0-9a-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  )
  // What was escaped stands as bytes; what was not may be any character.
  return /^[\0-\xff]*$/.test(bytes) && text.includes('\\x')
    ? Buffer.from(bytes, 'latin1').toString('utf8')
    : bytes
}

/** The name under which one of those links leads to the device. */
async function linkTo(folder: string, device: string): Promise<string | undefined> {
  const names = await orUndefined(readdir(folder))
  for (const name of (names ?? []).slice(0, LINKS_MAX)) {
    if ((await orUndefined(realpath(`${folder}/${name}`))) === device) return unescapeUdev(name)
  }
  return undefined
}

/** udev's own notes of a block device, by its numbers. */
async function fromUdev(device: string, udevData: string): Promise<FileSystemFacts> {
  const text = (await orUndefined(readFile(`${udevData}/b${device}`, 'utf8'))) ?? ''
  const value = (name: string): string | undefined =>
    new RegExp(`^E:${name}=(.+)$`, 'm').exec(text)?.[1]
  const label = value('ID_FS_LABEL_ENC')
  return { uuid: value('ID_FS_UUID'), label: label && unescapeUdev(label) }
}

async function fromDevice(source: string): Promise<FileSystemFacts> {
  const isBlock = await orUndefined(stat(source).then(stats => stats.isBlockDevice()))
  if (isBlock !== true) return {}
  const handle = await orUndefined(open(source, 'r'))
  if (handle === undefined) return {}
  try {
    const bytes = Buffer.alloc(SUPERBLOCK_BYTES)
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0)
    return readSuperblock(bytes.subarray(0, bytesRead)) ?? {}
  } catch {
    return {}
  } finally {
    await handle.close().catch(() => undefined)
  }
}

/** UUID and label of a mounted file system, from whoever tells them first. */
async function factsOf(mount: Mount, places: DevicePlaces): Promise<FileSystemFacts> {
  const { device, source } = mount
  const told = await fromUdev(device, places.udevData)
  if (told.uuid !== undefined) return told
  const real = await orUndefined(realpath(source))
  if (real === undefined || !real.startsWith('/dev/')) return told
  const uuid = await linkTo(places.byUuid, real)
  if (uuid !== undefined) return { uuid, label: told.label ?? (await linkTo(places.byLabel, real)) }
  const own = await fromDevice(real)
  return { uuid: own.uuid, label: told.label ?? own.label }
}

/**
 * Which drive a mount is. Where nothing has a UUID (tmpfs, a network share): by what it is mounted from and where, which is
 * the same when the same thing is mounted again. A part of a file system (a subvolume, a bound folder) is a drive of its own.
 */
export async function identify(
  mount: Mount,
  places: DevicePlaces = PLACES,
): Promise<DriveIdentity> {
  const { fsType, source, root, mountPoint } = mount
  const { uuid, label } = await factsOf(mount, places)
  const part = root === '/' ? '' : `-${digest(root).slice(0, 8)}`
  if (uuid !== undefined && /^[0-9A-Za-z-]{4,64}$/.test(uuid))
    return { id: uuid + part, uuid, label }
  const size = await orUndefined(statfs(mountPoint).then(({ bsize, blocks }) => bsize * blocks))
  return { id: digest(fsType, source, mountPoint, size) + part, label }
}

/** The id of a folder that was named by hand. */
export const adoptedId = (realDir: string): string => `dir-${digest(realDir)}`
