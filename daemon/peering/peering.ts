import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Logger } from 'pino'
import type { EventBus } from '../events.ts'
import type { Members, PeerAddress, PeerKey } from '../site.ts'
import { createPeerClient, type PeerReply, type PeerRequest } from './client.ts'
import { PEERING_LIMITS, type PeeringLimits } from './limits.ts'
import { createPeerServer } from './server.ts'

/** Who is at the other end of a connection, proven by the handshake. */
export interface Peer {
  readonly key: PeerKey
  /** Both ends have the same, and no third: a pairing proof is bound to it. */
  readonly handshakeHash: Buffer
  /** False only for somebody who may do nothing but ask to be paired. */
  readonly member: boolean
}

export interface PeeringOptions {
  readonly members: Members
  readonly host: string
  /** `network.port`: TCP here, UDP of the same number is gossip's. 0 asks the kernel for one. */
  readonly port: number
  /** Answers a member's request, or a stranger's `POST /pair`. */
  readonly handler: (request: IncomingMessage, response: ServerResponse, peer: Peer) => void
  /** Whether strangers may ask to be paired just now: there are invites out. */
  readonly acceptStrangers: () => boolean
  readonly events: EventBus
  readonly log: Logger
  readonly limits?: Partial<PeeringLimits> | undefined
}

/** HTTP inside Noise over TCP between the hosts of a site: what bulk bytes travel on. */
export interface Peering {
  /** Listens and resolves to the real port. */
  open(): Promise<number>
  close(): Promise<void>
  /**
   * Asks a peer, at the first of its addresses that answers with its key. Rejects with PEER_UNREACHABLE when none does and
   * with PEER_BROKE when the connection ends before the reply, with PEER_STALLED when nothing comes; a body that does so throws the
   * same out of its loop.
   */
  request(key: PeerKey, addresses: readonly PeerAddress[], request: PeerRequest): Promise<PeerReply>
  /** One `POST /pair` on a connection of its own, its body made from the handshake's hash. Rejects as `request`. */
  exchange(
    address: PeerAddress,
    remoteKey: PeerKey,
    makeRequest: (handshakeHash: Buffer) => Buffer,
  ): Promise<Buffer>
  /** Connections that are open now, both ways, for metrics and tests. */
  connections(): { readonly incoming: number; readonly outgoing: number }
}

/** Makes the room. Members only get in; who stops to be one is cut off at `members:changed`. */
export function createPeering(options: PeeringOptions): Peering {
  const { members, events } = options
  const limits: PeeringLimits = { ...PEERING_LIMITS, ...options.limits }
  const server = createPeerServer({ ...options, limits })
  const client = createPeerClient({ members, limits })
  const onMembersChanged = (): void => {
    server.cutStrangers()
    client.cutStrangers()
  }
  let port: Promise<number> | undefined
  return {
    open() {
      port ??= (async () => {
        events.on('members:changed', onMembersChanged)
        return server.open()
      })()
      return port
    },
    async close() {
      events.off('members:changed', onMembersChanged)
      client.close()
      await server.close()
      port = undefined
    },
    request: client.request,
    exchange: client.exchange,
    connections: () => ({ incoming: server.connections(), outgoing: client.connections() }),
  }
}
