import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { fail, problemOf } from '../../protocol/errors.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { CacheIntake, IntakePath, Taken, TakenNar } from '../holders/cache-dir-intake.ts'
import { originOf } from '../holders/cache-dir-lookup.ts'
import { UNFINISHED } from '../holders/cache-dir-writer.ts'
import type { Candidate } from '../substitution/candidates.ts'
import type { Verdicts } from '../substitution/verdicts.ts'
import { packedNarOf } from './pack-source.ts'

// One path onto the drive, from the first of its holders that gives what it promised, checked before it has a name there.

/** A path that lies at the target, checked. */
export interface Staged {
  readonly taken: TakenNar
  /** Its files under the names that say they are not finished, where it is too large for one. */
  readonly parts?: readonly string[] | undefined
}

/** What came of a path; `full`: of the drive, which the plan did not foresee. */
export type Staging =
  | { readonly state: 'staged'; readonly staged: Staged }
  | { readonly state: 'missing'; readonly problem: string }
  | { readonly state: 'full' }

export interface StagerOptions {
  readonly dir: string
  readonly intake: Pick<CacheIntake, 'take' | 'inspect'>
  readonly verdicts: Pick<Verdicts, 'known' | 'condemn'>
  /** Bytes of the largest file there. */
  readonly fileMax: number
  readonly signal: AbortSignal
}

/** What the target's file system said, apart from whatever a source may throw. */
class TargetError extends Error {}

const FULL: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT'])

async function onTarget<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw new TargetError(problemOf(error), { cause: error })
  }
}

/** Writes a stream to files of at most `fileMax` bytes. */
function createPartWriter(name: (part: number) => string, fileMax: number) {
  const files: string[] = []
  let handle: FileHandle | undefined
  let room = 0
  const close = async (): Promise<void> => {
    await handle?.close()
    handle = undefined
  }
  return {
    files,
    close,
    async write(chunk: Buffer): Promise<void> {
      for (let at = 0; at < chunk.length;) {
        if (handle === undefined || room === 0) {
          await close()
          const file = name(files.length)
          handle = await open(file, 'wx', 0o644)
          files.push(file)
          room = fileMax
        }
        const count = Math.min(room, chunk.length - at)
        const { bytesWritten } = await handle.write(chunk, at, count)
        at += bytesWritten
        room -= bytesWritten
      }
    },
  }
}

/** The narinfo as it shall stand but for its URL: what was proven, signed by this host as well. */
function narinfoOf(candidate: Candidate): NarInfo {
  const { holding, decision } = candidate
  const { compression, exact } = packedNarOf(candidate)
  return {
    ...holding.info,
    ...{ signatures: decision.signatures, ca: decision.ca, url: 'nar/-', compression },
    fileHash: exact ? holding.fileHash : undefined,
    fileSize: exact ? holding.fileSize : undefined,
  }
}

/** Makes what puts paths onto one target. */
export function createStager(options: StagerOptions) {
  const { dir, intake, verdicts, fileMax, signal } = options
  let count = 0

  /** A directory's file is copied by the intake's threads, which see to all of it. */
  const copy = (candidate: Candidate): Promise<Taken> | undefined => {
    const { holder, holding } = candidate
    const { fileBytes, exact } = packedNarOf(candidate)
    const origin = originOf(holding)
    if (!exact || origin === undefined || fileBytes > fileMax) return undefined
    return intake.take({
      info: narinfoOf(candidate),
      root: dirname(origin.narFile),
      files: [basename(origin.narFile)],
      // The same file was read whole before, and a change of it would have shown.
      vouched: verdicts.known(holder, holding) === 'good',
    })
  }

  /** Anything else comes as a stream, and is read back. */
  const receive = async (candidate: Candidate): Promise<Taken & { parts?: readonly string[] }> => {
    const stem = join('nar', `${UNFINISHED}${process.pid}-ship-${++count}`)
    const writer = createPartWriter(part => join(dir, `${stem}-${part}`), fileMax)
    const stream = packedNarOf(candidate).open()
    try {
      for await (const chunk of stream) {
        signal.throwIfAborted()
        await onTarget(writer.write(chunk))
        stream.recycle(chunk)
      }
      await onTarget(writer.close())
      const files = writer.files.map(file => join('nar', basename(file)))
      const path: IntakePath = { info: narinfoOf(candidate), root: dir, files, vouched: false }
      const whole = writer.files.length === 1 ? writer.files[0] : undefined
      const taken = await intake.inspect(path, whole)
      if (taken.state !== 'taken') await remove(writer.files)
      return whole === undefined ? { ...taken, parts: writer.files } : taken
    } catch (error) {
      await writer.close().catch(() => undefined)
      await remove(writer.files)
      throw error
    } finally {
      stream.destroy()
    }
  }

  const remove = async (files: readonly string[]): Promise<void> => {
    for (const file of files) await rm(file, { force: true }).catch(() => undefined)
  }

  /** Throws what ends the packing; a problem of this source is returned. */
  const settled = (
    candidate: Candidate,
    taken: Taken & { readonly parts?: readonly string[] },
  ): Staging => {
    switch (taken.state) {
      case 'taken':
        return { state: 'staged', staged: { taken, parts: taken.parts } }
      case 'damaged':
        verdicts.condemn(candidate.holder, candidate.holding, taken.problem)
        return { state: 'missing', problem: taken.problem }
      case 'unreadable':
        return { state: 'missing', problem: taken.problem }
      case 'unwritable':
        if (taken.full) return { state: 'full' }
        return fail('CACHE_UNWRITABLE', { dir, problem: taken.problem })
      case 'stopped':
        signal.throwIfAborted()
        return { state: 'missing', problem: 'it was stopped' }
    }
  }

  const attempt = async (candidate: Candidate): Promise<Staging> => {
    try {
      return settled(candidate, await (copy(candidate) ?? receive(candidate)))
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof TargetError)) return { state: 'missing', problem: problemOf(error) }
      if (FULL.has((error.cause as NodeJS.ErrnoException).code)) return { state: 'full' }
      return fail('CACHE_UNWRITABLE', { dir, problem: error.message }, error.cause)
    }
  }

  return {
    /** Puts a path there, unless nobody gives it. Throws CACHE_UNWRITABLE, and what aborted the signal. */
    async stage(storePath: StorePath, candidates: readonly Candidate[]): Promise<Staging> {
      let last: Staging = { state: 'missing', problem: 'nobody within reach offers it' }
      for (const candidate of candidates) {
        if (candidate.holding.info.storePath !== storePath) continue
        last = await attempt(candidate)
        if (last.state !== 'missing') return last
      }
      return last
    },
    /** Gives the files of a NAR that lies in several their names, once they are on the disk. */
    async nameParts({ taken, parts = [] }: Staged): Promise<void> {
      for (const [part, file] of parts.entries()) {
        const handle = await onTarget(open(file, 'r'))
        await onTarget(handle.datasync().finally(() => handle.close()))
        const name = `${taken.narinfo.url}.${String(part).padStart(3, '0')}`
        await onTarget(rename(file, join(dir, name)))
      }
    },
    async drop({ taken, parts = [] }: Staged): Promise<void> {
      await remove(taken.unfinished === undefined ? parts : [taken.unfinished, ...parts])
    },
  }
}

/** What puts paths onto one target. */
export type Stager = ReturnType<typeof createStager>
