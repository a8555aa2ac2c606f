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
    readonly verdict:
      | 'offered'
      | 'absent'
      | 'holder-down'
      | 'no-trusted-signature'
      | 'denied'
      | 'ca-mismatch'
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

/** Every error of the API: `{ error: { code, message, hint } }` with a 4xx status. */
export interface ErrorReply {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string }
}
