import { setImmediate as turn } from 'node:timers/promises'
import { hashPartOf, nameOf } from '../../protocol/store-path.ts'
import type { BaseName, HashPart, StorePath } from '../../protocol/store-path.ts'
import type { Growth, PathRow, ScanResult } from './writer.ts'
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

/** Store paths in batches of any size, with the bytes of their NARs where they are known. */
export type PathBatches =
  | AsyncIterable<readonly (StorePath | PathWithSize)[]>
  | Iterable<readonly (StorePath | PathWithSize)[]>

/** Who holds which paths. */
export interface Holdings {
  /**
   * Makes the holdings of a holder exactly the paths of the batches, in any order, doubles allowed: by marking and
   * sweeping, so that nothing is written for a path that stays. Rejects with the signal's reason or what the batches throw.
   */
  replaceAll(holderId: string, batches: PathBatches, options?: ReplaceOptions): Promise<ScanResult>
  /** Both also while `replaceAll` is under way for that holder; they tell by how much its counts grew (or shrank). */
  add(holderId: string, paths: readonly PathWithSize[]): Promise<Growth>
  remove(holderId: string, paths: readonly StorePath[]): Promise<Growth>
  /** Takes whatever the holder has under these hash parts, and tells their names. */
  removeParts(
    holderId: string,
    hashParts: readonly HashPart[],
  ): Promise<Growth & { readonly removed: readonly BaseName[] }>
}

const withSize = (path: StorePath | PathWithSize): PathWithSize =>
  typeof path === 'string' ? { storePath: path } : path

const rowOf = ({ storePath, narSize }: PathWithSize): PathRow =>
  narSize === undefined
    ? [hashPartOf(storePath), nameOf(storePath)]
    : [hashPartOf(storePath), nameOf(storePath), narSize]

/** Holdings over the writer's thread. `now` gives ms since 1970. */
export function createHoldings(writer: () => WriterClient, now: () => number): Holdings {
  const sizesOf = async (
    paths: readonly PathWithSize[],
    unsized: readonly (readonly [index: number, pathId: number])[],
    { sizeOf, signal }: ReplaceOptions,
  ): Promise<[pathId: number, narSize: number][]> => {
    const sizes: [number, number][] = []
    if (sizeOf === undefined) return sizes
    let until = performance.now() + SIZES_SLICE_MS
    for (const [index, pathId] of unsized) {
      const path = paths[index]
      const size = path === undefined ? undefined : sizeOf(path.storePath)
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
      const tell = async (paths: readonly PathWithSize[]): Promise<void> => {
        options.signal?.throwIfAborted()
        const rows = paths.map(rowOf)
        const { unsized } = await writer().ask({ op: 'scanPaths', scan, paths: rows })
        const sizes = await sizesOf(paths, unsized, options)
        if (sizes.length > 0) await writer().ask({ op: 'scanSizes', scan, sizes })
      }
      try {
        let waiting: PathWithSize[] = []
        for await (const batch of batches) {
          for (const path of batch) {
            waiting.push(withSize(path))
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
    add: (holderId, paths) => writer().ask({ op: 'add', holderId, paths: paths.map(rowOf) }),
    remove: (holderId, paths) =>
      writer().ask({
        op: 'remove',
        holderId,
        paths: paths.map(storePath => rowOf({ storePath })),
      }),
    async removeParts(holderId, hashParts) {
      const { removed, ...growth } = await writer().ask({ op: 'removeParts', holderId, hashParts })
      return { ...growth, removed: removed.map(([part, name]) => `${part}-${name}` as BaseName) }
    },
  }
}
