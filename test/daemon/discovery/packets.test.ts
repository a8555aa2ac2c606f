import { randomBytes } from 'node:crypto'
import t from 'tap'
import { linkId, onLink, usableLinks, LINKS_MAX } from '../../../daemon/discovery/links.ts'
import { readServices, type MdnsRecord } from '../../../daemon/discovery/mdns-records.ts'
import {
  PACKET_MAX_BYTES,
  PACKET_MAX_RECORDS,
  believable,
  createAllowance,
  createPacketGate,
  createReadingBudget,
} from '../../../daemon/discovery/packet-gate.ts'

const KEY = 'ab'.repeat(32)

/** A clock that only the test moves. */
function makeClock() {
  let at = 0
  return Object.assign(() => at, { pass: (ms: number) => void (at += ms) })
}

/** A header with those counts, and so many bytes behind it. */
function packetOf(counts: readonly number[], bytes: number, text = ''): Buffer {
  const packet = Buffer.alloc(12 + bytes)
  counts.forEach((count, i) => packet.writeUInt16BE(count, 4 + i * 2))
  packet.write(text, 12, 'latin1')
  return packet
}

t.test('a header may promise no more than its packet can hold', async t => {
  const cases: readonly (readonly [string, Buffer, boolean])[] = [
    ['nothing', Buffer.alloc(0), false],
    ['half a header', Buffer.alloc(11), false],
    ['an empty message', packetOf([0, 0, 0, 0], 0), true],
    ['a question of five bytes', packetOf([1, 0, 0, 0], 5), true],
    ['a question of four', packetOf([1, 0, 0, 0], 4), false],
    ['a record in each section', packetOf([0, 1, 1, 1], 33), true],
    ['... and a byte less', packetOf([0, 1, 1, 1], 32), false],
    ['four times 65,535', packetOf([65535, 65535, 65535, 65535], 100), false],
    ['as many as allowed', packetOf([0, PACKET_MAX_RECORDS, 0, 0], 2000), true],
    ['one more', packetOf([1, PACKET_MAX_RECORDS, 0, 0], 2000), false],
    ['as long as allowed', packetOf([0, 0, 0, 0], PACKET_MAX_BYTES - 12), true],
    ['a byte longer', packetOf([0, 0, 0, 0], PACKET_MAX_BYTES - 11), false],
  ]
  for (const [name, packet, expected] of cases) t.equal(believable(packet), expected, name)
})

t.test('the gate', async t => {
  const now = makeClock()
  const budget = createReadingBudget(now)
  const isNeighbour = (address: string) => address.startsWith('10.0.0.')
  const make = () => createPacketGate({ labels: ['_narwharf', 'me-1'], isNeighbour, budget, now })
  const ours = packetOf([0, 0, 0, 0], 20, '_narwharf')

  t.test('lets in what concerns us, from neighbours', async t => {
    const gate = make()
    t.equal(gate.admits(ours, '10.0.0.1'), true)
    t.equal(gate.admits(packetOf([0, 0, 0, 0], 20, 'me-1'), '10.0.0.1'), true)
    t.equal(gate.admits(packetOf([0, 0, 0, 0], 20, '_airplay'), '10.0.0.1'), false)
    t.equal(gate.admits(ours, '192.168.7.7'), false, 'sent from elsewhere')
    t.equal(gate.dropped, 0)
  })

  t.test('one address cannot take the share of another', async t => {
    const gate = make()
    let admitted = 0
    for (let i = 0; i < 1000; i++) if (gate.admits(ours, '10.0.0.1')) admitted++
    t.equal(admitted, 80)
    t.equal(gate.dropped, 920)
    t.equal(gate.admits(ours, '10.0.0.2'), true)
    now.pass(1000)
    t.equal(gate.admits(ours, '10.0.0.1'), true, 'a second later it is heard again')
  })

  t.test('many forged addresses do not grow memory for ever', async t => {
    const gate = make()
    for (let i = 0; i < 80; i++) gate.admits(ours, '10.0.0.1')
    t.equal(gate.admits(ours, '10.0.0.1'), false)
    for (let i = 0; i < 256; i++) gate.admits(ours, `10.0.0.1${i}`)
    t.equal(gate.admits(ours, '10.0.0.1'), true, 'the oldest of 256 is forgotten')
  })

  t.test('packets that take long to read are paid for by all', async t => {
    const gate = make()
    budget.spend(450)
    t.equal(gate.admits(ours, '10.0.0.3'), false)
    now.pass(1900)
    t.equal(gate.admits(ours, '10.0.0.3'), false, 'a tenth of the time')
    now.pass(200)
    t.equal(gate.admits(ours, '10.0.0.3'), true)
  })
})

t.test('an allowance saves up no more than its burst', async t => {
  const now = makeClock()
  const allowance = createAllowance(10, 3, now)
  const taken = () => [1, 2, 3, 4, 5].filter(() => allowance.take(1)).length
  t.equal(taken(), 3)
  now.pass(100)
  t.equal(taken(), 1)
  now.pass(1e9)
  t.equal(taken(), 3)
})

const srv = (name: string, port: unknown, ttl = 120): MdnsRecord => ({
  name,
  type: 'SRV',
  ttl,
  data: { port, target: 'anything.local' },
})
const txt = (name: string, ...strings: readonly string[]): MdnsRecord => ({
  name,
  type: 'TXT',
  ttl: 4500,
  data: strings.map(text => Buffer.from(text)),
})
const read = (...answers: readonly MdnsRecord[]) => readServices({ answers, additionals: [] })

t.test('services in a packet', async t => {
  const name = 'lab-3-abababab._narwharf._tcp.local'
  const good = { type: 'narwharf', name, port: 6280, key: KEY }
  t.same(read(srv(name, 6280), txt(name, 'v=1', `pk=${KEY}`)).seen, [good])
  const upper = name.toUpperCase()
  t.same(read(txt(upper, 'PK=' + KEY.toUpperCase(), 'v=1'), srv(name, 6280)).seen, [good], 'case')
  t.same(
    readServices({
      answers: [{ name: '_narwharf._tcp.local', type: 'PTR', ttl: 9, data: name }],
      additionals: [txt(name, 'v=1', `pk=${KEY}`), srv(name, 6280)],
    }).seen,
    [good],
    'as avahi answers',
  )
  const bad: readonly (readonly [string, ...MdnsRecord[]])[] = [
    ['no key', srv(name, 1), txt(name, 'v=1')],
    ['a key too short', srv(name, 1), txt(name, 'v=1', `pk=${KEY.slice(1)}`)],
    ['a key that is none', srv(name, 1), txt(name, 'v=1', `pk=${'g'.repeat(64)}`)],
    ['no version', srv(name, 1), txt(name, `pk=${KEY}`)],
    ['another version', srv(name, 1), txt(name, 'v=2', `pk=${KEY}`)],
    ['port 0', srv(name, 0), txt(name, 'v=1', `pk=${KEY}`)],
    ['port 65536', srv(name, 65536), txt(name, 'v=1', `pk=${KEY}`)],
    ['a port that is text', srv(name, '80'), txt(name, 'v=1', `pk=${KEY}`)],
    ['no text', srv(name, 1)],
    ['text of the wrong kind', srv(name, 1), { name, type: 'TXT', ttl: 1, data: 'v=1' }],
    ['no data', { name, type: 'SRV', ttl: 1, data: null }, txt(name, 'v=1', `pk=${KEY}`)],
    ['another service', srv('x._ssh._tcp.local', 22)],
    ['the type itself', srv('_narwharf._tcp.local', 1), txt(name, 'v=1', `pk=${KEY}`)],
  ]
  for (const [what, ...records] of bad) t.same(read(...records).seen, [], what)
})

t.test('a cache needs no key; goodbyes', async t => {
  const name = 'nix-serve on x._nix-serve._tcp.local'
  t.same(read(srv(name, 5000)).seen, [{ type: 'nix-serve', name, port: 5000, key: undefined }])
  const gone = { name: '_nix-serve._tcp.local', type: 'PTR', ttl: 0, data: name }
  t.same(read(gone).gone, [name])
  t.same(read(srv(name, 5000, 0)), { seen: [], gone: [name] })
  t.same(read({ ...gone, data: 'printer._ipp._tcp.local' }).gone, [], 'not ours')
})

t.test('one packet brings no crowd', async t => {
  const crowd = Array.from({ length: 100 }, (_, i) => srv(`h${i}._nix-serve._tcp.local`, i + 1))
  t.equal(read(...crowd).seen.length, 16)
  t.equal(read(...crowd, ...crowd).seen.length, 16)
})

t.test('random records harm nobody', async t => {
  const pick = <Value>(values: readonly Value[]): Value =>
    values[randomBytes(1).readUInt8() % values.length] as Value
  const random = (): MdnsRecord => ({
    name: pick(['', '.', 'a._narwharf._tcp.local', '_narwharf._tcp.local', '\u0130._tcp.local']),
    type: pick(['SRV', 'TXT', 'PTR', 'A', 'UNKNOWN_7']),
    ttl: pick([0, 1]),
    data: pick([null, undefined, 7, '', [], [null], [Buffer.alloc(3)], {}, { port: NaN }]),
  })
  const found = Array.from({ length: 2000 }, () => read(random(), random(), random(), random()))
  t.same(
    found.flatMap(({ seen }) => seen),
    [],
  )
})

t.test('usable links', async t => {
  const address = (address: string, more: object = {}) => ({
    ...{ address, netmask: '255.255.255.0', family: 'IPv4', mac: '', internal: false, cidr: null },
    ...more,
  })
  const all = {
    lo: [address('127.0.0.1', { internal: true })],
    eth0: [address('10.0.0.5'), address('fe80::1', { family: 'IPv6', scopeid: 2 })],
    wg0: [address('10.9.0.1', { netmask: '255.255.255.255' })],
    wlan0: [address('192.168.1.7')],
  } as NonNullable<Parameters<typeof usableLinks>[0]>
  const names = (interfaces: readonly string[], loopback = false) =>
    usableLinks(all, { interfaces, loopback }).map(({ name }) => name)
  t.same(names([]), ['eth0', 'wlan0'])
  t.same(names([], true), ['lo', 'eth0', 'wlan0'])
  t.same(names(['wlan0', 'eth9']), ['wlan0'])
  const many = { br: Array.from({ length: 99 }, (_, i) => address(`10.1.${i}.1`)) } as typeof all
  t.equal(usableLinks(many, { interfaces: [], loopback: false }).length, LINKS_MAX)

  const link = { name: 'eth0', address: '200.7.9.65', netmask: '255.255.255.192' }
  t.equal(onLink(link, '200.7.9.127'), true)
  t.equal(onLink(link, '200.7.9.128'), false)
  t.equal(onLink(link, '::1'), false)
  t.not(linkId(link), linkId({ ...link, netmask: '255.255.255.0' }))
})
