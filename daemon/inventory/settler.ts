import { joinStorePath, storeDirOf } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { IndexChange, IndexEntry } from '../site.ts'
import { sameEntry, type EntryMaker, type Found } from './index-entry.ts'
import type { OwnLog } from './own-index.ts'

export interface SettlerOptions {
  readonly entries: Pick<EntryMaker, 'of'>
  readonly log: Pick<OwnLog, 'has' | 'find'>
  /** Entries and removals of one change at most. */
  readonly maxPaths: number
}

export interface SettleOptions {
  /** Longest time in one go, ms. */
  readonly sliceMs: number
  /** Called after every slice. */
  readonly pause: () => Promise<void>
  readonly signal: AbortSignal
  /** What the log says of some of the paths, where that is known already. */
  readonly told?: ReadonlyMap<StorePath, IndexEntry> | undefined
}

/**
 * Finds out of paths that may differ from the log one change that sets it right, and takes them out of the set: all of
 * them, or as many as fill a change. A reference that is in the set too is looked at before what refers to it.
 */
export type Settle = (paths: Set<StorePath>, options: SettleOptions) => Promise<IndexChange>

interface Visit {
  readonly path: StorePath
  readonly found: Found
  /** References that are still to be looked at first. */
  readonly before: StorePath[]
}

/** A settler over the holders and the log of one host. */
export function createSettler({ entries, log, maxPaths }: SettlerOptions): Settle {
  const visit = (path: StorePath, paths: Set<StorePath>): Visit => {
    paths.delete(path)
    const found = entries.of(path)
    if (found.kind !== 'entry') return { path, found, before: [] }
    const storeDir = storeDirOf(path)
    const references = found.entry.info.references.map(name => joinStorePath(storeDir, name))
    return { path, found, before: references.filter(reference => paths.has(reference)) }
  }

  return async (paths, { sliceMs, pause, signal, told: known }) => {
    const added: IndexEntry[] = []
    const removed: StorePath[] = []
    const close = ({ path, found }: Visit): void => {
      if (found.kind === 'none') {
        if (log.has(path)) removed.push(path)
      } else if (found.kind === 'entry') {
        const told = known?.get(path) ?? log.find(path)
        if (told === undefined || !sameEntry(told, found.entry)) added.push(found.entry)
      }
    }
    const open: Visit[] = []
    let until = performance.now() + sliceMs
    while (added.length + removed.length < maxPaths) {
      const top = open.at(-1)
      const next = top === undefined ? firstOf(paths) : top.before.pop()
      if (next !== undefined) {
        if (paths.has(next)) open.push(visit(next, paths))
      } else if (top === undefined) {
        break
      } else {
        close(top)
        open.pop()
      }
      if (performance.now() > until) {
        await pause()
        if (signal.aborted) break
        until = performance.now() + sliceMs
      }
    }
    // What a full change had no room for comes with the next one; what it refers to is told already.
    for (const { path } of open) paths.add(path)
    return { added, removed }
  }
}

function firstOf(paths: ReadonlySet<StorePath>): StorePath | undefined {
  for (const path of paths) return path
  return undefined
}
