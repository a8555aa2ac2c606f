import { spawnSync } from 'node:child_process'
import t, { type Test } from 'tap'
import type { PeerCandidate } from '../../daemon/site.ts'
import { daemonSkip } from '../helpers/daemon.ts'
import { run } from '../helpers/run.ts'
import {
  keyOf,
  makeLan,
  makeNetns,
  startHost,
  startScript,
  stopChild,
  type DiscoveryHost,
  type Lan,
} from './discovery-lan.ts'

// Hosts find each other on real networks: namespaces on a switch, without default route, name server, avahi or loopback.

/** Issue 3 has six whole daemons meshed by then; the machine of the test may be busy. */
const MESH_LIMIT_MS = 3000

const skip =
  daemonSkip ||
  (spawnSync('ip', ['netns', 'list']).status !== 0 && 'needs network namespaces (iproute2)')

let nextKey = 1

const rest = (ms = 20) => new Promise(resolve => setTimeout(resolve, ms))

/** Says a measured time where `npm test` shows it, for docs/site.md. */
const took = (t: Test, what: string, from: number, to: number): number => {
  t.comment(`${what}: ${Math.round(to - from)} ms`)
  return to - from
}

async function makeHost(
  t: Test,
  lan: Lan,
  address: string,
  options: Record<string, unknown> = {},
): Promise<DiscoveryHost> {
  const netns = await makeNetns(t)
  await lan.plug(netns, 'eth0', `${address}/24`)
  return startHost(t, netns, { key: keyOf(nextKey++), ...options })
}

/** Resolves to when `host` heard of `other` (at that address, by that source). */
const sights = (
  host: DiscoveryHost,
  other: Pick<DiscoveryHost, 'key'>,
  where: { readonly address?: string; readonly source?: string; readonly from?: number } = {},
): Promise<number> =>
  host.heard(
    'peer:sighted',
    ({ key, address, source }: PeerCandidate) =>
      key === other.key &&
      (where.address === undefined || address.host === where.address) &&
      (where.source === undefined || source === where.source),
    where.from,
  )

t.setTimeout(240_000)
t.test('discovery', { skip }, async t => {
  await t.test('four hosts that start together, one lost and back', together)
  await t.test('interfaces that come late and change address', changes)
  await t.test('a host on two networks', twoHomed)
  await t.test('caches of other programs', caches)
  await t.test('multicast blocked', blocked)
  await t.test('a flood of bad packets', flooded)
})

async function together(t: Test): Promise<void> {
  const lan = await makeLan(t)
  const places = []
  for (const last of [1, 2, 3, 4]) {
    const netns = await makeNetns(t)
    await lan.plug(netns, 'eth0', `10.71.0.${last}/24`)
    places.push(netns)
  }
  const hosts = places.map(netns =>
    startHost(t, netns, { key: keyOf(nextKey++), hostName: 'same' }),
  )
  const times = await Promise.all(
    hosts.flatMap(host => hosts.filter(other => other !== host).map(other => sights(host, other))),
  )
  const first = Math.min(...hosts.map(({ startedAt }) => startedAt))
  const opened = Math.max(...(await Promise.all(hosts.map(host => host.opened()))))
  took(t, '4 processes spawned together are up', first, opened)
  const ms = took(t, '... and see each other', opened, Math.max(...times))
  t.ok(ms < MESH_LIMIT_MS, `within ${MESH_LIMIT_MS} ms`)

  const [one, , three, four] = hosts as [DiscoveryHost, DiscoveryHost, DiscoveryHost, DiscoveryHost]
  await stopChild(four.child, 'SIGTERM')
  const ended = performance.now()
  while ((await one.report()).candidates.some(({ key }) => key === four.key)) await rest()
  took(t, 'one that ended is known to be gone', ended, performance.now())
  t.same((await one.report()).problems, [])

  await stopChild(three.child, 'SIGKILL')
  const back = startHost(t, three.netns, { key: three.key })
  const seen = await sights(one, back, { from: back.startedAt })
  took(t, 'a host killed and spawned again is seen', back.startedAt, seen)
  took(t, '... and sees', back.startedAt, await sights(back, one))
}

async function changes(t: Test): Promise<void> {
  const lan = await makeLan(t)
  const one = await makeHost(t, lan, '10.72.0.1')
  const netns = await makeNetns(t)
  await lan.plug(netns, 'eth0', undefined, false)
  const late = startHost(t, netns, { key: keyOf(nextKey++) })
  await late.report()
  const ip = (...words: string[]) => run('ip', ['-n', netns, ...words])

  await ip('addr', 'add', '10.72.0.2/24', 'dev', 'eth0')
  const up = performance.now()
  await ip('link', 'set', 'eth0', 'up')
  took(t, 'an interface comes up: seen', up, await sights(one, late))
  took(t, '... and sees', up, await sights(late, one))

  const changed = performance.now()
  await ip('addr', 'del', '10.72.0.2/24', 'dev', 'eth0')
  await ip('addr', 'add', '10.72.0.9/24', 'dev', 'eth0')
  const seen = await sights(one, late, { address: '10.72.0.9' })
  took(t, 'another address: seen there', changed, seen)
  const { candidates } = await one.report()
  t.match(candidates[0], { key: late.key, address: { host: '10.72.0.9' } }, 'newest first')

  await ip('link', 'set', 'eth0', 'down')
  await rest(1500)
  const again = performance.now()
  await ip('link', 'set', 'eth0', 'up')
  took(t, 'a cable out and in: sees', again, await sights(late, one, { from: again }))
}

async function twoHomed(t: Test): Promise<void> {
  const [left, right] = [await makeLan(t), await makeLan(t)]
  const onLeft = await makeHost(t, left, '10.73.1.1')
  const onRight = await makeHost(t, right, '10.73.2.1')
  const netns = await makeNetns(t)
  await left.plug(netns, 'eth0', '10.73.1.9/24')
  await right.plug(netns, 'eth1', '10.73.2.9/24')
  const both = startHost(t, netns, { key: keyOf(nextKey++) })
  await sights(both, onLeft, { address: '10.73.1.1' })
  await sights(both, onRight, { address: '10.73.2.1' })
  await sights(onLeft, both, { address: '10.73.1.9' })
  const seen = await sights(onRight, both, { address: '10.73.2.9' })
  took(t, 'a two-homed host sees and is seen on both networks', both.startedAt, seen)
  t.equal((await both.report()).candidates.length, 2)
  t.same(
    (await onLeft.report()).candidates.map(({ address }) => address.host),
    ['10.73.1.9'],
    'each network knows its own address of it',
  )
}

async function caches(t: Test): Promise<void> {
  const lan = await makeLan(t)
  const member = keyOf(nextKey)
  const server = await makeHost(t, lan, '10.74.0.1', { httpPort: 6279 })
  const stranger = await makeHost(t, lan, '10.74.0.2')
  const peer = await makeHost(t, lan, '10.74.0.3', { members: [member] })
  const unwilling = await makeHost(t, lan, '10.74.0.4', { nixServe: false })
  const url = (wanted: string) => (what: string) => what === wanted
  await stranger.heard('cache:sighted', url('http://10.74.0.1:6279'))

  const netns = await makeNetns(t)
  await lan.plug(netns, 'eth0', '10.74.0.7/24')
  const harmonia = startScript(t, netns, 'discovery-noise.mjs', 'cache', '5000', '10.74.0.7')
  for (const host of [server, stranger, peer]) {
    await host.heard('cache:sighted', url('http://10.74.0.7:5000'))
  }
  t.same((await server.report()).caches, ['http://10.74.0.7:5000'], 'not its own')
  t.same((await peer.report()).caches, ['http://10.74.0.7:5000'], 'not that of a member')
  t.same((await unwilling.report()).caches, [], 'none where it is not wanted')

  harmonia.kill('SIGTERM')
  for (const host of [server, stranger, peer]) {
    await host.heard('cache:gone', url('http://10.74.0.7:5000'))
  }
}

async function blocked(t: Test): Promise<void> {
  const lan = await makeLan(t)
  const places: string[] = []
  for (const last of [1, 2, 3]) {
    const netns = await makeNetns(t)
    await lan.plug(netns, 'eth0', `10.75.0.${last}/24`)
    await lan.setMulticast(netns, false)
    places.push(netns)
  }
  const [a = '', b = '', c = ''] = places
  const one = startHost(t, a, { key: keyOf(nextKey++) })
  const entry = { host: '10.75.0.1', port: 6280, publicKey: one.key }
  const lost = { host: 'nowhere.example', port: 6280, publicKey: keyOf(99) }
  const times = { repeatMs: 500 }
  const two = startHost(t, b, { key: keyOf(nextKey++), peers: [entry, lost], times })
  took(t, 'a configured peer is sighted', two.startedAt, await sights(two, one))
  const from = performance.now()
  await sights(two, one, { source: 'static', from: from + times.repeatMs })
  t.pass('and again')

  const three = startHost(t, c, { key: keyOf(nextKey++), times })
  await three.report()
  three.tell({
    told: [{ key: two.key, address: { host: '10.75.0.2', port: 6280 }, source: 'mdns' }],
  })
  await sights(three, two, { source: 'told' })
  await sights(three, two, { source: 'told', from: performance.now() + times.repeatMs })
  t.notOk(
    (await three.report()).candidates.some(({ key }) => key === one.key),
    'multicast is blocked indeed',
  )
  const asked = performance.now()
  await two.report()
  t.ok(performance.now() - asked < 1000, 'a name that cannot be resolved holds nothing up')

  for (const netns of places) await lan.setMulticast(netns, true)
  const allowed = performance.now()
  took(t, 'multicast allowed: seen', allowed, await sights(three, one, { source: 'mdns' }))
}

async function flooded(t: Test): Promise<void> {
  const lan = await makeLan(t)
  const friend = keyOf(nextKey + 1)
  const host = await makeHost(t, lan, '10.76.0.1', { members: [friend] })
  const before = await host.report()
  const netns = await makeNetns(t)
  await lan.plug(netns, 'eth0', '10.76.0.66/24')
  host.tell({ watch: true })
  const noise = startScript(t, netns, 'discovery-noise.mjs', 'flood', '5000', '10.76.0.66')
  const member = await makeHost(t, lan, '10.76.0.2')
  t.equal(member.key, friend)
  took(t, 'a member is seen in the flood', member.startedAt, await sights(host, member))
  if (noise.exitCode === null) await new Promise(resolve => noise.once('exit', resolve))
  const { candidates, caches, rssBytes, longestStallMs, cpuMs } = await host.report()
  t.comment(
    `flood of 5 s: ${Math.round(cpuMs - before.cpuMs)} ms of CPU, longest stall ` +
      `${Math.round(longestStallMs)} ms, ${Math.round((rssBytes - before.rssBytes) / 2 ** 20)} MiB more`,
  )
  const from = (address: string) => candidates.filter(other => other.address.host === address)
  t.ok(from('10.76.0.66').length <= 16, 'one address fills no table')
  t.equal(from('10.76.0.2').length, 1, 'the member is still known')
  t.ok(caches.length <= 4)
  t.ok(rssBytes - before.rssBytes < 64 * 2 ** 20, 'memory stays')
  t.ok(longestStallMs < 2000, 'the loop goes on')
}
