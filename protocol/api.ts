// Types of the HTTP API under /api/v1 and of `--json` output: one shape for the daemon, the command line, the
// dashboard and scripts. Sizes in bytes, times in ISO 8601 UTC, paths whole. Fields are added, never renamed or dropped.

/** Where a daemon stands: `GET /api/v1/status`, `narwharf status --json`. */
export interface StatusReply {
  readonly version: string
  readonly hostName: string
  readonly startedAt: string
  readonly pid: number
  readonly stateDir: string
  readonly http: { readonly url: string; readonly openToLan: boolean }
  readonly publicKey: string
  readonly memoryBytes: number
  readonly holders: readonly HolderStatus[]
  readonly served: {
    readonly narinfos: number
    readonly misses: number
    readonly nars: number
    readonly narBytes: number
  }
  /** Trouble a person should know of, worst first; empty when all is well. */
  readonly problems: readonly Problem[]
}

export interface HolderStatus {
  readonly id: string
  /** What people call it, where that is not its id. */
  readonly title?: string
  readonly kind: 'nix-store' | 'cache-dir' | 'drive' | 'peer' | 'upstream'
  readonly up: boolean
  /** Why it is down, when it is. */
  readonly problem?: string
  readonly storeDir: string
  /** Paths counted by the newest inventory; undefined until the first is done. */
  readonly paths?: number
  /** Sum of their NAR sizes. */
  readonly narBytes?: number
  readonly inventoryAt?: string
}

export interface Problem {
  readonly what: string
  readonly hint: string
}

/** `GET /api/v1/who-has?query=…` (repeatable): each query with its matches. */
export interface WhoHasReply {
  readonly results: readonly WhoHasResult[]
}

export interface WhoHasResult {
  readonly query: string
  /** At most {@link WHO_HAS_LIMIT}; `more` counts the rest. */
  readonly matches: readonly PathHolders[]
  readonly more: number
  /** Why the query could not be understood, when it could not. */
  readonly problem?: string
}

export const WHO_HAS_LIMIT = 1000

export interface PathHolders {
  readonly storePath: string
  readonly narSize?: number
  readonly holders: readonly {
    readonly id: string
    readonly kind: HolderStatus['kind']
    readonly host: string
    readonly up: boolean
    readonly lastSeen?: string
    /** Of a drive: what `narwharf drives` calls it, its file system's label, and where it is while it is plugged. */
    readonly name?: string
    readonly label?: string
    readonly mountPoint?: string
  }[]
}

/** `GET /api/v1/why-not?path=…`: whether this host's substituter offers a path and, holder by holder, why not. */
export interface WhyNotReply {
  readonly storePath: string
  readonly offeredOnLoopback: boolean
  readonly offeredOnLan: boolean
  /** One plain sentence: the answer. */
  readonly summary: string
  /** What to do about it, where there is something to do. */
  readonly hint?: string
  readonly holders: readonly {
    readonly id: string
    /** What people call it, where the id says nothing to them: `peer lab-3`. */
    readonly title?: string
    readonly verdict:
      | 'offered'
      | 'absent'
      | 'holder-down'
      | 'no-trusted-signature'
      | 'denied'
      | 'ca-mismatch'
      | 'contradicted'
      | 'nar-bad'
      | 'not-public'
    readonly detail: string
  }[]
}

/** `GET /api/v1/nix-conf`: the lines for nix.conf. */
export interface NixConfReply {
  readonly lines: readonly string[]
}

/** `GET /api/v1/doctor`: what the daemon can see of its own set-up; the command line adds what only the client can see. */
export interface DoctorReply {
  readonly findings: readonly Finding[]
}

export interface Finding {
  /** Stable name, e.g. `clock`, `database-access`, `cache-writable`. */
  readonly name: string
  readonly level: 'ok' | 'warning' | 'error'
  readonly what: string
  /** The command or line that mends it. */
  readonly mend?: string
}

/** `GET /api/v1/members`: this host and its site. */
export interface MembersReply {
  readonly state: SiteState
  /** Members by name, then those to be invited anew, then revoked ones. */
  readonly members: readonly SiteMember[]
}

/** How a host stands to its site. */
export interface SiteState {
  /** What the host is called there. */
  readonly name: string
  /** Its public key, 64 hex digits. */
  readonly key: string
  readonly admin: boolean
  /** Undefined while it belongs to none. */
  readonly site?: {
    readonly name: string
    /** 16 hex digits that tell sites apart. */
    readonly fingerprint: string
    readonly members: number
    /** Lines of the member list: of two lists that grew from one, the longer knows more. */
    readonly lines: number
    /** Whether the site key lies on this host. */
    readonly keyHere: boolean
    readonly openInvites: number
  }
}

export interface SiteMember {
  /** Empty for a revoked key that was never admitted as far as this host knows. */
  readonly name: string
  readonly key: string
  readonly admin: boolean
  /** `orphaned`: admitted by an admin after its revocation; no member until an admin invites it anew. */
  readonly state: 'member' | 'orphaned' | 'revoked'
  readonly self: boolean
  /** `name:base64`: what it signs store paths with. */
  readonly nixKey?: string
}

/** `POST /api/v1/site/init`, `/recovery`: the site key, to be written down. */
export interface RecoveryReply {
  readonly site: string
  readonly lines: readonly string[]
}

/** `POST /api/v1/site/invite`. */
export interface InviteReply {
  readonly site: string
  readonly code: string
  readonly expiresInMs: number
}

/** `POST /api/v1/site/revoke`. */
export interface RevokeReply {
  readonly name: string
  readonly key: string
  /** Hosts whose membership or right rested on its word alone, signed anew. */
  readonly kept: readonly string[]
  /** Hosts that it had revoked and that are members again. */
  readonly back: readonly string[]
}

/** `GET /api/v1/peers`, `narwharf peers --json`: the other hosts of the site. */
export interface PeersReply {
  /** By name. */
  readonly peers: readonly PeerStatus[]
}

export interface PeerStatus {
  readonly name: string
  /** Its public key, 64 hex digits. */
  readonly key: string
  /** Connected just now. */
  readonly up: boolean
  /** When this host last spoke with it, by this host's clock; undefined if never. */
  readonly lastSeen?: string
  /** `address:port` where it is, or was last. */
  readonly address?: string
  readonly rttMs?: number
  /** Of its narwharf. */
  readonly version?: string
  /** Paths of its index that are known here, and the sum of their NAR sizes. */
  readonly paths: number
  readonly narBytes: number
  /** Counts up whenever the host begins its index anew. */
  readonly epoch?: number
  /** Blocks of its index that are known to exist and not yet here. */
  readonly lag: number
  /** What it was caught at: a false index, a message that no host sends. */
  readonly problem?: string
}

/** `POST /api/v1/fetch` with `{ paths }` answers with one of these a line (JSON lines), the last one `end` or `failed`. */
export type FetchEvent =
  | { readonly event: 'start'; readonly paths: number }
  | ({ readonly event: 'fetched'; readonly narSize: number } & FetchProgress)
  /** In the cache already. */
  | ({ readonly event: 'here' } & FetchProgress)
  | ({ readonly event: 'missing'; readonly problem: string } & FetchProgress)
  | {
      readonly event: 'end'
      readonly fetched: number
      readonly here: number
      /** NAR sizes of what was fetched. */
      readonly bytes: number
      readonly missing: readonly { readonly storePath: string; readonly problem: string }[]
    }
  /** The whole of it came to an end: the cache cannot be written. */
  | ({ readonly event: 'failed' } & ErrorReply)

export interface FetchProgress {
  readonly storePath: string
  /** Of `paths`, this one included. */
  readonly done: number
  readonly paths: number
}

/** Every error of the API: `{ error: { code, message, hint } }` with a 4xx status. */
export interface ErrorReply {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string }
}
