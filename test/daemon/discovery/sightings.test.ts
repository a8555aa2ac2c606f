import t from 'tap'
import {
  CACHES_MAX,
  CACHES_PER_ADDRESS_MAX,
  createForeignCaches,
} from '../../../daemon/discovery/foreign-caches.ts'
import { createEventBus } from '../../../daemon/events.ts'
import {
  ADDRESSES_PER_KEY_MAX,
  KEYS_PER_ADDRESS_MAX,
  SIGHTINGS_MAX,
  createSightings,
} from '../../../daemon/discovery/sightings.ts'
import type { PeerCandidate, PeerKey } from '../../../daemon/site.ts'

const keyOf = (number: number) => number.toString(16).padStart(64, '0') as PeerKey
const MEMBER = keyOf(1)

/** A table whose clock only the test moves. */
function makeTable() {
  const clock = { at: 0 }
  const table = createSightings({
    isMember: key => key === MEMBER,
    now: () => clock.at,
    quietMs: 1000,
  })
  return { clock, table }
}

const at = (
  key: PeerKey,
  host: string,
  source: PeerCandidate['source'] = 'mdns',
): PeerCandidate => ({ key, address: { host, port: 6280 }, source })

t.test('sightings are said once a second, newest first, until they age', async t => {
  const { clock, table } = makeTable()
  t.equal(table.see(at(MEMBER, '10.0.0.1'), 5000), true)
  t.equal(table.see(at(MEMBER, '10.0.0.1'), 5000), false, 'again at once is no news')
  t.equal(table.see(at(MEMBER, '10.1.0.1'), 5000), true, 'another address is')
  clock.at = 1000
  t.equal(table.see(at(MEMBER, '10.0.0.1'), 5000), true, 'nor is it none a second later')
  t.same(
    table.list().map(({ address }) => address.host),
    ['10.0.0.1', '10.1.0.1'],
  )
  clock.at = 5500
  table.expire()
  t.same(table.list(), [at(MEMBER, '10.0.0.1')])
  clock.at = 6000
  table.expire()
  t.same(table.list(), [])
})

t.test('each source stands by a sighting for itself', async t => {
  const { clock, table } = makeTable()
  table.see(at(MEMBER, '10.0.0.1', 'told'), 9000)
  table.see(at(MEMBER, '10.0.0.1', 'mdns'), 1000, 'x._narwharf._tcp.local')
  t.same(table.quiet('told', 1000), [])
  clock.at = 1000
  table.expire()
  t.equal(table.list().length, 1, 'the announcement aged, what was told did not')
  t.same(table.quiet('told', 1000), [at(MEMBER, '10.0.0.1', 'told')])
})

t.test('a goodbye counts from the address it is about, and for announcements', async t => {
  const { table } = makeTable()
  const name = 'x._narwharf._tcp.local'
  table.see(at(MEMBER, '10.0.0.1'), 9000, name)
  t.equal(table.goodbye(name, '10.0.0.66'), false, 'nobody says it for another')
  t.equal(table.goodbye(name, '10.0.0.1'), true)
  t.same(table.list(), [])
  table.see(at(MEMBER, '10.0.0.1'), 9000, name)
  table.see(at(MEMBER, '10.0.0.1', 'static'), 9000)
  t.equal(table.goodbye(name, '10.0.0.1'), true)
  t.equal(table.list().length, 1, 'the configured address stays')
  t.equal(table.goodbye(name, '10.0.0.1'), false)
})

t.test('a flood of strangers drives out no member and no configured peer', async t => {
  const { table } = makeTable()
  table.see(at(MEMBER, '10.0.0.1'), 9000)
  table.see(at(keyOf(2), '10.0.0.2', 'static'), 9000)
  for (let i = 3; i < 5000; i++) table.see(at(keyOf(i), `10.${i >> 8}.${i & 255}.9`), 9000)
  const list = table.list()
  t.equal(list.length, SIGHTINGS_MAX)
  t.ok(list.some(({ key }) => key === MEMBER))
  t.ok(list.some(({ source }) => source === 'static'))
  t.equal(list[0]?.key, keyOf(4999), 'strangers replace strangers')
})

t.test('one address announces few keys, one key has few addresses', async t => {
  const { table } = makeTable()
  for (let i = 10; i < 100; i++) table.see(at(keyOf(i), '10.0.0.66'), 9000)
  t.equal(table.list().length, KEYS_PER_ADDRESS_MAX)
  for (let i = 0; i < 100; i++) table.see(at(MEMBER, `10.2.0.${i}`), 9000)
  const ofMember = table.list().filter(({ key }) => key === MEMBER)
  t.equal(ofMember.length, ADDRESSES_PER_KEY_MAX)
  t.equal(ofMember[0]?.address.host, '10.2.0.99')
})

t.test('foreign caches', async t => {
  const events = createEventBus()
  const said: string[] = []
  events.on('cache:sighted', url => said.push(`+${url}`))
  events.on('cache:gone', url => said.push(`-${url}`))
  const clock = { at: 0 }
  const caches = createForeignCaches(events, () => clock.at)
  const cache = (host: string, port = 5000, key?: PeerKey) => ({
    ...{ host, port, key },
    serviceName: `h ${host}._nix-serve._tcp.local`,
  })
  caches.see(cache('10.0.0.1'), 1000)
  caches.see(cache('10.0.0.1'), 3000)
  t.same(said.splice(0), ['+http://10.0.0.1:5000'], 'said once')
  clock.at = 2000
  caches.expire()
  t.same(caches.list(), ['http://10.0.0.1:5000'], 'renewed')
  caches.goodbye('h 10.0.0.1._nix-serve._tcp.local', '10.0.0.66')
  t.equal(caches.list().length, 1, 'nobody says goodbye for another')
  caches.goodbye('h 10.0.0.1._nix-serve._tcp.local', '10.0.0.1')
  t.same(said.splice(0), ['-http://10.0.0.1:5000'])
  caches.see(cache('10.0.0.2'), 1000)
  clock.at = 3000
  caches.expire()
  t.same(said.splice(0), ['+http://10.0.0.2:5000', '-http://10.0.0.2:5000'], 'aged out')

  for (let port = 1; port < 99; port++) caches.see(cache('10.0.0.66', port), 9000)
  t.equal(caches.list().length, CACHES_PER_ADDRESS_MAX)
  for (let i = 1; i < 200; i++) caches.see(cache(`10.0.1.${i}`), 9000)
  t.equal(caches.list().length, CACHES_MAX)
  t.equal(caches.list()[0], 'http://10.0.0.66:1', 'those in use stay')
  caches.keepOnly(({ host }) => host === '10.0.1.1')
  t.same(caches.list(), ['http://10.0.1.1:5000'])
})
