import type { JobEvent, JobNote, JobProgress, JobStatus } from '../../protocol/api-jobs.ts'

/** Notes kept of a job, the newest: a person reads no more, and a damaged drive could fill the catalog. */
const NOTES_MAX = 100

/** Characters of a note: a sentence and a store path. */
const NOTE_LENGTH_MAX = 1000

/** Progress is told at most so often, ms: faster is not seen, and a merge of small paths makes thousands of steps a second. */
const TOLD_EVERY_MS = 100

/** Events that wait for one slow reader: a job has no more notes, and progress is told as it last was. */
const WAITING_MAX = NOTES_MAX + 10

/** The state of one job in memory, and those who follow it. */
export interface JobBook {
  status(): JobStatus
  update(change: Partial<JobStatus>): void
  progress(progress: JobProgress): void
  note(note: JobNote): void
  /** Tells the followers that nothing more comes. */
  end(): void
  /** The job as it stands, then what happens, to its end. */
  follow(): AsyncGenerator<JobEvent, void, undefined>
}

interface Follower {
  readonly waiting: JobEvent[]
  wake: () => void
}

/** The book of a job that begins with that status. */
export function createJobBook(first: JobStatus): JobBook {
  let status = first
  let ended = false
  let timer: NodeJS.Timeout | undefined
  const followers = new Set<Follower>()

  const tell = (event: JobEvent): void => {
    for (const { waiting, wake } of followers) {
      if (event.event === 'progress' && waiting.at(-1)?.event === 'progress') waiting.pop()
      if (waiting.length < WAITING_MAX || event.event === 'end') waiting.push(event)
      wake()
    }
  }
  const tellProgress = (): void => {
    timer = undefined
    tell({ event: 'progress', progress: status.progress })
  }
  const stopTimer = (): void => {
    clearTimeout(timer)
    timer = undefined
  }

  return {
    status: () => status,
    update(change) {
      status = { ...status, ...change }
    },
    progress(progress) {
      status = { ...status, progress }
      if (followers.size > 0) timer ??= setTimeout(tellProgress, TOLD_EVERY_MS).unref()
    },
    note(note) {
      const cut = { ...note, line: note.line.slice(0, NOTE_LENGTH_MAX) }
      status = { ...status, notes: [...status.notes.slice(1 - NOTES_MAX), cut] }
      tell({ event: 'note', note: cut })
    },
    end() {
      ended = true
      stopTimer()
      tell({ event: 'end', job: status })
      followers.clear()
    },
    async *follow() {
      if (ended) {
        yield { event: 'end', job: status }
        return
      }
      const follower: Follower = { waiting: [{ event: 'job', job: status }], wake: () => {} }
      followers.add(follower)
      try {
        for (;;) {
          const event = follower.waiting.shift()
          if (event === undefined) {
            await new Promise<void>(resolve => {
              follower.wake = resolve
            })
          } else {
            yield event
            if (event.event === 'end') return
          }
        }
      } finally {
        followers.delete(follower)
        if (followers.size === 0) stopTimer()
      }
    },
  }
}
