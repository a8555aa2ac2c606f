import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, createWriteStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { NODE_FLAGS, merge, PROGRAM, type ConfigOverrides } from '../../helpers/daemon.ts'
import { makeNixHost, type Command, type NixHost } from '../../helpers/nix-host.ts'
import { run, type Outcome, type RunOptions } from '../../helpers/run.ts'
import type { Scope } from '../../helpers/scope.ts'
import { until } from './until.ts'

// A host of the site: its own network, its own /nix with a real Nix, its own daemon. Daemon, command line and Nix all run inside,
// with the ports and the store directory that a real host has. NARWHARF_LAB_LOGS names a directory that keeps the daemons' logs.

/** Where things lie inside a host. */
const CONFIG_FILE = '/client/narwharf.json'
const CONTROL_SOCKET = '/client/run/control.sock'

/** The ports of the contract: every host has a network of its own, so all hosts have the same. */
const HTTP_PORT = 6279
export const NETWORK_PORT = 6280

/** How long a start may take: six at once on two busy cores. */
const START_LIMIT_MS = 60_000
const REPLY_LIMIT_MS = 10_000

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../../..')

/** What the daemon prints once it listens. */
const KEY_LINE = /trusted-public-keys = (\S+:\S+=)\n/

export interface SiteHost {
  readonly name: string
  readonly nix: NixHost
  /** Its address on the LAN, as it is now. */
  readonly address: string
  /** The daemon's process; undefined while it is off. */
  readonly pid: number | undefined
  /** Public key of its cache, once it has run. */
  readonly publicKey: string
  /** Everything its daemons wrote. */
  log(): string
  /** Starts the daemon and points the host's Nix at it, and at nothing else. Resolves when it serves. */
  start(changes?: ConfigOverrides): Promise<void>
  /** SIGTERM; resolves to the exit status. */
  stop(): Promise<number | null>
  /** SIGKILL. */
  kill(): Promise<void>
  restart(changes?: ConfigOverrides): Promise<void>
  /** `narwharf ARGS`, in the host. */
  narwharf(args: readonly string[], options?: RunOptions): Promise<Outcome>
  /** A reply of the control API, `question` with its query: what commands print, without the price of a process. */
  api<Reply>(question: string): Promise<Reply>
  /** `GET path` at the daemon's port, asked from inside the host as Nix asks; `seconds` is what curl measured. */
  get(
    path: string,
  ): Promise<{ readonly status: number; readonly body: string; readonly seconds: number }>
  /** Has Nix build a path: a file with that text, or with so many random bytes. */
  build(name: string, content: string | number): Promise<string>
  /** `nix-store -r PATHS`, without what Nix remembers of earlier misses. */
  realise(paths: readonly string[], options?: RunOptions): Promise<Outcome>
  /** A shell (or a command) inside, for `spawn`. */
  enter(args?: readonly string[]): Command
}

export interface SiteHostOptions {
  readonly name: string
  readonly netns: string
  readonly baseDir: string
  readonly withNix: boolean
  readonly config: ConfigOverrides
  address(): string
}

/** Makes a host; its daemon is not started. */
export function makeSiteHost(scope: Scope, options: SiteHostOptions): SiteHost {
  const { name, netns, baseDir, withNix } = options
  const nix = makeNixHost(scope, { netns, baseDir })
  for (const folder of ['run', 'state', 'bin']) mkdirSync(join(nix.dir, folder))
  const command = `exec ${process.execPath} ${NODE_FLAGS.join(' ')} ${PROGRAM} --config ${CONFIG_FILE} "$@"`
  writeFileSync(join(nix.dir, 'bin/narwharf'), `#!/bin/sh\n${command}\n`)
  chmodSync(join(nix.dir, 'bin/narwharf'), 0o755)
  const logFile = join(nix.dir, 'daemon.log')
  let config = merge(
    {
      stateDir: '/client/state',
      hostName: name,
      controlSocket: CONTROL_SOCKET,
      http: { host: '127.0.0.1', port: HTTP_PORT },
      network: { port: NETWORK_PORT },
      store: { enable: withNix },
      drives: { watch: false },
      trust: { publicKeys: [] },
    },
    options.config,
  )
  let daemon: { readonly child: ChildProcess; readonly ended: Promise<unknown> } | undefined
  let publicKey = ''

  const end = async (signal: NodeJS.Signals): Promise<number | null> => {
    if (daemon === undefined) return null
    const { child, ended } = daemon
    child.kill(signal)
    await ended
    daemon = undefined
    return child.exitCode
  }
  const log = () => readFileSync(logFile, { encoding: 'utf8', flag: 'a+' })

  const host: SiteHost = {
    name,
    nix,
    get address() {
      return options.address()
    },
    get pid() {
      return daemon?.child.pid
    },
    get publicKey() {
      return publicKey
    },
    log,
    async start(changes = {}) {
      if (daemon !== undefined) throw new Error(`the daemon of ${name} runs already`)
      config = merge(config, changes)
      writeFileSync(join(nix.dir, 'narwharf.json'), JSON.stringify(config, null, 2))
      const { program, args, env } = nix.command(process.execPath, [
        ...[...NODE_FLAGS, PROGRAM, 'daemon', '--config', CONFIG_FILE],
      ])
      const child = spawn(program, [...args], { stdio: ['ignore', 'pipe', 'pipe'], env, cwd: ROOT })
      daemon = { child, ended: once(child, 'close') }
      publicKey = await saysReady(child, logFile, name)
      nix.setConf({
        substituters: `http://127.0.0.1:${HTTP_PORT}`,
        'trusted-public-keys': publicKey,
      })
    },
    stop: () => end('SIGTERM'),
    async kill() {
      await end('SIGKILL')
    },
    async restart(changes) {
      await host.stop()
      await host.start(changes)
    },
    narwharf: (args, runOptions) => nix.run('/client/bin/narwharf', args, runOptions),
    api: question => askSocket(join(nix.dir, CONTROL_SOCKET.slice('/client/'.length)), question),
    async get(path) {
      // Not through the host's own root: the time of its mounts is no time of the daemon.
      const { stdout } = await run('ip', [
        ...['netns', 'exec', netns, 'curl', '-sS', '--max-time', '60'],
        ...['-w', String.raw`\n%{http_code} %{time_total}`, `http://127.0.0.1:${HTTP_PORT}${path}`],
      ])
      const cut = stdout.lastIndexOf('\n')
      const [status, seconds] = stdout.slice(cut + 1).split(' ')
      return { status: Number(status), seconds: Number(seconds), body: stdout.slice(0, cut) }
    },
    async build(pathName, content) {
      const make =
        typeof content === 'number'
          ? `/bin/head -c ${content} /dev/urandom > $out; true`
          : 'printf %s "$content" > $out'
      const text = typeof content === 'number' ? '' : content
      const expression = `{ name, content, make }: derivation {
        inherit name content; system = builtins.currentSystem;
        builder = "/bin/sh"; args = [ "-euc" make ]; }`
      const [path = ''] = await nix.words(
        'nix-build',
        '--no-out-link',
        '-E',
        expression,
        ...[
          ...['--argstr', 'name', pathName, '--argstr', 'content', text, '--argstr', 'make', make],
        ],
      )
      return path
    },
    realise: (paths, runOptions) =>
      nix.run(
        'nix-store',
        ['-r', ...paths, '--option', 'narinfo-cache-negative-ttl', '0'],
        runOptions,
      ),
    enter: (args = ['/bin/bash', '--norc']) => {
      const entry = nix.command(args[0] ?? '/bin/sh', args.slice(1))
      const PATH = `/client/bin:${entry.env.PATH}`
      return { ...entry, env: { ...entry.env, PATH, TERM: process.env.TERM, PS1: `${name}# ` } }
    },
  }
  scope.teardown(async () => {
    await host.kill()
    const keep = process.env.NARWHARF_LAB_LOGS
    if (keep !== undefined) writeFileSync(join(keep, `${name}.log`), log())
  })
  return host
}

/** Resolves to the cache's public key when the daemon has printed it. Rejects with its log if it ends or hangs. */
async function saysReady(child: ChildProcess, logFile: string, name: string): Promise<string> {
  const file = createWriteStream(logFile, { flags: 'a' })
  let output = ''
  let key: string | undefined
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      file.write(text)
      if (key !== undefined) return
      output += text
      key = KEY_LINE.exec(output)?.[1]
    })
  }
  child.once('close', () => file.end())
  const ended = () => child.exitCode !== null || child.signalCode !== null
  try {
    await until(`the daemon of ${name} serves`, START_LIMIT_MS, () => key !== undefined || ended())
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${output}`, { cause: error })
  }
  if (key !== undefined) return key
  throw new Error(
    `the daemon of ${name} ended with ${child.exitCode ?? child.signalCode}\n${output}`,
  )
}

/** Asks a daemon over its control socket, whatever namespace it is in: Unix sockets know no network. */
function askSocket<Reply>(socketPath: string, question: string): Promise<Reply> {
  return new Promise((resolve_, reject) => {
    const asked = request({ socketPath, path: `/api/v1/${question}`, agent: false }, reply => {
      let text = ''
      reply.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
      reply.on('error', reject)
      reply.on('end', () => {
        if (reply.statusCode === 200) resolve_(JSON.parse(text) as Reply)
        else reject(new Error(`${question}: ${reply.statusCode} ${text}`))
      })
    })
    asked.setTimeout(REPLY_LIMIT_MS, () => asked.destroy(new Error(`${question}: no answer`)))
    asked.on('error', reject)
    asked.end()
  })
}
