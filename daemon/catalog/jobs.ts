import type { MemoryParts } from './remembered.ts'

/** Jobs kept: some months of them, and a few megabytes of memory. */
export const KEPT_JOBS = 200

/** A job as it is kept; `value` is JSON that only the room of the jobs reads. */
export interface JobRow {
  readonly id: number
  readonly kind: string
  readonly subject: string
  readonly state: string
  /** Ms since 1970. */
  readonly startedAt: number
  readonly value: string
}

/** The jobs of this host, over restarts. */
export interface JobRows {
  /** Newest first, at most {@link KEPT_JOBS}. */
  list(): readonly JobRow[]
  /** The highest number ever given. */
  lastId(): number
  /** Resolves when it is written or given up, as on a full disk, of which the catalog's problems then tell. */
  put(row: JobRow): Promise<void>
}

/** Jobs in the catalog. */
export function createJobRows({ read, writer, onWritten }: MemoryParts): JobRows {
  return {
    list: () => (read(sql => sql('jobs.list').all(KEPT_JOBS)) ?? []) as JobRow[],
    lastId: () => (read(sql => sql('jobs.last').pluck().get()) ?? 0) as number,
    async put(row) {
      try {
        await writer().ask({ op: 'job', row })
        onWritten(undefined)
      } catch (error) {
        onWritten(error)
      }
    },
  }
}
