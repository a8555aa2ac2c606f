import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { DamagedPath, PathProblem, VerifiedTarget } from '../../protocol/api-shipments.ts'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { formatHash } from '../../protocol/hash.ts'
import { splitFiles } from '../../protocol/shipment.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { Keyring } from '../../protocol/signature.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import { createCacheDirHolder } from '../holders/cache-dir.ts'
import type { JobHandle } from '../jobs/jobs.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { Trust } from '../trust/trust.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { joinFiles } from '../workers/packed-file.ts'
import { openShipTarget, type ShipTarget } from './pack-target.ts'
import { checkManifest, compareIndex, markOf, type PathMark } from './verify-index.ts'

// Reads everything in a directory: every NAR whole, in the order in which the files lie on the disk as far as that can be told.
// The hashing is done by the workers, which stand back for whoever asks the daemon meanwhile.

/** Paths listed in a result; the rest is counted. */
const LISTED_MAX = 300

/** NARs read at a time: while one is hashed the disk reads the next. */
const AT_ONCE = 2

export interface VerifyOptions {
  readonly dir: string
  readonly storeDir: string
  readonly pool: NarPool
  readonly trust: Trust
  /** Keys whose manifests count. */
  readonly keys: Keyring
  readonly substitution: Pick<Substitution, 'candidates'>
  readonly job: Pick<JobHandle, 'note' | 'progress'>
  readonly signal: AbortSignal
  /** Mends a damaged path, and says from whom; undefined where nobody can. Absent: nothing is mended. */
  readonly repair?: ((path: DamagedEntry) => Promise<string | undefined>) | undefined
}

/** A path whose NAR is not what it should be. */
export interface DamagedEntry {
  readonly hashPart: HashPart
  /** Undefined where the narinfo itself is. */
  readonly storePath: StorePath | undefined
  /** What its narinfo says of its file. */
  readonly url?: string | undefined
  readonly parts?: number | undefined
  readonly fileHash?: Uint8Array | undefined
}

interface Listed {
  readonly part: HashPart
  /** Where its file stands on the disk, by inode; 0 where it is not known. */
  readonly place: number
}

/** The narinfos, in the order of their NARs on the disk. */
async function inDiskOrder(target: ShipTarget): Promise<Listed[]> {
  const listed: Listed[] = []
  for (const part of await target.hashParts()) {
    const entry = await target.read(part)
    const file = entry && (entry.parts === undefined ? entry.info.url : `${entry.info.url}.000`)
    const place =
      file === undefined
        ? 0
        : ((await stat(join(target.dir, file)).catch(() => undefined))?.ino ?? 0)
    listed.push({ part, place })
  }
  return listed.sort((a, b) => a.place - b.place)
}

/** What is wrong with a NAR and its file; undefined where nothing is. */
async function problemOfNar(
  { dir }: ShipTarget,
  { info, parts }: ShipmentEntry,
  { pool, signal }: VerifyOptions,
): Promise<string | undefined> {
  const { url, compression, narHash, narSize, fileHash, fileSize } = info
  const files = parts === undefined ? [url] : splitFiles({ url, parts })
  try {
    const found = await pool.digestFile(
      joinFiles(files.map(file => join(dir, file))),
      compression,
      signal,
      { narSizeMax: narSize },
    )
    if (found.narSize !== narSize || Buffer.compare(found.narHash, narHash.bytes) !== 0) {
      const actual = formatHash({ algorithm: 'sha256', bytes: found.narHash }, 'nix32')
      return `its NAR has the hash ${actual}, not ${formatHash(narHash, 'nix32')}`
    }
    const isOther =
      fileHash?.algorithm === 'sha256' && Buffer.compare(found.fileHash, fileHash.bytes) !== 0
    if (isOther || (fileSize !== undefined && found.fileSize !== fileSize)) {
      return `${url} is another file than its narinfo says`
    }
    return undefined
  } catch (error) {
    signal.throwIfAborted()
    return problemOf(error)
  }
}

/** What is counted and listed on the way. */
function createFindings() {
  const damaged: DamagedPath[] = []
  const incomplete: PathProblem[] = []
  const counts = {
    ...{ paths: 0, fileBytes: 0, good: 0, unsigned: 0 },
    ...{ damagedPaths: 0, repairedPaths: 0, incompletePaths: 0 },
  }
  return {
    counts,
    damaged,
    incomplete,
    addDamaged(path: DamagedPath): void {
      counts.damagedPaths++
      if (path.repairedFrom !== undefined) counts.repairedPaths++
      if (damaged.length < LISTED_MAX) damaged.push(path)
    },
    addIncomplete(path: PathProblem): void {
      counts.incompletePaths++
      if (incomplete.length < LISTED_MAX) incomplete.push(path)
    },
  }
}

/** Which references are nowhere: neither there nor with anybody within reach. */
function createReach(there: ReadonlySet<HashPart>, { substitution }: VerifyOptions) {
  const elsewhere = new Map<HashPart, boolean>()
  return async ({ info }: ShipmentEntry): Promise<string | undefined> => {
    for (const reference of info.references) {
      const part = hashPartOf(reference)
      if (there.has(part)) continue
      let known = elsewhere.get(part)
      if (known === undefined) {
        const found = await substitution.candidates(part, { loopback: true, legacy: false })
        elsewhere.set(part, (known = found.length > 0))
      }
      if (!known) return reference
    }
    return undefined
  }
}

/** Reads a cache directory or drive. Throws SHIP_TARGET_UNFIT for what is none. */
export async function verifyDirectory(options: VerifyOptions): Promise<VerifiedTarget> {
  const { storeDir, pool, trust, job, signal, repair } = options
  const target = await openShipTarget({ dir: options.dir, storeDir, forbidden: [], readOnly: true })
  const { dir } = target
  job.progress({ done: 0, what: 'reading the manifest' })
  const { manifest, signedBy, problems } = await checkManifest(dir, options.keys, signal)
  if (manifest !== undefined && signedBy === undefined) {
    job.note(`${dir}: the manifest is signed by nobody whom this host trusts`, 'warning')
  }
  const listed = await inDiskOrder(target)
  const total = listed.length
  const findings = createFindings()
  const { counts } = findings
  const marks = new Map<HashPart, PathMark>()
  const holder = createCacheDirHolder({ dir, pool, expectedStoreDir: storeDir })
  const lacks = createReach(new Set(listed.map(({ part }) => part)), options)

  const isSigned = async ({ info, parts }: ShipmentEntry): Promise<boolean> => {
    // The holder of a directory does not know NARs that lie in several files.
    if (parts !== undefined) return true
    const holding = await holder.find(hashPartOf(info.storePath))
    return holding === undefined || (await trust.decide(holder, holding)).offered
  }

  const broken = async (path: DamagedEntry, problem: string): Promise<void> => {
    const name = path.storePath ?? `${storeDir}/${path.hashPart}`
    job.note(`${name} is damaged: ${problem}`, 'warning')
    let repairedFrom: string | undefined
    try {
      repairedFrom = await repair?.(path)
    } catch (error) {
      signal.throwIfAborted()
      if (isNarwharfError(error, 'CACHE_UNWRITABLE')) throw error
      job.note(`${name} could not be repaired: ${problemOf(error)}`, 'warning')
    }
    if (repairedFrom !== undefined) job.note(`${name} is repaired from ${repairedFrom}`)
    findings.addDamaged({ storePath: name, problem, repairedFrom })
  }

  const check = async ({ part }: Listed): Promise<void> => {
    signal.throwIfAborted()
    const look = await target.look(part)
    counts.paths++
    if (!('entry' in look)) {
      return broken({ hashPart: part, storePath: look.storePath }, look.problem)
    }
    const { entry } = look
    const { storePath, narHash, fileHash, url, fileSize, narSize } = entry.info
    job.progress({ done: counts.paths, total, bytes: counts.fileBytes, what: storePath })
    const problem = await problemOfNar(target, entry, options)
    counts.fileBytes += fileSize ?? narSize
    if (problem !== undefined) {
      const { parts } = entry
      return broken({ hashPart: part, storePath, url, parts, fileHash: fileHash?.bytes }, problem)
    }
    counts.good++
    marks.set(part, markOf(narHash.bytes, fileHash?.bytes, url))
    if (!(await isSigned(entry))) counts.unsigned++
    // What a shipment was packed against is at its site, not here.
    const lacking = manifest?.against === undefined ? await lacks(entry) : undefined
    if (lacking !== undefined) {
      findings.addIncomplete({ storePath, problem: `${lacking}, which it refers to, is nowhere` })
    }
  }

  let next = 0
  const worker = async (): Promise<void> => {
    for (let one = listed[next++]; one !== undefined; one = listed[next++]) await check(one)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  const differing =
    manifest === undefined || counts.repairedPaths > 0
      ? []
      : await compareIndex(dir, manifest, marks, LISTED_MAX)
  return {
    dir,
    ...counts,
    damaged: findings.damaged,
    incomplete: findings.incomplete,
    problems: [...problems, ...differing],
  }
}
