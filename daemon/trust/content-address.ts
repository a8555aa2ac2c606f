import {
  caProves,
  contentCheckOf,
  formatContentAddress,
  parseContentAddress,
} from '../../protocol/content-address.ts'
import type { ContentAddress } from '../../protocol/content-address.ts'
import { fixedOutput, parseDerivation } from '../../protocol/derivation.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { sameHash } from '../../protocol/hash.ts'
import type { Hash } from '../../protocol/hash.ts'
import { baseNameOf, hashPartOf } from '../../protocol/store-path.ts'
import type { BaseName } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { ContentReader } from './content-digest.ts'

// Finding and proving the content address of a path. The path must follow from the address (caProves), and the content
// from the address too: only a recursive sha256 is the NAR hash itself, for any other the content is read and hashed,
// or a cache directory could give another content under a true address. What proves once is kept in the catalog.

/** Bytes of NAR read for a proof at most: 4 GiB take some ten seconds; anything larger needs a signature. */
const READ_MAX_BYTES = 4 * 1024 ** 3

/** Bytes of a deriver's .drv read: the largest of nixpkgs 20.09 has 3.2 MB. */
const DERIVER_MAX_BYTES = 16 * 1024 ** 2

/** A content address as found: proven, or with its path right and its content still to be read. */
export interface FoundAddress {
  readonly ca: string
  readonly proven: boolean
}

/** What the given content address is worth: `absent` also for one that cannot prove (md5), `false` for a wrong one. */
export type GivenAddress = FoundAddress | 'absent' | 'false'

/** Judges the content address that came with the path info, without reading anything. */
export function judgeGiven(holder: Holder, { info }: Holding, storeDir: string): GivenAddress {
  if (info.ca === undefined) return 'absent'
  let ca: ContentAddress
  try {
    ca = parseContentAddress(info.ca)
  } catch {
    return 'false'
  }
  if (ca.hash.algorithm === 'md5') return 'absent'
  if (!caProves(info, ca, storeDir)) return 'false'
  // A live store has checked the content when it registered the address; what came by --import has none.
  const proven = contentCheckOf(info, ca) === 'nar-hash' || holder.kind === 'nix-store'
  return { ca: formatContentAddress(ca), proven }
}

/** The content address of what was added as it is (`nix-store --add`, sources, fetched trees): its hash is the NAR hash. */
export function guessSource({ info }: Holding, storeDir: string): string | undefined {
  if (info.references.includes(baseNameOf(info.storePath))) return undefined
  const ca = { kind: 'fixed', method: 'recursive', hash: info.narHash } as const
  return caProves(info, ca, storeDir) ? formatContentAddress(ca) : undefined
}

/** What a search found: an address, or none; `final` when asking again can find nothing else. */
export interface AddressSearch {
  readonly ca?: string | undefined
  readonly final: boolean
}

/**
 * Proves a given address by reading the content, or finds a missing one: from the deriver's .drv where that is held too,
 * else by hashing the content of a single file (derivations, toFile texts, flat fixed outputs). Rejects when reading fails.
 */
export async function searchAddress(
  reader: ContentReader,
  holder: Holder,
  holding: Holding,
  given: GivenAddress,
  storeDir: string,
): Promise<AddressSearch> {
  const { info } = holding
  if (info.narSize > READ_MAX_BYTES) return { final: true }
  if (typeof given === 'object') {
    const ca = parseContentAddress(given.ca)
    if (await contentFits(reader, holder, holding, ca)) return { ca: given.ca, final: true }
    return { final: true }
  }
  const deriver = await readDeriver(holder, holding, storeDir)
  if (deriver.ca !== undefined) {
    const fits = await contentFits(reader, holder, holding, deriver.ca)
    return { ca: fits ? formatContentAddress(deriver.ca) : undefined, final: true }
  }
  if (deriver.state === 'other') return { final: true }
  const ca = await guessFile(reader, holder, holding, storeDir)
  return { ca, final: ca !== undefined || deriver.state === 'none' }
}

async function contentFits(
  reader: ContentReader,
  holder: Holder,
  holding: Holding,
  ca: ContentAddress,
): Promise<boolean> {
  const { algorithm } = ca.hash
  switch (contentCheckOf(holding.info, ca)) {
    case 'nar-hash':
      return true
    case 'nar':
      return sameHash(await reader.ofNar(holder, holding, algorithm), ca.hash)
    case 'flat': {
      const hash = (await reader.ofFile(holder, holding, [algorithm]))?.[0]
      return hash !== undefined && sameHash(hash, ca.hash)
    }
    case 'nar-modulo-self':
      // Only experimental content-addressed derivations have these; without the proof a signature must do.
      return false
  }
}

interface Deriver {
  /** `none` named, `absent` here, `fixed` to this path, or `other`: it made the path without fixing its content. */
  readonly state: 'none' | 'absent' | 'fixed' | 'other'
  readonly ca?: ContentAddress
}

/** What the deriver's .drv says of the path. The deriver is hearsay, so only what proves the path counts. */
async function readDeriver(holder: Holder, { info }: Holding, storeDir: string): Promise<Deriver> {
  const deriver: BaseName | undefined = info.deriver
  if (deriver === undefined) return { state: 'none' }
  const held = await holder.find(hashPartOf(deriver))
  if (held === undefined || baseNameOf(held.info.storePath) !== deriver) return { state: 'absent' }
  const bytes = await holder.readFile(held, '', DERIVER_MAX_BYTES)
  if (bytes === undefined) return { state: 'absent' }
  try {
    const derivation = parseDerivation(bytes, { storeDir })
    const fixed = fixedOutput(derivation)
    if (fixed !== undefined) {
      const { method, hash } = fixed
      const ca: ContentAddress = { kind: 'fixed', method, hash }
      if (caProves(info, ca, storeDir)) return { state: 'fixed', ca }
    }
    const made = [...derivation.outputs.values()].some(
      output => output.kind === 'input-addressed' && output.path === info.storePath,
    )
    return { state: made ? 'other' : 'none' }
  } catch (error) {
    if (isNarwharfError(error)) return { state: 'none' }
    throw error
  }
}

/** Tries what a single file's content can be the address of; a path with references can only be a text. */
async function guessFile(
  reader: ContentReader,
  holder: Holder,
  holding: Holding,
  storeDir: string,
): Promise<string | undefined> {
  const { info } = holding
  const hashes = await reader.ofFile(
    holder,
    holding,
    info.references.length > 0 ? ['sha256'] : ['sha256', 'sha512', 'sha1'],
  )
  const addresses = (hashes ?? []).flatMap((hash: Hash): ContentAddress[] => [
    ...(hash.algorithm === 'sha256' ? [{ kind: 'text', hash } as const] : []),
    { kind: 'fixed', method: 'flat', hash },
  ])
  const found = addresses.find(ca => caProves(info, ca, storeDir))
  return found === undefined ? undefined : formatContentAddress(found)
}
