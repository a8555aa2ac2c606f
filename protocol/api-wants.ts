// Types of the HTTP API about what a site wishes for, has and lacks, and of `want`, `have` and `missing` with --json. See
// api.ts for what holds of all types.
import type { ErrorReply } from './api.ts'
import type { WantKind } from './want-list.ts'

/** `GET /api/v1/wants`: the most urgent first. */
export interface WantsReply {
  readonly wants: readonly WantStatus[]
}

/** A want as somebody of the site asked for it, and what is there of it. */
export interface WantStatus {
  readonly id: string
  readonly kind: WantKind
  readonly text: string
  readonly priority: number
  readonly by: string
  readonly since: string
  /** The host on which it was asked for. */
  readonly host: string
  readonly hostKey: string
  readonly own: boolean
  /** What it came to; of a pattern, what of that name somebody of the site has. */
  readonly paths: number
  readonly have: number
  readonly missing: number
  /** Nothing of it is missing; a pattern: something of that name is there. */
  readonly fulfilled: boolean
}

/** `POST /api/v1/wants/add`. */
export interface WantAddRequest {
  readonly wants: readonly {
    readonly text: string
    /** Top derivations of a configuration, of which `text` is the name. */
    readonly derivations?: readonly string[] | undefined
    /** What it is built from, too. */
    readonly build?: boolean | undefined
  }[]
  readonly priority?: number | undefined
  readonly by: string
}

/** `POST /api/v1/wants/remove` with `{ wants }`: ids or texts. */
export interface WantRemoveReply {
  readonly removed: readonly { readonly id: string; readonly text: string }[]
}

/** `GET /api/v1/have`: the digest itself, with these headers beside it. */
export const HAVE_COUNT_HEADER = 'narwharf-paths'

/** What `narwharf have --json` says of a digest. */
export interface HaveReply {
  readonly site: string
  readonly createdAt: string
  readonly paths: number
  readonly bytes: number
  readonly root: string
  /** SHA-256 of the file: by this a shipment names what it was packed against. */
  readonly id: string
  readonly shipments: readonly { readonly id: string; readonly parts: readonly number[] }[]
  readonly file?: string
}

/** Where something may be lacking. */
export type MissingPlace =
  | { readonly kind: 'site' | 'here' }
  /** A URL, or an absolute path on the machine of the daemon. */
  | { readonly kind: 'cache'; readonly cache: string }
  | { readonly kind: 'drive'; readonly drive: string }
  /** A have digest, base64. */
  | { readonly kind: 'have'; readonly have: string; readonly name: string }

/** `POST /api/v1/missing`. */
export interface MissingRequest {
  /** Store paths, `.drv` paths (`x.drv^out` for one output). */
  readonly roots: readonly string[]
  /** All wants of the site, too. */
  readonly wants?: boolean | undefined
  /** What they are built from, too. */
  readonly build?: boolean | undefined
  readonly place: MissingPlace
}

/**
 * Why a path is missing. `elsewhere`: the site has it, only not this place. `upstream`: an upstream cache has it. `away`: who
 * has it is off, or it is on a drive in a drawer. `untrusted`: somebody has it, and nothing says that it is right. `source`:
 * what a network would be asked for, by hash. `buildable`: what it is built from is all there. `unknown`: nobody has it.
 */
export const MISSING_REASONS = [
  'elsewhere',
  'upstream',
  'away',
  'untrusted',
  'source',
  'buildable',
  'unknown',
] as const
export type MissingReason = (typeof MISSING_REASONS)[number]

/** Somebody who has a path. */
export interface Whereabouts {
  readonly host: string
  readonly up: boolean
  /** The drive it is on, where it is on one. */
  readonly drive?: string
  readonly plugged?: boolean
  readonly lastSeen?: string
}

export interface MissingPath {
  readonly storePath: string
  readonly reason: MissingReason
  /** Unpacked and to be fetched, where known. */
  readonly narSize?: number
  readonly fileSize?: number
  /** At most {@link WHEREABOUTS_MAX}. */
  readonly where?: readonly Whereabouts[]
  /** The .drv that makes it, where it is known here. */
  readonly derivation?: string
  /** Of a source: `sha256:<hex>`, `r:` in front where it is of the NAR; and where it is from. */
  readonly hash?: string
  readonly urls?: readonly string[]
}

export const WHEREABOUTS_MAX = 5

export interface MissingGroup {
  readonly reason: MissingReason
  readonly paths: number
  /** Sums of what is known. */
  readonly narBytes: number
  readonly fileBytes: number
  /** Paths without a known size. */
  readonly unsized: number
}

export interface MissingReply {
  /** In words. */
  readonly place: string
  /** Paths looked at: roots and all that they need. */
  readonly closure: number
  readonly there: number
  /** Grouped by reason, names in order. */
  readonly missing: readonly MissingPath[]
  readonly groups: readonly MissingGroup[]
  /** Sources that would have to come before what is `unknown` could be built. */
  readonly sourcesToBuild: readonly MissingPath[]
  /** There, but nobody here knows what they refer to, so that what they need was not looked at. */
  readonly unsure: number
  /** Derivations that others name and nobody here has: what they need was not looked at. */
  readonly derivationsAbsent: readonly string[]
}

/** `POST /api/v1/missing` answers with one of these a line, the last one `end` or `failed`. */
export type MissingEvent =
  | { readonly event: 'progress'; readonly looked: number; readonly missing: number }
  | ({ readonly event: 'end' } & MissingReply)
  | ({ readonly event: 'failed' } & ErrorReply)
