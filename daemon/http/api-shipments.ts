import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { isNarwharfError } from '../../protocol/errors.ts'
import { PLAIN_TEXT_MAX_CHARACTERS, SHIPMENT_PARTS_MAX } from '../../protocol/json-texts.ts'
import { SHIPMENT_ROOTS_MAX } from '../../protocol/shipment.ts'
import { parseSize } from '../config-values.ts'
import type { Jobs, RunningJob } from '../jobs/jobs.ts'
import type { ShipWish } from '../shipments/pack-prepare.ts'
import type { Shipping } from '../shipments/shipping.ts'
import { sendError } from './api-error.ts'
import { sendJobEvents } from './api-jobs.ts'

/** What the API of packing and checking answers from. */
export interface ShippingSource extends Shipping {
  readonly jobs: Pick<Jobs, 'follow'>
}

/** So many roots with usual names: every path of a large channel. */
const BODY_LIMIT_BYTES = 32 * 1024 * 1024

const PATH_MAX_CHARACTERS = 4096

/** Files of each kind, directories to be checked. */
const FILES_MAX = 100

const path = z.string().startsWith('/').max(PATH_MAX_CHARACTERS)
const paths = z.array(path).max(FILES_MAX)
const size = z.union([z.number(), z.string().max(64)]).transform((value, context) => {
  const bytes = parseSize(value)
  if (bytes !== undefined && bytes > 0) return bytes
  context.addIssue({ code: 'custom', message: 'not a size such as 64GB' })
  return z.NEVER
})
const url = z
  .string()
  .max(PATH_MAX_CHARACTERS)
  .regex(/^https?:\/\//i)
const time = z.iso.datetime()

const shipBody = z.strictObject({
  dir: path,
  roots: z.array(z.string().min(1).max(PATH_MAX_CHARACTERS)).max(SHIPMENT_ROOTS_MAX).default([]),
  have: paths.optional(),
  want: paths.optional(),
  from: z.union([path, url]).optional(),
  sizeLimit: size.optional(),
  split: z.number().int().min(1).max(SHIPMENT_PARTS_MAX).optional(),
  part: z.number().int().min(1).max(SHIPMENT_PARTS_MAX).optional(),
  maxFileSize: size.optional(),
  channels: z.array(z.string().min(1).max(255)).max(FILES_MAX).optional(),
  allChannels: z.boolean().optional(),
  name: z.string().min(1).max(PLAIN_TEXT_MAX_CHARACTERS).optional(),
  createdAt: time.optional(),
  replace: z.boolean().optional(),
  verify: z.boolean().optional(),
  dryRun: z.boolean().optional(),
})

const verifyBody = z.strictObject({
  targets: z.array(z.string().min(1).max(PATH_MAX_CHARACTERS)).max(FILES_MAX).optional(),
  repair: z.boolean().optional(),
})

/** Names the first field that is not as it should be. */
const problemOf = ({ issues: [first] }: z.ZodError): string =>
  first === undefined ? 'not as it should be' : `${first.path.join('.')}: ${first.message}`

/** Adds `POST /api/v1/ship` and `/verify`: for the control socket. They are answered with the events of the job. */
export function addShippingApi(server: FastifyInstance, shipping: ShippingSource): void {
  const answer = async (reply: FastifyReply, start: () => RunningJob): Promise<FastifyReply> => {
    try {
      const events = shipping.jobs.follow(start().id)
      if (events !== undefined) return await sendJobEvents(reply, events)
      return await sendError(reply, 404, 'the job is gone')
    } catch (error) {
      if (isNarwharfError(error)) return sendError(reply, 400, error)
      throw error
    }
  }
  server.post('/api/v1/ship', { bodyLimit: BODY_LIMIT_BYTES }, (request, reply) => {
    const asked = shipBody.safeParse(request.body ?? {})
    if (!asked.success) return sendError(reply, 400, problemOf(asked.error))
    const wish: ShipWish = asked.data
    if (wish.part !== undefined && wish.part > (wish.split ?? 1)) {
      return sendError(reply, 400, 'part: there are not so many parts')
    }
    return answer(reply, () => shipping.ship(wish))
  })
  server.post('/api/v1/verify', (request, reply) => {
    const asked = verifyBody.safeParse(request.body ?? {})
    if (!asked.success) return sendError(reply, 400, problemOf(asked.error))
    return answer(reply, () => shipping.verify(asked.data))
  })
}
