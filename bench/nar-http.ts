import { Agent } from 'node:http'
import { fetchText, startDaemon, type RunningDaemon } from '../test/helpers/daemon.ts'
import { createScope, type Scope } from '../test/helpers/scope.ts'
import { startDumpServer } from './lib/dump-server.ts'
import { cpuSeconds, download, memory, resetPeak, throughput } from './lib/http-load.ts'
import { startNginx } from './lib/nginx.ts'
import { benchOptions, inRounds, median, percentile, report, reportValue } from './lib/rounds.ts'
import { makeTreeStore, narUrlOf, type TreeName, type TreeStore } from './lib/trees.ts'

// NARs over HTTP: the daemon makes them from a live store; nginx sends ready ones; nix-store --dump is piped into a socket.

const { rounds, quick } = benchOptions()
const STREAMS = 16
/** What 16 streams at once may cost, bytes. */
const MEMORY_LIMIT = 150e6
const SMALL_REQUESTS = quick ? 50 : 500

async function main(scope: Scope): Promise<void> {
  const store = await makeTreeStore(scope)
  const daemon = await startDaemon(scope, {
    store: { enable: true, root: store.host.root },
    log: { level: 'warn' },
  })
  const nginx = await startNginx(scope, store.nars)
  const dump = await startDumpServer(scope)
  const urls = {
    nginx: (name: TreeName) => `${nginx.url}/${name}.nar`,
    dump: (name: TreeName) => dump.urlOf(store.host.physical(store.paths[name])),
    daemon: await daemonUrls(daemon, store),
  }
  // The first request of all checks the NAR against its hash; what is measured is the serving.
  for (const name of Object.keys(store.paths) as TreeName[]) await download(urls.daemon(name))

  for (const clients of [1, 4]) {
    const result = await inRounds(
      {
        nginx: () => throughput(urls.nginx('file-256m'), clients),
        daemon: () => throughput(urls.daemon('file-256m'), clients),
      },
      rounds,
    )
    report(`NAR of a 256 MiB file, ${clients} client(s)`, 'MB/s', inMegabytes(result), {
      daemon: { atLeast: 0.9 },
    })
  }
  for (const [name, goal] of [
    ['tree-2400', 1.5],
    ['tree-20000', 1.15],
  ] as const) {
    for (const clients of [1, 4]) {
      const result = await inRounds(
        {
          'nix-store --dump': () => throughput(urls.dump(name), clients),
          daemon: () => throughput(urls.daemon(name), clients),
          'nginx, ready NAR': () => throughput(urls.nginx(name), clients),
        },
        rounds,
      )
      report(`NAR of ${name}, ${clients} client(s)`, 'MB/s', inMegabytes(result), {
        daemon: { atLeast: goal },
      })
    }
  }
  await firstBytes(urls.daemon('file-100k'))
  await cpuCost(daemon, urls.daemon)
  await sixteenStreams(daemon, urls.daemon)
}

const inMegabytes = (result: Awaited<ReturnType<typeof inRounds>>) => ({
  ...result,
  values: Object.fromEntries(
    Object.entries(result.values).map(([name, all]) => [name, all.map(value => value / 1e6)]),
  ),
})

/** The URLs that the daemon's narinfos name. */
async function daemonUrls(daemon: RunningDaemon, store: TreeStore) {
  const urls = new Map<TreeName, string>()
  for (const [name, path] of Object.entries(store.paths) as [TreeName, string][]) {
    const narinfo = await fetchText(`${daemon.url}/${path.slice(11, 43)}.narinfo`)
    urls.set(name, `${daemon.url}/${narUrlOf(narinfo.body)}`)
  }
  return (name: TreeName) => urls.get(name) ?? ''
}

/** Time to the first byte of a small NAR on a kept connection, one request after another. */
async function firstBytes(url: string): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const times: number[] = []
  for (let i = 0; i < SMALL_REQUESTS; i++) times.push((await download(url, agent)).firstByteMs)
  agent.destroy()
  reportValue('NAR of 100 KB, first byte, p50', 'ms', median(times), { atMost: 2 })
  reportValue('NAR of 100 KB, first byte, p99', 'ms', percentile(times, 0.99))
}

async function cpuCost(daemon: RunningDaemon, url: (name: TreeName) => string): Promise<void> {
  for (const name of ['file-256m', 'tree-2400', 'tree-20000'] as const) {
    const before = cpuSeconds([daemon.pid])
    let bytes = 0
    for (let i = 0; i < 3; i++) bytes += (await download(url(name))).bytes
    const cost = ((cpuSeconds([daemon.pid]) - before) * 1e9) / bytes
    reportValue(`NAR of ${name}, CPU of the daemon`, 'cpu-s/GB', cost)
  }
}

/** Peak memory while 16 clients read trees and large files at once. */
async function sixteenStreams(
  daemon: RunningDaemon,
  url: (name: TreeName) => string,
): Promise<void> {
  const names: readonly TreeName[] = ['file-256m', 'tree-20000', 'tree-2400', 'tree-20000']
  resetPeak(daemon.pid)
  await Promise.all(
    Array.from({ length: STREAMS }, (_, i) =>
      throughput(url(names[i % names.length] ?? 'tree-2400'), 1),
    ),
  )
  const { peak } = memory(daemon.pid)
  reportValue(`peak memory at ${STREAMS} streams`, 'MB', peak / 1e6, { atMost: MEMORY_LIMIT / 1e6 })
}

const scope = createScope()
try {
  await main(scope)
} finally {
  await scope.close()
}
