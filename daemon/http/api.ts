import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type {
  DoctorReply,
  NixConfReply,
  PeersReply,
  StatusReply,
  WhoHasReply,
  WhyNotReply,
} from '../../protocol/api.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { sendError } from './api-error.ts'
import { addArchivesApi, type ArchiveSources } from './api-archives.ts'
import { addDrivesApi, listDrives, type DrivesSource } from './api-drives.ts'
import { addFetchApi, type FetchSource } from './api-fetch.ts'
import { addJobsApi, listJobs, type JobsSource } from './api-jobs.ts'
import { addShippingApi, type ShippingSource } from './api-shipments.ts'
import { addMergeApi, type MergeSource } from './api-merge.ts'
import { addSiteApi, type SiteSources } from './api-site.ts'
import { addWantsApi, type WantsSource } from './api-wants.ts'
import { audienceOf } from './audience.ts'

/** What the API answers from: the rooms behind it, as functions. */
export interface ApiSources {
  status(): StatusReply
  whoHas(queries: readonly string[]): Promise<WhoHasReply>
  whyNot(path: string): Promise<WhyNotReply>
  nixConf(): NixConfReply
  doctor(): Promise<DoctorReply>
  /** The other hosts of the site. */
  readonly peers?: (() => PeersReply) | undefined
  /** Brings closures into this host's cache. */
  readonly fetch?: FetchSource | undefined
  /** Removable file systems. */
  readonly drives?: DrivesSource | undefined
  /** Merging of drives. */
  readonly merging?: MergeSource | undefined
  /** Work that takes long. */
  readonly jobs?: JobsSource | undefined
  /** Archives of `nix-store --export`, in and out. */
  readonly archives?: ArchiveSources | undefined
  /** Packing and checking of shipments. */
  readonly shipping?: ShippingSource | undefined
  /** What the site wishes for, has and lacks. */
  readonly wants?: WantsSource | undefined
  /** Membership of the site. */
  readonly site?: SiteSources | undefined
}

/** Questions in one request: a shell's argument list, not a crawl. */
const QUERIES_LIMIT = 200

/**
 * Names under which a browser may ask on loopback. A page of another site whose name was made to resolve to 127.0.0.1
 * sends its own name here (DNS rebinding), and is refused.
 */
const LOCAL_HOST = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?$/i

function list(query: unknown, name: string): string[] {
  const value = (query as Readonly<Record<string, unknown>>)[name]
  const values = Array.isArray(value) ? value : value === undefined ? [] : [value]
  return values.filter((one): one is string => typeof one === 'string')
}

/** Adds /api/v1: on the control socket for whoever may open it, on the TCP port for this machine only. */
export function addApi(
  server: FastifyInstance,
  sources: ApiSources,
  door: 'control' | 'loopback',
): void {
  const route = (
    url: string,
    answer: (request: FastifyRequest, reply: FastifyReply) => unknown,
  ) => {
    server.get(`/api/v1/${url}`, async (request, reply) => {
      if (door === 'loopback') {
        const local =
          audienceOf(request.raw).loopback && LOCAL_HOST.test(request.headers.host ?? '')
        if (!local) return sendError(reply, 403, 'the API answers on this machine only')
      }
      try {
        return await answer(request, reply)
      } catch (error) {
        if (isNarwharfError(error)) return sendError(reply, 400, error)
        throw error
      }
    })
  }
  route('status', () => sources.status())
  route('nix-conf', () => sources.nixConf())
  route('doctor', () => sources.doctor())
  route('peers', (): PeersReply => sources.peers?.() ?? { peers: [] })
  route('drives', () => listDrives(sources.drives))
  if (sources.drives !== undefined && door === 'control') addDrivesApi(server, sources.drives)
  route('jobs', () => listJobs(sources.jobs))
  const { site, fetch, jobs, archives, shipping } = sources
  if (shipping !== undefined && door === 'control') addShippingApi(server, shipping)
  if (archives !== undefined && door === 'control') addArchivesApi(server, archives)
  if (jobs !== undefined && door === 'control') addJobsApi(server, jobs)
  if (sources.merging !== undefined && door === 'control') addMergeApi(server, sources.merging)
  if (fetch !== undefined && door === 'control') addFetchApi(server, fetch)
  const { wants } = sources
  route('wants', () => wants?.list() ?? { wants: [] })
  if (wants !== undefined && door === 'control') addWantsApi(server, wants)
  if (site !== undefined) {
    route('members', () => site.members())
    if (door === 'control') addSiteApi(server, site)
  }
  route('who-has', (request, reply) => {
    const queries = list(request.query, 'query')
    if (queries.length === 0) return sendError(reply, 400, 'give at least one query=')
    if (queries.length > QUERIES_LIMIT) {
      return sendError(reply, 400, `at most ${QUERIES_LIMIT} queries at a time`)
    }
    return sources.whoHas(queries)
  })
  route('why-not', (request, reply) => {
    const [path] = list(request.query, 'path')
    return path === undefined ? sendError(reply, 400, 'give path=') : sources.whyNot(path)
  })
}
