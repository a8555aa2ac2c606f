import { NARINFO_MAX_BYTES } from '../../protocol/narinfo.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { DailyWindow } from '../config-values.ts'
import type { EventBus } from '../events.ts'
import type { PeerKey } from '../site.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { SYSTEM_CLOCK, type Clock } from './clock.ts'
import type { Holder, Holding } from './holder.ts'
import { createReachability } from './reachability.ts'
import { UNLIMITED, type TokenBucket } from './token-bucket.ts'
import type { Downloads } from './upstream-downloads.ts'
import { createUpstreamExtras } from './upstream-extras.ts'
import { createLink, LINK_TIMES, type LinkTimes } from './upstream-link.ts'
import { createUpstreamNars } from './upstream-nar.ts'
import { createRelay, readSmall } from './upstream-relay.ts'
import {
  createUpstreamNarinfos,
  NARINFO_TIMES,
  type NarinfoMemory,
  type NarinfoTimes,
} from './upstream-narinfos.ts'
import {
  createFileTransport,
  createHttpTransport,
  type FetchReply,
  type FetchRequest,
  type RedirectPolicy,
  type Transport,
} from './upstream-transport.ts'

/** An ordinary binary cache behind a URL, most often over a slow link. */
export interface UpstreamOptions {
  /** http://, https:// or file://. */
  readonly url: string
  readonly pool: NarPool
  /** Where its NAR files come to lie; one for all upstreams of a host. */
  readonly downloads: Downloads
  /** The host's store directory: a cache of another one is down. */
  readonly expectedStoreDir?: string | undefined
  /** The rate, shared by all upstreams behind one link; without one as fast as it goes. */
  readonly bucket?: TokenBucket | undefined
  /** When the link may be used; always, without one. */
  readonly window?: DailyWindow | undefined
  readonly events?: EventBus | undefined
  /** Answers kept over restarts. */
  readonly memory?: NarinfoMemory | undefined
  readonly clock?: Clock | undefined
  readonly times?: LinkTimes | undefined
  readonly narinfoTimes?: NarinfoTimes | undefined
  /** Waits between the probes of a dead upstream. */
  readonly backoffMs?: readonly number[] | undefined
  readonly redirects?: RedirectPolicy | undefined
  /** In place of the network. */
  readonly transport?: Transport | undefined
  /** Which host of the site fetches a path over this link; without it every host does so by itself. */
  readonly agree?: ((hashPart: HashPart) => PeerKey | 'self') | undefined
  /** The way to that host, where its {@link UpstreamHolder.relay} answers; undefined while it is not connected. */
  readonly viaPeer?: ((peer: PeerKey) => Transport | undefined) | undefined
}

/** The holder of an upstream cache, and what the site needs of it. */
export interface UpstreamHolder extends Holder {
  readonly url: string
  /** Forgets what the upstream said of a path, and the bytes that came of it; without one, of all paths asked for lately. */
  forget(hashPart: HashPart): void
  /** Whether asking can lead to anything: it is within reach and did not say "no" lately. Costs no network. */
  mayHave(hashPart: HashPart): boolean
  /** What the other hosts of the site get of this link: narinfos (`<hash>.narinfo`) and NAR files, fetched here and kept. */
  readonly relay: Transport
}

/** How long a question may keep its asker waiting; the answer goes on and is there for the next one. Under FIND_BUDGET_MS. */
export const ANSWER_MS = 3500

async function within<T>(work: Promise<T>, budgetMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>(resolve => {
    timer = setTimeout(resolve, budgetMs, undefined)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Store paths handed on at a time. */
const PATHS_PER_BATCH = 500

function* inBatches(paths: Iterable<StorePath>): Generator<readonly StorePath[]> {
  let batch: StorePath[] = []
  for (const path of paths) {
    batch.push(path)
    if (batch.length < PATHS_PER_BATCH) continue
    yield batch
    batch = []
  }
  if (batch.length > 0) yield batch
}

function transportFor(url: string, redirects: RedirectPolicy): Transport {
  const parsed = new URL(url)
  return parsed.protocol === 'file:'
    ? createFileTransport(parsed)
    : createHttpTransport(parsed, redirects)
}

/** The URL without a password: it goes into logs and the catalog. */
function publicUrl(url: string): string {
  const parsed = new URL(url)
  parsed.username = ''
  parsed.password = ''
  return parsed.href.replace(/\/$/, '')
}

/** Makes the holder. `open` begins to ask whether the upstream is there and does not wait for it. */
export function createUpstreamHolder(options: UpstreamOptions): UpstreamHolder {
  const { downloads, clock = SYSTEM_CLOCK, agree, viaPeer } = options
  const url = publicUrl(options.url)
  const id = `upstream:${url}`
  const reach = createReachability(id, options.events)
  const narinfoTimes = options.narinfoTimes ?? NARINFO_TIMES
  let downs = 0

  const link = createLink({
    id,
    transport: options.transport ?? transportFor(options.url, options.redirects ?? 'anywhere'),
    bucket: options.bucket ?? UNLIMITED,
    clock,
    window: options.window,
    expectedStoreDir: options.expectedStoreDir,
    times: options.times ?? LINK_TIMES,
    backoffMs: options.backoffMs,
    onUp: () => reach.up(),
    onDown(problem) {
      downs++
      reach.down(problem)
    },
  })
  const narinfos = createUpstreamNarinfos({
    clock,
    storeDir: () => link.storeDir,
    times: narinfoTimes,
    memory: options.memory,
  })

  /** The peer that fetches in this host's place, where it can be reached. */
  const fetcherFor = (hashPart: HashPart | undefined): Transport | undefined => {
    const who = hashPart === undefined ? 'self' : (agree?.(hashPart) ?? 'self')
    return who === 'self' ? undefined : viaPeer?.(who)
  }

  /** Through the peer that fetches for the site, else, or when it cannot, over this host's own link. */
  const fetch = async (request: FetchRequest): Promise<FetchReply> => {
    try {
      const reply = await fetcherFor(request.hashPart)?.get(request)
      if (reply !== undefined && reply.status < 500) return reply
      reply?.destroy()
    } catch (error) {
      if (request.signal.aborted) throw error
    }
    return link.bulk(request)
  }

  const nars = createUpstreamNars({
    holderId: id,
    pool: options.pool,
    downloads,
    fetch,
    isUp: hashPart => link.problem() === undefined || fetcherFor(hashPart) !== undefined,
    vanished: hashPart => narinfos.forget(hashPart),
    bad: ({ identity, info }, problem) => reach.bad(identity, info.storePath, problem),
  })

  const holdingOf = (hashPart: HashPart): Holding | undefined => {
    const known = narinfos.known(hashPart)
    return known === undefined || known === 'absent' ? undefined : nars.holdingOf(known.info)
  }

  /** Takes an answer; throws when it was none. */
  const take = (hashPart: HashPart, status: number, body: Buffer | undefined): void => {
    if (status === 404 || status === 410) narinfos.absent(hashPart)
    else if (status !== 200 && status < 500 && status !== 429) narinfos.refused(hashPart)
    else if (status === 200) {
      const problem =
        body === undefined
          ? `the narinfo is larger than ${NARINFO_MAX_BYTES} bytes`
          : narinfos.present(hashPart, body, link.storeDir)
      if (problem === undefined) return
      narinfos.refused(hashPart)
      reach.bad(`${hashPart}\n${problem}`, `${link.storeDir}/${hashPart}`, problem)
    }
  }

  const askLink = async (hashPart: HashPart): Promise<void> => {
    const path = `${hashPart}.narinfo`
    const { status, body } = await link.small({ path, hashPart }, NARINFO_MAX_BYTES)
    take(hashPart, status, body)
  }

  /** Whether the peer that fetches for the site had an answer, be it "no". */
  const askPeer = async (hashPart: HashPart): Promise<boolean> => {
    const peer = fetcherFor(hashPart)
    if (peer === undefined) return false
    try {
      const signal = AbortSignal.timeout(ANSWER_MS)
      const reply = await peer.get({ path: `${hashPart}.narinfo`, hashPart, signal })
      const { status } = reply
      if (status !== 200) reply.destroy()
      if (status !== 200 && status !== 404) return false
      take(hashPart, status, status === 200 ? await readSmall(reply, NARINFO_MAX_BYTES) : undefined)
      return true
    } catch {
      return false
    }
  }

  /** Questions under way, by hash part and by whether a peer may be asked: the same one is asked once. */
  const asking = new Map<string, Promise<Holding | undefined>>()
  const ask = (hashPart: HashPart, direct: boolean): Promise<Holding | undefined> => {
    const key = `${hashPart}${direct ? '!' : ''}`
    const running = asking.get(key)
    if (running !== undefined) return running
    const question = (async () => {
      if (direct || !(await askPeer(hashPart))) await askLink(hashPart)
      return holdingOf(hashPart)
    })().finally(() => asking.delete(key))
    // Nobody may be waiting any more when it fails.
    question.catch(() => undefined)
    asking.set(key, question)
    return question
  }

  const findFor = (
    hashPart: HashPart,
    direct: boolean,
  ): Holding | undefined | Promise<Holding | undefined> => {
    const known = narinfos.known(hashPart)
    const problem = link.problem()
    if (problem !== undefined && (direct || fetcherFor(hashPart) === undefined)) {
      const holding = known === 'absent' || known === undefined ? undefined : holdingOf(hashPart)
      if (holding !== undefined && nars.isHere(holding)) return holding
      throw reach.down(problem)
    }
    if (known === 'absent') return undefined
    return known === undefined ? within(ask(hashPart, direct), ANSWER_MS) : holdingOf(hashPart)
  }

  const isCurrent = (holding: Holding): boolean => nars.isCurrent(holding)

  return {
    id,
    kind: 'upstream',
    url,
    get storeDir() {
      return link.storeDir
    },
    async open() {
      link.open()
    },
    async close() {
      link.close()
      await Promise.allSettled(asking.values())
    },
    problem: () => link.problem(),
    find: hashPart => findFor(hashPart, false),
    mayHave(hashPart) {
      const known = narinfos.known(hashPart)
      if (known === 'absent') return false
      if (link.problem() === undefined || fetcherFor(hashPart) !== undefined) return true
      return known !== undefined && nars.isHere(nars.holdingOf(known.info))
    },
    forget(hashPart) {
      const known = narinfos.known(hashPart)
      if (known !== undefined && known !== 'absent') nars.forget(known.info)
      narinfos.forget(hashPart)
    },
    isCurrent,
    openNar: nars.openNar,
    openFile: nars.openFile,
    verify: nars.verify,
    kept: nars.kept,
    ...createUpstreamExtras({
      clock,
      absentMs: narinfoTimes.absentMs,
      small: (path, limit) => link.small({ path }, limit),
      isCurrent,
      madeListing: nars.madeListing,
      openNar: nars.openNar,
      byUrl: narinfos.byUrl,
    }),
    async *paths() {
      const problem = link.problem()
      if (problem !== undefined) throw reach.down(problem)
      yield* inBatches(narinfos.paths())
    },
    generation: () =>
      `${narinfos.generation}.${downs}.${link.problem() === undefined ? 'up' : 'down'}`,
    relay: createRelay({
      known: narinfos.known,
      ask: async hashPart => void (await findFor(hashPart, true)),
      openFile: (info, offset) => nars.openFile(nars.holdingOf(info), { offset }),
    }),
  }
}
