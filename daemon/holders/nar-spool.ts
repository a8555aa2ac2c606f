import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fail, NarwharfError } from '../../protocol/errors.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import { createLoans, takeBuffer } from '../workers/chunk-buffers.ts'
import {
  createFileStorage,
  createMemoryStorage,
  createWindowStorage,
  freeBytes,
  type SpoolStorage,
  type WindowStorage,
} from './spool-storage.ts'
import { createTransfer, type Interest, type SpoolSource, type Transfer } from './spool-transfer.ts'

// NARs on their way in from other hosts. Each comes over the network once, however many want it, is hashed as it comes, and
// goes on from the byte where one host broke off with the next host that has it. A large one comes from several hosts at a
// time where that is faster. Nobody is given the last byte before the
// hash of the whole was right.

/** What a NAR must turn out to be. */
export type SpoolNar = Pick<PathInfo, 'storePath' | 'narHash' | 'narSize'>

export interface NarSpool {
  /** Empties the directory: what a killed daemon left is of no use. */
  open(): Promise<void>
  close(): Promise<void>
  /**
   * Waits until the whole NAR is here and right. Rejects with NAR_MISMATCH when this source alone gave wrong bytes, with the
   * source's own error when it broke off, with AbortError.
   */
  whole(nar: SpoolNar, source: SpoolSource, signal?: AbortSignal): Promise<void>
  /** Its bytes as they come. Throws PEER_LIED when the whole is wrong: what was given before is to be thrown away. */
  read(nar: SpoolNar, source: SpoolSource, range?: ByteRange): ByteStream
  /** A NAR that is whole, right and still here; `link` gives its file a second name, where it has one. */
  kept(nar: SpoolNar): { link(to: string): Promise<boolean> } | undefined
  /** Transfers under way from that source. */
  running(sourceId: string): number
}

export interface NarSpoolOptions {
  readonly dir: string
  /** Free bytes of the file system that are never used; default 1 GiB. */
  readonly reserveBytes?: number | undefined
  /** Bytes of all spool files together; default 16 GiB. */
  readonly maxBytes?: number | undefined
  readonly memoryBytes?: number | undefined
  /** How long what nobody waits for is kept, so that a client that comes back goes on; default 60 s. */
  readonly keepMs?: number | undefined
  readonly freeBytes?: ((dir: string) => Promise<number>) | undefined
  /** Files keep their names, so that what came can be linked elsewhere. Default: no. */
  readonly named?: boolean | undefined
  /** See spool-pieces.ts. */
  readonly partLeastBytes?: number | undefined
  /** See spool-helpers.ts. */
  readonly lookMs?: number | undefined
}

const GIB = 1024 ** 3
const MIB = 1024 ** 2

/** A NAR up to this size is kept in memory, as long as all of them together stay below memoryBytes. */
const SMALL_BYTES = MIB

/** Without room on the disk: what may have arrived beyond what was read. */
const WINDOW_BYTES = 4 * MIB

/** How long hosts that together gave wrong bytes are asked one by one only. */
const SUSPECT_MS = 10 * 60_000

/** How long after that nobody goes on in the middle: what was given before may be of the wrong ones. Nix resumes within 5 s. */
const TAINTED_MS = 60_000

/** Hosts in turn that may each turn out to have lied before somebody who waits is told so. */
const LIARS_MAX = 8

/** Makes the spool over a directory that is its own. */
export function createNarSpool(options: NarSpoolOptions): NarSpool {
  const { dir, reserveBytes = GIB, maxBytes = 16 * GIB, keepMs = 60_000 } = options
  const memoryBytes = options.memoryBytes ?? 64 * MIB
  const free = options.freeBytes ?? freeBytes
  const transfers = new Map<string, Transfer>()
  /** Including those that nobody finds any more but somebody still reads. */
  const all = new Set<Transfer>()
  const suspects = new Map<string, number>()
  let count = 0
  let closed = false

  const idOf = ({ narHash }: SpoolNar): string => Buffer.from(narHash.bytes).toString('hex')
  const keyOf = (nar: SpoolNar, source: SpoolSource): string => {
    const id = idOf(nar)
    const until = suspects.get(id)
    if (until === undefined) return id
    if (until > performance.now()) return `${id} ${source.id}`
    suspects.delete(id)
    return id
  }

  const bytesOf = (kind: Transfer['kind']): number =>
    [...all].reduce((sum, one) => sum + (one.kind === kind ? one.nar.narSize : 0), 0)

  const remove = (transfer: Transfer): void => {
    for (const [key, one] of transfers) if (one === transfer) transfers.delete(key)
    if (transfer.users > 0) return
    all.delete(transfer)
    transfer.close()
  }

  /** Lets go of what nobody uses, oldest first, until that is enough. */
  const makeRoom = (kind: Transfer['kind'], bytes: number, limit: number): boolean => {
    for (const transfer of all) {
      if (bytesOf(kind) + bytes <= limit) return true
      if (transfer.kind === kind && transfer.users === 0) remove(transfer)
    }
    return bytesOf(kind) + bytes <= limit
  }

  const chooseStorage = async (nar: SpoolNar, transfer: Transfer): Promise<SpoolStorage> => {
    const { narSize } = nar
    if (narSize <= SMALL_BYTES && makeRoom('memory', narSize, memoryBytes)) {
      transfer.kind = 'memory'
      return createMemoryStorage(narSize)
    }
    if (makeRoom('file', narSize, maxBytes)) {
      // What others still have to write is not free either.
      const promised = [...all].reduce(
        (sum, one) => sum + (one.kind === 'file' ? one.nar.narSize - one.length : 0),
        0,
      )
      // Counted from now on, while the disk is asked.
      transfer.kind = 'file'
      if ((await free(dir)) - promised - narSize >= reserveBytes) {
        try {
          return await createFileStorage(dir, `${process.pid}-${++count}`, options.named)
        } catch {
          // A full or broken disk must not keep a host from its peers.
        }
      }
    }
    transfer.kind = 'window'
    return createWindowStorage(WINDOW_BYTES)
  }

  const onBad = (transfer: Transfer): void => {
    remove(transfer)
    const contributors = [...transfer.contributors.values()]
    const [first] = contributors
    const { nar } = transfer
    if (first === undefined) return
    if (contributors.length === 1) {
      first.lied(nar, 'the hash of its NAR is another')
      return
    }
    suspects.set(idOf(nar), performance.now() + SUSPECT_MS)
    void tryEachAlone(nar, contributors)
  }

  /** One of several lied: each has to give the whole by itself, and who cannot is named. */
  const tryEachAlone = async (nar: SpoolNar, sources: readonly SpoolSource[]): Promise<void> => {
    for (const source of sources) {
      if (closed) return
      // A wrong NAR ends in `onBad`, which tells; a host that is off by now proves nothing.
      await spool.whole(nar, source).catch(() => undefined)
    }
  }

  const start = (nar: SpoolNar): Transfer => {
    const transfer: Transfer = createTransfer(nar, {
      storage: () => chooseStorage(nar, transfer),
      isWindow: () => transfer.kind === 'window',
      mayShare: () => !closed && transfer.kind === 'file' && !suspects.has(idOf(nar)),
      partLeastBytes: options.partLeastBytes,
      lookMs: options.lookMs,
      onBad: () => onBad(transfer),
      onUnused: () => {
        if (closed || ![...transfers.values()].includes(transfer)) remove(transfer)
        // A window that moved on cannot serve another from the start.
        else if (transfer.kind === 'window') remove(transfer)
      },
      keepMs,
      onStale: () => remove(transfer),
    })
    all.add(transfer)
    return transfer
  }

  const find = (nar: SpoolNar, source: SpoolSource): Transfer => {
    if (closed) fail('HOLDING_GONE', { path: nar.storePath, holder: source.name })
    const key = keyOf(nar, source)
    let transfer = transfers.get(key)
    // Another path may have the same hash, and nothing but a lie another size.
    if (transfer === undefined || transfer.nar.narSize !== nar.narSize) {
      transfer = start(nar)
      transfers.set(key, transfer)
    }
    return transfer
  }

  /**
   * Whether a part is of somebody who went away or fell silent: who begins now gets none of it, as it may be wrong, and once
   * it is out nothing can mend it. Who has it already goes on with it, and whether it was right shows in the end.
   */
  const isLeftByOthers = (transfer: Transfer, { id }: SpoolSource): boolean =>
    transfer.isLeftByOthers(id)

  /** Whether hosts together gave wrong bytes of it a moment ago. */
  const isTainted = (nar: SpoolNar): boolean =>
    (suspects.get(idOf(nar)) ?? 0) > performance.now() + SUSPECT_MS - TAINTED_MS

  const startAnew = (nar: SpoolNar, source: SpoolSource): Transfer => {
    const transfer = start(nar)
    transfers.set(keyOf(nar, source), transfer)
    return transfer
  }

  /** For a reader: the shared transfer, or one of its own where that has no bytes so early any more. */
  const claim = async (nar: SpoolNar, source: SpoolSource, at: number): Promise<Transfer> => {
    let transfer = find(nar, source)
    if (at === 0 && isLeftByOthers(transfer, source)) transfer = startAnew(nar, source)
    await transfer.storage
    if (transfer.kind === 'window' && (transfer.readers > 0 || transfer.from > at)) {
      transfer = start(nar)
      await transfer.storage
    }
    transfer.readers++
    return transfer
  }

  const lied = (nar: SpoolNar, source: SpoolSource): never =>
    fail('PEER_LIED', {
      peer: source.name,
      path: nar.storePath,
      problem: 'the hash of the whole is another',
    })

  const mismatch = (nar: SpoolNar): never =>
    fail('NAR_MISMATCH', {
      path: nar.storePath,
      field: 'hash',
      actual: 'another',
      expected: idOf(nar),
    })

  /** What a reader needs until it leaves. */
  interface Reading {
    readonly nar: SpoolNar
    readonly source: SpoolSource
    readonly end: number
    readonly loans: ReturnType<typeof createLoans>
    at: number
    isOver(): boolean
    track(interest: Interest | undefined): void
  }

  /** Gives what one transfer has; returns false when it turned out wrong. */
  async function* drain(reading: Reading): AsyncGenerator<Buffer, boolean, undefined> {
    const { nar, source, end, loans } = reading
    const transfer = await claim(nar, source, reading.at)
    const storage = await transfer.storage
    const interest = transfer.join(source)
    reading.track(interest)
    try {
      while (reading.at < end && !reading.isOver()) {
        if (transfer.kind === 'window') (storage as WindowStorage).pass(reading.at)
        await transfer.until(interest, () => transfer.length > reading.at)
        if (transfer.state === 'bad') return false
        const buffer = takeBuffer()
        const wanted = Math.min(end, transfer.length) - reading.at
        const out = Buffer.from(buffer, 0, Math.min(wanted, buffer.byteLength))
        const got = await storage.read(reading.at, out)
        if (got === 0) throw new Error('the spool is shorter than it was')
        reading.at += got
        transfer.given = true
        yield loans.lend(buffer, got)
      }
      return true
    } finally {
      transfer.readers--
      if (transfer.kind === 'window') (storage as WindowStorage).pass(Infinity)
      transfer.leave(interest)
      reading.track(undefined)
    }
  }

  const spool: NarSpool = {
    async open() {
      closed = false
      await mkdir(dir, { recursive: true, mode: 0o700 })
      for (const name of await readdir(dir)) {
        await rm(join(dir, name), { recursive: true, force: true })
      }
    },
    async close() {
      closed = true
      for (const transfer of all) {
        transfer.stop(
          new NarwharfError('HOLDING_GONE', { path: transfer.nar.storePath, holder: 'the spool' }),
        )
        remove(transfer)
      }
    },
    async whole(nar, source, signal) {
      for (let liars = 0; liars < LIARS_MAX; liars++) {
        signal?.throwIfAborted()
        let transfer = find(nar, source)
        // Its first reader would begin anew anyway: then the check and the reader share one transfer.
        if (!transfer.given && isLeftByOthers(transfer, source)) transfer = startAnew(nar, source)
        const interest = transfer.join(source)
        const onAbort = () => transfer.fail(interest, signal?.reason as Error)
        signal?.addEventListener('abort', onAbort)
        try {
          await transfer.until(interest, () => transfer.state === 'good')
          if (transfer.state === 'good') return
        } finally {
          signal?.removeEventListener('abort', onAbort)
          transfer.leave(interest)
        }
        const { contributors } = transfer
        if (contributors.size === 1 && contributors.has(source.id)) mismatch(nar)
        // Somebody else's bytes were wrong: this source is asked by itself.
      }
      return lied(nar, source)
    },
    read(nar, source, range = {}) {
      const begin = Math.min(range.offset ?? 0, nar.narSize)
      const end = Math.min(range.end ?? nar.narSize, nar.narSize)
      const loans = createLoans()
      let over = false
      let current: Interest | undefined
      async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
        const reading: Reading = {
          ...{ nar, source, end, loans, at: begin },
          isOver: () => over,
          track: interest => (current = interest),
        }
        if (begin > 0 && isTainted(nar)) lied(nar, source)
        for (let liars = 0; liars < LIARS_MAX && !over; liars++) {
          try {
            if (yield* drain(reading)) return
          } catch (error) {
            if (over) return
            throw error
          }
          // Nothing wrong is out where nothing is out: begin anew with another host's bytes.
          if (reading.at > 0) break
        }
        if (!over) lied(nar, source)
      }
      const iterator = chunks()
      return {
        [Symbol.asyncIterator]: () => iterator,
        recycle: loans.settle,
        destroy() {
          over = true
          if (current !== undefined) current.error ??= new Error('nobody reads on')
          current?.wake()
          iterator.return().catch(() => undefined)
        },
      }
    },
    kept(nar) {
      const id = idOf(nar)
      for (const one of all) {
        if (one.state !== 'good' || one.kind === 'window' || one.nar.narSize !== nar.narSize)
          continue
        if (idOf(one.nar) !== id) continue
        return { link: async to => (await (await one.storage).link?.(to)) ?? false }
      }
      return undefined
    },
    running: sourceId => [...all].filter(one => one.runs(sourceId)).length,
  }
  return spool
}
