import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { parseChannelName, type ChannelName } from '../../protocol/channel.ts'
import { formatImmutableLink, formatRegistry } from '../../protocol/flake.ts'
import { isHashAlgorithm, parseHash, type Hash } from '../../protocol/hash.ts'
import type { Publications } from '../publications/publications.ts'
import type { PublishedFile } from '../publications/published-file.ts'
import { audienceOf } from './audience.ts'
import { escapeHtml } from './landing.ts'
import { sendNotFound } from './nix-narinfo.ts'
import { sendFile } from './send-file.ts'

// Channels for nix-channel, flakes for registries and lock files, tarballs for fetchers: what lies beside the cache, as it lies
// there. To whoever may see what is signed: it is what the rest of the world publishes.

export interface PublicationRoutes {
  readonly publications: Publications
  /** False: `share.withLan` lets nothing out. */
  readonly openToLan: boolean
  /** Where this daemon is found when a request does not say: `http://127.0.0.1:6279`. */
  readonly url: () => string
}

/** A name or address and a port, as a client may have typed it: it stands in what is sent back. */
const HOST = /^(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?$/

const TYPES: readonly (readonly [ending: string, type: string])[] = [
  ['.xz', 'application/x-xz'],
  ['.gz', 'application/gzip'],
  ['.json', 'application/json'],
  ['git-revision', 'text/plain'],
  ['binary-cache-url', 'text/plain'],
]

const typeOf = (name: string): string =>
  TYPES.find(([ending]) => name.endsWith(ending))?.[1] ?? 'application/octet-stream'

const attempt = <T>(work: () => T): T | undefined => {
  try {
    return work()
  } catch {
    return undefined
  }
}

/** The hash asked for: in any spelling, with or without the algorithm before it. */
function hashAsked(algorithm: string, text: string): Hash | undefined {
  if (!isHashAlgorithm(algorithm)) return undefined
  return attempt(() => parseHash(text, { algorithm }))
}

const page = (title: string, links: readonly string[]): string =>
  `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(title)}</title></head><body><h1>${escapeHtml(title)}</h1><ul>${links
    .map(link => `<li><a href="${escapeHtml(encodeURI(link))}">${escapeHtml(link)}</a></li>`)
    .join('')}</ul></body></html>\n`

type Asked = Readonly<Record<string, string>>

/** Adds /channels, /flakes and /tarballs. */
export function addPublications(server: FastifyInstance, routes: PublicationRoutes): void {
  const { publications, openToLan } = routes

  const baseOf = (request: FastifyRequest): string => {
    const { host } = request.headers
    return host !== undefined && HOST.test(host) ? `http://${host}` : routes.url()
  }
  const absent = (request: FastifyRequest, reply: FastifyReply): void => {
    reply.hijack()
    sendNotFound(reply.raw, request.method === 'HEAD')
  }
  const send = (
    request: FastifyRequest,
    reply: FastifyReply,
    file: PublishedFile,
    headers: Readonly<Record<string, string>>,
  ): Promise<void> => {
    reply.hijack()
    return sendFile(request.raw, reply.raw, file, headers)
  }
  const text = (reply: FastifyReply, type: string, body: string) =>
    reply
      .headers({ 'Content-Type': type, 'Content-Security-Policy': "default-src 'none'" })
      .send(body)

  const route = (
    url: string,
    answer: (request: FastifyRequest, reply: FastifyReply, asked: Asked) => unknown,
  ): void => {
    server.get(url, async (request, reply) => {
      if (!openToLan && !audienceOf(request.raw).loopback) {
        absent(request, reply)
        return reply
      }
      await answer(request, reply, request.params as Asked)
      return reply
    })
  }

  const channelOf = ({ name = '' }: Asked): ChannelName | undefined =>
    attempt(() => parseChannelName(name))

  const list = async (request: FastifyRequest, reply: FastifyReply, asked: Asked) => {
    const name = channelOf(asked)
    const files = name && (await publications.channelFiles(name))
    if (name === undefined || files === undefined) return absent(request, reply)
    return text(
      reply,
      'text/html; charset=utf-8',
      page(
        name,
        files.map(file => `/channels/${name}/${file}`),
      ),
    )
  }

  route('/channels', async (_request, reply) => {
    const names = await publications.channels()
    return text(
      reply,
      'text/html; charset=utf-8',
      page(
        'Channels',
        names.map(name => `/channels/${name}`),
      ),
    )
  })
  // nix-channel asks for the address itself first, and takes anything but a 404 for an answer.
  route('/channels/:name', list)
  route('/channels/:name/', list)
  route('/channels/:name/:file', (request, reply, asked) => {
    const name = channelOf(asked)
    const { file = '' } = asked
    const found = name && publications.channelFile(name, file)
    if (found === undefined) return absent(request, reply)
    // The cache that a mirrored channel names is out of reach: this one is here.
    if (file === 'binary-cache-url') return text(reply, 'text/plain', baseOf(request))
    return send(request, reply, found, { 'Content-Type': typeOf(file) })
  })

  route('/flakes/registry.json', async (request, reply) => {
    const ids = (await publications.flakes()).map(({ flake }) => flake.id)
    return text(reply, 'application/json', formatRegistry(ids, baseOf(request)))
  })
  const TARBALL = /^(.+)\.tar\.(?:gz|xz)$/
  route('/flakes/:file', async (request, reply, { file = '' }) => {
    const found = await publications.flake(TARBALL.exec(file)?.[1] ?? '')
    if (found === undefined) return absent(request, reply)
    const link = formatImmutableLink(found.flake, baseOf(request))
    return send(request, reply, found.file, {
      'Content-Type': 'application/gzip',
      ...(link !== undefined && { Link: link }),
    })
  })
  route('/flakes/:id/:file', async (request, reply, { id = '', file = '' }) => {
    const found = await publications.flakeTarball(id, TARBALL.exec(file)?.[1] ?? '')
    if (found === undefined) return absent(request, reply)
    return send(request, reply, found, {
      'Content-Type': 'application/gzip',
      'Cache-Control': 'public, max-age=31536000, immutable',
    })
  })

  // A hash in base64 may have slashes: all that follows the algorithm is one name.
  route('/tarballs/:algorithm/*', async (request, reply, { algorithm = '', '*': name = '' }) => {
    const hash = hashAsked(algorithm, name)
    const found = hash && (await publications.tarball(hash))
    if (found === undefined) return absent(request, reply)
    return send(request, reply, found, { 'Content-Type': 'application/octet-stream' })
  })
}
