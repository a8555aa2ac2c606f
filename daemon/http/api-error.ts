import type { FastifyReply } from 'fastify'
import type { ErrorReply } from '../../protocol/api.ts'
import type { NarwharfError } from '../../protocol/errors.ts'

/** Answers with an error of the API's one shape; a text is a request that was not understood. */
export function sendError(
  reply: FastifyReply,
  status: number,
  error: NarwharfError | string,
): FastifyReply {
  const body: ErrorReply = {
    error:
      typeof error === 'string'
        ? { code: 'BAD_REQUEST', message: error, hint: 'see docs/http-api.md' }
        : { code: error.code, message: error.message, hint: error.hint },
  }
  return reply.code(status).send(body)
}
