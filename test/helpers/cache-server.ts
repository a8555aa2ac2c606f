import { createReadStream, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { join } from 'node:path'
import { parseRange } from '../../protocol/http-range.ts'
import type { Scope } from './scope.ts'

/** One request a cache server got, and how much of its body went out. */
export interface Asked {
  readonly path: string
  readonly range: string | undefined
  readonly headers: IncomingMessage['headers']
  bytes: number
}

/** What a server does to a request instead of, or besides, answering it. */
export type Fault =
  | { readonly kind: 'status'; readonly status: number; readonly body?: string }
  | { readonly kind: 'redirect'; readonly to: string }
  /** Takes the request and says nothing. */
  | { readonly kind: 'silence' }
  /** Breaks the connection after so many bytes of this body. */
  | { readonly kind: 'cut'; readonly after: number }
  /** A body of its own. */
  | {
      readonly kind: 'body'
      readonly body: Buffer | AsyncIterable<Buffer>
      readonly length?: number
    }

/** A static HTTP server over a binary cache directory, with every fault an upstream can have. */
export interface CacheServer {
  readonly url: string
  readonly asked: Asked[]
  /** Decides about one request; undefined: the file. */
  fault: (path: string, range: string | undefined) => Fault | undefined
  /** Whether it knows Range. */
  ranges: boolean
  /** How often a path was asked for. */
  count(path: string): number
  /** Closes the port and every connection. */
  stop(): Promise<void>
  /** Listens again, at the same port. */
  start(): Promise<void>
}

/** Serves `dir` until the scope ends. */
export async function startCacheServer(scope: Scope, dir: string): Promise<CacheServer> {
  const sockets = new Set<Socket>()
  let port = 0
  const server: CacheServer & { url: string } = {
    url: '',
    asked: [],
    fault: () => undefined,
    ranges: true,
    count: path => server.asked.filter(one => one.path === path).length,
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise(resolve => http.close(resolve))
    },
    async start() {
      await new Promise<void>(resolve => http.listen(port, '127.0.0.1', resolve))
      port = (http.address() as AddressInfo).port
      server.url = `http://127.0.0.1:${port}`
    },
  }
  const http = createServer((request, response) => {
    answer(server, dir, request, response).catch(() => response.destroy())
  })
  http.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  const starting = server.start()
  // A scope may end while the server is still starting.
  scope.teardown(async () => {
    await starting
    if (http.listening) await server.stop()
  })
  await starting
  return server
}

async function answer(
  server: CacheServer,
  dir: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = decodeURIComponent((request.url ?? '/').slice(1).split('?')[0] ?? '')
  const { range } = request.headers
  const asked: Asked = { path, range, headers: request.headers, bytes: 0 }
  server.asked.push(asked)
  const fault = server.fault(path, range)
  const send = async (body: AsyncIterable<Buffer> | Iterable<Buffer>, cutAfter = Infinity) => {
    for await (const chunk of body) {
      const part = chunk.subarray(0, Math.max(0, cutAfter - asked.bytes))
      asked.bytes += part.length
      if (response.destroyed) return
      await new Promise<void>(resolve => {
        response.once('close', resolve)
        response.write(part, () => {
          response.off('close', resolve)
          resolve()
        })
      })
      if (asked.bytes >= cutAfter) return void response.destroy()
    }
    response.end()
  }
  switch (fault?.kind) {
    case 'silence':
      return
    case 'cut':
      if (fault.after > 0) break
      response.destroy()
      return
    case 'status':
      response.writeHead(fault.status).end(fault.body)
      return
    case 'redirect':
      response.writeHead(302, { location: fault.to }).end()
      return
    case 'body':
      response.writeHead(200, fault.length === undefined ? {} : { 'content-length': fault.length })
      return send(Buffer.isBuffer(fault.body) ? [fault.body] : fault.body)
  }
  const file = join(dir, path)
  const stats = statSync(file, { throwIfNoEntry: false })
  if (stats?.isFile() !== true) {
    response.writeHead(404).end()
    return
  }
  const part = parseRange(server.ranges ? range : undefined, stats.size)
  if (part.kind === 'unsatisfiable') {
    response.writeHead(416, { 'content-range': `bytes */${stats.size}` }).end()
    return
  }
  const { start, end } = part.kind === 'part' ? part : { start: 0, end: stats.size }
  response.writeHead(part.kind === 'part' ? 206 : 200, {
    'content-length': end - start,
    ...(part.kind === 'part' && { 'content-range': `bytes ${start}-${end - 1}/${stats.size}` }),
  })
  if (end === start) {
    response.end()
    return
  }
  await send(
    createReadStream(file, { start, end: end - 1 }),
    fault?.kind === 'cut' ? fault.after : undefined,
  )
}
