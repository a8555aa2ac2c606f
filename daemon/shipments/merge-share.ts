import type { HashPart } from '../../protocol/store-path.ts'
import { fetcherOf } from '../holders/agree.ts'
import type { PeerKey } from '../site.ts'

// Keepers that merge the same at the same time share it: without a word each takes the paths that are its own by their hash,
// and when all are done, or gone, whoever is left takes what is still missing.

/** What a merge knows of the other keepers; see {@link aloneHere} for a host that has none. */
export interface MergeShare {
  readonly self: PeerKey
  /** Keepers that merge this just now and can be reached, this host among them. */
  sharers(): readonly PeerKey[]
  /** Whether another keeper keeps it for good, as far as is known: what merely lies on a drive there does not count. */
  kept(hashPart: HashPart): boolean
  /** Tells the others that this host's share has come, as far as it can. */
  shareDone(): void
  /** Resolves when no other sharer is still at its share, or `signal` is aborted. */
  othersDone(signal: AbortSignal): Promise<void>
  /** Tells that this merge is over. */
  end(whole: boolean): void
}

/** A merge that nobody shares. */
export const aloneHere: MergeShare = {
  self: '' as PeerKey,
  sharers: () => [],
  kept: () => false,
  shareDone() {},
  othersDone: async () => {},
  end() {},
}

/** Whether a path is this host's to take. */
export function isOwn({ self, sharers }: MergeShare, hashPart: HashPart): boolean {
  const among = sharers()
  return among.length < 2 || fetcherOf(hashPart, among) === self
}
