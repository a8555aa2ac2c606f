import { fail } from '../../protocol/errors.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { CacheIntake } from '../holders/cache-dir-intake.ts'
import type { Candidate } from '../substitution/candidates.ts'
import type { ClosureNode } from './pack-closure.ts'
import type { PackSources } from './pack-source.ts'
import type { Staged, Stager, Staging } from './pack-stage.ts'
import type { There } from './pack-there.ts'

// A list of paths onto the drive, in its order: some at a time are copied and checked, and many at a time get their names, so
// that the drive writes out large amounts seldom rather than small ones all the time.

/** Paths under way at a time, and the bytes at which one more waits. */
const UNDER_WAY_MAX = 6
const UNDER_WAY_BYTES = 16 * 1024 * 1024

/** What gets its names at once: what a kill loses at most, some seconds of a slow stick. */
const BATCH_PATHS = 256
const BATCH_BYTES = 128 * 1024 * 1024

export interface WriteOptions {
  readonly nodes: readonly ClosureNode[]
  /** Positions of what is to be written, in order: references first. */
  readonly order: readonly number[]
  readonly dir: string
  readonly sources: PackSources
  readonly target: Pick<There, 'find' | 'hasFile'>
  readonly stager: Stager
  readonly intake: Pick<CacheIntake, 'settle'>
  /** Throws when the target is not what it was. */
  readonly check: () => void
  readonly signal: AbortSignal
  /** A path is on the drive, or was there, or is missing. */
  readonly onDone: (node: ClosureNode, outcome: 'written' | 'there' | 'missing') => void
}

export interface WriteOutcome {
  /** Paths that were written by this call, and bytes of their files. */
  readonly written: number
  readonly bytes: number
  readonly there: number
  /** Positions, with why each could not be written. */
  readonly missing: ReadonlyMap<number, string>
  /** The drive was full before the end. */
  readonly full: boolean
  /** Positions of what it had no room for. */
  readonly unfit: readonly number[]
}

type Fetched = Staging | { readonly state: 'there' }

/** Works on several at a time and gives what came of them in order. */
async function* inOrder<T>(
  items: readonly { readonly at: number; readonly bytes: number }[],
  work: (at: number) => Promise<T>,
): AsyncGenerator<{ readonly at: number; readonly result: T }, void, undefined> {
  const running: { readonly at: number; readonly bytes: number; readonly result: Promise<T> }[] = []
  let next = 0
  let bytes = 0
  try {
    for (;;) {
      while (
        next < items.length &&
        running.length < UNDER_WAY_MAX &&
        (running.length === 0 || bytes < UNDER_WAY_BYTES)
      ) {
        const item = items[next++] as (typeof items)[number]
        const result = work(item.at)
        // Thrown when its turn comes; until then it must not count as unhandled.
        result.catch(() => undefined)
        running.push({ ...item, result })
        bytes += item.bytes
      }
      const first = running[0]
      if (first === undefined) return
      const result = await first.result
      running.shift()
      bytes -= first.bytes
      yield { at: first.at, result }
    }
  } finally {
    // What is under way still writes: nobody may clean up before it has ended.
    await Promise.allSettled(running.map(({ result }) => result))
  }
}

/** Writes the paths. What could not be had is in the outcome; throws what the target's file system makes impossible. */
export async function writePaths(options: WriteOptions): Promise<WriteOutcome> {
  const { nodes, order, sources, target, stager, intake, dir, signal, check, onDone } = options
  const missing = new Map<number, string>()
  const totals = { written: 0, bytes: 0, there: 0 }
  /** What stands there now. */
  const standing = new Set<number>()
  /** What the drive had no room for, and what needs it. */
  const unfit = new Set<number>()
  let full = false
  let batch: { readonly at: number; readonly staged: Staged }[] = []
  let batchBytes = 0
  const nodeAt = (at: number): ClosureNode => nodes[at] as ClosureNode

  const fetchOne = async (at: number): Promise<Fetched> => {
    signal.throwIfAborted()
    const { storePath } = nodeAt(at)
    const candidates: readonly Candidate[] = await sources.find(hashPartOf(storePath))
    const same = candidates.find(({ holding }) => holding.info.storePath === storePath)
    if ((await target.find(storePath, same)) !== undefined) return { state: 'there' }
    // Nothing is begun any more that could not be finished.
    if (full) return { state: 'full' }
    check()
    const staging = await stager.stage(storePath, candidates)
    if (staging.state === 'full') full = true
    return staging
  }

  const settle = async (): Promise<void> => {
    if (batch.length === 0) return
    check()
    const settling = batch
    batch = []
    batchBytes = 0
    for (const { staged } of settling) await stager.nameParts(staged)
    const { narinfos, problem } = await intake.settle(settling.map(({ staged }) => staged.taken))
    for (const { at, staged } of settling.slice(0, narinfos)) {
      standing.add(at)
      totals.written++
      totals.bytes += staged.taken.narinfo.fileSize ?? 0
      onDone(nodeAt(at), 'written')
    }
    if (problem === undefined) return
    if (!/ENOSPC|EDQUOT/.test(problem)) fail('CACHE_UNWRITABLE', { dir, problem })
    full = true
  }

  /** Paths of one content have one file: what stands is not put there again. */
  const sharing = async (staged: Staged): Promise<Staged> => {
    const { taken, parts } = staged
    const isThere = parts === undefined && target.hasFile(taken.narinfo.url)
    if (!isThere || taken.unfinished === undefined) return staged
    await stager.drop(staged)
    return { taken: { ...taken, unfinished: undefined } }
  }

  const take = async (at: number, result: Fetched): Promise<void> => {
    const node = nodeAt(at)
    const lacks = node.references.find(reference => missing.has(reference))
    const isUnfit = node.references.some(reference => unfit.has(reference))
    const lost = (problem: string): void => {
      missing.set(at, problem)
      onDone(node, 'missing')
    }
    switch (result.state) {
      case 'there':
        standing.add(at)
        totals.there++
        onDone(node, 'there')
        return
      case 'full':
        unfit.add(at)
        return
      case 'missing':
        return lost(result.problem)
      case 'staged':
        if (lacks !== undefined) {
          await stager.drop(result.staged)
          return lost(`${nodeAt(lacks).storePath}, which it refers to, is missing`)
        }
        if (isUnfit) {
          unfit.add(at)
          return stager.drop(result.staged)
        }
        batch.push({ at, staged: await sharing(result.staged) })
        batchBytes += result.staged.taken.narinfo.fileSize ?? 0
        if (batch.length >= BATCH_PATHS || batchBytes >= BATCH_BYTES) await settle()
    }
  }

  try {
    const items = order.map(at => ({ at, bytes: nodeAt(at).fileBytes }))
    for await (const { at, result } of inOrder(items, fetchOne)) {
      await take(at, result)
    }
    await settle()
  } catch (error) {
    for (const { staged } of batch) await stager.drop(staged)
    throw error
  }
  return {
    ...{ ...totals, missing, full },
    unfit: full ? order.filter(at => !standing.has(at) && !missing.has(at)) : [],
  }
}
