import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { MergedFiles } from '../../protocol/api-jobs.ts'
import type { ShipmentManifest, ShipmentSectionKind } from '../../protocol/shipment.ts'
import type { CacheIntake } from '../holders/cache-dir-intake.ts'
import type { CacheSpace } from './merge-space.ts'

// What a shipment has beside store paths and what this host hands on by HTTP: channels, flakes, tarballs. Copied under the
// same names below the cache, each file whole or not at all.

/** Kinds that are merged; export archives wait for `import`, what travels between sites is not this host's. */
const MERGED: ReadonlySet<ShipmentSectionKind> = new Set(['channel', 'flake', 'tarball'])

/** Damaged files that are named; the others are counted. */
const NAMED_MAX = 100

export interface SectionsMerge {
  readonly manifest: ShipmentManifest
  /** Directory of the shipment, and of the cache. */
  readonly root: string
  readonly dir: string
  readonly intake: Pick<CacheIntake, 'takeFile'>
  readonly space: CacheSpace
  readonly signal: AbortSignal
  onFile(file: string): void
}

/** Copies the files; `full` where there was no room for all. */
export async function mergeSections(merge: SectionsMerge): Promise<MergedFiles> {
  const { manifest, root, dir, intake, space, signal } = merge
  const time = Date.parse(manifest.createdAt)
  const damaged: { file: string; problem: string }[] = []
  const counts = { came: 0, wasThere: 0, newer: 0, damaged: 0, noRoom: 0, bytes: 0 }
  for (const { kind, file, size, sha256 } of manifest.sections) {
    if (!MERGED.has(kind)) continue
    if (signal.aborted) break
    merge.onFile(file)
    // A drive that lay in a drawer for a year must not take a channel back.
    const here = await stat(join(dir, file)).catch(() => undefined)
    if (here !== undefined && here.mtimeMs > time) {
      counts.newer++
      continue
    }
    if (here === undefined && size > (await space.room())) {
      counts.noRoom++
      continue
    }
    const taken = await intake.takeFile({
      ...{ root, file, size, time },
      sha256: Buffer.from(sha256, 'hex'),
    })
    switch (taken.state) {
      case 'came':
        counts.came++
        counts.bytes += size
        space.took(size)
        break
      case 'here':
        counts.wasThere++
        break
      case 'unwritable':
        counts.noRoom++
        break
      case 'damaged':
      case 'unreadable':
        counts.damaged++
        if (damaged.length < NAMED_MAX) damaged.push({ file, problem: taken.problem })
        break
      default:
    }
  }
  return { ...counts, damagedFiles: damaged }
}
