/** A map that forgets what was used longest ago once it holds too many entries or too much weight. */
export interface WeightedCache<V> {
  get(key: string): V | undefined
  set(key: string, value: V, weight: number): void
  delete(key: string): void
}

/** Makes a cache of at most `maxEntries` entries and `maxWeight` (bytes, as the caller counts them). */
export function createWeightedCache<V>(maxEntries: number, maxWeight: number): WeightedCache<V> {
  const entries = new Map<string, { readonly value: V; readonly weight: number }>()
  let total = 0
  const remove = (key: string): void => {
    const entry = entries.get(key)
    if (entry === undefined) return
    entries.delete(key)
    total -= entry.weight
  }
  return {
    get(key) {
      const entry = entries.get(key)
      if (entry === undefined) return undefined
      // A Map keeps the order of insertion: the first is the one used longest ago.
      entries.delete(key)
      entries.set(key, entry)
      return entry.value
    },
    set(key, value, weight) {
      remove(key)
      entries.set(key, { value, weight })
      total += weight
      for (const oldest of entries.keys()) {
        if (entries.size <= maxEntries && total <= maxWeight) break
        remove(oldest)
      }
    },
    delete: remove,
  }
}
