import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Holder } from '../../daemon/holders/holder.ts'
import { createCacheDirHolder } from '../../daemon/holders/cache-dir.ts'
import { createCacheDirWriter } from '../../daemon/holders/cache-dir-writer.ts'
import { createImportDesk, type ImportPlace } from '../../daemon/shipments/import-desk.ts'
import type { ImportThread } from '../../daemon/shipments/import-intake.ts'
import type { ImportStep, ImportWish } from '../../daemon/shipments/import-run.ts'
import { createImport } from '../../daemon/shipments/import.ts'
import { findCandidates } from '../../daemon/substitution/candidates.ts'
import type { TrustOptions } from '../../daemon/trust/trust-room.ts'
import { createNarPool } from '../../daemon/workers/create-nar-pool.ts'
import { formatCacheInfo } from '../../protocol/cache-info.ts'
import { EXPORT_END, EXPORT_PATH_BEGIN, encodeExportedPath } from '../../protocol/export-archive.ts'
import { createSignaturesReader, type SignatureBook } from '../../protocol/export-signatures.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { tempDir } from './scope.ts'
import { rig } from './trust-rig.ts'

/** The golden archives of test/fixtures/export. */
export const exportFixture = (name: string): Buffer =>
  readFileSync(join(process.cwd(), 'test/fixtures/export', name))

/** The key that signed them. */
export const GOLDEN_KEY = readFileSync(
  join(process.cwd(), 'test/fixtures/protocol/key-1.public'),
  'utf8',
).trim()

/** An archive as nix-store --export writes it. */
export const archiveOf = (
  ...paths: readonly (readonly [
    info: Pick<PathInfo, 'storePath' | 'references' | 'deriver'>,
    nar: Buffer,
  ])[]
): Buffer =>
  Buffer.concat([
    ...paths.flatMap(([info, nar]) => [EXPORT_PATH_BEGIN, nar, encodeExportedPath(info)]),
    EXPORT_END,
  ])

/** A side file as it is read. */
export function bookOf(text: Buffer | string): SignatureBook {
  const reader = createSignaturesReader()
  reader.write(Buffer.from(text as string))
  return reader.end()
}

/** Bytes as a socket brings them. */
export async function* inChunks(bytes: Buffer, size = 65_536): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

export interface ImportRigOptions {
  readonly trust?: Partial<TrustOptions>
  /** Who else may have paths. */
  readonly others?: readonly Holder[]
  /** Do the work in a thread, as the daemon does; it takes a second to start from TypeScript. */
  readonly thread?: boolean
  /** Where the cache is; default a new directory. */
  readonly dir?: string
}

/** The work of an import without a thread. */
const startHere = (place: ImportPlace): ImportThread => {
  const answer = createImportDesk(place)
  return { ask: async message => answer(message), end: async () => {} }
}

const none: SignatureBook = new Map()

/** A cache, a trust over a real key, and the function that imports. */
export async function makeImportRig(t: Test, options: ImportRigOptions = {}) {
  const { others = [], dir = join(tempDir(t, 'import'), 'cache') } = options
  mkdirSync(dir, { recursive: true })
  writeFileSync(
    join(dir, 'nix-cache-info'),
    formatCacheInfo({ storeDir: '/nix/store', wantMassQuery: true, priority: undefined }),
  )
  const pool = createNarPool({ threads: 1 })
  await pool.open()
  t.teardown(() => pool.close())
  const { trust } = await rig(t, { options: { publicKeys: [GOLDEN_KEY], ...options.trust } })
  const writer = createCacheDirWriter({ dir })
  await writer.open()
  const cache = createCacheDirHolder({ dir, pool, expectedStoreDir: '/nix/store' })
  await cache.open()
  const holders = [cache, ...others]
  const start = createImport({
    ...{ cache, cacheDir: dir, trust, pool, storeDir: '/nix/store' },
    has: part => writer.has(part),
    startThread: options.thread === true ? undefined : startHere,
    substitution: {
      holders,
      candidates: async part => findCandidates(holders, trust, '/nix/store', part),
    },
  })
  /** Runs one to its end; what it said, and the error it ended with. */
  const run = async (
    archive: Buffer | AsyncIterable<Uint8Array>,
    wish: Partial<ImportWish> = {},
    signal?: AbortSignal,
  ): Promise<{ steps: ImportStep[]; error: unknown }> => {
    const steps: ImportStep[] = []
    const bytes = Buffer.isBuffer(archive) ? inChunks(archive) : archive
    try {
      for await (const step of start(bytes, { signatures: none, trust: [], ...wish }, signal)) {
        if (step.event !== 'progress') steps.push(step)
      }
      return { steps, error: undefined }
    } catch (error) {
      return { steps, error }
    }
  }
  /** Files below the cache that are not finished. */
  const unfinished = (): string[] =>
    [...readdirSync(dir), ...readdirSync(join(dir, 'nar'))].filter(name => name.startsWith('.'))
  const narinfos = (): number => readdirSync(dir).filter(name => name.endsWith('.narinfo')).length
  return { dir, cache, trust, start, run, unfinished, narinfos }
}
