import type { JobEvent, JobProgress, JobStatus } from '../protocol/api-jobs.ts'
import { CommandError, EXIT, type ExitStatus } from './exit.ts'
import { formatCount, formatSize, printable } from './format.ts'
import type { Io, Output } from './output.ts'

// A job as a person follows it: on a terminal one line that changes, elsewhere a line at every tenth, and every note.

/** Columns of the bar itself. */
const BAR_COLUMNS = 20

/** Columns of a terminal that does not say. */
const COLUMNS = 80

/** Part of the whole that is done, 0 to 1; undefined while the whole is not known. By bytes where they are counted. */
function share({ done, total, bytes, totalBytes }: JobProgress): number | undefined {
  if (bytes !== undefined && totalBytes !== undefined && totalBytes > 0) {
    return Math.min(1, bytes / totalBytes)
  }
  return total === undefined || total === 0 ? undefined : Math.min(1, done / total)
}

/** How far a job is, as words: `123 of 2,000, 1.2 GiB of 3.0 GiB`. */
export function describeProgress({ done, total, bytes, totalBytes }: JobProgress): string {
  const count =
    total === undefined ? formatCount(done) : `${formatCount(done)} of ${formatCount(total)}`
  if (bytes === undefined) return count
  const size =
    totalBytes === undefined
      ? formatSize(bytes)
      : `${formatSize(bytes)} of ${formatSize(totalBytes)}`
  return `${count}, ${size}`
}

function bar(progress: JobProgress, columns: number): string {
  const part = share(progress) ?? 0
  const full = Math.round(part * BAR_COLUMNS)
  const drawn = `[${'='.repeat(full)}${' '.repeat(BAR_COLUMNS - full)}]`
  const name = progress.what === undefined ? '' : `  ${printable(progress.what)}`
  const percent = `${Math.floor(part * 100)}`.padStart(3)
  return `${drawn} ${percent} %  ${describeProgress(progress)}${name}`.slice(0, columns - 1)
}

/** Follows a job that `ask` begins or finds; gives it as it ended. Throws CommandError when the daemon breaks off. */
export async function followJob(
  io: Io,
  out: Output,
  ask: (onEvent: (event: JobEvent) => void) => Promise<void>,
): Promise<JobStatus> {
  const drawn = io.stderr.isTTY === true && !out.asJson && !out.quiet
  let line = ''
  let tenth = 0
  let ended: JobStatus | undefined
  const clear = (): void => {
    if (line !== '') io.stderr.write(`\r${' '.repeat(line.length)}\r`)
    line = ''
  }
  const show = (progress: JobProgress): void => {
    if (drawn) {
      const next = bar(progress, out.width === Infinity ? COLUMNS : out.width)
      io.stderr.write(`\r${next.padEnd(line.length)}`)
      line = next
      return
    }
    const reached = Math.floor((share(progress) ?? 0) * 10)
    if (reached <= tenth) return
    tenth = reached
    out.note(`${reached * 10} %  ${describeProgress(progress)}`)
  }
  const say = ({ level, line: text }: JobStatus['notes'][number]): void => {
    clear()
    const words = printable(text)
    out.note(level === 'warning' ? `${out.colors.yellow('warning:')} ${words}` : words)
  }
  try {
    await ask(event => {
      switch (event.event) {
        case 'job':
          for (const note of event.job.notes) say(note)
          show(event.job.progress)
          return
        case 'progress':
          return show(event.progress)
        case 'note':
          return say(event.note)
        case 'end':
          ended = event.job
      }
    })
  } finally {
    clear()
  }
  if (ended !== undefined) return ended
  throw new CommandError(
    'the daemon broke off',
    'narwharf jobs says how the job stands; run it again: what is done is not done twice',
  )
}

/** The exit status of a job that ended. Throws what it failed of. */
export function exitOfJob({ state, error }: JobStatus): ExitStatus {
  if (error !== undefined && state !== 'done') throw new CommandError(error.message, error.hint)
  if (state === 'done') return EXIT.done
  return state === 'failed' ? EXIT.failed : EXIT.partly
}
