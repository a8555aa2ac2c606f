import { inPieces } from './import-pieces.ts'
import type { ReadReply } from './import-desk.ts'
import { startImportIntake } from './import-intake.ts'
import {
  createImportRun,
  type ImportOptions,
  type ImportStep,
  type ImportWish,
} from './import-run.ts'

// Takes an archive of `nix-store --export` into the cache: what is signed, proves itself, is known to be the same or is
// vouched for. One pass, constant memory: the NAR that is being read lies on the cache's disk, and a piece or two of the
// archive in memory.

/** How often progress is told, ms. */
const TOLD_EVERY_MS = 200

/** Makes the function: it tells of every path what came of it. Throws EXPORT_INVALID, CACHE_UNWRITABLE, and what the archive's stream throws. */
export function createImport(options: ImportOptions) {
  return (
    archive: AsyncIterable<Uint8Array>,
    wish: ImportWish,
    signal?: AbortSignal,
  ): AsyncGenerator<ImportStep, void, undefined> => importArchive(options, archive, wish, signal)
}

async function* importArchive(
  options: ImportOptions,
  archive: AsyncIterable<Uint8Array>,
  wish: ImportWish,
  signal: AbortSignal | undefined,
): AsyncGenerator<ImportStep, void, undefined> {
  const intake = startImportIntake(options.cacheDir, options.storeDir, options.startThread)
  const run = createImportRun(options, wish, intake)
  let asked: Promise<ReadReply> | undefined
  let bytes = 0
  let told = 0
  try {
    for await (const piece of inPieces(archive, () => intake.buffer(), signal)) {
      bytes += piece.length
      // The thread is at this piece while the one before is judged and the next comes in.
      const next = intake.read(piece)
      next.catch(() => undefined)
      if (asked !== undefined) yield* run.take(await asked)
      asked = next
      if (performance.now() - told < TOLD_EVERY_MS) continue
      told = performance.now()
      yield { event: 'progress', bytes }
    }
    if (asked !== undefined) yield* run.take(await asked)
    yield* run.take(await intake.read(undefined))
    yield* run.settle()
    yield { event: 'end', ...run.totals() }
  } catch (error) {
    // What was accepted before is whole and right, whatever comes behind it.
    yield* run.settle()
    throw error
  } finally {
    await intake.close()
  }
}
