import type { Logger } from 'pino'
import type { DriveStatus } from '../../protocol/api-drives.ts'
import { NOTED_DRIVES_MAX, type NotedDrive } from '../../protocol/host-note-fields.ts'
import { driveHolderId } from '../holders/drive.ts'
import type { Have } from './have.ts'

// What this host's note says of the drives that it knows, with a digest of what is on each where there is room: by these a
// drive in a drawer is found from any host of the site.

/** Base64 digests of all drives together: what is left of a note beside the most wants. Two drives of 80,000 paths. */
const DIGESTS_MAX_BYTES = 900 * 1024

/** Paths of a drive that has a digest in the note. */
const DIGEST_PATHS_MAX = 150_000

/** The drives of this host for its note. */
export interface DriveDigests {
  /** Drives as the note tells of them: plugged ones first, then as they were seen last. */
  noted(): readonly NotedDrive[]
  /** Looks whether a drive has other paths than when its digest was made, and makes it anew. */
  look(): void
  close(): Promise<void>
}

/** A text as notes take it. */
const printable = (text: string): string =>
  text.replaceAll(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, '\ufffd').slice(0, 1000)

export function createDriveDigests(options: {
  readonly drives: () => readonly DriveStatus[]
  readonly have: Pick<Have, 'ofHolder'>
  /** A digest is there that was not. */
  readonly onChange: () => void
  readonly log: Logger
}): DriveDigests {
  const { drives, have, onChange, log } = options
  /** By drive, with the number of paths it was made of. */
  const digests = new Map<string, { readonly paths: number; readonly have: string }>()
  let working: Promise<void> | undefined
  let again = false
  let closed = false

  const make = async () => {
    for (const { id, paths = 0 } of drives()) {
      if (closed) return
      if (paths === 0 || paths > DIGEST_PATHS_MAX || digests.get(id)?.paths === paths) continue
      const { bytes } = await have.ofHolder(driveHolderId(id))
      digests.set(id, { paths, have: bytes.toString('base64') })
      onChange()
    }
  }
  const run = async () => {
    while (again && !closed) {
      again = false
      await make().catch((error: unknown) =>
        log.warn({ err: error }, 'a drive has no digest in the note'),
      )
    }
  }
  return {
    noted() {
      let left = DIGESTS_MAX_BYTES
      return drives()
        .slice(0, NOTED_DRIVES_MAX)
        .map((drive): NotedDrive => {
          const { id, name, label, shipment, plugged, lastSeen, firstSeen, mountPoint } = drive
          const digest = digests.get(id)?.have
          const fits = digest !== undefined && digest.length <= left
          if (fits) left -= digest.length
          return {
            ...{ id, name: printable(name) },
            ...(label !== undefined && label !== '' && { label: printable(label) }),
            ...(shipment !== undefined && {
              shipment: {
                ...{ id: shipment.id, part: shipment.part, parts: shipment.parts },
                depot: printable(shipment.depot),
              },
            }),
            plugged,
            // Of a plugged one the time goes on by itself: it would be another note every minute.
            lastSeen: plugged ? firstSeen : lastSeen,
            ...(plugged && { mountPoint: printable(mountPoint) }),
            paths: drive.paths ?? 0,
            ...(fits && { have: digest }),
          }
        })
    },
    look() {
      if (closed) return
      // What changes while digests are made is looked at after them.
      again = true
      working ??= run().finally(() => void (working = undefined))
    },
    async close() {
      closed = true
      await working
    },
  }
}
