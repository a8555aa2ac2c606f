import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import type { IndexPath } from '../../protocol/index-block.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { isStoreName, nameOf, parseStorePath } from '../../protocol/store-path.ts'
import type { BaseName, StorePath } from '../../protocol/store-path.ts'
import { seededRandom } from './mutate.ts'

// Path infos as a host's index has them, for tests and benchmarks: names of nixpkgs where the list is here, references as
// closures have them (a few paths that everything refers to, and neighbours).

const STORE_PATHS = '../shared/data/nixpkgs-20.09/store-paths.xz'

const MAX_LIST_BYTES = 64 * 1024 * 1024

/** Real store paths of a channel; undefined where the list is not here. */
export function realStorePaths(): StorePath[] | undefined {
  if (!existsSync(STORE_PATHS)) return undefined
  const text = execFileSync('xz', ['-dc', STORE_PATHS], { maxBuffer: MAX_LIST_BYTES })
  return text
    .toString('latin1')
    .trim()
    .split('\n')
    .map(line => parseStorePath(line))
}

const STEMS = ['glibc', 'perl5.40-XML-Parser', 'firefox-unwrapped', 'python3.12-numpy', 'a']

/** Names to make paths of: real ones, or made up. */
export function packageNames(): string[] {
  const real = realStorePaths()
  if (real !== undefined) return real.map(nameOf)
  return Array.from({ length: 20_000 }, (_, at) => `${STEMS[at % STEMS.length]}-${at % 97}.${at}`)
}

/** Paths of one revision after the other: a third of the names change from one to the next, every hash does. */
export function* syntheticPaths(
  count: number,
  { seed = 1, signatures = 0 }: { readonly seed?: number; readonly signatures?: number } = {},
): Generator<IndexPath> {
  const random = seededRandom(seed)
  const names = packageNames()
  let revision: BaseName[] = []
  for (let at = 0; at < count; at++) {
    const inRevision = at % names.length
    if (inRevision === 0) {
      revision = []
      if (at > 0) names.forEach((name, n) => random() < 0.3 && (names[n] = bump(name, random)))
    }
    const digest = createHash('sha512').update(`${seed} ${at}`).digest()
    const baseName =
      `${encodeNix32(digest.subarray(0, 20))}-${names[inRevision] as string}` as BaseName
    const references = new Set<BaseName>()
    for (let left = Math.floor(random() * 16); left > 0 && revision.length > 0; left--) {
      const other =
        random() < 0.25
          ? revision.length - 1 - Math.floor(random() * Math.min(20, revision.length))
          : Math.floor(random() ** 4 * revision.length)
      references.add(revision[other] as BaseName)
    }
    revision.push(baseName)
    yield {
      builtHere: random() < 0.05,
      info: {
        storePath: `/nix/store/${baseName}` as StorePath,
        narHash: { algorithm: 'sha256', bytes: digest.subarray(20, 52) },
        narSize: 8 * Math.ceil(14 + Math.exp(random() * 16)),
        references: [...references].sort(),
        signatures: Array.from(
          { length: signatures },
          (_, n) =>
            `cache-${n}.example-1:${createHash('sha512').update(`${n} ${baseName}`).digest('base64')}`,
        ),
      },
    }
  }
}

function bump(name: string, random: () => number): string {
  const next = name.replace(/\d+(?=\D*$)/, number =>
    String(Number(number) + 1 + (random() > 0.5 ? 1 : 0)),
  )
  return isStoreName(next) ? next : name
}

/** Deflate as hosts do it: level 4 costs half of 6 and a quarter of a byte a path. */
export const deflate = (bytes: Uint8Array): Buffer => deflateRawSync(bytes, { level: 4 })

/** The other way. */
export const inflate = (bytes: Uint8Array, maxBytes: number): Buffer =>
  inflateRawSync(bytes, { maxOutputLength: Math.max(1, maxBytes) })
