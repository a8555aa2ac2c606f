import { DERIVATION_MAX_BYTES, fixedOutput, parseDerivation } from '../../protocol/derivation.ts'
import { formatHash } from '../../protocol/hash.ts'
import { baseNameOf, hashPartOf, type StorePath } from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'

// Closures of derivations, as the holders of this machine have them: read by our own parser, one after the other from a list
// of what is to be looked at, so that neither a cycle nor a long chain drives anything deep.

/** A fixed output as it is fetched: what a network would be asked for. */
export interface FixedSource {
  /** `sha256:<hex>`, with `r:` in front where the hash is of the NAR. */
  readonly hash: string
  readonly urls: readonly string[]
}

/** What is kept of a derivation: some hundred bytes, not its builder's script. */
export interface KnownDerivation {
  readonly path: StorePath
  /** By output name; undefined where only a build tells. */
  readonly outputs: ReadonlyMap<string, StorePath | undefined>
  /** Names of the outputs used, by .drv. */
  readonly inputs: ReadonlyMap<StorePath, readonly string[]>
  readonly sources: readonly StorePath[]
  readonly fixed: FixedSource | undefined
  /** It says itself that no cache has it: made of what is special to this configuration. */
  readonly local: boolean
}

/** Derivations of one walk: twenty whole desktops. */
export const DERIVATIONS_MAX = 200_000

/** Read at a time: a disk's queue, and some megabytes of memory. */
const READS_AT_ONCE = 16

/** URLs of one source that are told. */
const URLS_MAX = 20

const isSwitchedOff = (value: string | undefined): boolean => value === '' || value === '0'

function sourceOf(derivation: ReturnType<typeof parseDerivation>): FixedSource | undefined {
  const output = derivation.outputs.get('out')
  if (output?.kind !== 'fixed') return undefined
  // Throws where the path does not follow from the hash: forged.
  fixedOutput(derivation)
  const { env } = derivation
  const urls = `${env.get('urls') ?? ''} ${env.get('url') ?? ''}`.split(/\s+/)
  return {
    hash: `${output.method === 'recursive' ? 'r:' : ''}${formatHash(output.hash, 'base16')}`,
    urls: [...new Set(urls.filter(url => url !== ''))].slice(0, URLS_MAX),
  }
}

/** Reads a derivation from the first holder that has it whole; undefined where none has. Never rejects. */
export async function readDerivation(
  path: StorePath,
  holders: readonly Holder[],
): Promise<KnownDerivation | undefined> {
  for (const holder of holders) {
    try {
      const held = await holder.find(hashPartOf(path))
      if (held === undefined || baseNameOf(held.info.storePath) !== baseNameOf(path)) continue
      const bytes = await holder.readFile(held, '', DERIVATION_MAX_BYTES)
      if (bytes === undefined) continue
      const derivation = parseDerivation(bytes, { storeDir: holder.storeDir })
      return {
        path,
        outputs: new Map(
          [...derivation.outputs].map(([name, output]) => [
            name,
            'path' in output ? output.path : undefined,
          ]),
        ),
        inputs: derivation.inputDerivations,
        sources: derivation.inputSources,
        fixed: sourceOf(derivation),
        local: isSwitchedOff(derivation.env.get('allowSubstitutes')),
      }
    } catch {
      // Damaged here or out of reach: another may have it.
    }
  }
  return undefined
}

/** Derivations that were walked. */
export interface DerivationGraph {
  readonly known: ReadonlyMap<StorePath, KnownDerivation>
  /** Named by others and nowhere here. */
  readonly absent: ReadonlySet<StorePath>
  /** Output paths to the derivation that makes each. */
  readonly makers: ReadonlyMap<StorePath, KnownDerivation>
  /** There were more than {@link DERIVATIONS_MAX}. */
  readonly cut: boolean
}

export interface WalkOptions {
  /** Reads one; the same as {@link readDerivation} over some holders. */
  readonly read: (path: StorePath) => Promise<KnownDerivation | undefined>
  /** Whether what a derivation is built from is to be walked too. Default: always. */
  readonly descend?: ((derivation: KnownDerivation) => boolean) | undefined
  readonly signal?: AbortSignal | undefined
  readonly limit?: number | undefined
}

/** Walks the closure of derivations from those. Rejects only with the signal's reason. */
export async function walkDerivations(
  roots: Iterable<StorePath>,
  { read, descend = () => true, signal, limit = DERIVATIONS_MAX }: WalkOptions,
): Promise<DerivationGraph> {
  const known = new Map<StorePath, KnownDerivation>()
  const absent = new Set<StorePath>()
  const makers = new Map<StorePath, KnownDerivation>()
  const seen = new Set(roots)
  let waiting = [...seen]
  let cut = false
  while (waiting.length > 0) {
    signal?.throwIfAborted()
    const now = waiting.slice(0, READS_AT_ONCE)
    waiting = waiting.length > READS_AT_ONCE ? waiting.slice(READS_AT_ONCE) : []
    const found = await Promise.all(now.map(read))
    for (const [index, derivation] of found.entries()) {
      if (derivation === undefined) {
        absent.add(now[index] as StorePath)
        continue
      }
      known.set(derivation.path, derivation)
      for (const path of derivation.outputs.values()) {
        if (path !== undefined) makers.set(path, derivation)
      }
      if (!descend(derivation)) continue
      for (const input of derivation.inputs.keys()) {
        if (seen.has(input)) continue
        cut ||= seen.size >= limit
        if (cut) break
        seen.add(input)
        waiting.push(input)
      }
    }
  }
  return { known, absent, makers, cut }
}

/**
 * What a place needs to have a configuration, given by its top derivations: their outputs, and of each that no cache has the
 * outputs it is built from (of all, with `build`). Fixed outputs among them; the most wanted first.
 */
export function outputsNeeded(
  tops: readonly StorePath[],
  { known }: DerivationGraph,
  build: boolean,
): StorePath[] {
  const needed = new Set<StorePath>()
  const add = (derivation: KnownDerivation | undefined, names: readonly string[]) => {
    for (const name of names) {
      const path = derivation?.outputs.get(name)
      if (path !== undefined) needed.add(path)
    }
  }
  const seen = new Set(tops)
  for (const top of tops) add(known.get(top), [...(known.get(top)?.outputs.keys() ?? [])])
  // A Set tells what is added to it meanwhile, too: this is the whole walk.
  for (const path of seen) {
    const derivation = known.get(path)
    if (derivation === undefined || !(build || derivation.local)) continue
    for (const [input, names] of derivation.inputs) {
      add(known.get(input), names)
      seen.add(input)
    }
  }
  return [...needed]
}
