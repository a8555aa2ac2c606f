import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { networkInterfaces } from 'node:os'
import HyperDHT from 'hyperdht'
import Hyperswarm, { type SwarmConnection } from 'hyperswarm'
import { fail, problemOf } from '../../protocol/errors.ts'
import type { NoiseKeyPair, PeerAddress } from '../site.ts'

// Our own DHT node, which knows the site's hosts and nothing else, and the swarm on it. The public network is never
// asked: a bootstrapper has no bootstrap list, and topics are not used, as two nodes alone never find each other by one.

/** What a node claims to be while the host has no address: the claim is looked at by nobody, peers see packets' sources. */
const NO_NETWORK = '127.0.0.1'
/** Dials at once. Each dead address holds a place for seconds, and the living must not queue behind the dead. */
const DIALS_AT_ONCE = 16
/** Connections at most; a site is far smaller. */
const CONNECTIONS_LIMIT = 1024
/**
 * A dial without an answer for so long, ms, that began before the other gave a sign of life: what it sent is lost, and it
 * sends again after a second only. A handshake on a LAN takes 50 ms.
 */
const STUCK_MS = 250
/**
 * How often one is given up for a new one, ms, and how long a sign of life holds. Where processors are busy a handshake takes
 * seconds, and must be let end: the other may have taken the connection already, and refuses a second one for a while.
 */
const RENEW_MS = 60_000
/** How long a close may take that says goodbye, before it is done without. */
const GOODBYE_MS = 2_000

/** The host's IPv4 addresses that others may reach. */
export function ownAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap(list => list ?? [])
    .filter(({ family, internal }) => family === 'IPv4' && !internal)
    .map(({ address }) => address)
}

/** The address to claim: the one claimed so far while it is still ours. */
export function claimedAddress(addresses: readonly string[], current?: string): string {
  return current !== undefined && addresses.includes(current)
    ? current
    : (addresses[0] ?? NO_NETWORK)
}

export interface LanNode {
  readonly claimed: string
  readonly swarm: Hyperswarm
  /**
   * Tries to reach a host at all its addresses, now and by hyperswarm's own retries later. `alive`: it has just shown that it is
   * there, so a dial that began before and is stuck is begun anew.
   */
  dial(publicKey: Buffer, addresses: readonly PeerAddress[], alive: boolean): void
  /** The connection with it ended: that it was there says nothing any more. */
  lost(publicKey: Buffer): void
  close(): Promise<void>
}

interface NodeOptions {
  readonly port: number
  readonly claimed: string
  readonly keyPair: NoiseKeyPair
  /** Whether that key may connect at all. */
  readonly admits: (publicKey: Buffer) => boolean
  /** Where that key was seen, asked at every dial. */
  readonly addressesOf: (publicKey: Buffer) => readonly PeerAddress[]
  readonly backoffsMs: readonly number[]
  readonly onConnection: (connection: SwarmConnection) => void
}

/**
 * Dials that have no answer yet. While there is one, the swarm begins no other, and of the two ends that with the larger key
 * refuses the other's as well.
 */
function createDials() {
  interface Dial {
    readonly connection: SwarmConnection
    readonly at: number
    /** Whether nobody had said that the other is there. */
    readonly blind: boolean
  }
  const pending = new Map<string, Dial>()
  const signs = new Map<string, number>()
  const renewals = new Map<string, number>()
  const isRecent = (at: number | undefined): boolean =>
    at !== undefined && performance.now() - at < RENEW_MS

  return {
    begun(publicKey: Buffer, connection: SwarmConnection) {
      const key = publicKey.toString('hex')
      const dial: Dial = { connection, at: performance.now(), blind: !isRecent(signs.get(key)) }
      pending.set(key, dial)
      const over = () => {
        if (pending.get(key) === dial) pending.delete(key)
      }
      connection.once('open', over)
      connection.once('close', over)
    },
    /** Calls `dial`; where one that was blind has no answer still when it should, that is given up first. */
    alive(publicKey: Buffer, dial: () => void) {
      const key = publicKey.toString('hex')
      const waiting = pending.get(key)
      signs.set(key, performance.now())
      if (waiting?.blind !== true || isRecent(renewals.get(key))) return dial()
      renewals.set(key, performance.now())
      const giveUp = () => {
        if (pending.get(key) !== waiting) return
        // The swarm has to hear of the end first.
        waiting.connection.once('close', () => setImmediate(dial))
        waiting.connection.destroy()
      }
      setTimeout(giveUp, Math.max(0, waiting.at + STUCK_MS - performance.now())).unref()
    },
    lost: (publicKey: Buffer) => void signs.delete(publicKey.toString('hex')),
  }
}

/** Throws NETWORK_PORT_TAKEN. Asked before the node is made: one that cannot bind cannot be destroyed either. */
async function checkPort(port: number): Promise<void> {
  const socket = createSocket('udp4')
  try {
    socket.bind(port)
    await once(socket, 'listening')
  } catch (error) {
    fail('NETWORK_PORT_TAKEN', { port, problem: problemOf(error) }, error)
  } finally {
    socket.close()
  }
}

/** Binds the port and listens. Throws NETWORK_PORT_TAKEN. */
export async function openLanNode(options: NodeOptions): Promise<LanNode> {
  const { port, claimed, keyPair, admits, addressesOf } = options
  await checkPort(port)
  const dht = HyperDHT.bootstrapper(port, claimed)
  dht.on('error', () => {})
  // A routing table drops what does not fit in a bucket of 20, so a host is dialled where it was seen, not looked for.
  const connect = dht.connect.bind(dht)
  const dials = createDials()
  dht.connect = (publicKey, connectOptions) => {
    const relayAddresses = addressesOf(publicKey)
    const connection = connect(publicKey, {
      ...connectOptions,
      ...(relayAddresses.length > 0 && { relayAddresses }),
    })
    dials.begun(publicKey, connection)
    return connection
  }
  const swarm = new Hyperswarm({
    dht,
    keyPair,
    firewall: publicKey => !admits(publicKey),
    maxPeers: CONNECTIONS_LIMIT,
    maxParallel: DIALS_AT_ONCE,
    backoffs: options.backoffsMs,
    jitter: Math.ceil((options.backoffsMs[0] ?? 0) / 4),
  })
  // A refused key would stay refused for ever, member or not, and every stranger would leave an entry.
  swarm.on('ban', peer => {
    peer.ban(false)
    swarm.leavePeer(peer.publicKey)
  })
  swarm.on('connection', options.onConnection)
  await swarm.listen()
  return {
    claimed,
    swarm,
    dial(publicKey, addresses, alive) {
      for (const { host, port: theirs } of addresses) dht.addNode({ host, port: theirs })
      const join = () => {
        if (!swarm.destroyed && admits(publicKey)) swarm.joinPeer(publicKey)
      }
      if (alive) dials.alive(publicKey, join)
      else join()
    },
    lost: dials.lost,
    async close() {
      const timer = setTimeout(() => void swarm.destroy({ force: true }), GOODBYE_MS)
      await swarm.destroy()
      clearTimeout(timer)
    },
  }
}
