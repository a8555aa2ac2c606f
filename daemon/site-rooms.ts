import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { PeersReply } from '../protocol/api.ts'
import type { StorePath } from '../protocol/store-path.ts'
import type { Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { createDiscovery } from './discovery/discovery.ts'
import type { EventBus } from './events.ts'
import { createGossip } from './gossip/gossip.ts'
import { fetcherOf } from './holders/agree.ts'
import type { HolderList } from './holders/holder-list.ts'
import { createNarSpool } from './holders/nar-spool.ts'
import { createPeerHolders, type PeerHolders } from './holders/peers.ts'
import { createViaPeer, upstreamName } from './holders/upstream-via-peer.ts'
import { createUpstreams, type Upstreams } from './holders/upstreams.ts'
import type { Counters } from './http/counters.ts'
import { listPeers } from './http/peer-list.ts'
import { createPeerRoutes } from './http/peer-routes.ts'
import type { SiteSources } from './http/api-site.ts'
import { siteSources } from './http/site-sources.ts'
import { createCatalogLog } from './inventory/catalog-log.ts'
import type { Inventory } from './inventory/inventory.ts'
import type { PeerPresence } from './inventory/who-has.ts'
import { createOwnIndex } from './inventory/own-index.ts'
import { localAddresses } from './membership/local-addresses.ts'
import { createMembership, type Membership } from './membership/membership.ts'
import { createPeering } from './peering/peering.ts'
import type { PeerAddress, PeerCandidate, PeerKey } from './site.ts'
import type { Substitution } from './substitution/substitution.ts'
import type { TrustRoom } from './trust/trust-room.ts'
import { createNotes, type Notes } from './wants/note-shelf.ts'
import type { NarPool } from './workers/nar-pool.ts'

// The rooms of the site in the order they are opened: the part of main that a host alone could do without.

/** What they stand on. */
export interface SiteParts {
  readonly config: Config
  readonly version: string
  readonly events: EventBus
  readonly log: Logger
  readonly catalog: Catalog
  readonly pool: NarPool
  readonly trust: TrustRoom
  /** Notes what is to be closed, in reverse. */
  readonly push: (room: string, close: () => unknown) => void
}

/** What they need once there is something to serve. */
export interface SiteService {
  readonly substitution: Substitution
  readonly counters: Counters
  readonly inventory: Inventory
  /** This host's own. */
  readonly holders: HolderList
  /** Where Nix clients of the LAN reach this host; undefined where only this machine does. */
  readonly lanHttpPort: number | undefined
}

/** The site as the rest of main sees it. */
export interface Site {
  readonly membership: Membership
  /** What hosts tell each other of themselves. */
  readonly notes: Notes
  readonly peerHolders: PeerHolders
  readonly upstreams: Upstreams
  /** What may be asked and changed over the control API. */
  readonly sources: SiteSources
  peers(): PeersReply
  /** How it stands with a peer, from memory. */
  presence(key: PeerKey): PeerPresence
  problems(): ReturnType<Membership['problems']>
  /** Listens, finds the others, tells them what is held here. */
  start(service: SiteService): Promise<void>
}

/** Ports that a configuration with port 0 means: any free one, and the same for UDP and TCP, so it is drawn, not asked for. */
const DRAWN_PORTS = { from: 20_000, to: 32_000 } as const

/** Opens what needs no network; {@link Site.start} does the rest. */
export async function openSite(parts: SiteParts): Promise<Site> {
  const { config, events, log, catalog, push } = parts
  const { stateDir, network } = config
  const port = network.port === 0 ? randomInt(DRAWN_PORTS.from, DRAWN_PORTS.to) : network.port

  const membership = createMembership({
    stateDir,
    hostName: config.hostName,
    events,
    nixKey: parts.trust.publicKey,
    addresses: () => localAddresses(port),
  })
  await membership.open()
  push('membership', () => membership.close())

  const notes = createNotes({ dir: join(stateDir, 'notes'), members: membership, events, log })
  notes.open()
  push('the notes', () => notes.close())

  const up = new Set<PeerKey>()
  events.on('peer:up', key => up.add(key))
  events.on('peer:down', key => up.delete(key))

  let answer: ReturnType<typeof createPeerRoutes> | undefined
  const peering = createPeering({
    members: membership,
    host: '::',
    port,
    handler: (request, response, peer) => answer?.(request, response, peer),
    // Another island's admin may have let them in: a list says so, and asking is rate-limited.
    acceptStrangers: () => membership.siteName !== undefined,
    events,
    log,
  })

  const gossip = createGossip({
    members: membership,
    port,
    hostName: config.hostName,
    version: parts.version,
    upstreams: config.upstreams.map(({ url }) => upstreamName(url)),
    stateDir,
    indexes: catalog.indexes,
    notes,
    events,
    log,
  })

  const spool = createNarSpool({
    dir: join(stateDir, 'spool'),
    named: config.cache.tee || config.cache.keepShipments,
  })
  await spool.open()
  push('the spool', () => spool.close())

  const discovery = { current: undefined as ReturnType<typeof createDiscovery> | undefined }
  const peerHolders = createPeerHolders({
    ownKey: membership.key,
    indexes: catalog.indexes,
    facts: {
      isUp: key => up.has(key),
      up: () => up,
      through: key => gossip.through(key),
      addresses: key => gossip.addresses(key),
      nameOf: key => (membership.isMember(key) ? membership.nameOf(key) : undefined),
      rttMs: key => gossip.rttMs(key),
    },
    transport: peering,
    spool,
    async *paths(key) {
      for await (const entries of catalog.indexes.entries(key)) {
        yield entries.map(({ storePath }): StorePath => storePath)
      }
    },
    storeDir: config.store.dir,
    events,
  })

  const upstreams = createUpstreams({
    configured: config.upstreams,
    dir: join(stateDir, 'upstream'),
    pool: parts.pool,
    events,
    expectedStoreDir: config.store.dir,
    allowFound: network.nixServe,
    agreeFor: url => {
      const name = upstreamName(url)
      return hashPart => {
        const fetcher = fetcherOf(hashPart, [membership.key, ...gossip.withUpstream(name)])
        return fetcher === undefined || fetcher === membership.key ? 'self' : fetcher
      }
    },
    viaPeerFor: url => key =>
      up.has(key)
        ? createViaPeer({
            upstream: upstreamName(url),
            key,
            addresses: () => gossip.addresses(key),
            transport: peering,
          })
        : undefined,
  })
  await upstreams.open()
  push('the upstreams', () => upstreams.close())

  const sources = siteSources({
    membership,
    // Where a host answered that was to be paired with, it will be met again.
    transport: {
      async exchange(address, remoteKey, makeRequest) {
        const reply = await peering.exchange(address, remoteKey, makeRequest)
        met.set(remoteKey, address)
        return reply
      },
    },
    candidates: () => discovery.current?.candidates() ?? [],
  })
  const met = new Map<PeerKey, PeerAddress>()

  /** Who was a stranger when last seen may be a member now: nobody waits for the next sighting. */
  const lookAgain = (): void => {
    const asked = [...met].map(([key, address]): PeerCandidate => ({
      key,
      address,
      source: 'told',
    }))
    met.clear()
    for (const candidate of [...asked, ...(discovery.current?.candidates() ?? [])]) {
      events.emit('peer:sighted', candidate)
    }
  }

  return {
    membership,
    notes,
    peerHolders,
    upstreams,
    sources,
    peers: () => ({ peers: listPeers(gossip.status(), membership.members()) }),
    presence: key => ({
      name: membership.nameOf(key),
      up: up.has(key),
      lastSeen: gossip.lastSeen(key),
    }),
    problems: () => [...membership.problems(), ...(discovery.current?.problems() ?? [])],
    async start({ substitution, counters, inventory, holders, lanHttpPort }) {
      answer = createPeerRoutes({
        substitution,
        counters,
        log,
        relay(name) {
          if (config.share.withPeers === 'none') return undefined
          const at = config.upstreams.findIndex(({ url }) => upstreamName(url) === name)
          return upstreams.holders()[at]?.relay
        },
        pair: (request, peer) => membership.admit(request, peer.handshakeHash, peer.key),
      })
      await peering.open()
      push('peering', () => peering.close())

      await gossip.open()
      push('gossip', () => gossip.close())

      // A host that another island admitted has a list that proves it.
      const introduce = (candidate: PeerCandidate) => {
        void membership.introduce(candidate, peering)
      }
      events.on('peer:sighted', introduce)
      events.on('members:changed', lookAgain)
      push('introductions', () => {
        events.off('peer:sighted', introduce).off('members:changed', lookAgain)
      })

      const found = createDiscovery({
        key: membership.key,
        hostName: config.hostName,
        port,
        httpPort: lanHttpPort,
        httpHost: config.http.host,
        mdns: network.mdns,
        interfaces: network.interfaces,
        peers: network.peers,
        nixServe: network.nixServe,
        isMember: key => membership.isMember(key),
        events,
        log,
      })
      discovery.current = found
      await found.open()
      push('discovery', () => found.close())

      const ownIndex = createOwnIndex({
        holders,
        inventory,
        tell(holder, holding) {
          const told = parts.trust.tell(holder, holding, config.share.withPeers)
          // A proof that only reading a NAR gives is found when the path is asked for: nobody reads a whole drive for it.
          return holder.kind === 'drive' && typeof told === 'function' ? { told: false } : told
        },
        log: createCatalogLog(catalog.indexes, membership.key),
        append: change => gossip.append(change),
      })
      await ownIndex.open()
      push('the own index', () => ownIndex.close())
    },
  }
}
