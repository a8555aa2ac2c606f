import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { formatNarUrl } from '../../protocol/nar-url.ts'
import {
  hashPartOf,
  parseBaseName,
  parseHashPart,
  parseStorePath,
  type BaseName,
  type StorePath,
} from '../../protocol/store-path.ts'
import type { Holder } from '../holders/holder.ts'
import type { Audience } from '../substitution/candidates.ts'
import type { Substitution } from '../substitution/substitution.ts'
import { audienceOf } from './audience.ts'
import { sendNotFound } from './nix-narinfo.ts'
import { createSiteQuestions } from './site-questions.ts'

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

/** A small body and what it is. */
export interface SmallReply {
  readonly type: string
  readonly body: Buffer | string
}

const JSON_TYPE = 'application/json'
const LISTING_URL = /^([0-9a-df-np-sv-z]{32})\.ls$/
const BUILD_ID = /^([0-9a-f]{40})(?:\.debug)?$/

/** What is asked for, as the segments of the URL say it, unescaped. */
type Answer = (words: readonly string[], audience: Audience) => Promise<SmallReply | undefined>

/** The small files, by the first word of their URL ('' for those at the top) and how many words follow it. */
export interface Extras {
  readonly routes: readonly {
    readonly prefix: string
    readonly words: number
    readonly answer: Answer
  }[]
}

/** Makes the answers. None of them rejects for what is not there. */
export function createExtras(substitution: Substitution): Extras {
  const questions = createSiteQuestions()

  /** Whether the asker may know of that path at all. */
  const mayKnow = async (path: BaseName, audience: Audience): Promise<boolean> =>
    audience.loopback || (await substitution.candidates(hashPartOf(path), audience)).length > 0

  /** This host's own holders, and for its own clients the peers that have the path. */
  const holdersFor = (path: BaseName, audience: Audience): readonly Holder[] =>
    audience.peer === true
      ? substitution.holders
      : [...substitution.holders, ...substitution.peersFor(hashPartOf(path))]

  const listing: Answer = async ([file = ''], audience) => {
    const hashPart = attempt(() => parseHashPart(LISTING_URL.exec(file)?.[1] ?? ''))
    if (hashPart === undefined) return undefined
    for (const { holder, holding } of await substitution.candidates(hashPart, audience)) {
      const body = await holder.listing(holding).catch(() => undefined)
      if (body !== undefined) return { type: JSON_TYPE, body }
    }
    return undefined
  }

  const log: Answer = async ([name = ''], audience) => {
    const derivation = attempt(() => parseBaseName(name))
    if (derivation === undefined || !(await mayKnow(derivation, audience))) return undefined
    const body = await firstOf(holdersFor(derivation, audience), holder => holder.log(derivation))
    return body && { type: 'text/plain; charset=utf-8', body }
  }

  const realisation: Answer = async ([file = ''], audience) => {
    const id = /^(.{1,300})\.doi$/.exec(file)?.[1]
    if (id === undefined) return undefined
    const own = await firstOf(substitution.holders, holder => holder.realisation(id))
    const body = own ?? (await peersRealisation(id, audience))
    if (body === undefined) return undefined
    const known = await mayKnow(outPathOf(body), audience)
    return known ? { type: JSON_TYPE, body } : undefined
  }

  const outPathOf = (body: Buffer): BaseName =>
    parseBaseName((JSON.parse(body.toString()) as { outPath: string }).outPath)

  /** Nothing proves it: it is the word of members, who must agree, and what they name must be here to be had. */
  const peersRealisation = async (id: string, audience: Audience): Promise<Buffer | undefined> => {
    if (audience.peer === true || !substitution.trustsMembers) return undefined
    const found = await questions.ask(substitution.peersUp(), holder => holder.realisation(id))
    const [first] = found
    if (first === undefined) return undefined
    const outPath = outPathOf(first)
    if (found.some(other => outPathOf(other) !== outPath)) return undefined
    const candidates = await substitution.candidates(hashPartOf(outPath), audience)
    return candidates.length > 0 ? first : undefined
  }

  const buildTrace: Answer = async ([name = '', file = ''], audience) => {
    const derivation = attempt(() => parseBaseName(name))
    const output = /^([A-Za-z0-9+._?=-]{1,211})\.doi$/.exec(file)?.[1]
    if (derivation === undefined || output === undefined) return undefined
    if (!(await mayKnow(derivation, audience))) return undefined
    const body = await firstOf(holdersFor(derivation, audience), holder =>
      holder.buildTrace(derivation, output),
    )
    return body && { type: JSON_TYPE, body }
  }

  const debugInfo: Answer = async ([id = ''], audience) => {
    const buildId = BUILD_ID.exec(id)?.[1]
    if (buildId === undefined) return undefined
    const own = await firstOf(substitution.holders, holder => holder.debugInfo(buildId))
    if (own !== undefined) return debugLink(own, audience)
    if (audience.peer === true) return undefined
    const found = await questions.ask(substitution.peersUp(), holder => holder.debugInfo(buildId))
    for (const each of found) {
      const link = await debugLink(each, audience)
      if (link !== undefined) return link
    }
    return undefined
  }

  /** A debugger looks for the build id in the file it gets: who names another path wastes its time, no more. */
  const debugLink = async (
    { storePath, member }: { readonly storePath: StorePath; readonly member: string },
    audience: Audience,
  ): Promise<SmallReply | undefined> => {
    const hashPart = hashPartOf(parseStorePath(storePath))
    const [first] = await substitution.candidates(hashPart, audience)
    if (first === undefined) return undefined
    const narHash = encodeNix32(first.holding.info.narHash.bytes)
    const archive = `../${formatNarUrl({ hashPart, narHash, compression: 'none' })}`
    return { type: JSON_TYPE, body: JSON.stringify({ archive, member }) }
  }

  return {
    routes: [
      { prefix: '', words: 1, answer: listing },
      { prefix: 'log', words: 1, answer: log },
      { prefix: 'realisations', words: 1, answer: realisation },
      { prefix: 'build-trace-v2', words: 2, answer: buildTrace },
      { prefix: 'debuginfo', words: 1, answer: debugInfo },
    ],
  }
}

/** Adds the routes. Every failure of whatever kind is a 404. */
export function addNixExtras(server: FastifyInstance, substitution: Substitution): void {
  for (const { prefix, words, answer } of createExtras(substitution).routes) {
    const names = Array.from({ length: words }, (_, index) => `word${index}`)
    server.route({
      url: [prefix === '' ? '' : `/${prefix}`, ...names.map(name => `:${name}`)].join('/'),
      method: ['GET', 'HEAD'],
      handler: async (request: FastifyRequest, reply: FastifyReply) => {
        const given = request.params as Readonly<Record<string, string | undefined>>
        const found = await answer(
          names.map(name => given[name] ?? ''),
          audienceOf(request.raw),
        ).catch(() => undefined)
        if (found === undefined) {
          reply.hijack()
          sendNotFound(reply.raw, request.method === 'HEAD')
          return reply
        }
        return reply.header('Content-Type', found.type).send(found.body)
      },
    })
  }
}
