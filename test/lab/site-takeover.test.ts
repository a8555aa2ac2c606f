import { randomFillSync } from 'node:crypto'
import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { differences } from '../helpers/nix-client.ts'
import { makeSite, siteSkip, type Site } from './site/site.ts'
import type { SiteHost } from './site/site-host.ts'
import { until } from './site/until.ts'
import { knows, narinfoPath, peersUp, record, within } from './site/views.ts'

// Holders that die in the middle of a large NAR, and all of them off. Hosts a and b hold the NAR, c to f are clients.

/** A NAR, and a client's cable for it: slow enough to kill a holder at a chosen byte, fast enough for the test to end. */
interface Large {
  readonly name: string
  readonly bytes: number
  readonly rate: number
}
/** The issue's, and a quarter of it over a quarter of the cable: the same to narwharf, and less to make and to compare. */
const GIB: Large = { name: 'gib', bytes: 2 ** 30, rate: 800_000_000 }
const QUARTER: Large = { name: 'quarter', bytes: 2 ** 28, rate: 200_000_000 }
/** All kills with the size: for the figures of docs/site.md. */
const SMALLER = process.env.NARWHARF_LAB_FULL === undefined ? QUARTER : GIB

const CHUNK_BYTES = 2 ** 24

/** What crosses the wire beside the NAR: frames, encryption, packets sent again, gossip. */
const OVERHEAD = 1.06
/**
 * What a resumed NAR may cost in addition: what was under way in buffers when its holder died, and what had come before the
 * client was given its first byte, 2.5 s of its cable: nobody vouches for that part any more.
 */
const LOST_SHARE = 0.25

const NEWS_LIMIT_MS = 60_000
const LAB_LIMIT_MS = 600_000
/** The figure for a miss with everybody off. */
const MISS_AIM_MS = 20
const MISSES = 40

t.setTimeout(LAB_LIMIT_MS)
t.test('holders that go away', { skip: siteSkip }, async t => {
  const site = await makeSite(t, { hosts: ['a', 'b', 'c', 'd', 'e', 'f'] })
  await site.start()
  await site.unite()
  const holders = [site.host('a'), site.host('b')]
  const paths = new Map<Large, string>()
  for (const large of new Set([GIB, SMALLER])) paths.set(large, await buildLarge(holders, large))
  const pathOf = (large: Large) => paths.get(large) ?? ''
  for (const [client, percent, large] of [
    ['c', 10, SMALLER],
    ['d', 50, GIB],
    ['e', 99, SMALLER],
  ] as const) {
    await t.test(
      `the one in use is killed at ${percent} % of a ${large.name}, another goes on`,
      t => killedOnTheWay(t, site, site.host(client), pathOf(large), large, percent),
    )
  }
  await t.test('the only one is killed at 50 % and comes back', t =>
    comesBack(t, site, site.host('f'), pathOf(SMALLER), SMALLER),
  )
  await t.test('all others are off: a miss is quick', t => quickMiss(t, site, pathOf(SMALLER)))
})

/** The same path on two hosts, built on each: no bytes that compress, nothing that one had to get from the other. */
async function buildLarge(holders: readonly SiteHost[], { name, bytes }: Large): Promise<string> {
  const paths = new Set<string>()
  const key = randomFillSync(Buffer.alloc(CHUNK_BYTES))
  for (const { nix } of holders) {
    const file = openSync(join(nix.dir, 'large'), 'w')
    for (let at = 0; at < bytes; at += CHUNK_BYTES) {
      key.writeUInt32LE(at / CHUNK_BYTES)
      writeSync(file, key)
    }
    closeSync(file)
    const [path = ''] = await nix.words('nix-build', '--no-out-link', '-E', expressionOf(name))
    paths.add(path)
  }
  const [path = ''] = paths
  if (paths.size !== 1) throw new Error('the holders built different paths')
  return path
}

/** The shell stays until the end: Nix kills a builder whose last output is closed, as cp closes its own before it is done. */
const expressionOf = (name: string): string => `derivation {
  name = "${name}"; system = builtins.currentSystem;
  builder = "/bin/sh"; args = [ "-euc" "/bin/cp /client/large $out; true" ]; }`

/** Brings the site to where the client knows of the holders, and nobody else has the path. */
async function ready(
  site: Site,
  client: SiteHost,
  path: string,
  { rate }: Large,
  holders: readonly SiteHost[],
) {
  await site.start(...holders.map(({ name }) => name), client.name)
  for (const holder of holders) {
    await until(`${client.name} knows what ${holder.name} has`, NEWS_LIMIT_MS, async () => {
      const up = await peersUp(client)
      return up.includes(holder.name) && (await knows(client, path, holder))
    })
  }
  await site.network.setRate(client.name, rate)
}

/** Installs on the client and calls `at` when so many bytes have come over its cable. Resolves to all that came. */
async function install(
  site: Site,
  client: SiteHost,
  path: string,
  bytes: number,
  at: () => Promise<unknown>,
) {
  const received = async () => (await site.network.traffic(client.name)).received
  const before = await received()
  const installing = client.realise([path])
  // A failure is to be seen where it is waited for, below.
  installing.catch(() => {})
  await until(
    `${bytes} bytes have come`,
    LAB_LIMIT_MS,
    async () => (await received()) - before >= bytes,
  )
  await at()
  await installing
  return (await received()) - before
}

async function killedOnTheWay(
  t: Test,
  site: Site,
  client: SiteHost,
  path: string,
  large: Large,
  percent: number,
) {
  const holders = [site.host('a'), site.host('b')]
  const { bytes, name } = large
  await ready(site, client, path, large, holders)
  const sent = () =>
    Promise.all(holders.map(async ({ name }) => (await site.network.traffic(name)).sent))
  const before = await sent()
  const start = performance.now()
  let killed = ''
  const total = await install(site, client, path, (bytes * percent) / 100, async () => {
    const now = await sent()
    const [ofA = 0, ofB = 0] = now.map((total, index) => total - (before[index] ?? 0))
    const victim = site.host(ofA > ofB ? 'a' : 'b')
    killed = victim.name
    await victim.kill()
  })
  record(t, `${name}, killed at ${percent} %: installed`, performance.now() - start)
  record(t, `${name}, killed at ${percent} %: over the wire`, total / bytes, 'of the NAR')
  t.ok(total < bytes * (OVERHEAD + LOST_SHARE), `${total} bytes came: resumed, not begun again`)
  t.same(await differences(site.host('a').nix, client.nix, [path]), [], `${killed} was killed`)
  await client.stop()
}

async function comesBack(t: Test, site: Site, client: SiteHost, path: string, large: Large) {
  const [a, b] = [site.host('a'), site.host('b')]
  await b.stop()
  const { bytes } = large
  await ready(site, client, path, large, [a])
  const total = await install(site, client, path, bytes / 2, async () => {
    await a.kill()
    await a.start()
  })
  record(t, 'the only holder killed at 50 % and back: over the wire', total / bytes, 'of the NAR')
  t.ok(total < bytes * (OVERHEAD + LOST_SHARE), `${total} bytes came: resumed, not begun again`)
  t.same(await differences(a.nix, client.nix, [path]), [])
}

/** The issue: all others off, a narinfo miss in under 20 ms, without network. */
async function quickMiss(t: Test, site: Site, path: string) {
  const client = site.host('f')
  await client.nix.run('nix-store', ['--delete', path])
  for (const host of site.hosts) if (host !== client) await host.kill()
  const median = async (target: () => string) => {
    const times: number[] = []
    for (let i = 0; i < MISSES; i++) {
      const { status, seconds } = await client.get(target())
      t.equal(status, 404)
      times.push(seconds)
    }
    return times.sort((x, y) => x - y)[MISSES >> 1] ?? Infinity
  }
  let number = 0
  const unknown = await median(() => `/${String(number++).padStart(32, '0')}.narinfo`)
  within(t, 'all others off: a miss of what nobody has', unknown * 1000, MISS_AIM_MS)
  await until(
    'the last holder is seen gone',
    NEWS_LIMIT_MS,
    async () => (await peersUp(client)).length === 0,
  )
  const known = await median(() => narinfoPath(path))
  within(t, 'all others off: a miss of what one of them has', known * 1000, MISS_AIM_MS)
}
