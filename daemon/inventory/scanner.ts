import type { Catalog } from '../catalog/catalog.ts'
import { problemOf } from '../../protocol/errors.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { Holder } from '../holders/holder.ts'

/** After a scan, a holder rests this many times as long as it took: a busy store costs at most a fifth of the time. */
const REST_FACTOR = 4

/** A scan that failed is tried again after this long, ms, even where the holder does not say that it changed. */
const RETRY_MS = 10_000

/** How a holder stands. */
export interface ScannedState {
  readonly up: boolean
  readonly problem?: string | undefined
  readonly paths?: number | undefined
  readonly narBytes?: number | undefined
  /** Ms since 1970. */
  readonly inventoryAt?: number | undefined
}

/** Keeps the catalog's rows of one holder true. */
export interface Scanner {
  readonly holder: Holder
  state(): ScannedState
  /** Scans when the holder may have changed since the last scan and has rested. */
  check(): void
  /** What the holder itself says of being reachable. */
  setUp(problem: string | undefined): void
  /** Resolves when no scan runs. */
  idle(): Promise<void>
  /** Ends a scan under way and starts no more. */
  close(): Promise<void>
}

export interface ScannerParts {
  readonly catalog: Pick<Catalog, 'holders' | 'holdings'>
  readonly events: EventBus
  readonly hostName: string
  /** Ms since 1970. */
  readonly now: () => number
}

/** The scanner of one holder; it does nothing before the first {@link Scanner.check}. */
export function createScanner(holder: Holder, parts: ScannerParts): Scanner {
  const { catalog, events, hostName, now } = parts
  const abort = new AbortController()
  let running: Promise<void> | undefined
  let scanned: number | string | undefined
  let notBefore = 0
  let retryAt = Infinity
  let state: ScannedState = { up: true }

  /** Notes the state here and in the catalog; a catalog that cannot be written has said so itself. */
  const become = async (next: ScannedState): Promise<void> => {
    state = next
    await catalog.holders
      .upsert({
        id: holder.id,
        kind: holder.kind,
        storeDir: holder.storeDir,
        host: hostName,
        up: next.up,
        lastSeen: next.up ? now() : undefined,
        problem: next.problem,
      })
      .catch(() => undefined)
  }

  const sizeOf = (storePath: StorePath): number | undefined => {
    const found = holder.find(hashPartOf(storePath))
    return found === undefined || found instanceof Promise ? undefined : found.info.narSize
  }

  const scan = async (generation: number | string): Promise<void> => {
    const startedAt = now()
    try {
      // A holder must be known before its first holdings are, or a search during a long first scan shows nobody.
      if (scanned === undefined) await become(state)
      const { signal } = abort
      const options = { sizeOf, signal }
      const result = await catalog.holdings.replaceAll(holder.id, holder.paths(), options)
      const { paths, narBytes } = result
      scanned = generation
      retryAt = Infinity
      await become({ up: true, paths, narBytes, inventoryAt: now() })
      if (result.added + result.removed > 0) events.emit('holder:changed', holder.id)
    } catch (error) {
      if (abort.signal.aborted) return
      retryAt = now() + RETRY_MS
      scanned = generation
      await become({ ...state, up: false, problem: problemOf(error) })
    } finally {
      notBefore = now() + REST_FACTOR * (now() - startedAt)
    }
  }

  return {
    holder,
    state: () => state,
    check() {
      if (running !== undefined || abort.signal.aborted || now() < notBefore) return
      const generation = holder.generation()
      if (generation === scanned && now() < retryAt) return
      running = scan(generation).finally(() => {
        running = undefined
      })
    },
    setUp(problem) {
      const up = problem === undefined
      if (abort.signal.aborted || (state.up === up && state.problem === problem)) return
      void become({ ...state, up, problem })
    },
    async idle() {
      await running
    },
    async close() {
      abort.abort()
      await running
    },
  }
}
