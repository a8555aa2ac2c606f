import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { fetcherOf } from '../../../daemon/holders/agree.ts'
import { createBreaker } from '../../../daemon/holders/breaker.ts'
import { SYSTEM_CLOCK, type Clock } from '../../../daemon/holders/clock.ts'
import { formatWindow, isWithin, untilOpen } from '../../../daemon/holders/daily-window.ts'
import { createTokenBucket } from '../../../daemon/holders/token-bucket.ts'
import { createUpstreams } from '../../../daemon/holders/upstreams.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { makeTempDir } from '../../helpers/nix-store.ts'
import { narinfoCount, openUpstreamRig, part, put, read } from '../../helpers/upstream-rig.ts'

const { pool, setUp } = await openUpstreamRig(t)
const BIG = randomBytes(3_000_000)

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
