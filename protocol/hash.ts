/** Hash algorithms Nix names. md5 is parsed (old fixed outputs have it) but never anchors trust. */
export type HashAlgorithm = 'md5' | 'sha1' | 'sha256' | 'sha512'

/** A hash: algorithm and raw bytes (md5 16, sha1 20, sha256 32, sha512 64). */
export interface Hash {
  readonly algorithm: HashAlgorithm
  readonly bytes: Uint8Array
}
