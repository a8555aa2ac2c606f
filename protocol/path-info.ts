import type { Hash } from './hash.ts'
import type { BaseName, StorePath } from './store-path.ts'

/**
 * What is known about one store path, independent of where its NAR is. Fields by trust: `storePath`, `narHash`,
 * `narSize` and `references` are what a signature covers; `ca` can be proven by computing the path from it;
 * `deriver` is hearsay. Shape after Nix's ValidPathInfo (src/libstore/path-info.hh).
 */
export interface PathInfo {
  readonly storePath: StorePath
  /** SHA-256 of the uncompressed NAR. */
  readonly narHash: Hash
  /** Bytes of the uncompressed NAR, > 0 and a safe integer. */
  readonly narSize: number
  /** Base names, sorted by bytes, without duplicates; a self reference is among them. */
  readonly references: readonly BaseName[]
  /** Content address as Nix writes it (`fixed:r:sha256:…`, `text:sha256:…`), proven only after a check. */
  readonly ca?: string | undefined
  /** Signatures as written, `name:base64`, well-formed, not yet verified. */
  readonly signatures: readonly string[]
  readonly deriver?: BaseName | undefined
}

/** Compressions of a NAR file that narwharf reads. */
export type Compression = 'none' | 'xz' | 'zstd' | 'bzip2' | 'gzip' | 'br'

/** A narinfo: a path info and where its NAR file is, untrusted. */
export interface NarInfo extends PathInfo {
  readonly url: string
  readonly compression: Compression
  readonly fileHash?: Hash | undefined
  readonly fileSize?: number | undefined
}
