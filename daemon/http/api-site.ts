import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type {
  InviteReply,
  MembersReply,
  RecoveryReply,
  RevokeReply,
  SiteState,
} from '../../protocol/api.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { RECOVERY_MAX_CHARACTERS } from '../../protocol/recovery.ts'
import { sendError } from './api-error.ts'

/** Who belongs to the site, as functions that the rooms behind it give; main hands them in. */
export interface SiteSources {
  members(): MembersReply
  init(name: string): RecoveryReply
  recovery(): RecoveryReply
  forgetSiteKey(): void
  recover(text: string, options: { leave: boolean }): void
  invite(wish: {
    expiresInMs?: number | undefined
    name?: string | undefined
    admin?: boolean | undefined
  }): InviteReply
  promote(who: string): string
  revoke(who: string, options: { entirely: boolean }): RevokeReply
  join(
    code: string,
    options: { leave: boolean; addresses: readonly { host: string; port: number }[] },
  ): Promise<void>
}

/** Longest request: the site key's four lines with a page of remarks. */
const BODY_LIMIT_BYTES = 4 * RECOVERY_MAX_CHARACTERS

/** A name, key or code: longer ones are refused by whoever reads them. */
const word = z.string().min(1).max(1000)
const flag = z.boolean().default(false)

/** Places where an inviter may be that a person names. */
const ADDRESSES_MAX = 16
const address = z.strictObject({
  host: z.union([z.ipv4(), z.ipv6()]),
  port: z.int().min(1).max(65535),
})

const BODIES = {
  nothing: z.strictObject({}),
  init: z.strictObject({ name: word }),
  recover: z.strictObject({ text: z.string().max(RECOVERY_MAX_CHARACTERS), leave: flag }),
  invite: z.strictObject({
    expiresInMs: z.int().min(1).optional(),
    name: word.optional(),
    admin: flag,
  }),
  join: z.strictObject({
    code: word,
    leave: flag,
    addresses: z.array(address).max(ADDRESSES_MAX).default([]),
  }),
  promote: z.strictObject({ host: word }),
  revoke: z.strictObject({ host: word, entirely: flag }),
}

/** Adds what changes the site: on the control socket alone, so that no web page and no other user of the machine can. */
export function addSiteApi(server: FastifyInstance, site: SiteSources): void {
  const post = <Schema extends z.ZodType>(
    url: string,
    schema: Schema,
    work: (body: z.output<Schema>) => unknown,
  ) => {
    const options = { bodyLimit: BODY_LIMIT_BYTES }
    server.post(`/api/v1/site/${url}`, options, async (request, reply) => {
      const body = schema.safeParse(request.body ?? {})
      if (!body.success) {
        const { path, message } = body.error.issues[0] ?? { path: [], message: 'not understood' }
        return sendError(reply, 400, `${path.join('.') || 'the request'}: ${message}`)
      }
      try {
        return await work(body.data)
      } catch (error) {
        if (isNarwharfError(error)) return sendError(reply, 400, error)
        throw error
      }
    })
  }
  const state = (): SiteState => site.members().state

  post('init', BODIES.init, ({ name }) => site.init(name))
  post('recovery', BODIES.nothing, () => site.recovery())
  post('forget-key', BODIES.nothing, () => {
    site.forgetSiteKey()
    return state()
  })
  post('recover', BODIES.recover, ({ text, leave }) => {
    site.recover(text, { leave })
    return state()
  })
  post('invite', BODIES.invite, wish => site.invite(wish))
  post('join', BODIES.join, async ({ code, leave, addresses }) => {
    await site.join(code, { leave, addresses })
    return state()
  })
  post('promote', BODIES.promote, ({ host }) => ({ name: site.promote(host) }))
  post('revoke', BODIES.revoke, ({ host, entirely }) => site.revoke(host, { entirely }))
}
