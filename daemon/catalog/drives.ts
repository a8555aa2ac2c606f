import type { MemoryParts } from './remembered.ts'

/** Drives kept in the book, those seen last. */
export const KEPT_DRIVES = 1000

/** A drive as it is kept; `value` is JSON that only the room of the drives reads. Times in ms since 1970. */
export interface DriveRow {
  readonly id: string
  /** No two drives have one. */
  readonly name: string
  readonly firstSeen: number
  readonly lastSeen: number
  readonly value: string
}

/** The drives that this host has seen, over restarts. */
export interface DriveRows {
  /** Last seen first, at most {@link KEPT_DRIVES}. */
  list(): readonly DriveRow[]
  /** Resolves when it is written or given up, as on a full disk, of which the catalog's problems then tell. */
  put(row: DriveRow): Promise<void>
}

/** Drives in the catalog. */
export function createDriveRows({ read, writer, onWritten }: MemoryParts): DriveRows {
  return {
    list: () => (read(sql => sql('drives.list').all(KEPT_DRIVES)) ?? []) as DriveRow[],
    async put(row) {
      try {
        await writer().ask({ op: 'drive', row })
        onWritten(undefined)
      } catch (error) {
        onWritten(error)
      }
    },
  }
}
