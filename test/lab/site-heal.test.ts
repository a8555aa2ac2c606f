import t, { type Test } from 'tap'
import { makeSite, siteSkip, type Site } from './site/site.ts'
import { NETWORK_PORT, type SiteHost } from './site/site-host.ts'
import { timed, until } from './site/until.ts'
import { knowAll, knows, meshed, narinfoPath, peerKey, peersUp, record } from './site/views.ts'

// What goes wrong in a network, and that the site heals without a hand. One site for all of it: `a` founded it and stands in both
// networks, f in the second one alone. Times go to docs/site.md, "Healing times".

const HEAL_LIMIT_MS = 90_000
/** Until a silent end is noticed: the peers' keepalive. */
const NOTICE_LIMIT_MS = 40_000
const LAB_LIMIT_MS = 400_000

let built = 0
/** A path that nobody has seen before. */
const fresh = (host: SiteHost) => host.build(`news-${++built}`, `news ${built} of ${host.name}\n`)

/** The time until each of these hosts offers what each of the others builds now: the proof that all is well, not that a list says so. */
async function healed(t: Test, what: string, hosts: readonly SiteHost[], since: number) {
  await until(`${what}: all are connected`, HEAL_LIMIT_MS, () => meshed(hosts), 50)
  record(t, `${what}: meshed`, performance.now() - since)
  const paths: string[] = []
  for (const host of hosts) paths.push(await fresh(host))
  const { ms } = await timed(
    `${what}: news reach all`,
    HEAL_LIMIT_MS,
    () => knowAll(hosts, paths),
    50,
  )
  record(t, `${what}: then news of each reach all`, ms)
  t.pass(what)
}

t.setTimeout(LAB_LIMIT_MS)
t.test('a site heals', { skip: siteSkip }, async t => {
  const site = await makeSite(t, {
    hosts: [
      { name: 'a', networks: ['lan', 'lan2'] },
      'b',
      'c',
      'd',
      { name: 'f', networks: ['lan2'] },
    ],
  })
  const lan = ['a', 'b', 'c', 'd'].map(name => site.host(name))
  await site.start()
  await site.unite()
  await Promise.all(site.hosts.map(host => host.stop()))

  await t.test('one is alone first, then comes one, then all', t => aloneFirst(t, site, lan))
  await t.test('two networks and one host in both', t => twoNetworks(t, site))
  await t.test('islands merge', t => islands(t, site, lan))
  await t.test('a host changes its address', t => newAddress(t, site, lan))
  await t.test('a host is killed and comes back', t => killedAndBack(t, site, lan))
  await t.test('no multicast, one static entry each', t => staticEntries(t, site, lan))
  await t.test('the first host is gone for good', t => firstGone(t, site, lan))
})

async function aloneFirst(t: Test, site: Site, [a, b, c, d]: readonly SiteHost[]): Promise<void> {
  if (!a || !b || !c || !d) throw new Error('four hosts are needed')
  await a.start()
  t.same(await peersUp(a), [])
  let since = performance.now()
  await b.start()
  await healed(t, 'b comes to a', [a, b], since)
  since = performance.now()
  await site.start('c', 'd')
  await healed(t, 'c and d come', [a, b, c, d], since)
}

/** f and b have no network in common: what they know of one another went through a. */
async function twoNetworks(t: Test, site: Site): Promise<void> {
  const [a, b, f] = [site.host('a'), site.host('b'), site.host('f')]
  const since = performance.now()
  await f.start()
  await healed(t, 'f comes, which only a can reach', [a, f], since)
  const [ofB, ofF] = [await fresh(b), await fresh(f)]
  const { ms } = await timed('news pass through a', HEAL_LIMIT_MS, async () => {
    return (await knows(f, ofB, b)) && (await knows(b, ofF, f))
  })
  record(t, 'two networks: news pass through the host in both', ms)
  // What the other network has alone comes through a.
  for (const [client, path] of [
    [f, ofB],
    [b, ofF],
  ] as const) {
    const start = performance.now()
    await until(
      `${client.name} offers what the other network has`,
      HEAL_LIMIT_MS,
      async () => (await client.get(narinfoPath(path))).status === 200,
    )
    await client.realise([path])
    record(t, `two networks: ${client.name} installs from the other one`, performance.now() - start)
  }
  // What a has itself, both networks can install.
  const ofA = await fresh(a)
  for (const host of [b, f]) {
    await until(
      `${host.name} offers what a has`,
      HEAL_LIMIT_MS,
      async () => (await host.get(narinfoPath(ofA))).status === 200,
    )
    await host.realise([ofA])
  }
  await f.stop()
}

async function islands(t: Test, site: Site, lan: readonly SiteHost[]): Promise<void> {
  const [a, b, c, d] = lan
  if (!a || !b || !c || !d) throw new Error('four hosts are needed')
  await site.network.split([
    ['a', 'b'],
    ['c', 'd'],
  ])
  const { ms } = await timed(
    'each island sees the other one gone',
    NOTICE_LIMIT_MS,
    async () => (await peersUp(a)).join() === 'b' && (await peersUp(c)).join() === 'd',
    100,
  )
  record(t, 'islands: the other one is noticed gone', ms)
  const since = performance.now()
  await site.network.merge()
  await healed(t, 'islands merge', lan, since)
}

async function newAddress(t: Test, site: Site, lan: readonly SiteHost[]): Promise<void> {
  const b = site.host('b')
  const since = performance.now()
  const address = await site.network.setAddress('b')
  // Connections from before look well until their silence is noticed: only news prove that there are new ones.
  const path = await fresh(b)
  for (const host of lan.filter(each => each !== b)) {
    await until(
      `${host.name} hears from b at ${address}`,
      HEAL_LIMIT_MS,
      () => knows(host, path, b),
      100,
    )
  }
  record(t, 'a host changes its address: its news reach all', performance.now() - since)
  await healed(t, 'a host changes its address', lan, since)
}

async function killedAndBack(t: Test, site: Site, lan: readonly SiteHost[]): Promise<void> {
  const d = site.host('d')
  const others = lan.filter(host => host !== d)
  await d.kill()
  const { ms } = await timed(
    'd is noticed gone',
    NOTICE_LIMIT_MS,
    async () =>
      (await Promise.all(others.map(host => peersUp(host)))).every(up => !up.includes('d')),
    100,
  )
  record(t, 'a host is killed: noticed by all', ms)
  const since = performance.now()
  await d.start()
  await healed(t, 'a killed host is back', lan, since)
}

/** Each knows of one other at most, in a ring that is open: b <- c <- d, and b nobody's. */
async function staticEntries(t: Test, site: Site, lan: readonly SiteHost[]): Promise<void> {
  const keys = new Map<string, string>()
  for (const host of lan) keys.set(host.name, await peerKey(host))
  for (const host of lan) await host.stop()
  await site.network.setMulticast(false)
  // Addresses that are remembered are of no use: what heals is the entry, and what the peer at its end tells.
  for (const { name } of lan) await site.network.setAddress(name)
  const entry = (name: string) => [`${site.host(name).address}:${NETWORK_PORT}#${keys.get(name)}`]
  const since = performance.now()
  await Promise.all([
    site.host('a').start(),
    site.host('b').start({ network: { peers: entry('a') } }),
    site.host('c').start({ network: { peers: entry('b') } }),
    site.host('d').start({ network: { peers: entry('c') } }),
  ])
  await healed(t, 'no multicast, one static entry each', lan, since)
  await site.network.setMulticast(true)
}

async function firstGone(t: Test, site: Site, lan: readonly SiteHost[]): Promise<void> {
  const rest = lan.slice(1)
  await site.host('a').kill()
  for (const host of rest) await host.stop()
  const since = performance.now()
  await Promise.all(rest.map(host => host.start({ network: { peers: [] } })))
  await healed(t, 'the first host is gone for good', rest, since)
}
