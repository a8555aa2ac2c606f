import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { connect, createServer } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import NoiseSecretStream from '@hyperswarm/secret-stream'
import { createEventBus } from '../../../daemon/events.ts'
import { createLog } from '../../../daemon/log.ts'
import type { PeeringLimits } from '../../../daemon/peering/limits.ts'
import { createPeering, type Peer } from '../../../daemon/peering/peering.ts'
import { createRateLimit } from '../../../daemon/peering/rate-limit.ts'
import type { PeerAddress, PeerKey } from '../../../daemon/site.ts'
import { fakeMembers, type FakeMembers } from '../../helpers/fake-members.ts'
import { freePort } from '../../helpers/scope.ts'

type Handler = (request: IncomingMessage, response: ServerResponse, peer: Peer) => void

const log = createLog('silent')
const loopback = '127.0.0.1'

async function host(
  t: Test,
  members: FakeMembers,
  handler: Handler,
  limits: Partial<PeeringLimits> = {},
  acceptStrangers = () => false,
) {
  const events = createEventBus()
  const peering = createPeering({
    ...{ members, host: loopback, port: 0, handler, acceptStrangers, events, log, limits },
  })
  const port = await peering.open()
  t.teardown(() => peering.close())
  return { peering, events, address: { host: loopback, port }, key: members.key }
}

const say =
  (text: string): Handler =>
  (_request, response) =>
    void response.end(text)

async function bodyOf(body: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of body) parts.push(part)
  return Buffer.concat(parts)
}

/** Two members of one site. */
function pair(): readonly [FakeMembers, FakeMembers] {
  const site = new Set<PeerKey>()
  return [fakeMembers(site, 'a'), fakeMembers(site, 'b')]
}

t.test('members ask each other, over connections that are kept', async t => {
  const [a, b] = pair()
  const asked: (readonly [string | undefined, PeerKey, boolean])[] = []
  const big = randomBytes(3_000_001)
  const server = await host(t, a, (request, response, peer) => {
    asked.push([request.url, peer.key, peer.member])
    if (request.url === '/big') response.end(big)
    else if (request.url === '/range') response.writeHead(206).end(request.headers.range)
    else response.writeHead(404).end('nothing')
  })
  const { peering } = await host(t, b, say('unused'))
  const addresses = [server.address]
  const reply = await peering.request(a.key, addresses, { path: '/big' })
  t.equal(reply.status, 200)
  t.ok((await bodyOf(reply.body)).equals(big), 'all bytes, in their order')
  const part = await peering.request(a.key, addresses, {
    path: '/range',
    range: { offset: 10, end: 20 },
  })
  t.equal((await bodyOf(part.body)).toString(), 'bytes=10-19')
  t.equal(peering.connections().outgoing, 1, 'one connection for both')
  const replies = await Promise.all(
    Array.from({ length: 30 }, () => peering.request(a.key, addresses, { path: '/x' })),
  )
  for (const { status, body } of replies) {
    t.equal(status, 404)
    await bodyOf(body)
  }
  t.ok(peering.connections().outgoing <= 6, 'never more than the pool has')
  t.same(asked[0], ['/big', b.key, true], 'the handler knows who asks')
})

t.test('nobody else gets in', async t => {
  const [a] = pair()
  let asked = 0
  const server = await host(t, a, (_request, response) => {
    asked++
    response.end('secret')
  })
  await t.test('a stranger', async t => {
    const stranger = fakeMembers(new Set(), 'stranger')
    stranger.site.add(a.key)
    const { peering } = await host(t, stranger, say('unused'))
    await t.rejects(peering.request(a.key, [server.address], { path: '/' }), { code: /^PEER_/ })
  })
  await t.test('a member under the key of another', async t => {
    const [c] = pair()
    c.site.add(a.key)
    const other = fakeMembers(c.site, 'other')
    const { peering } = await host(t, c, say('unused'))
    await t.rejects(peering.request(other.key, [server.address], { path: '/' }), {
      code: 'PEER_UNREACHABLE',
    })
  })
  await t.test('noise, silence, frames without end', async t => {
    const quick = await host(t, a, say('secret'), { handshakeMs: 100 })
    const cases: Readonly<Record<string, readonly Buffer[]>> = {
      'plain HTTP': [Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
      'a frame of 16 MiB': [Buffer.from([0xff, 0xff, 0xff]), Buffer.alloc(4096)],
      'random bytes': [Buffer.from([96, 0, 0]), randomBytes(96)],
      'an empty frame': [Buffer.alloc(3)],
      silence: [],
      'a byte and then silence': [Buffer.from([1])],
    }
    for (const [what, parts] of Object.entries(cases)) {
      const socket = connect(quick.address.port, loopback)
      socket.on('error', () => undefined)
      const got: Buffer[] = []
      socket.on('data', part => got.push(part))
      for (const part of parts) socket.write(part)
      await once(socket, 'close')
      t.same(got, [], `${what}: closed without a word`)
    }
    t.equal(quick.peering.connections().incoming, 0)
  })
  t.equal(asked, 0, 'no request came through')
})

t.test('a stranger may ask to be paired while there are invites, and nothing else', async t => {
  const [a] = pair()
  let open = false
  const seen: (readonly [string, boolean, string])[] = []
  const server = await host(
    t,
    a,
    (request, response, peer) => {
      void bodyOf(request).then(body => {
        seen.push([peer.handshakeHash.toString('hex'), peer.member, body.toString()])
        response.end(`welcome ${peer.key.slice(0, 4)}`)
      })
    },
    { strangersPerMinute: 4 },
    () => open,
  )
  const stranger = fakeMembers(new Set(), 'new')
  const { peering } = await host(t, stranger, say('unused'))
  const knock = (body: Buffer) => {
    let hash = ''
    return peering
      .exchange(server.address, a.key, handshakeHash => {
        hash = handshakeHash.toString('hex')
        return body
      })
      .then(answer => ({ answer: answer.toString(), hash }))
  }
  await t.rejects(knock(Buffer.from('proof')), { code: 'PEER_BROKE' }, 'no invites: no answer')
  open = true
  const { answer, hash } = await knock(Buffer.from('proof'))
  t.equal(answer, `welcome ${stranger.key.slice(0, 4)}`)
  t.same(seen, [[hash, false, 'proof']], 'both ends have the same handshake hash')
  await t.rejects(knock(Buffer.alloc(5000)), { code: 'PEER_BROKE' }, 'a body that is too large')
  stranger.site.add(a.key)
  await t.rejects(async () => {
    const { status } = await peering.request(a.key, [server.address], { path: '/nar/x' })
    if (status === 403) throw Object.assign(new Error('refused'), { code: 'PEER_BROKE' })
  })
  await knock(Buffer.from('again'))
  await t.rejects(knock(Buffer.from('too often')), { code: 'PEER_BROKE' })
  t.equal(seen.length, 2)
})

t.test('the limit on pairing is by minute', async t => {
  let now = 0
  const limit = createRateLimit({ strangersPerMinute: 2, strangersPerMinuteAll: 3 }, () => now)
  t.same(
    ['a', 'a', 'a', 'b', 'c'].map(address => limit.take(address)),
    [true, true, false, true, false],
  )
  now = 60_000
  t.ok(limit.take('a'), 'anew in the next')
})

t.test('who is no member any more is cut off in the middle', async t => {
  for (const side of ['server', 'client'] as const) {
    const [a, b] = pair()
    const server = await host(t, a, (_request, response) => {
      response.writeHead(200, { 'Content-Length': '1000000' })
      response.write(Buffer.alloc(1000))
    })
    const client = await host(t, b, say('unused'))
    const reply = await client.peering.request(a.key, [server.address], { path: '/' })
    const reading = bodyOf(reply.body)
    // Each side has its own list; here one hears of the revocation.
    if (side === 'server') {
      a.revoke(b.key)
      server.events.emit('members:changed')
    } else {
      b.revoke(a.key)
      client.events.emit('members:changed')
    }
    await t.rejects(reading, { code: 'PEER_BROKE' }, `by the ${side}`)
    await t.rejects(client.peering.request(a.key, [server.address], { path: '/' }))
  }
})

t.test('peers that break, stall or are off', async t => {
  const [a, b] = pair()
  const { peering } = await host(t, b, say('unused'), { stallMs: 200, connectMs: 300 })
  const get = (address: PeerAddress, path = '/') => peering.request(a.key, [address], { path })
  const server = await host(t, a, (request, response) => {
    if (request.url === '/never') return
    response.writeHead(200, { 'Content-Length': '100000' })
    response.write(Buffer.alloc(1000))
    if (request.url === '/cut') setImmediate(() => response.destroy())
  })
  await t.rejects(get(server.address, '/never'), { code: 'PEER_STALLED', message: /nothing came/ })
  for (const path of ['/cut', '/stall']) {
    const { body } = await get(server.address, path)
    const code = path === '/cut' ? 'PEER_BROKE' : 'PEER_STALLED'
    await t.rejects(bodyOf(body), { code }, path)
  }
  const off = { host: loopback, port: await freePort() }
  await t.rejects(get(off), { code: 'PEER_UNREACHABLE' })
  const silent = createServer().listen(0, loopback)
  await once(silent, 'listening')
  t.teardown(() => silent.close())
  const mute = { host: loopback, port: (silent.address() as { port: number }).port }
  const start = performance.now()
  await t.rejects(get(mute), { code: 'PEER_UNREACHABLE' })
  t.ok(performance.now() - start < 2000, 'given up in time')
  t.equal(
    (await peering.request(a.key, [off, mute, server.address], { path: '/cut' })).status,
    200,
    'the next address is tried',
  )
  await t.rejects(peering.request(a.key, [], { path: '/' }), { message: /no address is known/ })
  const abort = new AbortController()
  const late = peering.request(a.key, [server.address], { path: '/never', signal: abort.signal })
  abort.abort()
  await t.rejects(late, { name: 'AbortError' })
})

t.test('a peer that restarts is asked again over a new connection', async t => {
  const [a, b] = pair()
  const { peering } = await host(t, b, say('unused'))
  const first = createPeering({
    ...{ members: a, host: loopback, port: 0, handler: say('one'), acceptStrangers: () => false },
    ...{ events: createEventBus(), log },
  })
  const port = await first.open()
  const address = { host: loopback, port }
  const ask = async () => {
    const { body } = await peering.request(a.key, [address], { path: '/' })
    return (await bodyOf(body)).toString()
  }
  t.equal(await ask(), 'one')
  await first.close()
  await first.close()
  const second = createPeering({
    ...{ members: a, host: loopback, port, handler: say('two'), acceptStrangers: () => false },
    ...{ events: createEventBus(), log },
  })
  await second.open()
  t.teardown(() => second.close())
  t.equal(await ask(), 'two')
})

t.test('a member that misbehaves', async t => {
  const [a, b] = pair()
  const limits = { headersMs: 150, idleMs: 300, perAddress: 3 }
  const { address } = await host(t, a, say('fine'), limits)
  const dial = async () => {
    const socket = connect(address.port, loopback)
    socket.on('error', () => undefined)
    const noise = new NoiseSecretStream(true, socket, {
      ...{ pattern: 'IK', keyPair: b.keyPair, remotePublicKey: a.keyPair.publicKey },
    })
    noise.on('error', () => undefined)
    const got: Buffer[] = []
    noise.on('data', data => got.push(data))
    const closed = new Promise<void>(resolve => noise.on('close', resolve))
    return { noise, socket, got, closed, opened: await noise.opened }
  }
  await t.test('headers byte by byte', async t => {
    const { noise, closed, got } = await dial()
    noise.write(Buffer.from('GET / HTTP/1.1\r\nX-Drip: '))
    const start = performance.now()
    const drip = setInterval(() => noise.write(Buffer.from('a')), 20)
    await closed
    clearInterval(drip)
    const took = performance.now() - start
    t.ok(took > 100 && took < 1000, 'closed when the time for headers is over')
    t.equal(Buffer.concat(got).toString(), '')
  })
  await t.test('nothing at all', async () => (await dial()).closed)
  await t.test('a frame longer than any of ours', async () => {
    const { socket, closed } = await dial()
    socket.write(Buffer.from([0, 0, 0xff]))
    await closed
  })
  await t.test('a frame that was tampered with', async () => {
    const { socket, closed } = await dial()
    socket.write(Buffer.concat([Buffer.from([40, 0, 0]), randomBytes(40)]))
    await closed
  })
  await t.test('more connections than one address may have', async t => {
    const dialled = await Promise.all([dial(), dial(), dial(), dial(), dial()])
    t.equal(dialled.filter(({ opened }) => opened).length, 3)
    for (const { noise } of dialled) noise.destroy()
  })
})
