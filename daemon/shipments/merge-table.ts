import type { HashPart } from '../../protocol/store-path.ts'

// What a merge knows of each path, in columns: half a million of them are 100 MB.

/** How a path stands. */
export type PathState =
  /** Not on the drive, and not looked for yet. */
  | 'unknown'
  /** In this cache. */
  | 'here'
  /** The site keeps it, as far as this merge is concerned. */
  | 'elsewhere'
  /** Another keeper takes it; looked at again when that one is done. */
  | 'theirs'
  /** On the drive, but nobody trusted answers for it. */
  | 'refused'
  | 'todo'
  /** Came in this merge. */
  | 'came'
  | 'damaged'
  /** Something that it refers to is neither on the drive nor at the site. */
  | 'parked'
  /** There was no room for it, or for what it refers to. */
  | 'no-room'
  /** Nobody has it, and something refers to it. */
  | 'missing'

const STATES: readonly PathState[] = [
  ...(['unknown', 'here', 'elsewhere', 'theirs', 'refused', 'todo', 'came'] as const),
  ...(['damaged', 'parked', 'no-room', 'missing'] as const),
]

/** Those with which what refers to them is whole. */
export const THERE: ReadonlySet<PathState> = new Set(['here', 'elsewhere', 'theirs', 'came'])

/** Numbers that grow. */
function createNumbers() {
  let numbers = new Int32Array(4096)
  let count = 0
  return {
    push(number: number): void {
      if (count === numbers.length) {
        const larger = new Int32Array(count * 2)
        larger.set(numbers)
        numbers = larger
      }
      numbers[count++] = number
    },
    get: (at: number): number => numbers[at] as number,
    get length() {
      return count
    },
  }
}

/** What is known of each path, in columns. */
export function createPathTable() {
  const numbers = new Map<HashPart, number>()
  const hashParts: HashPart[] = []
  const states: number[] = []
  /** In the spill, -1: not there. */
  const texts: number[] = []
  const sizes: number[] = []
  const parts: number[] = []
  /** How much it is wished for. */
  const wishes: number[] = []
  const firstReference: number[] = []
  const references = createNumbers()
  return {
    get size() {
      return states.length
    },
    stateOf: (path: number): PathState => STATES[states[path] as number] as PathState,
    setState(path: number, state: PathState): void {
      states[path] = STATES.indexOf(state)
    },
    texts,
    sizes,
    parts,
    wishes,
    hashParts,
    of(hashPart: HashPart): number {
      let number = numbers.get(hashPart)
      if (number !== undefined) return number
      number = hashParts.length
      numbers.set(hashPart, number)
      hashParts.push(hashPart)
      states.push(0)
      texts.push(-1)
      sizes.push(0)
      parts.push(0)
      wishes.push(Infinity)
      firstReference.push(-1)
      return number
    },
    refer(path: number, referred: readonly number[]): void {
      firstReference[path] = references.length
      references.push(referred.length)
      for (const one of referred) references.push(one)
    },
    referencesOf(path: number): number[] {
      const first = firstReference[path] ?? -1
      if (first < 0) return []
      return Array.from({ length: references.get(first) }, (_, n) => references.get(first + 1 + n))
    },
  }
}

/** The paths of a plan, by number. */
export type PathTable = ReturnType<typeof createPathTable>
