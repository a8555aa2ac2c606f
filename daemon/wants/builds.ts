import type { StorePath } from '../../protocol/store-path.ts'
import type { DerivationGraph, KnownDerivation } from './derivations.ts'

// What could be built here from what is there: derivations are judged inputs first, from a list, as deep as they may be.

/** What can be built. */
export interface Builds {
  /** Derivations of which every input is there or can be built. */
  readonly possible: ReadonlySet<StorePath>
  /** Sources (fixed outputs, plain files) that are not there and that something would be built from. */
  readonly sources: ReadonlyMap<StorePath, KnownDerivation | undefined>
}

/** Asked at a time. */
const AT_ONCE = 64

/** Judges those derivations and all that they would need built, `isThere` asked once for each path. */
export async function judgeBuilds(
  makers: Iterable<KnownDerivation>,
  { known }: DerivationGraph,
  isThere: (path: StorePath) => Promise<boolean>,
  signal?: AbortSignal,
): Promise<Builds> {
  const presence = new Map<StorePath, boolean>()
  const ask = async (paths: Iterable<StorePath>) => {
    const fresh = [...new Set(paths)].filter(path => !presence.has(path))
    for (let at = 0; at < fresh.length; at += AT_ONCE) {
      signal?.throwIfAborted()
      const some = fresh.slice(at, at + AT_ONCE)
      const answers = await Promise.all(some.map(isThere))
      some.forEach((path, index) => presence.set(path, answers[index] === true))
    }
  }
  /** Inputs of which an output that is used is not there. */
  const lackingOf = (derivation: KnownDerivation): StorePath[] =>
    [...derivation.inputs].flatMap(([input, names]) => {
      const outputs = known.get(input)?.outputs
      const all = names.every(name => {
        const path = outputs?.get(name)
        return path !== undefined && presence.get(path) === true
      })
      return all ? [] : [input]
    })
  const usedBy = (derivation: KnownDerivation): StorePath[] => [
    ...derivation.sources,
    ...[...derivation.inputs].flatMap(([input, names]) =>
      names.flatMap(name => known.get(input)?.outputs.get(name) ?? []),
    ),
  ]

  // Level by level down through what is lacking, so that a slow place is asked many things at a time.
  const lacking = new Map<StorePath, readonly StorePath[]>()
  const sources = new Map<StorePath, KnownDerivation | undefined>()
  let level = [...makers]
  for (const one of level) lacking.set(one.path, [])
  while (level.length > 0) {
    const built = level.filter(({ fixed }) => fixed === undefined)
    await ask(built.flatMap(usedBy))
    const next: KnownDerivation[] = []
    for (const derivation of built) {
      const inputs = lackingOf(derivation)
      lacking.set(derivation.path, inputs)
      for (const source of derivation.sources) {
        if (presence.get(source) !== true) sources.set(source, undefined)
      }
      for (const input of inputs) {
        const one = known.get(input)
        if (one === undefined || lacking.has(input)) continue
        lacking.set(input, [])
        next.push(one)
        if (one.fixed === undefined) continue
        const path = one.outputs.get('out')
        if (path !== undefined) sources.set(path, one)
      }
    }
    level = next
  }
  return { possible: possibleOf(lacking, known, sources), sources }
}

/** Which of those can be built: its own sources are there, and each input that is lacking can be built. */
function possibleOf(
  lacking: ReadonlyMap<StorePath, readonly StorePath[]>,
  known: DerivationGraph['known'],
  sources: Builds['sources'],
): Set<StorePath> {
  const possible = new Set<StorePath>()
  const judged = new Set<StorePath>()
  for (const first of lacking.keys()) {
    const stack = [first]
    while (stack.length > 0) {
      const path = stack.at(-1) as StorePath
      const derivation = known.get(path)
      const inputs = lacking.get(path) ?? []
      const unjudged = judged.has(path) ? [] : inputs.filter(input => !judged.has(input))
      if (unjudged.length > 0) {
        // Judged already as not possible while it waits: whoever comes back to it goes round in a circle.
        judged.add(path)
        stack.push(...unjudged)
        continue
      }
      stack.pop()
      judged.add(path)
      if (derivation === undefined || derivation.fixed !== undefined) continue
      const whole =
        derivation.sources.every(source => !sources.has(source)) &&
        inputs.every(input => possible.has(input))
      if (whole) possible.add(path)
    }
  }
  return possible
}
