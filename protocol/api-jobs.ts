// Types of the API for work that takes long: merging, packing, reading everything. See api.ts for what holds of all types.
import type { ErrorReply } from './api.ts'

/** What a job does. */
export type JobKind = 'merge' | 'ship' | 'verify' | 'import' | 'export' | 'fetch' | 'mirror'

/**
 * How a job stands. `partly`: it came to its end, and what is missing is listed in its result. `interrupted`: the daemon
 * ended or the drive was pulled; it goes on by itself where that is possible.
 */
export type JobState = 'running' | 'done' | 'partly' | 'failed' | 'cancelled' | 'interrupted'

/** How far a job is, in whatever it counts. */
export interface JobProgress {
  /** Of `total`. */
  readonly done: number
  readonly total?: number | undefined
  /** Of `totalBytes`. */
  readonly bytes?: number | undefined
  readonly totalBytes?: number | undefined
  /** What it is at just now: a path, a file. */
  readonly what?: string | undefined
}

/** Something that a person should read. */
export interface JobNote {
  readonly at: string
  readonly level: 'info' | 'warning'
  readonly line: string
}

export interface JobStatus {
  /** Never given twice on one host. */
  readonly id: number
  readonly kind: JobKind
  /** One line for a person: `merge KERGUELEN-2`. */
  readonly title: string
  /** What it works on: one job of a kind and subject runs at a time. */
  readonly subject: string
  readonly state: JobState
  readonly startedAt: string
  readonly endedAt?: string | undefined
  /** How often it was started anew after an interruption. */
  readonly resumed: number
  readonly progress: JobProgress
  /** The newest, oldest first. */
  readonly notes: readonly JobNote[]
  /** One line that says how it ended. */
  readonly summary?: string | undefined
  /** Why it failed or was interrupted. */
  readonly error?: ErrorReply['error'] | undefined
  /** What it found, in a shape of its kind. */
  readonly result?: unknown
}

/** `GET /api/v1/jobs`: newest first, running ones among them. */
export interface JobsReply {
  readonly jobs: readonly JobStatus[]
}

/**
 * `GET /api/v1/jobs/<id>/events` and whatever starts a job answer with one of these a line: first the job as it stands, then
 * what happens, at last `end` with the job as it ended. Who stops reading does not stop the job.
 */
export type JobEvent =
  | { readonly event: 'job'; readonly job: JobStatus }
  | { readonly event: 'progress'; readonly progress: JobProgress }
  | { readonly event: 'note'; readonly note: JobNote }
  | { readonly event: 'end'; readonly job: JobStatus }

/** `POST /api/v1/jobs/<id>/cancel`: the job as it then stands. */
export interface JobReply {
  readonly job: JobStatus
}

/** `result` of a merge. Lists name the first hundred, the numbers count all. */
export interface MergeResult {
  readonly drive: { readonly id: string; readonly name: string }
  readonly shipment?:
    | {
        readonly id: string
        readonly part: number
        readonly parts: number
        readonly depot: string
        /** The trusted key that signed its manifest. */
        readonly signedBy?: string | undefined
      }
    | undefined
  /** Store paths on the drive; `cut` where there are more than were looked at. */
  readonly paths: number
  readonly cut: boolean
  /** Came into this cache, and bytes of their files. */
  readonly came: number
  readonly bytes: number
  /** In this cache before. */
  readonly wasThere: number
  /** Kept by other keepers before, or taken by them meanwhile. */
  readonly elsewhere: number
  /** Damaged on the drive, the repaired ones among them. */
  readonly damaged: number
  readonly damagedPaths: readonly {
    readonly storePath: string
    readonly problem: string
    /** The holder that had a whole one; undefined where none had. */
    readonly repairedFrom?: string | undefined
  }[]
  readonly repaired: number
  /** Nobody trusted answers for them. */
  readonly refused: number
  readonly refusedPaths: readonly { readonly storePath: string; readonly problem: string }[]
  /** Refer to what neither the drive nor the site has. */
  readonly parked: number
  readonly parkedPaths: readonly { readonly storePath: string; readonly lacking: string }[]
  readonly noRoom: number
  /** Not come to, as the merge was stopped. */
  readonly left: number
  /** What is wished for and neither here nor at the site; undefined where that is not known. */
  readonly wantsMissing?:
    { readonly paths: number; readonly storePaths: readonly string[] } | undefined
  /** Channels, flakes and tarballs; undefined where the drive brought none that is trusted. */
  readonly files?: MergedFiles | undefined
  /** The receipt on the drive, or why there is none. */
  readonly receipt?: string | undefined
  readonly receiptProblem?: string | undefined
}

/** Files beside store paths that a merge copied. */
export interface MergedFiles {
  readonly came: number
  readonly bytes: number
  readonly wasThere: number
  /** Left, as what stands here is newer than the shipment. */
  readonly newer: number
  readonly noRoom: number
  readonly damaged: number
  readonly damagedFiles: readonly { readonly file: string; readonly problem: string }[]
}

/** `POST /api/v1/merge`; answers with the events of the job. */
export interface MergeWish {
  /** A drive by its name, id or mount point, or a directory. */
  readonly drive: string
  /** Takes what has no trusted signature too: the operator vouches for it. */
  readonly trust?: boolean | undefined
  /** Takes what other keepers keep already too. */
  readonly everything?: boolean | undefined
}
