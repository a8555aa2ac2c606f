import type { EjectReply } from '../../protocol/api-drives.ts'
import { fail } from '../../protocol/errors.ts'
import type { EventBus } from '../events.ts'
import type { DriveUses } from './drive-uses.ts'
import type { Drive } from './drive.ts'
import type { Place } from './place.ts'
import { flush, unmount, type RunProgram } from './unmount.ts'

export interface EjectOptions {
  readonly drive: Drive
  /** What it is on: it leaves with whatever else is there. */
  readonly place: Place
  readonly uses: DriveUses
  readonly events: EventBus
  readonly run: RunProgram
  /** Takes the place out of use. */
  leave(): void
}

/**
 * Ends every use of a drive, writes what waits to it and unmounts it. Throws DRIVE_BUSY, and it stays in use, where somebody
 * does not let go of it.
 */
export async function ejectPlace(options: EjectOptions): Promise<EjectReply> {
  const { drive, place, uses, events, run, leave } = options
  const { id, name, mountPoint } = drive
  for (const one of place.drives) events.emit('drive:leaving', one.id)
  const users = await uses.finish(place.drives.map(one => one.id))
  if (users.length > 0) fail('DRIVE_BUSY', { drive: name, problem: users.join(', ') })
  leave()
  const unwritten = await flush(mountPoint, run)
  const reply = { id, name, mountPoint }
  // A folder is no mount: there is nothing to undo.
  if (place.mount.device === '') return { ...reply, unmounted: true }
  const problem = await unmount(place.mount, run)
  if (problem === undefined) return { ...reply, unmounted: true }
  const first = unwritten === undefined ? '' : `what waits could not be written (${unwritten}); `
  return { ...reply, unmounted: false, hint: `${first}run: umount ${mountPoint} (${problem})` }
}
