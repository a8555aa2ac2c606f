import { randomBytes } from 'node:crypto'
import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { SYSTEM_CLOCK, type Clock } from '../../../daemon/holders/clock.ts'
import type { RememberedNarinfo } from '../../../daemon/holders/upstream-narinfos.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { type HashPart, type StorePath } from '../../../protocol/store-path.ts'
import { startCacheServer } from '../../helpers/cache-server.ts'
import { narOf } from '../../helpers/nix-store.ts'
import {
  narinfoCount,
  openUpstreamRig,
  part,
  put,
  read,
  sha256,
} from '../../helpers/upstream-rig.ts'

const { setUp } = await openUpstreamRig(t)
const BIG = randomBytes(3_000_000)

t.test('a narinfo is asked for once', async t => {
  const { dir, server, holderOf } = await setUp(t)
  put(dir, 'a', 'content')
  const memory = new Map<HashPart, RememberedNarinfo>()
  const narinfoMemory = {
    get: (hashPart: HashPart) => memory.get(hashPart),
    put: (hashPart: HashPart, answer: RememberedNarinfo) => void memory.set(hashPart, answer),
    delete: (hashPart: HashPart) => void memory.delete(hashPart),
    paths: (): StorePath[] => [],
  }
  const { holder } = await holderOf({ memory: narinfoMemory })
  const found = await Promise.all(Array.from({ length: 20 }, () => holder.find(part('a'))))
  t.equal(new Set(found.map(one => one?.identity)).size, 1)
  t.equal(narinfoCount(server, 'a'), 1, 'twenty questions at once')
  t.notOk(holder.find(part('a')) instanceof Promise, 'known at once')
  t.equal(await holder.find(part('none')), undefined)
  t.equal(holder.find(part('none')), undefined, 'a 404 is known at once')
  const again = await holderOf({ memory: narinfoMemory })
  t.notOk(again.holder.find(part('a')) instanceof Promise, 'over a restart')
  t.equal(again.holder.find(part('none')), undefined)
  t.equal(narinfoCount(server, 'a') + narinfoCount(server, 'none'), 2)
  t.equal(again.holder.mayHave(part('none')), false)
  again.holder.forget(part('none'))
  put(dir, 'none', 'it came')
  t.ok(await again.holder.find(part('none')), 'forgotten on demand')
})

t.test('a "no" stands for an hour, a trouble not at all', async t => {
  const { dir, server, holderOf } = await setUp(t)
  put(dir, 'a', 'content')
  let skew = 0
  const clock: Clock = { ...SYSTEM_CLOCK, now: () => Date.now() + skew }
  const { holder } = await holderOf({ clock })
  await holder.find(part('late'))
  put(dir, 'late', 'it came')
  t.equal(await holder.find(part('late')), undefined)
  skew = 3_601_000
  t.ok(await holder.find(part('late')), 'an hour later')
  for (const status of [500, 503]) {
    server.fault = path => (path.endsWith('.narinfo') ? { kind: 'status', status } : undefined)
    t.equal(await holder.find(part('a')), undefined, `${status} is no answer`)
    server.fault = () => undefined
    holder.forget(part('a'))
    t.ok(await holder.find(part('a')), `after ${status} the next question is asked`)
    holder.forget(part('a'))
  }
  server.fault = path => (path.endsWith('.narinfo') ? { kind: 'status', status: 403 } : undefined)
  t.equal(await holder.find(part('a')), undefined)
  server.fault = () => undefined
  t.equal(await holder.find(part('a')), undefined, '403 stands for a minute')
  skew += 61_000
  t.ok(await holder.find(part('a')))
})

t.test('an upstream that is down keeps nobody waiting and comes back by itself', async t => {
  const { dir, server, events, holderOf } = await setUp(t)
  put(dir, 'a', 'content')
  const { holder } = await holderOf()
  t.ok(await holder.find(part('a')))
  for (const [what, out, back] of [
    ['gone', () => server.stop(), () => server.start()],
    [
      'a black hole',
      () => void (server.fault = () => ({ kind: 'silence' })),
      () => void (server.fault = () => undefined),
    ],
    [
      'three times 500',
      () => void (server.fault = () => ({ kind: 'status', status: 500 })),
      () => void (server.fault = () => undefined),
    ],
  ] as const) {
    const down = new Promise(resolve => events.once('holder:down', resolve))
    await out()
    for (const name of ['x', 'y', 'z']) {
      await Promise.resolve()
        .then(() => holder.find(part(`${what}-${name}`)))
        .catch(() => undefined)
    }
    await down
    const startedAt = performance.now()
    for (let turn = 0; turn < 100; turn++) {
      try {
        await holder.find(part(`${what}-${turn}`))
        t.fail('it is asked')
      } catch (error) {
        if (!isNarwharfError(error, 'HOLDER_UNREADABLE')) throw error
      }
    }
    const each = (performance.now() - startedAt) / 100
    t.ok(each < 20, `${what}: a miss takes ${each.toFixed(2)} ms`)
    t.type(holder.problem?.(), 'string')
    const up = new Promise(resolve => events.once('holder:up', resolve))
    await back()
    await up
    t.ok(await holder.find(part('a')), `${what}: back`)
  }
})

t.test('what is no cache of this store is not used', async t => {
  const { dir, server, holderOf } = await setUp(t)
  put(dir, 'a', 'content')
  writeFileSync(join(dir, 'nix-cache-info'), 'StoreDir: /gnu/store\n')
  const { holder } = await holderOf()
  await t.rejects(async () => holder.find(part('a')), { code: 'HOLDER_UNREADABLE' })
  t.match(holder.problem?.(), /gnu/)
  server.fault = () => ({ kind: 'status', status: 200, body: '<html>log in</html>' })
  const portal = await holderOf()
  await t.rejects(async () => portal.holder.find(part('a')), { code: 'HOLDER_UNREADABLE' })
})

t.test('redirects', async t => {
  const { dir, server, holderOf } = await setUp(t)
  const { nar } = put(dir, 'a', 'content')
  const other = await startCacheServer(t, dir)
  const to = (target: (path: string) => string) => {
    server.fault = path =>
      path === 'nix-cache-info' ? undefined : { kind: 'redirect', to: target(path) }
  }
  to(path => `${other.url}/${path}`)
  const { holder, find } = await holderOf()
  t.ok((await read(holder.openNar(await find('a')))).equals(nar), 'followed')
  for (const [what, target] of [
    ['a loop', (path: string) => `/${path}`],
    ['a file', () => 'file:///etc/passwd'],
    ['another scheme', () => 'gopher://localhost/'],
    ['nonsense', () => 'http://[oops/'],
  ] as const) {
    to(target)
    const refused = await holderOf()
    await t.rejects(async () => refused.holder.find(part('a')), { code: 'HOLDER_UNREADABLE' }, what)
  }
  server.fault = path =>
    path === 'nix-cache-info' ? undefined : { kind: 'redirect', to: 'http://localhost:1/' }
  const found = await holderOf({ redirects: 'same-host' })
  await t.rejects(async () => found.holder.find(part('a')), /another host/)
})

t.test('lies', async t => {
  const { dir, server, bad, holderOf } = await setUp(t)
  const wrongHash = put(dir, 'wrong-file-hash', 'right', { fileHash: sha256(Buffer.from('no')) })
  put(dir, 'wrong-nar', 'right', { nar: narOf('wrong') })
  put(dir, 'bomb', 'small', { nar: narOf(Buffer.alloc(200_000_000)) })
  put(dir, 'cut-nar', 'content', { nar: narOf('content').subarray(0, 60) })
  const gone = put(dir, 'gone', 'content')
  const { holder, find } = await holderOf()

  const before = await find('wrong-file-hash')
  t.equal((await holder.verify(before)).problem, undefined, 'the NAR is right')
  const now = await find('wrong-file-hash')
  t.equal(now.fileHash, undefined, 'a wrong FileHash is not told further')
  t.ok((await read(holder.openNar(now))).equals(wrongHash.nar))

  for (const name of ['wrong-nar', 'cut-nar', 'bomb']) {
    const holding = await find(name)
    t.ok((await holder.verify(holding)).problem, name)
    t.ok(holder.isCurrent(holding), `${name}: it stays condemned`)
    await t.rejects(read(holder.openNar(holding)), { code: 'HOLDING_GONE' }, `${name}: not again`)
  }
  t.equal(bad.length, 3, 'each is said')
  holder.forget(part('bomb'))
  await t.rejects(read(holder.openNar(await find('bomb'))), { code: 'NAR_MISMATCH' })

  server.fault = path => (path === gone.url ? { kind: 'status', status: 404 } : undefined)
  const holding = await find('gone')
  await t.rejects(read(holder.openNar(holding)), { code: 'HOLDING_GONE' })
  t.notOk(holder.isCurrent(holding), 'a narinfo without its NAR is forgotten')
})

t.test('endless and dripping bodies', async t => {
  const { dir, server, stateDir, holderOf } = await setUp(t)
  const endless = put(dir, 'endless', 'content', { withoutFileFacts: true })
  const drip = put(dir, 'drip', BIG)
  async function* forever() {
    for (;;) yield Buffer.alloc(65_536, 1)
  }
  async function* drops() {
    for (;;) {
      yield Buffer.alloc(1)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  server.fault = path => {
    if (path === endless.url || path === `${part('huge')}.narinfo`) {
      return { kind: 'body', body: forever() }
    }
    if (path === drip.url) return { kind: 'body', body: drops(), length: drip.file.length }
    if (path === `${part('drip2')}.narinfo`) return { kind: 'body', body: drops() }
    return undefined
  }
  const { holder, find } = await holderOf()
  await t.rejects(read(holder.openNar(await find('endless'))), { code: 'HOLDING_GONE' })
  const left = readdirSync(stateDir).map(name => statSync(join(stateDir, name)).size)
  t.ok(Math.max(0, ...left) < 1_000_000, 'an endless NAR fills no disk')
  t.equal(await holder.find(part('huge')), undefined, 'an endless narinfo')
  const startedAt = performance.now()
  await t.rejects(read(holder.openNar(await find('drip'))), { code: 'HOLDING_GONE' })
  t.ok(performance.now() - startedAt < 10_000, 'a drip ends')
  const dripped = await Promise.resolve(holder.find(part('drip2'))).catch(() => undefined)
  t.equal(dripped, undefined, 'a dripping narinfo')
})

t.test('a port that takes connections and never speaks', async t => {
  const { holderOf } = await setUp(t)
  const hole = createServer(() => undefined)
  await new Promise<void>(resolve => hole.listen(0, '127.0.0.1', resolve))
  const sockets = new Set<import('node:net').Socket>()
  hole.on('connection', socket => sockets.add(socket))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    hole.close()
  })
  const { holder } = await holderOf({
    url: `http://127.0.0.1:${(hole.address() as AddressInfo).port}`,
  })
  const startedAt = performance.now()
  await Promise.resolve(holder.find(part('a'))).catch(() => undefined)
  t.ok(performance.now() - startedAt < 4000, 'within the budget of a question')
  t.throws(() => holder.find(part('a')), { code: 'HOLDER_UNREADABLE' })
})
