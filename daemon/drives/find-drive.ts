import type { Drive } from './drive.ts'
import type { Place } from './place.ts'

/** The drive of that name or id, or the one that a path leads to: its mount point, what is on it, its device. */
export function findDrive(places: readonly Place[], wanted: string): Drive | undefined {
  const all = places.flatMap(place => place.drives)
  const exact = all.find(({ id, name }) => id === wanted || name === wanted)
  if (exact !== undefined || !wanted.startsWith('/')) return exact
  const path = wanted.length > 1 ? wanted.replace(/\/+$/, '') : wanted
  const device = places.find(({ mount }) => mount.source === path)
  const isOn = (drive: Drive): boolean =>
    device?.drives.includes(drive) === true ||
    [drive.dir, drive.mountPoint].some(dir => path === dir || path.startsWith(`${dir}/`))
  // Of a cache in a folder of a cache, the inner one.
  return all.filter(isOn).sort((a, b) => b.dir.length - a.dir.length)[0]
}
