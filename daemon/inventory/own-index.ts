import { setTimeout as wait } from 'node:timers/promises'
import { problemOf } from '../../protocol/errors.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'
import { holderListOf, type Holders } from '../holders/holder-list.ts'
import type { IndexChange, IndexEntry } from '../site.ts'
import { createEntryMaker } from './index-entry.ts'
import type { Tell } from './index-entry.ts'
import type { Inventory } from './inventory.ts'
import { createSettler } from './settler.ts'

// What this host tells its peers that it holds: the difference between what its holders have now and what its own index
// log says already. It knows no order of events, only paths that may differ: each is asked of the holders when its turn
// has come, so that nothing depends on a notice that was missed, came twice or late.

/** Entries and removals of one change: what one block of the index holds. */
const CHANGE_PATHS_MAX = 500

/** Least time between two changes, ms: a burst makes few blocks, and peers are not woken for every path. */
const FLUSH_MS = 200

/** How long the first path of a quiet time waits for company, ms: the outputs of one build are registered together. */
const GATHER_MS = 20

/** Longest time in one go spent asking holders, ms: a narinfo request may wait behind it. */
const SLICE_MS = 4

/** Comparing everything rests as long as it works: a first index of a million paths leaves half the thread to requests. */
const REST_FACTOR = 1

/** Paths waiting to be told at most, 100 bytes each; beyond, everything is compared instead. */
const WAITING_MAX = 100_000

/** How soon an append that failed is tried again, ms; doubled up to the longest. */
const RETRY_MS = 1000
const RETRY_MAX_MS = 60_000

/** What the own log says already. It must include every change whose append has resolved. */
export interface OwnLog {
  has(storePath: StorePath): boolean
  /** As it was told last; undefined where it is not told. */
  find(storePath: StorePath): IndexEntry | undefined
  /** All that is told, in batches, in any order; what changes meanwhile may be there or not. */
  whole(): AsyncIterable<readonly IndexEntry[]> | Iterable<readonly IndexEntry[]>
}

/** Times and sizes, each with a default. */
export interface OwnIndexTimings {
  readonly gatherMs?: number | undefined
  readonly flushMs?: number | undefined
  readonly sliceMs?: number | undefined
  readonly restFactor?: number | undefined
  readonly retryMs?: number | undefined
}

export interface OwnIndexOptions {
  /** The holders of this host: others tell of theirs themselves. */
  readonly holders: Holders
  readonly inventory: Pick<Inventory, 'listen' | 'idle'>
  /** Trust's answer to what peers may be told of a holding. */
  readonly tell: Tell
  readonly log: OwnLog
  /** Writes a change into the own log; the next one waits for it. Tried again when it rejects. */
  readonly append: (change: IndexChange) => Promise<void>
  readonly timings?: OwnIndexTimings | undefined
}

/** Keeps this host's own index true. */
export interface OwnIndex {
  /** Returns at once: comparing and telling run behind. The inventory must be open. */
  open(): Promise<void>
  /** Ends the append under way, starts no other. */
  close(): Promise<void>
  /** Why nothing is written just now. */
  problem(): string | undefined
  /** Resolves when everything known of is told. */
  idle(): Promise<void>
}

/** The feed of one host's index. */
export function createOwnIndex(options: OwnIndexOptions): OwnIndex {
  const { inventory, log, append, timings = {} } = options
  const list = holderListOf(options.holders)
  const { gatherMs = GATHER_MS, flushMs = FLUSH_MS, sliceMs = SLICE_MS } = timings
  const { restFactor = REST_FACTOR, retryMs = RETRY_MS } = timings
  const waiting = new Set<StorePath>()
  let abort = new AbortController()
  let unlisten: (() => void) | undefined
  let running: Promise<void> | undefined
  let wake: (() => void) | undefined
  let problem: string | undefined
  /** What is to be compared as a whole: what holders have with the log, what the log has with the holders. */
  const due = { walk: new Set<Holder>(), sweep: false }
  let lastFlush = -Infinity
  let busy = false
  let idlers: (() => void)[] = []

  const stir = (): void => {
    wake?.()
    wake = undefined
  }
  const compare = ({ walk, sweep }: { readonly walk: boolean; readonly sweep: boolean }): void => {
    if (walk) for (const holder of list.current()) due.walk.add(holder)
    due.sweep ||= sweep
    stir()
  }
  const mark = (paths: Iterable<StorePath>): void => {
    for (const path of paths) waiting.add(path)
    if (waiting.size > WAITING_MAX) {
      waiting.clear()
      compare({ walk: true, sweep: true })
    }
    stir()
  }
  const entries = createEntryMaker({
    holders: list,
    tell: options.tell,
    onLate: path => mark([path]),
  })
  const settle = createSettler({ entries, log, maxPaths: CHANGE_PATHS_MAX })

  const sleep = (ms: number, signal: AbortSignal): Promise<void> =>
    wait(ms, undefined, { signal, ref: false }).catch(() => undefined)

  /** Writes a change, however often it takes. */
  const write = async (change: IndexChange, signal: AbortSignal): Promise<void> => {
    for (let delayMs = retryMs; !signal.aborted; delayMs = Math.min(delayMs * 2, RETRY_MAX_MS)) {
      try {
        await append(change)
        problem = undefined
        return
      } catch (error) {
        problem = problemOf(error)
        await sleep(delayMs, signal)
      }
    }
  }

  /** Settles paths and writes what differs; `rest` after every slice. */
  const tellAll = async (
    paths: Set<StorePath>,
    signal: AbortSignal,
    rest: number,
    told?: ReadonlyMap<StorePath, IndexEntry>,
  ): Promise<void> => {
    const pause = async (): Promise<void> => sleep(rest, signal)
    while (paths.size > 0 && !signal.aborted) {
      const change = await settle(paths, { sliceMs, pause, signal, told })
      if (signal.aborted) return
      if (change.added.length + change.removed.length > 0) await write(change, signal)
    }
  }

  /** Changes that came in while everything is being compared are not to wait for its end. */
  const tellWaiting = async (signal: AbortSignal): Promise<void> => {
    if (waiting.size === 0) return
    const early = performance.now() - lastFlush < flushMs
    if (early && waiting.size < CHANGE_PATHS_MAX) return
    lastFlush = performance.now()
    await tellAll(waiting, signal, 0)
  }

  const walk = async (holders: readonly Holder[], signal: AbortSignal): Promise<void> => {
    const missing = new Set<StorePath>()
    for (const holder of holders) {
      try {
        for await (const paths of holder.paths()) {
          for (const path of paths) if (!log.has(path)) missing.add(path)
          if (missing.size >= CHANGE_PATHS_MAX) await tellAll(missing, signal, sliceMs * restFactor)
          await tellWaiting(signal)
          if (signal.aborted) return
        }
      } catch {
        // Out of reach: its paths are told when it has been scanned.
      }
    }
    await tellAll(missing, signal, sliceMs * restFactor)
  }

  const sweep = async (signal: AbortSignal): Promise<void> => {
    for await (const batch of log.whole()) {
      const told = new Map(batch.map(entry => [entry.info.storePath, entry]))
      await tellAll(new Set(told.keys()), signal, sliceMs * restFactor, told)
      await tellWaiting(signal)
      if (signal.aborted) return
    }
  }

  /** Does what is due, most urgent first; waits where nothing is. */
  const step = async (signal: AbortSignal): Promise<void> => {
    if (due.walk.size > 0) {
      const holders = [...due.walk]
      due.walk.clear()
      await walk(holders, signal)
    } else if (waiting.size > 0) {
      const rest = Math.max(gatherMs, lastFlush + flushMs - performance.now())
      if (waiting.size < CHANGE_PATHS_MAX) await sleep(rest, signal)
      lastFlush = performance.now()
      await tellAll(waiting, signal, 0)
    } else if (due.sweep) {
      due.sweep = false
      await sweep(signal)
    } else {
      busy = false
      for (const resolve of idlers.splice(0)) resolve()
      await new Promise<void>(resolve => (wake = resolve))
      busy = true
    }
  }

  const run = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      try {
        await step(signal)
      } catch (error) {
        // The log cannot be read: whatever was in hand is found again by comparing everything.
        problem = problemOf(error)
        compare({ walk: true, sweep: true })
        await sleep(RETRY_MAX_MS, signal)
      }
    }
  }

  /** Whether the log says anything yet; a new one need not be compared with what was just put into it. */
  const isTelling = async (): Promise<boolean> => {
    for await (const batch of log.whole()) if (batch.length > 0) return true
    return false
  }

  return {
    async open() {
      if (unlisten !== undefined) return
      abort = new AbortController()
      const { signal } = abort
      signal.addEventListener('abort', stir, { once: true })
      const unlistenHolders = list.listen(({ kind, holder }) => {
        if (kind === 'added') due.walk.add(holder)
        else due.walk.delete(holder)
        stir()
      })
      const unlistenInventory = inventory.listen(notice => {
        if (notice.kind === 'changed') return mark([...notice.added, ...notice.removed])
        if (notice.kind === 'left') return compare({ walk: false, sweep: true })
        if (!notice.first) compare({ walk: true, sweep: true })
      })
      unlisten = () => {
        unlistenHolders()
        unlistenInventory()
      }
      const hadEntries = await isTelling()
      compare({ walk: true, sweep: false })
      // What goes while holders are first scanned is not told: what the log has is compared when that is over.
      if (hadEntries) {
        void inventory.idle().then(() => {
          if (!signal.aborted) compare({ walk: false, sweep: true })
        })
      }
      busy = true
      running = run(signal)
    },
    async close() {
      abort.abort()
      unlisten?.()
      unlisten = undefined
      await running
      busy = false
      for (const resolve of idlers.splice(0)) resolve()
      entries.close()
    },
    problem: () => problem,
    async idle() {
      await inventory.idle()
      await entries.idle()
      if (busy || waiting.size > 0 || due.walk.size > 0 || due.sweep) {
        await new Promise<void>(resolve => idlers.push(resolve))
      }
    },
  }
}
