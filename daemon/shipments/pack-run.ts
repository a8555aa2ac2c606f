import type { ShippedPart } from '../../protocol/api-shipments.ts'
import { PLAIN_TEXT_MAX_CHARACTERS } from '../../protocol/json-texts.ts'
import type { ShipmentManifest } from '../../protocol/shipment.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import type { JobHandle } from '../jobs/jobs.ts'
import type { ClosureNode } from './pack-closure.ts'
import type { OpenPart } from './pack-part.ts'
import { planShipment, type PackPlan } from './pack-plan.ts'
import { sum, type Prepared, type ShipHost } from './pack-prepare.ts'
import { readManifest } from './pack-seal.ts'

// One part of a plan onto its drive, and the manifest that says what it is.

/** How often room that came out larger than planned is used: sizes are known for good after the first time. */
const ROUNDS_MAX = 6

/** Text for a field of the manifest that people read. */
const plainText = (text: string): string =>
  text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, ' ').slice(0, PLAIN_TEXT_MAX_CHARACTERS) ||
  'shipment'

const depotName = (hostName: string): string =>
  hostName
    .replace(/[^0-9A-Za-z._-]/g, '-')
    .replace(/^[^0-9A-Za-z]+/, '')
    .slice(0, 63) || 'depot'

/** What a part came to, and what is still to be said of the whole. */
export interface PackedPart {
  readonly shipped: ShippedPart
  readonly missing: ReadonlyMap<number, string>
  /** What the drive had no room for although the plan said so. */
  readonly left: readonly number[]
  /** What was to go, a later round's included. */
  readonly positions: readonly number[]
}

export interface PartWork {
  readonly host: ShipHost
  readonly prepared: Prepared
  readonly part: number
  readonly parts: number
  readonly open: OpenPart
  readonly job: JobHandle
  readonly name: string
  readonly signal: AbortSignal
}

/** Tells how far it is, over all rounds. */
function createTally(job: JobHandle, planned: readonly ClosureNode[]) {
  let total = planned.length
  let totalBytes = sum(planned.map(({ fileBytes, there }) => (there ? 0 : fileBytes)))
  const counts = { done: 0, bytes: 0, there: 0 }
  const tell = (what: string): void =>
    job.progress({ done: counts.done, total, bytes: counts.bytes, totalBytes, what })
  return {
    counts,
    tell,
    more(nodes: readonly ClosureNode[]): void {
      total += nodes.length
      totalBytes += sum(nodes.map(({ fileBytes }) => fileBytes))
    },
    done(node: ClosureNode, outcome: 'written' | 'there' | 'missing'): void {
      counts.done++
      counts.bytes += node.there ? 0 : node.fileBytes
      if (outcome === 'there') counts.there++
      tell(node.storePath)
    },
  }
}

/** Writes one part and seals it; a single one takes more where things came out smaller than they might have. */
export async function packPart(work: PartWork, plan: PackPlan): Promise<PackedPart> {
  const { prepared, part, open, job, parts } = work
  let { nodes } = prepared.closure
  const at = (position: number): ClosureNode => nodes[position] as ClosureNode
  let order = [...(plan.parts[parts === 1 ? 0 : part - 1] ?? [])]
  let left: readonly number[] = []
  const packed: number[] = []
  const missing = new Map<number, string>()
  const totals = { written: 0, writtenBytes: 0 }
  const tally = createTally(job, order.map(at))
  for (let round = 1; order.length > 0; round++) {
    for (const position of order) if (at(position).there) tally.done(at(position), 'there')
    const outcome = await open.write({
      nodes,
      order: order.filter(position => !at(position).there),
      sources: prepared.sources,
      onDone: tally.done,
    })
    totals.written += outcome.written
    totals.writtenBytes += outcome.bytes
    for (const [position, problem] of outcome.missing) missing.set(position, problem)
    packed.push(...order)
    if (outcome.full) {
      job.note('the drive is full', 'warning')
      left = outcome.unfit
      break
    }
    if (parts > 1 || round === ROUNDS_MAX || outcome.written === 0) break
    // What was written has its true size now, which is less than was kept free for it.
    const done = new Set(packed)
    nodes = nodes.map((node, position) => {
      if (!done.has(position)) return node
      const problem = missing.get(position)
      return problem === undefined ? { ...node, cost: 0, there: true } : { ...node, problem }
    })
    const limit = prepared.wish.sizeLimit ?? Infinity
    const room = Math.min(await open.target.room(), limit - totals.writtenBytes)
    const next = planShipment(nodes, prepared.roots, { each: [Math.max(0, room)] })
    order = (next.parts[0] ?? []).filter(position => !done.has(position))
    tally.more(order.map(at))
  }
  tally.tell('writing the index')
  const absent = new Set([...missing.keys(), ...left])
  const manifest = await seal(
    work,
    plan,
    packed.filter(position => !absent.has(position)),
  )
  const whole = packed.filter(position => !absent.has(position)).map(at)
  return {
    ...{ missing, left, positions: packed },
    shipped: {
      ...{ part, dir: open.target.dir, id: manifest.id },
      ...{ paths: whole.length, there: tally.counts.there, ...totals },
      narBytes: sum(whole.map(({ narSize }) => narSize)),
      fileBytes: sum(whole.map(({ fileBytes }) => fileBytes)),
    },
  }
}

/** Index and manifest of what lies there now. */
async function seal(
  { host, prepared, part, parts, open, name, signal }: PartWork,
  plan: PackPlan,
  packed: readonly number[],
): Promise<ShipmentManifest> {
  const { closure, have, wish, roots } = prepared
  const { nodes } = closure
  const { target } = open
  signal.throwIfAborted()
  const partOf = (position: number) => hashPartOf((nodes[position] as ClosureNode).storePath)
  const builtHere = new Set(packed.filter(position => nodes[position]?.builtHere).map(partOf))
  const before = await readManifest(target.dir)
  const isOwn = before !== undefined && host.trust.sign(before.signedBytes) === before.signature
  const placed = new Set(parts === 1 ? packed : plan.parts.flat())
  const asked = roots
    .filter(({ at }) => placed.has(at))
    .map(({ at }) => (nodes[at] as ClosureNode).storePath)
  const old = isOwn && parts === 1 && wish.replace !== true ? before.manifest.roots : []
  const [against] = have
  return open.seal({
    packed: packed.map(partOf),
    isBuiltHere: part => builtHere.has(part),
    content: parts === 1 ? undefined : [...placed].map(position => nodes[position] as ClosureNode),
    extras: prepared.extras,
    cacheDir: host.cacheDir,
    replace: wish.replace === true,
    about: {
      depot: depotName(host.hostName),
      name: plainText(name),
      ...{ part, parts },
      createdAt: wish.createdAt ?? new Date((host.clock ?? Date.now)()).toISOString(),
      against: against && { site: against.site, digest: against.id },
      roots: [...new Set([...old, ...asked])].sort(),
    },
  })
}
