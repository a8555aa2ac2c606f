import { randomBytes } from 'node:crypto'
import t from 'tap'
import type { PeerKey } from '../../../daemon/site.ts'
import { keyPairFromSeed } from '../../../protocol/ed25519.ts'
import {
  connect,
  createSite,
  entry,
  freeUdpPort,
  type Host,
  isUp,
  sight,
  startHost,
  storePathOf,
  until,
} from './rooms.ts'

t.test('what one host holds is in the other’s catalog at once', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({
    added: [entry('glibc'), entry('hello', ['glibc', 'hello'])],
    removed: [],
  })
  await connect(a, b)
  await until(b, () => b.indexes.names(a.key).length === 2)
  t.same(b.indexes.names(a.key), ['glibc', 'hello'], 'what was there before they met')

  const at = performance.now()
  await a.gossip.append({ added: [entry('firefox', ['glibc'])], removed: [storePathOf('hello')] })
  await until(b, () => b.indexes.names(a.key).includes('firefox'))
  t.comment(`from append to the peer's catalog ${(performance.now() - at).toFixed(1)} ms`)
  t.same(b.indexes.names(a.key), ['firefox', 'glibc'], 'what came, without what went')

  const [seen] = b.gossip.status()
  t.match(seen, { up: true, version: '1.2.3', paths: 2, narBytes: 2000, epoch: 1, lag: 0 })
  t.match(seen?.address, `127.0.0.1:${a.port}`)
  t.ok(b.lists.includes('list 1'), 'the member list came along')
})

t.test('a peer caught lying by another room is named', async t => {
  const site = createSite()
  const [a, b] = [await startHost(t, site, 'a'), await startHost(t, site, 'b')] as const
  await connect(a, b)
  b.events.emit('peer:lied', a.key, 'its NAR was another')
  const problemOf = () => b.gossip.status().find(({ key }) => key === a.key)?.problem
  t.equal(problemOf(), 'its NAR was another')
  await a.gossip.close()
  await until(b, () => !isUp(b, a))
  t.equal(problemOf(), 'its NAR was another', 'also when it is off')
})

t.test('C learns from B what A holds, while A is off', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({ added: [entry('glibc'), entry('hello', ['glibc'])], removed: [] })
  await connect(a, b)
  await until(b, () => b.indexes.names(a.key).length === 2)
  await a.gossip.close()
  await until(b, () => !isUp(b, a))
  await b.gossip.close()
  // B came back meanwhile, and remembers.
  const b2 = await startHost(t, site, 'b', { again: b })
  const c = await startHost(t, site, 'c')
  await connect(b2, c)
  await until(c, () => c.indexes.names(a.key).length === 2)
  t.same(c.indexes.names(a.key), ['glibc', 'hello'])
  const seen = c.gossip.status().find(({ key }) => key === a.key)
  t.match(seen, { up: false, paths: 2, lag: 0 }, 'A is known and off')
  t.equal(seen?.lastSeen, undefined, 'C itself never saw it')
})

t.test('one address leads to all: peers tell of peers', async t => {
  const site = createSite()
  const [a, b, c] = [
    await startHost(t, site, 'a'),
    await startHost(t, site, 'b'),
    await startHost(t, site, 'c'),
  ] as const
  await connect(a, b)
  sight(c, a)
  await Promise.all([until(c, () => isUp(c, a) && isUp(c, b)), until(b, () => isUp(b, c))])
  t.pass('B and C met by A')
})

t.test('a dial that began before the other listened does not delay the two', async t => {
  const site = createSite()
  const [smaller, larger] = [randomBytes(32), randomBytes(32)]
    .map(seed => keyPairFromSeed(seed))
    .sort((a, b) => Buffer.compare(a.publicKey, b.publicKey))
  const late = { key: smaller?.publicKey.toString('hex') as PeerKey, port: await freeUdpPort() }
  site.members.add(late.key)
  // The larger key refuses the other's dial while its own is out, and that one was sent to nobody.
  const a = await startHost(t, site, 'a', {
    again: { keyPair: larger, port: await freeUdpPort() } as Host,
  })
  sight(a, late)
  const b = await startHost(t, site, 'b', {
    again: { keyPair: smaller, port: late.port } as Host,
  })
  const at = performance.now()
  sight(b, a)
  a.events.emit('peer:sighted', {
    key: b.key,
    address: { host: '127.0.0.1', port: b.port },
    source: 'mdns',
  })
  await Promise.all([until(a, () => isUp(a, b)), until(b, () => isUp(b, a))])
  t.pass('they meet')
  t.comment(`${(performance.now() - at).toFixed(0)} ms after both were there`)
})

t.test('a stranger gets nothing and leaves nothing', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const stranger = await startHost(t, createSite(), 'stranger')
  await a.gossip.append({ added: [entry('secret')], removed: [] })
  // It thinks A is of its own site, and dials; A is told where it is, too.
  const theirs = createSite()
  theirs.members.add(a.key)
  const eager = await startHost(t, theirs, 'eager')
  sight(eager, a)
  sight(a, stranger)
  sight(a, eager)
  const b = await startHost(t, site, 'b')
  await connect(a, b)
  await until(b, () => b.indexes.names(a.key).length === 1)
  t.notOk(isUp(eager, a), 'refused in the handshake')
  t.same(eager.indexes.names(a.key), [])
  t.same(
    a.gossip.status().map(({ key }) => key),
    [b.key],
    'A shows members only',
  )

  site.members.add(eager.key)
  a.membersChanged()
  sight(eager, a)
  await until(a, () => isUp(a, eager))
  t.pass('made a member after it was refused, it gets in')
})

t.test('a revoked host is cut off at once, and its index goes', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await b.gossip.append({ added: [entry('hello')], removed: [] })
  await connect(a, b)
  await until(a, () => a.indexes.names(b.key).length === 1)
  const at = performance.now()
  site.members.delete(b.key)
  const cut = until(b, () => !isUp(b, a))
  a.membersChanged()
  await cut
  t.comment(`cut after ${(performance.now() - at).toFixed(0)} ms`)
  await until(a, () => a.indexes.forgotten.includes(b.key))
  t.same(a.gossip.status(), [], 'it is no longer shown')
  t.same(a.indexes.names(b.key), [])
})

t.test('a host that goes silent is known to be off within the pings', async t => {
  const site = createSite()
  const timings = { pingMs: 20, deadMs: 200 }
  const a = await startHost(t, site, 'a', { timings })
  let now = 0
  const b = await startHost(t, site, 'b', { timings: { pingMs: 20, deadMs: 1000 }, now: () => now })
  await connect(a, b)
  const down = until(b, () => !isUp(b, a))
  // Only B's clock: as if nothing had been heard for long.
  now = 5000
  await down
  t.pass('the connection was ended')
  await until(b, () => isUp(b, a))
  t.pass('and made again')
})

t.test('a port that is taken is said so', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await b.gossip.close()
  await t.rejects(startHost(t, site, 'c', { again: { ...b, port: a.port } }), {
    code: 'NETWORK_PORT_TAKEN',
    data: { port: a.port },
  })
})
