import { setImmediate as turn } from 'node:timers/promises'
import type { HashPart } from '../../protocol/store-path.ts'
import type { CacheDirInfo } from './cache-dir-info.ts'
import type { Lookup } from './cache-dir-lookup.ts'
import { stampOf } from './file-stamp.ts'
import type { HeldPath, HolderChange, HolderFollower } from './holder.ts'
import { BLOCK_PREFIXES, blockOf, createKnownParts } from './known-parts.ts'
import type { KnownParts } from './known-parts.ts'

// What came to a cache directory and what went shows in its names: where the directory has changed they are read again
// and compared, and only narinfos with new names are opened. A NAR that was taken from under its narinfo, and a narinfo
// put in another's place, change no name: every narinfo is then looked at again, after a while in which a name that
// explains the change may still appear (a NAR is written before its narinfo).

/** How long reading may hold the event loop before others have their turn, ms. */
const SLICE_MS = 2

/** Paths of one step. */
const PATHS_PER_STEP = 500

/** After looking, that many times as long is rested: a directory that changes all the time costs a fifth at most. */
const REST_FACTOR = 4

/** How long a change that no name explains may wait for one, ms: the time a large NAR takes to be written. */
const DOUBT_MS = 10_000

/** Narinfos without a NAR (or malformed) that are looked at again at every change; what is beyond waits for a whole walk. */
const WAITING_MAX = 1000

/** How much the clock of a file system may differ from this machine's, ms (a tick; a network share is another matter). */
const CLOCK_SLACK_MS = 2000

export interface CacheDirFollowerOptions {
  readonly dir: string
  readonly info: CacheDirInfo
  readonly lookup: Pick<Lookup, 'peek'>
  /** The names in the directory that look like narinfos; throws HOLDER_UNREADABLE. */
  readonly hashParts: () => AsyncIterable<HashPart>
  /** Ms since 1970, as file times are. */
  readonly clock?: (() => number) | undefined
}

interface State {
  readonly storeDir: string
  /** Device and inode of the directory. */
  readonly place: string
  readonly parts: KnownParts
  /** There, but no holding: the NAR is still to come. */
  readonly waiting: Set<HashPart>
  walked: boolean
  /** What was last seen of the directory, and of `nar/`; and whether a later change might look the same. */
  seen: string
  again: boolean
  /** When something changed that no name explained; and since when every narinfo is known to be as it was read. */
  doubtAt: number | undefined
  readAt: number
}

/** How the directory looks, without reading its names. */
interface Look {
  readonly text: string
  readonly place: string
  /** It changed so lately that another change might look the same. */
  readonly fresh: boolean
}

const placeOf = (stamp: string): string => stamp.split('.').slice(0, 2).join('.')

/** The follower of one cache directory. */
export function createCacheDirFollower(options: CacheDirFollowerOptions): HolderFollower {
  const { dir, info, lookup, hashParts, clock = Date.now } = options
  let state: State | undefined
  let restUntil = -Infinity

  /** Undefined where the directory cannot be seen. */
  const look = (): Look | undefined => {
    const own = stampOf(dir)
    if (own === undefined) return undefined
    const nars = stampOf(`${dir}/nar`)
    return {
      text: `${own.text} ${nars?.text ?? '-'}`,
      place: placeOf(own.text),
      fresh: own.fresh || nars?.fresh === true,
    }
  }

  /** Takes one in: what is told of it, or undefined while it is no holding. */
  const take = (into: State, part: HashPart): HeldPath | undefined => {
    const found = lookup.peek(part, into.storeDir)
    if (found === undefined) {
      if (into.waiting.size < WAITING_MAX) into.waiting.add(part)
      return undefined
    }
    into.waiting.delete(part)
    into.parts.add(part)
    return { storePath: found.storePath, narSize: found.narSize }
  }

  /** Gives others their turn when the slice is over. */
  const slices = () => {
    let until = performance.now() + SLICE_MS
    return async (): Promise<void> => {
      if (performance.now() <= until) return
      await turn()
      until = performance.now() + SLICE_MS
    }
  }

  async function* all(): AsyncGenerator<readonly HeldPath[], void, undefined> {
    state = undefined
    const storeDir = info.check()
    const now = look()
    const mine: State = {
      storeDir,
      place: now?.place ?? '',
      parts: createKnownParts(),
      waiting: new Set(),
      walked: false,
      seen: now?.text ?? '',
      again: now?.fresh ?? true,
      doubtAt: undefined,
      readAt: clock(),
    }
    state = mine
    const slice = slices()
    let batch: HeldPath[] = []
    for await (const part of hashParts()) {
      const path = take(mine, part)
      if (path !== undefined) batch.push(path)
      if (batch.length >= PATHS_PER_STEP) {
        yield batch
        batch = []
      }
      await slice()
    }
    if (batch.length > 0) yield batch
    mine.walked = true
  }

  /** The names that are there now, by blocks. */
  const namesByBlock = async (): Promise<ReadonlyMap<number, ReadonlySet<HashPart>>> => {
    const blocks = new Map<number, Set<HashPart>>()
    const slice = slices()
    for await (const part of hashParts()) {
      const index = blockOf(part)
      const block = blocks.get(index)
      if (block === undefined) blocks.set(index, new Set([part]))
      else block.add(part)
      await slice()
    }
    return blocks
  }

  /** Compares the names; the last word is whether any differed. */
  async function* byNames(from: State): AsyncGenerator<HolderChange, boolean> {
    const slice = slices()
    const blocks = await namesByBlock()
    let differed = false
    // Together, not block by block: each step costs the listener a transaction.
    let added: HeldPath[] = []
    let removed: HashPart[] = []
    for (const index of BLOCK_PREFIXES.keys()) {
      const names = blocks.get(index) ?? new Set<HashPart>()
      const known = from.parts.of(index)
      for (const part of known) {
        if (names.has(part)) continue
        from.parts.remove(part)
        removed.push(part)
      }
      for (const part of names) {
        if (known.has(part)) continue
        if (!from.waiting.has(part)) differed = true
        const path = take(from, part)
        if (path !== undefined) added.push(path)
        await slice()
      }
      if (added.length + removed.length >= PATHS_PER_STEP) {
        differed = true
        yield { added, removed }
        added = []
        removed = []
      }
      await slice()
    }
    for (const part of from.waiting) {
      if (blocks.get(blockOf(part))?.has(part) !== true) from.waiting.delete(part)
    }
    if (added.length + removed.length === 0) return differed
    yield { added, removed }
    return true
  }

  /** Looks at every narinfo again: for those that lost their NAR, or were changed since they were read. */
  async function* byFiles(from: State): AsyncGenerator<HolderChange> {
    const slice = slices()
    const since = from.readAt - CLOCK_SLACK_MS
    from.readAt = clock()
    for (const index of BLOCK_PREFIXES.keys()) {
      const added: HeldPath[] = []
      const removed: HashPart[] = []
      for (const part of from.parts.of(index)) {
        const found = lookup.peek(part, from.storeDir)
        if (found === undefined) {
          removed.push(part)
          from.parts.remove(part)
          if (from.waiting.size < WAITING_MAX) from.waiting.add(part)
        } else if ((stampOf(`${dir}/${part}.narinfo`)?.changedAt ?? 0) >= since) {
          added.push({ storePath: found.storePath, narSize: found.narSize })
        }
        await slice()
      }
      if (added.length + removed.length > 0) yield { added, removed }
    }
  }

  async function* steps(from: State, now: Look): AsyncGenerator<HolderChange> {
    const start = performance.now()
    if (now.text !== from.seen || from.again) {
      const differed = yield* byNames(from)
      if (differed) from.doubtAt = undefined
      else if (now.text !== from.seen) from.doubtAt ??= clock()
      from.seen = now.text
      from.again = now.fresh
    }
    if (from.doubtAt !== undefined && clock() - from.doubtAt >= DOUBT_MS) {
      from.doubtAt = undefined
      yield* byFiles(from)
    }
    restUntil = performance.now() + REST_FACTOR * (performance.now() - start)
  }

  return {
    all,
    changes() {
      const from = state
      if (from === undefined) return 'lost'
      if (!from.walked) return undefined
      let storeDir: string
      try {
        storeDir = info.check()
      } catch {
        // Out of reach, and told so: what is there when it comes back is seen then.
        return undefined
      }
      const now = look()
      if (now === undefined) return undefined
      if (storeDir !== from.storeDir || now.place !== from.place) {
        state = undefined
        return 'lost'
      }
      const changed = now.text !== from.seen || from.again
      const doubtful = from.doubtAt !== undefined && clock() - from.doubtAt >= DOUBT_MS
      if ((!changed && !doubtful) || performance.now() < restUntil) return undefined
      return steps(from, now)
    },
  }
}
