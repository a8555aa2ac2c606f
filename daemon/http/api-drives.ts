import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { DrivesReply, EjectReply } from '../../protocol/api-drives.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { sendError } from './api-error.ts'

/** The drives as the API sees them. */
export interface DrivesSource {
  list(): DrivesReply['drives']
  eject(nameOrId: string): Promise<EjectReply>
}

/** A mount point is the longest that names a drive. */
const NAME_MAX_CHARACTERS = 4096

const body = z.strictObject({ drive: z.string().min(1).max(NAME_MAX_CHARACTERS) })

/** Adds `POST /api/v1/drives/eject`: for the control socket. Its answer may take as long as a slow stick needs to write. */
export function addDrivesApi(server: FastifyInstance, drives: DrivesSource): void {
  server.post('/api/v1/drives/eject', async (request, reply) => {
    const asked = body.safeParse(request.body ?? {})
    if (!asked.success) return sendError(reply, 400, 'give drive, a name or a mount point')
    try {
      return await drives.eject(asked.data.drive)
    } catch (error) {
      if (isNarwharfError(error, 'DRIVE_UNKNOWN')) return sendError(reply, 404, error)
      if (isNarwharfError(error)) return sendError(reply, 400, error)
      throw error
    }
  })
}

/** `GET /api/v1/drives`. */
export const listDrives = (drives: DrivesSource | undefined): DrivesReply => ({
  drives: drives?.list() ?? [],
})
