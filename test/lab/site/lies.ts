/** What a liar says it holds. How it lies about it is the path's name, `lie-<how>`; it is one file, its length a multiple of 8. */
export interface Claim {
  readonly storePath: string
  /** As `nix-store -q --hash` prints it. */
  readonly narHash: string
  readonly narSize: number
}

/** How it lies. `hash`: its index names another content, which it has. All others: the right hash, and not the bytes. */
export const LIES = ['bytes', 'short', 'endless', 'drip', 'silent', 'hash'] as const
export type Lie = (typeof LIES)[number]
