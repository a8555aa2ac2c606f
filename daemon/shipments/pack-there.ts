import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { inflateRawSync } from 'node:zlib'
import { isDeepStrictEqual } from 'node:util'
import { sameHash } from '../../protocol/hash.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { splitFiles } from '../../protocol/shipment.ts'
import {
  readShipmentIndex,
  SHIPMENT_INDEX_ENTRIES_MAX,
  type ShipmentEntry,
} from '../../protocol/shipment-index.ts'
import type { Sign } from '../../protocol/signed-json.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import type { CacheIntake } from '../holders/cache-dir-intake.ts'
import { createCacheDirHolder } from '../holders/cache-dir.ts'
import { readSmallFile } from '../holders/small-file.ts'
import type { Candidate } from '../substitution/candidates.ts'
import type { VerdictStore } from '../substitution/verdicts.ts'
import type { Trust } from '../trust/trust.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { TargetPaths } from './pack-closure.ts'
import { readManifest } from './pack-seal.ts'
import type { ShipTarget } from './pack-target.ts'

// What lies at the target already and is right. A site takes the file hashes of a signed index for the depot's own word, and
// does not unpack what has them: so nothing gets into the index that this host has not read itself, be it in an earlier run.

/** How it is known that a file is right: its size will do (for a plan), what was read before will do, or it is read now. */
export type ThereMode = 'sizes' | 'known' | 'read'

export interface ThereOptions {
  readonly target: ShipTarget
  readonly mode: ThereMode
  readonly pool: NarPool
  readonly trust: Trust
  readonly sign: Sign
  /** Where it is remembered over restarts which files were read. */
  readonly verifications: VerdictStore
  readonly intake: Pick<CacheIntake, 'inspect'>
  readonly signal: AbortSignal
  /** A path that lies there and is not what it should be. */
  readonly onDamaged: (storePath: StorePath, problem: string) => void
}

/** Bytes of an index file: 400 a path at the very most times. */
const INDEX_FILE_MAX_BYTES = SHIPMENT_INDEX_ENTRIES_MAX * 400

/** How long a file must have been as it is before its state is remembered, ms: FAT counts in steps of 2 s. */
const SETTLED_MS = 2500

const inflate = (bytes: Uint8Array, maxBytes: number): Uint8Array =>
  inflateRawSync(bytes, { maxOutputLength: Math.max(1, maxBytes) })

/** What this host's own index of before says of a path. */
interface Indexed {
  readonly fileHash: Uint8Array
  readonly builtHere: boolean
}

/** The index of before in its order, if it is this host's own. */
async function readOwnIndex(dir: string, sign: Sign): Promise<Map<HashPart, Indexed>> {
  const hashes = new Map<HashPart, Indexed>()
  const before = await readManifest(dir)
  if (before === undefined || sign(before.signedBytes) !== before.signature) return hashes
  for (const { kind, file, sha256, size } of before.manifest.sections) {
    if (kind !== 'index' || size > INDEX_FILE_MAX_BYTES) continue
    const bytes = await readSmallFile(join(dir, file), size)
    if (bytes === undefined) continue
    if (createHash('sha256').update(bytes).digest('hex') !== sha256) continue
    for await (const entries of readShipmentIndex([bytes], inflate)) {
      for (const { info, builtHere } of entries) {
        if (info.fileHash?.algorithm !== 'sha256') continue
        hashes.set(hashPartOf(info.storePath), { fileHash: info.fileHash.bytes, builtHere })
      }
    }
  }
  return hashes
}

/** What is known of the paths at a target. */
export interface There extends TargetPaths {
  /** Whether the file of what lies there is right. */
  isRight(entry: ShipmentEntry): Promise<boolean>
  /** What this host's own index of before has, in its order. */
  indexed(): Iterable<HashPart>
  /** Whether that said that the depot built it. */
  wasBuiltHere(hashPart: HashPart): boolean
  /** Whether a file of that URL lies there and is known to be right: paths of one content share it. */
  hasFile(url: string): boolean
  /** It was written, and read on the way. */
  noteWritten(narinfo: NarInfo): void
  /** Remembers over a kill what was written a while ago. */
  remember(): void
}

/** Looks at what an earlier run left. */
export async function createThere(options: ThereOptions): Promise<There> {
  const { target, mode, trust, verifications, intake, signal } = options
  const { dir } = target
  const holder = createCacheDirHolder({
    dir,
    pool: options.pool,
    expectedStoreDir: target.storeDir,
  })
  const own = await readOwnIndex(dir, options.sign)
  const written = new Map<HashPart, Uint8Array>()
  const rightFiles = new Set<string>()
  let unremembered: { readonly part: HashPart; readonly at: number }[] = []

  const holdingOf = (part: HashPart) => {
    try {
      const found = holder.find(part)
      return found instanceof Promise ? undefined : found
    } catch {
      return undefined
    }
  }
  const identityOf = (part: HashPart): string | undefined => holdingOf(part)?.identity

  /** What lies there is read, and remembered if it is right. */
  const read = async ({ info, parts }: ShipmentEntry): Promise<boolean> => {
    const part = hashPartOf(info.storePath)
    const identity = identityOf(part)
    const files = parts === undefined ? [info.url] : splitFiles({ url: info.url, parts })
    const taken = await intake.inspect({ info, root: dir, files, vouched: false }, undefined)
    signal.throwIfAborted()
    const problem =
      taken.state !== 'taken'
        ? 'problem' in taken
          ? taken.problem
          : taken.state
        : info.fileHash !== undefined &&
            taken.narinfo.fileHash !== undefined &&
            !sameHash(info.fileHash, taken.narinfo.fileHash)
          ? 'its file has another hash than its narinfo says'
          : undefined
    if (problem !== undefined) options.onDamaged(info.storePath, problem)
    else if (identity !== undefined) verifications.put(holder.id, identity)
    return problem === undefined
  }

  const isRight = async (entry: ShipmentEntry): Promise<boolean> => {
    const right = await knownRight(entry)
    if (right && entry.parts === undefined) rightFiles.add(entry.info.url)
    return right
  }

  const knownRight = async (entry: ShipmentEntry): Promise<boolean> => {
    const { fileHash, storePath } = entry.info
    const part = hashPartOf(storePath)
    // The index says where a file is by its hash: without one nothing can be vouched for.
    if (fileHash?.algorithm !== 'sha256') return false
    const known = written.get(part) ?? (mode === 'known' ? own.get(part)?.fileHash : undefined)
    if (known !== undefined && Buffer.compare(known, fileHash.bytes) === 0) return true
    if (mode === 'sizes') return true
    if (mode === 'known') {
      const identity = identityOf(part)
      const verdict = identity === undefined ? undefined : verifications.get(holder.id, identity)
      if (verdict !== undefined && verdict.problem === undefined) return true
    }
    const right = await read(entry)
    if (right) written.set(part, fileHash.bytes)
    return right
  }

  /** Whether what lies there says what the candidate does, signatures and all. */
  const agrees = ({ info }: ShipmentEntry, { holding, decision }: Candidate): boolean =>
    info.storePath === holding.info.storePath &&
    sameHash(info.narHash, holding.info.narHash) &&
    info.narSize === holding.info.narSize &&
    isDeepStrictEqual(info.references, holding.info.references) &&
    decision.signatures.every(signature => info.signatures.includes(signature))

  const mayBeOffered = async (storePath: StorePath): Promise<boolean> => {
    const holding = holdingOf(hashPartOf(storePath))
    if (holding === undefined || holding.info.storePath !== storePath) return false
    return (await trust.decide(holder, holding)).offered
  }

  return {
    costOf: target.costOf,
    isRight,
    indexed: () => own.keys(),
    wasBuiltHere: part => own.get(part)?.builtHere === true,
    async find(storePath, candidate) {
      const entry = await target.read(hashPartOf(storePath))
      if (entry === undefined) return undefined
      const fits =
        candidate === undefined ? await mayBeOffered(storePath) : agrees(entry, candidate)
      if (!fits || !(await isRight(entry))) return undefined
      return { info: entry.info, fileBytes: entry.info.fileSize ?? entry.info.narSize }
    },
    hasFile: url => rightFiles.has(url),
    noteWritten({ storePath, fileHash, url }) {
      const part = hashPartOf(storePath)
      rightFiles.add(url)
      if (fileHash !== undefined) written.set(part, fileHash.bytes)
      unremembered.push({ part, at: performance.now() })
    },
    remember() {
      const old = performance.now() - SETTLED_MS
      for (const { part, at } of unremembered) {
        if (at > old) continue
        const identity = identityOf(part)
        if (identity !== undefined) verifications.put(holder.id, identity)
      }
      unremembered = unremembered.filter(({ at }) => at > old)
    },
  }
}
