import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { run } from '../../cli/run.ts'
import { tempDir, type Scope } from './scope.ts'

/** A daemon's control API with canned answers, over a real Unix socket: the command line's other end. */
export interface ControlServer {
  readonly stateDir: string
  /** Request targets in the order in which they came. */
  readonly asked: readonly string[]
}

export type Answer = (url: URL, reply: ServerResponse, request: IncomingMessage) => void

/** Answers JSON with that status. */
export const json =
  (body: unknown, status = 200): Answer =>
  (_, reply) => {
    reply.writeHead(status, { 'content-type': 'application/json' })
    reply.end(JSON.stringify(body))
  }

/** Listens on `control.sock` of a new state directory; questions without an answer are a 404. */
export async function startControlServer(
  scope: Scope,
  answers: Readonly<Record<string, Answer>>,
): Promise<ControlServer> {
  const stateDir = tempDir(scope, 'control')
  const asked: string[] = []
  const server = createServer((request, reply) => {
    const url = new URL(request.url ?? '', 'http://control')
    asked.push(request.url ?? '')
    const answer = answers[url.pathname.replace('/api/v1/', '')] ?? json({}, 404)
    answer(url, reply, request)
  })
  server.listen(join(stateDir, 'control.sock'))
  await once(server, 'listening')
  scope.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { stateDir, asked }
}

/** What one command line did. */
export interface Ran {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** Streams of a test; `columns` makes stdout a terminal of that width. */
function capture(columns?: number) {
  const stream = new PassThrough()
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  return {
    stream: Object.assign(stream, columns === undefined ? {} : { isTTY: true, columns }),
    text: () => Buffer.concat(chunks).toString('utf8'),
  }
}

/** How a command line is run. */
export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv
  /** Width of the terminal, or what else reads. */
  readonly columns?: number | 'no terminal'
  /** What is piped in. */
  readonly stdin?: string | Buffer
}

/** Runs a command line in this process, as a user with an empty home and, unless told, a terminal of 80 columns without colours. */
export async function runCli(
  scope: Scope,
  argv: readonly string[],
  { env = {}, columns = 80, stdin }: RunOptions = {},
): Promise<Ran> {
  const home = env.HOME ?? tempDir(scope, 'home')
  const stdout = capture(columns === 'no terminal' ? undefined : columns)
  const stderr = capture()
  const status = await run(argv, {
    ...(stdin === undefined ? {} : { stdin: Readable.from([stdin]) }),
    stdout: stdout.stream,
    stderr: stderr.stream,
    env: { PATH: process.env.PATH, NO_COLOR: '1', ...env, HOME: home },
    program: 'narwharf',
  })
  return { status, stdout: stdout.text(), stderr: stderr.text() }
}

/** Writes a JSON configuration and returns its path. */
export function writeConfig(scope: Scope, config: unknown): string {
  const file = join(tempDir(scope, 'config'), 'config.json')
  writeFileSync(file, JSON.stringify(config))
  return file
}
