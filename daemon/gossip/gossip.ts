import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { PeerStatus } from '../../protocol/api.ts'
import { problemOf } from '../../protocol/errors.ts'
import type { EventBus } from '../events.ts'
import type { IndexChange, Members, NoteShelf, PeerAddress, PeerKey } from '../site.ts'
import { createHeadBook, type KnownHead } from './head-book.ts'
import { createHeadExchange } from './head-exchange.ts'
import type { Indexes } from './indexes.ts'
import { ownAddresses } from './lan-node.ts'
import type { Link, LinkListener } from './link.ts'
import { openLogStore, type LogStore } from './log-store.ts'
import { UPSTREAMS_LIMIT, type ToldPeer } from './messages.ts'
import { createNoteExchange } from './note-exchange.ts'
import { COMPACTION, createOwnLog, type CompactionLimits, type OwnLog } from './own-log.ts'
import { openPeerMemory, type PeerMemory } from './peer-memory.ts'
import { createReach } from './reach.ts'
import { createReplica, type Replica } from './replica.ts'
import { createSwarm } from './swarm.ts'
import { TIMINGS, type Timings } from './timings.ts'

export interface GossipOptions {
  readonly members: Members
  /** `network.port`, UDP. */
  readonly port: number
  readonly hostName: string
  readonly version: string
  /** Names of the upstream caches that this host may fetch from. */
  readonly upstreams?: readonly string[]
  /** The daemon's; the logs lie in `gossip/` below. */
  readonly stateDir: string
  readonly indexes: Indexes
  /** Notes that hosts tell of themselves; without it none are told. */
  readonly notes?: NoteShelf | undefined
  readonly events: EventBus
  readonly log: Logger
  /** Wall clock, for what people read. */
  readonly clock?: () => Date
  /** Monotonic milliseconds. */
  readonly now?: () => number
  readonly timings?: Partial<Timings>
  readonly compaction?: Partial<CompactionLimits>
  /** This host's IPv4 addresses. */
  readonly addresses?: () => readonly string[]
}

/** The site's hosts, connected: this host's index out, the peers' indexes in. */
export interface Gossip {
  /** Rejects with NETWORK_PORT_TAKEN. Works without a network, and finds it when it comes. */
  open(): Promise<void>
  close(): Promise<void>
  /** Writes a change of this host's holdings into its index: resolves when it is kept. In the order of the calls. */
  append(change: IndexChange): Promise<void>
  /** Every other member that anything is known of. */
  status(): PeerStatus[]
  /** When that host was last heard, as ISO text; undefined if never. */
  lastSeen(key: PeerKey): string | undefined
  /** Where a member was seen, the likeliest first. */
  addresses(key: PeerKey): readonly PeerAddress[]
  /** Connected members that can fetch from that upstream. */
  withUpstream(name: string): readonly PeerKey[]
  /** Connected members that are connected with that one: the way to whom this host cannot reach itself. */
  through(key: PeerKey): readonly PeerKey[]
  /** The last measured time there and back, ms; undefined while it is not connected. */
  rttMs(key: PeerKey): number | undefined
}

const NO_NOTES: NoteShelf = {
  marks: () => [],
  get: () => undefined,
  wants: () => false,
  offer: () => 'stranger',
}

export function createGossip(options: GossipOptions): Gossip {
  const { members, events, indexes, log } = options
  const timings: Timings = { ...TIMINGS, ...options.timings }
  const now = options.now ?? (() => performance.now())
  const clock = options.clock ?? (() => new Date())
  const dir = join(options.stateDir, 'gossip')
  const heads = createHeadBook(members)
  const exchange = createHeadExchange(heads, timings, now)
  const reach = createReach(timings.headsMs)
  const notes = createNoteExchange(options.notes ?? NO_NOTES, timings, now)
  const lastSeen = new Map<PeerKey, string>()
  const hellos = new Map<PeerKey, { readonly version: string }>()
  const lies = new Map<PeerKey, string>()
  let logs: LogStore | undefined
  let ownLog: OwnLog | undefined
  let replica: Replica | undefined
  let memory: PeerMemory | undefined

  const seen = (key: PeerKey) => {
    lastSeen.set(key, clock().toISOString())
    memory?.touch()
  }
  /** Whoever caught it, gossip here or bulk data elsewhere: `status` names it. */
  const onLied = (key: PeerKey, problem: string) => {
    if (lies.get(key) === problem) return
    lies.set(key, problem)
    log.warn({ peer: key }, `${members.nameOf(key) ?? key} was caught lying: ${problem}`)
  }
  const lied = (key: PeerKey, problem: string) => {
    if (lies.get(key) !== problem) events.emit('peer:lied', key, problem)
  }

  /** Where the others are: one address book entry given to one host leads it to all. */
  const toldTo = (link: Link): ToldPeer[] =>
    [...swarm.links.values()].flatMap(({ key, address }) =>
      key === link.key || address === undefined ? [] : [{ key, address }],
    )

  const listener: LinkListener = {
    up(link) {
      seen(link.key)
      hellos.set(link.key, link.hello)
      logs?.store.replicate(link.connection)
      const list = members.list()
      if (list !== undefined) link.channel.memberList(list)
      exchange.greet(link)
      notes.greet(link)
      reach.greet(link)
      link.channel.told(toldTo(link))
      const { key, address } = link
      if (address === undefined) return
      for (const other of swarm.links.values()) {
        if (other.key !== key) other.channel.told([{ key, address }])
      }
    },
    down(link) {
      seen(link.key)
      exchange.gone(link)
      notes.gone(link)
      reach.gone(link)
    },
    memberList(link, list) {
      try {
        const answer = members.offer(list)
        const ours = members.list()
        if (answer === 'older' && ours !== undefined) link.channel.memberList(ours)
      } catch (error) {
        lied(link.key, problemOf(error))
      }
    },
    heads(link, offered) {
      for (const bytes of offered) {
        try {
          takeHead(link, bytes)
        } catch (error) {
          return lied(link.key, problemOf(error))
        }
      }
    },
    told(_link, peers) {
      for (const { key, address } of peers) {
        if (key === members.key || !members.isMember(key) || swarm.links.has(key)) continue
        events.emit('peer:sighted', { key, address, source: 'told' })
      }
    },
    reach: reach.told,
    noteMarks: notes.marks,
    noteAsked: notes.asked,
    notePart(link, part) {
      try {
        notes.part(link, part)
      } catch (error) {
        lied(link.key, problemOf(error))
      }
    },
    lied,
  }

  const takeHead = (link: Link, bytes: Uint8Array) => {
    const offered = heads.offer(bytes)
    if (offered.is === 'stranger') return
    exchange.heard(link, offered.head)
    if (offered.is === 'mine') return ownLog?.witness(offered.head)
    if (offered.is !== 'newer') return
    replica?.follow(offered.head)
    memory?.touch()
    exchange.changed(false)
  }

  const swarm = createSwarm({
    members,
    port: options.port,
    hello: () => ({
      name: options.hostName,
      version: options.version,
      port: options.port,
      upstreams: (options.upstreams ?? []).slice(0, UPSTREAMS_LIMIT),
    }),
    addresses: options.addresses ?? ownAddresses,
    events,
    log,
    timings,
    now,
    listener,
  })

  const onMembers = () => {
    const list = members.list()
    if (list !== undefined) for (const link of swarm.links.values()) link.channel.memberList(list)
    exchange.again()
    notes.again()
    replica
      ?.forgetStrangers()
      .catch((error: unknown) => log.error({ err: error }, 'an index stays'))
  }

  const onNote = (_: PeerKey, by: 'us' | 'told') => notes.changed(by === 'us')

  const known = (): PeerKey[] =>
    [
      ...new Set([
        ...swarm.book.keys(),
        ...lastSeen.keys(),
        ...indexes.list().map(({ key }) => key),
      ]),
    ].filter(key => key !== members.key && members.isMember(key))

  const remembered = () =>
    known().map(key => ({
      key,
      lastSeen: lastSeen.get(key),
      addresses: swarm.book.of(key),
      head: heads.of(key)?.bytes.toString('base64'),
    }))

  /** What was known at the last stop: peers are dialled and logs served without anybody saying a word. */
  const recall = (loaded: PeerMemory['loaded']) => {
    const found: KnownHead[] = []
    for (const { key, lastSeen: at, addresses, head } of loaded) {
      if (!members.isMember(key)) continue
      if (at !== undefined) lastSeen.set(key, at)
      for (const address of addresses.toReversed()) swarm.book.sighted(key, address)
      if (head === undefined) continue
      try {
        const offered = heads.offer(Buffer.from(head, 'base64'))
        if (offered.is === 'newer') found.push(offered.head)
      } catch {
        // A damaged file: the head will be told again.
      }
    }
    return found
  }

  const heardAt = (key: PeerKey) =>
    swarm.links.has(key) ? clock().toISOString() : lastSeen.get(key)

  const statusOf = (key: PeerKey): PeerStatus => {
    const link = swarm.links.get(key)
    const index = indexes.list().find(one => one.key === key && one.inForce)
    const problem = replica?.problem(key) ?? lies.get(key)
    const at = heardAt(key)
    const [address] = link?.address === undefined ? swarm.book.of(key) : [link.address]
    return {
      name: members.nameOf(key) ?? link?.hello.name ?? key.slice(0, 8),
      key,
      up: link !== undefined,
      ...(at !== undefined && { lastSeen: at }),
      ...(address !== undefined && { address: `${address.host}:${address.port}` }),
      ...(link?.rttMs !== undefined && { rttMs: Math.round(link.rttMs * 10) / 10 }),
      ...(hellos.has(key) && { version: hellos.get(key)?.version ?? '' }),
      paths: index?.paths ?? 0,
      narBytes: index?.narBytes ?? 0,
      ...(index !== undefined && { epoch: index.epoch }),
      lag: replica?.lag(key) ?? 0,
      ...(problem !== undefined && { problem }),
    }
  }

  const openRooms = async () => {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    logs = await openLogStore(join(dir, 'logs'), log)
    memory = openPeerMemory(join(dir, 'peers.json'), timings.saveMs, remembered, log)
    const found = recall(memory.loaded)
    replica = createReplica({
      members,
      heads,
      indexes,
      logs,
      events,
      log,
      retryMs: timings.retryMs,
    })
    ownLog = createOwnLog({
      members,
      indexes,
      logs,
      dir,
      log,
      timings,
      compaction: { ...COMPACTION, ...options.compaction },
      hasPeers: () => known().length > 0,
      publish(head) {
        heads.setOwn(head)
        events.emit('index:changed', members.key)
        exchange.changed(true)
      },
    })
    await logs.sweep(new Set([...found.map(({ core }) => core), ...ownLog.cores()]))
    await ownLog.open()
    for (const head of found) replica.follow(head)
    await replica.forgetStrangers()
    events.on('members:changed', onMembers)
    events.on('peer:lied', onLied)
    events.on('note:changed', onNote)
    await swarm.open()
  }

  let opened: Promise<void> | undefined
  let closing: Promise<void> | undefined
  const closeRooms = async () => {
    await opened?.catch(() => {})
    events.off('members:changed', onMembers)
    events.off('peer:lied', onLied)
    events.off('note:changed', onNote)
    exchange.close()
    notes.close()
    reach.close()
    await swarm.close()
    await memory?.close()
    await replica?.close()
    await ownLog?.close()
    await logs?.close()
  }
  return {
    open: () => (opened ??= openRooms()),
    close: () => (closing ??= closeRooms()),
    async append(change) {
      await opened
      if (ownLog === undefined) throw new Error('gossip is not open')
      await ownLog.append(change)
    },
    status: () => known().map(statusOf),
    lastSeen: heardAt,
    addresses(key) {
      const linked = swarm.links.get(key)?.address
      const seenAt = swarm.book.of(key)
      if (linked === undefined) return seenAt
      return [
        linked,
        ...seenAt.filter(({ host, port }) => host !== linked.host || port !== linked.port),
      ]
    },
    withUpstream: name =>
      [...swarm.links.values()]
        .filter(({ hello }) => hello.upstreams.includes(name))
        .map(({ key }) => key),
    through: key => reach.through(key),
    rttMs: key => swarm.links.get(key)?.rttMs,
  }
}
