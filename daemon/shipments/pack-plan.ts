import type { StorePath } from '../../protocol/store-path.ts'

// What goes on which drive, decided before a byte is written and from nothing but numbers: the same closure, wishes and
// sizes give the same plan, on every run and for every drive of a shipment.

/** One path of a closure, as the plan sees it. */
export interface PlanNode {
  readonly storePath: StorePath
  /** What it refers to, as positions in the list: without itself and without what is had already. */
  readonly references: readonly number[]
  /** Bytes it takes on a drive, the slack of its last block included. */
  readonly cost: number
  /** Why it cannot be packed at all. */
  readonly problem?: string | undefined
}

/** Something wished for, with everything below it. */
export interface PlanRoot {
  /** Position in the list of nodes. */
  readonly at: number
  /** 1 is wanted most. */
  readonly priority: number
}

/** How a wish came out. */
export interface RootOutcome extends PlanRoot {
  /** `whole`: all of its closure goes, or is had; `partly`: some of it. */
  readonly outcome: 'whole' | 'partly' | 'left'
  /** Bytes of its closure that do not go. */
  readonly lacking: number
}

export interface PackPlan {
  /** Positions of each part's paths in the order they are written: references first. */
  readonly parts: readonly (readonly number[])[]
  /** Bytes of each part. */
  readonly costs: readonly number[]
  /** Positions of what could go and finds no room. */
  readonly left: readonly number[]
  /** Positions of what cannot go: nobody gives it, or something that it refers to. */
  readonly blocked: readonly number[]
  /** In the order of urgency. */
  readonly roots: readonly RootOutcome[]
}

/** How much fits: bytes of each part, or `even` for so many parts of about the same size. */
export type Room = { readonly each: readonly number[] } | { readonly even: number }

/** What even parts may be larger than the mean, so that a closure that nearly fits stays together. */
const EVEN_SLACK = 1.02

const NOWHERE = -1

/** Walks closures with references first; nobody recurses, a chain of references may be long. */
function createWalker(nodes: readonly PlanNode[]) {
  const seen = new Uint32Array(nodes.length)
  let walk = 0
  return (root: number, enters: (at: number) => boolean): number[] => {
    walk++
    const ordered: number[] = []
    const stack: { readonly at: number; next: number }[] = []
    const enter = (at: number): void => {
      if (seen[at] === walk || !enters(at)) return
      seen[at] = walk
      stack.push({ at, next: 0 })
    }
    enter(root)
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const reference = nodes[top.at]?.references[top.next++]
      if (reference !== undefined) enter(reference)
      else ordered.push((stack.pop() as typeof top).at)
    }
    return ordered
  }
}

/** Most urgent first; among the same urgency the smallest closure, so that more wishes come true; then by path. */
function inOrderOfUrgency(
  nodes: readonly PlanNode[],
  roots: readonly PlanRoot[],
  costOf: (root: number) => number,
): PlanRoot[] {
  const counts = new Map<number, number>()
  for (const { priority } of roots) counts.set(priority, (counts.get(priority) ?? 0) + 1)
  return roots
    .map(root => ({ root, cost: (counts.get(root.priority) ?? 0) > 1 ? costOf(root.at) : 0 }))
    .sort(
      (a, b) =>
        a.root.priority - b.root.priority ||
        a.cost - b.cost ||
        (pathAt(nodes, a.root.at) < pathAt(nodes, b.root.at) ? -1 : 1),
    )
    .map(({ root }) => root)
}

const pathAt = (nodes: readonly PlanNode[], at: number): string => nodes[at]?.storePath ?? ''

/** The rooms of the parts as they fill, and which path is in which. */
function createParts(nodes: readonly PlanNode[], sizes: readonly number[], overflow: boolean) {
  const partOf = new Int16Array(nodes.length).fill(NOWHERE)
  const used = sizes.map(() => 0)
  const parts: number[][] = sizes.map(() => [])
  const last = sizes.length - 1
  const costOf = (at: number): number => nodes[at]?.cost ?? 0
  /** What is alone in the last part of an even split goes there whatever its size. */
  const fits = (part: number, cost: number, spread: boolean): boolean =>
    (overflow && spread && part === last) ||
    (used[part] as number) + cost <= (sizes[part] as number)

  /** The first part that a path may be in: not before what it refers to. */
  const earliest = (at: number): number => {
    let part = 0
    for (const reference of nodes[at]?.references ?? []) {
      const place = partOf[reference] as number
      if (place === NOWHERE) return NOWHERE
      part = Math.max(part, place)
    }
    return part
  }
  const put = (at: number, part: number): void => {
    partOf[at] = part
    used[part] = (used[part] as number) + costOf(at)
    parts[part]?.push(at)
  }
  const takeBack = (at: number): void => {
    const part = partOf[at] as number
    partOf[at] = NOWHERE
    used[part] = (used[part] as number) - costOf(at)
    parts[part]?.pop()
  }
  const putWhereItFits = (at: number): boolean => {
    const first = earliest(at)
    if (first === NOWHERE) return false
    for (let part = first; part <= last; part++) {
      if (!fits(part, costOf(at), true)) continue
      put(at, part)
      return true
    }
    return false
  }

  return {
    parts,
    used,
    isPlaced: (at: number): boolean => partOf[at] !== NOWHERE,
    putWhereItFits,
    /** Puts all of them, given in order, or none: in one part if there is one with room, else over several. */
    putAll(ordered: readonly number[]): boolean {
      const cost = ordered.reduce((sum, at) => sum + costOf(at), 0)
      const among = new Set(ordered)
      let first = 0
      for (const at of ordered) {
        for (const reference of nodes[at]?.references ?? []) {
          if (!among.has(reference)) first = Math.max(first, partOf[reference] as number)
        }
      }
      for (let part = first; part <= last; part++) {
        if (!fits(part, cost, false)) continue
        for (const at of ordered) put(at, part)
        return true
      }
      for (const [count, at] of ordered.entries()) {
        if (putWhereItFits(at)) continue
        for (const placed of ordered.slice(0, count).reverse()) takeBack(placed)
        return false
      }
      return true
    },
  }
}

/** Whether a path, or anything below it, cannot be packed: 1 where so. */
function findBlocked(nodes: readonly PlanNode[], roots: readonly PlanRoot[]): Uint8Array {
  const blocked = new Uint8Array(nodes.length)
  const known = new Uint8Array(nodes.length)
  const walk = createWalker(nodes)
  for (const { at: root } of roots) {
    for (const at of walk(root, next => known[next] === 0)) {
      known[at] = 1
      const node = nodes[at] as PlanNode
      const below = node.references.some(reference => blocked[reference] === 1)
      if (node.problem !== undefined || below) blocked[at] = 1
    }
  }
  return blocked
}

/**
 * Decides what goes where. Whole closures first, the most wanted ones before others; what room is left after that takes
 * parts of those that did not fit. A path goes only if what it refers to goes as well, to the same part or an earlier one.
 */
export function planShipment(
  nodes: readonly PlanNode[],
  roots: readonly PlanRoot[],
  room: Room,
): PackPlan {
  const walk = createWalker(nodes)
  const costOf = (at: number): number => nodes[at]?.cost ?? 0
  const sumOf = (ats: readonly number[]): number => ats.reduce((sum, at) => sum + costOf(at), 0)
  const blocked = findBlocked(nodes, roots)
  const reachable = new Uint8Array(nodes.length)
  for (const { at } of roots) {
    for (const below of walk(at, next => reachable[next] === 0)) reachable[below] = 1
  }
  const all = [...nodes.keys()].filter(at => reachable[at] === 1)
  const packable = all.filter(at => blocked[at] === 0)
  const sizes =
    'each' in room
      ? room.each
      : Array.from({ length: room.even }, () =>
          Math.ceil((sumOf(packable) / room.even) * EVEN_SLACK),
        )
  const state = createParts(nodes, sizes, 'even' in room)
  const urgent = inOrderOfUrgency(nodes, roots, root => sumOf(walk(root, () => true)))
  const unplaced = (root: number): number[] => walk(root, at => !state.isPlaced(at))

  const later = urgent.filter(({ at }) => blocked[at] === 1 || !state.putAll(unplaced(at)))
  for (const { at } of later) {
    for (const one of unplaced(at)) if (blocked[one] === 0) state.putWhereItFits(one)
  }

  return {
    parts: state.parts,
    costs: state.used,
    left: packable.filter(at => !state.isPlaced(at)),
    blocked: all.filter(at => blocked[at] === 1),
    roots: urgent.map(root => {
      const lacks = unplaced(root.at)
      const outcome =
        lacks.length === 0
          ? 'whole'
          : lacks.length < walk(root.at, () => true).length
            ? 'partly'
            : 'left'
      return { ...root, outcome, lacking: sumOf(lacks) }
    }),
  }
}
