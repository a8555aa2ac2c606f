import { CACHE_INFO_MAX_BYTES, parseCacheInfo } from '../../protocol/cache-info.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import { DEFAULT_STORE_DIR } from '../../protocol/store-path.ts'
import type { DailyWindow } from '../config-values.ts'
import { createBreaker } from './breaker.ts'
import type { Clock } from './clock.ts'
import { formatWindow, isWithin, untilOpen } from './daily-window.ts'
import type { TokenBucket } from './token-bucket.ts'
import type { FetchReply, FetchRequest, Transport } from './upstream-transport.ts'

// The link to one upstream: what may go over it now, how fast, and whether anybody answers at its other end. A question
// that cannot be answered now is refused at once; nobody waits for a dead upstream but the probe.

/** How long things may take; all in ms. */
export interface LinkTimes {
  /** Silence of the whole link, while something is asked, after which it counts as dead: a client waits no longer. */
  readonly silenceMs: number
  /** A narinfo or another small file from the request to its last byte. Longer than `silenceMs`: a slow link is no dead one. */
  readonly smallMs: number
  /** A NAR's next {@link STALL_BYTES}. */
  readonly stallMs: number
}

/** For what the operator configured: a satellite link needs seconds to begin. */
export const LINK_TIMES: LinkTimes = { silenceMs: 3000, smallMs: 20_000, stallMs: 30_000 }

/** For what was found on the LAN: who does not answer at once there is gone. */
export const LAN_TIMES: LinkTimes = { silenceMs: 1000, smallMs: 5000, stallMs: 10_000 }

/** Less than this in `stallMs` is a stalled transfer, not a slow one: 34 bytes a second are no link. */
const STALL_BYTES = 1024

/** What a reply costs beyond its body: request and reply headers, as nginx and curl write them. */
const OVERHEAD_BYTES = 500

/** How often a closed window is looked at again: the clock may have been set. */
const WINDOW_LOOK_MS = 10 * 60_000

/** A small file: absent with a status other than 200. */
export interface SmallReply {
  readonly status: number
  /** Undefined where there is none, or more than asked for. */
  readonly body: Buffer | undefined
}

export interface LinkOptions {
  readonly id: string
  readonly transport: Transport
  readonly bucket: TokenBucket
  readonly clock: Clock
  readonly window?: DailyWindow | undefined
  readonly expectedStoreDir: string | undefined
  readonly times: LinkTimes
  readonly backoffMs?: readonly number[] | undefined
  readonly onUp: () => void
  readonly onDown: (problem: string) => void
}

export interface Link {
  /** The upstream's store directory, as far as known. */
  readonly storeDir: string
  /** Why nothing can be asked now; undefined while something can. */
  problem(): string | undefined
  /** Begins to find out whether the upstream is there. */
  open(): void
  /** A whole small file. Rejects with HOLDER_UNREADABLE when nobody answers. */
  small(request: Omit<FetchRequest, 'offset' | 'signal'>, limit: number): Promise<SmallReply>
  /** The beginning of a large file; its body is paid for while it is read. Rejects as `small`. */
  bulk(request: FetchRequest): Promise<FetchReply>
  close(): void
}

/** Makes the link; it asks nothing before `open` or the first question. */
export function createLink(options: LinkOptions): Link {
  const { id, transport, bucket, clock, window, expectedStoreDir, times } = options
  const closing = new AbortController()
  let storeDir = expectedStoreDir ?? DEFAULT_STORE_DIR
  let lastByteAt = 0
  /** The first answer of all, which says whether this is a cache, and of which store. */
  let greeting: Promise<void> | undefined
  let greeted = false

  const isOpen = (): boolean => window === undefined || isWithin(window, clock.now())
  const windowProblem = (): string | undefined =>
    window === undefined || isOpen() ? undefined : `it is used ${formatWindow(window)} only`

  const breaker = createBreaker({
    clock,
    backoffMs: options.backoffMs,
    onOpen: options.onDown,
    onClose: options.onUp,
    async probe() {
      for (;;) {
        const wait = window === undefined ? 0 : untilOpen(window, clock.now())
        if (wait === 0) break
        await clock.sleep(Math.min(wait, WINDOW_LOOK_MS), closing.signal)
        closing.signal.throwIfAborted()
      }
      await readCacheInfo()
    },
  })

  /** What the upstream's own word refuses it for, whatever else it answers. */
  let refusal: string | undefined

  const problem = (): string | undefined => windowProblem() ?? refusal ?? breaker.problem
  const unreadable = (why: string, cause?: unknown): never =>
    fail('HOLDER_UNREADABLE', { holder: id, problem: why }, cause)

  /** A failure on the way, as the breaker takes it. */
  const lost = (error: unknown): never => {
    const why = problemOf(error)
    if (!closing.signal.aborted) breaker.failed(why, true)
    return unreadable(why, error)
  }

  const took = (bytes: number): void => {
    lastByteAt = clock.now()
    bucket.spend(bytes)
  }

  const judge = (status: number): void => {
    if (status >= 500 || status === 429) breaker.failed(`it answers ${status}`, false)
    else if (refusal === undefined && greeted) breaker.succeeded()
  }

  const readBody = async (reply: FetchReply, limit: number): Promise<Buffer | undefined> => {
    if ((reply.total ?? 0) > limit) return undefined
    const parts: Buffer[] = []
    let length = 0
    for await (const part of reply.body) {
      took(part.length)
      length += part.length
      if (length > limit) return undefined
      parts.push(part)
    }
    if (reply.total !== undefined && length !== reply.total) throw new Error('the reply was cut')
    return Buffer.concat(parts, length)
  }

  /** One small file, without asking whether the upstream is up. */
  const ask = async (
    request: Omit<FetchRequest, 'offset' | 'signal'>,
    limit: number,
  ): Promise<SmallReply> => {
    const late = new AbortController()
    const signal = AbortSignal.any([late.signal, closing.signal])
    const seconds = (ms: number) => `${ms / 1000} s`
    const timer = setTimeout(
      () => late.abort(new Error(`no whole answer within ${seconds(times.smallMs)}`)),
      times.smallMs,
    )
    let watch: NodeJS.Timeout | undefined
    let reply: FetchReply | undefined
    try {
      await bucket.ready('small', signal)
      const askedAt = clock.now()
      // It goes on waiting: an answer that comes late closes the breaker again.
      watch = setTimeout(() => {
        if (lastByteAt < askedAt)
          breaker.failed(`no answer within ${seconds(times.silenceMs)}`, true)
      }, times.silenceMs)
      reply = await transport.get({ ...request, signal })
      took(OVERHEAD_BYTES)
      const body = reply.status === 200 ? await readBody(reply, limit) : undefined
      judge(reply.status)
      return { status: reply.status, body }
    } catch (error) {
      return lost(late.signal.aborted ? late.signal.reason : error)
    } finally {
      clearTimeout(timer)
      clearTimeout(watch)
      reply?.destroy()
    }
  }

  /** Reads nix-cache-info; throws what makes the upstream of no use. */
  const readCacheInfo = async (): Promise<void> => {
    greeted = false
    const { status, body } = await ask({ path: 'nix-cache-info' }, CACHE_INFO_MAX_BYTES)
    if (status >= 500 || status === 429) throw new Error(`it answers ${status}`)
    try {
      const absent = status === 404 || status === 403 || status === 410
      if (!absent && body === undefined) throw new Error(`nix-cache-info is unreadable (${status})`)
      // A captive portal answers every question with a page of its own.
      storeDir = body === undefined ? DEFAULT_STORE_DIR : parseCacheInfo(body).storeDir
      if (expectedStoreDir !== undefined && storeDir !== expectedStoreDir) {
        throw new Error(`its StoreDir is ${storeDir}, this host's ${expectedStoreDir}`)
      }
      refusal = undefined
      greeted = true
    } catch (error) {
      refusal = problemOf(error)
      throw error
    }
  }

  const greet = (): Promise<void> => {
    greeting ??= readCacheInfo().then(
      () => {
        breaker.succeeded()
        options.onUp()
      },
      (error: unknown) => {
        // The breaker's probe asks again, with patience.
        if (!closing.signal.aborted) breaker.failed(problemOf(error), true)
      },
    )
    return greeting
  }

  const check = async (): Promise<void> => {
    const now = problem()
    if (now !== undefined) unreadable(now)
    await greet()
    const then = problem()
    if (then !== undefined) unreadable(then)
  }

  const stalledAfter = (what: string) => new Error(`${what} within ${times.stallMs / 1000} s`)

  /** Pays for a body piece by piece, and ends one that stalls; waiting for the rate or the reader is not the upstream's fault. */
  async function* paid(reply: FetchReply, stalled: AbortController): AsyncGenerator<Buffer> {
    const parts = reply.body[Symbol.asyncIterator]()
    let sinceBytes = 0
    let sinceMs = 0
    try {
      for (;;) {
        const beganAt = performance.now()
        const timer = setTimeout(
          () => stalled.abort(stalledAfter(`under ${STALL_BYTES} bytes`)),
          times.stallMs - sinceMs,
        )
        let next: IteratorResult<Buffer>
        try {
          next = await parts.next()
        } finally {
          clearTimeout(timer)
        }
        if (next.done === true) return
        const part = next.value
        sinceBytes += part.length
        sinceMs += performance.now() - beganAt
        if (sinceBytes >= STALL_BYTES) sinceBytes = sinceMs = 0
        for (let at = 0; at < part.length; at += bucket.sliceBytes) {
          await bucket.ready('bulk', stalled.signal)
          took(Math.min(bucket.sliceBytes, part.length - at))
        }
        const closed = windowProblem()
        if (closed !== undefined) unreadable(closed)
        yield part
      }
    } finally {
      reply.destroy()
    }
  }

  return {
    get storeDir() {
      return storeDir
    },
    problem,
    open() {
      if (isOpen()) void greet()
    },
    async small(request, limit) {
      await check()
      return ask(request, limit)
    },
    async bulk(request) {
      await check()
      const stalled = new AbortController()
      const signal = AbortSignal.any([request.signal, stalled.signal, closing.signal])
      let timer: NodeJS.Timeout | undefined
      try {
        await bucket.ready('bulk', signal)
        timer = setTimeout(() => stalled.abort(stalledAfter('no answer')), times.stallMs)
        const reply = await transport.get({ ...request, signal })
        took(OVERHEAD_BYTES)
        judge(reply.status)
        return { ...reply, body: paid(reply, stalled) }
      } catch (error) {
        if (request.signal.aborted) throw error
        return lost(stalled.signal.aborted ? stalled.signal.reason : error)
      } finally {
        clearTimeout(timer)
      }
    },
    close() {
      closing.abort(new Error('the daemon is closing'))
      breaker.close()
      transport.close()
    },
  }
}
