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
  /** Tries to reach a host at all its addresses, now and by hyperswarm's own retries later. */
  dial(publicKey: Buffer, addresses: readonly PeerAddress[]): void
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
  dht.connect = (publicKey, connectOptions) => {
    const relayAddresses = addressesOf(publicKey)
    return connect(publicKey, {
      ...connectOptions,
      ...(relayAddresses.length > 0 && { relayAddresses }),
    })
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
    dial(publicKey, addresses) {
      for (const { host, port: theirs } of addresses) dht.addNode({ host, port: theirs })
      swarm.joinPeer(publicKey)
    },
    async close() {
      const timer = setTimeout(() => void swarm.destroy({ force: true }), GOODBYE_MS)
      await swarm.destroy()
      clearTimeout(timer)
    },
  }
}
