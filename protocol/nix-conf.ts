// The lines a machine's nix.conf needs to use a narwharf daemon. The setting names are Nix's (manual, "nix.conf").

/** What the lines are made of. */
export interface NixConfFacts {
  /** Address of the daemon as the client sees it, e.g. `http://127.0.0.1:6279`. */
  readonly url: string
  /** The host's signing key, `name:base64`. */
  readonly publicKey: string
}

/**
 * The two lines without which nothing works, for a notice; `extra-` keeps what is there already (and is understood by
 * Nix 2.4 and newer as well as by 2.3).
 */
export function nixConfEssentials({ url, publicKey }: NixConfFacts): string[] {
  return [`extra-substituters = ${url}`, `extra-trusted-public-keys = ${publicKey}`]
}

/** Seconds Nix waits for a cache that does not answer at all; its own default is 5 minutes up to 2.26. */
export const CONNECT_TIMEOUT_SECONDS = 5

/** All recommended lines, each with its reason as a comment, as nix.conf takes them. */
export function nixConfLines(facts: NixConfFacts): string[] {
  return [
    '# narwharf: this host as a substituter',
    ...nixConfEssentials(facts),
    '# ask again for a path that was not there a moment ago (Nix would remember the "no" for an hour)',
    'narinfo-cache-negative-ttl = 0',
    '# do not wait long for a cache that is off, and build what no cache has',
    `connect-timeout = ${CONNECT_TIMEOUT_SECONDS}`,
    'fallback = true',
  ]
}
