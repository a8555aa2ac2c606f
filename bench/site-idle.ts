import { readFileSync } from 'node:fs'
import type { PeersReply } from '../protocol/api.ts'
import { createScope, type Scope } from '../test/helpers/scope.ts'
import { admit, makeSite, siteSkipWithoutNix } from '../test/lab/site/site.ts'
import type { SiteHost } from '../test/lab/site/site-host.ts'
import { timed } from '../test/lab/site/until.ts'
import { cpuSeconds } from './lib/http-load.ts'
import { benchOptions, median, reportValue } from './lib/rounds.ts'
import { makeSyntheticStore } from './lib/synthetic-store.ts'

// What a daemon takes while nothing happens: among 20 peers, each a daemon in a network of its own with mDNS; and with a peer's
// index of a million paths, and how long that takes to come. Needs root. Words after the name: `peers` or `index` for one of the two.
// NARWHARF_BENCH_PATHS: another number of paths.

const { quick } = benchOptions()
const PEERS = quick ? 4 : 20
const PATHS = Number(process.env.NARWHARF_BENCH_PATHS ?? (quick ? 20_000 : 1_000_000))
/** Until what a start leaves to do is done: timers that come more slowly with time, the name index. */
const SETTLE_MS = quick ? 5_000 : 60_000
const WATCHED_MS = quick ? 10_000 : 60_000
const LIMIT_MS = 1_800_000

const sleep = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** MB of memory that a process has, now or (`VmHWM`) at most. */
function megabytes({ pid }: SiteHost, field: 'VmRSS' | 'VmHWM'): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(text)?.[1]) / 1000
}

/** What it takes while nothing happens: MB at most, % of a processor. */
async function idle(host: SiteHost): Promise<{ readonly mb: number; readonly percent: number }> {
  await sleep(SETTLE_MS)
  const parts: number[] = []
  let mb = 0
  for (let at = 0; at < WATCHED_MS; at += WATCHED_MS / 4) {
    const before = cpuSeconds([host.pid ?? 0])
    await sleep(WATCHED_MS / 4)
    parts.push(((cpuSeconds([host.pid ?? 0]) - before) / (WATCHED_MS / 4000)) * 100)
    mb = Math.max(mb, megabytes(host, 'VmRSS'))
  }
  return { mb, percent: median(parts) }
}

const peersOf = async (host: SiteHost) => (await host.api<PeersReply>('peers')).peers

async function amongPeers(scope: Scope): Promise<void> {
  const names = Array.from({ length: PEERS + 1 }, (_, index) => `h${index}`)
  const site = await makeSite(scope, { hosts: names, nix: false })
  const [first] = site.hosts
  if (first === undefined) throw new Error('no host')
  // Not all at once: this machine has to carry every one of them.
  for (const name of names) await site.start(name)
  await site.unite(first.name)
  for (const other of site.hosts.slice(1)) {
    // On a busy machine one that is asked to let another in may be late.
    await timed(`${other.name} joins`, LIMIT_MS, () => admit(first, other).then(() => true), 1000)
  }
  await timed('all are connected', LIMIT_MS, async () => {
    return (await peersOf(first)).filter(({ up }) => up).length === PEERS
  })
  const { mb, percent } = await idle(first)
  reportValue(`idle among ${PEERS} peers`, '% of a processor', percent, { atMost: 1 })
  reportValue('  memory', 'MB', mb, { atMost: 150 })
  await Promise.all(site.hosts.map(host => host.kill()))
}

async function largeIndex(scope: Scope): Promise<void> {
  const store = makeSyntheticStore(scope, PATHS)
  const site = await makeSite(scope, {
    hosts: ['a', { name: 'b', config: { store: { enable: true, root: store.root } } }],
    nix: false,
  })
  await site.start()
  const [a, b] = [site.host('a'), site.host('b')]
  await timed('b has read its store', LIMIT_MS, async () => {
    type Told = { readonly holders: readonly { readonly paths?: number }[] }
    const { holders } = await b.api<Told>('status')
    return holders.some(({ paths }) => paths === PATHS)
  })
  const { percent: before } = await idle(a)
  await site.unite()
  const { ms } = await timed('a has the index of b', LIMIT_MS, async () => {
    const [peer] = await peersOf(a)
    return peer?.paths === PATHS && peer.lag === 0
  })
  reportValue(`a peer's index of ${PATHS} paths: in force after joining`, 's', ms / 1000)
  const { mb, percent } = await idle(a)
  reportValue('  memory, idle', 'MB', mb, { atMost: 300 })
  reportValue('  memory, at most', 'MB', megabytes(a, 'VmHWM'))
  reportValue('  idle', '% of a processor', percent, { atMost: 1 })
  reportValue('  idle before', '% of a processor', before)
}

if (siteSkipWithoutNix === false) {
  const parts = { peers: amongPeers, index: largeIndex }
  const asked = Object.entries(parts).filter(([name]) => process.argv.includes(name))
  for (const [, work] of asked.length > 0 ? asked : Object.entries(parts)) {
    const scope = createScope()
    await work(scope).finally(() => scope.close())
  }
  process.exit()
} else console.log(`site-idle: skipped, ${siteSkipWithoutNix}`)
