import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import type { ExportEvent, ExportWish, ImportEvent } from '../../protocol/api-archives.ts'
import { archiveFrameHead, encodeEventFrame } from '../../protocol/archive-frames.ts'
import type { ErrorReply } from '../../protocol/api.ts'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import {
  SIGNATURES_FILE_MAX_BYTES,
  createSignaturesReader,
  type SignatureBook,
} from '../../protocol/export-signatures.ts'
import type { ExportPart } from '../shipments/export.ts'
import type { ImportSource } from '../shipments/import-job.ts'
import { sendError } from './api-error.ts'

/** What the API of export archives answers from. */
export interface ArchiveSources {
  readonly importArchive: ImportSource
  /** Throws STORE_PATH_INVALID for what is no store path of this host. */
  readonly exportPaths: (wish: ExportWish, signal: AbortSignal) => AsyncIterable<ExportPart>
  readonly storeDir: string
}

/** Chunks of an archive handed to the socket and not yet taken by the kernel: enough to keep it busy while the next is made. */
const CHUNKS_IN_FLIGHT = 3

/** How often an empty line says that the daemon is still at work: clients give up after a minute. */
const HEARTBEAT_MS = 10_000

/** How long a sender has to read the answer that its archive is not read on. */
const LEFT_AFTER_MS = 5000

/** Paths of one request: a shell's argument list. */
const PATHS_MAX = 10_000

/** A request of so many paths with the longest names. */
const BODY_LIMIT_BYTES = 4 * 1024 * 1024

/** Patterns that an operator vouches by, and characters of one. */
const TRUST_MAX = 1000
const TEXT_MAX = 1000

const exportBody = z.strictObject({
  paths: z.array(z.string().min(1).max(TEXT_MAX)).min(1).max(PATHS_MAX),
  closure: z.boolean().default(false),
  signatures: z.boolean().default(true),
})

const whole = z.coerce.number().int().min(0)
const text = z.string().max(TEXT_MAX)
const importQuery = z.strictObject({
  signatures: whole.max(SIGNATURES_FILE_MAX_BYTES).default(0),
  size: whole.max(Number.MAX_SAFE_INTEGER).optional(),
  title: text.default('an archive'),
  trust: z.union([text.transform(one => [one]), z.array(text).max(TRUST_MAX)]).default([]),
})

const describe = (error: unknown): ErrorReply['error'] => {
  const { code, hint } = isNarwharfError(error)
    ? error
    : { code: 'INTERNAL', hint: 'look at the daemon’s log' }
  return { code, message: problemOf(error), hint }
}

/** Waits until a response takes more, or is gone. */
const drained = (response: ServerResponse): Promise<void> =>
  new Promise(resolve => {
    const done = () => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.once('drain', done).once('close', done)
  })

/** Writes, and waits where the reader is slow. */
async function write(response: ServerResponse, bytes: Buffer | string): Promise<void> {
  if (!response.destroyed && !response.write(bytes)) await drained(response)
}

/** The first bytes of a stream, told piece by piece, and then the rest as a stream of its own. */
async function takeFirst(
  iterator: AsyncIterator<Buffer>,
  count: number,
  take: (bytes: Buffer) => void,
): Promise<AsyncIterable<Buffer>> {
  let left = count
  let first: Buffer | undefined
  while (left > 0) {
    const next = await iterator.next()
    if (next.done === true) break
    const part = next.value.subarray(0, left)
    take(part)
    left -= part.length
    first = next.value.subarray(part.length)
  }
  return (async function* rest() {
    if (first !== undefined) yield first
    try {
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
        yield next.value
      }
    } catch (error) {
      fail('IMPORT_CUT_SHORT', { problem: problemOf(error) }, error)
    }
  })()
}

async function readSignatures(
  body: AsyncIterator<Buffer>,
  count: number,
  storeDir: string,
): Promise<readonly [SignatureBook, AsyncIterable<Buffer>]> {
  const reader = createSignaturesReader(storeDir)
  const rest = await takeFirst(body, count, bytes => reader.write(bytes))
  return [reader.end(), rest]
}

/** Adds `POST /api/v1/import` and `POST /api/v1/export`: for the control socket. */
export function addArchivesApi(server: FastifyInstance, sources: ArchiveSources): void {
  server.post('/api/v1/export', { bodyLimit: BODY_LIMIT_BYTES }, async (request, reply) => {
    const asked = exportBody.safeParse(request.body ?? {})
    if (!asked.success) return sendError(reply, 400, 'give paths, a list of store paths')
    const abort = new AbortController()
    let parts: AsyncIterable<ExportPart>
    try {
      parts = sources.exportPaths(asked.data, abort.signal)
    } catch (error) {
      if (isNarwharfError(error)) return sendError(reply, 400, error)
      throw error
    }
    return sendExport(reply, parts, abort)
  })
  // A body that is taken as it comes, of any length, needs a parser of its own: none.
  void server.register(async scope => {
    scope.addContentTypeParser('application/octet-stream', (_request, payload, done) =>
      done(null, payload),
    )
    scope.post('/api/v1/import', async (request, reply) => {
      const query = importQuery.safeParse(request.query)
      if (!query.success) return sendError(reply, 400, 'see docs/http-api.md for the query')
      return takeImport(reply, request.raw, query.data, sources)
    })
  })
}

/**
 * Ends a request of which not all was read. Its sender is to see the answer first, which a connection closed at once would
 * take from it; an archive of many gigabytes is not waited for.
 */
function leave(body: IncomingMessage): void {
  const timer = setTimeout(() => body.destroy(), LEFT_AFTER_MS)
  body.once('close', () => clearTimeout(timer)).resume()
}

async function takeImport(
  reply: FastifyReply,
  body: IncomingMessage,
  query: z.infer<typeof importQuery>,
  { importArchive, storeDir }: ArchiveSources,
): Promise<FastifyReply> {
  reply.hijack()
  const response = reply.raw
  response.writeHead(200, { 'Content-Type': 'application/x-ndjson' })
  const heartbeat = setInterval(() => response.write('\n'), HEARTBEAT_MS)
  const say = (event: ImportEvent) => write(response, `${JSON.stringify(event)}\n`)
  const iterator = body.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>
  try {
    const [signatures, bytes] = await readSignatures(iterator, query.signatures, storeDir)
    const { title, size, trust } = query
    await importArchive({ title, totalBytes: size, bytes }, { signatures, trust }, say)
  } catch (error) {
    await say({ event: 'failed', error: describe(error) })
  } finally {
    clearInterval(heartbeat)
    void iterator.return?.()
    response.end(() => leave(body))
  }
  return reply
}

async function sendExport(
  reply: FastifyReply,
  parts: AsyncIterable<ExportPart>,
  abort: AbortController,
): Promise<FastifyReply> {
  reply.hijack()
  const response = reply.raw
  response.writeHead(200, { 'Content-Type': 'application/x-narwharf-frames' })
  response.once('close', () => abort.abort())
  const say = (event: ExportEvent) => write(response, encodeEventFrame(event))
  let inFlight = 0
  try {
    for await (const part of parts) {
      if (response.destroyed) return reply
      if ('event' in part) {
        await say(part.event)
        continue
      }
      inFlight++
      const taken = writeLent(response, part.bytes, () => {
        inFlight--
        part.release?.()
      })
      if (inFlight >= CHUNKS_IN_FLIGHT) await taken
    }
  } catch (error) {
    await say({ event: 'failed', error: describe(error) })
  } finally {
    response.end()
  }
  return reply
}

/** Writes bytes of the archive that are lent; the promise is kept when they are out, or nobody takes them any more. */
function writeLent(response: ServerResponse, bytes: Buffer, release: () => void): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      response.off('close', resolve)
      release()
      resolve()
    }
    response.once('close', resolve)
    response.cork()
    response.write(archiveFrameHead(bytes.length))
    response.write(bytes, done)
    response.uncork()
  })
}
