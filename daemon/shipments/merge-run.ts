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

/**
 * A batch: large enough that writing it out is paid once for many (measured: 64 paths cost a third more than 512), small
 * enough that what came is offered soon and that a kill takes little away.
 */
const BATCH_PATHS = 512
const BATCH_BYTES = 256 * 1024 * 1024

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
  /** The next paths that may come and fit; `coming` are those of the batch before, which may not stand yet. */
  const nextBatch = async (coming: ReadonlySet<number>): Promise<Set<number>> => {
    const batch = new Set<number>()
    const expected = new Set(coming)
    let room = await space.room()
    let size = 0
    while (at < order.length && batch.size < BATCH_PATHS && size < BATCH_BYTES) {
      const path = order[at++] as number
      const lacking = plan.lackingOf(path, expected)
      const cost = plan.sizeOf(path) + PATH_OVERHEAD_BYTES
      if (lacking !== undefined) plan.setState(path, blockedBy(lacking))
      else if (cost > room) plan.setState(path, 'no-room')
      else {
        room -= cost
        size += cost
        expected.add(path)
        batch.add(path)
      }
    }
    return batch
  }

  const copy = (batch: ReadonlySet<number>): Promise<Copied[]> =>
    Promise.all(
      [...batch].map(async path => {
        const { info, files } = plan.read(path)
        const taken: Taken = isOver()
          ? { state: 'stopped' }
          : await intake.take({ info, files, root, vouched })
        run.onProgress({ what: info.storePath })
        return { path, info, taken }
      }),
    )

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
      space.took((narinfo.fileSize ?? 0) + PATH_OVERHEAD_BYTES)
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
        if (taken.state === 'taken') await intake.drop(taken)
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
  }

  let finishing: Promise<void> = Promise.resolve()
  let coming: ReadonlySet<number> = new Set()
  while (!isOver() && at < order.length) {
    const batch = await nextBatch(coming)
    const copied = await copy(batch)
    await finishing
    finishing = finish(copied)
    finishing.catch(() => undefined)
    coming = batch
  }
  await finishing
  if (full) {
    for (const path of order) if (plan.stateOf(path) === 'todo') plan.setState(path, 'no-room')
  }
  if (unwritable !== undefined) fail('CACHE_UNWRITABLE', { dir: root, problem: unwritable })
  return { came, bytes, damaged, full, gone }
}
