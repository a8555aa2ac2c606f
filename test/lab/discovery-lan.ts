import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { PeerCandidate, PeerKey } from '../../daemon/site.ts'
import { run } from '../helpers/run.ts'
import type { Scope } from '../helpers/scope.ts'

// Networks of the test's own: a switch in a namespace, hosts in theirs, no route but to the LAN itself.

const PROGRAM = process.env.NARWHARF_PROGRAM ?? join(process.cwd(), 'dist/cli/main.js')
const DAEMON = join(dirname(PROGRAM), '../daemon')
const HERE = join(process.cwd(), 'test/lab')

/** A fact that should come about does so within this, or never. */
const WAIT_LIMIT_MS = 60_000

const id = process.pid % 65_536
let count = 0

const ip = (...words: string[]) => run('ip', words)

/** A switch with nothing on it. */
export interface Lan {
  /** Plugs a namespace in, with that address (`a.b.c.d/n`) or none, down or up. */
  plug(netns: string, name: string, address: string | undefined, up?: boolean): Promise<void>
  /** Whether the switch forwards multicast to that namespace's port. */
  setMulticast(netns: string, forwards: boolean): Promise<void>
}

/** A network namespace that goes with the scope. */
export async function makeNetns(scope: Scope): Promise<string> {
  const netns = `nwdisc${id}-${count++}`
  await ip('netns', 'add', netns)
  scope.teardown(() => run('ip', ['netns', 'del', netns], { accept: 'any' }))
  await ip('-n', netns, 'link', 'set', 'lo', 'up')
  return netns
}

/** A bridge in a namespace of its own. */
export async function makeLan(scope: Scope): Promise<Lan> {
  const home = await makeNetns(scope)
  await ip('-n', home, 'link', 'add', 'switch0', 'type', 'bridge')
  await ip('-n', home, 'link', 'set', 'switch0', 'up')
  const ports = new Map<string, string>()
  return {
    async plug(netns, name, address, up = true) {
      const port = `p${ports.size}`
      ports.set(netns, port)
      await ip(
        ...['-n', home, 'link', 'add', port, 'type', 'veth'],
        ...['peer', 'name', name, 'netns', netns],
      )
      await ip('-n', home, 'link', 'set', port, 'master', 'switch0', 'up')
      if (address !== undefined) await ip('-n', netns, 'addr', 'add', address, 'dev', name)
      if (up) await ip('-n', netns, 'link', 'set', name, 'up')
    },
    async setMulticast(netns, forwards) {
      const port = ports.get(netns) ?? ''
      const flood = forwards ? 'on' : 'off'
      await run('bridge', ['-n', home, 'link', 'set', 'dev', port, 'mcast_flood', flood])
    },
  }
}

/** What a host says of itself when asked. */
export interface Report {
  readonly candidates: readonly PeerCandidate[]
  readonly caches: readonly string[]
  readonly problems: readonly { readonly what: string }[]
  readonly rssBytes: number
  readonly cpuMs: number
  readonly longestStallMs: number
}

interface Line {
  readonly event?: string
  readonly what?: PeerCandidate | string
  readonly report?: Report
  readonly open?: boolean
  readonly log?: string
}

/** A running host. */
export interface DiscoveryHost {
  readonly key: PeerKey
  readonly netns: string
  /** When it was spawned, ms of `performance.now`. */
  readonly startedAt: number
  readonly child: ChildProcess
  /** Resolves to the time at which its room was open. */
  opened(): Promise<number>
  /** Resolves to the time at which it said `matches`, counting what it said before too unless `from` is later. */
  heard(event: string, matches: (what: never) => boolean, from?: number): Promise<number>
  tell(line: object): void
  report(): Promise<Report>
}

/** A key that tells which host it is. */
export const keyOf = (number: number): PeerKey => number.toString(16).padStart(64, '0') as PeerKey

/** Starts a host in a namespace; with the options of the room, over the defaults of discovery-host.mjs. */
export function startHost(
  scope: Scope,
  netns: string,
  options: { readonly key: PeerKey } & Record<string, unknown>,
): DiscoveryHost {
  const startedAt = performance.now()
  const child = spawn(
    'ip',
    [
      ...['netns', 'exec', netns, process.execPath],
      ...[join(HERE, 'discovery-host.mjs'), DAEMON, JSON.stringify(options)],
    ],
    { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } },
  )
  child.stdin.on('error', () => {})
  const lines: { readonly at: number; readonly line: Line }[] = []
  const wakers = new Set<() => void>()
  createInterface({ input: child.stdout }).on('line', text => {
    lines.push({ at: performance.now(), line: JSON.parse(text) as Line })
    for (const wake of wakers) wake()
  })
  child.on('exit', () => {
    for (const wake of wakers) wake()
  })
  scope.teardown(() => stopChild(child, 'SIGKILL'))

  const until = async (matches: (line: Line) => boolean, from: number): Promise<number> => {
    const limit = performance.now() + WAIT_LIMIT_MS
    for (let next = 0; ;) {
      for (; next < lines.length; next++) {
        const entry = lines[next]
        if (entry !== undefined && entry.at >= from && matches(entry.line)) return next
      }
      const left = limit - performance.now()
      if (left <= 0 || child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`${netns} did not hear it (exit ${child.exitCode ?? child.signalCode})`)
      }
      await new Promise<void>(resolve => {
        const timer = setTimeout(done, left)
        function done() {
          clearTimeout(timer)
          wakers.delete(done)
          resolve()
        }
        wakers.add(done)
      })
    }
  }
  const tell = (line: object): void => void child.stdin.write(`${JSON.stringify(line)}\n`)
  return {
    key: options.key,
    netns,
    startedAt,
    child,
    async opened() {
      const index = await until(line => line.open === true, 0)
      return lines[index]?.at ?? 0
    },
    async heard(event, matches, from = 0) {
      const index = await until(line => line.event === event && matches(line.what as never), from)
      return lines[index]?.at ?? 0
    },
    tell,
    async report() {
      const from = performance.now()
      tell({ report: true })
      const index = await until(line => line.report !== undefined, from)
      return lines[index]?.line.report ?? Promise.reject(new Error('no report'))
    },
  }
}

/** Ends a child and waits for it; resolves to its exit status. */
export async function stopChild(
  child: ChildProcess,
  signal: 'SIGTERM' | 'SIGKILL',
): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = once(child, 'exit')
    child.kill(signal)
    await ended
  }
  return child.exitCode
}

/** Starts a program of this directory in a namespace. */
export function startScript(
  scope: Scope,
  netns: string,
  file: string,
  ...words: string[]
): ChildProcess {
  const child = spawn(
    'ip',
    ['netns', 'exec', netns, process.execPath, join(HERE, file), ...words],
    { stdio: 'inherit', env: { ...process.env, NODE_OPTIONS: '' } },
  )
  scope.teardown(() => stopChild(child, 'SIGKILL'))
  return child
}
