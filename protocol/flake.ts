// Flakes offered as tarballs: the note kept beside each (`narwharf/flakes/<id>.json`), the registry made of the notes, and
// the header by which a tarball says what it is. Sources: Nix manual, "nix3-registry" (registry format, version 2), "Lockable
// HTTP Tarball Protocol".
import { fail, problemOf } from './errors.ts'
import { formatHash, parseHash } from './hash.ts'

/** A flake's tarball as it is kept. */
export interface PublishedFlake {
  /** Its name in registries: `nixpkgs`. */
  readonly id: string
  /** The full git revision, 40 hex digits. */
  readonly rev?: string | undefined
  /** Of the unpacked tree, in SRI form. */
  readonly narHash?: string | undefined
  /** Seconds since 1970. */
  readonly lastModified?: number | undefined
  /** Where the tarball is below `narwharf/flakes/`: `<id>/<name>.tar.<gz|xz|zst|bz2>`. */
  readonly file: string
}

/** Bytes of a note: it has five short fields. */
export const FLAKE_NOTE_MAX_BYTES = 4096

/** Characters of a flake's name. */
const ID_MAX_LENGTH = 100

/** Source: NixOS/nix src/libflake/url-name.cc, flakeIdRegex. */
const ID = /^[a-zA-Z][a-zA-Z0-9_-]*$/
const FILE = /^([a-zA-Z][a-zA-Z0-9_-]*)\/([A-Za-z0-9][A-Za-z0-9_+-]*)\.tar\.(?:gz|xz|zst|bz2)$/
const REVISION = /^[0-9a-f]{40}$/

const invalid = (problem: string): never => fail('FLAKE_INVALID', { problem })

/** Whether a text may be a flake's name. */
export const isFlakeId = (text: string): boolean => text.length <= ID_MAX_LENGTH && ID.test(text)

/** The name under which a tarball's file lies, less the extension: it stands in the address that never changes. */
export function tarballName(flake: PublishedFlake): string {
  return FILE.exec(flake.file)?.[2] ?? invalid(`bad file ${flake.file}`)
}

function sriOf(text: string): string {
  try {
    return formatHash(parseHash(text, { algorithm: 'sha256' }), 'sri')
  } catch (error) {
    return invalid(`bad narHash: ${problemOf(error)}`)
  }
}

function checked(value: unknown): PublishedFlake {
  if (typeof value !== 'object' || value === null) return invalid('not an object')
  const { id, rev, narHash, lastModified, file } = value as Readonly<Record<string, unknown>>
  if (typeof id !== 'string' || !isFlakeId(id)) return invalid('bad id')
  if (typeof file !== 'string' || file.length > 2 * ID_MAX_LENGTH || FILE.exec(file)?.[1] !== id) {
    return invalid('bad file')
  }
  if (rev !== undefined && (typeof rev !== 'string' || !REVISION.test(rev))) {
    return invalid('bad rev: a full git revision has 40 hex digits')
  }
  if (
    lastModified !== undefined &&
    (!Number.isSafeInteger(lastModified) || Number(lastModified) < 0)
  ) {
    return invalid('bad lastModified')
  }
  if (narHash !== undefined && typeof narHash !== 'string') return invalid('bad narHash')
  const hash = narHash === undefined ? undefined : sriOf(narHash)
  return {
    id,
    ...(rev !== undefined && { rev }),
    ...(hash !== undefined && { narHash: hash }),
    ...(lastModified !== undefined && { lastModified: Number(lastModified) }),
    file,
  }
}

/** Reads a flake's note. Throws FLAKE_INVALID. */
export function parseFlakeNote(bytes: Uint8Array): PublishedFlake {
  if (bytes.length > FLAKE_NOTE_MAX_BYTES) return invalid('too long')
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    return invalid(problemOf(error))
  }
  return checked(value)
}

/** Writes a flake's note. Throws FLAKE_INVALID for what parse would refuse. */
export function formatFlakeNote(flake: PublishedFlake): Buffer {
  return Buffer.from(`${JSON.stringify(checked(flake), undefined, 2)}\n`)
}

/** The registry (version 2) in which each name means the tarball at `<base>/flakes/<name>.tar.gz`. */
export function formatRegistry(ids: readonly string[], base: string): string {
  const flakes = ids.map(id => ({
    from: { type: 'indirect', id },
    to: { type: 'tarball', url: `${base}/flakes/${id}.tar.gz` },
  }))
  return `${JSON.stringify({ version: 2, flakes }, undefined, 2)}\n`
}

/**
 * The `Link` header of a tarball: the address that will always mean this very tree, for the lock file. Undefined where no
 * revision says which tree it is.
 */
export function formatImmutableLink(flake: PublishedFlake, base: string): string | undefined {
  const { id, rev, narHash } = flake
  if (rev === undefined) return undefined
  const query = new URLSearchParams({ rev, ...(narHash !== undefined && { narHash }) })
  return `<${base}/flakes/${id}/${tarballName(flake)}.tar.gz?${query.toString()}>; rel="immutable"`
}
