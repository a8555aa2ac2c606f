import type { SwarmConnection } from 'hyperswarm'
import type { Logger } from 'pino'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import type { EventBus } from '../events.ts'
import type { Members, PeerCandidate, PeerKey } from '../site.ts'
import { createAddressBook, type AddressBook } from './address-book.ts'
import { claimedAddress, openLanNode, type LanNode } from './lan-node.ts'
import { openLink, type Link, type LinkListener } from './link.ts'
import type { Hello } from './messages.ts'
import type { Timings } from './timings.ts'

export interface SwarmOptions {
  readonly members: Members
  /** UDP. */
  readonly port: number
  readonly hello: () => Hello
  /** This host's IPv4 addresses, asked again and again: interfaces come and go. */
  readonly addresses: () => readonly string[]
  readonly events: EventBus
  readonly log: Logger
  readonly timings: Timings
  /** Monotonic milliseconds. */
  readonly now: () => number
  readonly listener: LinkListener
}

/** Connections with the members, kept up by themselves. */
export interface Swarm {
  readonly book: AddressBook
  readonly links: ReadonlyMap<PeerKey, Link>
  /** Rejects with NETWORK_PORT_TAKEN. */
  open(): Promise<void>
  close(): Promise<void>
}

const keyOf = (publicKey: Buffer): PeerKey => publicKey.toString('hex') as PeerKey
const bytesOf = (key: PeerKey): Buffer => Buffer.from(key, 'hex')

export function createSwarm(options: SwarmOptions): Swarm {
  const { members, events, log, listener } = options
  const book = createAddressBook(key => members.isMember(key))
  const links = new Map<PeerKey, Link>()
  let node: LanNode | undefined
  let timer: NodeJS.Timeout | undefined
  let moving: Promise<void> = Promise.resolve()
  let open = false

  const admits = (publicKey: Buffer): boolean => {
    const key = keyOf(publicKey)
    return open && key !== members.key && members.isMember(key)
  }

  const onConnection = (connection: SwarmConnection) => {
    connection.on('error', () => {})
    // The list may have changed between handshake and here.
    if (!admits(connection.remotePublicKey)) return void connection.destroy()
    openLink(
      keyOf(connection.remotePublicKey),
      connection,
      options.hello(),
      { ...listener, up, down },
      options,
    )
  }

  const up = (link: Link) => {
    const before = links.get(link.key)
    links.set(link.key, link)
    if (link.address !== undefined) book.proven(link.key, link.address)
    // Both ends dialled at once: the newer connection is the one the swarm kept.
    if (before !== undefined) before.connection.destroy()
    listener.up(link)
    if (before === undefined) events.emit('peer:up', link.key)
  }
  const down = (link: Link, problem: string) => {
    listener.down(link, problem)
    if (links.get(link.key) !== link) return
    links.delete(link.key)
    node?.lost(bytesOf(link.key))
    events.emit('peer:down', link.key, problem)
  }

  const dial = (key: PeerKey, alive = false) => {
    if (node === undefined || links.has(key) || !admits(bytesOf(key))) return
    const addresses = book.of(key)
    if (addresses.length > 0) node.dial(bytesOf(key), addresses, alive)
  }
  const dialAll = () => book.keys().forEach(key => dial(key))

  const onSighted = ({ key, address, source }: PeerCandidate) => {
    book.sighted(key, address)
    // Only what comes by mDNS is of this moment; the rest is said again and again from memory.
    dial(key, source === 'mdns')
  }
  const onMembers = () => {
    if (node === undefined) return
    for (const connection of node.swarm.connections) {
      if (!admits(connection.remotePublicKey)) connection.destroy(new Error('revoked'))
    }
    for (const { publicKey } of node.swarm.peers.values()) {
      if (!admits(publicKey)) node.swarm.leavePeer(publicKey)
    }
    dialAll()
  }

  const start = async (claimed: string) => {
    node = await openLanNode({
      port: options.port,
      claimed,
      keyPair: members.keyPair,
      admits,
      addressesOf: publicKey => book.of(keyOf(publicKey)),
      backoffsMs: options.timings.backoffsMs,
      onConnection,
    })
    dialAll()
  }

  /** A node whose address went away is made anew: what it tells of itself would lead nowhere. */
  const follow = async () => {
    const claimed = claimedAddress(options.addresses(), node?.claimed)
    if (!open || claimed === node?.claimed) return
    log.info({ address: claimed }, `gossip moves to ${claimed}`)
    const old = node
    node = undefined
    await old?.close()
    if (open) await start(claimed)
  }
  const watch = () => {
    moving = moving.then(follow).catch((error: unknown) => {
      const problem = isNarwharfError(error) ? error.message : problemOf(error)
      log.error({ err: error }, `gossip cannot start: ${problem}; trying again`)
    })
  }

  return {
    book,
    links,
    async open() {
      if (open) return
      open = true
      events.on('peer:sighted', onSighted)
      events.on('members:changed', onMembers)
      try {
        await start(claimedAddress(options.addresses()))
      } catch (error) {
        await this.close()
        throw error
      }
      timer = setInterval(watch, options.timings.addressMs)
    },
    async close() {
      if (!open) return
      open = false
      clearInterval(timer)
      events.off('peer:sighted', onSighted)
      events.off('members:changed', onMembers)
      await moving
      const last = node
      node = undefined
      await last?.close()
    },
  }
}
