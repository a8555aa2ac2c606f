import type { Holder, Holding } from '../holders/holder.ts'

/**
 * Why a holding may be offered, or why not.
 * - `signed`: a signature by a trusted public key (`key` is its name) covers it
 * - `content-addressed`: the path was computed from the content address, so it proves itself once the NAR hash is right
 * - `built-here`: the host built it and vouches for it
 * - `vouched`: the operator vouches for the whole store (`trust.store: "all"`)
 * - `member`: a peer built it or its operator vouches for it, and members are trusted (`trust.members`)
 */
export type Decision =
  | {
      readonly offered: true
      readonly reason: 'signed' | 'content-addressed' | 'built-here' | 'vouched' | 'member'
      readonly key?: string | undefined
      /** May leave the host by an open LAN port under `share.withLan: "signed"`: signed by a trusted public key, or content-addressed. */
      readonly public: boolean
      /** The content address, given or found, proven against the path. */
      readonly ca?: string | undefined
      /** Signatures that verified against a trusted key, plus the host's own, ready for a narinfo. */
      readonly signatures: readonly string[]
    }
  | {
      readonly offered: false
      readonly reason: 'no-trusted-signature' | 'denied' | 'ca-mismatch'
      /** Key names of the signatures that were there but not trusted or not right. */
      readonly untrustedKeys: readonly string[]
    }

/** Decides what may be offered and signs it. One decision per holding identity is kept in the catalog, so that nothing is proven twice. */
export interface Trust {
  /** Name and public key of this host, `name:base64`: the one line clients trust. */
  readonly publicKey: string
  open(): Promise<void>
  close(): Promise<void>
  /** The decision, from memory or the catalog where the holding's identity is known (then synchronously), else worked out. */
  decide(holder: Holder, holding: Holding): Decision | Promise<Decision>
}
