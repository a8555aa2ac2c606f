import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { FetchEvent } from '../../protocol/api.ts'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { sendError } from './api-error.ts'

/** Brings closures into this host's cache. Throws STORE_PATH_INVALID for what is no store path of this host. */
export type FetchSource = (
  paths: readonly string[],
  signal: AbortSignal,
) => AsyncIterable<FetchEvent>

/** Paths of one request: a shell's argument list. */
const PATHS_MAX = 10_000

/** A request of so many paths with the longest names. */
const BODY_LIMIT_BYTES = 4 * 1024 * 1024

/** How often an empty line says that the daemon is still at work on a large path: clients give up after a minute. */
const HEARTBEAT_MS = 10_000

const body = z.strictObject({
  paths: z.array(z.string().min(1).max(1000)).min(1).max(PATHS_MAX),
})

/** Adds `POST /api/v1/fetch`, whose answer is a line of JSON per event, as they happen. It ends when the asker goes. */
export function addFetchApi(server: FastifyInstance, fetch: FetchSource): void {
  server.post('/api/v1/fetch', { bodyLimit: BODY_LIMIT_BYTES }, async (request, reply) => {
    const asked = body.safeParse(request.body ?? {})
    if (!asked.success) return sendError(reply, 400, 'give paths, a list of store paths')
    const abort = new AbortController()
    let events: AsyncIterable<FetchEvent>
    try {
      events = fetch(asked.data.paths, abort.signal)
    } catch (error) {
      if (isNarwharfError(error)) return sendError(reply, 400, error)
      throw error
    }
    reply.hijack()
    const response = reply.raw
    response.writeHead(200, { 'Content-Type': 'application/x-ndjson' })
    response.once('close', () => abort.abort())
    const heartbeat = setInterval(() => response.write('\n'), HEARTBEAT_MS)
    const say = (event: FetchEvent) => void response.write(`${JSON.stringify(event)}\n`)
    try {
      for await (const event of events) say(event)
    } catch (error) {
      const { code, hint } = isNarwharfError(error)
        ? error
        : { code: 'INTERNAL', hint: 'look at the daemon’s log' }
      say({ event: 'failed', error: { code, message: problemOf(error), hint } })
    } finally {
      clearInterval(heartbeat)
      response.end()
    }
    return reply
  })
}
