import { setImmediate as turn } from 'node:timers/promises'
import type { MissingPath, MissingReply, Whereabouts } from '../../protocol/api-wants.ts'
import { fail } from '../../protocol/errors.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { joinStorePath, type StorePath } from '../../protocol/store-path.ts'
import { judgeBuilds } from './builds.ts'
import { walkDerivations, type DerivationGraph, type KnownDerivation } from './derivations.ts'
import type { Look } from './knowledge.ts'
import {
  byReason,
  groupsOf,
  reasonOf,
  tellMissing,
  tellSource,
  type Lacking,
  type UpstreamAnswer,
} from './missing-report.ts'
import type { Place } from './places.ts'

// What roots need and a place lacks: the closure is walked over whatever knows references, what is there and what is not.

/** Paths of one question: ten desktops. */
export const CLOSURE_PATHS_MAX = 1_000_000

/** Asked at a time. */
const AT_ONCE = 32

/** Derivations that are named as absent. */
const ABSENT_TOLD = 100

export interface MissingParts {
  readonly look: Look
  readonly read: (path: StorePath) => Promise<KnownDerivation | undefined>
  /** Asked only for what no index knows: over a network, while there is one. */
  readonly upstream: (path: StorePath) => Promise<UpstreamAnswer | undefined>
  /** Drives that have it, plugged elsewhere or in a drawer. */
  readonly drives: (path: StorePath) => Promise<readonly Whereabouts[]>
}

/** Roots as they are meant. */
export interface MissingRoots {
  readonly paths: readonly StorePath[]
  /** Derivations; all outputs unless named. */
  readonly derivations: readonly {
    readonly path: StorePath
    readonly names: readonly string[] | undefined
  }[]
}

export interface MissingOptions {
  readonly build: boolean
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((looked: number, missing: number) => void) | undefined
}

const NO_GRAPH: DerivationGraph = {
  known: new Map(),
  absent: new Set(),
  makers: new Map(),
  cut: false,
}

/** A root of which nothing is known would look as if nothing were missing. */
function checkRoots({ derivations }: MissingRoots, { known }: DerivationGraph): void {
  for (const { path: root, names } of derivations) {
    const outputs = known.get(root)?.outputs
    if (outputs === undefined) {
      fail('ROOT_UNKNOWN', { root, problem: 'nobody here has that derivation' })
    }
    for (const name of names ?? outputs.keys()) {
      if (!outputs.has(name)) fail('ROOT_UNKNOWN', { root, problem: `it has no output ${name}` })
      if (outputs.get(name) === undefined) {
        const problem = `the path of its output ${name} is known only once it is built`
        fail('ROOT_UNKNOWN', { root, problem })
      }
    }
  }
}

/** Outputs of the roots and, with `build`, all that the derivations use: what the walk begins with. */
function firstPaths(
  { paths, derivations }: MissingRoots,
  { known }: DerivationGraph,
  build: boolean,
): Set<StorePath> {
  const first = new Set(paths)
  for (const { path, names } of derivations) {
    const outputs = known.get(path)?.outputs ?? new Map<string, undefined>()
    for (const name of names ?? outputs.keys()) {
      const output = outputs.get(name)
      if (output !== undefined) first.add(output)
    }
  }
  if (!build) return first
  for (const { inputs, sources } of known.values()) {
    for (const source of sources) first.add(source)
    for (const [input, names] of inputs) {
      for (const name of names) {
        const output = known.get(input)?.outputs.get(name)
        if (output !== undefined) first.add(output)
      }
    }
  }
  return first
}

const referencesOf = (path: StorePath, { references }: PathInfo): StorePath[] => {
  const storeDir = path.slice(0, path.lastIndexOf('/'))
  return references.map(reference => joinStorePath(storeDir, reference))
}

/** Walks the closure from those paths. */
async function walkClosure(
  first: Iterable<StorePath>,
  place: Place,
  parts: MissingParts,
  { signal, onProgress }: MissingOptions,
) {
  const seen = new Set(first)
  const lacking: Lacking[] = []
  let there = 0
  let unsure = 0

  const look = async (path: StorePath): Promise<void> => {
    const presence = await place.ask(path)
    if (presence.there && presence.info !== undefined) {
      there++
      return add(path, presence.info)
    }
    const known = presence.known ?? (await parts.look(path))
    const reached = known.reach !== undefined
    // Who is asked about it last is the network.
    const upstream = known.info === undefined ? await parts.upstream(path) : undefined
    const info = known.info ?? upstream?.info
    if (presence.there) {
      there++
      if (info === undefined) unsure++
    } else {
      const drives = reached ? [] : await parts.drives(path)
      lacking.push({ path, known, upstream, drives })
    }
    if (info !== undefined) add(path, info)
  }
  const add = (path: StorePath, info: PathInfo): void => {
    for (const reference of referencesOf(path, info)) {
      if (seen.size < CLOSURE_PATHS_MAX) seen.add(reference)
    }
  }

  // A Set tells what is added to it meanwhile, too: this is the whole walk.
  let wave: StorePath[] = []
  const flush = async () => {
    signal?.throwIfAborted()
    const now = wave
    wave = []
    await Promise.all(now.map(look))
    onProgress?.(there + lacking.length, lacking.length)
    await turn()
  }
  for (const path of seen) {
    wave.push(path)
    // At the end of what is known so far the wave has to run, so that it brings more.
    if (wave.length === AT_ONCE || there + lacking.length + wave.length === seen.size) await flush()
  }
  return { seen, lacking, there, unsure }
}

/** What those roots need and the place lacks. Rejects with what the place cannot be asked for, or the signal's reason. */
export async function findMissing(
  roots: MissingRoots,
  place: Place,
  parts: MissingParts,
  options: MissingOptions,
): Promise<MissingReply> {
  const { build, signal } = options
  const { read, look } = parts
  const tops = roots.derivations.map(({ path }) => path)
  if (build) tops.push(...(await deriversOf(roots.paths, look)))
  const descend = build ? undefined : () => false
  const graph =
    tops.length === 0 ? NO_GRAPH : await walkDerivations(tops, { read, descend, signal })
  checkRoots(roots, graph)
  const closure = await walkClosure(firstPaths(roots, graph, build), place, parts, options)

  // Of what nobody has: what makes it, and whether that could be done here.
  const nobodys = closure.lacking.filter(one => reasonOf(one) === undefined)
  const derivers = build ? [] : tops.filter(top => graph.known.has(top))
  const whole =
    build || nobodys.length === 0 ? graph : await walkDerivations(derivers, { read, signal })
  const makerOf = (path: StorePath) => whole.makers.get(path)
  const lackingPaths = new Set(closure.lacking.map(({ path }) => path))
  const makers = nobodys.flatMap(({ path }) => makerOf(path) ?? [])
  const builds = await judgeBuilds(
    makers,
    whole,
    async path => {
      if (closure.seen.has(path)) return !lackingPaths.has(path)
      return (await place.ask(path)).there
    },
    signal,
  )
  const missing = closure.lacking.map(one => {
    const maker = makerOf(one.path)
    const reason =
      reasonOf(one) ??
      (maker?.fixed !== undefined
        ? 'source'
        : maker !== undefined && builds.possible.has(maker.path)
          ? 'buildable'
          : 'unknown')
    return tellMissing(one, reason, maker)
  })
  missing.sort(byReason)
  const sourcesToBuild = [...builds.sources]
    .filter(([path]) => !lackingPaths.has(path))
    .map(([path, maker]): MissingPath => tellSource(path, maker))
    .sort(byReason)
  return {
    place: place.name,
    closure: closure.seen.size,
    there: closure.there,
    missing,
    groups: groupsOf(missing),
    sourcesToBuild,
    unsure: closure.unsure,
    derivationsAbsent: [...whole.absent].slice(0, ABSENT_TOLD),
  }
}

/** The derivations that made those paths, where anybody says so. */
async function deriversOf(paths: readonly StorePath[], look: Look): Promise<StorePath[]> {
  const derivers: StorePath[] = []
  for (const path of paths) {
    const deriver = (await look(path)).info?.deriver
    const storeDir = path.slice(0, path.lastIndexOf('/'))
    if (deriver !== undefined) derivers.push(joinStorePath(storeDir, deriver))
  }
  return derivers
}
