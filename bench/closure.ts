import { makeBinaryCache } from '../test/helpers/binary-cache.ts'
import { startDaemon } from '../test/helpers/daemon.ts'
import { useSubstituters } from '../test/helpers/nix-client.ts'
import { makeNixHost } from '../test/helpers/nix-host.ts'
import { createScope, type Scope } from '../test/helpers/scope.ts'
import { untilIdle } from './lib/http-load.ts'
import { makeLink, type Link } from '../test/helpers/link.ts'
import { startNginx } from './lib/nginx.ts'
import { makeRealClosure, type RealClosure } from './lib/real-closure.ts'
import { benchOptions, inRounds, report, reportValue } from './lib/rounds.ts'

// End to end: a real Nix installs a closure, into a fresh store in memory with a fresh narinfo cache every time. Destination
// and client are the same for all, so what differs is the server.

const { rounds, quick } = benchOptions(3)
const LARGE = { paths: quick ? 60 : 300, bytes: quick ? 200e6 : 1.8e9 }
const TINY = { paths: quick ? 300 : 2_000, bytes: 0 }
/** What goes over the slow links: enough to see the rate, not more. */
const LINKED = { paths: 60, bytes: quick ? 60e6 : 300e6 }
const GIGABIT = 1e9
const HUNDRED_MEGABIT = 1e8

/** Where a client finds its substituter. */
interface Target {
  readonly url: string
  readonly key: string
}

/** Seconds that `nix-store -r` takes in a store of its own. */
async function install(top: string, { url, key }: Target, netns?: string): Promise<number> {
  const scope = createScope()
  try {
    const client = makeNixHost(scope, {
      baseDir: '/dev/shm',
      ...(netns !== undefined && { netns }),
    })
    useSubstituters(client, [url], [key])
    await client.run('nix-store', ['--init'])
    const start = performance.now()
    await client.run('nix-store', ['-r', top], { timeoutMs: 600_000 })
    return (performance.now() - start) / 1000
  } finally {
    await scope.close()
  }
}

/** nginx, the daemon over the live store, the daemon over the same directory as nginx. */
async function compare(
  scope: Scope,
  what: string,
  closure: RealClosure,
  atMost: number,
): Promise<void> {
  const { host, top } = closure
  const cache = await makeBinaryCache(host, [top], { compression: 'none' })
  const nginx = await startNginx(scope, cache.dir)
  const log = { level: 'warn' }
  const live = await startDaemon(scope, { store: { enable: true, root: host.root }, log })
  const directory = await startDaemon(scope, {
    cache: { dir: cache.dir },
    trust: { publicKeys: [cache.publicKey] },
    log,
  })
  const targets: Readonly<Record<string, Target>> = {
    nginx: { url: nginx.url, key: cache.publicKey },
    'daemon, live store': { url: live.url, key: live.publicKey },
    'daemon, directory': { url: directory.url, key: directory.publicKey },
  }
  await untilIdle(live.pid)
  await untilIdle(directory.pid)
  const result = await inRounds(
    Object.fromEntries(
      Object.entries(targets).map(([name, target]) => [name, () => install(top, target)]),
    ),
    rounds,
  )
  const size = `${closure.paths} paths, ${(closure.narBytes / 1e9).toFixed(2)} GB`
  report(`${what} (${size}), nix-store -r`, 's', result, {
    'daemon, live store': { atMost },
    'daemon, directory': { atMost },
  })
}

/** Live store over a slow link: as it is, or zstd on the fly; and how fast each packs, which says where the line is. */
async function overLinks(scope: Scope, link: Link, closure: RealClosure): Promise<void> {
  const { host, top } = closure
  const start = (compression: string) =>
    startDaemon(scope, {
      http: { host: link.host, compression },
      store: { enable: true, root: host.root },
      share: { withLan: 'all' },
      log: { level: 'warn' },
    })
  const [none, zstd] = [await start('none'), await start('zstd')]
  await untilIdle(zstd.pid)
  const over = (daemon: typeof none) => () =>
    install(top, { url: daemon.url, key: daemon.publicKey }, link.netns)
  for (const rate of [undefined, GIGABIT, HUNDRED_MEGABIT]) {
    await link.setRate(rate)
    const name = rate === undefined ? 'a link without limit' : `${rate / 1e6} Mbit/s`
    const result = await inRounds({ none: over(none), 'zstd on the fly': over(zstd) }, rounds)
    report(`${(closure.narBytes / 1e6).toFixed(0)} MB closure over ${name}`, 's', result)
  }
  reportValue('closure over links', 'paths', closure.paths)
}

async function main(scope: Scope): Promise<void> {
  const wanted = process.argv.slice(2)
  const all = !wanted.some(word => ['large', 'tiny', 'links'].includes(word))
  if (all || wanted.includes('tiny')) {
    await compare(scope, 'tiny paths', await makeRealClosure(scope, TINY), 1.1)
  }
  if (all || wanted.includes('large')) {
    await compare(scope, 'large closure', await makeRealClosure(scope, LARGE), 1.05)
  }
  if (all || wanted.includes('links')) {
    await overLinks(scope, await makeLink(scope), await makeRealClosure(scope, LINKED))
  }
}

const scope = createScope()
try {
  await main(scope)
} finally {
  await scope.close()
}
