import type { IndexEntry, PeerKey } from '../site.ts'
import type { BaseName } from '../../protocol/store-path.ts'

/** How far the catalog is in a host's log. */
export interface IndexPosition {
  readonly epoch: number
  /** Blocks applied. */
  readonly length: number
  /** Entries that the applied blocks added, removed ones included: the position of the next one. */
  readonly entries: number
  /** Entries that stand. */
  readonly paths: number
  /** Sum of their NAR sizes. */
  readonly narBytes: number
}

/** What gossip asks of the catalog; this host's own log is one among the others. */
export interface Indexes {
  position(peer: PeerKey): IndexPosition | undefined
  /** A new log of that host begins: what stood stays in answers until `finish`. */
  begin(peer: PeerKey, epoch: number): Promise<void>
  /** Blocks from number `from` on, all of them or none. Throws INDEX_INVALID. */
  apply(peer: PeerKey, epoch: number, from: number, blocks: readonly Uint8Array[]): Promise<void>
  /** The begun log takes the place of the old one. */
  finish(peer: PeerKey, epoch: number): Promise<void>
  forget(peer: PeerKey): Promise<void>
  /** Every host that something is known of. */
  list(): readonly PeerKey[]
  /** Everything that stands, in the order of the log, in batches. */
  entries(peer: PeerKey): AsyncIterable<readonly IndexEntry[]>
  /** Positions of those of the paths that stand, in the log of that epoch. */
  positionsOf(
    peer: PeerKey,
    epoch: number,
    paths: Iterable<BaseName>,
  ): Promise<ReadonlyMap<BaseName, number>>
}
