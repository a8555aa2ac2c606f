import type {
  JobEvent,
  JobKind,
  JobNote,
  JobProgress,
  JobState,
  JobStatus,
} from '../../protocol/api-jobs.ts'
import { fail, isNarwharfError, NarwharfError, problemOf } from '../../protocol/errors.ts'
import { KEPT_JOBS, type JobRow, type JobRows } from '../catalog/jobs.ts'
import { createJobBook, type JobBook } from './running.ts'

/** What a job is. */
export interface JobSpec {
  readonly kind: JobKind
  /** One line for a person: `merge KERGUELEN-2`. */
  readonly title: string
  /** What it works on: one job of a kind and subject runs at a time. */
  readonly subject: string
  /** What it needs to be started again after an interruption, as JSON; without it, it is not. */
  readonly parameters?: unknown
  /** The interrupted job that goes on with this: it keeps its number. */
  readonly resumes?: number | undefined
}

/** How a job came to its end; `result` is JSON of a bounded size: whoever lists paths stops at some hundred and counts the rest. */
export interface JobOutcome {
  /** Default `done`. `interrupted`: what it needs went away, and it can go on from its parameters. */
  readonly state?: 'done' | 'partly' | 'failed' | 'interrupted'
  readonly summary: string
  readonly result?: unknown
}

/** What the work of a job is given. */
export interface JobHandle {
  readonly id: number
  /** Aborted when the job is cancelled or the daemon ends; the work then ends soon, leaving nothing half-done. */
  readonly signal: AbortSignal
  /** Cheap: may be called thousands of times a second. */
  progress(progress: JobProgress): void
  note(line: string, level?: JobNote['level']): void
}

/** A job that was started. */
export interface RunningJob {
  readonly id: number
  /** Another job of the kind and subject was running already, and this is it. */
  readonly already: boolean
  /** The job as it ended; never rejects. */
  readonly ended: Promise<JobStatus>
}

/** A job that can go on. */
export interface InterruptedJob {
  readonly job: JobStatus
  readonly parameters: unknown
}

/**
 * Work that takes long and that nobody waits for: it goes on when the one who asked is gone, is told of in one place, and is
 * still known after a restart. What was running when the daemon was killed is `interrupted` afterwards; the room whose kind
 * it is starts it again when it can.
 */
export interface Jobs {
  open(): Promise<void>
  /** Stops what runs, which is `interrupted` then. */
  close(): Promise<void>
  /** Newest first. */
  list(): readonly JobStatus[]
  get(id: number): JobStatus | undefined
  /** The job as it stands and what happens to its end; undefined for a number that no job has. */
  follow(id: number): AsyncGenerator<JobEvent, void, undefined> | undefined
  /** Stops a running job, or lets an interrupted one rest; false where there is nothing to stop. */
  cancel(id: number): boolean
  /** Starts work, unless a job of that kind and subject is running: then that one is returned. */
  start(spec: JobSpec, work: (job: JobHandle) => Promise<JobOutcome>): RunningJob
  /** Jobs of a kind that were interrupted and have parameters to go on from, oldest first. */
  interrupted(kind: JobKind): readonly InterruptedJob[]
}

export interface JobsOptions {
  readonly rows: JobRows
  /** Ms since 1970. */
  readonly clock?: (() => number) | undefined
}

/** How often a running job is written down, ms: what a kill loses of its progress. */
const WRITTEN_EVERY_MS = 5000

/** How long work may take to stop when the daemon ends, ms: systemd kills after 90 s. */
const STOPPED_WITHIN_MS = 10_000

interface Entry {
  readonly book: JobBook
  readonly parameters: unknown
  readonly abort?: AbortController
  ended: Promise<JobStatus> | undefined
}

/** What a row keeps as JSON. */
interface RowValue {
  readonly status: Omit<JobStatus, 'id' | 'kind' | 'subject' | 'state' | 'startedAt'>
  readonly parameters?: unknown
}

const describe = (error: unknown): NonNullable<JobStatus['error']> =>
  isNarwharfError(error)
    ? { code: error.code, message: error.message, hint: error.hint }
    : { code: 'INTERNAL', message: problemOf(error), hint: 'look at the daemon’s log' }

/** The room of the jobs, closed until `open()`. */
export function createJobs({ rows, clock = Date.now }: JobsOptions): Jobs {
  const entries = new Map<number, Entry>()
  let lastId = 0
  let state: 'closed' | 'open' | 'closing' = 'closed'
  const now = (): string => new Date(clock()).toISOString()

  const write = async ({ book, parameters }: Entry): Promise<void> => {
    const { id, kind, subject, state: jobState, startedAt, ...status } = book.status()
    const value: RowValue = { status, parameters }
    await rows.put({
      ...{ id, kind, subject, state: jobState, startedAt: Date.parse(startedAt) },
      value: JSON.stringify(value),
    })
  }

  const load = (row: JobRow): void => {
    const { status, parameters } = JSON.parse(row.value) as RowValue
    const { id, kind, subject, startedAt } = row
    const wasRunning = row.state === 'running'
    const book = createJobBook({
      ...status,
      ...{ id, kind: kind as JobKind, subject },
      state: wasRunning ? 'interrupted' : (row.state as JobState),
      startedAt: new Date(startedAt).toISOString(),
      ...(wasRunning ? { error: describe(new NarwharfError('JOB_INTERRUPTED', {})) } : {}),
    })
    book.end()
    const entry = { book, parameters, ended: undefined }
    entries.set(id, entry)
    if (wasRunning) void write(entry)
  }

  const run = async (
    entry: Entry,
    abort: AbortController,
    work: (job: JobHandle) => Promise<JobOutcome>,
  ): Promise<JobStatus> => {
    const { book } = entry
    let written = clock()
    const handle: JobHandle = {
      id: book.status().id,
      signal: abort.signal,
      progress(progress) {
        book.progress(progress)
        if (clock() - written < WRITTEN_EVERY_MS) return
        written = clock()
        void write(entry)
      },
      note: (line, level = 'info') => book.note({ at: now(), level, line }),
    }
    // The state when it does not come to its own end.
    const cutShort = (): JobState => (state === 'closing' ? 'interrupted' : 'cancelled')
    try {
      await write(entry)
      abort.signal.throwIfAborted()
      const outcome = await work(handle)
      const { state: own = 'done', summary, result } = outcome
      const whole = own === 'done' || !abort.signal.aborted
      book.update({ state: whole ? own : cutShort(), summary, result })
    } catch (error) {
      book.update(
        abort.signal.aborted
          ? { state: cutShort(), error: describe(abort.signal.reason) }
          : { state: 'failed', error: describe(error) },
      )
    }
    book.update({ endedAt: now() })
    await write(entry)
    book.end()
    return book.status()
  }

  const running = (kind: JobKind, subject: string): Entry | undefined =>
    [...entries.values()].find(({ book, abort, ended }) => {
      const status = book.status()
      return (
        abort !== undefined &&
        ended !== undefined &&
        status.endedAt === undefined &&
        status.kind === kind &&
        status.subject === subject
      )
    })

  /** What ended long ago; what runs or can go on stays. */
  const forgetOld = (): void => {
    for (const [id, { book }] of entries) {
      if (entries.size <= KEPT_JOBS) return
      if (!['running', 'interrupted'].includes(book.status().state)) entries.delete(id)
    }
  }

  return {
    async open() {
      if (state !== 'closed') return
      state = 'open'
      lastId = rows.lastId()
      entries.clear()
      for (const row of [...rows.list()].reverse()) load(row)
    },
    async close() {
      if (state !== 'open') return
      state = 'closing'
      const ending = [...entries.values()].map(({ abort, ended }) => {
        abort?.abort(new NarwharfError('JOB_INTERRUPTED', {}))
        return ended
      })
      let timer: NodeJS.Timeout | undefined
      const late = new Promise(resolve => {
        timer = setTimeout(resolve, STOPPED_WITHIN_MS)
      })
      await Promise.race([Promise.all(ending), late])
      clearTimeout(timer)
      state = 'closed'
    },
    list: () => [...entries.values()].map(({ book }) => book.status()).reverse(),
    get: id => entries.get(id)?.book.status(),
    follow: id => entries.get(id)?.book.follow(),
    cancel(id) {
      const entry = entries.get(id)
      const status = entry?.book.status()
      if (entry === undefined || status === undefined) return false
      if (status.state === 'interrupted') {
        entry.book.update({ state: 'cancelled', endedAt: now() })
        void write(entry)
        return true
      }
      if (status.state !== 'running' || entry.abort === undefined) return false
      entry.abort.abort(new NarwharfError('JOB_CANCELLED', {}))
      return true
    },
    start(spec, work) {
      const { kind, title, subject, parameters, resumes } = spec
      if (state !== 'open') fail('JOB_INTERRUPTED', {})
      const same = running(kind, subject)
      if (same?.ended !== undefined) {
        return { id: same.book.status().id, already: true, ended: same.ended }
      }
      const before = resumes === undefined ? undefined : entries.get(resumes)?.book.status()
      const id = before?.id ?? ++lastId
      const book = createJobBook({
        ...{ id, kind, title, subject, state: 'running' },
        startedAt: before?.startedAt ?? now(),
        resumed: before === undefined ? 0 : before.resumed + 1,
        progress: { done: 0 },
        notes: before?.notes ?? [],
      })
      const abort = new AbortController()
      const entry: Entry = { book, parameters, abort, ended: undefined }
      entries.set(id, entry)
      entry.ended = run(entry, abort, work)
      forgetOld()
      return { id, already: false, ended: entry.ended }
    },
    interrupted: kind =>
      [...entries.values()].flatMap(({ book, parameters }) => {
        const job = book.status()
        const goesOn = job.kind === kind && job.state === 'interrupted' && parameters !== undefined
        return goesOn ? [{ job, parameters }] : []
      }),
  }
}
