import { createHash } from 'node:crypto'
import { NarwharfError } from '../../protocol/errors.ts'
import type { SpoolNar } from './nar-spool.ts'
import { createPaceWatch, LOOK_MS } from './spool-helpers.ts'
import { createPieces, PART_LEAST_BYTES, type Piece } from './spool-pieces.ts'
import type { SpoolStorage } from './spool-storage.ts'

/** Somebody who has the NAR, and whose bytes are not believed. */
export interface SpoolSource {
  /** The holder's id. */
  readonly id: string
  /** For people. */
  readonly name: string
  /** The bytes from there up to `end`; throws when it breaks off. Must not wait for ever. */
  open(offset: number, signal: AbortSignal, end: number): AsyncIterable<Buffer>
  /** Others who say they have the very same NAR, best first: for a part of it each. */
  others?(): readonly SpoolSource[]
  /** It gave wrong bytes, and nobody else did. */
  lied(nar: SpoolNar, problem: string): void
}

/** Somebody who waits for a transfer by the word of one source. */
export interface Interest {
  readonly source: SpoolSource
  /** Set when the source broke off, or the wait is to end: bytes that are there can still be read. */
  error: Error | undefined
  wake(): void
}

/** One NAR on its way in, from one source after another, or from several at a time. */
export interface Transfer {
  readonly nar: SpoolNar
  kind: 'none' | 'memory' | 'file' | 'window'
  readonly storage: Promise<SpoolStorage>
  /** Bytes that arrived; the last ones are counted only when the hash is right. */
  readonly length: number
  readonly from: number
  readonly state: 'filling' | 'good' | 'bad'
  readonly contributors: ReadonlyMap<string, SpoolSource>
  /** Whether that source gives bytes now. */
  runs(sourceId: string): boolean
  /** Whether a part is of somebody else who went away or fell silent, so that nobody stands for it. */
  isLeftByOthers(sourceId: string): boolean
  /** Interests. */
  readonly users: number
  /** Whether anybody was given bytes of it: only then is there something to go on with. */
  given: boolean
  readers: number
  join(source: SpoolSource): Interest
  leave(interest: Interest): void
  fail(interest: Interest, error: Error): void
  /** Resolves when that is so, or the transfer is bad; rejects with the interest's error. */
  until(interest: Interest, isSo: () => boolean): Promise<void>
  /** Ends it for all who wait. */
  stop(error: Error): void
  close(): void
}

export interface TransferOptions {
  /** Called once, when somebody joins first. */
  readonly storage: () => Promise<SpoolStorage>
  /** Whether that is one that waits for its readers. */
  readonly isWindow: () => boolean
  readonly onBad: () => void
  readonly onUnused: () => void
  /** Whether several sources may share it, now. */
  readonly mayShare: () => boolean
  /** Default {@link PART_LEAST_BYTES}. */
  readonly partLeastBytes?: number | undefined
  /** Default {@link LOOK_MS}. */
  readonly lookMs?: number | undefined
  /** What nobody uses is kept so long, and then `onStale`. */
  readonly keepMs: number
  readonly onStale: () => void
}

/** A source at work. */
interface Worker {
  readonly source: SpoolSource
  readonly abort: AbortController
}

/** Bytes read back at a time to be hashed, of parts that came before their turn. */
const READ_BACK_BYTES = 1024 * 1024

/** Makes a transfer; it runs while somebody waits for it. */
export function createTransfer(nar: SpoolNar, options: TransferOptions): Transfer {
  const { narSize } = nar
  const interests = new Set<Interest>()
  const contributors = new Map<string, SpoolSource>()
  const hash = createHash('sha256')
  const pieces = createPieces(narSize, options.partLeastBytes ?? PART_LEAST_BYTES)
  const workers = new Map<string, Worker>()
  /** Sources that broke off: they get no second part. */
  const failed = new Set<string>()
  /** Sources that ended in peace while others went on. */
  const done = new Set<string>()
  let storage: Promise<SpoolStorage> | undefined
  let opened: SpoolStorage | undefined
  let state: Transfer['state'] = 'filling'
  let length = 0
  /** Bytes that are hashed: what arrives at this place next is hashed as it comes, what lies there already is read back. */
  let hashed = 0
  let arrived = 0
  let hashing = false
  let readBack: Buffer | undefined
  let looking: NodeJS.Timeout | undefined
  let staleTimer: NodeJS.Timeout | undefined
  let closed = false

  const open = (): Promise<SpoolStorage> => {
    storage ??= options.storage().then(made => (opened = made))
    return storage
  }
  const wakeAll = (): void => {
    for (const interest of interests) interest.wake()
  }
  const stopWorkers = (): void => {
    for (const { abort } of workers.values()) abort.abort()
  }

  const settle = (right: boolean): void => {
    state = right ? 'good' : 'bad'
    if (right) length = narSize
    wakeAll()
    if (!right) options.onBad()
  }
  const hashNext = (bytes: Buffer): void => {
    hash.update(bytes)
    hashed += bytes.length
  }
  /** The last bytes are not counted before the whole is right. */
  const count = (): void => {
    if (hashed === narSize) return settle(Buffer.compare(hash.digest(), nar.narHash.bytes) === 0)
    length = hashed
    wakeAll()
  }

  /** The disk's fault: what is there is of no use to anybody. */
  const giveUp = (error: unknown): void => {
    for (const interest of interests) interest.error ??= error as Error
    closed = true
    stopWorkers()
    options.onStale()
  }

  /** Hashes what others stored before its turn came. */
  const catchUp = async (place: SpoolStorage): Promise<void> => {
    if (hashing || state !== 'filling' || pieces.storedUpTo(hashed) <= hashed) return
    hashing = true
    try {
      readBack ??= Buffer.allocUnsafeSlow(READ_BACK_BYTES)
      for (;;) {
        const stored = pieces.storedUpTo(hashed)
        if (stored <= hashed || state !== 'filling' || closed) return
        const out = readBack.subarray(0, Math.min(readBack.length, stored - hashed))
        const got = await place.read(hashed, out)
        if (got === 0) throw new Error('the spool is shorter than it was')
        hashNext(out.subarray(0, got))
        count()
      }
    } finally {
      hashing = false
    }
  }

  /** Takes in what comes in its turn: what is hashed is stored and counted too, whatever happens meanwhile. */
  const takeNext = async (place: SpoolStorage, piece: Piece, chunk: Buffer): Promise<void> => {
    hashing = true
    try {
      const writing = place.put?.(piece.at, chunk) ?? place.append(chunk)
      hashNext(chunk)
      const isLast = hashed === narSize
      // A window takes no more before this is read, so it is told of first.
      if (!options.isWindow()) await writing
      piece.at += chunk.length
      count()
      if (isLast) writing.catch(() => undefined)
      else await writing
    } finally {
      hashing = false
    }
  }

  const take = async (place: SpoolStorage, piece: Piece, chunk: Buffer): Promise<void> => {
    arrived += chunk.length
    if (piece.at === hashed && !hashing) await takeNext(place, piece, chunk)
    else {
      await place.put?.(piece.at, chunk)
      piece.at += chunk.length
    }
    // The source goes on meanwhile: what waits to be read back lies on the disk.
    catchUp(place).catch(giveUp)
  }

  const receive = async (piece: Piece, { source, abort }: Worker): Promise<void> => {
    const place = await open()
    const { signal } = abort
    for await (const chunk of source.open(piece.at, signal, piece.end)) {
      if (signal.aborted) return
      if (chunk.length === 0) continue
      contributors.set(source.id, source)
      // What comes behind the end is not even looked at: the hash says whether what came before is right.
      const wanted = chunk.subarray(0, piece.end - piece.at)
      try {
        await take(place, piece, wanted)
      } catch (error) {
        return giveUp(error)
      }
      if (state !== 'filling' || closed || piece.at >= piece.end) return
    }
    if (signal.aborted) return
    throw new NarwharfError('PEER_BROKE', {
      peer: source.name,
      problem: `its NAR ended after ${piece.at} of ${piece.end} bytes`,
    })
  }

  /** One part after the other, as long as there is any that is worth it. */
  const work = async (worker: Worker): Promise<void> => {
    const { source, abort } = worker
    while (state === 'filling' && !closed && !abort.signal.aborted) {
      const piece = pieces.take(mayShare())
      if (piece === undefined) break
      try {
        await receive(piece, worker)
      } catch (error) {
        // Stopped because nobody waited, or others are faster: whoever came since is not concerned.
        if (abort.signal.aborted) break
        failed.add(source.id)
        // The others take its part over.
        if (workers.size > 1) return
        for (const interest of interests) {
          if (interest.source.id === source.id) interest.error ??= error as Error
        }
        return
      } finally {
        pieces.release(piece)
      }
    }
    if (workers.size > 1) done.add(source.id)
  }

  const start = (source: SpoolSource): void => {
    const worker = { source, abort: new AbortController() }
    workers.set(source.id, worker)
    done.delete(source.id)
    void work(worker).then(() => {
      if (workers.get(source.id) === worker) workers.delete(source.id)
      wakeAll()
      drive()
    })
  }

  /** Lets the first source run that somebody still waits for. */
  const drive = (): void => {
    if (workers.size > 0 || state !== 'filling' || closed) return
    // What is still to be read back needs nobody.
    if (pieces.storedUpTo(0) === narSize) return
    done.clear()
    const next = [...interests].find(({ error }) => error === undefined)
    if (next === undefined) return stopLooking()
    start(next.source)
    look()
  }

  const mayShare = (): boolean => opened?.put !== undefined && options.mayShare()

  const helper = (): SpoolSource | undefined => {
    const [first] = workers.values()
    return first?.source.others?.().find(({ id }) => !workers.has(id) && !failed.has(id))
  }
  const look = (): void => {
    if (looking !== undefined || !pieces.mayDivide()) return
    const advise = createPaceWatch()
    looking = setInterval(() => {
      const mayAdd = mayShare() && pieces.mayDivide() && helper() !== undefined
      const advice = advise({ bytes: arrived, sources: workers.size, mayAdd })
      if (advice === 'add') start(helper() as SpoolSource)
      if (advice === 'drop') [...workers.values()].at(-1)?.abort.abort()
    }, options.lookMs ?? LOOK_MS).unref()
  }
  const stopLooking = (): void => {
    clearInterval(looking)
    looking = undefined
  }

  return {
    nar,
    kind: 'none',
    get storage() {
      return open()
    },
    get length() {
      return length
    },
    get from() {
      return opened?.from ?? 0
    },
    get state() {
      return state
    },
    contributors,
    runs: id => workers.has(id),
    isLeftByOthers: id =>
      state === 'filling' &&
      [...contributors.keys()].some(
        other => other !== id && !workers.has(other) && !(workers.size > 0 && done.has(other)),
      ),
    get users() {
      return interests.size
    },
    given: false,
    readers: 0,
    join(source) {
      clearTimeout(staleTimer)
      const interest: Interest = { source, error: undefined, wake() {} }
      interests.add(interest)
      drive()
      return interest
    },
    leave(interest) {
      if (!interests.delete(interest) || interests.size > 0) return
      stopWorkers()
      clearTimeout(staleTimer)
      staleTimer = setTimeout(options.onStale, options.keepMs).unref()
      options.onUnused()
    },
    fail(interest, error) {
      interest.error ??= error
      interest.wake()
    },
    async until(interest, isSo) {
      while (!isSo() && state !== 'bad') {
        if (interest.error !== undefined) throw interest.error
        await new Promise<void>(resolve => (interest.wake = resolve))
      }
    },
    stop(error) {
      closed = true
      for (const interest of interests) interest.error ??= error
      stopWorkers()
      wakeAll()
    },
    close() {
      closed = true
      clearTimeout(staleTimer)
      stopLooking()
      stopWorkers()
      storage?.then(
        place => place.close(),
        () => undefined,
      )
    },
  }
}
