import {
  MISSING_REASONS,
  WHEREABOUTS_MAX,
  type MissingPath,
  type MissingReason,
  type MissingReply,
  type Whereabouts,
} from '../../protocol/api-wants.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { KnownDerivation } from './derivations.ts'
import type { Known } from './knowledge.ts'

// What is missing, in the words of the API: why, how large, and where it is.

/** What an upstream says of a path. */
export interface UpstreamAnswer {
  readonly info: PathInfo
  readonly fileSize: number | undefined
  readonly name: string
}

/** A path that a place has not, with all that is known of it. */
export interface Lacking {
  readonly path: StorePath
  readonly known: Known
  readonly upstream: UpstreamAnswer | undefined
  readonly drives: readonly Whereabouts[]
}

/** Why a path is missing, all but what its derivation says. */
export function reasonOf({ known, upstream, drives }: Lacking): MissingReason | undefined {
  if (known.reach !== undefined) return 'elsewhere'
  if (known.untrusted) return 'untrusted'
  if (drives.length > 0 || known.hosts.length > 0) return 'away'
  return upstream === undefined ? undefined : 'upstream'
}

/** A path that is missing for that reason. */
export function tellMissing(
  { path, known, upstream, drives }: Lacking,
  reason: MissingReason,
  maker: KnownDerivation | undefined,
): MissingPath {
  const info = known.info ?? upstream?.info
  const fileSize = known.fileSize ?? upstream?.fileSize
  const where = [
    ...drives,
    ...known.hosts,
    ...(upstream === undefined ? [] : [{ host: upstream.name, up: true }]),
  ]
  const fixed = maker?.fixed
  return {
    storePath: path,
    reason,
    ...(info !== undefined && { narSize: info.narSize }),
    ...(fileSize !== undefined && { fileSize }),
    ...(where.length > 0 && { where: where.slice(0, WHEREABOUTS_MAX) }),
    ...(maker !== undefined && { derivation: maker.path }),
    ...(fixed !== undefined && { hash: fixed.hash, urls: fixed.urls }),
  }
}

const nameAt = (path: string): string => path.slice(path.lastIndexOf('/') + 34)

/** By reason, then by name. */
export const byReason = (a: MissingPath, b: MissingPath): number =>
  MISSING_REASONS.indexOf(a.reason) - MISSING_REASONS.indexOf(b.reason) ||
  (nameAt(a.storePath) < nameAt(b.storePath)
    ? -1
    : Number(nameAt(a.storePath) > nameAt(b.storePath))) ||
  (a.storePath < b.storePath ? -1 : 1)

/** Counts and sizes for each reason. */
export function groupsOf(missing: readonly MissingPath[]): MissingReply['groups'] {
  return MISSING_REASONS.flatMap(reason => {
    const some = missing.filter(one => one.reason === reason)
    if (some.length === 0) return []
    const sum = (size: (one: MissingPath) => number | undefined) =>
      some.reduce((total, one) => total + (size(one) ?? 0), 0)
    return [
      {
        reason,
        paths: some.length,
        narBytes: sum(({ narSize }) => narSize),
        fileBytes: sum(({ fileSize }) => fileSize),
        unsized: some.filter(({ narSize }) => narSize === undefined).length,
      },
    ]
  })
}

/** A source that is asked for only to build something. */
export function tellSource(path: StorePath, maker: KnownDerivation | undefined): MissingPath {
  const fixed = maker?.fixed
  return {
    ...{ storePath: path, reason: 'source' },
    ...(maker !== undefined && { derivation: maker.path }),
    ...(fixed !== undefined && { hash: fixed.hash, urls: fixed.urls }),
  }
}
