import type { HashPart } from '../../protocol/store-path.ts'
import { stampOf } from './file-stamp.ts'
import { createHashPartFilter, type HashPartFilter } from './hash-part-filter.ts'

// Which hash parts a cache directory may have, from the names that were read last. While the directory itself looks as it
// did before they were read, no name has come, and what is not among them need not be looked for.

/** Room for so many times the names of the last reading. */
const ROOM_FACTOR = 2

/** How old the answer to "did the directory change?" may be, ms: what changed less than that ago changed while it was asked. */
const LOOK_MS = 1

/** Whether a directory may have a narinfo. */
export interface NamePresence {
  /** All names are about to be read; gives who takes them, and is told the end. */
  reading(): { add(part: HashPart): void; done(): void }
  /** False only where the directory has no narinfo of that name now. */
  mayHave(part: HashPart): boolean
}

/** The names of one directory. */
export function createNamePresence(dir: string): NamePresence {
  let names: { readonly stamp: string; readonly filter: HashPartFilter } | undefined
  let stands = false
  let lookAt = -Infinity
  let lastCount = 0

  return {
    reading() {
      const stamp = stampOf(dir)
      const filter = createHashPartFilter(lastCount * ROOM_FACTOR)
      let count = 0
      return {
        add(part) {
          count++
          filter.put(part)
        },
        done() {
          lastCount = count
          // A directory that changed within this tick of the clock may change again without a sign.
          const isSure = stamp !== undefined && !stamp.fresh && !filter.isFull
          names = isSure ? { stamp: stamp.text, filter } : undefined
          lookAt = -Infinity
        },
      }
    },
    mayHave(part) {
      if (names === undefined) return true
      const now = performance.now()
      if (now >= lookAt) {
        lookAt = now + LOOK_MS
        stands = stampOf(dir)?.text === names.stamp
      }
      return !stands || names.filter.mayHave(part)
    },
  }
}
