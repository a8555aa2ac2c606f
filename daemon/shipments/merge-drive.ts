import { join } from 'node:path'
import type { MergedFiles } from '../../protocol/api-jobs.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import { createCacheIntake } from '../holders/cache-dir-intake.ts'
import type { IntakeThreads } from '../holders/intake-start.ts'
import { UNFINISHED } from '../holders/cache-dir-writer.ts'
import type { Drive } from '../drives/drive.ts'
import type { DriveHolder } from '../holders/drive.ts'
import { makeMergePlan, type Admitted, type MergePlan } from './merge-plan.ts'
import { runMerge, type DamagedCopy, type MergeRunResult } from './merge-run.ts'
import { mergeSections } from './merge-sections.ts'
import { isOwn, type MergeShare } from './merge-share.ts'
import { openCacheSpace, type CacheSpace } from './merge-space.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'

// One merge from its plan to its last file, of a drive into a cache directory; knows no job and no room.

export interface DriveMerge {
  readonly drive: Drive
  readonly holder: DriveHolder
  readonly cache: {
    readonly dir: string
    readonly maxSize: number
    readonly reserve?: number | undefined
  }
  readonly threads: IntakeThreads
  readonly storeDir: string
  readonly share: MergeShare
  /** Takes what other keepers keep already too. */
  readonly everything: boolean
  /** Takes channels and the like of a manifest that nobody trusted signed. */
  readonly vouch: boolean
  readonly signal: AbortSignal
  admit(entry: ShipmentEntry): Admitted | Promise<Admitted>
  has(hashPart: HashPart): boolean
  siteHas(hashPart: HashPart): boolean | Promise<boolean>
  wanted(hashPart: HashPart, name: string): number | undefined
  /** Brings a path from another holder than the drive. */
  repair(info: NarInfo, problem: string): Promise<string | undefined>
  driveStands(): Promise<boolean>
  onProgress(progress: MergeProgress): void
  onDamaged(damaged: DamagedCopy): void
}

export interface MergeProgress {
  readonly done: number
  readonly total?: number | undefined
  readonly bytes: number
  readonly totalBytes?: number | undefined
  readonly what?: string | undefined
}

/** What a merge did; the plan says how each path stands and must be closed. */
export interface DriveMerged {
  readonly plan: MergePlan
  readonly came: number
  readonly bytes: number
  readonly damaged: readonly DamagedCopy[]
  readonly files: MergedFiles | undefined
  readonly gone: boolean
}

let plans = 0

/** Whether what a drive's manifest says of its files is a trusted word. */
export const isVouched = ({ contents: { shipment } }: Drive): boolean =>
  shipment?.signedBy !== undefined && shipment.problem === undefined

/** Merges; ends early on `signal`, a full disk or a drive that went, and says so. Throws CACHE_UNWRITABLE, HOLDER_UNREADABLE. */
export async function mergeDrive(merge: DriveMerge): Promise<DriveMerged> {
  const { holder, cache, share, signal } = merge
  const intake = createCacheIntake({ dir: cache.dir, threads: merge.threads })
  const stop = (): void => intake.stop()
  await intake.open()
  signal.addEventListener('abort', stop, { once: true })
  if (signal.aborted) stop()
  try {
    // Until its index is read, the drive is asked for each narinfo.
    await holder.ready()
    const space = await openCacheSpace(cache)
    const plan = await makeMergePlan({
      ...{ storeDir: merge.storeDir, signal },
      entries: () => holder.entries(),
      admit: merge.admit,
      has: merge.has,
      kept: part => !merge.everything && share.kept(part),
      siteHas: merge.siteHas,
      wanted: merge.wanted,
      spillFile: join(cache.dir, `${UNFINISHED}${process.pid}-plan${++plans}`),
      onLooked: paths => merge.onProgress({ done: 0, bytes: 0, what: `${paths} paths looked at` }),
    })
    try {
      return await copyPlan(merge, { plan, intake, space })
    } catch (error) {
      plan.close()
      throw error
    }
  } finally {
    signal.removeEventListener('abort', stop)
    await intake.close()
  }
}

interface Means {
  readonly plan: MergePlan
  readonly intake: ReturnType<typeof createCacheIntake>
  readonly space: CacheSpace
}

async function copyPlan(merge: DriveMerge, { plan, intake, space }: Means): Promise<DriveMerged> {
  const { drive, holder, share, signal } = merge
  const results: MergeRunResult[] = []
  let done = 0
  const run = async (order: readonly number[]): Promise<MergeRunResult> => {
    const result = await runMerge({
      ...{ plan, order, intake, space, signal, root: drive.dir },
      vouched: isVouched(drive) && holder.indexedPaths !== undefined,
      repair: merge.repair,
      driveStands: merge.driveStands,
      onDamaged: merge.onDamaged,
      onProgress: ({ what }) =>
        merge.onProgress({
          ...{ done: ++done, total: plan.order.length, what },
          ...{ bytes: intake.bytes, totalBytes: plan.bytes },
        }),
    })
    results.push(result)
    return result
  }

  const own: number[] = []
  for (const path of plan.order) {
    if (isOwn(share, plan.hashPartOf(path))) own.push(path)
    else plan.setState(path, 'theirs')
  }
  let last = await run(own)
  if (own.length < plan.order.length && !last.gone && !last.full && !signal.aborted) {
    share.shareDone()
    await share.othersDone(signal)
    last = await run(takeOver(merge, plan))
  }
  const { shipment } = drive.contents
  const mayFiles = shipment !== undefined && (isVouched(drive) || merge.vouch)
  const files =
    mayFiles && !last.gone && !signal.aborted
      ? await mergeSections({
          ...{ manifest: shipment.manifest, root: drive.dir, dir: merge.cache.dir },
          ...{ intake, space, signal },
          onFile: what =>
            merge.onProgress({
              ...{ done, total: plan.order.length, what },
              ...{ bytes: intake.bytes, totalBytes: plan.bytes },
            }),
        })
      : undefined
  return {
    ...{ plan, files, gone: last.gone },
    came: results.reduce((sum, { came }) => sum + came, 0),
    bytes: results.reduce((sum, { bytes }) => sum + bytes, 0),
    damaged: results.flatMap(({ damaged }) => damaged),
  }
}

/** What the others were to take and have not, as far as is known; one that died has lost nothing. */
function takeOver({ has, share }: DriveMerge, plan: MergePlan): number[] {
  return plan.order.filter(path => {
    if (plan.stateOf(path) !== 'theirs') return false
    const part = plan.hashPartOf(path)
    const state = has(part) ? 'here' : share.kept(part) ? 'elsewhere' : 'todo'
    plan.setState(path, state)
    return state === 'todo'
  })
}
