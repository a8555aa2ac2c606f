import { createHash } from 'node:crypto'
import type { ExportEvent, ExportWish } from '../../protocol/api-archives.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import { EXPORT_END, EXPORT_PATH_BEGIN, encodeExportedPath } from '../../protocol/export-archive.ts'
import { formatExportSignatures } from '../../protocol/export-signatures.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import {
  hashPartOf,
  joinStorePath,
  parseStorePath,
  type BaseName,
  type HashPart,
  type StorePath,
} from '../../protocol/store-path.ts'
import type { Audience } from '../substitution/candidates.ts'
import { inReferenceOrder } from '../substitution/reference-order.ts'
import type { Substitution } from '../substitution/substitution.ts'

// Writes an archive of `nix-store --export` out of whatever may be offered on this machine, whoever holds it: references first, each
// NAR hashed as it goes. A NAR that turns out wrong ends it before the archive does.

export interface ExportOptions {
  readonly substitution: Pick<Substitution, 'candidates' | 'nar'>
  readonly storeDir: string
}

/** What an export says; http adds `failed`. */
export type ExportStep = Exclude<ExportEvent, { event: 'failed' }>

/** What comes of an export: bytes of the archive, lent until `release` is called, and what is said of it. */
export type ExportPart =
  | { readonly bytes: Buffer; readonly release?: (() => void) | undefined }
  | { readonly event: ExportStep }

/** Paths of one export, references included: four times the largest system. */
export const EXPORT_PATHS_MAX = 100_000

/** Narinfos looked up at once. */
const LOOKUPS_AT_ONCE = 16

/** References outside that are named; the rest is counted. */
const OUTSIDE_NAMED_MAX = 1000

const HERE: Audience = { loopback: true, legacy: false }

/** A path of the archive to be. */
interface Planned {
  readonly storePath: StorePath
  readonly narSize: number
  /** Base names, without its own. */
  readonly references: readonly BaseName[]
  /** Nobody offers it. */
  readonly missing: boolean
}

type Plan = ReadonlyMap<HashPart, Planned>

/** Makes the function. Throws STORE_PATH_INVALID for what is no path of this store; the rest as it goes. */
export function createExport(options: ExportOptions) {
  return (wish: ExportWish, signal?: AbortSignal): AsyncGenerator<ExportPart, void, undefined> => {
    const roots = wish.paths.map(path => parseStorePath(path, options.storeDir))
    return exportPaths(options, roots, wish, signal)
  }
}

async function lookUp({ substitution }: ExportOptions, storePath: StorePath): Promise<Planned> {
  const part = hashPartOf(storePath)
  const [candidate] = await substitution.candidates(part, HERE)
  const info = candidate?.holding.info
  if (info === undefined || info.storePath !== storePath) {
    return { storePath, narSize: 0, references: [], missing: true }
  }
  const references = info.references.filter(reference => hashPartOf(reference) !== part)
  return { storePath, narSize: info.narSize, references, missing: false }
}

/** What there is of the paths, and of all they refer to if their closure is wanted. */
async function plan(
  options: ExportOptions,
  roots: readonly StorePath[],
  closure: boolean,
  signal: AbortSignal | undefined,
): Promise<Plan> {
  const planned = new Map<HashPart, Planned>()
  const waiting = [...new Set(roots)]
  const met = new Set<HashPart>(waiting.map(hashPartOf))
  while (waiting.length > 0) {
    signal?.throwIfAborted()
    const batch = waiting.splice(0, LOOKUPS_AT_ONCE)
    for (const one of await Promise.all(batch.map(path => lookUp(options, path)))) {
      planned.set(hashPartOf(one.storePath), one)
      if (!closure) continue
      for (const reference of one.references) {
        const part = hashPartOf(reference)
        if (met.has(part)) continue
        if (met.size >= EXPORT_PATHS_MAX) fail('EXPORT_TOO_LARGE', { limit: EXPORT_PATHS_MAX })
        met.add(part)
        waiting.push(joinStorePath(options.storeDir, reference))
      }
    }
  }
  return planned
}

/** What cannot be exported, and why: what nobody has, and in a closure what needs that. */
function findMissing(order: readonly HashPart[], planned: Plan, closure: boolean) {
  const missing = new Map<HashPart, string>()
  for (const part of order) {
    const one = planned.get(part)
    if (one === undefined) continue
    const lacking = one.references.find(reference => missing.has(hashPartOf(reference)))
    if (one.missing) missing.set(part, 'nobody within reach offers it')
    else if (closure && lacking !== undefined) {
      missing.set(part, `it refers to ${lacking}, which is missing`)
    }
  }
  return missing
}

async function* exportPaths(
  options: ExportOptions,
  roots: readonly StorePath[],
  { closure, signatures }: ExportWish,
  signal: AbortSignal | undefined,
): AsyncGenerator<ExportPart, void, undefined> {
  const planned = await plan(options, roots, closure, signal)
  const order = inReferenceOrder(planned.keys(), part =>
    planned.get(part)?.references.map(hashPartOf),
  )
  const missing = findMissing(order, planned, closure)
  const going = order.flatMap(part => (missing.has(part) ? [] : [planned.get(part) as Planned]))
  const narBytes = going.reduce((sum, { narSize }) => sum + narSize, 0)
  yield { event: { event: 'start', paths: going.length, narBytes } }
  for (const [part, problem] of missing) {
    const { storePath } = planned.get(part) as Planned
    yield { event: { event: 'missing', storePath, problem } }
  }
  const outside = new Set<BaseName>()
  let written = 0
  for (const { storePath, references } of going) {
    signal?.throwIfAborted()
    const info = yield* exportOne(options, storePath)
    written += info.narSize
    for (const reference of references) {
      const part = hashPartOf(reference)
      if (!planned.has(part) || missing.has(part)) outside.add(reference)
    }
    const line = signatures ? { line: formatExportSignatures(info) } : {}
    yield { event: { event: 'exported', storePath, narSize: info.narSize, ...line } }
  }
  yield { bytes: Buffer.from(EXPORT_END) }
  const named = [...outside].slice(0, OUTSIDE_NAMED_MAX)
  yield {
    event: {
      ...{ event: 'end', exported: going.length, narBytes: written },
      outside: named.map(name => joinStorePath(options.storeDir, name)),
      outsideCount: outside.size,
    },
  }
}

/** Writes one path; gives what is known of it, with proven signatures only. Throws NAR_MISMATCH before it ends, if it is not that. */
async function* exportOne(
  { substitution }: ExportOptions,
  storePath: StorePath,
): AsyncGenerator<ExportPart, PathInfo, undefined> {
  const hashPart = hashPartOf(storePath)
  const [candidate] = await substitution.candidates(hashPart, HERE)
  const gone = (problem: string): never => fail('EXPORT_BROKE_OFF', { path: storePath, problem })
  if (candidate === undefined) return gone('it is offered no more')
  const { info } = candidate.holding
  const { narHash, narSize } = info
  const url = { hashPart, narHash: encodeNix32(narHash.bytes), compression: 'none' } as const
  const reply = await substitution.nar(url, HERE, { resuming: false })
  if (reply === undefined) return gone('every copy is damaged or went away')
  yield { bytes: Buffer.from(EXPORT_PATH_BEGIN) }
  const hash = createHash('sha256')
  const stream = reply.open({ start: 0, end: narSize })
  let size = 0
  try {
    for await (const chunk of stream) {
      hash.update(chunk)
      size += chunk.length
      yield { bytes: chunk, release: () => stream.recycle(chunk) }
    }
  } catch (error) {
    return gone(problemOf(error))
  } finally {
    stream.destroy()
  }
  if (size !== narSize || Buffer.compare(hash.digest(), narHash.bytes) !== 0) {
    return gone('the bytes that came are not its NAR')
  }
  yield { bytes: encodeExportedPath(info) }
  const { signatures, ca } = candidate.decision
  return { ...info, signatures, ca }
}
