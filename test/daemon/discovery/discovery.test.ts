import { createSocket } from 'node:dgram'
import { EventEmitter, once } from 'node:events'
import type { NetworkInterfaceInfo } from 'node:os'
import { createLog } from '../../../daemon/log.ts'
import t, { type Test } from 'tap'
import { createDiscovery, type DiscoveryOptions } from '../../../daemon/discovery/discovery.ts'
import { createGuardedSocket } from '../../../daemon/discovery/guarded-socket.ts'
import type { MdnsRecord } from '../../../daemon/discovery/mdns-records.ts'
import { createReadingBudget } from '../../../daemon/discovery/packet-gate.ts'
import { resolveName } from '../../../daemon/discovery/resolve-name.ts'
import type { Announcement, Mdns, OutgoingMdns } from '../../../daemon/discovery/responder.ts'
import { createEventBus } from '../../../daemon/events.ts'
import type { PeerCandidate, PeerKey } from '../../../daemon/site.ts'

const keyOf = (digit: string) => digit.repeat(64) as PeerKey
const [OWN, MEMBER, OTHER] = [keyOf('a'), keyOf('b'), keyOf('c')]

/** A bonjour instance without network, and what was asked of it. */
interface FakeResponder {
  readonly address: string
  readonly mdns: Mdns
  readonly announced: Announcement[]
  readonly responded: OutgoingMdns[]
  queries: number
  goodbye: boolean
  destroyed: boolean
}

type Interfaces = NodeJS.Dict<NetworkInterfaceInfo[]>

const eth0 = (address: string): Interfaces => ({
  eth0: [
    {
      ...{ address, netmask: '255.255.255.0', family: 'IPv4', mac: '', internal: false },
      cidr: null,
    },
  ],
})

/** A room whose interfaces, resolver and mDNS are the test's. */
function makeRoom(t: Test, changes: Partial<DiscoveryOptions> = {}) {
  const events = createEventBus()
  const said: string[] = []
  const note = (what: string) => {
    said.push(what)
    news.emit('news')
  }
  const news = new EventEmitter()
  events.on('peer:sighted', ({ key, address, source }: PeerCandidate) =>
    note(`${source} ${key.slice(0, 1)} ${address.host}:${address.port}`),
  )
  events.on('cache:sighted', url => note(`+${url}`))
  events.on('cache:gone', url => note(`-${url}`))
  const fakes: FakeResponder[] = []
  const surroundings = { interfaces: eth0('10.0.0.5') }
  const discovery = createDiscovery({
    key: OWN,
    hostName: 'lab-3.local',
    port: 6280,
    mdns: true,
    interfaces: [],
    peers: [],
    nixServe: true,
    isMember: key => key === MEMBER,
    events,
    log: createLog('silent'),
    listInterfaces: () => surroundings.interfaces,
    makeResponder(options) {
      const mdns = new EventEmitter() as Mdns
      const fake: FakeResponder = {
        ...{ address: options.interface, mdns, announced: [], responded: [] },
        ...{ queries: 0, goodbye: false, destroyed: false },
      }
      mdns.query = (_questions, done) => {
        fake.queries++
        done(null)
        news.emit('news')
      }
      mdns.respond = message => void fake.responded.push(message)
      fakes.push(fake)
      queueMicrotask(() => news.emit('news'))
      return {
        server: { mdns },
        publish: announcement => fake.announced.push(announcement),
        unpublishAll(done) {
          fake.goodbye = true
          done()
        },
        destroy(done) {
          fake.destroyed = true
          options.socket.close(done)
          news.emit('news')
        },
      }
    },
    ...changes,
    times: { pollMs: 5, firstMs: 5, quickMs: 5, slowMs: [5, 5], retryMs: 50, ...changes.times },
  })
  // The room's own timers hold no process.
  const alive = setInterval(() => {}, 1e6)
  t.teardown(async () => {
    clearInterval(alive)
    await discovery.close()
  })
  const until = async (holds: () => boolean) => {
    while (!holds()) await once(news, 'news')
  }
  const fake = (): FakeResponder => {
    const [first] = fakes
    if (first === undefined) throw new Error('no interface was used')
    return first
  }
  return { discovery, events, said, fakes, fake, surroundings, until }
}

const announce = (type: string, name: string, port: number, key?: PeerKey): MdnsRecord[] => [
  { name: `${name}._${type}._tcp.local`, type: 'SRV', ttl: 9, data: { port, target: 'x.local' } },
  {
    ...{ name: `${name}._${type}._tcp.local`, type: 'TXT', ttl: 9 },
    data: [Buffer.from('v=1'), ...(key === undefined ? [] : [Buffer.from(`pk=${key}`)])],
  },
]
const hear = ({ mdns }: FakeResponder, address: string, answers: MdnsRecord[]) =>
  mdns.emit('response', { answers, additionals: [] }, { address })

t.test('what a host announces', async t => {
  const { discovery, fake } = makeRoom(t, { httpPort: 6279, httpHost: '0.0.0.0' })
  await discovery.open()
  const common = { name: 'lab-3-local-aaaaaaaa', host: 'lab-3-local-aaaaaaaa.local' }
  t.match(fake().announced, [
    { ...common, type: 'narwharf', port: 6280, txt: { v: '1', pk: OWN }, probe: false },
    { ...common, type: 'nix-serve', port: 6279, txt: { pk: OWN } },
  ])
  const a = (data: string): MdnsRecord => ({ name: common.host, type: 'A', ttl: 120, data })
  fake().mdns.respond([a('10.0.0.5'), a('172.17.0.1')])
  fake().mdns.respond({ answers: [a('172.17.0.1')], additionals: [a('10.0.0.5')] })
  t.same(
    fake().responded,
    [[a('10.0.0.5')], { answers: [], additionals: [a('10.0.0.5')] }],
    'of all the addresses of the machine, the one that leads there from here',
  )

  const elsewhere = makeRoom(t, { httpPort: 6279, httpHost: '10.9.9.9' })
  await elsewhere.discovery.open()
  t.equal(elsewhere.fake().announced.length, 1, 'HTTP listens on another address')
  const portless = makeRoom(t, { port: 0 })
  await portless.discovery.open()
  t.same(portless.fake().announced, [], 'no port, nothing to announce')
  const name = makeRoom(t, { hostName: 'x'.repeat(63) })
  await name.discovery.open()
  t.equal(name.fake().announced[0]?.name.length, 63, 'a label has at most 63 bytes')
})

t.test('what a host hears', async t => {
  const { discovery, said, fake, events } = makeRoom(t, { httpPort: 6279 })
  await discovery.open()
  await discovery.open()
  hear(fake(), '10.0.0.1', announce('narwharf', 'm', 6280, MEMBER))
  hear(fake(), '10.0.0.5', announce('narwharf', 'own', 6280, OWN))
  hear(fake(), '10.0.0.5', announce('nix-serve', 'avahi', 6279))
  hear(fake(), '10.0.0.9', announce('nix-serve', 'own', 6279, OWN))
  hear(fake(), '10.0.0.1', announce('nix-serve', 'm', 6279, MEMBER))
  hear(fake(), '10.0.0.2', announce('nix-serve', 'o', 6279, OTHER))
  hear(fake(), '10.0.0.5', announce('nix-serve', 'harmonia', 5000))
  t.same(said.splice(0), ['mdns b 10.0.0.1:6280', '+http://10.0.0.2:6279', '+http://10.0.0.5:5000'])
  t.same(discovery.candidates(), [
    { key: MEMBER, address: { host: '10.0.0.1', port: 6280 }, source: 'mdns' },
  ])
  const goodbye = (name: string) => [{ name, type: 'SRV', ttl: 0, data: { port: 1 } }]
  hear(fake(), '10.0.0.1', goodbye('m._narwharf._tcp.local'))
  hear(fake(), '10.0.0.5', goodbye('harmonia._nix-serve._tcp.local'))
  t.same(said, ['-http://10.0.0.5:5000'])
  t.same(discovery.candidates(), [])
  events.emit('members:changed')
  t.same(discovery.caches(), ['http://10.0.0.2:6279'])
})

t.test('the cache of a host that becomes a member is left to peering', async t => {
  const members = new Set<PeerKey>()
  const { discovery, said, fake, events } = makeRoom(t, { isMember: key => members.has(key) })
  await discovery.open()
  hear(fake(), '10.0.0.2', announce('nix-serve', 'o', 6279, OTHER))
  members.add(OTHER)
  events.emit('members:changed')
  t.same(said, ['+http://10.0.0.2:6279', '-http://10.0.0.2:6279'])
})

t.test('it asks at once, soon again, and again when a peer is lost', async t => {
  const { discovery, events, fake, until } = makeRoom(t, { times: { slowMs: [1e6, 1e6] } })
  await discovery.open()
  t.equal(fake().queries, 0, 'not before the socket is there')
  fake().mdns.emit('ready')
  t.equal(fake().queries, 1)
  await until(() => fake().queries === 13)
  events.emit('peer:down', MEMBER, 'gone')
  events.emit('peer:down', OTHER, 'gone')
  await until(() => fake().queries > 13)
})

t.test('interfaces come, change and go', async t => {
  const { discovery, fakes, surroundings, until } = makeRoom(t, { interfaces: ['eth0', 'eth7'] })
  surroundings.interfaces = {}
  await discovery.open()
  t.match(discovery.problems(), [
    { what: 'network.interfaces names eth0, which is not up' },
    { what: 'network.interfaces names eth7, which is not up' },
  ])
  surroundings.interfaces = eth0('10.0.0.5')
  await until(() => fakes.length === 1)
  surroundings.interfaces = eth0('10.0.0.6')
  await until(() => fakes.length === 2)
  t.match(fakes, [{ address: '10.0.0.5', goodbye: true }, { address: '10.0.0.6' }])
  surroundings.interfaces = {}
  await until(() => fakes[1]?.destroyed === true)
})

t.test('trouble is said and does not spread', async t => {
  const { discovery, fake, fakes, until } = makeRoom(t)
  await discovery.open()
  t.same(discovery.problems(), [])
  fake().mdns.emit('warning', new Error('a bad packet'))
  t.same(discovery.problems(), [], 'a bad packet is nobody’s problem')
  fake().mdns.query = (_questions, done) => done(new Error('send ENETUNREACH'))
  fake().mdns.emit('ready')
  t.match(discovery.problems(), [
    { what: 'mDNS on eth0 (10.0.0.5): cannot send: send ENETUNREACH' },
  ])

  const failedAt = Date.now()
  fake().mdns.emit('error', new Error('bind EADDRINUSE'))
  await until(() => fake().destroyed)
  t.match(discovery.problems(), [{ what: /^mDNS cannot listen on eth0 10.0.0.5/, hint: /5353/ }])
  await until(() => fakes.length === 2)
  t.ok(Date.now() - failedAt >= 50, 'tried again, not at once')
  t.same(discovery.problems(), [])
})

t.test('a machine that may not list its interfaces', async t => {
  const { discovery, fakes } = makeRoom(t, {
    listInterfaces() {
      throw new Error('ERR_SYSTEM_ERROR')
    },
  })
  await discovery.open()
  t.match(discovery.problems(), [{ hint: /AF_NETLINK/ }])
  t.equal(fakes.length, 0)
})

t.test('an interface on which no socket can be had', async t => {
  const { discovery } = makeRoom(t, {
    makeResponder() {
      throw new Error('EMFILE')
    },
  })
  await discovery.open()
  t.match(discovery.problems(), [{ what: /^mDNS cannot listen on eth0/ }])
})

t.test('without mDNS nothing is announced or asked', async t => {
  const { discovery, fakes } = makeRoom(t, { mdns: false })
  await discovery.open()
  t.equal(fakes.length, 0)
  await discovery.close()
  await discovery.close()
})

t.test('peers told by peers', async t => {
  const { discovery, events, said, until } = makeRoom(t, { times: { repeatMs: 20, quietMs: 10 } })
  await discovery.open()
  const told = (key: string, host: string, port = 6280) => ({
    ...{ key: key as PeerKey, address: { host, port }, source: 'mdns' as const },
  })
  discovery.told([
    told(MEMBER, '10.0.0.1'),
    told(OWN, '10.0.0.5'),
    told('no key', '10.0.0.1'),
    told(OTHER, '127.0.0.1'),
    told(OTHER, '::1'),
    told(OTHER, '::ffff:127.0.0.1'),
    told(OTHER, '224.0.0.251'),
    told(OTHER, '0.0.0.0'),
    told(OTHER, 'www.example.org'),
    told(OTHER, '10.0.0.2', 0),
    told(OTHER, '10.0.0.2', 1.5),
    told(OTHER, 'fd00::2'),
  ])
  t.same(said.splice(0), ['told b 10.0.0.1:6280', 'told c fd00::2:6280'])
  await until(() => said.length >= 2)
  t.same(said.slice(0, 2), ['told b 10.0.0.1:6280', 'told c fd00::2:6280'], 'and again')

  const address = { host: '10.0.0.3', port: 6280 }
  events.emit('peer:sighted', { key: MEMBER, address, source: 'told' })
  t.match(discovery.candidates()[0], { address }, 'what gossip says itself is remembered too')
  await until(() => said.filter(line => line === 'told b 10.0.0.3:6280').length > 1)
})

t.test('configured peers', async t => {
  const peer = (host: string) => ({ host, port: 6280, publicKey: MEMBER })
  const asked: string[] = []
  let up = false
  const { discovery, said, until } = makeRoom(t, {
    mdns: false,
    peers: [peer('10.0.0.1'), peer('fd00::1'), peer('host.lab'), peer('dead.lab')],
    times: { repeatMs: 20, quietMs: 10, resolveRetryMs: 5, resolveAgainMs: 30 },
    async resolve(name) {
      asked.push(name)
      if (name === 'dead.lab' || !up) throw new Error('ENOTFOUND')
      return ['10.0.0.7', '10.0.0.8']
    },
  })
  await discovery.open()
  t.same(said, ['static b 10.0.0.1:6280', 'static b fd00::1:6280'], 'at once')
  await until(() => said.length >= 4)
  t.match(discovery.problems(), [
    { what: 'network.peers: the name host.lab cannot be resolved: ENOTFOUND' },
    { what: /dead\.lab/ },
  ])
  up = true
  await until(() => said.includes('static b 10.0.0.8:6280'))
  t.match(discovery.problems(), [{ what: /dead\.lab/ }])
  up = false
  const times = asked.length
  await until(() => asked.slice(times).filter(name => name === 'host.lab').length > 1)
  t.match(
    discovery.problems().find(({ what }) => what.includes('host.lab')),
    { hint: 'the addresses found before are used' },
  )
})

t.test('a resolver that never answers holds up neither start nor end', async t => {
  let aborted = false
  const { discovery, said } = makeRoom(t, {
    mdns: false,
    peers: ['a.lab', '10.0.0.1'].map(host => ({ host, port: 1, publicKey: MEMBER })),
    resolve: (_name, signal) =>
      new Promise((_, reject) =>
        signal.addEventListener('abort', () => {
          aborted = true
          reject(new Error('aborted'))
        }),
      ),
  })
  await discovery.open()
  t.same(said, ['static b 10.0.0.1:1'])
  await new Promise(setImmediate)
  await discovery.close()
  t.equal(aborted, true)
})

t.test('names are resolved by the system, in a process that can be ended', async t => {
  const found = await resolveName('localhost', new AbortController().signal)
  t.ok(found.includes('127.0.0.1') || found.includes('::1'), found.join())
  const ending = new AbortController()
  const started = performance.now()
  const waiting = resolveName('localhost', ending.signal)
  ending.abort()
  await t.rejects(waiting, { message: 'the resolver does not answer' })
  t.ok(performance.now() - started < 1000)
})

t.test('the socket survives its listeners and answers no faster than it should', async t => {
  const now = () => 0
  const troubles: unknown[] = []
  const budget = createReadingBudget(now)
  const gate = { admits: (packet: Buffer) => packet.length > 3, dropped: 0 }
  const onPacketError = (error: unknown) => void troubles.push(error)
  const socket = createGuardedSocket({ gate, budget, onPacketError, now })
  const other = createSocket('udp4')
  t.teardown(() => {
    socket.close()
    other.close()
  })
  await new Promise<void>(resolve => socket.bind(0, '127.0.0.1', resolve))
  await new Promise<void>(resolve => other.bind(0, '127.0.0.1', resolve))
  const heard = new EventEmitter()
  socket.on('message', (packet: Buffer) => {
    if (packet.toString() === 'evil') throw new Error('the parser fell over it')
    heard.emit('packet', packet.toString())
  })
  const packet = once(heard, 'packet')
  for (const text of ['no', 'evil', 'good']) other.send(text, socket.address().port, '127.0.0.1')
  t.same(await packet, ['good'])
  t.match(troubles, [{ message: 'the parser fell over it' }])

  const received: number[] = []
  other.on('message', (packet: Buffer) => {
    received.push(packet.readUInt8(3))
    heard.emit('received')
  })
  const send = (flags: number, content: number) =>
    new Promise(resolve =>
      socket.send(
        ...([
          Buffer.from([0, 0, flags, content]),
          0,
          4,
          other.address().port,
          '127.0.0.1',
        ] as const),
        resolve,
      ),
    )
  const hundred = async (flags: number, content: number) =>
    Promise.all(Array.from({ length: 100 }, () => send(flags, content)))
  const count = async (content: number, wanted: number) => {
    while (received.filter(got => got === content).length < wanted) await once(heard, 'received')
    return received.filter(got => got === content).length
  }
  await hundred(0, 1)
  t.equal(await count(1, 100), 100, 'questions are this host’s own')
  const alive = setInterval(() => {}, 1e6)
  t.teardown(() => clearInterval(alive))
  await hundred(0x84, 2)
  t.equal(await count(2, 1), 1, 'a hundred askers at once are given one answer')
  t.equal(await count(2, 2), 2, 'and another for those who asked after it')
  await Promise.all(Array.from({ length: 50 }, (_, i) => send(0x84, 100 + i)))
  await hundred(0, 3)
  await count(3, 200 - 100)
  t.equal(received.filter(content => content >= 100).length, 15, 'nobody has that much to say')
})
