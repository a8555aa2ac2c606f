import { parseDerivation } from '../../protocol/derivation.ts'
import { baseNameOf, hashPartOf } from '../../protocol/store-path.ts'
import type { BaseName, StorePath } from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'

/** Bytes of a .drv read for its outputs: the largest of nixpkgs 20.09 has 3.2 MB. */
const DERIVATION_READ_MAX_BYTES = 16 * 1024 ** 2

/**
 * The outputs of a derivation by name, with their paths where the derivation knows them, from the first holder that has
 * it whole; undefined when none has.
 */
export async function outputsOf(
  derivation: BaseName,
  holders: readonly Holder[],
): Promise<ReadonlyMap<string, StorePath | undefined> | undefined> {
  for (const holder of holders) {
    try {
      const held = await holder.find(hashPartOf(derivation))
      if (held === undefined || baseNameOf(held.info.storePath) !== derivation) continue
      const bytes = await holder.readFile(held, '', DERIVATION_READ_MAX_BYTES)
      if (bytes === undefined) continue
      const { outputs } = parseDerivation(bytes, { storeDir: holder.storeDir })
      return new Map(
        [...outputs].map(([name, output]) => [name, 'path' in output ? output.path : undefined]),
      )
    } catch {
      // Damaged here or out of reach: another may have it.
    }
  }
  return undefined
}
