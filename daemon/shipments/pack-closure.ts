import { fail, problemOf } from '../../protocol/errors.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import {
  hashPartOf,
  joinStorePath,
  type BaseName,
  type HashPart,
  type StorePath,
} from '../../protocol/store-path.ts'
import type { Candidate } from '../substitution/candidates.ts'
import type { PlanNode } from './pack-plan.ts'
import { packedNarOf, type PackSources } from './pack-source.ts'

// The closure of what is to be packed, as far as whom it is for does not have it. Of a path only what a plan needs is kept,
// some 400 bytes: a channel has 100,000 of them.

/** Paths of one shipment: every path of four large channels. */
export const PACK_PATHS_MAX = 400_000

/** Questions to holders at a time. */
const LOOKUPS_AT_ONCE = 16

/** A path of the closure. */
export interface ClosureNode extends PlanNode {
  /** Of the NAR, in hex. */
  readonly narHash: string
  readonly narSize: number
  /** Bytes of the file its NAR will lie in; an upper bound where only the packing tells. */
  readonly fileBytes: number
  /** Who gives it built it itself. */
  readonly builtHere: boolean
  /** It lies on the target already, as far as its narinfo and its file's size say. */
  readonly there: boolean
}

export interface Closure {
  readonly nodes: readonly ClosureNode[]
  /** Where each root stands; undefined for one that is had already. */
  readonly at: ReadonlyMap<StorePath, number | undefined>
  /** Paths at which the walk ended, since they are had. */
  readonly had: number
}

/** A path as it lies at the target. */
export interface TargetPath {
  readonly info: PathInfo
  readonly fileBytes: number
}

/** What is known of the target. */
export interface TargetPaths {
  /**
   * The path as it lies there, if that is what the candidate says; without a candidate, if it may be offered by itself: a
   * shipment can be completed although the source of its first half is gone.
   */
  find(
    storePath: StorePath,
    candidate: Candidate | undefined,
  ): TargetPath | undefined | Promise<TargetPath | undefined>
  /** Bytes that a path with such a file takes there. */
  costOf(fileBytes: number): number
}

export interface ClosureOptions {
  readonly sources: PackSources
  readonly target: TargetPaths
  readonly storeDir: string
  /** Whether whom it is for has it. */
  readonly isHad: (hashPart: HashPart) => boolean
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((paths: number) => void) | undefined
}

interface Found {
  readonly node: Omit<ClosureNode, 'references'>
  readonly references: readonly BaseName[]
}

const absent = (storePath: StorePath, problem: string): Found => ({
  node: {
    ...{ storePath, problem, narHash: '', narSize: 0, fileBytes: 0, cost: 0 },
    ...{ builtHere: false, there: false },
  },
  references: [],
})

async function lookUp(
  storePath: StorePath,
  { sources, target }: Pick<ClosureOptions, 'sources' | 'target'>,
): Promise<Found> {
  let candidate: Candidate | undefined
  let problem = 'nobody within reach offers it'
  try {
    candidate = (await sources.find(hashPartOf(storePath)))[0]
    const offered = candidate?.holding.info.storePath
    if (offered !== undefined && offered !== storePath) {
      problem = `what is offered under its hash is ${offered}`
      candidate = undefined
    }
  } catch (error) {
    problem = problemOf(error)
  }
  const there = await target.find(storePath, candidate)
  const info = there?.info ?? candidate?.holding.info
  if (info === undefined) return absent(storePath, problem)
  const fileBytes =
    there?.fileBytes ?? (candidate === undefined ? 0 : packedNarOf(candidate).fileBytes)
  return {
    node: {
      storePath,
      narHash: Buffer.from(info.narHash.bytes).toString('hex'),
      narSize: info.narSize,
      fileBytes,
      cost: there === undefined ? target.costOf(fileBytes) : 0,
      builtHere: candidate?.holding.builtHere === true,
      there: there !== undefined,
    },
    references: info.references,
  }
}

/** Walks from the roots. Throws SHIPMENT_TOO_LARGE beyond {@link PACK_PATHS_MAX}. */
export async function walkClosure(
  roots: readonly StorePath[],
  options: ClosureOptions,
): Promise<Closure> {
  const { storeDir, isHad, signal } = options
  const nodes: ClosureNode[] = []
  const positions = new Map<HashPart, number>()
  const had = new Set<HashPart>()
  const waiting: StorePath[] = []

  /** Where a path stands, or will when its turn comes; undefined where it is had. */
  const meet = (storePath: StorePath): number | undefined => {
    const part = hashPartOf(storePath)
    const known = positions.get(part)
    if (known !== undefined || had.has(part)) return known
    if (isHad(part)) {
      had.add(part)
      return undefined
    }
    const position = waiting.length
    if (position >= PACK_PATHS_MAX) {
      fail('SHIPMENT_TOO_LARGE', { problem: `its closure has more than ${PACK_PATHS_MAX} paths` })
    }
    positions.set(part, position)
    waiting.push(storePath)
    return position
  }

  const at = new Map(roots.map(root => [root, meet(root)]))
  while (nodes.length < waiting.length) {
    signal?.throwIfAborted()
    const batch = waiting.slice(nodes.length, nodes.length + LOOKUPS_AT_ONCE)
    for (const { node, references } of await Promise.all(
      batch.map(storePath => lookUp(storePath, options)),
    )) {
      const own = nodes.length
      nodes.push({
        ...node,
        references: references
          .map(reference => meet(joinStorePath(storeDir, reference)))
          .filter(one => one !== undefined && one !== own) as number[],
      })
    }
    options.onProgress?.(nodes.length)
  }
  return { nodes, at, had: had.size }
}
