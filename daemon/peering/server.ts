import { createServer as createHttpServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Socket } from 'node:net'
import type { PeerKey } from '../site.ts'
import { HEADERS_MAX_BYTES, PAIR_REQUEST_MAX_BYTES, type PeeringLimits } from './limits.ts'
import type { Peer, PeeringOptions } from './peering.ts'
import { createRateLimit } from './rate-limit.ts'
import { secure, SOCKET_BUFFER_BYTES, type SecureDuplex, type Secured } from './secure-duplex.ts'

/** The side that is called. */
export interface PeerServer {
  open(): Promise<number>
  close(): Promise<void>
  /** Ends the connections of who is no member any more. */
  cutStrangers(): void
  connections(): number
}

interface Connection {
  readonly duplex: SecureDuplex
  readonly peer: Peer
  /** Set while the headers of a request are on their way. */
  headersTimer: NodeJS.Timeout | undefined
  /** A request is being answered. */
  busy: boolean
}

const addressOf = (socket: Socket): string => socket.remoteAddress ?? 'unknown'

/** Makes the server; nothing listens yet. */
export function createPeerServer(
  options: Omit<PeeringOptions, 'limits'> & { readonly limits: PeeringLimits },
): PeerServer {
  const { members, limits, log } = options
  const sockets = new Map<Socket, string>()
  const perAddress = new Map<string, number>()
  const connections = new Map<SecureDuplex, Connection>()
  const strangers = createRateLimit(limits)
  let handshakes = 0

  const http = createHttpServer(
    {
      maxHeaderSize: HEADERS_MAX_BYTES,
      // Node's own limits on requests need a server that listens by itself; headersMs takes their place.
      keepAliveTimeout: limits.idleMs,
      requestTimeout: 0,
      headersTimeout: 0,
    },
    (request, response) => answer(request, response),
  )
  http.timeout = limits.idleMs
  http.on('clientError', (_error, socket) => socket.destroy())

  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const connection = connections.get(request.socket as unknown as SecureDuplex)
    if (connection === undefined) return void request.socket.destroy()
    clearTimeout(connection.headersTimer)
    connection.headersTimer = undefined
    connection.busy = true
    response.once('close', () => (connection.busy = false))
    const { peer } = connection
    if (!peer.member && !mayPair(request)) {
      // One answer and the end: a stranger learns that it is one, nothing else.
      response.writeHead(403, { Connection: 'close', 'Content-Length': 0 }).end()
      return
    }
    options.handler(request, response, peer)
  }

  const adopt = ({ duplex, remotePublicKey, handshakeHash }: Secured, socket: Socket): void => {
    const key = remotePublicKey.toString('hex') as PeerKey
    const member = members.isMember(key)
    if (!member) {
      if (!options.acceptStrangers() || !strangers.take(addressOf(socket))) {
        duplex.destroy()
        return
      }
      const timer = setTimeout(() => duplex.destroy(), limits.strangerMs)
      duplex.once('close', () => clearTimeout(timer))
    }
    const connection: Connection = {
      duplex,
      peer: { key, handshakeHash, member },
      headersTimer: undefined,
      busy: false,
    }
    connections.set(duplex, connection)
    duplex.once('close', () => {
      clearTimeout(connection.headersTimer)
      connections.delete(duplex)
    })
    http.emit('connection', duplex)
  }

  const onBytes = (duplex: () => SecureDuplex | undefined) => (): void => {
    const current = duplex()
    const connection = current && connections.get(current)
    if (connection === undefined || connection.busy) return
    connection.headersTimer ??= setTimeout(() => current?.destroy(), limits.headersMs)
  }

  const welcome = async (socket: Socket): Promise<void> => {
    handshakes++
    let duplex: SecureDuplex | undefined
    try {
      const secured = await secure(socket, {
        keyPair: members.keyPair,
        timeoutMs: limits.handshakeMs,
        onBytes: onBytes(() => duplex),
      })
      ;({ duplex } = secured)
      adopt(secured, socket)
    } catch (error) {
      log.debug({ err: error, address: addressOf(socket) }, 'a connection came to no handshake')
      socket.destroy()
    } finally {
      handshakes--
    }
  }

  const tcp = createServer(
    { noDelay: true, keepAlive: true, highWaterMark: SOCKET_BUFFER_BYTES },
    socket => {
      const address = addressOf(socket)
      const count = perAddress.get(address) ?? 0
      socket.on('error', () => undefined)
      if (
        count >= limits.perAddress ||
        sockets.size >= limits.connections ||
        handshakes >= limits.handshakes
      ) {
        socket.destroy()
        return
      }
      sockets.set(socket, address)
      perAddress.set(address, count + 1)
      socket.once('close', () => {
        sockets.delete(socket)
        const left = (perAddress.get(address) ?? 1) - 1
        if (left === 0) perAddress.delete(address)
        else perAddress.set(address, left)
      })
      void welcome(socket)
    },
  )

  return {
    open: () =>
      new Promise((resolve, reject) => {
        tcp.once('error', reject)
        tcp.listen(options.port, options.host, () => {
          tcp.off('error', reject)
          // A failing accept (no descriptors left) is one connection less, not the end of the daemon.
          tcp.on('error', error => log.warn({ err: error }, 'peering cannot accept a connection'))
          const address = tcp.address()
          resolve(typeof address === 'object' && address !== null ? address.port : options.port)
        })
      }),
    async close() {
      const closed = new Promise<void>(resolve => tcp.close(() => resolve()))
      for (const { duplex } of connections.values()) duplex.destroy()
      for (const socket of sockets.keys()) socket.destroy()
      http.close()
      if (tcp.listening || sockets.size > 0) await closed
    },
    cutStrangers() {
      for (const { duplex, peer } of connections.values()) {
        if (peer.member && !members.isMember(peer.key)) duplex.destroy()
      }
    },
    connections: () => connections.size,
  }
}

/** What is left to a stranger: one small request to be paired. */
function mayPair(request: IncomingMessage): boolean {
  const length = Number(request.headers['content-length'] ?? NaN)
  return request.method === 'POST' && request.url === '/pair' && length <= PAIR_REQUEST_MAX_BYTES
}
