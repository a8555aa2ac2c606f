import type { FastifyInstance, FastifyReply } from 'fastify'
import type { JobEvent, JobReply, JobsReply } from '../../protocol/api-jobs.ts'
import { NarwharfError } from '../../protocol/errors.ts'
import type { Jobs } from '../jobs/jobs.ts'
import { sendError } from './api-error.ts'

/** What the API of the jobs answers from. */
export type JobsSource = Pick<Jobs, 'list' | 'get' | 'follow' | 'cancel'>

/** How often an empty line says that the daemon is still at work: clients give up after a minute. */
const HEARTBEAT_MS = 10_000

/** Bytes that wait for a slow reader before its events do. */
const BUFFERED_MAX_BYTES = 1024 * 1024

/** Answers with the events of a job, a line of JSON each, until it ends or the reader goes; the job does not end with the reader. */
export async function sendJobEvents(
  reply: FastifyReply,
  events: AsyncGenerator<JobEvent, void, undefined>,
): Promise<FastifyReply> {
  reply.hijack()
  const response = reply.raw
  response.writeHead(200, { 'Content-Type': 'application/x-ndjson' })
  const gone = new Promise<undefined>(resolve => response.once('close', () => resolve(undefined)))
  const heartbeat = setInterval(() => response.write('\n'), HEARTBEAT_MS)
  try {
    for (;;) {
      const next = await Promise.race([events.next(), gone])
      if (next === undefined || next.done === true) break
      response.write(`${JSON.stringify(next.value)}\n`)
      if (response.writableLength > BUFFERED_MAX_BYTES) {
        await Promise.race([new Promise(resolve => response.once('drain', resolve)), gone])
      }
    }
  } finally {
    clearInterval(heartbeat)
    // Not waited for: a generator that stands at an await ends when that does.
    void events.return()
    response.end()
  }
  return reply
}

const numberOf = (params: unknown): number => {
  const { id } = params as { readonly id: string }
  return /^\d{1,15}$/.test(id) ? Number(id) : NaN
}

/** Adds `GET /api/v1/jobs/<id>/events` and `POST /api/v1/jobs/<id>/cancel`: for the control socket. */
export function addJobsApi(server: FastifyInstance, jobs: JobsSource): void {
  const unknown = (reply: FastifyReply, id: number) =>
    sendError(reply, 404, new NarwharfError('JOB_UNKNOWN', { id }))
  server.get('/api/v1/jobs/:id/events', async (request, reply) => {
    const id = numberOf(request.params)
    const events = jobs.follow(id)
    return events === undefined ? unknown(reply, id) : sendJobEvents(reply, events)
  })
  server.post('/api/v1/jobs/:id/cancel', async (request, reply) => {
    const id = numberOf(request.params)
    jobs.cancel(id)
    const job = jobs.get(id)
    return job === undefined ? unknown(reply, id) : ({ job } satisfies JobReply)
  })
}

/** `GET /api/v1/jobs`, without the notes, of which a list has no need. */
export const listJobs = (jobs: JobsSource | undefined): JobsReply => ({
  jobs: (jobs?.list() ?? []).map(job => ({ ...job, notes: [] })),
})
