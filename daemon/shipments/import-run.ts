import { openSync } from 'node:fs'
import type { ImportEvent, ImportProof, ImportTotals } from '../../protocol/api-archives.ts'
import { fail } from '../../protocol/errors.ts'
import type { SignatureBook } from '../../protocol/export-signatures.ts'
import { sameHash } from '../../protocol/hash.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { baseNameOf, hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { TrustRoom } from '../trust/trust-room.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import { createFileStream } from '../workers/file-stream.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { ImportPlace, ReadProblem, ReadReply } from './import-desk.ts'
import type { AcceptedPath, ImportIntake, ImportThread } from './import-intake.ts'
import { createJudge, type Judgement, type Vouching } from './import-judge.ts'
import type { UnpackedPath } from './import-unpack.ts'

// The paths of one import, in the order in which they come: each is judged, and what is kept waits for others, so that the
// disk is synced once for all of them.

export interface ImportOptions {
  /** The cache that it goes into, as the holder that is offered. */
  readonly cache: Holder
  readonly cacheDir: string
  /** Whether it has a narinfo of that path. */
  readonly has: (hashPart: HashPart) => boolean
  readonly trust: Pick<TrustRoom, 'judge' | 'sign'>
  readonly substitution: Pick<Substitution, 'candidates' | 'holders'>
  readonly pool: Pick<NarPool, 'decompress'>
  readonly storeDir: string
  /** Where the work is done; default a thread for each import. */
  readonly startThread?: ((place: ImportPlace) => ImportThread) | undefined
}

/** What is asked of an import. */
export interface ImportWish {
  /** What the archive has no place for; hearsay. */
  readonly signatures: SignatureBook
  /** What the operator vouches for. */
  readonly trust: Vouching
}

/** What an import says; http adds the rest. */
export type ImportStep = Exclude<ImportEvent, { event: 'start' | 'failed' }>

/** Paths judged at once: a question to an upstream takes a second, and a piece may have hundreds of small paths. */
const JUDGED_AT_ONCE = 16

/** What is accepted waits for so many others, so many bytes or so long until it is made to stand: each time costs a few syncs of the disk. */
const SETTLED_AT_PATHS = 500
const SETTLED_AT_BYTES = 64 * 1024 * 1024
const SETTLED_AFTER_MS = 5000

/** Refused paths that are remembered, to say so of what refers to them. */
const REFUSED_MAX = 100_000

interface Accepted extends AcceptedPath {
  readonly proof: ImportProof
}

/** Works on each of a list, a few at a time; results in the list's order. */
async function mapSome<T, R>(list: readonly T[], work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  const worker = async () => {
    for (let at = next++; at < list.length; at = next++) results[at] = await work(list[at] as T)
  }
  await Promise.all(Array.from({ length: JUDGED_AT_ONCE }, worker))
  return results
}

/** The state of one import: what waits to stand, what was refused. */
export function createImportRun(options: ImportOptions, wish: ImportWish, intake: ImportIntake) {
  const { cache, cacheDir, pool, has } = options
  const judge = createJudge(options)
  const totals = { accepted: 0, there: 0, refused: 0, narBytes: 0 }
  const refusedParts = new Set<HashPart>()
  let waiting: Accepted[] = []
  let waitingParts = new Set<HashPart>()
  let waitingBytes = 0
  let waitingSince = 0
  /** Accepted, but not where a judge could see it when this piece was judged. */
  let unseen = new Set<HashPart>()

  const infoOf = (unpacked: UnpackedPath): PathInfo => {
    const { storePath, references, deriver, narSize, narHash } = unpacked
    const said = wish.signatures.get(hashPartOf(storePath))
    const { signatures = [], ca } = said?.storePath === storePath ? said : {}
    const hash = { algorithm: 'sha256', bytes: narHash } as const
    return { storePath, narHash: hash, narSize, references, deriver, signatures, ca }
  }

  /** The NAR's bytes; the first are at hand, and whoever sees by them that the path is a folder reads no more. */
  const openNar = (unpacked: UnpackedPath) => (): ByteStream => {
    const { unfinished, compression, narSize } = unpacked
    const head = Buffer.from(unpacked.head)
    let rest: ByteStream | undefined
    const openRest = (offset: number): ByteStream =>
      compression === 'zstd'
        ? pool.decompress(unfinished, 'zstd', { offset })
        : createFileStream(async () => openSync(unfinished, 'r'), { offset, end: narSize })
    return {
      recycle: chunk => void (chunk === head || rest?.recycle(chunk)),
      destroy: () => rest?.destroy(),
      async *[Symbol.asyncIterator]() {
        yield head
        rest = openRest(head.length)
        yield* rest
      },
    }
  }

  const judgeOne = async (unpacked: UnpackedPath): Promise<Judgement> => {
    const info = infoOf(unpacked)
    const judgement = await judge({ info, open: openNar(unpacked) }, wish.trust)
    if (judgement.accepted) return judgement
    const said = wish.signatures.get(hashPartOf(info.storePath))
    if (said === undefined || sameHash(said.narHash, info.narHash)) return judgement
    const problem = `${judgement.problem}; the side file speaks of another content`
    return { accepted: false, problem }
  }

  const isThere = (part: HashPart): boolean => waitingParts.has(part) || has(part)

  /** What it refers to and is not there, as the end of a sentence. */
  const lacking = ({ storePath, references }: UnpackedPath): string | undefined => {
    for (const reference of references) {
      const part = hashPartOf(reference)
      if (reference === baseNameOf(storePath) || isThere(part)) continue
      return refusedParts.has(part)
        ? `it refers to ${reference}, which was refused`
        : `it refers to ${reference}, which is neither in the cache nor before it in the archive`
    }
    return undefined
  }

  const settle = async function* (): AsyncGenerator<ImportStep, void, undefined> {
    if (waiting.length === 0) return
    const now = waiting
    waiting = []
    waitingParts = new Set()
    waitingBytes = 0
    const settled = await intake.settle(now)
    for (const { info, proof } of now.slice(0, settled.standing)) {
      totals.accepted++
      totals.narBytes += info.narSize
      yield { event: 'accepted', storePath: info.storePath, narSize: info.narSize, proof }
    }
    if (settled.problem !== undefined) {
      fail('CACHE_UNWRITABLE', { dir: cacheDir, problem: settled.problem })
    }
  }

  const refuse = (storePath: PathInfo['storePath'], problem: string): ImportStep => {
    totals.refused++
    if (refusedParts.size < REFUSED_MAX) refusedParts.add(hashPartOf(storePath))
    return { event: 'refused', storePath, problem }
  }

  const accept = (unpacked: UnpackedPath, info: PathInfo, proof: ImportProof): void => {
    if (waiting.length === 0) waitingSince = performance.now()
    waiting.push({ unpacked, info, proof })
    waitingParts.add(hashPartOf(info.storePath))
    unseen.add(hashPartOf(info.storePath))
    waitingBytes += unpacked.fileSize
  }

  /** Decides one path; whether its file may go. */
  const place = async function* (
    unpacked: UnpackedPath,
    first: Judgement | undefined,
  ): AsyncGenerator<ImportStep, boolean, undefined> {
    const { storePath, deriver } = unpacked
    const part = hashPartOf(storePath)
    if (isThere(part)) {
      const there =
        waiting.find(({ info }) => hashPartOf(info.storePath) === part)?.info ??
        (await cache.find(part))?.info
      if (there !== undefined && there.storePath !== storePath) {
        yield refuse(storePath, `the cache has ${there.storePath}, whose hash part is the same`)
        return true
      }
      const differs = there !== undefined && !sameHash(there.narHash, infoOf(unpacked).narHash)
      totals.there++
      yield { event: 'there', storePath, differs }
      return true
    }
    const lack = lacking(unpacked)
    let judgement = first ?? (await judgeOne(unpacked))
    const proven = judgement.accepted && judgement.proof.how !== 'trusted'
    if (!proven && deriver !== undefined && unseen.has(hashPartOf(deriver))) {
      // Its derivation came just before it, and may prove it, or show that it is forged.
      yield* settle()
      judgement = await judgeOne(unpacked)
    }
    if (!judgement.accepted || lack !== undefined) {
      yield refuse(storePath, judgement.accepted ? (lack ?? '') : judgement.problem)
      return true
    }
    accept(unpacked, judgement.info, judgement.proof)
    return false
  }

  return {
    totals: (): ImportTotals => ({ ...totals }),
    settle,
    /** Decides what a piece of the archive brought. Throws the problem with which it ended. */
    async *take({ paths, problem }: ReadReply): AsyncGenerator<ImportStep, void, undefined> {
      unseen = new Set(waitingParts)
      const judged = await mapSome(paths, async unpacked =>
        isThere(hashPartOf(unpacked.storePath)) ? undefined : judgeOne(unpacked),
      )
      const dropped: UnpackedPath[] = []
      for (const [index, unpacked] of paths.entries()) {
        if (yield* place(unpacked, judged[index])) dropped.push(unpacked)
      }
      await intake.drop(dropped)
      const due =
        waiting.length >= SETTLED_AT_PATHS ||
        waitingBytes >= SETTLED_AT_BYTES ||
        performance.now() - waitingSince > SETTLED_AFTER_MS
      if (due) yield* settle()
      if (problem !== undefined) throwProblem(problem, cacheDir)
    },
  }
}

function throwProblem({ about, problem, data }: ReadProblem, dir: string): never {
  if (about === 'archive') return fail('EXPORT_INVALID', data)
  if (about === 'disk') return fail('CACHE_UNWRITABLE', { dir, problem })
  throw new Error(problem)
}
