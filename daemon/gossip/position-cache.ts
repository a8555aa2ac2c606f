import type { BaseName } from '../../protocol/store-path.ts'

/**
 * Positions remembered: the paths that most others refer to are few, and asking the catalog for each costs 15 µs of the thread
 * that answers narinfos. 8 MB.
 */
const CACHE_ENTRIES = 50_000

/** Where paths stand in one log, as found before. */
export interface PositionCache {
  /** Asks for those only that are not remembered. */
  of(
    names: readonly BaseName[],
    ask: (names: readonly BaseName[]) => readonly (number | undefined)[],
  ): (number | undefined)[]
  /** They went, or stand elsewhere now. */
  forget(names: Iterable<BaseName>): void
}

/** Of one log: another one needs another cache. */
export function createPositionCache(limit = CACHE_ENTRIES): PositionCache {
  let known = new Map<BaseName, number>()
  /** The generation before: what is still in use moves on, the rest goes with it. */
  let older = new Map<BaseName, number>()

  const remember = (name: BaseName, position: number) => {
    if (known.size >= limit / 2) {
      older = known
      known = new Map()
    }
    known.set(name, position)
  }
  const recall = (name: BaseName): number | undefined => {
    const position = known.get(name) ?? older.get(name)
    if (position !== undefined && !known.has(name)) remember(name, position)
    return position
  }
  return {
    of(names, ask) {
      const found = names.map(recall)
      const missing = names.filter((_, at) => found[at] === undefined)
      const asked = missing.length === 0 ? [] : ask(missing)
      let next = 0
      return found.map((position, at) => {
        if (position !== undefined) return position
        const answer = asked[next++]
        if (answer !== undefined) remember(names[at] as BaseName, answer)
        return answer
      })
    },
    forget(names) {
      for (const name of names) {
        known.delete(name)
        older.delete(name)
      }
    },
  }
}
