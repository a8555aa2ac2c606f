import { setImmediate as turn } from 'node:timers/promises'
import { hashPartOf, nameOf } from '../../protocol/store-path.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { PathRow, ScanResult } from './writer.ts'
import type { WriterClient } from './writer-client.ts'

/** Paths told to the writer at once: one transaction, so that the name index is not merged too often. */
const BATCH_PATHS = 1000

/** Longest time in one go spent asking a holder for sizes, ms: a narinfo request may wait behind it. */
const SIZES_SLICE_MS = 3

/** A change of one holder's holdings. */
export interface PathWithSize {
  readonly storePath: StorePath
  readonly narSize?: number | undefined
}

export interface ReplaceOptions {
  /** Bytes of a path's NAR, asked only where the catalog does not know; undefined where it cannot be told now. */
  readonly sizeOf?: ((storePath: StorePath) => number | undefined) | undefined
  /** Stops between batches; what was read until then stays, nothing is taken away. */
  readonly signal?: AbortSignal | undefined
}

/** Who holds which paths. */
export interface Holdings {
  /**
   * Makes the holdings of a holder exactly the paths of the batches, in any order, doubles allowed: by marking and
   * sweeping, so that nothing is written for a path that stays. Rejects with the signal's reason or what the batches throw.
   */
  replaceAll(
    holderId: string,
    batches: AsyncIterable<readonly StorePath[]> | Iterable<readonly StorePath[]>,
    options?: ReplaceOptions,
  ): Promise<ScanResult>
  add(holderId: string, paths: readonly PathWithSize[]): Promise<void>
  remove(holderId: string, paths: readonly StorePath[]): Promise<void>
}

const rowOf = (storePath: StorePath, narSize?: number): PathRow =>
  narSize === undefined
    ? [hashPartOf(storePath), nameOf(storePath)]
    : [hashPartOf(storePath), nameOf(storePath), narSize]

/** Holdings over the writer's thread. `now` gives ms since 1970. */
export function createHoldings(writer: () => WriterClient, now: () => number): Holdings {
  const sizesOf = async (
    paths: readonly StorePath[],
    unsized: readonly (readonly [index: number, pathId: number])[],
    { sizeOf, signal }: ReplaceOptions,
  ): Promise<[pathId: number, narSize: number][]> => {
    const sizes: [number, number][] = []
    if (sizeOf === undefined) return sizes
    let until = performance.now() + SIZES_SLICE_MS
    for (const [index, pathId] of unsized) {
      const path = paths[index]
      const size = path === undefined ? undefined : sizeOf(path)
      if (size !== undefined) sizes.push([pathId, size])
      if (performance.now() > until) {
        await turn()
        signal?.throwIfAborted()
        until = performance.now() + SIZES_SLICE_MS
      }
    }
    return sizes
  }

  return {
    async replaceAll(holderId, batches, options = {}) {
      const scan = await writer().ask({ op: 'scanBegin', holderId })
      const tell = async (paths: readonly StorePath[]): Promise<void> => {
        options.signal?.throwIfAborted()
        const rows = paths.map(path => rowOf(path))
        const { unsized } = await writer().ask({ op: 'scanPaths', scan, paths: rows })
        const sizes = await sizesOf(paths, unsized, options)
        if (sizes.length > 0) await writer().ask({ op: 'scanSizes', scan, sizes })
      }
      try {
        let waiting: StorePath[] = []
        for await (const batch of batches) {
          for (const path of batch) {
            waiting.push(path)
            if (waiting.length < BATCH_PATHS) continue
            const full = waiting
            waiting = []
            await tell(full)
          }
          options.signal?.throwIfAborted()
        }
        if (waiting.length > 0) await tell(waiting)
        options.signal?.throwIfAborted()
        return await writer().ask({ op: 'scanEnd', scan, at: now() })
      } catch (error) {
        await writer()
          .ask({ op: 'scanAbort', scan })
          .catch(() => undefined)
        throw error
      }
    },
    async add(holderId, paths) {
      const rows = paths.map(({ storePath, narSize }) => rowOf(storePath, narSize))
      await writer().ask({ op: 'add', holderId, paths: rows })
    },
    async remove(holderId, paths) {
      await writer().ask({ op: 'remove', holderId, paths: paths.map(path => rowOf(path)) })
    },
  }
}
