import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { HashPart } from '../../protocol/store-path.ts'
import type { Audience } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import { isLegacyAgent, isLoopback, PROXY_HEADERS } from './audience.ts'
import type { Counters } from './counters.ts'

// A Nix client asks for hundreds of narinfos over a few kept-open connections, each request a few lines that never
// change but for the hash. Node's HTTP server spends some 40 µs on each of them (measured; nginx 16 µs on the same
// machine), so a connection begins here: a request that is *exactly* the plain shape below is answered at once, and the
// first one that is anything else (another method, a body, a range, two requests in one packet, half a request) takes
// the connection to Node's own server for good, with its bytes unread. Nothing is parsed here that could be
// misunderstood: what is not recognised whole is not touched.

/** A Nix request has some 150 bytes; one this long is for the other server. */
const REQUEST_LIMIT_BYTES = 1024

/** `GET /` + hash part + `.narinfo HTTP/1.1\r\n`: the shape of the first line; what follows are the headers. */
const FIRST_LINE = /^(GET|HEAD) \/([0-9a-df-np-sv-z]{32})\.narinfo HTTP\/1\.1\r\n/

/** Headers in the plain form of RFC 9112, the last one closed by an empty line and nothing behind it. */
const HEADERS = /^(?:[A-Za-z0-9-]{1,60}: [\x20-\x7e]{0,500}\r\n){1,12}\r\n$/

/** Headers that mean more than who asks: bodies, upgrades, connection handling, conditions, proxies. */
const UNPLAIN = new RegExp(
  `(?:^|\\n)(?:content-|transfer-|connection:|upgrade|expect|te:|trailer|range|if-|${PROXY_HEADERS.map(name => `${name}:`).join('|')})`,
  'i',
)

const HOST = /(?:^|\n)host: /gi
const USER_AGENT = /(?:^|\n)user-agent: ([^\r]*)/i

/** A connection on which nothing is said for so long is closed, as Node's server does. */
export interface FastLaneOptions {
  readonly idleMs: number
  readonly now?: () => number
}

/** Takes the connections of a server first; `close` ends those that are still here. */
export interface FastLane {
  close(): void
}

/** The head of an answer up to the number of its body's bytes, made anew once a second for its date. */
function createHead(status: string, type: string, now: () => number): () => string {
  let second = 0
  let head = ''
  return () => {
    const current = Math.floor(now() / 1000)
    if (current !== second) {
      second = current
      const date = new Date(current * 1000).toUTCString()
      head = `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\nDate: ${date}\r\nContent-Length: `
    }
    return head
  }
}

/** What the headers say of the asker, or undefined where they are not plain. */
function readHeaders(headers: string, loopback: boolean): Audience | undefined {
  if (!HEADERS.test(headers) || UNPLAIN.test(headers)) return undefined
  if (headers.match(HOST)?.length !== 1) return undefined
  return { loopback, legacy: isLegacyAgent(USER_AGENT.exec(headers)?.[1]) }
}

/** Puts the fast lane before a server that does not listen yet. */
export function addFastLane(
  server: Server,
  substitution: Substitution,
  counters: Counters,
  options: FastLaneOptions,
): FastLane {
  const slow = server.listeners('connection') as ((socket: Socket) => void)[]
  server.removeAllListeners('connection')
  const sockets = new Set<Socket>()
  const now = options.now ?? Date.now
  const foundHead = createHead('200 OK', 'text/x-nix-narinfo', now)
  const missingHead = createHead('404 Not Found', 'text/plain', now)
  const found = (body: string, head: boolean) =>
    `${foundHead()}${body.length}\r\n\r\n${head ? '' : body}`
  const missing = (head: boolean) => `${missingHead()}4\r\n\r\n${head ? '' : '404\n'}`

  server.on('connection', (socket: Socket) => {
    const loopback = isLoopback(socket.remoteAddress)
    // The same client sends the same headers: looked at once, compared after.
    let knownHeaders = ''
    let audience: Audience | undefined

    /** Answers if the bytes are one plain request. */
    const answer = (bytes: Buffer): boolean => {
      if (bytes.length > REQUEST_LIMIT_BYTES || socket.writableNeedDrain) return false
      const text = bytes.toString('latin1')
      const first = FIRST_LINE.exec(text)
      if (first === null) return false
      const headers = text.slice(first[0].length)
      if (headers !== knownHeaders) {
        audience = readHeaders(headers, loopback)
        knownHeaders = headers
      }
      if (audience === undefined) return false
      const narinfo = substitution.narinfo(first[2] as HashPart, audience)
      if (narinfo instanceof Promise) return false
      const head = first[1] === 'HEAD'
      if (narinfo === undefined) {
        counters.misses++
        socket.write(missing(head), 'latin1')
      } else {
        counters.narinfos++
        socket.write(found(narinfo, head), 'latin1')
      }
      return true
    }

    const leave = () => {
      sockets.delete(socket)
      socket.off('data', onData).off('error', onError).off('close', leave).off('timeout', onTimeout)
      socket.setTimeout(0)
    }
    const onError = () => socket.destroy()
    const onTimeout = () => socket.destroy()
    const onData = (bytes: Buffer) => {
      let answered = false
      try {
        answered = answer(bytes)
      } catch {
        // Node's path answers the same question with its own care.
      }
      if (answered) return
      leave()
      socket.pause()
      for (const listener of slow) listener.call(server, socket)
      socket.unshift(bytes)
      socket.resume()
    }

    sockets.add(socket)
    socket.setNoDelay(true)
    socket.setTimeout(options.idleMs)
    socket.on('data', onData).on('error', onError).on('close', leave).on('timeout', onTimeout)
  })

  return {
    close() {
      for (const socket of sockets) socket.destroy()
    },
  }
}
