import type { Holder } from './holder.ts'

// The holders of this host, of which some come and go while it runs: drives. Whoever asks holders asks for them anew each
// time; whoever keeps something per holder listens.

/** A holder came (it is open and is asked from now on) or went (it is asked no more). */
export type HolderListChange =
  | { readonly kind: 'added'; readonly holder: Holder }
  | { readonly kind: 'removed'; readonly holder: Holder }

/** Holders in order of preference, which may change at any time. */
export interface HolderList {
  /** Those of this moment: the same array until one comes or goes. */
  current(): readonly Holder[]
  /** Takes an open holder in, last in order. One with its id must not be there. */
  add(holder: Holder): void
  /** Takes it out and gives it, for whoever closes it; undefined where it is not there. */
  remove(id: string): Holder | undefined
  /** Tells of every change, at once; gives what ends it. */
  listen(listener: (change: HolderListChange) => void): () => void
}

/** What rooms take: a list, or holders that stay for good. */
export type Holders = HolderList | readonly Holder[]

/** A list that begins with these. */
export function createHolderList(first: readonly Holder[] = []): HolderList {
  let holders = first
  const listeners = new Set<(change: HolderListChange) => void>()
  const tell = (change: HolderListChange): void => {
    for (const listener of listeners) listener(change)
  }
  return {
    current: () => holders,
    add(holder) {
      if (holders.some(({ id }) => id === holder.id)) throw new Error(`${holder.id} is there`)
      holders = [...holders, holder]
      tell({ kind: 'added', holder })
    },
    remove(id) {
      const holder = holders.find(one => one.id === id)
      if (holder === undefined) return undefined
      holders = holders.filter(one => one !== holder)
      tell({ kind: 'removed', holder })
      return holder
    },
    listen(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
  }
}

/** The list of some holders, whichever way they are given. */
export const holderListOf = (holders: Holders): HolderList =>
  'current' in holders ? holders : createHolderList(holders)
