// Types of the HTTP API about drives, and of `narwharf drives --json` and `eject --json`. See api.ts.

/** `GET /api/v1/drives`: every drive that this host knows, plugged or not. */
export interface DrivesReply {
  /** Plugged ones first, then by when they were last seen. */
  readonly drives: readonly DriveStatus[]
}

export interface DriveStatus {
  readonly id: string
  readonly name: string
  /** The file system's label. */
  readonly label?: string
  readonly fsType: string
  readonly plugged: boolean
  /** Where it is, or was last. */
  readonly mountPoint: string
  /** Where on it the cache or shipment stands. */
  readonly dir: string
  readonly readOnly: boolean
  /** A folder that was named by hand, not a file system that was plugged. */
  readonly adopted: boolean
  /** A flat binary cache is on it. */
  readonly cache: boolean
  readonly shipment?: {
    readonly id: string
    readonly name: string
    readonly depot: string
    readonly part: number
    readonly parts: number
    readonly createdAt: string
    /** The trusted key that signed its manifest; undefined where none did. */
    readonly signedBy?: string
  }
  /** Export archives on it, relative to `dir`. */
  readonly archives: readonly string[]
  /** Paths it holds as this host counted them, and the sum of their NAR sizes; undefined until they are counted. */
  readonly paths?: number
  readonly narBytes?: number
  readonly firstSeen: string
  readonly lastSeen: string
  /** The host that saw it: the one that answers. */
  readonly host: string
  /** What a person should know of it. */
  readonly problems: readonly string[]
}

/** `POST /api/v1/drives/eject` with `{ drive }`. */
export interface EjectReply {
  readonly id: string
  readonly name: string
  readonly mountPoint: string
  /** It is unmounted; if not, `hint` says what is left to do. */
  readonly unmounted: boolean
  readonly hint?: string
}
