import { Agent, createServer, request, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Scope } from './scope.ts'

/** What went through. `bytes` counts the body that reached the client. */
export interface Exchange {
  readonly method: string
  readonly url: string
  readonly range: string | undefined
  readonly acceptRanges: string | undefined
  status: number
  bytes: number
  /** The client's or the daemon's connection broke before the body was whole. */
  broken: boolean
}

/** Decides what happens to one exchange, when its reply's headers are there. */
export interface Meddling {
  /** Cuts the client's connection after so many bytes of body. */
  readonly cutAfter?: number
  /** Is called when so many bytes of body have reached the client's socket; the body waits until it is done. */
  readonly pauseAt?: { readonly bytes: number; run(): Promise<unknown> }
  /** Called before the request goes on to the daemon. */
  readonly before?: () => Promise<unknown>
}

/** A proxy that sees everything between clients and a daemon. */
export interface RecordingProxy {
  readonly url: string
  readonly exchanges: Exchange[]
  /** What to do to an exchange; undefined: nothing. Called once per request. */
  meddle: (exchange: Exchange) => Meddling | undefined
  /** Where it leads to; a daemon that came back elsewhere is set here. */
  target: string
}

/** Statuses a Nix client may see from a daemon; all others cost it retries or the whole build. */
export const GOOD_STATUSES: readonly number[] = [200, 206, 304, 404, 416]

/** The exchanges that broke the rule "never 5xx": for a test's last assertion. */
export const badExchanges = (proxy: RecordingProxy): readonly string[] =>
  proxy.exchanges
    .filter(({ status }) => !GOOD_STATUSES.includes(status))
    .map(({ method, url, status }) => `${status} ${method} ${url}`)

/** Starts a proxy before a daemon. A daemon that cannot be reached is a connection closed without an answer, status 0. */
export async function startProxy(
  scope: Scope,
  target: string,
  host = '127.0.0.1',
): Promise<RecordingProxy> {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })
  const sockets = new Set<Socket>()
  const proxy: RecordingProxy & { url: string } = {
    url: '',
    exchanges: [],
    meddle: () => undefined,
    target,
  }
  const server = createServer((incoming, outgoing) => {
    pass(proxy, agent, incoming, outgoing).catch(() => incoming.socket.destroy())
  })
  server.keepAliveTimeout = 120_000
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, host, resolve))
  proxy.url = `http://${host}:${(server.address() as AddressInfo).port}`
  scope.teardown(async () => {
    agent.destroy()
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  return proxy
}

async function pass(
  proxy: RecordingProxy,
  agent: Agent,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const header = (name: string, headers: IncomingMessage['headers']) => {
    const value = headers[name]
    return Array.isArray(value) ? value[0] : value
  }
  const exchange: Exchange = {
    method: incoming.method ?? '',
    url: incoming.url ?? '',
    range: header('range', incoming.headers),
    acceptRanges: undefined,
    status: 0,
    bytes: 0,
    broken: false,
  }
  const meddling = proxy.meddle(exchange)
  await meddling?.before?.()
  // Two socket layers retry nothing: a stale kept-alive connection to a restarted daemon is tried once more, as curl does.
  const reply = await send(proxy.target, agent, incoming).catch(() =>
    send(proxy.target, undefined, incoming),
  )
  const seen = {
    ...exchange,
    status: reply.statusCode ?? 0,
    acceptRanges: header('accept-ranges', reply.headers),
  }
  proxy.exchanges.push(seen)
  outgoing.writeHead(seen.status, reply.rawHeaders)
  const limit = meddling?.cutAfter ?? Infinity
  let pause = meddling?.pauseAt
  const write = (bytes: Buffer) =>
    new Promise<void>(resolve => {
      seen.bytes += bytes.length
      outgoing.once('close', resolve)
      outgoing.write(bytes, () => {
        outgoing.off('close', resolve)
        resolve()
      })
    })
  try {
    for await (const chunk of reply as AsyncIterable<Buffer>) {
      if (outgoing.destroyed) throw new Error('the client went away')
      if (pause !== undefined && seen.bytes + chunk.length >= pause.bytes) {
        const { run } = pause
        pause = undefined
        await write(chunk)
        await run()
        continue
      }
      await write(chunk.subarray(0, Math.max(0, limit - seen.bytes)))
      if (seen.bytes >= limit) throw new Error('cut')
    }
    outgoing.end()
  } catch {
    seen.broken = true
    reply.destroy()
    outgoing.destroy()
  }
}

function send(
  target: string,
  agent: Agent | undefined,
  incoming: IncomingMessage,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request(
      new URL(incoming.url ?? '/', target),
      { method: incoming.method, headers: incoming.headers, agent: agent ?? false },
      resolve,
    )
      .on('error', reject)
      .end()
  })
}
