import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Logger } from 'pino'
import type { HashPart } from '../../protocol/store-path.ts'
import type { FetchReply, Transport } from '../holders/upstream-transport.ts'
import { RELAY_PREFIX } from '../holders/peer.ts'
import { UPSTREAM_PREFIX } from '../holders/upstream-via-peer.ts'
import type { PeerKey } from '../site.ts'
import type { Audience } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { Counters } from './counters.ts'
import { createExtras } from './nix-extras.ts'
import { serveNar } from './nix-nar.ts'
import { sendNotFound } from './nix-narinfo.ts'

// What other hosts of the site may ask over their encrypted connections: NARs and small files that this host itself holds,
// and to be paired. No narinfos: what is held here they know from the index.

/** Largest body of a pairing request that is read. */
const PAIR_MAX_BYTES = 4 * 1024

/** URLs of peers: `/nar/<hash>-<NAR hash>.nar`, `/log/<name>.drv`. */
const URL_MAX_CHARACTERS = 1024

const HASH_PART = /^[0-9a-df-np-sv-z]{32}$/

const PEER: Audience = { loopback: false, legacy: false, peer: true }

/** What it cannot reach itself and this host can: one step, so that nothing goes in circles. */
const RELAY: Audience = { ...PEER, relay: true }

/** Who asks, as the handshake proved. */
export interface PeerAsking {
  readonly key: PeerKey
  readonly handshakeHash: Buffer
  readonly member: boolean
}

export interface PeerRoutesOptions {
  readonly substitution: Substitution
  readonly counters: Counters
  readonly log: Logger
  /** What this host fetches for the others from the upstream of that name; undefined where it has none such or shares nothing. */
  readonly relay?: ((upstream: string) => Transport | undefined) | undefined
  /** Answers a request to be paired, or throws; undefined: this host pairs nobody. */
  readonly pair?: ((request: Buffer, peer: PeerAsking) => Buffer | Promise<Buffer>) | undefined
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = []
  let length = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    length += part.length
    if (length > PAIR_MAX_BYTES) throw new Error('the body is too long')
    parts.push(part)
  }
  return Buffer.concat(parts, length)
}

/** The words of a URL's path, unescaped; undefined where an escape is broken. */
function wordsOf(url: string): readonly string[] | undefined {
  try {
    return url.slice(1).split('/').map(decodeURIComponent)
  } catch {
    return undefined
  }
}

/** Makes the handler of peering. It never throws, and answers everything it does not know with 404. */
export function createPeerRoutes(
  options: PeerRoutesOptions,
): (request: IncomingMessage, response: ServerResponse, peer: PeerAsking) => void {
  const { substitution, counters, log } = options
  const { routes } = createExtras(substitution)

  const pair = async (
    request: IncomingMessage,
    response: ServerResponse,
    peer: PeerAsking,
  ): Promise<void> => {
    if (options.pair === undefined) return sendNotFound(response, false)
    try {
      const reply = await options.pair(await readBody(request), peer)
      response.writeHead(200, { 'Content-Length': reply.length }).end(reply)
    } catch (error) {
      log.warn({ peer: peer.key, err: error }, 'a host that asked to be paired was refused')
      response.writeHead(403, { 'Content-Length': 0, Connection: 'close' }).end()
    }
  }

  /** `/upstream/<name>/<hash part or ->/<path>`: whatever goes wrong is a 503, and the asker tries its own link. */
  const relayUpstream = async (
    request: IncomingMessage,
    response: ServerResponse,
    [name = '', hashPart = '', path = '', ...more]: readonly string[],
  ): Promise<void> => {
    const relay = options.relay?.(name)
    const about = HASH_PART.test(hashPart) ? (hashPart as HashPart) : undefined
    if (relay === undefined || path === '' || more.length > 0) return sendNotFound(response, false)
    const abort = new AbortController()
    response.once('close', () => abort.abort())
    const offset = Number(/^bytes=(\d{1,15})-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    let reply: FetchReply | undefined
    try {
      reply = await relay.get({ path, hashPart: about, offset, signal: abort.signal })
      const { status, total } = reply
      const length =
        total === undefined ? {} : { 'Content-Length': Math.max(0, total - reply.offset) }
      const last = total === undefined ? '' : total - 1
      const range =
        status === 206
          ? { 'Content-Range': `bytes ${reply.offset}-${last || reply.offset}/${total ?? '*'}` }
          : {}
      response.writeHead(status, status === 200 || status === 206 ? { ...length, ...range } : {})
      for await (const chunk of reply.body) {
        if (!response.write(chunk)) await once(response, 'drain', { signal: abort.signal })
      }
      response.end()
    } catch {
      if (response.headersSent) response.destroy()
      else response.writeHead(503, { 'Content-Length': 0 }).end()
    } finally {
      reply?.destroy()
    }
  }

  const answer = async (
    request: IncomingMessage,
    response: ServerResponse,
    peer: PeerAsking,
  ): Promise<void> => {
    const { method, url = '' } = request
    if (method === 'POST' && url === '/pair') return pair(request, response, peer)
    const head = method === 'HEAD'
    const reading = head || method === 'GET'
    if (!peer.member || !reading || url.length > URL_MAX_CHARACTERS) {
      return sendNotFound(response, head)
    }
    const words = wordsOf(url)
    if (words === undefined) return sendNotFound(response, head)
    const [first = '', ...rest] = words
    if (first === 'nar' && rest.length === 1) {
      const [file = ''] = rest
      return serveNar(request, response, file, '', substitution, counters, log, PEER)
    }
    if (first === RELAY_PREFIX && rest[0] === 'nar' && rest.length === 2) {
      return serveNar(request, response, rest[1] ?? '', '', substitution, counters, log, RELAY)
    }
    if (first === UPSTREAM_PREFIX) return relayUpstream(request, response, rest)
    const route = routes.find(({ prefix, words: count }) =>
      prefix === '' ? words.length === count : prefix === first && rest.length === count,
    )
    const found = await route?.answer(route.prefix === '' ? words : rest, PEER)
    if (found === undefined) return sendNotFound(response, head)
    response.writeHead(200, {
      'Content-Type': found.type,
      'Content-Length': Buffer.byteLength(found.body),
    })
    response.end(head ? undefined : found.body)
  }

  return (request, response, peer) => {
    answer(request, response, peer).catch((error: unknown) => {
      log.error({ url: request.url, peer: peer.key, err: error }, 'a peer’s request failed inside')
      if (response.headersSent) response.destroy()
      else sendNotFound(response, request.method === 'HEAD')
    })
  }
}
