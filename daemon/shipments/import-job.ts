import type { ImportEvent, ImportTotals } from '../../protocol/api-archives.ts'
import type { JobHandle, JobOutcome, Jobs } from '../jobs/jobs.ts'
import type { ImportStep, ImportWish } from './import-run.ts'

/** An archive that somebody sends. */
export interface SentArchive {
  /** What the sender calls it, for a person. */
  readonly title: string
  /** Where it is known before. */
  readonly totalBytes?: number | undefined
  readonly bytes: AsyncIterable<Uint8Array>
}

export interface ImportJobsOptions {
  readonly jobs: Pick<Jobs, 'start'>
  readonly importArchive: (
    archive: AsyncIterable<Uint8Array>,
    wish: ImportWish,
    signal: AbortSignal,
  ) => AsyncIterable<ImportStep>
}

/** Imports an archive as a job; `say` hears everything, and may hold it back. Resolves when it has ended, however; never rejects. */
export type ImportSource = (
  archive: SentArchive,
  wish: ImportWish,
  say: (event: ImportEvent) => Promise<void> | void,
) => Promise<void>

/** Refused paths that the job itself keeps; whoever sent the archive hears of all. */
const KEPT_REFUSED = 100

interface Refused {
  readonly storePath: string
  readonly problem: string
}

const summaryOf = ({ accepted, there, refused }: ImportTotals): string =>
  `${accepted} accepted, ${there} there already, ${refused} refused`

let imports = 0

/** Makes the function. The archive comes from its sender, so an import that is broken off is not gone on with: it is sent again. */
export function createImportJobs({ jobs, importArchive }: ImportJobsOptions): ImportSource {
  return async (archive, wish, say) => {
    const { title, totalBytes, bytes } = archive
    const work = async (job: JobHandle): Promise<JobOutcome> => {
      await say({ event: 'start', job: job.id })
      const refused: Refused[] = []
      let totals: ImportTotals = { accepted: 0, there: 0, refused: 0, narBytes: 0 }
      let done = 0
      let seen = 0
      for await (const step of importArchive(bytes, wish, job.signal)) {
        await say(step)
        if (step.event === 'progress') seen = step.bytes
        else if (step.event === 'end') totals = step
        else done++
        if (step.event === 'refused' && refused.length < KEPT_REFUSED) {
          refused.push({ storePath: step.storePath, problem: step.problem })
        }
        job.progress({ done, bytes: seen, totalBytes })
      }
      const none = totals.accepted + totals.there === 0
      return {
        state: totals.refused === 0 ? 'done' : none ? 'failed' : 'partly',
        summary: summaryOf(totals),
        result: { ...totals, refusedPaths: refused },
      }
    }
    const spec = {
      kind: 'import',
      title: `import ${title}`,
      subject: `${title} ${++imports}`,
    } as const
    const { error } = await jobs.start(spec, work).ended
    if (error !== undefined) await say({ event: 'failed', error })
  }
}
