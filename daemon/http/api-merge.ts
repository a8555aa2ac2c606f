import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { isNarwharfError } from '../../protocol/errors.ts'
import type { Jobs } from '../jobs/jobs.ts'
import type { Merges } from '../shipments/merge.ts'
import { sendError } from './api-error.ts'
import { sendJobEvents } from './api-jobs.ts'

/** What the API of merging answers from. */
export interface MergeSource {
  readonly merges: Pick<Merges, 'merge'>
  readonly jobs: Pick<Jobs, 'follow'>
}

const body = z.strictObject({
  drive: z.string().min(1).max(4096),
  trust: z.boolean().optional(),
  everything: z.boolean().optional(),
})

/** Adds `POST /api/v1/merge`, which answers with the events of the job: for the control socket. */
export function addMergeApi(server: FastifyInstance, { merges, jobs }: MergeSource): void {
  server.post('/api/v1/merge', async (request, reply) => {
    const asked = body.safeParse(request.body ?? {})
    if (!asked.success) return sendError(reply, 400, 'give drive: a name or a directory')
    try {
      const { id } = await merges.merge(asked.data)
      const events = jobs.follow(id)
      return events === undefined ? reply.code(204).send() : await sendJobEvents(reply, events)
    } catch (error) {
      if (isNarwharfError(error)) return sendError(reply, 400, error)
      throw error
    }
  })
}
