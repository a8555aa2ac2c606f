import { createHash } from 'node:crypto'
import { NarwharfError } from '../../protocol/errors.ts'
import type { SpoolNar } from './nar-spool.ts'
import type { SpoolStorage } from './spool-storage.ts'

/** Somebody who has the NAR, and whose bytes are not believed. */
export interface SpoolSource {
  /** The holder's id. */
  readonly id: string
  /** For people. */
  readonly name: string
  /** The bytes from there on; throws when it breaks off. Must not wait for ever. */
  open(offset: number, signal: AbortSignal): AsyncIterable<Buffer>
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

/** One NAR on its way in, from one source after another. */
export interface Transfer {
  readonly nar: SpoolNar
  kind: 'none' | 'memory' | 'file' | 'window'
  readonly storage: Promise<SpoolStorage>
  /** Bytes that arrived; the last ones are counted only when the hash is right. */
  readonly length: number
  readonly from: number
  readonly state: 'filling' | 'good' | 'bad'
  readonly contributors: ReadonlyMap<string, SpoolSource>
  /** The source that gives bytes now. */
  readonly runs: string | undefined
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
  /** What nobody uses is kept so long, and then `onStale`. */
  readonly keepMs: number
  readonly onStale: () => void
}

/** Makes a transfer; it runs while somebody waits for it. */
export function createTransfer(nar: SpoolNar, options: TransferOptions): Transfer {
  const interests = new Set<Interest>()
  const contributors = new Map<string, SpoolSource>()
  const hash = createHash('sha256')
  let storage: Promise<SpoolStorage> | undefined
  let opened: SpoolStorage | undefined
  let state: Transfer['state'] = 'filling'
  let length = 0
  let running: { readonly source: SpoolSource; readonly abort: AbortController } | undefined
  let staleTimer: NodeJS.Timeout | undefined
  let closed = false

  const open = (): Promise<SpoolStorage> => {
    storage ??= options.storage().then(made => (opened = made))
    return storage
  }
  const wakeAll = (): void => {
    for (const interest of interests) interest.wake()
  }

  const settle = (right: boolean): void => {
    state = right ? 'good' : 'bad'
    if (right) length = nar.narSize
    wakeAll()
    if (!right) options.onBad()
  }

  /** Takes a chunk in: what is hashed is stored and counted too, whatever happens meanwhile. */
  const take = async (place: SpoolStorage, chunk: Buffer): Promise<void> => {
    const received = length + chunk.length
    const writing = place.append(chunk)
    hash.update(chunk)
    // A window takes no more before this is read, so it is told of first.
    if (!options.isWindow()) await writing
    if (received === nar.narSize) {
      writing.catch(() => undefined)
      return settle(Buffer.compare(hash.digest(), nar.narHash.bytes) === 0)
    }
    length = received
    wakeAll()
    await writing
  }

  const receive = async (source: SpoolSource, signal: AbortSignal): Promise<void> => {
    const place = await open()
    for await (const chunk of source.open(length, signal)) {
      if (signal.aborted) return
      if (chunk.length === 0) continue
      contributors.set(source.id, source)
      try {
        // What comes behind the end is not even looked at: the hash says whether what came before is right.
        await take(place, chunk.subarray(0, nar.narSize - length))
      } catch (error) {
        // The disk's fault: what is there is of no use to anybody.
        for (const interest of interests) interest.error ??= error as Error
        closed = true
        return options.onStale()
      }
      if (state !== 'filling') return
    }
    if (signal.aborted) return
    throw new NarwharfError('PEER_BROKE', {
      peer: source.name,
      problem: `its NAR ended after ${length} of ${nar.narSize} bytes`,
    })
  }

  const run = async (source: SpoolSource, { signal }: AbortController): Promise<void> => {
    try {
      await receive(source, signal)
    } catch (error) {
      // Stopped because nobody waited: whoever came since is not concerned.
      if (signal.aborted) return
      for (const interest of interests) {
        if (interest.source.id === source.id) interest.error ??= error as Error
      }
    }
  }

  /** Lets the first source run that somebody still waits for. */
  const drive = (): void => {
    if (running !== undefined || state !== 'filling' || closed) return
    const next = [...interests].find(({ error }) => error === undefined)
    if (next === undefined) return
    const current = { source: next.source, abort: new AbortController() }
    running = current
    void run(current.source, current.abort).then(() => {
      running = undefined
      wakeAll()
      drive()
    })
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
    get runs() {
      return running?.source.id
    },
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
      running?.abort.abort()
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
      running?.abort.abort()
      wakeAll()
    },
    close() {
      closed = true
      clearTimeout(staleTimer)
      running?.abort.abort()
      storage?.then(
        place => place.close(),
        () => undefined,
      )
    },
  }
}
