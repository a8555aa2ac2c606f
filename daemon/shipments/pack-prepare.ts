import type { PathProblem, ShipRequest } from '../../protocol/api-shipments.ts'
import { fail } from '../../protocol/errors.ts'
import type { HaveDigest } from '../../protocol/have-digest.ts'
import type { Holder } from '../holders/holder.ts'
import type { JobHandle } from '../jobs/jobs.ts'
import { walkClosure, type Closure, type TargetPaths } from './pack-closure.ts'
import { listExtras, type ExtraFile } from './pack-extras.ts'
import type { PackParts } from './pack-part.ts'
import type { PlanRoot } from './pack-plan.ts'
import { readHaveDigest, readWantList, resolveRoots, type RootsOptions } from './pack-roots.ts'
import { createPackSources, type PackSources } from './pack-source.ts'

// What has to be known before a shipment can be planned: what is asked for, what is had, what belongs to it, who has it.

/** Sizes as numbers. */
export interface ShipWish extends Omit<ShipRequest, 'sizeLimit' | 'maxFileSize'> {
  readonly sizeLimit?: number | undefined
  readonly maxFileSize?: number | undefined
}

/** What packing needs of the host. */
export interface ShipHost extends PackParts, Omit<RootsOptions, 'holders'> {
  readonly hostName: string
  readonly cacheDir: string
  /** Stores, caches and state of this host: no shipment goes there. */
  readonly forbidden: readonly string[]
  readonly holders: () => readonly Holder[]
  /** Opens a further cache, a directory or a URL. */
  readonly openFrom: (from: string) => Promise<Holder>
  /** The drive that a directory is on, where this host knows it. */
  readonly driveAt?: ((dir: string) => DriveAt | undefined) | undefined
  /** Ms since 1970. */
  readonly clock?: (() => number) | undefined
}

/** What is known of the drive that is packed. */
export interface DriveAt {
  readonly name: string
  /** Of the holder that it is itself, from which nothing is packed. */
  readonly holderId?: string | undefined
  /** Aborted when it is to be unplugged. */
  readonly signal: AbortSignal
  done(): void
}

/** Everything that is known before a byte is written. */
export interface Prepared {
  readonly wish: ShipWish
  readonly sources: PackSources
  readonly have: readonly HaveDigest[]
  readonly closure: Closure
  readonly roots: readonly PlanRoot[]
  readonly unresolved: readonly PathProblem[]
  readonly extras: readonly ExtraFile[]
  readonly extraBytes: number
}

/** Of numbers. */
export const sum = (numbers: Iterable<number>): number => {
  let total = 0
  for (const number of numbers) total += number
  return total
}

/** Where it is to go, and who may give it. */
export interface PrepareOptions {
  readonly target: TargetPaths
  readonly from: Holder | undefined
  /** Id of the holder that the target itself is. */
  readonly without: string | undefined
  readonly job: JobHandle
  readonly signal: AbortSignal
}

/** Resolves, walks, lists. Throws SHIP_NOTHING where nothing is asked for, and what is wrong with the files. */
export async function prepare(
  host: ShipHost,
  wish: ShipWish,
  { target, from, without, job, signal }: PrepareOptions,
): Promise<Prepared> {
  const { storeDir, search } = host
  const have = await Promise.all((wish.have ?? []).map(readHaveDigest))
  const wants = await Promise.all((wish.want ?? []).map(readWantList))
  for (const { site, createdAt, count } of have) {
    job.note(`less what ${site} had at ${createdAt}: ${count} paths`)
  }
  const holders = from === undefined ? host.holders() : [...host.holders(), from]
  const { roots, unresolved } = await resolveRoots(wish.roots, wants, { storeDir, search, holders })
  const sources = createPackSources({
    substitution: host.substitution,
    trust: host.trust,
    ...{ storeDir, from, without },
  })
  job.progress({ done: 0, what: 'looking up what is needed' })
  const closure = await walkClosure(
    roots.map(({ storePath }) => storePath),
    {
      ...{ sources, storeDir, signal, target },
      isHad: part => have.some(digest => digest.has(part)),
      onProgress: paths => job.progress({ done: paths, what: 'looking up what is needed' }),
    },
  )
  const wanted = { channels: wish.channels ?? [], all: wish.allChannels === true }
  const { files: extras, problems } = await listExtras(host.cacheDir, wanted)
  for (const problem of problems) job.note(problem, 'warning')
  if (roots.length === 0 && extras.length === 0) {
    const [first] = unresolved
    const problem =
      first === undefined ? 'nothing was asked for' : `${first.text}: ${first.problem}`
    fail('SHIP_NOTHING', { problem })
  }
  return {
    ...{ wish, sources, have, closure, extras },
    roots: roots.flatMap(({ storePath, priority }) => {
      const at = closure.at.get(storePath)
      return at === undefined ? [] : [{ at, priority }]
    }),
    unresolved: unresolved.map(({ text, problem }) => ({ storePath: text, problem })),
    extraBytes: sum(extras.map(({ size }) => target.costOf(size))),
  }
}
