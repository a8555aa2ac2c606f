import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import Corestore from 'corestore'
import HyperDHT from 'hyperdht'
import Hyperswarm, { type SwarmConnection } from 'hyperswarm'
import t, { type Test } from 'tap'
import { openChannel, type Channel } from '../../../daemon/gossip/channel.ts'
import {
  decodeHeads,
  decodeHello,
  decodeTold,
  encodeHeads,
} from '../../../daemon/gossip/messages.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import { keyPairFromSeed } from '../../../protocol/ed25519.ts'
import { signIndexHead } from '../../../protocol/index-head.ts'
import { tempDir } from '../../helpers/scope.ts'
import {
  connect,
  createSite,
  entry,
  freeUdpPort,
  isUp,
  startHost,
  until,
  type Host,
} from './rooms.ts'

/** A member that says whatever it likes: the same packages, none of our checks. */
async function startLiar(t: Test, site: ReturnType<typeof createSite>, victim: Host) {
  const keyPair = keyPairFromSeed(randomBytes(32))
  const key = keyPair.publicKey.toString('hex') as PeerKey
  site.members.add(key)
  const port = await freeUdpPort()
  const dht = HyperDHT.bootstrapper(port, '127.0.0.1')
  const swarm = new Hyperswarm({ dht, keyPair, firewall: () => false })
  await swarm.listen()
  const store = new Corestore(tempDir(t, 'liar'))
  t.teardown(async () => {
    await swarm.destroy({ force: true })
    await store.close()
  })
  const connected = new Promise<{ connection: SwarmConnection; channel: Channel }>(resolve =>
    swarm.on('connection', connection => {
      connection.on('error', () => {})
      const ignore = () => {}
      const channel = openChannel(
        connection,
        { name: 'liar', version: '1', port, upstreams: [] },
        {
          hello: () => resolve({ connection, channel: channel as Channel }),
          memberList: ignore,
          heads: ignore,
          told: ignore,
          pong: ignore,
          noteMarks: ignore,
          noteAsked: ignore,
          notePart: ignore,
          reach: ignore,
          bad: ignore,
          closed: ignore,
        },
      )
      store.replicate(connection)
    }),
  )
  dht.addNode({ host: '127.0.0.1', port: victim.port })
  swarm.joinPeer(Buffer.from(victim.key, 'hex'))
  return { key, keyPair, store, ...(await connected) }
}

t.test('a member whose index is rubbish is named, and harms nobody else', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await b.gossip.append({ added: [entry('good')], removed: [] })
  await connect(a, b)
  await until(a, () => a.indexes.names(b.key).length === 1)
  const liar = await startLiar(t, site, a)
  const core = liar.store.get({ keyPair: keyPairFromSeed(randomBytes(32)) })
  await core.ready()
  await core.append([Buffer.from([1, 2, 3, 4, 5])])
  const head = { host: liar.key, epoch: 1, core: (core.key as Buffer).toString('hex'), length: 1 }
  const lied = once(a.events, 'peer:lied')
  liar.channel.heads([signIndexHead(head, liar.keyPair.secretKey)])
  t.equal((await lied)[0], liar.key)
  await until(a, () => a.indexes.forgotten.includes(liar.key))
  const seen = a.gossip.status().find(({ key }) => key === liar.key)
  t.match(seen?.problem, /invalid|index/i, 'it is named with what it did')
  t.same(a.indexes.names(b.key), ['good'], 'the honest one stands')
  t.ok(isUp(a, b))
})

t.test('a block larger than any is not taken in', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const liar = await startLiar(t, site, a)
  const core = liar.store.get({ keyPair: keyPairFromSeed(randomBytes(32)) })
  await core.ready()
  await core.append([Buffer.alloc(5 << 20)])
  const head = { host: liar.key, epoch: 1, core: (core.key as Buffer).toString('hex'), length: 1 }
  const lied = once(a.events, 'peer:lied')
  liar.channel.heads([signIndexHead(head, liar.keyPair.secretKey)])
  t.match((await lied)[1], /block of 5242880 bytes/)
  t.equal(a.indexes.position(liar.key)?.blocks ?? 0, 0)
})

t.test('messages that no host sends end the connection', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const liar = await startLiar(t, site, a)
  const lied = once(a.events, 'peer:lied')
  const closed = new Promise(resolve => liar.connection.once('close', resolve))
  liar.channel.memberList(Buffer.alloc(4 << 20))
  t.match((await lied)[1], /member list.*4194304 bytes, more than/)
  await closed
  t.notOk(a.gossip.status().find(({ key }) => key === liar.key)?.up)
})

t.test('a head that its host did not sign is a lie of whoever brings it', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  const liar = await startLiar(t, site, a)
  const forged = signIndexHead(
    { host: liar.key, epoch: 9, core: '00'.repeat(32), length: 1 },
    liar.keyPair.secretKey,
  )
  Buffer.from(b.key, 'hex').copy(forged)
  const lied = once(a.events, 'peer:lied')
  liar.channel.heads([forged])
  t.match(await lied, [liar.key, /not signed/])
})

t.test('what is read from the wire is read strictly', async t => {
  const bad = { code: 'PEER_MESSAGE_INVALID' }
  const hello = (value: unknown) => () => decodeHello(Buffer.from(JSON.stringify(value)))
  const good = { name: 'a', version: '1', port: 1, upstreams: [] }
  t.same(
    decodeHello(Buffer.from(JSON.stringify({ ...good, more: [1] }))),
    good,
    'more is passed over',
  )
  for (const [name, value] of Object.entries({
    'no object': 1,
    null: null,
    'a name that steers a terminal': { ...good, name: 'a\u001b[2J' },
    'a long name': { ...good, name: 'a'.repeat(64) },
    'no version': { ...good, version: undefined },
    'port 0': { ...good, port: 0 },
    'port 65536': { ...good, port: 65536 },
    'upstreams as text': { ...good, upstreams: '1' },
    'an upstream with a name of its own': { ...good, upstreams: ['../..'] },
    'more upstreams than there are': { ...good, upstreams: Array(65).fill('0'.repeat(16)) },
  })) {
    t.throws(hello(value), bad, name)
  }
  t.throws(() => decodeHello(Buffer.from([0xff])), bad, 'not UTF-8')
  t.throws(() => decodeHello(Buffer.alloc(5000, 0x20)), bad, 'too long')
  const told = (value: unknown) => () => decodeTold(Buffer.from(JSON.stringify(value)))
  const key = 'ab'.repeat(32)
  t.same(told([[key, '10.0.0.1', 6280]])(), [{ key, address: { host: '10.0.0.1', port: 6280 } }])
  t.throws(told({}), bad)
  t.throws(told([[key, 'example.org', 1]]), bad, 'names are not looked up')
  t.throws(told([['AB', '10.0.0.1', 1]]), bad)
  t.throws(told([[key, '10.0.0.1', -1]]), bad)
  t.throws(told(Array.from({ length: 513 }, () => [key, '10.0.0.1', 1])), bad)
  const heads = [Buffer.alloc(144, 1), Buffer.alloc(144, 2)]
  t.same(encodeHeads(heads).flatMap(decodeHeads), heads)
  t.equal(encodeHeads(Array.from({ length: 1000 }, () => heads[0] as Buffer)).length, 3, 'in parts')
  t.throws(() => decodeHeads(Buffer.from([0])), bad)
  t.throws(() => decodeHeads(Buffer.from([0, 0])), bad)
  t.throws(() => decodeHeads(Buffer.from([0, 5, 1])), bad)
  t.throws(() => decodeHeads(Buffer.from([255, 255, 1])), bad)
  t.throws(() => decodeHeads(Buffer.alloc(70_000)), bad)
})
