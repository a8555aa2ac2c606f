import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import type { MissingEvent } from '../../protocol/api-wants.ts'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { HAVE_DIGEST_MAX_BYTES } from '../../protocol/have-digest.ts'
import { WANT_PRIORITY_MAX } from '../../protocol/want-list.ts'
import type { Wants } from '../wants/wants.ts'
import { sendError } from './api-error.ts'

/** What the API of wants, haves and lacks answers from. */
export type WantsSource = Pick<
  Wants,
  'list' | 'add' | 'remove' | 'exportList' | 'have' | 'findMissing'
>

/** Wants of one request, and roots: a list of a whole channel. */
const WANTS_MAX = 1000
const ROOTS_MAX = 100_000

/** So many roots with usual names, and the largest have digest in base64. */
const BODY_LIMIT_BYTES = 16 * 1024 * 1024 + Math.ceil(HAVE_DIGEST_MAX_BYTES / 3) * 4

/** How often an empty line says that the daemon is still at work: clients give up after a minute. */
const HEARTBEAT_MS = 10_000

/** How often it is said how far the walk is. */
const PROGRESS_MS = 500

const text = z.string().min(1).max(4096)

const addBody = z.strictObject({
  wants: z
    .array(
      z.strictObject({
        text,
        derivations: z.array(text).min(1).max(WANTS_MAX).optional(),
        build: z.boolean().optional(),
      }),
    )
    .min(1)
    .max(WANTS_MAX),
  priority: z.int().min(1).max(WANT_PRIORITY_MAX).optional(),
  by: z.string().min(1).max(200),
})

const removeBody = z.strictObject({ wants: z.array(text).min(1).max(WANTS_MAX) })

const missingBody = z.strictObject({
  roots: z.array(text).max(ROOTS_MAX),
  wants: z.boolean().optional(),
  build: z.boolean().optional(),
  place: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('site') }),
    z.strictObject({ kind: z.literal('here') }),
    z.strictObject({ kind: z.literal('cache'), cache: text }),
    z.strictObject({ kind: z.literal('drive'), drive: text }),
    z.strictObject({
      kind: z.literal('have'),
      have: z.base64().max(BODY_LIMIT_BYTES),
      name: text,
    }),
  ]),
})

/** The body by its schema, or an answer that says what is wrong with it. */
function parse<Schema extends z.ZodType>(
  schema: Schema,
  body: unknown,
  reply: FastifyReply,
): z.output<Schema> | undefined {
  const parsed = schema.safeParse(body ?? {})
  if (parsed.success) return parsed.data
  const { path, message } = parsed.error.issues[0] ?? { path: [], message: 'not understood' }
  void sendError(reply, 400, `${path.join('.') || 'the request'}: ${message}`)
  return undefined
}

async function orError(reply: FastifyReply, work: () => unknown): Promise<unknown> {
  try {
    return await work()
  } catch (error) {
    if (isNarwharfError(error)) return sendError(reply, 400, error)
    throw error
  }
}

/** Adds what changes wants, or costs much: on the control socket alone. */
export function addWantsApi(server: FastifyInstance, wants: WantsSource): void {
  const options = { bodyLimit: BODY_LIMIT_BYTES }
  server.post('/api/v1/wants/add', options, async (request, reply) => {
    const body = parse(addBody, request.body, reply)
    return body === undefined ? reply : orError(reply, () => wants.add(body))
  })
  server.post('/api/v1/wants/remove', options, async (request, reply) => {
    const body = parse(removeBody, request.body, reply)
    return body === undefined ? reply : orError(reply, () => wants.remove(body.wants))
  })
  server.get('/api/v1/wants/export', async (_request, reply) =>
    orError(reply, () => reply.type('application/json').send(wants.exportList())),
  )
  server.get('/api/v1/have', async (request, reply) =>
    orError(reply, async () => {
      const { drives } = request.query as { readonly drives?: unknown }
      const { bytes } = await wants.have({ drives: drives === '1' })
      return reply.type('application/octet-stream').send(bytes)
    }),
  )
  server.post('/api/v1/missing', options, async (request, reply) => {
    const body = parse(missingBody, request.body, reply)
    return body === undefined
      ? reply
      : sendMissing(reply, (signal, onProgress) => wants.findMissing(body, { signal, onProgress }))
  })
}

/** Answers with a line of JSON per event; the walk ends when the asker goes. */
function sendMissing(
  reply: FastifyReply,
  find: (
    signal: AbortSignal,
    onProgress: (looked: number, missing: number) => void,
  ) => ReturnType<Wants['findMissing']>,
): FastifyReply {
  reply.hijack()
  const response = reply.raw
  response.writeHead(200, { 'Content-Type': 'application/x-ndjson' })
  const abort = new AbortController()
  response.once('close', () => abort.abort())
  const heartbeat = setInterval(() => response.write('\n'), HEARTBEAT_MS)
  const say = (event: MissingEvent) => void response.write(`${JSON.stringify(event)}\n`)
  let saidAt = performance.now()
  const onProgress = (looked: number, missing: number) => {
    if (performance.now() - saidAt < PROGRESS_MS) return
    saidAt = performance.now()
    say({ event: 'progress', looked, missing })
  }
  find(abort.signal, onProgress)
    .then(
      found => say({ event: 'end', ...found }),
      (error: unknown) => {
        const { code, hint } = isNarwharfError(error)
          ? error
          : { code: 'INTERNAL', hint: 'look at the daemon’s log' }
        say({ event: 'failed', error: { code, message: problemOf(error), hint } })
      },
    )
    .finally(() => {
      clearInterval(heartbeat)
      response.end()
    })
    .catch(() => undefined)
  return reply
}
