import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { fileURLToPath } from 'node:url'
import type { HashPart } from '../../protocol/store-path.ts'
import { resolveBelow } from './file-stamp.ts'
import { OPEN_FLAGS } from './small-file.ts'

// How the files of an upstream cache come here: over HTTP, out of a directory behind a file:// URL, or through the peer
// that fetches for the site. One request, one reply; waiting, retrying and paying are the link's business.

/** One file wanted. */
export interface FetchRequest {
  /** Relative to the cache, as in a narinfo's `URL`. */
  readonly path: string
  /** The store path it is about, where it is about one: decides which host of the site fetches. */
  readonly hashPart?: HashPart | undefined
  /** Bytes already here. */
  readonly offset?: number | undefined
  readonly signal: AbortSignal
}

/** The beginning of a reply; the body must be read to its end or destroyed. */
export interface FetchReply {
  /** An HTTP status; 200 and 206 have a body that counts. */
  readonly status: number
  /** Where in the file the body begins. */
  readonly offset: number
  /** Bytes of the whole file, where told. */
  readonly total?: number | undefined
  readonly body: AsyncIterable<Buffer>
  destroy(): void
}

/** Rejects with what went wrong on the way; a reply with any status is none of that. */
export interface Transport {
  get(request: FetchRequest): Promise<FetchReply>
  close(): void
}

/** Redirects followed for one file: object stores and mirrors use one or two. */
const REDIRECTS_MAX = 5

/** Connections to one upstream: as many as Nix itself opens, so that its parallel questions do not queue. */
const SOCKETS_MAX = 25

/** Bytes of the largest headers of a reply. */
const HEADERS_MAX_BYTES = 16 * 1024

/** Tells upstreams who asks, and other narwharf hosts that they must not ask further (RFC 9110, 7.6.3). */
export const VIA = '1.1 narwharf'

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/** Whom to follow: anywhere by HTTP(S), or only to the host itself (a cache that nobody configured). */
export type RedirectPolicy = 'anywhere' | 'same-host'

function redirected(from: URL, location: string | undefined, policy: RedirectPolicy): URL {
  if (location === undefined || !URL.canParse(location, from.href)) {
    throw new Error('a redirect without a good address')
  }
  const to = new URL(location, from)
  const downgrade = from.protocol === 'https:' && to.protocol !== 'https:'
  if ((to.protocol !== 'http:' && to.protocol !== 'https:') || downgrade) {
    throw new Error(`a redirect from ${from.protocol}// to ${to.protocol}//`)
  }
  if (policy === 'same-host' && to.hostname !== from.hostname) {
    throw new Error(`a redirect to another host, ${to.hostname}`)
  }
  return to
}

const CONTENT_RANGE = /^bytes (?:(\d{1,15})-\d{1,15}|\*)\/(\d{1,15}|\*)$/

function readReply(response: IncomingMessage): FetchReply {
  const { headers, statusCode: status = 0 } = response
  const [, first, size] = CONTENT_RANGE.exec(headers['content-range'] ?? '') ?? []
  const length = /^\d{1,15}$/.test(headers['content-length'] ?? '')
    ? Number(headers['content-length'])
    : undefined
  const ranged = status === 206 || status === 416
  // Nothing was asked to be packed on the way; the bytes would be others than the narinfo speaks of.
  const packed =
    headers['content-encoding'] !== undefined && headers['content-encoding'] !== 'identity'
  const told = ranged ? (size === undefined || size === '*' ? undefined : Number(size)) : length
  return {
    status,
    offset: status === 206 ? Number(first ?? NaN) : 0,
    total: packed ? undefined : told,
    body: response,
    destroy: () => void response.destroy(),
  }
}

/** A binary cache behind an http:// or https:// URL. */
export function createHttpTransport(url: URL, policy: RedirectPolicy): Transport {
  const options = { keepAlive: true, maxSockets: SOCKETS_MAX, scheduling: 'lifo' } as const
  const agents = { http: new HttpAgent(options), https: new HttpsAgent(options) }
  const credentials =
    url.username === ''
      ? undefined
      : `Basic ${Buffer.from(`${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`).toString('base64')}`

  const once = (target: URL, { offset = 0, signal }: FetchRequest): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const secure = target.protocol === 'https:'
      const headers = {
        accept: '*/*',
        'accept-encoding': 'identity',
        'user-agent': 'narwharf',
        via: VIA,
        ...(offset > 0 && { range: `bytes=${offset}-` }),
        // Only the upstream itself is told the password.
        ...(credentials !== undefined &&
          target.host === url.host && { authorization: credentials }),
      }
      const path = `${target.pathname}${target.search}`
      const { hostname, port } = target
      const common = {
        // URL writes IPv6 addresses in brackets, sockets want them without.
        hostname: hostname.replace(/^\[|\]$/g, ''),
        port: port === '' ? undefined : Number(port),
        path,
        headers: { host: target.host, ...headers },
        signal,
        maxHeaderSize: HEADERS_MAX_BYTES,
      }
      const sent = secure
        ? httpsRequest({ ...common, agent: agents.https })
        : httpRequest({ ...common, agent: agents.http })
      sent.once('response', resolve)
      sent.once('error', error => {
        // A kept connection that the server closed meanwhile says nothing of the server.
        const stale = sent.reusedSocket && (error as NodeJS.ErrnoException).code === 'ECONNRESET'
        if (stale && !signal.aborted) once(target, { path, offset, signal }).then(resolve, reject)
        else reject(error)
      })
      sent.end()
    })

  return {
    async get(request) {
      let target = new URL(`${url.pathname.replace(/\/*$/, '/')}${request.path}`, url.origin)
      target.search ||= url.search
      for (let redirects = 0; ; redirects++) {
        const response = await once(target, request)
        if (!REDIRECTS.has(response.statusCode ?? 0)) return readReply(response)
        response.destroy()
        if (redirects === REDIRECTS_MAX) throw new Error(`more than ${REDIRECTS_MAX} redirects`)
        target = redirected(target, response.headers.location, policy)
      }
    },
    close() {
      agents.http.destroy()
      agents.https.destroy()
    },
  }
}

const EMPTY: AsyncIterable<Buffer> = { async *[Symbol.asyncIterator]() {} }

const withoutBody = (status: number, total?: number): FetchReply => ({
  status,
  offset: 0,
  total,
  body: EMPTY,
  destroy() {},
})

/** A binary cache directory behind a file:// URL, on something slow or that may hang (a network mount). */
export function createFileTransport(url: URL): Transport {
  const dir = fileURLToPath(url)
  return {
    async get({ path, offset = 0 }) {
      const resolved = resolveBelow(dir, path)
      // A directory that is not there at all is a drive or share that is gone, not an empty cache.
      if (resolved === undefined && resolveBelow(dir, '.') === undefined) {
        throw new Error(`${dir} does not exist`)
      }
      if (resolved?.inside !== true) return withoutBody(404)
      const handle = await open(resolved.file, OPEN_FLAGS)
      try {
        const stats = await handle.stat()
        if (!stats.isFile()) {
          await handle.close()
          return withoutBody(404)
        }
        if (offset > stats.size || (offset === stats.size && offset > 0)) {
          await handle.close()
          return withoutBody(416, stats.size)
        }
        const body = createReadStream(resolved.file, { fd: handle, start: offset })
        return {
          status: offset > 0 ? 206 : 200,
          offset,
          total: stats.size,
          body,
          destroy: () => void body.destroy(),
        }
      } catch (error) {
        await handle.close().catch(() => undefined)
        throw error
      }
    },
    close() {},
  }
}
