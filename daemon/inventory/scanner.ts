import { setImmediate as turn } from 'node:timers/promises'
import type { Catalog } from '../catalog/catalog.ts'
import { problemOf } from '../../protocol/errors.ts'
import { hashPartOf, joinStorePath } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { Holder, HolderChange } from '../holders/holder.ts'

/** After a scan, a holder rests this many times as long as it took: a busy store costs at most a fifth of the time. */
const REST_FACTOR = 4

/** A scan that failed is tried again after this long, ms, even where the holder does not say that it changed. */
const RETRY_MS = 10_000

/** A holder that is followed is nevertheless scanned whole this often, ms, for what no sign tells of (a row signed later). */
const WHOLE_SCAN_MS = 6 * 60 * 60 * 1000

/** How a holder stands. */
export interface ScannedState {
  readonly up: boolean
  readonly problem?: string | undefined
  readonly paths?: number | undefined
  readonly narBytes?: number | undefined
  /** Ms since 1970. */
  readonly inventoryAt?: number | undefined
}

/** What was written into the catalog of one holder: paths that came (or may have another path info) and went. */
export type HoldingsNotice =
  | {
      readonly kind: 'changed'
      readonly holderId: string
      readonly added: readonly StorePath[]
      readonly removed: readonly StorePath[]
    }
  /** A whole scan has ended: what changed before it was not told one by one. `first` of this process. */
  | { readonly kind: 'scanned'; readonly holderId: string; readonly first: boolean }
  /** The holder is asked no more: nothing of it is offered. */
  | { readonly kind: 'left'; readonly holderId: string }

/** Keeps the catalog's rows of one holder true. */
export interface Scanner {
  readonly holder: Holder
  state(): ScannedState
  /**
   * Writes down what came and went where the holder is followed; scans it whole at first, where it cannot be followed and
   * may have changed, and where nothing is known to go on from, each after a rest.
   */
  check(): void
  /** What the holder itself says of being reachable. */
  setUp(problem: string | undefined): void
  /** Resolves when nothing is being read. */
  idle(): Promise<void>
  /** Ends what is under way and starts no more. */
  close(): Promise<void>
  /** The same for a holder that went: what it had stays written down, as out of reach. */
  leave(): Promise<void>
}

export interface ScannerParts {
  readonly catalog: Pick<Catalog, 'holders' | 'holdings'>
  readonly events: EventBus
  readonly hostName: string
  /** Ms since 1970. */
  readonly now: () => number
  readonly notice: (notice: HoldingsNotice) => void
}

/** The scanner of one holder; it does nothing before the first {@link Scanner.check}. */
export function createScanner(holder: Holder, parts: ScannerParts): Scanner {
  const { catalog, events, hostName, now, notice } = parts
  const abort = new AbortController()
  const follower = holder.follow?.()
  let scanning: Promise<void> | undefined
  let following: Promise<void> | undefined
  let scanned: number | string | undefined
  let notBefore = 0
  let retryAt = Infinity
  let wholeAt = Infinity
  let state: ScannedState = { up: true }

  /** Notes the state here and in the catalog; a catalog that cannot be written has said so itself. */
  const become = async (next: ScannedState, seen = next.up): Promise<void> => {
    state = next
    await catalog.holders
      .upsert({
        id: holder.id,
        kind: holder.kind,
        storeDir: holder.storeDir,
        host: hostName,
        up: next.up,
        lastSeen: seen ? now() : undefined,
        problem: next.problem,
      })
      .catch(() => undefined)
  }

  const sizeOf = (storePath: StorePath): number | undefined => {
    if (holder.heldPaths !== undefined) return undefined
    const found = holder.find(hashPartOf(storePath))
    return found === undefined || found instanceof Promise ? undefined : found.info.narSize
  }

  const scan = async (generation: number | string): Promise<void> => {
    const first = scanned === undefined
    // A holder must be known before its first holdings are, or a search during a long first scan shows nobody.
    if (first) await become(state)
    // From here on it costs: at a start, the line above waits for the catalog's thread far longer than a scan takes.
    const startedAt = now()
    const rest = (): void => {
      notBefore = now() + REST_FACTOR * (now() - startedAt)
    }
    try {
      const { signal } = abort
      const options = { sizeOf, signal }
      const walk = follower?.all() ?? holder.heldPaths?.() ?? holder.paths()
      const result = await catalog.holdings.replaceAll(holder.id, walk, options)
      if (signal.aborted) return
      rest()
      const { paths, narBytes } = result
      scanned = generation
      retryAt = Infinity
      wholeAt = now() + WHOLE_SCAN_MS
      await become({ up: true, paths, narBytes, inventoryAt: now() })
      notice({ kind: 'scanned', holderId: holder.id, first })
      if (result.added + result.removed > 0) events.emit('holder:changed', holder.id)
    } catch (error) {
      if (abort.signal.aborted) return
      rest()
      retryAt = now() + RETRY_MS
      scanned = generation
      await become({ ...state, up: false, problem: problemOf(error) })
    }
  }

  const apply = async ({ added, removed }: HolderChange): Promise<void> => {
    const { holdings } = catalog
    const went = removed.length > 0 ? await holdings.removeParts(holder.id, removed) : undefined
    const came = added.length > 0 ? await holdings.add(holder.id, added) : undefined
    const { paths, narBytes } = state
    if (paths !== undefined && narBytes !== undefined) {
      state = {
        ...state,
        paths: paths + (came?.paths ?? 0) + (went?.paths ?? 0),
        narBytes: narBytes + (came?.narBytes ?? 0) + (went?.narBytes ?? 0),
        inventoryAt: now(),
      }
    }
    notice({
      kind: 'changed',
      holderId: holder.id,
      added: added.map(({ storePath }) => storePath),
      removed: (went?.removed ?? []).map(baseName => joinStorePath(holder.storeDir, baseName)),
    })
    events.emit('holder:changed', holder.id)
  }

  const follow = async (changes: AsyncIterable<HolderChange>): Promise<void> => {
    try {
      for await (const change of changes) {
        await apply(change)
        if (abort.signal.aborted) return
        await turn()
      }
    } catch {
      if (abort.signal.aborted) return
      // The holder or the catalog has said why. What was read and not written down is found by a scan.
      retryAt = now() + RETRY_MS
    }
  }

  /** Whether a whole scan is due. */
  const isDue = (generation: () => number | string): boolean => {
    if (now() < notBefore) return false
    if (scanned === undefined || now() >= retryAt || now() >= wholeAt) return true
    return (follower === undefined || retryAt !== Infinity) && generation() !== scanned
  }

  const startScan = (): void => {
    scanning = scan(holder.generation()).finally(() => {
      scanning = undefined
    })
  }

  const close = async (): Promise<void> => {
    abort.abort()
    await scanning
    await following
  }

  return {
    holder,
    state: () => state,
    check() {
      if (abort.signal.aborted) return
      if (scanning === undefined && isDue(() => holder.generation())) startScan()
      if (follower === undefined || following !== undefined) return
      const changes = follower.changes()
      if (changes === undefined) return
      if (changes === 'lost') {
        if (scanning === undefined && now() >= notBefore && now() >= lostUntil(retryAt)) startScan()
        return
      }
      following = follow(changes).finally(() => {
        following = undefined
      })
    },
    setUp(problem) {
      const up = problem === undefined
      if (abort.signal.aborted || (state.up === up && state.problem === problem)) return
      // What stopped a scan is over. What the scan cost still counts, so that a loose plug does not cost one each time.
      if (up && retryAt !== Infinity) retryAt = now()
      void become({ ...state, up, problem })
    },
    async idle() {
      await scanning
      await following
    },
    close,
    async leave() {
      const seen = state.up
      abort.abort()
      await become({ ...state, up: false, problem: undefined }, seen)
      notice({ kind: 'left', holderId: holder.id })
      await close()
    },
  }
}

/** A holder that is lost is scanned as soon as it may be, one whose scan failed after its time. */
const lostUntil = (retryAt: number): number => (retryAt === Infinity ? -Infinity : retryAt)
