import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { FetchEvent } from '../../protocol/api.ts'
import { fail } from '../../protocol/errors.ts'
import { splitFiles } from '../../protocol/shipment.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { JobHandle } from '../jobs/jobs.ts'
import type { Candidate } from '../substitution/candidates.ts'
import type { ClosureNode } from './pack-closure.ts'
import { openPart, type OpenPart, type PackParts } from './pack-part.ts'
import { readManifest } from './pack-seal.ts'
import { createPackSources, type PackSources } from './pack-source.ts'
import { openShipTarget, type ShipTarget } from './pack-target.ts'
import type { DamagedEntry } from './verify.ts'

// Mends damaged paths from other holders. The damaged file goes first, so that nobody is given it meanwhile; but it goes only
// when somebody else has the path: a NAR with one wrong bit is worth more than none.

/** Mends what was found damaged, and brings things into order at the end. */
export interface Repair {
  /** From whom; undefined where nobody within reach has it. Throws what came of trying. */
  mend(path: DamagedEntry): Promise<string | undefined>
  /** Writes index and manifest anew where they have to be. */
  finish(): Promise<void>
  close(): Promise<void>
}

export interface RepairOptions extends PackParts {
  readonly dir: string
  readonly storeDir: string
  /** Ids of the holders that the directory itself is. */
  readonly without: readonly string[]
  readonly job: Pick<JobHandle, 'note'>
  readonly signal: AbortSignal
}

async function withdraw({ dir }: ShipTarget, path: DamagedEntry): Promise<void> {
  const { hashPart, url, parts } = path
  await rm(join(dir, `${hashPart}.narinfo`), { force: true })
  if (url === undefined) return
  const files = parts === undefined ? [url] : splitFiles({ url, parts })
  for (const file of files) await rm(join(dir, file), { force: true })
}

/** Who else has it, under its full name. */
async function others(
  sources: PackSources,
  { hashPart, storePath }: DamagedEntry,
  without: readonly string[],
): Promise<readonly Candidate[]> {
  const found = await sources.find(hashPart)
  return found.filter(
    ({ holder, holding }) =>
      !without.includes(holder.id) &&
      (storePath === undefined || holding.info.storePath === storePath),
  )
}

/** Mends this host's own cache: what is damaged is fetched like anything that is not there. */
export async function createCacheRepair(
  options: RepairOptions & {
    readonly fetch: (paths: readonly StorePath[], signal: AbortSignal) => AsyncIterable<FetchEvent>
  },
): Promise<Repair> {
  const { dir, storeDir, without, signal, substitution, trust, fetch } = options
  const target = await openShipTarget({ dir, storeDir, forbidden: [] })
  const sources = createPackSources({ substitution, trust, storeDir })
  return {
    async mend(path) {
      const [first] = await others(sources, path, without)
      if (first === undefined) return undefined
      await withdraw(target, path)
      for await (const event of fetch([first.holding.info.storePath], signal)) {
        if (event.event !== 'missing' || event.storePath !== first.holding.info.storePath) continue
        fail('HOLDING_GONE', {
          path: event.storePath,
          holder: `${first.holder.id}: ${event.problem}`,
        })
      }
      return first.holder.id
    },
    finish: async () => {},
    close: async () => {},
  }
}

/**
 * Mends a drive or directory. The index of another depot names the very files, and nobody here can sign it: then only the same
 * file will do. One of this host's own is written anew.
 */
export async function createDirectoryRepair(options: RepairOptions): Promise<Repair> {
  const { dir, storeDir, without, job, signal, substitution, trust } = options
  const target = await openShipTarget({ dir, storeDir, forbidden: [] })
  const open: OpenPart = await openPart({ parts: options, target, mode: 'known', job, signal })
  const sources = createPackSources({ substitution, trust, storeDir })
  const before = await readManifest(target.dir)
  const isOwn = before !== undefined && trust.sign(before.signedBytes) === before.signature
  const isForeign = before !== undefined && !isOwn
  let mended = 0
  const isSameFile = ({ holding }: Candidate, fileHash: Uint8Array | undefined): boolean =>
    fileHash !== undefined &&
    holding.fileHash !== undefined &&
    Buffer.compare(holding.fileHash.bytes, fileHash) === 0
  return {
    async mend(path) {
      const found = await others(sources, path, without)
      const usable = isForeign ? found.filter(one => isSameFile(one, path.fileHash)) : found
      const [first] = usable
      if (first === undefined) return undefined
      await withdraw(target, path)
      const { storePath, narSize } = first.holding.info
      const node: ClosureNode = {
        ...{ storePath, narSize, narHash: '', references: [], cost: 0, fileBytes: 0 },
        ...{ there: false, builtHere: false },
      }
      const { missing, full } = await open.write({
        nodes: [node],
        order: [0],
        sources: { find: async () => usable },
        onDone: () => {},
      })
      const problem = full ? 'no room is left' : missing.get(0)
      if (problem !== undefined) fail('HOLDING_GONE', { path: storePath, holder: problem })
      mended++
      return first.holder.id
    },
    async finish() {
      if (mended === 0 || !isOwn) return
      const { depot, name, part, parts, createdAt, against, roots } = before.manifest
      const packed = [...open.there.indexed()]
      await open.seal({
        packed,
        isBuiltHere: () => false,
        // The common id of several parts cannot be told from one of them.
        about: { depot, name, part, parts, createdAt, against, roots },
        ...{ extras: [], cacheDir: dir, replace: false },
        ...(parts > 1 ? { id: before.manifest.id } : {}),
      })
    },
    close: () => open.close(),
  }
}
