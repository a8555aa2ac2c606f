import { fail } from '../../protocol/errors.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { CacheIntake, Taken, TakenNar } from '../holders/cache-dir-intake.ts'
import { PATH_OVERHEAD_BYTES, type CacheSpace } from './merge-space.ts'
import type { MergePlan } from './merge-plan.ts'

// Copies what a plan says, batch by batch: while one batch is written out and gets its names, the next is being copied.

/** A path whose NAR on the drive was not what it should be. */
export interface DamagedCopy {
  readonly storePath: StorePath
  readonly problem: string
  /** Who had a whole one. */
  readonly repairedFrom?: string | undefined
}

export interface MergeRun {
  readonly plan: MergePlan
  /** Those of the plan that are to be copied now, in its order. */
  readonly order: readonly number[]
  readonly intake: Pick<CacheIntake, 'take' | 'settle' | 'drop'>
  /** Directory of the drive's cache. */
  readonly root: string
  /** The file hashes of the plan are a trusted depot's word. */
  readonly vouched: boolean
  readonly space: CacheSpace
  readonly signal: AbortSignal
  /** Brings a path from another holder, and tells from whom; its references are there. */
  repair(info: NarInfo, problem: string): Promise<string | undefined>
  /** Whether the drive can still be read, asked when several of its files could not. */
  driveStands(): Promise<boolean>
  onProgress(now: { readonly what: string }): void
  onDamaged(damaged: DamagedCopy): void
}

/** What a run did. */
export interface MergeRunResult {
  /** Paths that stand now, and bytes of their files. */
  readonly came: number
  readonly bytes: number
  readonly damaged: readonly DamagedCopy[]
  /** The disk said that it is full. */
  readonly full: boolean
  /** The drive is not there any more. */
  readonly gone: boolean
}

/** What is asked of the copying threads at a time; the next such slice is asked for before this one is done. */
const SLICE_PATHS = 64
const SLICE_BYTES = 64 * 1024 * 1024

/**
 * What gets its names together. Writing it out is paid once for all of it, and on a busy disk that takes seconds: meanwhile
 * copying goes on, and the next batch grows up to the limit. What a kill takes away is one batch.
 */
const BATCH_PATHS = 512
const BATCH_BYTES = 256 * 1024 * 1024
const BATCH_MAX_PATHS = 4096
const BATCH_MAX_BYTES = 1024 ** 3

/** Files of a batch that cannot be read before the drive itself is looked at. */
const UNREADABLE_SUSPICIOUS = 3

interface Copied {
  readonly path: number
  readonly info: NarInfo
  readonly taken: Taken
}

/** Runs a merge to its end, or until `signal`: what was begun is then let go of, what stands stands. Throws CACHE_UNWRITABLE. */
export async function runMerge(run: MergeRun): Promise<MergeRunResult> {
  const { plan, order, intake, root, vouched, space, signal } = run
  const damaged: DamagedCopy[] = []
  let came = 0
  let bytes = 0
  let full = false
  let gone = false
  let unwritable: string | undefined

  const isOver = (): boolean => full || gone || unwritable !== undefined || signal.aborted

  /** Why a path cannot stand, `lacking` being what it refers to. */
  const blockedBy = (lacking: number): 'no-room' | 'parked' =>
    plan.stateOf(lacking) === 'no-room' ? 'no-room' : 'parked'

  let at = 0
  /** Paths that are being copied or wait for their names: what refers to them may be copied too. */
  const coming = new Set<number>()
  /** Bytes of what is being copied, which the disk does not know of yet. */
  let copying = 0
  const costOf = (path: number): number => plan.sizeOf(path) + PATH_OVERHEAD_BYTES

  /** The next paths that may come and fit. */
  const nextSlice = async (): Promise<Set<number>> => {
    const slice = new Set<number>()
    let room = (await space.room()) - copying
    let size = 0
    while (at < order.length && slice.size < SLICE_PATHS && size < SLICE_BYTES) {
      const path = order[at++] as number
      const lacking = plan.lackingOf(path, coming)
      const cost = costOf(path)
      if (lacking !== undefined) plan.setState(path, blockedBy(lacking))
      else if (cost > room) plan.setState(path, 'no-room')
      else {
        room -= cost
        size += cost
        coming.add(path)
        slice.add(path)
      }
    }
    return slice
  }

  const copyOne = async (path: number): Promise<Copied> => {
    const cost = costOf(path)
    copying += cost
    space.took(cost)
    const { info, files } = plan.read(path)
    const taken: Taken = isOver()
      ? { state: 'stopped' }
      : await intake.take({ info, files, root, vouched })
    copying -= cost
    if (taken.state !== 'taken') space.took(-cost)
    run.onProgress({ what: info.storePath })
    return { path, info, taken }
  }

  const stand = async (taken: readonly (TakenNar & { readonly path: number })[]): Promise<void> => {
    if (taken.length === 0) return
    const settled = await intake.settle(taken)
    for (const [index, { path, narinfo }] of taken.entries()) {
      if (index >= settled.narinfos) {
        plan.setState(path, 'no-room')
        continue
      }
      plan.setState(path, 'came')
      came++
      bytes += narinfo.fileSize ?? 0
    }
    if (settled.problem === undefined) return
    // Only a disk that is full says so here and not before, when the NARs themselves were written.
    if (/ENOSPC|EDQUOT/.test(settled.problem)) full = true
    else unwritable = settled.problem
  }

  const mend = async (info: NarInfo, path: number, problem: string): Promise<void> => {
    const repairedFrom = await run.repair(info, problem)
    const one = { storePath: info.storePath, problem, repairedFrom }
    damaged.push(one)
    run.onDamaged(one)
    plan.setState(path, repairedFrom === undefined ? 'damaged' : 'came')
    if (repairedFrom !== undefined) came++
  }

  /** Gives those that can stand their names, in order; repairs what is damaged, as what follows may refer to it. */
  const finish = async (batch: readonly Copied[]): Promise<void> => {
    const unreadable = batch.filter(({ taken }) => taken.state === 'unreadable').length
    if (unreadable >= Math.min(UNREADABLE_SUSPICIOUS, batch.length) && unreadable > 0) {
      gone = !signal.aborted && !(await run.driveStands())
    }
    let ready = new Map<number, TakenNar>()
    const flush = async (): Promise<void> => {
      const now = [...ready].map(([path, taken]) => ({ ...taken, path }))
      ready = new Map()
      await stand(now)
    }
    for (const { path, info, taken } of batch) {
      const lacking = plan.lackingOf(path, ready)
      const isLost = lacking !== undefined || unwritable !== undefined
      if (lacking !== undefined) plan.setState(path, blockedBy(lacking))
      if (isLost) {
        if (taken.state === 'taken') {
          await intake.drop(taken)
          space.took(-costOf(path))
        }
      } else if (taken.state === 'taken') {
        ready.set(path, taken)
      } else if (taken.state === 'unwritable') {
        if (taken.full) full = true
        else unwritable = taken.problem
        plan.setState(path, 'no-room')
      } else if (taken.state !== 'stopped' && !gone && !signal.aborted) {
        await flush()
        await mend(info, path, taken.problem)
      }
    }
    await flush()
    for (const { path } of batch) coming.delete(path)
  }

  let finishing: Promise<void> | undefined
  let gathered: Copied[] = []
  let gatheredBytes = 0
  const gather = async (copied: readonly Copied[]): Promise<void> => {
    gathered.push(...copied)
    for (const { path } of copied) gatheredBytes += plan.sizeOf(path)
    const isBatch = gathered.length >= BATCH_PATHS || gatheredBytes >= BATCH_BYTES
    const isLimit = gathered.length >= BATCH_MAX_PATHS || gatheredBytes >= BATCH_MAX_BYTES
    if (isLimit || (isBatch && finishing === undefined)) await finishGathered()
  }
  /** Begins to give names to what is gathered, once those before have theirs. */
  const finishGathered = async (): Promise<void> => {
    await finishing
    const batch = gathered
    gathered = []
    gatheredBytes = 0
    const now = finish(batch).finally(() => {
      if (finishing === now) finishing = undefined
    })
    finishing = now
    now.catch(() => undefined)
  }

  let slice: Promise<Copied[]> | undefined
  while (!isOver() && at < order.length) {
    const next = Promise.all([...(await nextSlice())].map(copyOne))
    next.catch(() => undefined)
    if (slice !== undefined) await gather(await slice)
    slice = next
  }
  if (slice !== undefined) await gather(await slice)
  await finishGathered()
  await finishing
  if (full) {
    for (const path of order) if (plan.stateOf(path) === 'todo') plan.setState(path, 'no-room')
  }
  if (unwritable !== undefined) fail('CACHE_UNWRITABLE', { dir: root, problem: unwritable })
  return { came, bytes, damaged, full, gone }
}
