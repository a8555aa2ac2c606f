import { setImmediate as turn } from 'node:timers/promises'
import { formatNarinfo, parseNarinfo } from '../../protocol/narinfo.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import { splitFiles } from '../../protocol/shipment.ts'
import {
  baseNameOf,
  hashPartOf,
  nameOf,
  type HashPart,
  type StorePath,
} from '../../protocol/store-path.ts'
import { createSpill, type Spill } from './merge-spill.ts'
import { createPathTable, THERE, type PathState, type PathTable } from './merge-table.ts'

// What a merge has to do, decided before a byte is copied: which of the drive's paths are lacking, may be trusted and are whole
// with what they refer to, and in which order they come. References come before what refers to them, what is wished for most
// comes first, the rest in the order of the drive, which is how its files lie there.

/** What trust says of an entry of the drive: the signatures and the content address with which it may stand in the cache. */
export type Admitted =
  | { readonly signatures: readonly string[]; readonly ca?: string | undefined }
  | { readonly refused: string }

/** What a plan is made from. */
export interface PlanSources {
  /** The drive's paths; of one that comes twice the first counts. */
  entries(): AsyncIterable<readonly ShipmentEntry[]>
  readonly storeDir: string
  admit(entry: ShipmentEntry): Admitted | Promise<Admitted>
  /** Whether this cache has it. */
  has(hashPart: HashPart): boolean
  /** Whether as many keepers as are wished for keep it already. */
  kept(hashPart: HashPart): boolean
  /** Whether anybody of the site has it: asked for what paths of the drive refer to and neither it nor this cache has. */
  siteHas(hashPart: HashPart): boolean | Promise<boolean>
  /** How much it is wished for, 1 the most; undefined where nobody asked. */
  wanted(hashPart: HashPart, name: string): number | undefined
  /** A file that does not exist, on a disk with room. */
  readonly spillFile: string
  readonly signal: AbortSignal
  /** Told of each batch that was looked at. */
  onLooked?(paths: number): void
}

/** Paths of one drive that are looked at: memory of 100 MB. A drive with more is merged in several goes. */
export const MERGE_PATHS_MAX = 500_000

/** Paths looked at before others have their turn. */
const TURN_PATHS = 200

/** A path to be copied. */
export interface PlannedPath {
  readonly info: NarInfo
  /** Below the drive's cache. */
  readonly files: readonly string[]
}

/** A plan, and how it stands: paths are numbers. */
export interface MergePlan {
  /** What is to be copied, in order. */
  readonly order: readonly number[]
  /** Bytes of the files of `order`. */
  readonly bytes: number
  /** The paths of the drive, in its order. */
  readonly onDrive: readonly number[]
  /** Store paths on the drive, and whether there are more than were looked at. */
  readonly paths: number
  readonly cut: boolean
  stateOf(path: number): PathState
  setState(path: number, state: PathState): void
  /** Bytes of its file. */
  sizeOf(path: number): number
  /** The first reference because of which it cannot stand now, `expected` counting as there; undefined when it can. */
  lackingOf(path: number, expected: Pick<ReadonlySet<number>, 'has'>): number | undefined
  hashPartOf(path: number): HashPart
  /** What to copy; only of what is or was `todo`. */
  read(path: number): PlannedPath
  /** How many paths of the drive are in that state. */
  count(state: PathState): number
  /** Samples of refusals, for a person. */
  readonly refusals: readonly { readonly storePath: StorePath; readonly problem: string }[]
  close(): void
}

/** What never comes by itself. */
const HOPELESS: ReadonlySet<PathState> = new Set(['missing', 'parked', 'refused'])

/** Refusals told one by one. */
const REFUSALS_TOLD = 20

/** The order: each path behind its references, from the roots in their order. What refers to itself in a circle is parked. */
function orderOf(table: PathTable, roots: readonly number[]): number[] {
  const order: number[] = []
  /** 1: being walked, 2: in its place. */
  const marks = new Uint8Array(table.size)
  for (const root of roots) {
    if (marks[root] !== 0) continue
    marks[root] = 1
    const stack = [{ path: root, references: table.referencesOf(root), next: 0 }]
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const reference = top.references[top.next++]
      if (reference === undefined) {
        stack.pop()
        marks[top.path] = 2
        if (table.stateOf(top.path) === 'todo') order.push(top.path)
      } else if (table.stateOf(reference) === 'todo' && marks[reference] === 0) {
        marks[reference] = 1
        stack.push({ path: reference, references: table.referencesOf(reference), next: 0 })
      } else if (marks[reference] === 1 && table.stateOf(reference) === 'todo') {
        // No honest path refers to one that refers to it.
        table.setState(top.path, 'parked')
      }
    }
  }
  return order
}

/** Looks through the drive and makes the plan. Throws what the drive and `signal` throw. */
export async function makeMergePlan(sources: PlanSources): Promise<MergePlan> {
  const spill = createSpill(sources.spillFile)
  try {
    return await fillPlan(sources, spill)
  } catch (error) {
    spill.close()
    throw error
  }
}

async function fillPlan(sources: PlanSources, spill: Spill): Promise<MergePlan> {
  const { storeDir, signal } = sources
  const table = createPathTable()
  const onDrive: number[] = []
  const looked = new Set<number>()
  const refusals: { storePath: StorePath; problem: string }[] = []
  let cut = false

  const look = async (entry: ShipmentEntry): Promise<void> => {
    const { info } = entry
    const hashPart = hashPartOf(info.storePath)
    const path = table.of(hashPart)
    if (looked.has(path)) return
    looked.add(path)
    onDrive.push(path)
    const become = (state: PathState): void => table.setState(path, state)
    if (sources.has(hashPart)) return become('here')
    if (sources.kept(hashPart)) return become('elsewhere')
    const admitted = await sources.admit(entry)
    if ('refused' in admitted) {
      const problem = admitted.refused
      if (refusals.length < REFUSALS_TOLD) refusals.push({ storePath: info.storePath, problem })
      return become('refused')
    }
    const { signatures, ca } = admitted
    become('todo')
    table.texts[path] = spill.add(formatNarinfo({ ...info, signatures, ca }))
    table.sizes[path] = info.fileSize ?? info.narSize
    table.parts[path] = entry.parts ?? 0
    table.wishes[path] = sources.wanted(hashPart, nameOf(baseNameOf(info.storePath))) ?? Infinity
    const referred = info.references.map(reference => table.of(hashPartOf(reference)))
    table.refer(
      path,
      referred.filter(reference => reference !== path),
    )
  }

  for await (const batch of sources.entries()) {
    for (const [index, entry] of batch.entries()) {
      if (index % TURN_PATHS === 0) await turn()
      signal.throwIfAborted()
      if (onDrive.length >= MERGE_PATHS_MAX) cut = true
      else await look(entry)
    }
    sources.onLooked?.(onDrive.length)
    if (cut) break
  }

  await findReferences(table, sources)
  const roots = onDrive
    .map(path => ({ path, wish: table.wishes[path] as number }))
    .filter(({ path }) => table.stateOf(path) === 'todo')
    .sort((a, b) => (a.wish === b.wish ? 0 : a.wish - b.wish))
    .map(({ path }) => path)
  const plan = planOf(table, spill, storeDir, onDrive)
  const order: number[] = []
  for (const path of orderOf(table, roots)) {
    // Only what could not come however all goes: what is still to come may bring the others.
    const hopeless = table
      .referencesOf(path)
      .some(reference => HOPELESS.has(plan.stateOf(reference)))
    if (hopeless || plan.stateOf(path) !== 'todo') plan.setState(path, 'parked')
    else order.push(path)
  }
  const bytes = order.reduce((sum, path) => sum + plan.sizeOf(path), 0)
  return { ...plan, onDrive, order, bytes, cut, refusals, paths: onDrive.length }
}

/** Looks for what is referred to and not among what comes or is here. */
async function findReferences(
  table: PathTable,
  { has, siteHas, signal }: PlanSources,
): Promise<void> {
  for (let path = 0; path < table.size; path++) {
    const state = table.stateOf(path)
    if (state !== 'unknown' && state !== 'refused') continue
    if (path % TURN_PATHS === 0) await turn()
    signal.throwIfAborted()
    const hashPart = table.hashParts[path] as HashPart
    const next: PathState = has(hashPart)
      ? 'here'
      : (await siteHas(hashPart))
        ? 'elsewhere'
        : 'missing'
    // A refused one stays so in the counts unless somebody has it.
    if (state === 'unknown' || next !== 'missing') table.setState(path, next)
  }
}

function planOf(
  table: PathTable,
  spill: Spill,
  storeDir: string,
  onDrive: readonly number[],
): Omit<MergePlan, 'onDrive' | 'order' | 'bytes' | 'cut' | 'refusals' | 'paths'> {
  const { stateOf, setState } = table
  return {
    stateOf,
    setState,
    sizeOf: path => table.sizes[path] as number,
    lackingOf: (path, expected) =>
      table
        .referencesOf(path)
        .find(reference => !THERE.has(stateOf(reference)) && !expected.has(reference)),
    hashPartOf: path => table.hashParts[path] as HashPart,
    read(path) {
      const text = spill.get(table.texts[path] as number)
      const info = parseNarinfo(Buffer.from(text, 'latin1'), { storeDir })
      const parts = table.parts[path] as number
      return { info, files: parts < 2 ? [info.url] : splitFiles({ url: info.url, parts }) }
    },
    count: state => onDrive.filter(path => stateOf(path) === state).length,
    close: () => spill.close(),
  }
}
