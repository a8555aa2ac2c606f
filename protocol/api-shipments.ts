// Types of the HTTP API about packing and checking, and of `narwharf ship --json` and `verify --json`. See api.ts; both
// requests are answered with the events of a job (api-jobs.ts), whose result is a ShipResult or VerifyResult.

/** `POST /api/v1/ship`. Files and directories are absolute paths on the daemon's machine. */
export interface ShipRequest {
  /** Where the shipment goes; of several parts, `part-1` and so on below it. */
  readonly dir: string
  /** Store paths and `.drv` files, most wanted first. */
  readonly roots: readonly string[]
  /** Have digests of those it is for. */
  readonly have?: readonly string[] | undefined
  /** Want lists. */
  readonly want?: readonly string[] | undefined
  /** A further cache to pack from: a directory, or an http(s) URL. */
  readonly from?: string | undefined
  /** Bytes that each part takes at most, or a text such as `"64GB"`. */
  readonly sizeLimit?: number | string | undefined
  /** Number of drives. */
  readonly split?: number | undefined
  /** Only this one of them, from 1, into `dir` itself. */
  readonly part?: number | undefined
  /** The largest file that the drive takes, where it is smaller than what its file system says. */
  readonly maxFileSize?: number | string | undefined
  /** Channels that go along. */
  readonly channels?: readonly string[] | undefined
  /** All channels, flakes and tarballs go along. */
  readonly allChannels?: boolean | undefined
  /** What people call the shipment. */
  readonly name?: string | undefined
  /** ISO 8601, UTC; for shipments that are the same to the byte. */
  readonly createdAt?: string | undefined
  /** What lies there and is not part of it goes. */
  readonly replace?: boolean | undefined
  /** What lies there is read, not only looked at. */
  readonly verify?: boolean | undefined
  /** Nothing is written. */
  readonly dryRun?: boolean | undefined
}

/** A path and what is wrong with it. */
export interface PathProblem {
  /** A store path, or what was asked for and came to none. */
  readonly storePath: string
  readonly problem: string
}

/** One drive. */
export interface ShippedPart {
  readonly part: number
  readonly dir: string
  /** Of the shipment; undefined where nothing was written. */
  readonly id?: string | undefined
  /** Paths of the plan, and bytes of their NARs and of the files these lie in (or will: then an upper bound). */
  readonly paths: number
  readonly narBytes: number
  readonly fileBytes: number
  /** Paths of them that lay there already. */
  readonly there: number
  /** Paths that were written now, and bytes of their files. */
  readonly written: number
  readonly writtenBytes: number
}

/** What a `ship` did, or would do. */
export interface ShipResult {
  readonly dryRun: boolean
  readonly dir: string
  readonly name: string
  readonly parts: readonly ShippedPart[]
  /** How many there are in all; `parts` has those that were packed now. */
  readonly of: number
  /** Paths of the closures, less those that are had. */
  readonly wanted: number
  /** Paths at which the closures were cut off since those it is for have them. */
  readonly had: number
  /** Bytes there were for it; undefined where several parts are planned without a limit. */
  readonly room?: number | undefined
  /** What finds no room: the first hundreds, how many in all, and bytes. */
  readonly left: readonly string[]
  readonly leftPaths: number
  readonly leftBytes: number
  /** What was asked for, or is needed, and cannot go: the first hundreds, and how many in all. */
  readonly missing: readonly PathProblem[]
  readonly missingPaths: number
}

/** `POST /api/v1/verify`. */
export interface VerifyRequest {
  /** Directories of the daemon's machine, or names of drives; none for the cache. */
  readonly targets?: readonly string[] | undefined
  readonly repair?: boolean | undefined
}

/** What was found in one directory. */
export interface VerifiedTarget {
  readonly dir: string
  /** Paths read, and bytes of the files. */
  readonly paths: number
  readonly fileBytes: number
  /** Paths that are right. */
  readonly good: number
  /** Paths without a signature that this host trusts; they are not damaged. */
  readonly unsigned: number
  /** The first hundreds, and how many in all. */
  readonly damaged: readonly DamagedPath[]
  readonly damagedPaths: number
  readonly repairedPaths: number
  /** Paths that refer to something that is neither there nor elsewhere within reach, and what. */
  readonly incomplete: readonly PathProblem[]
  readonly incompletePaths: number
  /** What is wrong with manifest, sections and index. */
  readonly problems: readonly string[]
}

export interface DamagedPath extends PathProblem {
  /** Who had a whole one. */
  readonly repairedFrom?: string | undefined
}

/** What a `verify` found. */
export interface VerifyResult {
  readonly targets: readonly VerifiedTarget[]
}
