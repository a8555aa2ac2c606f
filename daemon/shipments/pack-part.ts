import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { formatCacheInfo } from '../../protocol/cache-info.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import type { ShipmentManifest } from '../../protocol/shipment.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import { createCacheIntake, type CacheIntake } from '../holders/cache-dir-intake.ts'
import { UNFINISHED } from '../holders/cache-dir-writer.ts'
import type { IntakeThreads } from '../holders/intake-start.ts'
import type { JobHandle } from '../jobs/jobs.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { VerdictStore } from '../substitution/verdicts.ts'
import type { Trust } from '../trust/trust.ts'
import type { TrustRoom } from '../trust/trust-room.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { ClosureNode } from './pack-closure.ts'
import { writeExtras, type ExtraFile } from './pack-extras.ts'
import { readManifest, sealShipment, type SealOptions } from './pack-seal.ts'
import type { PackSources } from './pack-source.ts'
import { createStager } from './pack-stage.ts'
import type { ShipTarget } from './pack-target.ts'
import { createThere, type There, type ThereMode } from './pack-there.ts'
import { writePaths, type WriteOutcome } from './pack-write.ts'

// One drive of a shipment: what an earlier run left is cleared up or taken over, paths are written, and the whole is sealed.

/** The rooms that packing stands on. */
export interface PackParts {
  readonly substitution: Pick<Substitution, 'candidates' | 'verdicts'>
  readonly trust: Trust & Pick<TrustRoom, 'sign'>
  readonly pool: NarPool
  readonly verifications: VerdictStore
  readonly threads: IntakeThreads
}

/** A drive that is open for packing. */
export interface OpenPart {
  readonly target: ShipTarget
  readonly there: There
  /** Writes paths of the plan, in order. May be called again with more. */
  write(options: {
    readonly nodes: readonly ClosureNode[]
    readonly order: readonly number[]
    readonly sources: PackSources
    readonly onDone: (node: ClosureNode, outcome: 'written' | 'there' | 'missing') => void
  }): Promise<WriteOutcome>
  /** Removes the paths that are not to stay. */
  removeOthers(keep: ReadonlySet<StorePath>): Promise<number>
  seal(
    options: Pick<SealOptions, 'packed' | 'content' | 'id' | 'about'> & {
      readonly isBuiltHere: (hashPart: HashPart) => boolean
      readonly extras: readonly ExtraFile[]
      readonly cacheDir: string
      readonly replace: boolean
    },
  ): Promise<ShipmentManifest>
  close(): Promise<void>
}

export interface PartOptions {
  readonly parts: PackParts
  readonly target: ShipTarget
  readonly mode: ThereMode
  readonly job: Pick<JobHandle, 'note'>
  readonly signal: AbortSignal
}

/** Directories in which a run that was cut off may have left files that are not finished. */
const SWEPT = [
  '',
  'nar',
  'narwharf',
  'narwharf/index',
  'narwharf/channels',
  'narwharf/flakes',
  'narwharf/tarballs',
]

/** Levels below them: a channel has a directory of its own. */
const SWEPT_DEPTH = 3

/** A NAR file as narwharf names it, whole or a part. */
const OWN_NAR = /^[0-9a-df-np-sv-z]{52}\.nar(?:\.[a-z0-9]+)?(?:\.[0-9]{3})?$/

async function sweep(dir: string, depth = 0): Promise<void> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => [])
  for (const entry of entries) {
    const path = join(dir, entry.name)
    if (entry.isFile() && entry.name.startsWith(UNFINISHED)) await rm(path, { force: true })
    if (entry.isDirectory() && depth > 0) await sweep(path, depth - 1)
  }
}

/** Removes what a run that was cut off left unfinished. */
export async function sweepUnfinished(dir: string): Promise<void> {
  for (const place of SWEPT) await sweep(join(dir, place), place.includes('/') ? SWEPT_DEPTH : 0)
}

/** Removes NAR files of narwharf's own that no narinfo names: of a path that was not finished, and is not wanted any more. */
async function removeOrphans(target: ShipTarget): Promise<void> {
  const named = new Set<string>()
  for (const part of await target.hashParts()) {
    const url = (await target.read(part))?.info.url
    if (url !== undefined) named.add(url)
  }
  for (const name of await readdir(join(target.dir, 'nar')).catch(() => [])) {
    const whole = name.replace(/\.[0-9]{3}$/, '')
    if (!OWN_NAR.test(name) || named.has(`nar/${name}`) || named.has(`nar/${whole}`)) continue
    await rm(join(target.dir, 'nar', name), { force: true })
  }
}

/** Written whole or not at all: an empty one, as a kill could leave it, would keep everybody from the cache. */
async function writeCacheInfo({ dir, storeDir }: ShipTarget): Promise<void> {
  const file = join(dir, 'nix-cache-info')
  const temporary = join(dir, `${UNFINISHED}${process.pid}-cache-info`)
  try {
    const there = await stat(file).catch(() => undefined)
    if (there !== undefined && there.size > 0) return
    const handle = await open(temporary, 'wx', 0o644)
    try {
      await handle.writeFile(
        formatCacheInfo({ storeDir, wantMassQuery: true, priority: undefined }),
      )
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (error) {
    fail('CACHE_UNWRITABLE', { dir, problem: problemOf(error) }, error)
  }
}

/** Whether NARs there are narwharf's to tidy up: not in a cache that another program fills. */
async function isManaged(target: ShipTarget): Promise<boolean> {
  const names = await readdir(target.dir)
  return names.includes('narwharf') || (await target.hashParts()).length === 0
}

/** Opens a drive: starts the threads that copy, and sees what lies there. */
export async function openPart({
  parts,
  target,
  mode,
  job,
  signal,
}: PartOptions): Promise<OpenPart> {
  const { dir } = target
  const intake: CacheIntake = createCacheIntake({ dir, threads: parts.threads })
  await sweepUnfinished(dir)
  const managed = await isManaged(target)
  await intake.open()
  const onAbort = (): void => intake.stop()
  signal.addEventListener('abort', onAbort)
  const close = async (): Promise<void> => {
    signal.removeEventListener('abort', onAbort)
    await intake.close()
  }
  try {
    signal.throwIfAborted()
    const there = await createThere({
      ...{ target, mode, intake, signal },
      pool: parts.pool,
      trust: parts.trust,
      sign: parts.trust.sign,
      verifications: parts.verifications,
      onDamaged: (storePath, problem) =>
        job.note(`${storePath} on the drive is damaged: ${problem}`, 'warning'),
    })
    const stager = createStager({
      ...{ dir, intake, signal, fileMax: target.fileMax },
      verdicts: parts.substitution.verdicts,
    })
    return {
      target,
      there,
      close,
      async write({ nodes, order, sources, onDone }) {
        await mkdir(join(dir, 'narwharf'), { recursive: true })
        await writeCacheInfo(target)
        return writePaths({
          ...{ nodes, order, sources, onDone, dir, stager, signal },
          target: there,
          intake: {
            async settle(taken) {
              const settled = await intake.settle(taken)
              for (const { narinfo } of taken.slice(0, settled.narinfos)) there.noteWritten(narinfo)
              there.remember()
              return settled
            },
          },
          check: target.check,
        })
      },
      async removeOthers(keep) {
        target.check()
        // What the manifest says of them must not outlive them.
        await rm(join(dir, 'narwharf/shipment.json'), { force: true })
        let removed = 0
        for (const part of await target.hashParts()) {
          const entry = await target.read(part)
          if (entry !== undefined && keep.has(entry.info.storePath)) continue
          await rm(join(dir, `${part}.narinfo`), { force: true })
          removed++
        }
        await removeOrphans(target)
        return removed
      },
      async seal({ extras, cacheDir, replace, isBuiltHere, ...options }) {
        target.check()
        const before = await readManifest(dir)
        const isOwn =
          before !== undefined && parts.trust.sign(before.signedBytes) === before.signature
        const sections = await writeExtras(extras, { cacheDir, dir, signal })
        const renewed = new Set(sections.map(({ file }) => file))
        const kept = !isOwn || replace ? [] : before.manifest.sections
        if (managed) await removeOrphans(target)
        return sealShipment({
          ...options,
          ...{ target, signal, sign: parts.trust.sign, isRight: there.isRight },
          isBuiltHere: part => isBuiltHere(part) || there.wasBuiltHere(part),
          sections: [
            ...sections,
            ...kept.filter(({ kind, file }) => kind !== 'index' && !renewed.has(file)),
          ],
        })
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}
