import { request, type IncomingMessage, type RequestOptions } from 'node:http'
import { createInterface } from 'node:readline'
import type {
  DoctorReply,
  ErrorReply,
  FetchEvent,
  InviteReply,
  MembersReply,
  NixConfReply,
  PeersReply,
  RecoveryReply,
  RevokeReply,
  SiteState,
  StatusReply,
  WhoHasReply,
  WhyNotReply,
} from '../protocol/api.ts'
import type { JobEvent, JobReply, JobsReply } from '../protocol/api-jobs.ts'
import type { DrivesReply, EjectReply } from '../protocol/api-drives.ts'
import type {
  MissingEvent,
  MissingRequest,
  WantAddRequest,
  WantRemoveReply,
  WantsReply,
} from '../protocol/api-wants.ts'
import { CommandError } from './exit.ts'
import type { Settings } from './settings.ts'

/** Where an inviter is, as the user says. */
export interface InviterAddress {
  readonly host: string
  readonly port: number
}

/** Questions to a running daemon, and what changes its site; see docs/http-api.md. Each rejects with a {@link CommandError}. */
export interface Client {
  status(): Promise<StatusReply>
  whoHas(queries: readonly string[]): Promise<WhoHasReply>
  whyNot(path: string): Promise<WhyNotReply>
  nixConf(): Promise<NixConfReply>
  doctor(): Promise<DoctorReply>
  peers(): Promise<PeersReply>
  /** Brings closures into the daemon's cache; calls back for every event as it comes. */
  fetch(paths: readonly string[], onEvent: (event: FetchEvent) => void): Promise<void>
  wants(): Promise<WantsReply>
  wantAdd(request: WantAddRequest): Promise<WantsReply>
  wantRemove(wants: readonly string[]): Promise<WantRemoveReply>
  /** The site's want list, as a file. */
  wantExport(): Promise<Buffer>
  /** The site's have digest, as a file. */
  have(options: { readonly drives: boolean }): Promise<Buffer>
  missing(request: MissingRequest, onEvent: (event: MissingEvent) => void): Promise<void>
  jobs(): Promise<JobsReply>
  /** A job as it stands and what happens, to its end. */
  followJob(id: number, onEvent: (event: JobEvent) => void): Promise<void>
  cancelJob(id: number): Promise<JobReply>
  /** Asks for work that is a job, and follows it: `path` below `/api/v1/`. */
  startJob(path: string, wish: object, onEvent: (event: JobEvent) => void): Promise<void>
  drives(): Promise<DrivesReply>
  /** By name, id or mount point. */
  eject(drive: string): Promise<EjectReply>
  members(): Promise<MembersReply>
  siteInit(name: string): Promise<RecoveryReply>
  siteRecovery(): Promise<RecoveryReply>
  siteForgetKey(): Promise<SiteState>
  siteRecover(text: string, options: { readonly leave: boolean }): Promise<SiteState>
  invite(wish: {
    readonly expiresInMs?: number | undefined
    readonly name?: string | undefined
    readonly admin: boolean
  }): Promise<InviteReply>
  join(
    code: string,
    options: { readonly leave: boolean; readonly addresses: readonly InviterAddress[] },
  ): Promise<SiteState>
  promote(host: string): Promise<{ readonly name: string }>
  revoke(host: string, options: { readonly entirely: boolean }): Promise<RevokeReply>
}

/** How long a daemon may take over an answer: a search over a million paths takes seconds. */
const TIMEOUT_MS = 60_000

/** A slow stick with gigabytes waiting to be written to it takes this long to be ejected. */
const EJECT_TIMEOUT_MS = 15 * 60_000

/** Longest answer that is read: 200 queries with 1,000 matches each stay far below. */
const REPLY_LIMIT_BYTES = 1 << 28

/** Nobody answers: `nix-conf` and `doctor` go on without a daemon. */
export class NotRunningError extends CommandError {}

export const isCode = (error: unknown, ...codes: readonly string[]): boolean =>
  codes.includes((error as NodeJS.ErrnoException).code ?? '')

function send(
  options: RequestOptions,
  body?: string,
  timeoutMs = TIMEOUT_MS,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request(options, resolve)
    sent.once('error', reject)
    sent.setTimeout(timeoutMs, () =>
      sent.destroy(
        new CommandError(
          `the daemon gave no answer within ${timeoutMs / 1000} s`,
          'look at its log: journalctl -u narwharf',
        ),
      ),
    )
    sent.end(body)
  })
}

async function readWhole(reply: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of reply as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > REPLY_LIMIT_BYTES) {
      throw new CommandError('the answer is too long', 'ask for less at a time')
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** The JSON of an answer. */
export async function readBody(reply: IncomingMessage): Promise<unknown> {
  const body = await readWhole(reply)
  try {
    return JSON.parse(body.toString('utf8'))
  } catch (error) {
    throw new CommandError(
      'the answer is not JSON',
      'something else than narwharf answers at its control socket: see --config and --state-dir',
      1,
      error,
    )
  }
}

/** What an answer that is none of success says. */
export function refusal(body: unknown, status: number | undefined): CommandError {
  const { error } = (body ?? {}) as Partial<ErrorReply>
  return typeof error?.message === 'string'
    ? new CommandError(error.message, error.hint)
    : new CommandError(
        `the daemon answered with HTTP status ${status}`,
        'it may be of another version than this command: narwharf status',
      )
}

export const mayNotOpen = (socket: string, cause?: unknown): CommandError =>
  new CommandError(
    `may not open the control socket ${socket}`,
    'run it as root, or as a member of the daemon’s group',
    1,
    cause,
  )

export const notRunning = ({ sockets, startCommand }: Settings): NotRunningError =>
  new NotRunningError(
    `the daemon is not running: nobody answers at ${sockets[0]}`,
    `start it with: ${startCommand}`,
  )

export const brokeOff = (error: unknown): CommandError =>
  error instanceof CommandError
    ? error
    : new CommandError(
        `the daemon broke off: ${(error as Error).message}`,
        'look at its log: journalctl -u narwharf',
        1,
        error,
      )

/** Talks to the daemon over the first of its control sockets that answers. */
export function createClient(settings: Settings): Client {
  const { config, sockets } = settings

  const attempt = async (
    path: string,
    body?: string,
    timeoutMs?: number,
  ): Promise<IncomingMessage> => {
    const how =
      body === undefined ? {} : { method: 'POST', headers: { 'content-type': 'application/json' } }
    let forbidden: string | undefined
    for (const socketPath of sockets) {
      try {
        return await send({ socketPath, path, ...how }, body, timeoutMs)
      } catch (error) {
        if (isCode(error, 'EACCES', 'EPERM')) forbidden ??= socketPath
        else if (!isCode(error, 'ENOENT', 'ECONNREFUSED', 'ENOTDIR')) throw error
      }
    }
    if (forbidden === undefined) throw notRunning(settings)
    if (body !== undefined) throw mayNotOpen(forbidden)
    return askOverLoopback(path, forbidden)
  }

  /** Reading is allowed to every user of the machine over the loopback port; only the socket is for the daemon's group. */
  const askOverLoopback = async (path: string, socket: string): Promise<IncomingMessage> => {
    const { host, port } = config.http
    const local = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
    try {
      return await send({ host: local, port, path })
    } catch (error) {
      throw mayNotOpen(socket, error)
    }
  }

  const ask = async <Reply>(path: string, sent?: string, timeoutMs?: number): Promise<Reply> => {
    let reply
    try {
      reply = await attempt(path, sent, timeoutMs)
      const body = await readBody(reply)
      if (reply.statusCode === 200) return body as Reply
      throw refusal(body, reply.statusCode)
    } catch (error) {
      throw brokeOff(error)
    } finally {
      reply?.destroy()
    }
  }

  /** The answer as it is. */
  const askForBytes = async (path: string): Promise<Buffer> => {
    let reply
    try {
      reply = await attempt(path)
      if (reply.statusCode === 200) return await readWhole(reply)
      throw refusal(await readBody(reply), reply.statusCode)
    } catch (error) {
      throw brokeOff(error)
    } finally {
      reply?.destroy()
    }
  }

  /** The answer's lines, as they come. */
  const askForLines = async (
    path: string,
    sent: string | undefined,
    onLine: (line: unknown) => void,
  ): Promise<void> => {
    let reply
    try {
      reply = await attempt(path, sent)
      if (reply.statusCode !== 200) throw refusal(await readBody(reply), reply.statusCode)
      for await (const line of createInterface({ input: reply })) {
        if (line !== '') onLine(JSON.parse(line))
      }
    } catch (error) {
      throw brokeOff(error)
    } finally {
      reply?.destroy()
    }
  }

  const get = <Reply>(question: string, query: URLSearchParams): Promise<Reply> => {
    const text = query.toString()
    return ask(`/api/v1/${question}${text === '' ? '' : `?${text}`}`)
  }
  const post = <Reply>(url: string, body: object): Promise<Reply> =>
    ask(`/api/v1/site/${url}`, JSON.stringify(body))

  const none = new URLSearchParams()
  return {
    status: () => get('status', none),
    whoHas: queries =>
      get(
        'who-has',
        new URLSearchParams(queries.map((query): [string, string] => ['query', query])),
      ),
    whyNot: path => get('why-not', new URLSearchParams({ path })),
    nixConf: () => get('nix-conf', none),
    doctor: () => get('doctor', none),
    peers: () => get('peers', none),
    fetch: (paths, onEvent) =>
      askForLines('/api/v1/fetch', JSON.stringify({ paths }), line => onEvent(line as FetchEvent)),
    wants: () => get('wants', none),
    wantAdd: wish => ask('/api/v1/wants/add', JSON.stringify(wish)),
    wantRemove: wants => ask('/api/v1/wants/remove', JSON.stringify({ wants })),
    wantExport: () => askForBytes('/api/v1/wants/export'),
    have: ({ drives }) => askForBytes(`/api/v1/have${drives ? '?drives=1' : ''}`),
    missing: (wish, onEvent) =>
      askForLines('/api/v1/missing', JSON.stringify(wish), line => onEvent(line as MissingEvent)),
    jobs: () => get('jobs', none),
    followJob: (id, onEvent) =>
      askForLines(`/api/v1/jobs/${id}/events`, undefined, line => onEvent(line as JobEvent)),
    cancelJob: id => ask(`/api/v1/jobs/${id}/cancel`, '{}'),
    startJob: (path, wish, onEvent) =>
      askForLines(`/api/v1/${path}`, JSON.stringify(wish), line => onEvent(line as JobEvent)),
    drives: () => get('drives', none),
    eject: drive => ask('/api/v1/drives/eject', JSON.stringify({ drive }), EJECT_TIMEOUT_MS),
    members: () => get('members', none),
    siteInit: name => post('init', { name }),
    siteRecovery: () => post('recovery', {}),
    siteForgetKey: () => post('forget-key', {}),
    siteRecover: (text, options) => post('recover', { text, ...options }),
    invite: wish => post('invite', wish),
    join: (code, options) => post('join', { code, ...options }),
    promote: host => post('promote', { host }),
    revoke: (host, options) => post('revoke', { host, ...options }),
  }
}
