import { Agent, request as httpRequest } from 'node:http'
import type { AgentOptions, ClientRequest, IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { fail, NarwharfError, problemOf } from '../../protocol/errors.ts'
import type { Members, PeerAddress, PeerKey } from '../site.ts'
import { HEADERS_MAX_BYTES, PAIR_REPLY_MAX_BYTES, type PeeringLimits } from './limits.ts'
import { secure, SOCKET_BUFFER_BYTES, type SecureDuplex, type Secured } from './secure-duplex.ts'

/** What is asked of a peer. */
export interface PeerRequest {
  readonly method?: 'GET' | 'HEAD' | 'POST' | undefined
  readonly path: string
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Bytes of the body wanted: from `offset` to `end`, exclusive. */
  readonly range?: { readonly offset: number; readonly end?: number | undefined } | undefined
  readonly body?: Buffer | undefined
  /** Ends the request and its body. */
  readonly signal?: AbortSignal | undefined
}

/** What a peer answers: any status, its body at the reader's pace. */
export interface PeerReply {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  /** Throws PEER_BROKE when it ends too early, PEER_STALLED when nothing comes; to be read or destroyed. */
  readonly body: AsyncIterable<Buffer>
  /** Lets the rest go. */
  destroy(): void
}

/** The side that calls. */
export interface PeerClient {
  request(key: PeerKey, addresses: readonly PeerAddress[], request: PeerRequest): Promise<PeerReply>
  exchange(
    address: PeerAddress,
    remoteKey: PeerKey,
    makeRequest: (handshakeHash: Buffer) => Buffer,
  ): Promise<Buffer>
  cutStrangers(): void
  connections(): number
  close(): void
}

const nameOf = ({ host, port }: PeerAddress): string => `${host}:${port}`

/** Connections to one peer, kept and used again. */
interface Pool {
  readonly agent: Agent
  /** Tried in this order, the one that answered last first. */
  addresses: readonly PeerAddress[]
  readonly open: Set<SecureDuplex>
}

/** Makes the client; it connects when it is asked. */
export function createPeerClient(options: {
  readonly members: Members
  readonly limits: PeeringLimits
}): PeerClient {
  const { members, limits } = options
  const pools = new Map<PeerKey, Pool>()
  let closed = false

  /** One TCP connection and its handshake; the whole of it within connectMs. */
  const dial = async (key: PeerKey, { host, port }: PeerAddress): Promise<Secured> => {
    const socket = new Socket({ highWaterMark: SOCKET_BUFFER_BYTES } as object)
    const deadline = performance.now() + limits.connectMs
    socket.on('error', () => undefined)
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(
        () => socket.destroy(new Error(`no answer within ${limits.connectMs} ms`)),
        limits.connectMs,
      )
      socket.once('connect', resolve).once('error', reject)
      socket.once('close', () => reject(new Error('the connection was closed')))
      const stop = () => clearTimeout(timer)
      socket.once('connect', stop).once('close', stop)
      socket.connect({ host, port, noDelay: true, keepAlive: true })
    })
    return secure(socket, {
      keyPair: members.keyPair,
      remotePublicKey: Buffer.from(key, 'hex'),
      timeoutMs: Math.max(1, deadline - performance.now()),
    })
  }

  /** Tries each address in turn. Rejects with PEER_UNREACHABLE. */
  const connect = async (key: PeerKey, addresses: readonly PeerAddress[]): Promise<Secured> => {
    let problem = 'no address is known'
    for (const address of addresses) {
      try {
        const secured = await dial(key, address)
        const pool = pools.get(key)
        if (pool !== undefined) {
          pool.addresses = [address, ...pool.addresses.filter(other => other !== address)]
        }
        return secured
      } catch (error) {
        problem = `${nameOf(address)}: ${problemOf(error)}`
      }
    }
    return fail('PEER_UNREACHABLE', { peer: members.nameOf(key) ?? key, problem })
  }

  const createPool = (key: PeerKey): Pool => {
    const open = new Set<SecureDuplex>()
    const agent = new Agent({
      keepAlive: true,
      maxSockets: limits.socketsPerPeer,
      maxFreeSockets: limits.socketsPerPeer,
      scheduling: 'lifo',
      timeout: limits.idleMs,
    })
    const pool: Pool = { agent, addresses: [], open }
    // The documented way to give an agent other sockets (https.Agent does the same).
    const createConnection = (
      _options: AgentOptions,
      done: (error: Error | null, socket?: Duplex) => void,
    ): undefined => {
      connect(key, pool.addresses).then(
        ({ duplex }) => {
          if (closed || !members.isMember(key)) {
            duplex.destroy()
            return done(
              new NarwharfError('PEER_UNREACHABLE', { peer: key, problem: 'it is no member' }),
            )
          }
          open.add(duplex)
          duplex.once('close', () => open.delete(duplex))
          done(null, duplex)
        },
        (error: Error) => done(error),
      )
    }
    Object.assign(agent, { createConnection })
    pools.set(key, pool)
    return pool
  }

  const request: PeerClient['request'] = async (key, addresses, asked) => {
    const peer = members.nameOf(key) ?? key
    if (closed || !members.isMember(key)) {
      fail('PEER_UNREACHABLE', { peer, problem: 'it is no member of the site' })
    }
    const pool = pools.get(key) ?? createPool(key)
    // What answered last stays first; what is not told any more is dropped.
    const known = pool.addresses.filter(one => addresses.some(two => nameOf(one) === nameOf(two)))
    pool.addresses = [
      ...known,
      ...addresses.filter(one => known.every(two => nameOf(one) !== nameOf(two))),
    ]
    const { agent } = pool
    // Kept connections may have been closed by the peer just as they were taken, all of them after a restart: that says
    // nothing, a new one does.
    for (let stale = 0; ; stale++) {
      try {
        return await send(peer, asked, { agent }, limits.stallMs)
      } catch (error) {
        if (!(error instanceof StaleError)) throw error
        if (stale >= limits.socketsPerPeer) throw broke(peer, 'it closes every connection', error)
      }
    }
  }

  return {
    request,
    async exchange(address, remoteKey, makeRequest) {
      const { duplex, handshakeHash } = await connect(remoteKey, [address])
      try {
        const body = makeRequest(handshakeHash)
        const reply = await send(
          remoteKey,
          { method: 'POST', path: '/pair', body },
          { createConnection: () => duplex as unknown as Socket },
          limits.stallMs,
        )
        const parts: Buffer[] = []
        let length = 0
        for await (const part of reply.body) {
          parts.push(part)
          length += part.length
          if (length > PAIR_REPLY_MAX_BYTES) {
            fail('PEER_BROKE', { peer: remoteKey, problem: 'its answer is too long' })
          }
        }
        if (reply.status !== 200) {
          fail('PEER_BROKE', { peer: remoteKey, problem: `it answered with ${reply.status}` })
        }
        return Buffer.concat(parts, length)
      } finally {
        duplex.destroy()
      }
    },
    cutStrangers() {
      for (const [key, { agent, open }] of pools) {
        if (members.isMember(key)) continue
        pools.delete(key)
        agent.destroy()
        for (const duplex of open) duplex.destroy()
      }
    },
    connections: () => [...pools.values()].reduce((sum, { open }) => sum + open.size, 0),
    close() {
      closed = true
      for (const { agent, open } of pools.values()) {
        agent.destroy()
        for (const duplex of open) duplex.destroy()
      }
      pools.clear()
    },
  }
}

/** A connection that was used before broke before anything came back. */
class StaleError extends Error {}

function send(
  peer: string,
  asked: PeerRequest,
  how: { readonly agent: Agent } | { readonly createConnection: () => Socket },
  stallMs: number,
): Promise<PeerReply> {
  const { method = 'GET', path, headers = {}, range, body, signal } = asked
  return new Promise((resolve, reject) => {
    const sent = httpRequest({
      ...how,
      method,
      path,
      maxHeaderSize: HEADERS_MAX_BYTES,
      headers: {
        Host: 'peer',
        ...headers,
        ...(range === undefined
          ? {}
          : { Range: `bytes=${range.offset}-${range.end === undefined ? '' : range.end - 1}` }),
        ...(body === undefined ? {} : { 'Content-Length': String(body.length) }),
      },
      ...(signal === undefined ? {} : { signal }),
    })
    const timer = createStallTimer(peer, stallMs, error => sent.destroy(error))
    // Not before: connecting has its own limit, and waiting for a free connection is nobody's fault.
    sent.once('socket', timer.touch)
    sent.once('response', response => {
      timer.touch()
      resolve(replyOf(peer, sent, response, timer))
    })
    sent.once('error', (error: Error) => {
      timer.stop()
      if (error instanceof NarwharfError || error.name === 'AbortError') return reject(error)
      reject(sent.reusedSocket ? new StaleError() : broke(peer, problemOf(error), error))
    })
    sent.end(body)
  })
}

const broke = (peer: string, problem: string, cause?: unknown): NarwharfError =>
  new NarwharfError('PEER_BROKE', { peer, problem }, cause)

interface StallTimer {
  /** Set when it ran out. */
  readonly error: NarwharfError | undefined
  touch(): void
  stop(): void
}

function createStallTimer(
  peer: string,
  stallMs: number,
  onStall: (error: NarwharfError) => void,
): StallTimer {
  let timer: NodeJS.Timeout | undefined
  let stalled: NarwharfError | undefined
  const stop = (): void => clearTimeout(timer)
  const run = (): void => {
    const problem = `nothing came for ${stallMs / 1000} s`
    stalled = new NarwharfError('PEER_STALLED', { peer, problem })
    onStall(stalled)
  }
  return {
    get error() {
      return stalled
    },
    touch() {
      stop()
      timer = setTimeout(run, stallMs).unref()
    },
    stop,
  }
}

function replyOf(
  peer: string,
  sent: ClientRequest,
  response: IncomingMessage,
  timer: StallTimer,
): PeerReply {
  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        // A reader that takes its time is no stall: the clock runs only while the peer is waited for.
        timer.stop()
        yield chunk
        timer.touch()
      }
    } catch (error) {
      if (error instanceof NarwharfError) throw error
      // Node says of the response that it was cut off, not by whom.
      if (timer.error !== undefined) throw timer.error
      if ((error as Error).name === 'AbortError') throw error
      throw broke(peer, problemOf(error), error)
    } finally {
      timer.stop()
      if (!response.complete) sent.destroy()
    }
  }
  const body = chunks()
  return {
    status: response.statusCode ?? 0,
    headers: response.headers as Readonly<Record<string, string | undefined>>,
    body,
    destroy() {
      timer.stop()
      sent.destroy()
      body.return().catch(() => undefined)
    },
  }
}
