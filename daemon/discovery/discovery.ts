import { isIP } from 'node:net'
import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os'
import { performance } from 'node:perf_hooks'
import type { Logger } from 'pino'
import type { Problem } from '../../protocol/api.ts'
import type { StaticPeer } from '../config-schema.ts'
import type { EventBus } from '../events.ts'
import { parsePeerKey, type PeerCandidate, type PeerKey } from '../site.ts'
import { createForeignCaches, type SeenCache } from './foreign-caches.ts'
import { createMdnsLinks } from './mdns-links.ts'
import type { QueryTimes } from './mdns-link.ts'
import type { ServiceNews } from './mdns-records.ts'
import { resolveName } from './resolve-name.ts'
import { makeBonjour, type MakeResponder } from './responder.ts'
import { createSightings } from './sightings.ts'
import { createStaticPeers, type Resolve } from './static-peers.ts'

// Where other hosts may be: announced on the LAN, configured, or told by peers. Nothing here is believed: whoever dials a
// candidate has it prove its key.

/** Candidates taken from one peer's telling. */
export const TOLD_MAX = 256

/** All times in ms; the reasons stand where they are used. */
export interface DiscoveryTimes extends QueryTimes {
  /** Between looks at the interfaces: one costs 0.1 ms. */
  readonly pollMs: number
  /** Between tries at an interface whose socket could not be had. */
  readonly retryMs: number
  /** An announcement holds for so long: two answers may be lost before it ages out. */
  readonly announcedTtlMs: number
  /** What a peer told is kept for long: where multicast is blocked, nobody else may tell it again. */
  readonly toldTtlMs: number
  /** How soon the same sighting is said again. */
  readonly quietMs: number
  /** Configured and told peers are said again so often, as nothing else would bring a lost connection back. */
  readonly repeatMs: number
  readonly resolveAgainMs: number
  readonly resolveRetryMs: number
}

const MINUTE_MS = 60_000

const TIMES: DiscoveryTimes = {
  pollMs: 1000,
  retryMs: 30_000,
  firstMs: 1000,
  quickMs: 5000,
  quickRounds: 12,
  slowMs: [30_000, MINUTE_MS],
  announcedTtlMs: 3 * MINUTE_MS,
  toldTtlMs: 24 * 60 * MINUTE_MS,
  quietMs: 1000,
  repeatMs: 10_000,
  resolveAgainMs: 5 * MINUTE_MS,
  resolveRetryMs: 5000,
}

/** What {@link createDiscovery} is told. */
export interface DiscoveryOptions {
  /** This host's own key. */
  readonly key: PeerKey
  readonly hostName: string
  /** `network.port`, which is announced. */
  readonly port: number
  /** Set where Nix clients of the LAN may use this host's cache: announced as `_nix-serve._tcp`. */
  readonly httpPort?: number | undefined
  /** The one address the HTTP port listens on; undefined or a wildcard: all of them. */
  readonly httpHost?: string | undefined
  readonly mdns: boolean
  /** Interfaces for mDNS; empty: every one. */
  readonly interfaces: readonly string[]
  readonly peers: readonly StaticPeer[]
  /** Whether other programs' caches on the LAN are told of. */
  readonly nixServe: boolean
  /** Members are forgotten last, and their caches are reached as peers. */
  readonly isMember?: ((key: PeerKey) => boolean) | undefined
  readonly events: EventBus
  readonly log: Pick<Logger, 'info' | 'warn' | 'debug'>
  readonly times?: Partial<DiscoveryTimes> | undefined
  /** Speaks mDNS on the loopback interface as well: for tests. */
  readonly loopback?: boolean | undefined
  readonly makeResponder?: MakeResponder | undefined
  readonly listInterfaces?: (() => NodeJS.Dict<NetworkInterfaceInfo[]>) | undefined
  readonly resolve?: Resolve | undefined
  /** Monotonic ms. */
  readonly now?: (() => number) | undefined
  /** 0 to 1. */
  readonly random?: (() => number) | undefined
}

/** Finds candidates, and says so with `peer:sighted`, `cache:sighted` and `cache:gone`. */
export interface Discovery {
  /** Returns when every interface has its socket asked for; what is found is heard later. */
  open(): Promise<void>
  /** Says goodbye to the LAN. */
  close(): Promise<void>
  /** Who was sighted where and is not stale yet, newest first; a key may have several addresses. */
  candidates(): readonly PeerCandidate[]
  /** What a peer knows of others; anything that is no address of another host is left out. */
  told(candidates: readonly PeerCandidate[]): void
  /** Other programs' caches that are there now. */
  caches(): readonly string[]
  problems(): readonly Problem[]
}

/** Addresses that lead back to this machine or nowhere; nobody may have us dial them. */
const LEADS_NOWHERE = /^(0\.|127\.|22[4-9]\.|23\d\.|2[45]\d\.|::1?$|::ffff:|ff)/i

const isPort = (port: unknown): boolean =>
  typeof port === 'number' && Number.isInteger(port) && port >= 1 && port <= 65535

/** Makes the room; nothing runs before `open`. */
export function createDiscovery(options: DiscoveryOptions): Discovery {
  const { key: ownKey, events, log, httpPort, mdns, nixServe } = options
  const { now = () => performance.now(), random = Math.random, isMember = () => false } = options
  const times: DiscoveryTimes = { ...TIMES, ...options.times }
  const sightings = createSightings({ isMember, now, quietMs: times.quietMs })
  const caches = createForeignCaches(events, now)
  let timer: NodeJS.Timeout | undefined

  const see = (candidate: PeerCandidate, ttlMs: number, serviceName?: string): void => {
    if (candidate.key === ownKey) return
    if (sightings.see(candidate, ttlMs, serviceName)) events.emit('peer:sighted', candidate)
  }

  const onNews = ({ seen, gone }: ServiceNews, from: string): void => {
    for (const { type, name, port, key } of seen) {
      if (type === 'narwharf') {
        if (key === undefined) continue
        const address = { host: from, port }
        see({ key, address, source: 'mdns' }, times.announcedTtlMs, name)
      } else if (nixServe && key !== ownKey && !(key !== undefined && isMember(key))) {
        const isOwn = port === httpPort && links.addresses().includes(from)
        if (isOwn) continue
        caches.see({ host: from, port, serviceName: name, key }, times.announcedTtlMs)
      }
    }
    for (const name of gone) {
      sightings.goodbye(name, from)
      caches.goodbye(name, from)
    }
  }

  const links = createMdnsLinks({
    ...options,
    loopback: options.loopback ?? false,
    makeResponder: options.makeResponder ?? makeBonjour,
    listInterfaces: options.listInterfaces ?? networkInterfaces,
    times,
    onNews,
    now,
    random,
  })
  const statics = createStaticPeers({
    ...times,
    peers: options.peers,
    sighted: candidate => see(candidate, 2 * times.repeatMs),
    resolve: options.resolve ?? resolveName,
    random,
  })

  /** What a peer told, where it could lead to another host. */
  const checkTold = ({ key, address }: PeerCandidate): PeerCandidate | undefined => {
    const known = parsePeerKey(key)
    const { host, port } = address
    if (known === undefined || known === ownKey || !isPort(port)) return undefined
    if (isIP(host) === 0 || LEADS_NOWHERE.test(host)) return undefined
    return { key: known, address: { host, port }, source: 'told' }
  }
  /** What gossip said itself has been heard by all: it is only remembered, to be said again later. */
  const onSighted = (candidate: PeerCandidate): void => {
    const told = candidate.source === 'told' ? checkTold(candidate) : undefined
    if (told !== undefined) sightings.see(told, times.toldTtlMs)
  }

  const notMembers = ({ key }: SeenCache): boolean => key === undefined || !isMember(key)
  const onMembers = (): void => caches.keepOnly(notMembers)
  const onPeerDown = (): void => links.askAgain()
  const tick = (): void => {
    sightings.expire()
    caches.expire()
    for (const candidate of sightings.quiet('told', times.repeatMs)) see(candidate, times.toldTtlMs)
  }

  return {
    async open() {
      if (timer !== undefined) return
      timer = setInterval(tick, times.pollMs).unref()
      events.on('peer:sighted', onSighted)
      events.on('members:changed', onMembers)
      events.on('peer:down', onPeerDown)
      statics.open()
      if (mdns) links.open()
    },
    async close() {
      clearInterval(timer)
      events.off('peer:sighted', onSighted)
      events.off('members:changed', onMembers)
      events.off('peer:down', onPeerDown)
      statics.close()
      await links.close()
    },
    candidates() {
      sightings.expire()
      return sightings.list()
    },
    told(candidates) {
      for (const candidate of candidates.slice(0, TOLD_MAX)) {
        const told = checkTold(candidate)
        if (told !== undefined) see(told, times.toldTtlMs)
      }
      log.debug({ count: candidates.length }, 'peers told by a peer')
    },
    caches: () => caches.list(),
    problems: () => [...statics.problems(), ...links.problems()],
  }
}
