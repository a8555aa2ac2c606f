import { fail } from '../../protocol/errors.ts'

// How far a file has grown that one thread writes and others read meanwhile: three numbers in shared memory, so that a
// reader sleeps until there is more and nobody sends messages per chunk.

const AVAILABLE = 0
const STATE = 1
/** Counts every change: a reader that looks, then waits for "other than what I saw", can miss none. */
const VERSION = 2
const SLOTS = 3

const GROWING = 0n
const WHOLE = 1n
const BROKEN = 2n

/** `Atomics.waitAsync` of ES2024, which Node has and the type library of ES2023 does not name. */
const { waitAsync } = Atomics as unknown as {
  waitAsync(
    array: BigInt64Array,
    index: number,
    value: bigint,
  ): { readonly async: boolean; readonly value: Promise<unknown> }
}

/** What a reader sees. */
export interface Growth {
  /** Bytes that may be read. */
  readonly available: number
  /** `whole`: nothing more comes, `broken`: nothing more comes and the end is missing. */
  readonly state: 'growing' | 'whole' | 'broken'
  /** Resolves when either is another than at the time of the call. */
  changed(): Promise<void>
}

/** What the writer says. */
export interface GrowthWriter extends Growth {
  /** What a thread needs to follow. */
  readonly memory: SharedArrayBuffer
  advance(available: number): void
  /** Says that nothing more comes; the first word counts. */
  end(state: 'whole' | 'broken'): void
}

/** Reads the growth that another thread, or this one, writes. */
export function followGrowth(memory: SharedArrayBuffer): Growth {
  const slots = new BigInt64Array(memory)
  return {
    get available() {
      return Number(Atomics.load(slots, AVAILABLE))
    },
    get state() {
      const state = Atomics.load(slots, STATE)
      return state === GROWING ? 'growing' : state === WHOLE ? 'whole' : 'broken'
    },
    async changed() {
      const waiting = waitAsync(slots, VERSION, Atomics.load(slots, VERSION))
      if (waiting.async) await waiting.value
    },
  }
}

/** Waits until more than `position` bytes are there, or nothing more comes. */
export async function waitBeyond(growth: Growth, position: number): Promise<void> {
  const done = () => growth.available > position || growth.state !== 'growing'
  while (!done()) {
    const change = growth.changed()
    if (done()) return
    await change
  }
}

/** Waits for the last byte. Throws HOLDING_GONE when it does not come. */
export async function waitWhole(growth: Growth, path: string): Promise<void> {
  while (growth.state === 'growing') {
    const change = growth.changed()
    if (growth.state === 'growing') await change
  }
  if (growth.state === 'broken') fail('HOLDING_GONE', { path, holder: 'this host' })
}

/** Begins to tell of a file's growth. */
export function createGrowth(available: number): GrowthWriter {
  const memory = new SharedArrayBuffer(SLOTS * BigInt64Array.BYTES_PER_ELEMENT)
  const slots = new BigInt64Array(memory)
  const tell = (): void => {
    Atomics.add(slots, VERSION, 1n)
    Atomics.notify(slots, VERSION)
  }
  Atomics.store(slots, AVAILABLE, BigInt(available))
  const growth = followGrowth(memory)
  return {
    memory,
    get available() {
      return growth.available
    },
    get state() {
      return growth.state
    },
    changed: growth.changed,
    advance(bytes) {
      Atomics.store(slots, AVAILABLE, BigInt(bytes))
      tell()
    },
    end(state) {
      if (growth.state !== 'growing') return
      Atomics.store(slots, STATE, state === 'whole' ? WHOLE : BROKEN)
      tell()
    },
  }
}
