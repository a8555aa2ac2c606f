import type { HashPart } from '../../protocol/store-path.ts'

/**
 * Hash parts so that each comes behind those it refers to, roots in their order. What `referencesOf` does not know
 * (undefined) is left out; of a circle, which no real closure has, the member met last comes first. Does not recurse.
 */
export function inReferenceOrder(
  roots: Iterable<HashPart>,
  referencesOf: (part: HashPart) => readonly HashPart[] | undefined,
): HashPart[] {
  const ordered: HashPart[] = []
  const entered = new Set<HashPart>()
  for (const root of roots) {
    if (entered.has(root)) continue
    entered.add(root)
    const stack = [{ part: root, references: referencesOf(root), next: 0 }]
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const reference = top.references?.[top.next++]
      if (reference === undefined) {
        stack.pop()
        if (top.references !== undefined) ordered.push(top.part)
      } else if (!entered.has(reference)) {
        entered.add(reference)
        stack.push({ part: reference, references: referencesOf(reference), next: 0 })
      }
    }
  }
  return ordered
}
