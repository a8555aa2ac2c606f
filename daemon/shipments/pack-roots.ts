import { readFile, stat } from 'node:fs/promises'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import {
  decodeHaveDigest,
  HAVE_DIGEST_MAX_BYTES,
  type HaveDigest,
} from '../../protocol/have-digest.ts'
import { nameOf, parseStorePath, baseNameOf, type StorePath } from '../../protocol/store-path.ts'
import {
  parseWantList,
  WANT_LIST_MAX_BYTES,
  WANT_PRIORITY_MAX,
  type WantList,
} from '../../protocol/want-list.ts'
import type { Holder } from '../holders/holder.ts'
import { outputsOf } from '../inventory/derivation-outputs.ts'

// What is to be packed: what the packer named and what a site wants, as store paths in the order of urgency.

/** A path to pack, and how urgent it is: below 10 as a want list says, then the packer's own in their order. */
export interface PackRoot {
  readonly storePath: StorePath
  readonly priority: number
}

/** Something that was asked for and came to no path. */
export interface UnresolvedRoot {
  readonly text: string
  readonly problem: string
}

export interface ResolvedRoots {
  readonly roots: readonly PackRoot[]
  readonly unresolved: readonly UnresolvedRoot[]
}

export interface RootsOptions {
  readonly storeDir: string
  /** Where derivations are read. */
  readonly holders: readonly Holder[]
  /** Store paths whose names fit a pattern such as `firefox-*`. */
  readonly search: (pattern: string) => Promise<readonly StorePath[]>
}

/** A want list is text of a site far away; a have digest is as large as its number of paths says. */
async function readWhole(file: string, limitBytes: number): Promise<Buffer> {
  try {
    const { size } = await stat(file)
    if (size > limitBytes) throw new Error(`it is larger than ${limitBytes} bytes`)
    return await readFile(file)
  } catch (error) {
    return fail('SHIP_FILE_UNREADABLE', { file, problem: problemOf(error) }, error)
  }
}

/** Reads a have digest. Throws SHIP_FILE_UNREADABLE, HAVE_DIGEST_INVALID, SHIPMENT_TOO_NEW. */
export const readHaveDigest = async (file: string): Promise<HaveDigest> =>
  decodeHaveDigest(await readWhole(file, HAVE_DIGEST_MAX_BYTES))

/** Reads a want list. Throws SHIP_FILE_UNREADABLE, WANT_LIST_INVALID, SHIPMENT_TOO_NEW. */
export const readWantList = async (file: string): Promise<WantList> =>
  parseWantList(await readWhole(file, WANT_LIST_MAX_BYTES)).list

const isDerivation = (path: StorePath): boolean => nameOf(path).endsWith('.drv')

async function pathsOf(text: string, { storeDir, holders }: RootsOptions): Promise<StorePath[]> {
  const path = parseStorePath(text, storeDir)
  if (!isDerivation(path)) return [path]
  const outputs = await outputsOf(baseNameOf(path), holders)
  if (outputs === undefined) throw new Error('nobody within reach has this derivation')
  const known = [...outputs.values()].filter(output => output !== undefined)
  if (known.length === 0) throw new Error('the derivation does not say where its outputs are')
  return known
}

/** The paths of a want: those it came to at its site, else what they come to here. */
async function pathsOfWant(
  { kind, text, paths }: WantList['wants'][number],
  options: RootsOptions,
): Promise<readonly StorePath[]> {
  if (paths.length > 0) return paths
  switch (kind) {
    case 'path':
    case 'drv':
      return pathsOf(text, options)
    case 'pattern': {
      const found = await options.search(text)
      if (found.length === 0) throw new Error('nothing known here has such a name')
      return found
    }
    default:
      throw new Error('the list does not say which paths it needs')
  }
}

/** Resolves roots and wants. A path asked for twice has the more urgent of both. */
export async function resolveRoots(
  texts: readonly string[],
  wants: readonly WantList[],
  options: RootsOptions,
): Promise<ResolvedRoots> {
  const priorities = new Map<StorePath, number>()
  const unresolved: UnresolvedRoot[] = []
  const take = async (
    text: string,
    priority: number,
    resolve: () => Promise<readonly StorePath[]>,
  ): Promise<void> => {
    try {
      for (const path of await resolve()) {
        priorities.set(path, Math.min(priority, priorities.get(path) ?? Infinity))
      }
    } catch (error) {
      const problem = isNarwharfError(error) ? error.message : problemOf(error)
      unresolved.push({ text, problem })
    }
  }
  for (const list of wants) {
    if (list.storeDir !== options.storeDir) {
      unresolved.push({
        text: list.site,
        problem: `its wants are of another store, ${list.storeDir}`,
      })
      continue
    }
    for (const want of list.wants) {
      await take(want.text, want.priority, () => pathsOfWant(want, options))
    }
  }
  for (const [index, text] of texts.entries()) {
    await take(text, WANT_PRIORITY_MAX + 1 + index, () => pathsOf(text, options))
  }
  return {
    roots: [...priorities].map(([storePath, priority]) => ({ storePath, priority })),
    unresolved,
  }
}
