import { openIndexHead, type IndexHead } from '../../protocol/index-head.ts'
import type { Members, PeerKey } from '../site.ts'

/** A head with the bytes that prove it. */
export interface KnownHead extends IndexHead {
  readonly host: PeerKey
  readonly bytes: Buffer
}

/** What an offered head was. `mine` speaks of this host: never kept, as the own log knows better or must learn. */
export type Offered =
  | { readonly is: 'newer' | 'known' | 'mine'; readonly head: KnownHead }
  | { readonly is: 'stranger' }

/** The newest signed head of every member: highest epoch, then longest. */
export interface HeadBook {
  /** Throws HEAD_INVALID. */
  offer(bytes: Uint8Array): Offered
  /** This host's own head, as published. */
  setOwn(head: KnownHead): void
  of(host: PeerKey): KnownHead | undefined
  all(): Iterable<KnownHead>
  forget(host: PeerKey): void
}

/** Whether `a` takes the place of `b`. Two logs of one epoch (a host that came back from a copy) do not: it will go on to a third. */
const supersedes = (a: IndexHead, b: IndexHead | undefined): boolean =>
  b === undefined || a.epoch > b.epoch || (a.core === b.core && a.length > b.length)

export function createHeadBook(members: Members): HeadBook {
  const heads = new Map<PeerKey, KnownHead>()
  return {
    offer(bytes) {
      const buffer = Buffer.from(bytes)
      const head: KnownHead = { ...openIndexHead(buffer), bytes: buffer } as KnownHead
      if (head.host === members.key) return { is: 'mine', head }
      if (!members.isMember(head.host)) return { is: 'stranger' }
      if (!supersedes(head, heads.get(head.host))) return { is: 'known', head }
      heads.set(head.host, head)
      return { is: 'newer', head }
    },
    setOwn: head => void heads.set(head.host, head),
    of: host => heads.get(host),
    all: () => heads.values(),
    forget: host => void heads.delete(host),
  }
}
