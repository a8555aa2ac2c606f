import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Logger } from 'pino'
import { isNarwharfError } from '../../protocol/errors.ts'
import { parseRange } from '../../protocol/http-range.ts'
import { parseNarUrl, type NarUrl } from '../../protocol/nar-url.ts'
import type { Audience } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import { audienceOf } from './audience.ts'
import type { Counters } from './counters.ts'
import { sendNotFound } from './nix-narinfo.ts'

/**
 * Chunks handed to the socket and not yet taken by the kernel. Two keep it busy while the next is made; more would only
 * hold memory for clients that read slowly.
 */
const CHUNKS_IN_FLIGHT = 3

/** A client that takes no byte for so long is gone, whatever its TCP says. Nix itself gives up after 300 s. */
const IDLE_LIMIT_MS = 310_000

/** How long a peer's first byte waits for the check of a NAR: most are small, and a damaged one is then a clean 404. */
const PEER_GATE_MS = 100

/** Upper bound of what zstd makes of `size` bytes (its own bound is size + size/256 + 64 per frame). */
const packedBound = (size: number) => size + Math.ceil(size / 64) + 1024

/** Waits for the next time `wake` is called. */
function createSignal() {
  let resolve: (() => void) | undefined
  return {
    wake: () => resolve?.(),
    wait: () => new Promise<void>(next => (resolve = next)),
  }
}

/** Writes a stream to a response at the client's pace; resolves to whether all of it was taken. */
export async function pump(response: ServerResponse, stream: ByteStream): Promise<boolean> {
  let inFlight = 0
  const signal = createSignal()
  const onClose = () => {
    stream.destroy()
    signal.wake()
  }
  response.once('close', onClose)
  try {
    for await (const chunk of stream) {
      if (response.destroyed) return false
      inFlight++
      response.write(chunk, () => {
        inFlight--
        stream.recycle(chunk)
        signal.wake()
      })
      while (inFlight >= CHUNKS_IN_FLIGHT && !response.destroyed) await signal.wait()
    }
    return !response.destroyed
  } finally {
    response.off('close', onClose)
    stream.destroy()
  }
}

/** GET and HEAD /nar/…, with one range: 200, 206, 304, 404 or 416. */
export async function serveNar(
  request: IncomingMessage,
  response: ServerResponse,
  file: string,
  query: string,
  substitution: Substitution,
  counters: Counters,
  log: Logger,
  audience: Audience = audienceOf(request),
): Promise<void> {
  const head = request.method === 'HEAD'
  const url = parseNarUrl(file, query)
  if (url === undefined) return sendNotFound(response, head)
  const { range, 'if-range': ifRange, 'if-none-match': ifNoneMatch } = request.headers
  const etag = `"${file}"`
  if (ifNoneMatch === etag) {
    response.writeHead(304, { ETag: etag }).end()
    return
  }
  const wanted = ifRange === undefined || ifRange === etag ? range : undefined
  const reply = await substitution.nar(url, audience, {
    resuming: /^bytes=0*[1-9]/.test(wanted ?? ''),
    probe: head,
    keep: audience.peer !== true,
    // A peer checks what it gets, so it need not wait until the check here is done.
    startGateMs: audience.peer === true ? PEER_GATE_MS : undefined,
  })
  if (reply === undefined) return sendNotFound(response, head)
  const { totalBytes } = reply
  const part = parseRange(reply.resumable ? wanted : undefined, totalBytes)
  const headers: Record<string, string | number> = {
    'Content-Type': 'application/x-nix-nar',
    ETag: etag,
    // The name says the content: it never becomes anything else.
    'Cache-Control': 'public, max-age=31536000, immutable',
  }
  if (reply.resumable) headers['Accept-Ranges'] = 'bytes'
  if (part.kind === 'unsatisfiable') {
    reply.cancel()
    response.writeHead(416, { ...headers, 'Content-Range': `bytes */${totalBytes}` }).end()
    return
  }
  const start = part.kind === 'part' ? part.start : 0
  const end = part.kind === 'part' ? part.end : (totalBytes ?? Infinity)
  if (part.kind === 'part') {
    // A body made on the fly has no known end, yet the header must name a last byte: clients look at the first only
    // (curl compares it with the offset it asked for), and the chunked coding says where the body ends.
    const last = totalBytes === undefined ? packedBound(reply.narSize) : end - 1
    headers['Content-Range'] = `bytes ${start}-${last}/${totalBytes ?? '*'}`
  }
  if (end !== Infinity) headers['Content-Length'] = end - start
  response.writeHead(part.kind === 'part' ? 206 : 200, headers)
  if (head) {
    reply.cancel()
    response.end()
    return
  }
  await sendBody(response, reply.open({ start, end }), { url, start, counters, log })
}

/** Sends the bytes, and cuts the connection where they end too early: the client must not take a part for the whole. */
async function sendBody(
  response: ServerResponse,
  stream: ByteStream,
  context: { url: NarUrl; start: number; counters: Counters; log: Logger },
): Promise<void> {
  const { url, counters, log } = context
  const before = response.socket?.bytesWritten ?? 0
  response.setTimeout(IDLE_LIMIT_MS, () => response.destroy())
  counters.nars++
  let problem: Error | undefined
  try {
    if (await pump(response, stream)) {
      response.end()
      return
    }
  } catch (error) {
    problem = error instanceof Error ? error : new Error('unknown', { cause: error })
  } finally {
    counters.narBytes += (response.socket?.bytesWritten ?? before) - before
  }
  counters.narsBroken++
  if (problem !== undefined) {
    log.warn(
      { hashPart: url.hashPart, code: isNarwharfError(problem) ? problem.code : undefined },
      `a NAR broke off on its way to a client, which will resume or ask elsewhere: ${problem.message}`,
    )
  }
  response.destroy()
}
