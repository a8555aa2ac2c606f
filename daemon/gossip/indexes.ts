import type { BaseName, StorePath } from '../../protocol/store-path.ts'
import type { IndexEntry, PeerKey } from '../site.ts'

/** How far the catalog is in a host's log. */
export interface IndexPosition {
  readonly epoch: number
  /** The log's public key. */
  readonly core: string
  /** Blocks applied. */
  readonly blocks: number
  /** Entries that the applied blocks added, removed ones included: the position of the next one. */
  readonly entries: number
  /** False while it arrives beside an older one, which stays in answers until `finish`. */
  readonly inForce: boolean
}

/** What stands in a log. */
export interface IndexSummary {
  readonly key: PeerKey
  readonly epoch: number
  readonly inForce: boolean
  readonly paths: number
  readonly narBytes: number
}

/** What gossip asks of the catalog; this host's own log is one among the others. */
export interface Indexes {
  /** The log under way, or the one in force if told or there is none under way. */
  position(key: PeerKey, which?: 'newest' | 'in-force'): IndexPosition | undefined
  /** A log begins, or goes on where it was; a host's first one is in force at once. `host`: its name, none for this host. */
  begin(
    key: PeerKey,
    log: { readonly epoch: number; readonly core: string; readonly host: string | undefined },
  ): Promise<void>
  /** Blocks from number `firstBlock` on, all of them or none. Rejects with INDEX_INVALID for what no host writes. */
  apply(
    key: PeerKey,
    epoch: number,
    firstBlock: number,
    blocks: readonly Uint8Array[],
  ): Promise<unknown>
  /** The log is in force, an older one goes. */
  finish(key: PeerKey, epoch: number): Promise<void>
  forget(key: PeerKey): Promise<void>
  list(): readonly IndexSummary[]
  /** All that stands in this host's own log in force, in its order, in batches. */
  whole(key: PeerKey): AsyncIterable<readonly IndexEntry[]>
  /** Where those paths stand in the log of that epoch. */
  positionsOf(
    key: PeerKey,
    paths: readonly (StorePath | BaseName)[],
    epoch?: number,
  ): readonly (number | undefined)[]
}
