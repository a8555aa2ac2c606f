import { resolve } from 'node:path'
import type { CacheDirWriter } from '../holders/cache-dir-writer.ts'
import type { Jobs } from '../jobs/jobs.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { TrustRoom } from '../trust/trust-room.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { Holder } from '../holders/holder.ts'
import { createExport } from './export.ts'
import { createImportJobs } from './import-job.ts'
import { createImport } from './import.ts'

export interface ArchivesOptions {
  /** This host's own; the cache that imports go into is one of them. */
  readonly holders: readonly Holder[]
  readonly cacheDir: string
  readonly writer: Pick<CacheDirWriter, 'has'>
  readonly trust: TrustRoom
  readonly substitution: Substitution
  readonly pool: NarPool
  readonly jobs: Jobs
  readonly storeDir: string
}

/** Import and export of archives of `nix-store --export`, as the API has them. */
export function createArchives(options: ArchivesOptions) {
  const { holders, cacheDir, writer, trust, substitution, pool, jobs, storeDir } = options
  const cache = holders.find(({ id }) => id === `cache-dir:${resolve(cacheDir)}`)
  if (cache === undefined) throw new Error(`no holder has the cache ${cacheDir}`)
  const importArchive = createImport({
    ...{ cache, cacheDir, trust, substitution, pool, storeDir },
    has: part => writer.has(part),
  })
  return {
    storeDir,
    importArchive: createImportJobs({ jobs, importArchive }),
    exportPaths: createExport({ substitution, storeDir }),
  }
}
