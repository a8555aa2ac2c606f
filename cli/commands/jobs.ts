import type { JobStatus } from '../../protocol/api-jobs.ts'
import type { Command, Context } from '../command.ts'
import { CommandError, EXIT, type ExitStatus } from '../exit.ts'
import { describeProgress, exitOfJob, followJob } from '../follow-job.ts'
import { formatDuration, printable } from '../format.ts'
import type { Output } from '../output.ts'
import { formatTable } from '../table.ts'

/** Jobs shown to a person, the newest; `--json` has all. */
const SHOWN = 20

const ago = (time: string, now: number): string => `${formatDuration(now - Date.parse(time))} ago`

/** What stands in the last column: how far it is, or how it ended. */
const about = (job: JobStatus): string =>
  job.summary ?? job.error?.message ?? describeProgress(job.progress)

function print(out: Output, jobs: readonly JobStatus[], now: number): void {
  if (jobs.length === 0) {
    out.print('no job has been run yet')
    return
  }
  const rows = jobs
    .slice(0, SHOWN)
    .map(job => [
      String(job.id),
      printable(job.title),
      job.state,
      ago(job.startedAt, now),
      printable(about(job)),
    ])
  const head = ['JOB', 'WHAT', 'STATE', 'STARTED', 'RESULT']
  out.print(formatTable(rows, { head, right: [0], width: out.width }))
}

function numberOf(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text)
  throw new CommandError(
    `${printable(text)} is no number of a job`,
    'narwharf jobs lists them',
    EXIT.usage,
  )
}

async function follow({ client, io, out }: Context, id: number): Promise<ExitStatus> {
  const asked = await client()
  const job = await followJob(io, out, onEvent => asked.followJob(id, onEvent))
  if (out.asJson) out.json({ job })
  else
    out.print(
      `${printable(job.title)}: ${job.state}${job.summary ? `, ${printable(job.summary)}` : ''}`,
    )
  return exitOfJob(job)
}

/** `narwharf jobs [NUMBER]`: work that takes long, running and done. */
export const jobs: Command = async context => {
  const { client, out, arguments: args, options } = context
  const [text] = args
  if (text === undefined) {
    const reply = await (await client()).jobs()
    if (out.asJson) out.json(reply)
    else print(out, reply.jobs, Date.now())
    return EXIT.done
  }
  const id = numberOf(text)
  if (options.cancel !== true) return follow(context, id)
  const { job } = await (await client()).cancelJob(id)
  if (out.asJson) out.json({ job })
  else out.print(`${printable(job.title)} is stopped`)
  return EXIT.done
}
