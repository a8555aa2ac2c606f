import { createHash, randomBytes } from 'node:crypto'
import { cpSync, readdirSync, statSync, writeFileSync, mkdirSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import { fetcherOf } from '../../../daemon/holders/agree.ts'
import { createBreaker } from '../../../daemon/holders/breaker.ts'
import { SYSTEM_CLOCK, type Clock } from '../../../daemon/holders/clock.ts'
import { formatWindow, isWithin, untilOpen } from '../../../daemon/holders/daily-window.ts'
import type { Holding } from '../../../daemon/holders/holder.ts'
import { createTokenBucket } from '../../../daemon/holders/token-bucket.ts'
import { createUpstreamHolder, type UpstreamOptions } from '../../../daemon/holders/upstream.ts'
import { createDownloads } from '../../../daemon/holders/upstream-downloads.ts'
import type { RememberedNarinfo } from '../../../daemon/holders/upstream-narinfos.ts'
import { createUpstreams } from '../../../daemon/holders/upstreams.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { encodeNix32 } from '../../../protocol/nix32.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../../protocol/store-path.ts'
import { startCacheServer, type CacheServer } from '../../helpers/cache-server.ts'
import { makeTempDir, narOf, pathOf } from '../../helpers/nix-store.ts'

const pool = createNarPool()
await pool.open()
// Waiting for an upstream keeps no process alive by itself.
const alive = setInterval(() => undefined, 1000)
t.teardown(() => {
  clearInterval(alive)
  return pool.close()
})

const part = (name: string): HashPart => hashPartOf(pathOf(name))
const sha256 = (bytes: Buffer) => encodeNix32(createHash('sha256').update(bytes).digest())

/** Facts that a narinfo may get wrong. */
interface Lies {
  readonly fileHash?: string
  readonly narSize?: number
  readonly withoutFileFacts?: true
  readonly nar?: Buffer
}

/** Puts a path into a cache directory; gives its NAR and the URL of its file. */
function put(dir: string, name: string, content: Buffer | string, lies: Lies = {}) {
  mkdirSync(join(dir, 'nar'), { recursive: true })
  writeFileSync(join(dir, 'nix-cache-info'), 'StoreDir: /nix/store\n')
  const nar = narOf(content)
  const file = gzipSync(lies.nar ?? nar, { level: 1 })
  const url = `nar/${sha256(file)}.nar.gz`
  writeFileSync(join(dir, url), file)
  const facts = [`FileHash: sha256:${lies.fileHash ?? sha256(file)}`, `FileSize: ${file.length}`]
  writeFileSync(
    join(dir, `${part(name)}.narinfo`),
    [
      `StorePath: ${pathOf(name)}`,
      `URL: ${url}`,
      'Compression: gzip',
      ...(lies.withoutFileFacts === true ? [] : facts),
      `NarHash: sha256:${sha256(nar)}`,
      `NarSize: ${lies.narSize ?? nar.length}`,
      'References: ',
      '',
    ].join('\n'),
  )
  return { nar, file, url }
}

async function read(stream: ByteStream): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) {
    parts.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(parts)
}

/** A server over an empty cache and what makes holders of it. */
async function setUp(t: Test) {
  const dir = makeTempDir(t, 'cache')
  const stateDir = join(makeTempDir(t, 'state'), 'upstream')
  const server = await startCacheServer(t, dir)
  const events = createEventBus()
  const bad: string[] = []
  events.on('holding:bad', ({ problem }) => bad.push(problem))
  const downloadsOf = () => {
    const downloads = createDownloads({ dir: stateDir, clock: SYSTEM_CLOCK, retryMs: [1, 1, 1] })
    downloads.open()
    t.teardown(() => downloads.close())
    return downloads
  }
  const holderOf = async (options: Partial<UpstreamOptions> = {}) => {
    const holder = createUpstreamHolder({
      url: server.url,
      pool,
      downloads: downloadsOf(),
      events,
      expectedStoreDir: '/nix/store',
      times: { silenceMs: 150, smallMs: 600, stallMs: 300 },
      backoffMs: [20],
      ...options,
    })
    await holder.open()
    t.teardown(() => holder.close())
    const find = async (name: string): Promise<Holding> => {
      const holding = await holder.find(part(name))
      if (holding === undefined) throw new Error(`${name} is not found`)
      return holding
    }
    return { ...holder, find, holder }
  }
  return { dir, stateDir, server, events, bad, holderOf, downloadsOf }
}

const narinfoCount = (server: CacheServer, name: string) => server.count(`${part(name)}.narinfo`)
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

t.test('a NAR comes over the link once', async t => {
  const { dir, server, holderOf, stateDir } = await setUp(t)
  const { nar, file, url } = put(dir, 'big', BIG)
  const { holder, find } = await holderOf()
  const holding = await find('big')
  const [first, second, packed, verdict] = await Promise.all([
    read(holder.openNar(holding)),
    read(holder.openNar(holding, { offset: 1_000_000, end: 1_000_100 })),
    read(holder.openFile?.(holding) as ByteStream),
    holder.verify(holding),
  ])
  t.ok(first.equals(nar))
  t.ok(second.equals(nar.subarray(1_000_000, 1_000_100)))
  t.ok(packed.equals(file))
  t.equal(verdict.problem, undefined)
  t.equal(server.count(url), 1)
  await server.stop()
  t.ok((await read(holder.openNar(holding))).equals(nar), 'without the upstream too')
  t.equal(statSync(stateDir).mode & 0o777, 0o700)
})

t.test('cut again and again, it goes on from where it was', async t => {
  const { dir, server, holderOf } = await setUp(t)
  const { nar, file, url } = put(dir, 'big', BIG)
  server.fault = path => (path === url ? { kind: 'cut', after: 700_000 } : undefined)
  const { holder, find } = await holderOf()
  t.ok((await read(holder.openNar(await find('big')))).equals(nar))
  const sent = server.asked.filter(({ path }) => path === url)
  t.ok(sent.length >= 4, `${sent.length} requests`)
  t.ok(sent[1]?.range?.startsWith('bytes='), 'by Range')
  const bytes = sent.reduce((sum, one) => sum + one.bytes, 0)
  t.ok(bytes < file.length * 1.6, `${bytes} bytes sent for ${file.length}`)
})

t.test('a server without Range is read past what is there', async t => {
  const { dir, server, holderOf } = await setUp(t)
  const { nar, url } = put(dir, 'big', BIG)
  server.ranges = false
  let cuts = 1
  server.fault = path => (path === url && cuts-- > 0 ? { kind: 'cut', after: 700_000 } : undefined)
  const { holder, find } = await holderOf()
  t.ok((await read(holder.openNar(await find('big')))).equals(nar))
  t.equal(server.count(url), 2)
})

t.test('what came before a kill is not fetched again', async t => {
  const { dir, server, holderOf, stateDir } = await setUp(t)
  const { nar, file, url } = put(dir, 'big', BIG)
  server.fault = (path, range) => {
    if (path !== url) return undefined
    return range === undefined ? { kind: 'cut', after: 2_000_000 } : { kind: 'silence' }
  }
  const before = await holderOf()
  const stream = before.holder.openFile?.(await before.find('big')) as ByteStream
  const killed = join(makeTempDir(t, 'killed'), 'upstream')
  let seen = 0
  for await (const chunk of stream) {
    seen += chunk.length
    if (seen < 1_900_000) continue
    // The directory as it is in the middle: what kill -9 leaves, and all that the next daemon has.
    cpSync(stateDir, killed, { recursive: true })
    break
  }
  await before.holder.close()
  const [left = ''] = readdirSync(killed)
  const kept = statSync(join(killed, left)).size
  t.ok(kept >= seen && kept < file.length, `${kept} bytes are left`)
  server.fault = () => undefined
  server.asked.length = 0
  const downloads = createDownloads({ dir: killed, clock: SYSTEM_CLOCK })
  downloads.open()
  t.teardown(() => downloads.close())
  const after = await holderOf({ downloads })
  const holding = await after.find('big')
  const [bytes, verdict] = await Promise.all([
    read(after.holder.openNar(holding)),
    after.holder.verify(holding),
  ])
  t.ok(bytes.equals(nar))
  t.equal(verdict.problem, undefined)
  const asked = server.asked.filter(({ path }) => path === url)
  t.same(
    asked.map(({ range, bytes: sent }) => [range, sent]),
    [[`bytes=${kept}-`, file.length - kept]],
    'only the rest',
  )
})

t.test('leftovers of another file cost one more attempt', async t => {
  const { dir, server, holderOf, stateDir } = await setUp(t)
  const { nar, url } = put(dir, 'big', BIG)
  const before = await holderOf()
  for await (const _ of before.holder.openNar(await before.find('big'))) break
  await before.holder.close()
  const [left = ''] = readdirSync(stateDir)
  writeFileSync(join(stateDir, left), randomBytes(1_000_000))
  const after = await holderOf()
  t.ok((await after.holder.verify(await after.find('big'))).problem, 'the joined file is wrong')
  const holding = await after.find('big')
  t.equal((await after.holder.verify(holding)).problem, undefined, 'a whole one is right')
  t.ok((await read(after.holder.openNar(holding))).equals(nar))
  t.ok(server.count(url) >= 3)
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

t.test('the window', async t => {
  const at = (hour: number, minute = 0, second = 0) =>
    new Date(2026, 0, 15, hour, minute, second).getTime()
  const night = { from: 22 * 60, to: 6 * 60 }
  const day = { from: 9 * 60 + 30, to: 17 * 60 }
  t.equal(formatWindow(night), '22:00-06:00')
  for (const [window, time, expected] of [
    [night, at(21, 59, 59), false],
    [night, at(22), true],
    [night, at(23, 59, 59), true],
    [night, at(0), true],
    [night, at(5, 59, 59), true],
    [night, at(6), false],
    [day, at(9, 29, 59), false],
    [day, at(9, 30), true],
    [day, at(17), false],
  ] as const) {
    t.equal(
      isWithin(window, time),
      expected,
      `${formatWindow(window)} at ${new Date(time).toString()}`,
    )
  }
  t.equal(untilOpen(night, at(21)), 3600_000)
  t.equal(untilOpen(night, at(7)), 15 * 3600_000)
  t.equal(untilOpen(night, at(1)), 0)

  const { dir, server, holderOf } = await setUp(t)
  put(dir, 'a', 'content')
  const { file } = put(dir, 'big', BIG)
  let now = at(12)
  const clock: Clock = { ...SYSTEM_CLOCK, now: () => now }
  const { holder, find } = await holderOf({ clock, window: night })
  t.throws(() => holder.find(part('a')), /22:00-06:00 only/)
  t.equal(server.asked.length, 0, 'nothing goes over the link by day')
  now = at(22, 30)
  const holding = await find('big')
  const small = await find('a')
  await read(holder.openNar(small))
  const stream = holder.openFile?.(holding) as ByteStream
  await t.rejects(
    async () => {
      for await (const _ of stream) now = at(6)
    },
    { code: 'HOLDING_GONE' },
  )
  t.throws(() => holder.find(part('big')), { code: 'HOLDER_UNREADABLE' })
  t.ok(holder.find(part('a')), 'what is here already is given all day')
  now = at(22, 30)
  t.equal((await read(holder.openFile?.(await find('big')) as ByteStream)).length, file.length)
})

t.test('the rate', async t => {
  // Time passes where somebody waits for it.
  let now = 1_000_000
  const clock: Clock = {
    now: () => now,
    async sleep(ms) {
      now += ms
    },
  }
  const rate = 8000
  const bucket = createTokenBucket(rate, clock)
  const spent: string[] = []
  const bulk = async (name: string) => {
    for (let sent = 0; sent < 200_000; sent += bucket.sliceBytes) {
      await bucket.ready('bulk')
      bucket.spend(bucket.sliceBytes)
      spent.push(name)
    }
  }
  const narinfo = async () => {
    await bulkBegun
    await bucket.ready('small')
    bucket.spend(1000)
    spent.push('narinfo')
  }
  const bulkBegun = bucket.ready('bulk')
  const startedAt = now
  await Promise.all([bulk('one'), bulk('two'), narinfo()])
  const seconds = (now - startedAt) / 1000
  const expected = 401_000 / rate
  t.ok(seconds > expected - 2 && seconds < expected + 2, `${seconds} s for ${expected} s of bytes`)
  t.ok(spent.indexOf('narinfo') < 10, 'a narinfo goes before the rest of two NARs')
  t.ok(spent.lastIndexOf('one') > spent.length * 0.9 && spent.indexOf('two') < 10, 'they share')

  const { dir, holderOf } = await setUp(t)
  const { file } = put(dir, 'half', randomBytes(400_000))
  const limited = createTokenBucket(200_000, SYSTEM_CLOCK)
  const { holder, find } = await holderOf({ bucket: limited })
  const holding = await find('half')
  const began = performance.now()
  const bytes = await read(holder.openFile?.(holding) as ByteStream)
  const took = (performance.now() - began) / 1000
  const rateSeen = Math.round(file.length / took)
  t.equal(bytes.length, file.length)
  t.ok(took > (file.length - 200_000) / 200_000 - 0.1, `${rateSeen} bytes a second`)
})

t.test('the breaker', async t => {
  let fails = 3
  const waits: number[] = []
  const clock: Clock = {
    now: Date.now,
    async sleep(ms) {
      waits.push(ms)
    },
  }
  const heard: string[] = []
  const closed = new Promise<void>(resolve => {
    const breaker = createBreaker({
      clock,
      random: () => 0.5,
      backoffMs: [100, 200, 400],
      probe: async () => {
        if (fails-- > 0) throw new Error('still away')
      },
      onOpen: problem => heard.push(problem),
      onClose: resolve,
    })
    breaker.failed('answers 500', false)
    breaker.failed('answers 500', false)
    t.equal(breaker.problem, undefined, 'two bad answers are no outage')
    breaker.succeeded()
    breaker.failed('answers 500', false)
    t.equal(breaker.problem, undefined, 'nor are three with a good one between')
    breaker.failed('refused', true)
    t.equal(breaker.problem, 'refused')
  })
  await closed
  t.same(waits, [100, 200, 400, 400], 'probed ever more seldom')
  t.same(heard, ['refused', 'still away'])
})

t.test('one host fetches for the site', async t => {
  const members = Array.from({ length: 5 }, (_, i) => `${i}`.repeat(64) as PeerKey)
  const parts = Array.from({ length: 500 }, (_, i) => part(`path-${i}`))
  const shares = new Map<PeerKey | undefined, number>()
  for (const one of parts) {
    const fetcher = fetcherOf(one, members)
    if (fetcher !== fetcherOf(one, [...members].reverse())) t.fail('the order matters')
    shares.set(fetcher, (shares.get(fetcher) ?? 0) + 1)
  }
  t.equal(shares.size, 5)
  t.ok(Math.min(...shares.values()) > 60, 'spread evenly')
  const rest = members.slice(1)
  const moved = parts.filter(one => fetcherOf(one, rest) !== fetcherOf(one, members))
  t.equal(moved.length, shares.get(members[0]), 'who goes leaves only its own')
  t.equal(fetcherOf(part('a'), []), undefined)

  const { dir, server, holderOf } = await setUp(t)
  const { nar, url } = put(dir, 'big', BIG)
  const fetcher = await holderOf()
  let connected = true
  let relayed = 0
  const other = await setUp(t)
  const asker = await other.holderOf({
    url: server.url,
    agree: () => 'a'.repeat(64) as PeerKey,
    viaPeer: () =>
      connected
        ? {
            get(request) {
              relayed++
              return fetcher.holder.relay.get(request)
            },
            close() {},
          }
        : undefined,
  })
  const holding = await asker.find('big')
  t.ok((await read(asker.holder.openNar(holding))).equals(nar))
  t.equal((await asker.holder.verify(holding)).problem, undefined)
  t.equal(await asker.holder.find(part('none')), undefined)
  t.ok(relayed >= 3, 'by the peer')
  t.equal(server.count(url), 1, 'the link saw the NAR once')
  t.equal(narinfoCount(server, 'big') + narinfoCount(server, 'none'), 2, 'and each narinfo')
  await read(fetcher.holder.openNar(await fetcher.find('big')))
  t.equal(server.count(url), 1, 'the fetching host has it too')
  connected = false
  put(dir, 'alone', 'content')
  t.ok(await asker.find('alone'), 'without that peer over the own link')
})

t.test('caches found on the LAN', async t => {
  const { dir, server, events } = await setUp(t)
  put(dir, 'a', 'content')
  for (const allowFound of [true, false]) {
    const upstreams = createUpstreams({
      configured: [{ url: 'http://127.0.0.1:1', rate: 8000 }],
      dir: join(makeTempDir(t, 'state'), 'upstream'),
      pool,
      events,
      expectedStoreDir: '/nix/store',
      allowFound,
    })
    await upstreams.open()
    events.emit('cache:sighted', server.url)
    events.emit('cache:sighted', server.url)
    for (const url of ['file:///etc', 'http://127.0.0.1:1', 'nonsense', 'ftp://x/']) {
      events.emit('cache:sighted', url)
    }
    t.equal(upstreams.holders().length, allowFound ? 2 : 1)
    if (allowFound) {
      t.ok(await upstreams.holders()[1]?.find(part('a')))
      t.equal(upstreams.able(part('a')).at(-1)?.url, server.url)
      events.emit('cache:gone', server.url)
      t.equal(upstreams.holders().length, 1)
      for (let i = 0; i < 50; i++) events.emit('cache:sighted', `http://127.0.0.1:${i + 2}`)
      t.ok(upstreams.holders().length < 20, 'bounded')
    }
    await upstreams.close()
  }
})
