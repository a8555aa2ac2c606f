import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { MergeWish } from '../../protocol/api-jobs.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import { formatReceipt } from '../../protocol/receipt.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { Drive, Drives } from '../drives/drive.ts'
import type { EventBus } from '../events.ts'
import type { CacheDirWriter } from '../holders/cache-dir-writer.ts'
import type { IntakeThreads } from '../holders/intake-start.ts'
import type { JobHandle, JobOutcome, Jobs, RunningJob } from '../jobs/jobs.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { TrustRoom } from '../trust/trust-room.ts'
import { mergeDrive, type DriveMerge, type DriveMerged } from './merge-drive.ts'
import { createRepair } from './merge-repair.ts'
import { isWhole, receiptOf, resultOf, summaryOf } from './merge-result.ts'
import { aloneHere, type MergeShare } from './merge-share.ts'
import { createAdmission } from './merge-trust.ts'
import { receiptFile, writeBack, type TravelFile } from './receipts.ts'

export interface MergesOptions {
  readonly drives: Drives
  readonly jobs: Jobs
  readonly events: EventBus
  readonly cache: DriveMerge['cache']
  /** What copies; closed by whoever made it. */
  readonly threads: IntakeThreads
  readonly storeDir: string
  readonly hostName: string
  siteName(): string | undefined
  /** `cache.keepShipments`: what is plugged here is merged without being asked for. */
  readonly keeper: boolean
  /** `drives.merge`. */
  readonly policy: 'all' | 'signed' | 'none'
  readonly trust: Pick<TrustRoom, 'decide' | 'judge' | 'sign'>
  readonly substitution: Pick<Substitution, 'candidates' | 'nar' | 'verdicts'>
  readonly writer: Pick<CacheDirWriter, 'add'>
  /** Whether anybody of the site has a path, this host's own holders but the drive among them. */
  siteHas(hashPart: HashPart, butHolder: string): boolean | Promise<boolean>
  /** The other keepers, for a merge of that drive; default: there are none. */
  readonly share?: ((drive: Drive) => MergeShare) | undefined
  readonly wanted?: ((hashPart: HashPart, name: string) => number | undefined) | undefined
  /** What is wished for and neither here nor at the site. */
  readonly wantsMissing?: (() => Promise<readonly StorePath[]>) | undefined
  /** What goes back with a drive beside the receipt: have digest, want list. */
  readonly travel?: (() => Promise<readonly TravelFile[]>) | undefined
  /** Ms since 1970. */
  readonly clock?: (() => number) | undefined
}

/** Merges drives into this host's cache, by hand or, on a keeper, whenever one is plugged. */
export interface Merges {
  /** Begins with the drives that are plugged, and goes on with what was interrupted. */
  open(): Promise<void>
  close(): Promise<void>
  /** Throws DRIVE_UNREADABLE and MERGE_NOTHING. */
  merge(wish: MergeWish): Promise<RunningJob>
}

/** What a merge goes on from after a restart. */
interface Parameters {
  readonly driveId: string
  /** Of a folder that was named by hand: it is no drive before it is named again. */
  readonly adopted?: string | undefined
  readonly vouch: boolean
  readonly everything: boolean
}

/** How long a drive whose files cannot be read may take to be known as gone, ms: the watch takes up to 2 s. */
const GONE_KNOWN_MS = 2500

/** What on a drive makes it another shipment than before. */
const contentsOf = ({ id, contents: { shipment } }: Drive): string =>
  `${id} ${shipment?.manifest.id ?? '-'}/${shipment?.manifest.part ?? 0}`

/** Makes the room; see the options for what it leans on. */
export function createMerges(options: MergesOptions): Merges {
  const { drives, jobs, events, cache, threads, storeDir, keeper, policy, trust } = options
  const { clock = Date.now, share = () => aloneHere } = options
  /** Merged without being asked since they were plugged: a receipt that is written changes a drive. */
  const begun = new Set<string>()
  const waits = new Set<Promise<unknown>>()

  const work = async (drive: Drive, wish: Parameters, job: JobHandle): Promise<JobOutcome> => {
    const { holder } = drive
    const use = drives.use(drive.id, 'merge')
    if (holder === undefined || use === undefined) {
      return { state: 'interrupted', summary: 'the drive is not there' }
    }
    const signal = AbortSignal.any([job.signal, use.signal])
    const sharing = share(drive)
    let whole = false
    let merged: DriveMerged | undefined
    try {
      const repair = createRepair({ ...options, holder })
      merged = await mergeDrive({
        ...{ drive, holder, cache, threads, storeDir, signal, repair },
        share: sharing,
        ...{ everything: wish.everything, vouch: wish.vouch },
        admit: createAdmission({ trust, holder, vouch: wish.vouch }),
        has: hashPart => existsSync(join(cache.dir, `${hashPart}.narinfo`)),
        siteHas: hashPart => options.siteHas(hashPart, holder.id),
        wanted: options.wanted ?? (() => undefined),
        driveStands: standing(drive, use.signal),
        onProgress: progress => job.progress(progress),
        onDamaged: ({ storePath, problem, repairedFrom }) =>
          job.note(
            `${storePath} is damaged on ${drive.name}: ${problem}` +
              (repairedFrom === undefined ? '' : `; repaired from ${repairedFrom}`),
            'warning',
          ),
      })
      const outcome = await tell(drive, merged, use.signal)
      whole = outcome.state === 'done'
      return outcome
    } catch (error) {
      // A drive that is pulled makes whatever is at work with it fail in its own words.
      if (!use.signal.aborted || job.signal.aborted) throw error
      return { state: 'interrupted', summary: `${drive.name} was taken away` }
    } finally {
      merged?.plan.close()
      sharing.end(whole)
      use.done()
    }
  }

  const tell = async (
    drive: Drive,
    merged: DriveMerged,
    gone: AbortSignal,
  ): Promise<JobOutcome> => {
    const missing = await options.wantsMissing?.()
    const result = resultOf(drive, merged, missing)
    if (gone.aborted || merged.gone) {
      const summary = `${drive.name} was taken away: ${summaryOf(result)}`
      return { state: 'interrupted', summary, result }
    }
    const receipt = await writeReceipt(drive, merged, missing)
    return {
      state: isWhole(result) ? 'done' : 'partly',
      summary: summaryOf(result),
      result: { ...result, ...receipt },
    }
  }

  const writeReceipt = async (
    drive: Drive,
    merged: DriveMerged,
    missing: readonly StorePath[] = [],
  ): Promise<{ readonly receipt?: string; readonly receiptProblem?: string }> => {
    // Somebody's folder that was named by hand is read, and no more.
    if (drive.adopted && drive.contents.shipment === undefined) return {}
    if (drive.readOnly) return { receiptProblem: 'the drive is read-only' }
    const at = new Date(clock()).toISOString()
    const site = options.siteName()
    const file = receiptFile(site, options.hostName, at)
    try {
      const facts = { host: options.hostName, site, at, storeDir, missing }
      const receipt = receiptOf(resultOf(drive, merged, missing), merged, facts)
      const travel = (await options.travel?.()) ?? []
      const bytes = formatReceipt(receipt, text => trust.sign(text))
      const problem = await writeBack(drive.dir, [{ file, bytes }, ...travel])
      return problem === undefined ? { receipt: file } : { receiptProblem: problem }
    } catch (error) {
      return { receiptProblem: problemOf(error) }
    }
  }

  const start = (drive: Drive, wish: Parameters, resumes?: number): RunningJob =>
    jobs.start(
      {
        ...{ kind: 'merge', title: `merge ${drive.name}`, subject: drive.id },
        ...{ parameters: wish, resumes },
      },
      job => work(drive, wish, job),
    )

  /** What was interrupted goes on; on a keeper what is new begins. */
  const arrived = (drive: Drive): void => {
    if (drive.holder === undefined) return
    const interrupted = jobs
      .interrupted('merge')
      .find(({ parameters }) => (parameters as Parameters).driveId === drive.id)
    const contents = contentsOf(drive)
    if (interrupted !== undefined) {
      begun.add(contents)
      start(drive, interrupted.parameters as Parameters, interrupted.job.id)
    } else if (keeper && policy !== 'none' && !drive.adopted && !begun.has(contents)) {
      begun.add(contents)
      start(drive, { driveId: drive.id, vouch: policy === 'all', everything: false })
    }
  }
  const onPlugged = (driveId: string): void => {
    const drive = drives.plugged().find(({ id }) => id === driveId)
    if (drive !== undefined) arrived(drive)
  }
  const onGone = (driveId: string): void => {
    for (const contents of begun) if (contents.startsWith(`${driveId} `)) begun.delete(contents)
  }

  /** Folders that were named by hand before a restart. */
  const adoptAgain = async (): Promise<void> => {
    for (const { job, parameters } of jobs.interrupted('merge')) {
      const { adopted } = parameters as Parameters
      if (adopted === undefined) continue
      try {
        start(await drives.adopt(adopted), parameters as Parameters, job.id)
      } catch {
        // It is not there now; the job stays interrupted until it is named again.
      }
    }
  }

  return {
    async open() {
      events.on('drive:plugged', onPlugged)
      events.on('drive:changed', onPlugged)
      events.on('drive:gone', onGone)
      for (const drive of drives.plugged()) arrived(drive)
      const adopting = adoptAgain().finally(() => waits.delete(adopting))
      waits.add(adopting)
    },
    async close() {
      events.off('drive:plugged', onPlugged)
      events.off('drive:changed', onPlugged)
      events.off('drive:gone', onGone)
      await Promise.allSettled(waits)
    },
    async merge({ drive: named, trust: vouch = false, everything = false }) {
      const drive = drives.find(named) ?? (await drives.adopt(named))
      if (drive.holder === undefined) fail('MERGE_NOTHING', { drive: drive.name })
      begun.add(contentsOf(drive))
      const adopted = drive.adopted ? drive.dir : undefined
      return start(drive, { driveId: drive.id, adopted, vouch, everything })
    },
  }
}

/** Whether a drive is still the one that it was: of one whose files cannot be read it is waited a moment for the watch's word. */
function standing({ dir }: Drive, gone: AbortSignal): () => Promise<boolean> {
  const device = (): number | undefined => {
    try {
      return statSync(dir).dev
    } catch {
      return undefined
    }
  }
  const before = device()
  return async () => {
    if (gone.aborted || device() !== before) return false
    await pause(GONE_KNOWN_MS, undefined, { signal: gone }).catch(() => undefined)
    return !gone.aborted && device() === before
  }
}
