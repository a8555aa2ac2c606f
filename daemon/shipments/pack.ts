import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { PathProblem, ShipResult } from '../../protocol/api-shipments.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import type { Holder } from '../holders/holder.ts'
import type { JobHandle, JobOutcome } from '../jobs/jobs.ts'
import type { ClosureNode } from './pack-closure.ts'
import { openPart, type OpenPart } from './pack-part.ts'
import { planShipment, type PackPlan, type Room } from './pack-plan.ts'
import {
  prepare,
  sum,
  type DriveAt,
  type Prepared,
  type ShipHost,
  type ShipWish,
} from './pack-prepare.ts'
import { packPart, type PackedPart } from './pack-run.ts'
import { readManifest } from './pack-seal.ts'
import { openShipTarget, type ShipTarget } from './pack-target.ts'
import { createThere, type There } from './pack-there.ts'

// `ship`: what is wanted, less what is had, planned before a byte is written, written so that the drive is a valid cache at
// every moment, sealed at the end.

/** Paths listed in a result; the rest is counted. */
const LISTED_MAX = 300

/** Problems told as notes while the job runs. */
const NOTED_MAX = 20

/** Directories of the parts to be packed now. */
function partDirs({ dir, split = 1, part }: ShipWish): { part: number; dir: string }[] {
  if (split === 1) return [{ part: 1, dir }]
  if (part !== undefined) return [{ part, dir }]
  return Array.from({ length: split }, (_, at) => ({
    part: at + 1,
    dir: join(dir, `part-${at + 1}`),
  }))
}

/** One run of `ship`: what is open while it lasts. */
interface Run {
  readonly host: ShipHost
  readonly wish: ShipWish
  readonly job: JobHandle
  readonly signal: AbortSignal
  readonly drive: DriveAt | undefined
  readonly from: Holder | undefined
}

/** Nothing is made for a plan: what is there of the way is looked at. */
const nearest = (dir: string): string =>
  existsSync(dir) || dirname(dir) === dir ? dir : nearest(dirname(dir))

const openTarget = ({ host, wish }: Run, dir: string): Promise<ShipTarget> =>
  openShipTarget({
    dir: wish.dryRun === true ? nearest(dir) : dir,
    storeDir: host.storeDir,
    forbidden: host.forbidden,
    fileMax: wish.maxFileSize,
    readOnly: wish.dryRun,
  })

const open = ({ host, wish, job, signal }: Run, target: ShipTarget): Promise<OpenPart> =>
  openPart({
    parts: host,
    ...{ target, job, signal },
    mode: wish.verify === true ? 'read' : 'known',
  })

/** What lies there as it looks: enough for a plan. */
const seen = ({ host, job, signal }: Run, target: ShipTarget): Promise<There> =>
  createThere({
    ...{ target, signal, pool: host.pool, trust: host.trust, sign: host.trust.sign },
    verifications: host.verifications,
    mode: 'sizes',
    intake: { inspect: async () => ({ state: 'stopped' }) },
    onDamaged: storePath => job.note(`${storePath} on the drive is damaged`, 'warning'),
  })

/** Bytes of what lies there and goes when it is replaced. */
async function replaceable(target: ShipTarget): Promise<number> {
  let bytes = 0
  for (const part of await target.hashParts()) {
    bytes += target.costOf((await target.read(part))?.info.fileSize ?? 0)
  }
  return bytes
}

async function roomFor(
  { wish }: Run,
  prepared: Prepared,
  target: ShipTarget,
): Promise<Room & { readonly bytes?: number }> {
  const { split = 1, sizeLimit } = wish
  if (split > 1) {
    // The same for each run that packs one of them, whatever is free on the drive that is plugged just now.
    return sizeLimit === undefined
      ? { even: split }
      : { each: Array.from({ length: split }, () => sizeLimit), bytes: sizeLimit * split }
  }
  const gained = wish.replace === true ? await replaceable(target) : 0
  const free = (await target.room()) + gained - prepared.extraBytes
  const there = prepared.closure.nodes.filter(node => node.there)
  const limit = (sizeLimit ?? Infinity) - sum(there.map(node => target.costOf(node.fileBytes)))
  const bytes = Math.max(0, Math.min(free, limit))
  return { each: [bytes], bytes }
}

/** What the result says, of what was planned and what came of it. */
function resultOf(
  { wish }: Run,
  prepared: Prepared,
  plan: PackPlan,
  facts: { readonly name: string; readonly room: number | undefined },
  packed: readonly PackedPart[],
): ShipResult {
  const { nodes, had } = prepared.closure
  const at = (position: number): ClosureNode => nodes[position] as ClosureNode
  const went = new Set(packed.flatMap(({ positions }) => positions))
  const unfit = [...plan.left.filter(one => !went.has(one)), ...packed.flatMap(({ left }) => left)]
  const failed = new Map(packed.flatMap(({ missing }) => [...missing]))
  const missing: PathProblem[] = [
    ...prepared.unresolved,
    ...plan.blocked.flatMap(position => {
      const { storePath, problem } = at(position)
      return problem === undefined ? [] : [{ storePath, problem }]
    }),
    ...[...failed].map(([position, problem]) => ({ storePath: at(position).storePath, problem })),
  ]
  const planned = plan.parts.map((positions, index) => ({
    ...{ part: index + 1, dir: wish.dir, there: 0, written: 0, writtenBytes: 0 },
    paths: positions.length,
    narBytes: sum(positions.map(position => at(position).narSize)),
    fileBytes: sum(positions.map(position => at(position).fileBytes)),
  }))
  return {
    dryRun: wish.dryRun === true,
    dir: wish.dir,
    name: facts.name,
    of: wish.split ?? 1,
    parts:
      wish.dryRun === true
        ? planned.map((part, index) => ({
            ...part,
            there: plan.parts[index]?.filter(position => at(position).there).length ?? 0,
          }))
        : packed.map(({ shipped }) => shipped),
    wanted: nodes.length,
    had,
    room: facts.room,
    left: unfit.slice(0, LISTED_MAX).map(position => at(position).storePath),
    leftPaths: unfit.length,
    leftBytes: sum(unfit.map(position => at(position).cost)),
    missing: missing.slice(0, LISTED_MAX),
    missingPaths: missing.length,
  }
}

function outcomeOf(result: ShipResult, job: JobHandle): JobOutcome {
  const { parts, leftPaths, missingPaths, missing, dryRun, name } = result
  for (const { storePath, problem } of missing.slice(0, NOTED_MAX)) {
    job.note(`${storePath}: ${problem}`, 'warning')
  }
  const paths = sum(parts.map(part => part.paths))
  const there = sum(parts.map(part => part.there))
  const words = [
    dryRun ? `${paths} paths would go onto ${name}` : `${paths} paths are on ${name}`,
    ...(there > 0 ? [`${there} of them were before`] : []),
    ...(leftPaths > 0 ? [`${leftPaths} found no room`] : []),
    ...(missingPaths > 0 ? [`${missingPaths} are missing`] : []),
  ]
  const whole = leftPaths === 0 && missingPaths === 0
  return {
    state: whole ? 'done' : paths > 0 ? 'partly' : 'failed',
    summary: words.join(', '),
    result,
  }
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)

/** Packs the parts that are to be packed now, one after the other. */
async function packParts(
  run: Run,
  first: OpenPart,
  prepared: Prepared,
  plan: PackPlan,
  name: string,
): Promise<PackedPart[]> {
  const { host, wish, job, signal } = run
  const packed: PackedPart[] = []
  const parts = wish.split ?? 1
  for (const { part, dir } of partDirs(wish)) {
    const isFirst = packed.length === 0
    const opened = isFirst ? first : await open(run, await openTarget(run, dir))
    try {
      const positions = plan.parts[parts === 1 ? 0 : part - 1] ?? []
      if (wish.replace === true) {
        const keep = positions.map(
          position => (prepared.closure.nodes[position] as ClosureNode).storePath,
        )
        const removed = await opened.removeOthers(new Set(keep))
        if (removed > 0) job.note(`${removed} paths that lay there are removed`)
      }
      packed.push(
        await packPart({ host, prepared, part, parts, job, name, signal, open: opened }, plan),
      )
    } finally {
      if (!isFirst) await opened.close()
    }
  }
  return packed
}

async function ship(run: Run): Promise<JobOutcome> {
  const { host, wish, job, signal, drive, from } = run
  const dirs = partDirs(wish)
  const [{ dir } = { dir: wish.dir }] = dirs
  if (dirs.length > 1 && wish.dryRun !== true) await mkdir(wish.dir, { recursive: true })
  const target = await openTarget(run, wish.dryRun === true ? wish.dir : dir)
  const opened = wish.dryRun === true ? undefined : await open(run, target)
  try {
    const parts = wish.split ?? 1
    const prepared = await prepare(host, wish, {
      // A plan for several drives is the same whichever of them is plugged.
      target:
        parts > 1
          ? { find: () => undefined, costOf: target.costOf }
          : (opened?.there ?? (await seen(run, target))),
      ...{ from, job, signal },
      without: drive?.holderId,
    })
    const room = await roomFor(run, prepared, target)
    const plan = planShipment(prepared.closure.nodes, prepared.roots, room)
    const before = parts === 1 ? await readManifest(target.dir) : undefined
    const name = wish.name ?? drive?.name ?? before?.manifest.name ?? basename(wish.dir)
    const facts = { name, room: room.bytes }
    const bytes = sum(plan.costs)
    const count = plan.parts.flat().length
    job.note(
      `${count} of ${prepared.closure.nodes.length} paths go, ${megabytes(bytes)} MB at most`,
    )
    if (opened === undefined) return outcomeOf(resultOf(run, prepared, plan, facts, []), job)
    const packed = await packParts(run, opened, prepared, plan, name)
    return outcomeOf(resultOf(run, prepared, plan, facts, packed), job)
  } finally {
    await opened?.close()
  }
}

/** Makes the function that packs, as the work of a job. */
export function createShip(
  host: ShipHost,
): (wish: ShipWish, job: JobHandle) => Promise<JobOutcome> {
  return async (wish, job) => {
    const drive = host.driveAt?.(wish.dir)
    const signal = drive === undefined ? job.signal : AbortSignal.any([job.signal, drive.signal])
    let from: Holder | undefined
    try {
      from = wish.from === undefined ? undefined : await host.openFrom(wish.from)
      return await ship({ host, wish, job, signal, drive, from })
    } catch (error) {
      if (drive?.signal.aborted === true && !job.signal.aborted) {
        fail('SHIP_TARGET_GONE', { dir: wish.dir, problem: problemOf(drive.signal.reason) })
      }
      throw error
    } finally {
      await from?.close()
      drive?.done()
    }
  }
}
