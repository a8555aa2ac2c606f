import { setImmediate as turn } from 'node:timers/promises'
import { WHO_HAS_LIMIT, type PathHolders, type WhoHasResult } from '../../protocol/api.ts'
import type { Catalog } from '../catalog/catalog.ts'
import { peerKeyOf } from '../catalog/index-writer.ts'
import { parseQuery, type CatalogQuery } from '../catalog/query.ts'
import type { CatalogMatch, MatchHolder } from '../catalog/search.ts'
import { hashPartOf, joinStorePath, nameOf } from '../../protocol/store-path.ts'
import type { BaseName, HashPart, StorePath } from '../../protocol/store-path.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { PeerKey } from '../site.ts'
import { outputsOf } from './derivation-outputs.ts'

/** Longest time in one go spent asking holders, ms: a narinfo request may wait behind it. */
const SLICE_MS = 4

/** How it stands with a peer just now. */
export interface PeerPresence {
  /** What the site calls it; undefined for one that is no member. */
  readonly name?: string | undefined
  readonly up: boolean
  /** Undefined for one that was never met: its index came by others. */
  readonly lastSeen?: string | undefined
}

/** What is known of a drive. */
export interface DriveFacts {
  readonly name: string
  readonly label?: string | undefined
  /** Undefined while it is not plugged. */
  readonly mountPoint?: string | undefined
  /** When it was last there, ms since 1970. */
  readonly lastSeen?: number | undefined
}

export interface WhoHasParts {
  readonly holders: readonly Holder[]
  readonly catalog: Pick<Catalog, 'search'>
  readonly hostName: string
  /** From memory: what a catalog says of connections is of yesterday after a crash. */
  readonly presence: (peer: PeerKey) => PeerPresence
  /** By its holder's id; undefined for what is no drive known here. */
  readonly driveOf: (holderId: string) => DriveFacts | undefined
  /** Ms since 1970. */
  readonly now: () => number
}

type HolderAnswer = PathHolders['holders'][number]

/** What a local holder says now: a holding, that it has none, or that it cannot be asked. */
type Live = Holding | 'absent' | 'down'

async function ask(holder: Holder, hashPart: HashPart): Promise<Live> {
  try {
    return (await holder.find(hashPart)) ?? 'absent'
  } catch {
    return 'down'
  }
}

/** Everyone who has that hash part: local holders as they answer now, others as the catalog knows them. */
async function holdersOf(
  hashPart: HashPart,
  known: readonly CatalogMatch[],
  { holders, hostName, now, presence, driveOf }: WhoHasParts,
): Promise<PathHolders[]> {
  const found = new Map<string, { narSize?: number | undefined; holders: HolderAnswer[] }>()
  const add = (storePath: string, narSize: number | undefined, answer: HolderAnswer): void => {
    const entry = found.get(storePath) ?? { narSize, holders: [] }
    entry.narSize ??= narSize
    entry.holders.push(answer)
    found.set(storePath, entry)
  }
  const silent = new Set<string>()
  const local = new Set<string>()
  for (const holder of holders) {
    local.add(holder.id)
    const live = await ask(holder, hashPart)
    if (live === 'down') silent.add(holder.id)
    else if (live !== 'absent') {
      const { id, kind } = holder
      const lastSeen = new Date(now()).toISOString()
      const answer = { id, kind, host: hostName, up: true, lastSeen, ...driveFields(driveOf(id)) }
      add(live.info.storePath, live.info.narSize, answer)
    }
  }
  for (const match of known) {
    for (const row of match.holders) {
      // A holder that answered has been heard; one that cannot be asked may still have it.
      if (local.has(row.id) && !silent.has(row.id)) continue
      const peer = row.kind === 'peer' ? peerKeyOf(row.id) : undefined
      const answer =
        peer === undefined
          ? answerOf(row, row.up && !silent.has(row.id), driveOf(row.id))
          : peerAnswerOf(row, presence(peer), now)
      add(joinStorePath(row.storeDir, match.baseName), match.narSize, answer)
    }
  }
  return [...found].map(([storePath, { narSize, holders: who }]) => ({
    storePath,
    ...(narSize === undefined ? {} : { narSize }),
    holders: who,
  }))
}

function answerOf(
  { id, kind, host, lastSeen }: MatchHolder,
  up: boolean,
  drive: DriveFacts | undefined,
): HolderAnswer {
  const seen = drive?.lastSeen ?? lastSeen
  return {
    ...{ id, kind, host, up },
    ...(seen === undefined ? {} : { lastSeen: new Date(seen).toISOString() }),
    ...driveFields(drive),
  }
}

const driveFields = (
  drive: DriveFacts | undefined,
): Pick<HolderAnswer, 'name' | 'label' | 'mountPoint'> =>
  drive === undefined
    ? {}
    : {
        name: drive.name,
        ...(drive.label === undefined ? {} : { label: drive.label }),
        ...(drive.mountPoint === undefined ? {} : { mountPoint: drive.mountPoint }),
      }

function peerAnswerOf(
  { id, kind, host }: MatchHolder,
  { name = host, up, lastSeen }: PeerPresence,
  now: () => number,
): HolderAnswer {
  const seen = up ? new Date(now()).toISOString() : lastSeen
  return { id, kind, host: name, up, ...(seen === undefined ? {} : { lastSeen: seen }) }
}

async function whoHasPath(
  query: Extract<CatalogQuery, { kind: 'path' }>,
  parts: WhoHasParts,
): Promise<PathHolders[]> {
  const { matches } = await parts.catalog.search(query, WHO_HAS_LIMIT)
  const all = await holdersOf(query.hashPart, matches, parts)
  return all.filter(
    ({ storePath }) => query.name === undefined || nameOf(storePath as StorePath) === query.name,
  )
}

async function whoHasNames(
  query: CatalogQuery,
  parts: WhoHasParts,
): Promise<Pick<WhoHasResult, 'matches' | 'more'>> {
  const { matches, more } = await parts.catalog.search(query, WHO_HAS_LIMIT)
  const checked: PathHolders[] = []
  let until = performance.now() + SLICE_MS
  for (const match of matches) {
    const all = await holdersOf(hashPartOf(match.baseName), [match], parts)
    checked.push(...all.filter(({ storePath }) => storePath.endsWith(`/${match.baseName}`)))
    if (performance.now() > until) {
      await turn()
      until = performance.now() + SLICE_MS
    }
  }
  return { matches: checked, more }
}

/** `<path>.drv!out`, as Nix 2.8 writes an output of a derivation, or `^out` as later ones do. */
const OUTPUT =
  /^(?<derivation>[^!^]+\.drv)[!^](?<outputs>\*|[0-9A-Za-z+\-._?=]+(?:,[0-9A-Za-z+\-._?=]+)*)$/

/**
 * Who has what a query asks for: a store path, hash part, base name, pattern or part of a name. A derivation is answered
 * with itself and its outputs, `….drv!out` with that output, where someone here has the .drv.
 */
export async function whoHas(query: string, parts: WhoHasParts): Promise<WhoHasResult> {
  const wanted = OUTPUT.exec(query.trim())?.groups
  const parsed = parseQuery(wanted?.['derivation'] ?? query)
  const problem = (text: string): WhoHasResult => ({ query, matches: [], more: 0, problem: text })
  if ('problem' in parsed) return problem(parsed.problem)
  if (parsed.kind !== 'path') {
    if (wanted !== undefined) return problem('outputs are asked of a whole .drv path')
    return { query, ...(await whoHasNames(parsed, parts)) }
  }
  const matches = wanted === undefined ? await whoHasPath(parsed, parts) : []
  if (parsed.name?.endsWith('.drv') !== true) return { query, matches, more: 0 }
  const derivation = `${parsed.hashPart}-${parsed.name}` as BaseName
  const outputs = await outputsOf(derivation, parts.holders)
  if (outputs === undefined) {
    if (wanted === undefined) return { query, matches, more: 0 }
    return problem(`nobody here has ${derivation}, so its outputs are not known`)
  }
  const names = wanted?.['outputs'] ?? '*'
  const chosen = names === '*' ? [...outputs.keys()] : names.split(',')
  for (const name of chosen) {
    if (!outputs.has(name)) {
      return problem(`${derivation} has no output ${name}, only ${[...outputs.keys()].join(', ')}`)
    }
    const path = outputs.get(name)
    if (path === undefined) continue
    matches.push(
      ...(await whoHasPath(
        { kind: 'path', hashPart: hashPartOf(path), name: nameOf(path) },
        parts,
      )),
    )
  }
  return { query, matches, more: 0 }
}
