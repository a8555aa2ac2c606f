import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { formatCacheInfo } from '../../protocol/cache-info.ts'
import type { Substitution } from '../substitution/substitution.ts'
import { addApi, type ApiSources } from './api.ts'
import type { Counters } from './counters.ts'
import { addFastLane } from './fast-lane.ts'
import { addLanding } from './landing.ts'
import { createMetrics } from './metrics.ts'
import { addNixExtras } from './nix-extras.ts'
import { serveNar } from './nix-nar.ts'
import { narinfoHashPart, sendNotFound, serveNarinfo } from './nix-narinfo.ts'
import { addPublications, type PublicationRoutes } from './publications.ts'

/** Nix keeps connections for the length of a build step; facts: at least 90 s. */
const KEEP_ALIVE_MS = 120_000

/** A request is a line and a few headers; one that takes longer to arrive is a slow-drip. */
const REQUEST_LIMIT_MS = 30_000

/** Request line and headers: a Nix client's are under 1 KiB. */
const HEADER_LIMIT_BYTES = 16 * 1024

const NAR_PREFIX = '/nar/'

export interface HttpOptions {
  readonly substitution: Substitution
  readonly counters: Counters
  readonly api: ApiSources
  readonly storeDir: string
  readonly priority: number
  readonly log: Logger
  /** What lies beside the cache: channels, flakes, tarballs. */
  readonly publications?: PublicationRoutes | undefined
}

/** The two ways in, one set of routes: the TCP port for Nix and browsers, the Unix socket for the command line. */
export interface HttpRoom {
  /** Listens and returns the real port (0 asks the kernel for one). */
  listen(host: string, port: number): Promise<number>
  listenControl(socketPath: string): Promise<void>
  close(): Promise<void>
}

/** Closes as browsers and Nix leave their connections: at once where idle, else when the answer is out or the patience over. */
const CLOSE_PATIENCE_MS = 2000

type Early = (request: IncomingMessage, response: ServerResponse) => boolean

const noSchemas = (): never => {
  throw new Error('routes check what they get themselves: no schema is compiled here')
}

/** fastify loads the compilers of JSON schemas for nothing, and every start of the daemon would wait for them. */
const NO_SCHEMAS = {
  compilersFactory: { buildValidator: noSchemas, buildSerializer: noSchemas },
}

/** A fastify whose server answers the hottest paths before any routing. */
function createFastify(early: Early, log: Logger, requestTimeout: number): FastifyInstance {
  const serverFactory = (handler: RequestListener): Server => {
    const server = createServer(
      {
        keepAliveTimeout: KEEP_ALIVE_MS,
        requestTimeout,
        maxHeaderSize: HEADER_LIMIT_BYTES,
        noDelay: true,
      },
      (request, response) => {
        if (!early(request, response)) handler(request, response)
      },
    )
    server.on('clientError', (_error, socket) => {
      // Not HTTP at all: nothing sensible to answer, and never a 5xx.
      if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
      else socket.destroy()
    })
    return server
  }
  const fastify = Fastify({
    serverFactory,
    schemaController: NO_SCHEMAS,
    // Broken escapes and endless names: a name that nothing has.
    frameworkErrors: (_error, request, reply) => {
      reply.hijack()
      sendNotFound(reply.raw, request.method === 'HEAD')
    },
  })
  fastify.setNotFoundHandler((request, reply) => {
    reply.hijack()
    const reading = request.method === 'GET' || request.method === 'HEAD'
    if (reading) return sendNotFound(reply.raw, request.method === 'HEAD')
    reply.raw
      .writeHead(405, { Allow: 'GET, HEAD', 'Content-Type': 'text/plain' })
      .end('this cache is read only\n')
  })
  fastify.setErrorHandler((error: Error & { statusCode?: number }, request, reply) => {
    // Nix retries 5xx five times and then gives up the build: whatever went wrong here, the path is simply not here.
    if ((error.statusCode ?? 500) >= 500) {
      log.error({ url: request.url, err: error }, 'a request failed inside; answered with 404')
    }
    reply.hijack()
    sendNotFound(reply.raw, request.method === 'HEAD')
  })
  return fastify
}

/** Builds both servers; nothing listens yet. */
export function createHttp(options: HttpOptions): HttpRoom {
  const { substitution, counters, log } = options
  const cacheInfo = Buffer.from(
    formatCacheInfo({
      storeDir: options.storeDir,
      wantMassQuery: true,
      priority: options.priority,
    }),
  )

  const early: Early = (request, response) => {
    const url = request.url ?? ''
    const { method } = request
    if (method !== 'GET' && method !== 'HEAD') return false
    const hashPart = narinfoHashPart(url)
    if (hashPart !== undefined) {
      serveNarinfo(request, response, hashPart, substitution, counters)
      return true
    }
    if (url.startsWith(NAR_PREFIX)) {
      const mark = url.indexOf('?')
      const file = url.slice(NAR_PREFIX.length, mark === -1 ? undefined : mark)
      const query = mark === -1 ? '' : url.slice(mark + 1)
      serveNar(request, response, file, query, substitution, counters, log).catch(
        (error: unknown) => {
          log.error({ url, err: error }, 'a NAR request failed inside')
          if (response.headersSent) response.destroy()
          else sendNotFound(response, method === 'HEAD')
        },
      )
      return true
    }
    if (url === '/nix-cache-info') {
      response.writeHead(200, {
        'Content-Type': 'text/x-nix-cache-info',
        'Content-Length': cacheInfo.length,
      })
      response.end(method === 'HEAD' ? undefined : cacheInfo)
      return true
    }
    return false
  }

  const open = createFastify(early, log, REQUEST_LIMIT_MS)
  const fastLane = addFastLane(open.server, substitution, counters, { idleMs: KEEP_ALIVE_MS })
  // Whoever may open the socket may send an archive of many gigabytes over it.
  const control = createFastify(() => false, log, 0)
  const metrics = createMetrics(counters, options.api)
  addNixExtras(open, substitution)
  if (options.publications !== undefined) addPublications(open, options.publications)
  addLanding(open, options.api)
  addApi(open, options.api, 'loopback')
  addApi(control, options.api, 'control')
  for (const server of [open, control]) {
    server.get('/metrics', async (_request, reply) => {
      const { contentType, text } = await metrics.read()
      return reply.header('Content-Type', contentType).send(text)
    })
    server.get('/health', async (_request, reply) => reply.send({ status: 'ok' }))
  }

  const closeOne = async (server: FastifyInstance) => {
    const closing = server.close()
    server.server.closeIdleConnections()
    const timer = setTimeout(() => server.server.closeAllConnections(), CLOSE_PATIENCE_MS)
    await closing
    clearTimeout(timer)
  }

  return {
    async listen(host, port) {
      await open.listen({ host, port })
      const address = open.server.address()
      return typeof address === 'object' && address !== null ? address.port : port
    },
    async listenControl(socketPath) {
      await control.listen({ path: socketPath })
    },
    async close() {
      fastLane.close()
      await Promise.all([closeOne(open), closeOne(control)])
    },
  }
}
