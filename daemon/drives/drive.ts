import type { ShipmentManifest } from '../../protocol/shipment.ts'
import type { DriveStatus, EjectReply } from '../../protocol/api-drives.ts'
import type { DriveHolder } from '../holders/drive.ts'

// The words of this room: what a drive is, what lies on it, and what other rooms may ask.

/** A place with something for narwharf on it: a removable file system, a folder at its top, or a folder adopted by hand. */
export interface Drive {
  /**
   * Stable over plugging and over hosts: the file system's UUID where it has one, else a digest of what is known of it; with
   * the folder's name behind it (`<uuid>/backup`) where the place is a folder at its top. Adopted: a digest of its real path.
   */
  readonly id: string
  /** File system label, else the shipment's name, else the mount point's last part; unique among all drives known here. */
  readonly name: string
  /** As the file system says. */
  readonly label?: string | undefined
  /** Where its file system is mounted; of an adopted folder, the folder. */
  readonly mountPoint: string
  readonly fsType: string
  readonly readOnly: boolean
  /** Where the cache or shipment stands: the mount point, or a folder directly below it. */
  readonly dir: string
  /** Adopted by hand (`merge DIR`), not found by the watch. */
  readonly adopted: boolean
  readonly contents: DriveContents
  /** Undefined where there is no cache that this host can read. */
  readonly holder?: DriveHolder | undefined
  /** What a person should know of it, as sentences. */
  readonly problems: readonly string[]
}

/** What lies on a drive. */
export interface DriveContents {
  readonly shipment?: DriveShipment | undefined
  /** There is a flat binary cache. */
  readonly cache: boolean
  /** `nix-store --export` archives, as paths relative to {@link Drive.dir}; listed, never read before they are imported. */
  readonly archives: readonly string[]
}

/** A manifest that was found and could be read. */
export interface DriveShipment {
  readonly manifest: ShipmentManifest
  /** Name of the trusted key that signed it; undefined: nobody's that this host trusts, so nothing it says is believed. */
  readonly signedBy?: string | undefined
  /** Why it, or its index, is not believed. */
  readonly problem?: string | undefined
}

/** A use of a drive: {@link Drives.eject} waits for its end. */
export interface DriveUse {
  /** Aborted when the drive is to be ejected, or gone. */
  readonly signal: AbortSignal
  done(): void
}

/** The drives of this host. Events: `drive:plugged`, `drive:changed`, `drive:leaving`, `drive:gone`. */
export interface Drives {
  /** Reads the mount table and begins to watch it; drives are recognised behind. */
  open(): Promise<void>
  close(): Promise<void>
  /** Those that can be used now. */
  plugged(): readonly Drive[]
  /** All that were ever seen and not forgotten, plugged ones first. */
  list(): readonly DriveStatus[]
  /** A plugged drive by its name, id, mount point or a path on it. */
  find(nameOrIdOrPath: string): Drive | undefined
  /** Takes a folder as a drive, whatever lies there; the drive that it is on already, if any. Throws DRIVE_UNREADABLE. */
  adopt(dir: string): Promise<Drive>
  /** Ends the use of an adopted folder. */
  release(id: string): Promise<void>
  /** Says that the drive is being used; undefined when it is gone or leaving. */
  use(id: string, what: string): DriveUse | undefined
  /** Looks at a drive (or all) again: something was written there. */
  look(id?: string): Promise<void>
  /** Ends every use of it, writes what waits to it and unmounts it where it may. Throws DRIVE_UNKNOWN, DRIVE_BUSY. */
  eject(nameOrId: string): Promise<EjectReply>
  /** Resolves when every drive in the mount table is recognised. */
  idle(): Promise<void>
}
