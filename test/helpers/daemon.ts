import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { join } from 'node:path'
import { freePort, tempDir, type Scope } from './scope.ts'

/** The program as it is shipped (`npm run build` makes it, `npm test` does so first), or another one, installed elsewhere. */
export const PROGRAM = process.env.NARWHARF_PROGRAM ?? join(process.cwd(), 'dist/cli/main.js')

/** As the program's first line has it. */
export const NODE_FLAGS: readonly string[] = ['--max-semi-space-size=2', '--v8-pool-size=1']

/** Why no daemon can be started, or false: for tap's `skip`. */
export const daemonSkip: false | string = existsSync(PROGRAM) ? false : 'needs npm run build'

/** How long a start may take before it is a failure. */
const START_LIMIT_MS = 20_000

type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }
export type ConfigOverrides = Readonly<Record<string, Json>>

/** A daemon of the test's own. */
export interface RunningDaemon {
  readonly url: string
  readonly port: number
  readonly publicKey: string
  readonly stateDir: string
  readonly configFile: string
  readonly pid: number
  /** Everything it wrote so far. */
  log(): string
  /** SIGTERM, and waits for the end; resolves to the exit status. */
  stop(): Promise<number | null>
  /** SIGKILL, and waits for the end. */
  kill(): Promise<void>
  /** Starts it again with the same state, address and configuration, or changed keys of it. */
  restart(changes?: ConfigOverrides): Promise<RunningDaemon>
}

const isObject = (value: Json | undefined): value is { readonly [key: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** A configuration with some keys changed, at any depth. */
export function merge(base: ConfigOverrides, over: ConfigOverrides): ConfigOverrides {
  const result: Record<string, Json> = { ...base }
  for (const [key, value] of Object.entries(over)) {
    const old = result[key]
    result[key] = isObject(old) && isObject(value) ? merge(old, value) : value
  }
  return result
}

/**
 * Starts a daemon with a state directory and ports of its own. Without a `store` of the test's it serves no live store, so
 * that the machine's own never gets into a test. Waits until it says its address.
 */
export async function startDaemon(
  scope: Scope,
  overrides: ConfigOverrides = {},
): Promise<RunningDaemon> {
  const stateDir = tempDir(scope, 'state')
  const config = merge(
    {
      stateDir: join(stateDir, 'state'),
      hostName: 'lab-host',
      http: { host: '127.0.0.1', port: await freePort() },
      network: { port: await freePort(), mdns: false },
      drives: { watch: false },
      store: { enable: false },
    },
    overrides,
  )
  mkdirSync(join(stateDir, 'state'))
  return launch(scope, stateDir, config)
}

async function launch(
  scope: Scope,
  directory: string,
  config: ConfigOverrides,
): Promise<RunningDaemon> {
  const configFile = join(directory, 'config.json')
  writeFileSync(configFile, JSON.stringify(config, null, 2))
  const child = spawn(
    process.execPath,
    [...NODE_FLAGS, PROGRAM, 'daemon', '--config', configFile],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  const ended = once(child, 'close')
  scope.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  }
  const http = config.http as { readonly host: string; readonly port: number }
  const publicKey = await saysReady(child, () => output)
  // A daemon open to the network is asked as its own machine would ask it.
  const host = http.host === '0.0.0.0' ? '127.0.0.1' : http.host
  const url = `http://${host}:${http.port}`
  return {
    url,
    port: http.port,
    publicKey,
    stateDir: join(directory, 'state'),
    configFile,
    pid: child.pid ?? 0,
    log: () => output,
    async stop() {
      child.kill('SIGTERM')
      await ended
      return child.exitCode
    },
    async kill() {
      child.kill('SIGKILL')
      await ended
    },
    async restart(changes = {}) {
      child.kill('SIGTERM')
      await ended
      return launch(scope, directory, merge(config, changes))
    },
  }
}

/** The line for nix.conf that a daemon prints once it listens. */
const KEY_LINE = /trusted-public-keys = (\S+:\S+=)\n/

/** Resolves to the public key when the daemon has printed it: it listens then. Rejects with what it wrote if it ends or hangs. */
function saysReady(child: ChildProcess, output: () => string): Promise<string> {
  return new Promise((resolve, reject) => {
    const finish = (problem?: string) => {
      clearTimeout(timer)
      child.stdout?.off('data', look)
      child.stderr?.off('data', look)
      child.off('close', onClose)
      if (problem !== undefined) reject(new Error(`the daemon ${problem}\n${output()}`))
    }
    const look = () => {
      const key = KEY_LINE.exec(output())?.[1]
      if (key === undefined) return
      finish()
      resolve(key)
    }
    const onClose = () => finish(`ended with ${child.exitCode ?? child.signalCode}`)
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      finish(`was not ready after ${START_LIMIT_MS} ms`)
    }, START_LIMIT_MS)
    child.stdout?.on('data', look)
    child.stderr?.on('data', look)
    child.on('close', onClose)
  })
}

/** A reply read to its end. */
export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly bytes: Buffer
  readonly body: string
}

/** What {@link fetchText} is told. */
export interface FetchOptions {
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  /** Use connections again; by default each request has its own. */
  readonly keepAlive?: boolean
}

const keptConnections = new Agent({ keepAlive: true })

/** One plain HTTP request; rejects when the connection breaks. */
export function fetchText(url: string, options: FetchOptions = {}): Promise<Reply> {
  return new Promise((resolve, reject) => {
    get(
      url,
      {
        method: options.method ?? 'GET',
        headers: { ...options.headers },
        agent: options.keepAlive === true && keptConnections,
      },
      response => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', reject)
        response.on('end', () => {
          const bytes = Buffer.concat(chunks)
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            bytes,
            body: bytes.toString('utf8'),
          })
        })
      },
    ).on('error', reject)
  })
}
