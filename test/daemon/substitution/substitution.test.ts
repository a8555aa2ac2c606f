import { createHash, randomBytes } from 'node:crypto'
import t from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import type { Audience, LanSharing } from '../../../daemon/substitution/candidates.ts'
import { createSubstitution } from '../../../daemon/substitution/substitution.ts'
import type { VerdictStore } from '../../../daemon/substitution/verdicts.ts'
import { explainWhyNot } from '../../../daemon/substitution/why-not.ts'
import type { Trust } from '../../../daemon/trust/trust.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { parseNarUrl, type NarUrl } from '../../../protocol/nar-url.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import {
  fakeHolder,
  fakePath,
  fakeTrust,
  offerAll,
  type FakeHolder,
} from '../../helpers/fake-holder.ts'

const here: Audience = { loopback: true, legacy: false }
const lan: Audience = { loopback: false, legacy: false }

function memoryVerdicts(): VerdictStore & { rows: Map<string, { problem?: string | undefined }> } {
  const rows = new Map<string, { problem?: string | undefined }>()
  return {
    rows,
    get: (holderId, identity) => rows.get(`${holderId} ${identity}`),
    put: (holderId, identity, problem) => void rows.set(`${holderId} ${identity}`, { problem }),
  }
}

function room(
  holders: FakeHolder[],
  options: {
    trust?: Trust
    withLan?: LanSharing
    narinfoCacheBytes?: number
    narinfos?: Map<string, string>
    epoch?: string
    verdictStore?: ReturnType<typeof memoryVerdicts>
  } = {},
) {
  const events = createEventBus()
  const verdictStore = options.verdictStore ?? memoryVerdicts()
  const { narinfos = new Map<string, string>() } = options
  const substitution = createSubstitution({
    holders,
    trust: options.trust ?? fakeTrust(),
    verdictStore,
    narinfoStore: {
      // As the catalog keeps them: one for a holder and a path, found under the identity it was put with.
      get({ holderId, hashPart: part, identity, epoch }) {
        const row = narinfos.get(`${holderId} ${part}`)
        const label = `${identity} ${epoch}\n`
        return row?.startsWith(label) === true ? row.slice(label.length) : undefined
      },
      put: ({ holderId, hashPart: part, identity, epoch }, text) =>
        void narinfos.set(`${holderId} ${part}`, `${identity} ${epoch}\n${text}`),
    },
    narinfoEpoch: options.epoch ?? 'test',
    events,
    storeDir: '/nix/store',
    withLan: options.withLan ?? 'signed',
    liveCompression: 'none',
    narinfoCacheBytes: options.narinfoCacheBytes,
  })
  return { substitution, events, verdictStore }
}

const nar = randomBytes(10_500)
const info = fakePath('hello-2.12', nar)
const hashPart = hashPartOf(info.storePath)
const url: NarUrl = { hashPart, compression: 'none' }

async function collect(stream: ByteStream): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) {
    chunks.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(chunks)
}

function holding(...names: string[]): FakeHolder[] {
  return names.map(name => {
    const holder = fakeHolder(name)
    holder.put(info, nar)
    return holder
  })
}

t.test('a narinfo names the path and a URL that says what it means', async t => {
  const { substitution } = room(holding('a'))
  const text = (await substitution.narinfo(hashPart, here))?.toString() ?? ''
  t.match(text, `StorePath: ${info.storePath}\n`)
  const named = /^URL: nar\/(.*)$/m.exec(text)?.[1] ?? ''
  t.match(parseNarUrl(named), { hashPart, compression: 'none' })
  t.equal((await substitution.narinfo(hashPart, here))?.toString(), text, 'from memory as well')
  t.equal(await substitution.narinfo(hashPartOf(fakePath('x', nar).storePath), here), undefined)
})

t.test('what vanished or changed is not served from memory', async t => {
  const [a] = holding('a') as [FakeHolder]
  const { substitution } = room([a])
  t.ok(await substitution.narinfo(hashPart, here))
  a.content.delete(hashPart)
  t.equal(await substitution.narinfo(hashPart, here), undefined)
  const other = Buffer.from('built again, differently')
  a.put({ ...info, narSize: other.length }, other)
  t.match((await substitution.narinfo(hashPart, here))?.toString(), `NarSize: ${other.length}\n`)
})

t.test('memory for narinfos is bounded', async t => {
  const holder = fakeHolder('a')
  const paths = Array.from({ length: 50 }, (_, i) => fakePath(`p-${i}`, nar))
  for (const path of paths) holder.put(path, nar)
  const { substitution } = room([holder], { narinfoCacheBytes: 10_000 })
  for (const path of [...paths, ...paths]) {
    t.match(
      (await substitution.narinfo(hashPartOf(path.storePath), here))?.toString(),
      path.storePath,
    )
  }
})

t.test('the whole NAR and every part of it', async t => {
  const { substitution } = room(holding('a'))
  const reply = await substitution.nar(url, here, { resuming: false })
  t.equal(reply?.totalBytes, nar.length)
  t.ok(reply?.resumable)
  const whole = reply && (await collect(reply.open({ start: 0, end: nar.length })))
  t.ok(whole?.equals(nar))
  for (const [start, end] of [
    [1, 2],
    [999, 1001],
    [5000, 10_500],
    [10_499, 10_500],
  ] as const) {
    const part = await substitution.nar(url, here, { resuming: start > 0 })
    const bytes = part && (await collect(part.open({ start, end })))
    t.ok(bytes?.equals(nar.subarray(start, end)), `${start}-${end}`)
  }
})

t.test('a holder that breaks is followed by the next, from the same byte', async t => {
  for (const breakAt of [0, 1, 999, 1000, 1001, 5432, nar.length - 1]) {
    const [a, b] = holding('a', 'b') as [FakeHolder, FakeHolder]
    a.breakAt = breakAt
    const { substitution } = room([a, b])
    const reply = await substitution.nar(url, here, { resuming: false })
    const bytes = reply && (await collect(reply.open({ start: 0, end: nar.length })))
    t.ok(bytes?.equals(nar), `broken at ${breakAt}`)
    t.same(b.opened, [{ offset: breakAt, end: nar.length }], 'nothing is fetched twice')
  }
})

t.test('a holder that breaks while its check is still out hands over as well', async t => {
  const [a, b] = holding('a', 'b') as [FakeHolder, FakeHolder]
  a.breakAt = 4321
  a.holdVerdicts = true
  const { substitution } = room([a, b])
  const reply = await substitution.nar(url, here, { resuming: false, startGateMs: 1 })
  const bytes = reply && (await collect(reply.open({ start: 0, end: nar.length })))
  t.ok(bytes?.equals(nar))
  a.releaseVerdicts()
})

t.test('no holder left: the stream fails, it does not end short', async t => {
  const [a] = holding('a') as [FakeHolder]
  a.breakAt = 3000
  const { substitution } = room([a])
  const reply = await substitution.nar(url, here, { resuming: false })
  await t.rejects(collect(reply?.open({ start: 0, end: nar.length }) as ByteStream), /pulled/)
})

t.test(
  'a damaged copy is refused before the first byte, the next one served, and said once',
  async t => {
    const [a, b] = holding('a', 'b') as [FakeHolder, FakeHolder]
    const damaged = Buffer.from(nar)
    damaged.writeUInt8(damaged.readUInt8(7000) ^ 1, 7000)
    a.put(info, damaged)
    const { substitution, events } = room([a, b])
    const bad: string[] = []
    events.on('holding:bad', ({ holderId }) => bad.push(holderId))
    for (let round = 0; round < 2; round++) {
      const reply = await substitution.nar(url, here, { resuming: false })
      const bytes = reply && (await collect(reply.open({ start: 0, end: nar.length })))
      t.ok(bytes?.equals(nar))
    }
    t.same(bad, ['a'])
    t.same(a.opened, [], 'not a byte of it was read out')
    const why = await explainWhyNot(substitution, info.storePath)
    t.match(why, {
      offeredOnLoopback: true,
      holders: [{ id: 'a', verdict: 'nar-bad' }, { verdict: 'offered' }],
    })

    b.content.delete(hashPart)
    t.equal(await substitution.narinfo(hashPart, here), undefined, 'nor is its narinfo offered')
    t.equal(await substitution.nar(url, here, { resuming: false }), undefined)
    a.put(info, nar)
    t.ok(await substitution.narinfo(hashPart, here), 'repaired: offered again')
  },
)

t.test('a damaged copy found out while it streams never reaches its end', async t => {
  const [a] = holding('a') as [FakeHolder]
  a.put(info, Buffer.concat([Buffer.alloc(100), nar.subarray(100)]))
  a.holdVerdicts = true
  const { substitution } = room([a])
  const reply = await substitution.nar(url, here, { resuming: false, startGateMs: 1 })
  const stream = reply?.open({ start: 0, end: nar.length }) as ByteStream
  let bytes = 0
  const reading = (async () => {
    for await (const chunk of stream) {
      bytes += chunk.length
      if (bytes === 10_000) a.releaseVerdicts()
    }
  })()
  await t.rejects(reading)
  t.ok(bytes < nar.length, `${bytes} of ${nar.length}`)
})

t.test(
  'checks: one for all who wait, none for what was checked, stopped when nobody waits',
  async t => {
    const [a] = holding('a') as [FakeHolder]
    a.holdVerdicts = true
    const { substitution, verdictStore } = room([a])
    const replies = [1, 2, 3].map(() =>
      substitution.nar(url, here, { resuming: false, startGateMs: 1 }),
    )
    for (const reply of await Promise.all(replies)) {
      const reading = collect(reply?.open({ start: 0, end: nar.length }) as ByteStream)
      a.releaseVerdicts()
      t.ok((await reading).equals(nar))
    }
    t.equal(a.verifications, 1)
    t.equal(verdictStore.rows.size, 1)
    await substitution.nar(url, here, { resuming: false })
    t.equal(a.verifications, 1)
  },
)

t.test('a probe reads nothing', async t => {
  const [a] = holding('a') as [FakeHolder]
  const { substitution } = room([a])
  const reply = await substitution.nar(url, here, { resuming: false, probe: true })
  t.equal(reply?.totalBytes, nar.length)
  reply?.cancel()
  t.equal(a.verifications, 0)
  t.throws(() => reply?.open({ start: 0, end: 1 }))
})

t.test('a NAR hash in the URL picks the copy; unknown ones are absent', async t => {
  const other = randomBytes(2000)
  const a = fakeHolder('a')
  a.put({ ...fakePath('hello-2.12', other), storePath: info.storePath }, other)
  const [b] = holding('b') as [FakeHolder]
  const { substitution } = room([a, b])
  const text = (await substitution.narinfo(hashPart, here))?.toString() ?? ''
  t.match(text, 'NarSize: 2000\n')
  b.breakAt = undefined
  const named = parseNarUrl(/^URL: nar\/(.*)$/m.exec(text)?.[1] ?? '') as NarUrl
  const reply = await substitution.nar(named, here, { resuming: false })
  t.equal(reply?.totalBytes, 2000)
  a.breakAt = 500
  const mixed = await substitution.nar(named, here, { resuming: false })
  await t.rejects(
    collect(mixed?.open({ start: 0, end: 2000 }) as ByteStream),
    'never completed from another content',
  )
  const nowhere = { ...url, narHash: createHash('sha256').update('x').digest('hex').slice(0, 52) }
  t.equal(await substitution.nar(nowhere, here, { resuming: false }), undefined)
})

t.test('a file that is gone is packed anew, but never to complete half of the old one', async t => {
  const { substitution } = room(holding('a'))
  const gone: NarUrl = { ...url, fileHash: '0'.repeat(52), compression: 'gzip' }
  const reply = await substitution.nar(gone, here, { resuming: false })
  t.equal(reply?.resumable, false)
  const { gunzipSync } = await import('node:zlib')
  const packed = reply && (await collect(reply.open({ start: 0, end: Infinity })))
  t.ok(packed && gunzipSync(packed).equals(nar))
  t.equal(await substitution.nar(gone, here, { resuming: true }), undefined)
  const bzip2: NarUrl = { ...gone, compression: 'bzip2' }
  t.equal(await substitution.nar(bzip2, here, { resuming: false }), undefined)
})

t.test('who may have what', async t => {
  const notPublic = fakeTrust(
    () => ({ ...offerAll(), public: false }) as ReturnType<typeof offerAll>,
  )
  for (const [withLan, trust, audience, expected] of [
    ['signed', fakeTrust(), here, true],
    ['signed', fakeTrust(), lan, true],
    ['signed', notPublic, here, true],
    ['signed', notPublic, lan, false],
    ['all', notPublic, lan, true],
    ['none', fakeTrust(), lan, false],
    ['none', fakeTrust(), here, true],
  ] as const) {
    const { substitution } = room(holding('a'), { withLan, trust })
    const who = audience.loopback ? 'this machine' : 'the network'
    // First what the other may see: memory must not leak from one to the other.
    await substitution.narinfo(hashPart, audience.loopback ? lan : here)
    const text = await substitution.narinfo(hashPart, audience)
    t.equal(text !== undefined, expected, `${withLan}: narinfo for ${who}`)
    const reply = await substitution.nar(url, audience, { resuming: false })
    t.equal(reply !== undefined, expected, `${withLan}: NAR for ${who}`)
    reply?.cancel()
  }
})

t.test('holders that throw or never answer are as good as absent', async t => {
  const [a, b] = holding('a', 'b') as [FakeHolder, FakeHolder]
  a.broken = true
  const { substitution } = room([a, b])
  t.ok(await substitution.narinfo(hashPart, here))
  b.broken = true
  t.equal(await substitution.narinfo(hashPart, here), undefined)
  const why = await explainWhyNot(substitution, info.storePath)
  t.match(why, { offeredOnLoopback: false, summary: /cannot be asked/ })
})

t.test('a narinfo of before a restart is used again while nothing has changed', async t => {
  const narinfos = new Map<string, string>()
  const verdictStore = memoryVerdicts()
  const start = (epoch = 'test') => {
    const [a] = holding('a') as [FakeHolder]
    let mark = 'as it was'
    let finds = 0
    const { find } = a
    a.find = part => (finds++, find.call(a, part))
    a.isCurrent = () => true
    a.witness = part =>
      a.content.has(part) ? { mark, stillStands: () => mark === 'as it was' } : undefined
    const { substitution, events } = room([a], { narinfos, verdictStore, epoch })
    const ask = async (audience = here) =>
      (await substitution.narinfo(hashPart, audience))?.toString()
    return { a, ask, events, finds: () => finds, change: (to: string) => void (mark = to) }
  }
  const before = start()
  const text = await before.ask()
  t.equal(before.finds(), 1)

  const after = start()
  t.equal(await after.ask(), text)
  t.equal(await after.ask(), text)
  t.equal(after.finds(), 0, 'nothing was looked up or proven again')
  t.ok(await after.ask(lan), 'the network is answered by its own rules')
  t.equal(after.finds(), 1)
  after.change('signed by another key')
  t.equal(await after.ask(), text)
  t.equal(after.finds(), 2, 'a change is noticed in memory')
  after.a.content.delete(hashPart)
  after.change('gone')
  t.equal(await after.ask(), undefined)

  const rules = start('other rules')
  await rules.ask()
  t.equal(rules.finds(), 1, 'other keys or rules: decided anew')

  const condemned = start()
  t.ok(await condemned.ask())
  const { identity } = (await condemned.a.find(hashPart)) ?? { identity: '' }
  verdictStore.put('a', identity, 'damaged meanwhile')
  const storePath = condemned.a.content.get(hashPart)?.info.storePath ?? ''
  condemned.events.emit('holding:bad', { holderId: 'a', storePath, problem: 'damaged meanwhile' })
  t.equal(await condemned.ask(), undefined, 'a verdict stands over it')
  t.equal(await start().ask(), undefined, 'and over a restart')
})

t.test('why not, in words', async t => {
  const refused = (
    reason: 'no-trusted-signature' | 'denied' | 'ca-mismatch',
    keys: string[] = [],
  ) => fakeTrust(() => ({ offered: false, reason, untrustedKeys: keys }))
  for (const [trust, verdict, summary] of [
    [refused('no-trusted-signature'), 'no-trusted-signature', /not signed, not content-addressed/],
    [refused('no-trusted-signature', ['evil-1']), 'no-trusted-signature', /evil-1/],
    [refused('denied'), 'denied', /share.deny/],
    [refused('ca-mismatch'), 'ca-mismatch', /content/],
  ] as const) {
    const { substitution } = room(holding('a'), { trust })
    const why = await explainWhyNot(substitution, info.storePath)
    t.match(why, { offeredOnLoopback: false, summary, holders: [{ id: 'a', verdict }] })
    t.ok(why.hint)
  }
  const { substitution } = room([fakeHolder('empty')])
  t.match(await explainWhyNot(substitution, info.storePath), {
    summary: 'no holder has it',
    holders: [{ verdict: 'absent' }],
  })
  t.ok(isNarwharfError(new Error('x')) === false)
})
