import type { FetchEvent } from '../../protocol/api.ts'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import type { Audience, Candidate } from './candidates.ts'
import { inReferenceOrder } from './reference-order.ts'
import type { Substitution } from './substitution.ts'

// Brings closures into this host's cache: whatever may be offered on this machine, from whoever has it, references first.

/** What writes a cache (daemon/holders/cache-dir-writer). */
export interface FetchTarget {
  has(hashPart: HashPart): boolean
  add(info: PathInfo, nar: ByteStream, options?: { readonly partial?: boolean }): Promise<unknown>
}

export interface FetchOptions {
  readonly substitution: Pick<Substitution, 'candidates' | 'nar'>
  readonly target: FetchTarget
  readonly storeDir: string
}

/** Paths of one request, references included: four times the largest system. */
export const FETCH_PATHS_MAX = 100_000

/** Narinfos looked up at once. */
const LOOKUPS_AT_ONCE = 16

const HERE: Audience = { loopback: true, legacy: false }

/** A path of the closure, and what is known of it. */
interface Wanted {
  readonly storePath: StorePath
  readonly candidate: Candidate | undefined
  /** Hash parts, without its own. */
  readonly references: readonly HashPart[]
}

/** Brings one path that was looked up: checked on the way, from the next holder where one fails. */
async function bringCandidate(
  { substitution, target }: Pick<FetchOptions, 'substitution' | 'target'>,
  storePath: StorePath,
  candidate: Candidate | undefined,
  options?: { readonly partial: boolean },
): Promise<number> {
  if (candidate === undefined) throw new Error('nobody within reach has it')
  const { holding, decision } = candidate
  const { narHash, narSize } = holding.info
  const url = {
    hashPart: hashPartOf(storePath),
    narHash: encodeNix32(narHash.bytes),
    compression: 'none',
  } as const
  const reply = await substitution.nar(url, HERE, { resuming: false })
  if (reply === undefined) throw new Error('every copy is damaged or went away')
  const { signatures, ca } = decision
  const nar = reply.open({ start: 0, end: narSize })
  await target.add({ ...holding.info, signatures, ca }, nar, options)
  return narSize
}

/**
 * Brings one path without its closure; gives the bytes of its NAR. Throws where nobody has it whole, where a reference is held
 * by nobody of the site, and CACHE_UNWRITABLE.
 */
export async function bringAlone(
  options: Pick<FetchOptions, 'substitution' | 'target'> & {
    readonly isHeld: (hashPart: HashPart) => boolean
  },
  storePath: StorePath,
): Promise<number> {
  const [candidate] = await options.substitution.candidates(hashPartOf(storePath), HERE)
  const lacking = candidate?.holding.info.references.find(
    reference =>
      hashPartOf(reference) !== hashPartOf(storePath) && !options.isHeld(hashPartOf(reference)),
  )
  if (lacking !== undefined) throw new Error(`nobody has ${lacking}, which it refers to`)
  return bringCandidate(options, storePath, candidate, { partial: true })
}

/** Makes the function: it tells what it does path by path, and at the end what is missing. One call at a time may run. */
export function createFetch(
  options: FetchOptions,
): (paths: readonly StorePath[], signal?: AbortSignal) => AsyncGenerator<FetchEvent> {
  const { substitution, target, storeDir } = options

  const lookUp = async (storePath: StorePath): Promise<Wanted> => {
    const part = hashPartOf(storePath)
    const [candidate] = await substitution.candidates(part, HERE)
    const references = (candidate?.holding.info.references ?? [])
      .map(reference => hashPartOf(reference))
      .filter(reference => reference !== part)
    return { storePath, candidate, references }
  }

  /** The closure as far as it is known, by hash part. */
  const walk = async (roots: readonly StorePath[], signal: AbortSignal | undefined) => {
    const closure = new Map<HashPart, Wanted>()
    const seen = new Set<HashPart>(roots.map(hashPartOf))
    let next = [...new Set(roots)]
    while (next.length > 0) {
      signal?.throwIfAborted()
      const now = next.splice(0, LOOKUPS_AT_ONCE)
      for (const wanted of await Promise.all(now.map(lookUp))) {
        closure.set(hashPartOf(wanted.storePath), wanted)
        for (const reference of wanted.candidate?.holding.info.references ?? []) {
          const part = hashPartOf(reference)
          if (seen.has(part) || seen.size >= FETCH_PATHS_MAX) continue
          seen.add(part)
          next.push(`${storeDir}/${reference}` as StorePath)
        }
      }
    }
    return closure
  }

  /** References before what refers to them. */
  const inOrder = (closure: ReadonlyMap<HashPart, Wanted>): Wanted[] =>
    inReferenceOrder(closure.keys(), part => closure.get(part)?.references).map(
      part => closure.get(part) as Wanted,
    )

  const bring = ({ storePath, candidate }: Wanted): Promise<unknown> =>
    bringCandidate(options, storePath, candidate)

  return async function* fetch(paths, signal) {
    const closure = await walk(paths, signal)
    const ordered = inOrder(closure)
    const missing = new Map<HashPart, string>()
    const totals = { fetched: 0, here: 0, bytes: 0 }
    const total = ordered.length
    yield { event: 'start', paths: total }
    for (const [index, wanted] of ordered.entries()) {
      signal?.throwIfAborted()
      const part = hashPartOf(wanted.storePath)
      const { storePath } = wanted
      const progress = { storePath, done: index + 1, paths: total }
      const lacking = wanted.references.find(reference => missing.has(reference))
      try {
        if (lacking !== undefined) {
          const name = closure.get(lacking)?.storePath ?? lacking
          throw new Error(`${name}, which it refers to, is missing`)
        }
        if (target.has(part)) {
          totals.here++
          yield { event: 'here', ...progress }
          continue
        }
        await bring(wanted)
        const narSize = wanted.candidate?.holding.info.narSize ?? 0
        totals.fetched++
        totals.bytes += narSize
        yield { event: 'fetched', ...progress, narSize }
      } catch (error) {
        signal?.throwIfAborted()
        // The next path would fare no better.
        if (isNarwharfError(error, 'CACHE_UNWRITABLE')) throw error
        const problem = problemOf(error)
        missing.set(part, problem)
        yield { event: 'missing', ...progress, problem }
      }
    }
    yield {
      event: 'end',
      ...totals,
      missing: [...missing].map(([part, problem]) => ({
        storePath: closure.get(part)?.storePath ?? part,
        problem,
      })),
    }
  }
}
