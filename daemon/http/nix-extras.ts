import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { formatNarUrl } from '../../protocol/nar-url.ts'
import {
  hashPartOf,
  parseBaseName,
  parseHashPart,
  parseStorePath,
  type BaseName,
  type HashPart,
} from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'
import type { Substitution } from '../substitution/substitution.ts'
import { audienceOf } from './audience.ts'
import { sendNotFound } from './nix-narinfo.ts'

// The small files beside narinfo and NAR: listings, logs, realisations, build traces, debug info. Each follows the
// sharing rules of the path it speaks of.

/** The value a parser makes of it, or undefined when it refuses. */
function attempt<T>(parse: () => T): T | undefined {
  try {
    return parse()
  } catch {
    return undefined
  }
}

/** The first holder's answer; one that fails has none. */
async function firstOf<T>(
  holders: readonly Holder[],
  ask: (holder: Holder) => Promise<T | undefined>,
): Promise<T | undefined> {
  for (const holder of holders) {
    try {
      const answer = await ask(holder)
      if (answer !== undefined) return answer
    } catch {
      continue
    }
  }
  return undefined
}

interface SmallReply {
  readonly type: string
  readonly body: Buffer | string
}

type Answer = (request: FastifyRequest) => Promise<SmallReply | undefined>

const JSON_TYPE = 'application/json'
const LISTING_URL = /^([0-9a-df-np-sv-z]{32})\.ls$/
const BUILD_ID = /^([0-9a-f]{40})(?:\.debug)?$/

/** Adds the routes. Every failure of whatever kind is a 404. */
export function addNixExtras(server: FastifyInstance, substitution: Substitution): void {
  const { holders } = substitution

  const route = (url: string, answer: Answer) => {
    server.route({
      url,
      method: ['GET', 'HEAD'],
      handler: async (request: FastifyRequest, reply: FastifyReply) => {
        const found = await answer(request).catch(() => undefined)
        if (found === undefined) {
          reply.hijack()
          sendNotFound(reply.raw, request.method === 'HEAD')
          return reply
        }
        return reply.header('Content-Type', found.type).send(found.body)
      },
    })
  }
  const parameter = (request: FastifyRequest, name: string) =>
    (request.params as Readonly<Record<string, string | undefined>>)[name] ?? ''
  const candidates = (request: FastifyRequest, hashPart: HashPart) =>
    substitution.candidates(hashPart, audienceOf(request.raw))
  /** Whether the asker may know of that path at all. */
  const mayKnow = async (request: FastifyRequest, path: BaseName) => {
    const { loopback } = audienceOf(request.raw)
    return loopback || (await candidates(request, hashPartOf(path))).length > 0
  }

  route('/:file', async request => {
    const hashPart = attempt(() =>
      parseHashPart(LISTING_URL.exec(parameter(request, 'file'))?.[1] ?? ''),
    )
    if (hashPart === undefined) return undefined
    for (const { holder, holding } of await candidates(request, hashPart)) {
      const body = await holder.listing(holding).catch(() => undefined)
      if (body !== undefined) return { type: JSON_TYPE, body }
    }
    return undefined
  })

  route('/log/:derivation', async request => {
    const derivation = attempt(() => parseBaseName(parameter(request, 'derivation')))
    if (derivation === undefined || !(await mayKnow(request, derivation))) return undefined
    const body = await firstOf(holders, holder => holder.log(derivation))
    return body && { type: 'text/plain; charset=utf-8', body }
  })

  route('/realisations/:id', async request => {
    const id = /^(.{1,300})\.doi$/.exec(parameter(request, 'id'))?.[1]
    if (id === undefined) return undefined
    const body = await firstOf(holders, holder => holder.realisation(id))
    if (body === undefined) return undefined
    const { outPath } = JSON.parse(body.toString()) as { outPath: string }
    const known = await mayKnow(request, parseBaseName(outPath))
    return known ? { type: JSON_TYPE, body } : undefined
  })

  route('/build-trace-v2/:derivation/:output', async request => {
    const derivation = attempt(() => parseBaseName(parameter(request, 'derivation')))
    const output = /^([A-Za-z0-9+._?=-]{1,211})\.doi$/.exec(parameter(request, 'output'))?.[1]
    if (derivation === undefined || output === undefined) return undefined
    if (!(await mayKnow(request, derivation))) return undefined
    const body = await firstOf(holders, holder => holder.buildTrace(derivation, output))
    return body && { type: JSON_TYPE, body }
  })

  route('/debuginfo/:id', async request => {
    const buildId = BUILD_ID.exec(parameter(request, 'id'))?.[1]
    if (buildId === undefined) return undefined
    const found = await firstOf(holders, holder => holder.debugInfo(buildId))
    if (found === undefined) return undefined
    const hashPart = hashPartOf(parseStorePath(found.storePath))
    const [first] = await candidates(request, hashPart)
    if (first === undefined) return undefined
    const narHash = encodeNix32(first.holding.info.narHash.bytes)
    const archive = `../${formatNarUrl({ hashPart, narHash, compression: 'none' })}`
    return { type: JSON_TYPE, body: JSON.stringify({ archive, member: found.member }) }
  })
}
