import type { NoteMark } from '../protocol/host-notes.ts'
import type { PathInfo } from '../protocol/path-info.ts'
import type { HashPart, StorePath } from '../protocol/store-path.ts'

// The words that the rooms of the site share: who a peer is, where it may be, what it says it holds. Types, and the one
// door to a branded one.

declare const peerKey: unique symbol
/** Who a host is to its peers: its Ed25519 public key (the Noise static key) as 64 lower-case hex digits. */
export type PeerKey = string & { readonly [peerKey]: true }

const PEER_KEY = /^[0-9a-f]{64}$/

/** The key of that text, whatever the case of its digits; undefined when it is not 64 hex digits. */
export function parsePeerKey(text: string): PeerKey | undefined {
  const key = text.toLowerCase()
  return PEER_KEY.test(key) ? (key as PeerKey) : undefined
}

/** The host's own key pair, as sodium and the Noise handshake take it: 32 and 64 bytes. */
export interface NoiseKeyPair {
  readonly publicKey: Buffer
  readonly secretKey: Buffer
}

/**
 * Where a host listens: one number, `network.port`. UDP there is gossip (hyperdht), TCP there is peering (HTTP in Noise).
 * `host` is a numeric IPv4 or IPv6 address.
 */
export interface PeerAddress {
  readonly host: string
  readonly port: number
}

/** Somebody who may be a host of the site and may be there: nothing is believed before the handshake. */
export interface PeerCandidate {
  readonly key: PeerKey
  readonly address: PeerAddress
  readonly source: 'mdns' | 'static' | 'told'
}

/** What other rooms ask of membership, from memory at once. */
export interface Members {
  /** This host's own key. */
  readonly key: PeerKey
  readonly keyPair: NoiseKeyPair
  /** The site's name; undefined while the host belongs to none. */
  readonly siteName: string | undefined
  /** True for every member that is not revoked, this host included. */
  isMember(key: PeerKey): boolean
  /** The name the member list gives it. */
  nameOf(key: PeerKey): string | undefined
  /** The newest signed member list as it travels; undefined before any. */
  list(): Buffer | undefined
  /**
   * Takes a list from outside and merges it: `newer` when it said anything new (the merged list is in force, `members:changed`
   * was emitted, and what is to be handed on is `list()`, which may say more than both), `same`, or `older` when this host
   * knows more. Throws MEMBER_LIST_INVALID for what is no list of this site, signed throughout by its admins.
   */
  offer(list: Uint8Array): 'newer' | 'same' | 'older'
}

/** The newest signed note of every member, as gossip hands them on: it knows nothing of what stands in them. */
export interface NoteShelf {
  /** Of members only, this host's own among them. */
  marks(): readonly NoteMark[]
  /** A note as it travels; of members only. */
  get(host: PeerKey): Buffer | undefined
  /** Whether the note of that mark would be news here. */
  wants(mark: NoteMark): boolean
  /**
   * Takes a note from outside: `newer` when it is kept now, `mine` for one of this host, which is never kept. Throws
   * NOTE_INVALID.
   */
  offer(note: Uint8Array): 'newer' | 'known' | 'mine' | 'stranger'
}

/** A path in somebody's index: what it says it holds. */
export interface IndexEntry {
  readonly info: PathInfo
  /** It says it built the path itself, or its operator vouches for it. Counts where members are trusted. */
  readonly builtHere: boolean
}

/** A change of this host's own holdings, in the order to be written; references come before what refers to them where they can. */
export interface IndexChange {
  readonly added: readonly IndexEntry[]
  readonly removed: readonly StorePath[]
}

/** A path as the catalog knows it from a peer's index. */
export interface IndexedHolding extends IndexEntry {
  readonly peer: PeerKey
}

/** What the holders of peers ask of the catalog; synchronous, as it stands on the narinfo path. */
export interface PeerIndexes {
  /** Every peer that says it holds that hash part; up or down is not the catalog's business. */
  find(hashPart: HashPart): readonly IndexedHolding[]
  /** Changes whenever an answer of `find` may: cheap, kept in memory. */
  readonly version: number
}
