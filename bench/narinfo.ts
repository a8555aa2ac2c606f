import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fetchText, startDaemon, type RunningDaemon } from '../test/helpers/daemon.ts'
import { createScope, tempDir, type Scope } from '../test/helpers/scope.ts'
import {
  createLoad,
  cpuSeconds,
  memory,
  throughput,
  untilIdle,
  type Load,
} from './lib/http-load.ts'
import { startNginx, type Nginx } from './lib/nginx.ts'
import { benchOptions, inRounds, median, report, reportValue, type Goal } from './lib/rounds.ts'
import { makeTreeStore, narUrlOf, type TreeName } from './lib/trees.ts'
import { makeSyntheticStore, type SyntheticStore } from './lib/synthetic-store.ts'

// narinfo requests, 25 connections: the daemon over a live store against nginx serving the same texts as files.

const { rounds, quick } = benchOptions()
const SECONDS = quick ? 1 : 2
/** A few clients that ask while others download. */
const STREAM_CONNECTIONS = 4
const HOT = 5_000
const SMALL = quick ? 10_000 : 100_000
const LARGE = quick ? 50_000 : 1_000_000
/** File systems in memory: the file system is not what is measured. */
const BASE_DIR = '/dev/shm'

/** A server, and what it must be charged for. */
interface Served {
  readonly url: string
  readonly pids: () => number[]
}

const served = (server: RunningDaemon | Nginx): Served =>
  'pid' in server ? { url: server.url, pids: () => [server.pid] } : server

const serve = (scope: Scope, store: SyntheticStore) =>
  startDaemon(scope, { store: { enable: true, root: store.root }, log: { level: 'warn' } })

/** Sections to run, as words of the command line; none: all. */
const SECTIONS = ['requests', 'million', 'load'] as const

async function main(scope: Scope): Promise<void> {
  const asked = SECTIONS.filter(section => process.argv.includes(section))
  const wanted = new Set<string>(asked.length === 0 ? SECTIONS : asked)
  if (wanted.has('load')) await underLoad(scope)
  if (!wanted.has('requests') && !wanted.has('million')) return
  const small = makeSyntheticStore(scope, SMALL, BASE_DIR)
  const paths = Array.from({ length: SMALL }, (_, i) => `/${small.hashPart(i)}.narinfo`)
  if (wanted.has('requests')) await requests(scope, small, paths)
  if (wanted.has('million')) await million(scope, small, paths)
}

/** Warm, misses, cold. */
async function requests(
  scope: Scope,
  small: SyntheticStore,
  paths: readonly string[],
): Promise<void> {
  let daemon = await serve(scope, small)
  const inventory = await untilIdle(daemon.pid)
  reportValue(`inventory of ${SMALL} paths after the first start`, 's', inventory)
  const hot = paths.filter((_, i) => i % Math.floor(SMALL / HOT) === 0)
  const absent = paths.map((_, i) => `/${small.hashPart(SMALL + i)}.narinfo`)

  const files = tempDir(scope, 'narinfos', BASE_DIR)
  mkdirSync(files, { recursive: true })
  const firstEver = await visitAll(daemon, paths, files)
  reportValue(
    `first narinfo of each of ${SMALL} paths (decided and signed)`,
    'us wall each',
    firstEver,
  )
  const nginx = await startNginx(scope, files)

  const both = () => ({ nginx: served(nginx), daemon: served(daemon) })
  const warm = createLoad(scope, hot, 200)
  await compare('warm', url => warm(url, SECONDS), both(), { atLeast: 0.6 })
  const misses = createLoad(scope, absent, 404)
  await compare('misses', url => misses(url, SECONDS), both(), { atLeast: 0.5 })
  console.log(`memory of the daemon | ${Math.round(memory(daemon.pid).now / 1e6)} MB`)

  // Cold: nothing of these paths in the process's memory. Every round has a process of its own, whose code is warmed with
  // other paths first: what is measured is reading the databases, not compiling JavaScript.
  const others = createLoad(scope, hot, 200)
  const hotSet = new Set(hot)
  const cold = createLoad(
    scope,
    paths.filter(path => !hotSet.has(path)),
    200,
  )
  const coldDaemon = { url: daemon.url, pids: () => [daemon.pid] }
  await compare(
    'cold',
    url => cold(url, SECONDS),
    { nginx: served(nginx), daemon: coldDaemon },
    { atLeast: 0.5 },
    async () => {
      daemon = await daemon.restart()
      await untilIdle(daemon.pid)
      await others(daemon.url, SECONDS)
    },
  )
  await daemon.stop()
}

/** Asks for every path once, in turn, and writes nginx's files from the answers; microseconds per path. */
async function visitAll(
  daemon: RunningDaemon,
  paths: readonly string[],
  to: string,
): Promise<number> {
  const start = performance.now()
  const WIDTH = 16
  let next = 0
  const walk = async () => {
    for (let i = next++; i < paths.length; i = next++) {
      const path = paths[i] ?? ''
      const { status, bytes } = await fetchKept(`${daemon.url}${path}`)
      if (status !== 200) throw new Error(`${path}: ${status}`)
      writeFileSync(join(to, path), bytes)
    }
  }
  await Promise.all(Array.from({ length: WIDTH }, walk))
  return ((performance.now() - start) * 1000) / paths.length
}

const fetchKept = (url: string) => fetchText(url, { keepAlive: true })

/** Prints requests per second, latencies and CPU per request of both. `before` prepares the daemon's turn. */
async function compare(
  what: string,
  load: (url: string, name: string) => Promise<Load>,
  servers: Readonly<Record<'nginx' | 'daemon', Served>>,
  goal: Goal,
  before?: () => Promise<unknown>,
): Promise<void> {
  const seen: Record<string, { readonly load: Load; readonly cpu: number }[]> = {
    nginx: [],
    daemon: [],
  }
  const measure = (name: 'nginx' | 'daemon') => async () => {
    const server = servers[name]
    if (name === 'daemon') await before?.()
    const used = cpuSeconds(server.pids())
    const result = await load(server.url, name)
    const cpu = (1e6 * (cpuSeconds(server.pids()) - used)) / result.requests
    seen[name]?.push({ load: result, cpu })
    return result.requestsPerSecond
  }
  const result = await inRounds({ nginx: measure('nginx'), daemon: measure('daemon') }, rounds)
  report(`narinfo ${what}, 25 connections`, 'requests/s', result, { daemon: goal })
  for (const [name, all] of Object.entries(seen)) {
    const of = (pick: (one: (typeof all)[number]) => number) =>
      median(all.slice(1).map(pick)).toFixed(2)
    console.log(
      `narinfo ${what} | ${name} | p50 ${of(s => s.load.p50)} ms, p99 ${of(s => s.load.p99)} ms, ${of(s => s.cpu)} us CPU per request`,
    )
  }
}

/** A million paths against a hundred thousand: both daemons run, both answer from the database. */
async function million(
  scope: Scope,
  small: SyntheticStore,
  smallPaths: readonly string[],
): Promise<void> {
  const large = makeSyntheticStore(scope, LARGE, BASE_DIR)
  const few = await serve(scope, small)
  const many = await serve(scope, large)
  const inventory = await untilIdle(many.pid)
  reportValue(`inventory of ${LARGE} paths after the first start`, 's', inventory)
  await untilIdle(few.pid)
  // As many different paths of each, so that caches hold the same share of both.
  const largePaths = smallPaths.map(
    (_, i) => `/${large.hashPart(Math.floor((i * LARGE) / SMALL))}.narinfo`,
  )
  const loads = {
    few: createLoad(scope, smallPaths, 200),
    many: createLoad(scope, largePaths, 200),
  }
  const cost = (daemon: RunningDaemon, load: ReturnType<typeof createLoad>) => async () => {
    const before = cpuSeconds([daemon.pid])
    const { requests } = await load(daemon.url, SECONDS)
    return (1e6 * (cpuSeconds([daemon.pid]) - before)) / requests
  }
  const result = await inRounds(
    { [`${SMALL} paths`]: cost(few, loads.few), [`${LARGE} paths`]: cost(many, loads.many) },
    rounds,
  )
  report('narinfo, random over 100,000 of the paths', 'us CPU per request', result, {
    [`${LARGE} paths`]: { atMost: 1.25 },
  })
  console.log(
    `memory of the daemon over ${LARGE} paths | ${Math.round(memory(many.pid).now / 1e6)} MB`,
  )
}

/** Narinfo latency while four trees and two large files are being sent. */
async function underLoad(scope: Scope): Promise<void> {
  const store = await makeTreeStore(scope)
  const daemon = await startDaemon(scope, {
    store: { enable: true, root: store.host.root },
    log: { level: 'warn' },
  })
  const narinfos = Object.values(store.paths).map(path => `/${path.slice(11, 43)}.narinfo`)
  const urlOf = async (name: TreeName) => {
    const narinfo = await fetchText(`${daemon.url}/${store.paths[name].slice(11, 43)}.narinfo`)
    return `${daemon.url}/${narUrlOf(narinfo.body)}`
  }
  const names: readonly TreeName[] = ['tree-20000', 'tree-2400', 'file-256m']
  const urls = await Promise.all([...names, ...names.slice(0, 2), 'file-256m' as const].map(urlOf))
  for (const url of new Set(urls)) await throughput(url, 1)
  const load = createLoad(scope, narinfos, 200)
  const seen: Load[] = []
  for (let round = 0; round <= rounds; round++) {
    let done = false
    const streams = urls.map(async url => {
      while (!done) await throughput(url, 1)
    })
    const result = await load(daemon.url, SECONDS, STREAM_CONNECTIONS)
    done = true
    await Promise.all(streams)
    if (round > 0) seen.push(result)
  }
  const of = (pick: (load: Load) => number) => median(seen.map(pick))
  const what = 'narinfo while six NAR streams run'
  reportValue(
    `${what}, p50`,
    'ms',
    of(({ p50 }) => p50),
    { atMost: 1 },
  )
  reportValue(
    `${what}, p99`,
    'ms',
    of(({ p99 }) => p99),
    { atMost: 30 },
  )
  reportValue(
    what,
    'requests/s',
    of(({ requestsPerSecond }) => requestsPerSecond),
  )
}

const scope = createScope()
try {
  await main(scope)
} finally {
  await scope.close()
}
