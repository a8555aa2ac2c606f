import type { Compression } from './path-info.ts'
import type { HashPart } from './store-path.ts'

// NAR URLs say by themselves what they mean: Nix keeps a narinfo for 30 days and later goes straight to the URL in it
// (facts: positive entries of binary-cache-v6.sqlite), so no state may be needed to understand one.
//
//   nar/<hash part>-<NAR hash>.nar                        uncompressed; also the shape of nix-serve
//   nar/<hash part>-<NAR hash>.nar.<extension>            compressed on the fly, the same bytes every time
//   nar/<hash part>-<NAR hash>-<file hash>.nar.<extension>  the very file with that SHA-256
//   nar/<NAR hash>.nar?hash=<hash part>                   the shape of harmonia, understood, not written
//   nar/<hash part>.nar                                   the old shape of nix-serve, understood, not written

/** File name extension of each compression, as Nix writes them. */
export const COMPRESSION_EXTENSIONS: Readonly<Record<Compression, string>> = {
  none: '',
  xz: '.xz',
  zstd: '.zst',
  bzip2: '.bz2',
  gzip: '.gz',
  br: '.br',
}

/** What a NAR URL asks for. Hashes are nix32 text, unprefixed. */
export interface NarUrl {
  readonly hashPart: HashPart
  /** 52 characters; absent in the old nix-serve shape, where any NAR of the path will do. */
  readonly narHash?: string | undefined
  /** 52 characters; present when one certain file is meant. */
  readonly fileHash?: string | undefined
  readonly compression: Compression
}

const NIX32 = '[0-9a-df-np-sv-z]'
const OWN_SHAPE = new RegExp(
  `^(${NIX32}{32})(?:-(${NIX32}{52})(?:-(${NIX32}{52}))?)?\\.nar((?:\\.xz|\\.zst|\\.bz2|\\.gz|\\.br)?)$`,
)
const HARMONIA_SHAPE = new RegExp(`^(${NIX32}{52})\\.nar$`)
const HARMONIA_QUERY = new RegExp(`^hash=(${NIX32}{32})$`)

const COMPRESSION_OF = new Map(
  (Object.entries(COMPRESSION_EXTENSIONS) as [Compression, string][]).map(([name, ext]) => [
    ext,
    name,
  ]),
)

/** The URL to write into a narinfo, relative to the cache: `nar/…`. */
export function formatNarUrl(url: NarUrl & { readonly narHash: string }): string {
  const file = url.fileHash === undefined ? '' : `-${url.fileHash}`
  return `nar/${url.hashPart}-${url.narHash}${file}.nar${COMPRESSION_EXTENSIONS[url.compression]}`
}

/**
 * Understands what stands behind `/nar/` in a request (`file`, without the query) and the query text; undefined when
 * it is no shape we know.
 */
export function parseNarUrl(file: string, query = ''): NarUrl | undefined {
  const own = OWN_SHAPE.exec(file)
  if (own !== null) {
    return {
      hashPart: own[1] as HashPart,
      narHash: own[2],
      fileHash: own[3],
      compression: COMPRESSION_OF.get(own[4] as string) as Compression,
    }
  }
  const harmonia = HARMONIA_SHAPE.exec(file)
  const hash = harmonia === null ? null : HARMONIA_QUERY.exec(query)
  if (harmonia === null || hash === null) return undefined
  return { hashPart: hash[1] as HashPart, narHash: harmonia[1], compression: 'none' }
}
