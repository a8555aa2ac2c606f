import { problemOf } from '../../protocol/errors.ts'
import type { NarInfo, PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import type { Candidate } from './candidates.ts'

// What clients were given that came from afar is put into this host's cache as well, behind their backs: out of what lies on
// this machine anyway, never by the network, and only where it may stand.

/** What writes the cache (daemon/holders/cache-dir-writer). */
export interface TeeTarget {
  has(hashPart: HashPart): boolean
  add(info: PathInfo, nar: ByteStream, options: { readonly partial: boolean }): Promise<unknown>
  nextName(): string
  adopt(info: NarInfo, file: string): Promise<unknown>
  discard(file: string): Promise<unknown>
}

/** Room of the cache: its quota, and what must stay free of the disk. */
export interface TeeSpace {
  room(): Promise<number>
  took(bytes: number): void
}

export interface TeeOptions {
  readonly target: TeeTarget
  /** Called once, when the first path comes. */
  readonly space: () => Promise<TeeSpace>
  /** This host's own: what they hold needs not be in the cache. */
  readonly holders: () => readonly Holder[]
  /** Default {@link LOOK_AGAIN_MS}. */
  readonly lookAgainMs?: number | undefined
  readonly warn: (storePath: string, problem: string) => void
}

/** Puts what was delivered into the cache. */
export interface Tee {
  /** A NAR went out whole and right. Costs the caller nothing. */
  delivered(candidate: Candidate): void
  /** Resolves when nothing is under way. */
  idle(): Promise<void>
  close(): Promise<void>
}

/** Paths that wait for their turn or for what they refer to; a large system has 20,000. */
const WAITING_MAX = 20_000

/** How often is looked whether what a path refers to came by another way, ms: into the host's store, by a merge. */
const LOOK_AGAIN_MS = 10_000

/** How long a path waits for that, ms. */
const WAIT_MS = 10 * 60_000

/** Beside the NAR file: narinfo, inodes, the rest of the last block of both. */
const OVERHEAD_BYTES = 8192

/** A file that is to become one of the cache. */
type Linked = Pick<NarInfo, 'compression' | 'fileHash' | 'fileSize'> & { readonly file: string }

interface Waiting {
  readonly candidate: Candidate
  readonly since: number
  linked: Linked | undefined
}

/** Makes the tee; one path at a time is written. */
export function createTee(options: TeeOptions): Tee {
  const { target } = options
  const waiting = new Map<HashPart, Waiting>()
  const queue: HashPart[] = []
  /** By what is missing: who waits for it. */
  const blocked = new Map<HashPart, HashPart[]>()
  let space: Promise<TeeSpace> | undefined
  let running: Promise<void> | undefined
  let closed = false

  /** Whether one of this host's own holders has it, now. */
  const holds = async (hashPart: HashPart): Promise<boolean> => {
    for (const holder of options.holders()) {
      if (holder.kind !== 'nix-store' && holder.kind !== 'cache-dir') continue
      try {
        if ((await holder.find(hashPart)) !== undefined) return true
      } catch {
        continue
      }
    }
    return false
  }
  /** The first of what it refers to that is neither in the cache nor held here otherwise. */
  const lacks = async ({ info }: Candidate['holding']): Promise<HashPart | undefined> => {
    const own = hashPartOf(info.storePath)
    for (const part of info.references.map(hashPartOf)) {
      if (part !== own && !target.has(part) && !(await holds(part))) return part
    }
    return undefined
  }

  const infoOf = ({ holding, decision }: Candidate): PathInfo => ({
    ...holding.info,
    signatures: decision.signatures,
    ca: decision.ca,
  })

  /** Soon, while it is certain to be here: a second name costs nothing, and the bytes stay. */
  const link = async ({ holder, holding }: Candidate): Promise<Linked | undefined> => {
    const kept = holder.kept?.(holding)
    if (kept?.fileHash === undefined || kept.fileSize === undefined) return undefined
    const { compression, fileHash, fileSize } = kept
    const file = target.nextName()
    return (await kept.link(file)) ? { file, compression, fileHash, fileSize } : undefined
  }

  const write = async ({ candidate, linked }: Waiting): Promise<void> => {
    const { holder, holding } = candidate
    const { narSize } = holding.info
    const bytes = (linked?.fileSize ?? narSize) + OVERHEAD_BYTES
    space ??= options.space()
    const { room, took } = await space
    if ((await room()) < bytes) return drop(linked)
    if (linked !== undefined) {
      const { file, ...facts } = linked
      await target.adopt({ ...infoOf(candidate), url: '', ...facts }, file)
    } else if (holder.kept?.(holding) !== undefined) {
      await target.add(infoOf(candidate), holder.openNar(holding), { partial: true })
    } else return
    took(bytes)
  }
  const drop = async (linked: Linked | undefined): Promise<void> => {
    if (linked !== undefined) await target.discard(linked.file)
  }

  const take = async (part: HashPart, one: Waiting): Promise<void> => {
    one.linked ??= await link(one.candidate)
    const missing = await lacks(one.candidate.holding)
    if (missing !== undefined && performance.now() - one.since < WAIT_MS) {
      blocked.set(missing, [...(blocked.get(missing) ?? []), part])
      return
    }
    waiting.delete(part)
    try {
      await (missing === undefined ? write(one) : drop(one.linked))
    } catch (error) {
      options.warn(one.candidate.holding.info.storePath, problemOf(error))
    }
    queue.push(...(blocked.get(part) ?? []))
    blocked.delete(part)
  }

  const run = async (): Promise<void> => {
    for (let part = queue.shift(); part !== undefined && !closed; part = queue.shift()) {
      const one = waiting.get(part)
      if (one !== undefined) await take(part, one)
    }
  }
  const go = (): void => {
    running ??= run()
      .catch((error: unknown) => options.warn('the cache', problemOf(error)))
      .finally(() => {
        running = undefined
        if (queue.length > 0 && !closed) go()
      })
  }
  const timer = setInterval(() => {
    if (blocked.size === 0) return
    for (const parts of blocked.values()) queue.push(...parts)
    blocked.clear()
    go()
  }, options.lookAgainMs ?? LOOK_AGAIN_MS).unref()

  return {
    delivered(candidate) {
      const part = hashPartOf(candidate.holding.info.storePath)
      if (closed || candidate.holder.kept === undefined || waiting.size >= WAITING_MAX) return
      if (waiting.has(part) || target.has(part)) return
      waiting.set(part, { candidate, since: performance.now(), linked: undefined })
      queue.push(part)
      go()
    },
    async idle() {
      while (running !== undefined) await running
    },
    async close() {
      closed = true
      clearInterval(timer)
      await running
      for (const { linked } of waiting.values()) await drop(linked)
      waiting.clear()
    },
  }
}
