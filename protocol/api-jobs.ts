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
