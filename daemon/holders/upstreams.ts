import type { HashPart } from '../../protocol/store-path.ts'
import type { DailyWindow } from '../config-values.ts'
import type { EventBus } from '../events.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import { SYSTEM_CLOCK, type Clock } from './clock.ts'
import { createTokenBucket, type TokenBucket } from './token-bucket.ts'
import { createDownloads, type Downloads } from './upstream-downloads.ts'
import { LAN_TIMES } from './upstream-link.ts'
import { createUpstreamHolder, type UpstreamHolder, type UpstreamOptions } from './upstream.ts'
import type { NarinfoMemory } from './upstream-narinfos.ts'

/** An upstream as the configuration names it. */
export interface ConfiguredUpstream {
  readonly url: string
  /** Bytes per second. */
  readonly rate?: number | undefined
  readonly window?: DailyWindow | undefined
}

export interface UpstreamsOptions {
  readonly configured: readonly ConfiguredUpstream[]
  /** Where NAR files from upstreams lie, `<stateDir>/upstream`. */
  readonly dir: string
  readonly pool: NarPool
  readonly events: EventBus
  readonly expectedStoreDir: string
  /** Whether caches that others announce on the LAN are used. */
  readonly allowFound: boolean
  /** Answers kept over restarts, by the holder's id. */
  readonly memoryFor?: ((holderId: string) => NarinfoMemory) | undefined
  readonly clock?: Clock | undefined
  readonly maxBytes?: number | undefined
  /** See {@link UpstreamOptions}; found caches are on the LAN anyway and are not shared. */
  readonly agreeFor?: ((url: string) => UpstreamOptions['agree']) | undefined
  readonly viaPeerFor?: ((url: string) => UpstreamOptions['viaPeer']) | undefined
}

/** All upstreams of a host: the configured ones in their order, then what was found on the LAN. */
export interface Upstreams {
  open(): Promise<void>
  close(): Promise<void>
  /** Changes with every cache that comes and goes. */
  holders(): readonly UpstreamHolder[]
  /** Those worth asking for a path: within reach, and none that said "no" lately. */
  able(hashPart: HashPart): readonly UpstreamHolder[]
  readonly downloads: Downloads
}

/** Caches found on the LAN and used at one time: whoever can send multicast could announce thousands. */
export const FOUND_MAX = 16

/** One bucket for each host and rate: two caches of one server share its link. The lowest rate given for a host counts. */
function bucketsOf(configured: readonly ConfiguredUpstream[], clock: Clock) {
  const rates = new Map<string, number>()
  for (const { url, rate } of configured) {
    if (rate === undefined) continue
    const { host } = new URL(url)
    rates.set(host, Math.min(rate, rates.get(host) ?? Infinity))
  }
  return new Map<string, TokenBucket>(
    [...rates].map(([host, rate]) => [host, createTokenBucket(rate, clock)]),
  )
}

/** Makes the list; `open` waits for no upstream. */
export function createUpstreams(options: UpstreamsOptions): Upstreams {
  const { configured, events, clock = SYSTEM_CLOCK, pool, expectedStoreDir } = options
  const downloads = createDownloads({ dir: options.dir, maxBytes: options.maxBytes, clock })
  const buckets = bucketsOf(configured, clock)
  const common = { pool, downloads, expectedStoreDir, events, clock }
  const fixed = configured.map(({ url, window }) =>
    createUpstreamHolder({
      ...common,
      url,
      window,
      bucket: buckets.get(new URL(url).host),
      memory: options.memoryFor?.(`upstream:${url}`),
      agree: options.agreeFor?.(url),
      viaPeer: options.viaPeerFor?.(url),
    }),
  )
  const found = new Map<string, UpstreamHolder>()
  const fixedUrls = new Set(fixed.map(({ url }) => url))
  let isOpen = false

  const sighted = (url: string): void => {
    if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) return
    if (found.has(url) || found.size >= FOUND_MAX) return
    // Nothing of it is kept over restarts: the next cache at that address is another one.
    const holder = createUpstreamHolder({
      ...common,
      url,
      times: LAN_TIMES,
      redirects: 'same-host',
    })
    if (fixedUrls.has(holder.url)) return
    found.set(url, holder)
    void holder.open()
  }

  const gone = (url: string): void => {
    const holder = found.get(url)
    found.delete(url)
    if (holder === undefined) return
    events.emit('holder:down', holder.id, 'it is no longer announced on the LAN')
    void holder.close()
  }

  const holders = (): readonly UpstreamHolder[] => [...fixed, ...found.values()]

  return {
    downloads,
    holders,
    able: hashPart => holders().filter(holder => holder.mayHave(hashPart)),
    async open() {
      if (isOpen) return
      isOpen = true
      downloads.open()
      for (const holder of fixed) await holder.open()
      if (!options.allowFound) return
      events.on('cache:sighted', sighted)
      events.on('cache:gone', gone)
    },
    async close() {
      isOpen = false
      events.off('cache:sighted', sighted)
      events.off('cache:gone', gone)
      await Promise.all(holders().map(holder => holder.close()))
      found.clear()
      await downloads.close()
    },
  }
}
