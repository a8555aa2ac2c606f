// Content addresses as narinfos and ValidPaths.ca write them: `text:sha256:<hash>`, `fixed:<hash>`, `fixed:r:<hash>`,
// the hash as `algo:digits`. Source: NixOS/nix src/libstore/content-address.cc. Not read: the experimental
// `fixed:git:`. What they leave to others: hashing the content itself (see contentCheckOf).
import { fail, problemOf } from './errors.ts'
import { formatHash, parseHash, sameHash } from './hash.ts'
import type { Hash } from './hash.ts'
import type { PathInfo } from './path-info.ts'
import {
  DEFAULT_STORE_DIR,
  baseNameOf,
  computeFixedOutputPath,
  computeTextPath,
  nameOf,
} from './store-path.ts'
import type { BaseName, FixedOutputMethod, StorePath } from './store-path.ts'

/** A content address: of a text file (sha256 of its content), or of a file or tree by a method. */
export type ContentAddress =
  | { readonly kind: 'text'; readonly hash: Hash }
  | { readonly kind: 'fixed'; readonly method: FixedOutputMethod; readonly hash: Hash }

const invalid = (value: string, problem: string): never =>
  fail('CONTENT_ADDRESS_INVALID', { value, problem })

/** Reads a content address; throws CONTENT_ADDRESS_INVALID. */
export function parseContentAddress(text: string): ContentAddress {
  const match = /^(text|fixed):(r:)?([a-z0-9]+:[^:]+)$/.exec(text)
  if (match === null) return invalid(text, 'neither text:<hash> nor fixed:[r:]<hash>')
  const [, kind, recursive, digits = ''] = match
  let hash: Hash
  try {
    hash = parseHash(digits)
  } catch (error) {
    return fail('CONTENT_ADDRESS_INVALID', { value: text, problem: problemOf(error) }, error)
  }
  if (kind === 'fixed') return { kind, method: recursive ? 'recursive' : 'flat', hash }
  if (recursive || hash.algorithm !== 'sha256') {
    return invalid(text, 'a text file is addressed by text:sha256')
  }
  return { kind: 'text', hash }
}

/** Writes a content address as Nix does, digits in nix32. */
export function formatContentAddress(ca: ContentAddress): string {
  const hash = formatHash(ca.hash, 'nix32')
  if (ca.kind === 'text') return `text:${hash}`
  return ca.method === 'recursive' ? `fixed:r:${hash}` : `fixed:${hash}`
}

/**
 * The one path that content address, name and references (base names without the path itself) lead to.
 * Throws CONTENT_ADDRESS_INVALID for references where there may be none, STORE_PATH_INVALID for a bad name.
 */
export function storePathOfContentAddress(
  ca: ContentAddress,
  name: string,
  references: readonly BaseName[],
  storeDir: string = DEFAULT_STORE_DIR,
  selfReference = false,
): StorePath {
  if (ca.kind === 'fixed') {
    const { method, hash } = ca
    return computeFixedOutputPath({ name, hash, method, references, selfReference }, storeDir)
  }
  if (selfReference) invalid(formatContentAddress(ca), 'a text file cannot refer to itself')
  return computeTextPath({ name, hash: ca.hash, references }, storeDir)
}

/**
 * Whether the path info's store path, and its NAR hash where the address is one, follow from the content address: then
 * name, references and address cannot have been forged. False, never an error, for what cannot be (md5 never proves).
 * The content is proven only with {@link contentCheckOf} as well.
 */
export function caProves(
  info: Pick<PathInfo, 'storePath' | 'narHash' | 'references'>,
  ca: ContentAddress,
  storeDir: string = DEFAULT_STORE_DIR,
): boolean {
  if (ca.hash.algorithm === 'md5') return false
  const self = baseNameOf(info.storePath)
  const others = info.references.filter(reference => reference !== self)
  const selfReference = others.length < info.references.length
  const source = ca.kind === 'fixed' && ca.method === 'recursive' && ca.hash.algorithm === 'sha256'
  const text = ca.kind === 'text' && ca.hash.algorithm === 'sha256' && !selfReference
  // Only these two kinds of path take references in; for any other they would be unproven.
  if (!source && !text && (ca.kind === 'text' || info.references.length > 0)) return false
  const name = nameOf(info.storePath)
  const path = storePathOfContentAddress(ca, name, others, storeDir, selfReference)
  if (path !== info.storePath) return false
  return contentCheckOf(info, ca) !== 'nar-hash' || sameHash(ca.hash, info.narHash)
}

/**
 * What still ties the NAR's bytes to a content address that {@link caProves} its path:
 * `nar-hash` nothing, it is the NAR hash; `nar` the NAR hashed by the address's algorithm; `flat` the content of the one
 * regular file hashed; `nar-modulo-self` the NAR hashed with the path's own hash part zeroed (hashModulo in Nix).
 */
export function contentCheckOf(
  info: Pick<PathInfo, 'storePath' | 'references'>,
  ca: ContentAddress,
): 'nar-hash' | 'nar' | 'flat' | 'nar-modulo-self' {
  if (ca.kind === 'text' || ca.method === 'flat') return 'flat'
  if (info.references.includes(baseNameOf(info.storePath))) return 'nar-modulo-self'
  return ca.hash.algorithm === 'sha256' ? 'nar-hash' : 'nar'
}
