import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { createEventBus, type EventBus } from '../../../daemon/events.ts'
import { createNarSpool } from '../../../daemon/holders/nar-spool.ts'
import { createPeerHolders } from '../../../daemon/holders/peers.ts'
import { createCounters } from '../../../daemon/http/counters.ts'
import { createPeerRoutes } from '../../../daemon/http/peer-routes.ts'
import { createLog } from '../../../daemon/log.ts'
import { createPeering } from '../../../daemon/peering/peering.ts'
import type { IndexedHolding, PeerIndexes, PeerKey } from '../../../daemon/site.ts'
import type { Audience, LanSharing } from '../../../daemon/substitution/candidates.ts'
import { createSubstitution } from '../../../daemon/substitution/substitution.ts'
import { explainWhyNot } from '../../../daemon/substitution/why-not.ts'
import type { Decision, Trust } from '../../../daemon/trust/trust.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import type { NarUrl } from '../../../protocol/nar-url.ts'
import { fail } from '../../../protocol/errors.ts'
import { encodeNix32 } from '../../../protocol/nix32.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { hashPartOf, parseBaseName, parseHashPart } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, fakeTrust, offerAll } from '../../helpers/fake-holder.ts'
import { fakeMembers } from '../../helpers/fake-members.ts'
import { tempDir } from '../../helpers/scope.ts'

const here: Audience = { loopback: true, legacy: false }
const log = createLog('silent')

const nar = randomBytes(3_000_000)
const info = fakePath('big-1.0', nar)
const hashPart = hashPartOf(info.storePath)
const url: NarUrl = { hashPart, compression: 'none' }

/** What trust says here: signed names are proven, a peer's own builds count as its word. */
const decide = ({
  info: { signatures },
  builtHere,
}: {
  info: PathInfo
  builtHere: boolean
}): Decision =>
  signatures.length > 0
    ? offerAll()
    : builtHere
      ? { offered: true, reason: 'member', public: false, signatures: [] }
      : { offered: false, reason: 'no-trusted-signature', untrustedKeys: [] }

interface SiteHost {
  readonly key: PeerKey
  readonly local: ReturnType<typeof fakeHolder>
  readonly substitution: ReturnType<typeof createSubstitution>
  readonly index: Map<string, IndexedHolding>
  readonly lies: PeerKey[]
  readonly events: EventBus
  /** Its requests find nobody. */
  cutOff: boolean
  /** Hosts on another network than its own. */
  readonly beyond: Set<PeerKey>
  up: boolean
  requests: number
  /** Ends its connections and its server, as a power cut. */
  kill(): Promise<void>
  put(info: PathInfo, nar: Buffer, entry?: { builtHere?: boolean; info?: PathInfo }): void
  narinfo(part?: string): Promise<string | undefined>
  fetch(): Promise<Buffer | undefined>
}

/** Hosts with one local holder each, real peerings and everything between them. */
function makeSite(t: Test) {
  const members = new Set<PeerKey>()
  const hosts: SiteHost[] = []
  let version = 0
  const indexes: PeerIndexes = {
    get version() {
      return version
    },
    find: part => hosts.flatMap(({ index }) => index.get(part) ?? []),
  }

  const add = async (
    name: string,
    options: {
      withPeers?: LanSharing
      trust?: Trust
      trustMembers?: boolean
      returnWaitMs?: number
    } = {},
  ): Promise<SiteHost> => {
    const who = fakeMembers(members, name)
    const events = createEventBus()
    const local = fakeHolder(`cache-dir:/${name}`)
    const spool = createNarSpool({ dir: tempDir(t, 'spool') })
    await spool.open()
    const peering = createPeering({
      members: who,
      host: '127.0.0.1',
      port: 0,
      handler: (request, response, peer) => routes(request, response, peer),
      acceptStrangers: () => false,
      events,
      log,
      limits: { stallMs: 2000, connectMs: 5000 },
    })
    const holders = createPeerHolders({
      ownKey: who.key,
      indexes,
      facts: {
        isUp: key => reaches(host, key),
        through: key =>
          hosts
            .filter(one => reaches(host, one.key) && reaches(one, key))
            .map(({ key: relay }) => relay),
        up: () => hosts.filter(({ up }) => up).map(({ key }) => key),
        addresses: key => [{ host: '127.0.0.1', port: ports.get(key) ?? 0 }],
        nameOf: key => names.get(key),
      },
      transport: {
        request: async (...args) => {
          host.requests++
          t.ok(reaches(host, args[0]), 'only who can be reached is asked')
          if (host.cutOff) fail('PEER_UNREACHABLE', { peer: 'x', problem: 'cut off' })
          return peering.request(...args)
        },
      },
      spool,
      async *paths() {},
      storeDir: '/nix/store',
      events,
    })
    const bad = new Map<string, { problem?: string | undefined }>()
    const substitution = createSubstitution({
      holders: [local],
      peers: holders,
      trust: options.trust ?? fakeTrust(decide),
      verdictStore: {
        get: (id, identity) => bad.get(`${id} ${identity}`),
        put: (id, identity, problem) => void bad.set(`${id} ${identity}`, { problem }),
      },
      narinfoStore: { get: () => undefined, put: () => undefined },
      narinfoEpoch: '',
      events,
      storeDir: '/nix/store',
      withLan: 'signed',
      withPeers: options.withPeers,
      trustMembers: options.trustMembers ?? true,
      liveCompression: 'none',
      returnWaitMs: options.returnWaitMs,
    })
    const routes = createPeerRoutes({ substitution, counters: createCounters(), log })
    ports.set(who.key, await peering.open())
    names.set(who.key, name)
    const lies: PeerKey[] = []
    events.on('peer:lied', key => void lies.push(key))
    const host: SiteHost = {
      key: who.key,
      local,
      substitution,
      index: new Map(),
      lies,
      events,
      cutOff: false,
      beyond: new Set(),
      up: true,
      requests: 0,
      async kill() {
        host.up = false
        await peering.close()
      },
      put(path, bytes, entry = {}) {
        local.put(path, bytes)
        host.index.set(hashPartOf(path.storePath), {
          peer: who.key,
          info: entry.info ?? path,
          builtHere: entry.builtHere ?? false,
        })
        version++
      },
      narinfo: async (part = hashPart) =>
        (await substitution.narinfo(parseHashPart(part), here))?.toString(),
      async fetch() {
        const reply = await substitution.nar(url, here, { resuming: false })
        return reply && collect(reply.open({ start: 0, end: nar.length }))
      },
    }
    t.teardown(async () => {
      substitution.close()
      await peering.close()
      await spool.close()
    })
    hosts.push(host)
    return host
  }
  const reaches = (from: SiteHost, to: PeerKey): boolean =>
    from.key !== to &&
    !from.beyond.has(to) &&
    hosts.some(host => host.key === to && host.up && !host.beyond.has(from.key))
  const ports = new Map<PeerKey, number>()
  const names = new Map<PeerKey, string>()
  return { add }
}

async function collect(stream: ByteStream): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) {
    parts.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(parts)
}

const hashless = (name: string) => parseBaseName(`${'0'.repeat(32)}-${name}`)

const signed: PathInfo = { ...info, signatures: [`k:${Buffer.alloc(64, 1).toString('base64')}`] }

t.test('what a peer has is offered and comes from there', async t => {
  const site = makeSite(t)
  const [a, b] = [await site.add('a'), await site.add('b')]
  a.put(signed, nar)
  t.match(await b.narinfo(), `StorePath: ${info.storePath}\n`)
  t.equal(b.requests, 0, 'without asking it')
  t.ok((await b.fetch())?.equals(nar))
  const narHash = encodeNix32(info.narHash.bytes)
  const reply = await b.substitution.nar({ ...url, narHash }, here, { resuming: true })
  const part = reply && (await collect(reply.open({ start: 1_000_000, end: nar.length })))
  t.ok(part?.equals(nar.subarray(1_000_000)), 'a client goes on in the middle')
  t.equal(b.requests, 1, 'the bytes came once')
  const peer: Audience = { loopback: false, legacy: false, peer: true }
  t.equal(await b.substitution.nar(url, peer, { resuming: false }), undefined, 'nothing is relayed')
  a.local.content.clear()
  a.index.clear()
  t.match(await explainWhyNot(b.substitution, info.storePath), { holders: [{ verdict: 'absent' }] })
})

t.test('what lies on another network comes through a host on both', async t => {
  const site = makeSite(t)
  const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
  a.put(signed, nar)
  c.beyond.add(a.key)
  t.match(await c.narinfo(), 'StorePath')
  t.ok((await c.fetch())?.equals(nar))
  t.same([a.local.opened.length > 0, b.local.opened.length], [true, 0], 'from a, through b')
  t.same([b.requests, c.requests], [1, 1], 'once over each of the networks')
  t.match(await explainWhyNot(c.substitution, info.storePath), {
    holders: [{}, { verdict: 'offered', title: 'peer a through b' }],
  })

  t.comment('two steps are one too many')
  const d = await site.add('d')
  d.beyond.add(a.key).add(b.key)
  t.equal(await d.narinfo(), undefined)
  t.same([c.requests, d.requests], [1, 0], 'nobody is asked')

  b.up = false
  t.equal(await c.narinfo(), undefined, 'b off')
  b.up = true
  a.up = false
  t.equal(await c.narinfo(), undefined, 'a off')
  t.equal(c.requests, 1, 'a miss costs no network')
})

t.test(
  'a host on both networks that shares nothing relays nothing, and a liar behind it harms nobody',
  async t => {
    const site = makeSite(t)
    const [a, b, c] = [
      await site.add('a'),
      await site.add('b', { withPeers: 'none' }),
      await site.add('c'),
    ]
    a.put(signed, nar)
    c.beyond.add(a.key)
    t.equal(await c.fetch(), undefined)

    const other = makeSite(t)
    const [liar, relay, d] = [
      await other.add('liar'),
      await other.add('relay'),
      await other.add('d'),
    ]
    const forged = Buffer.from(nar)
    forged[5] = (forged[5] ?? 0) ^ 1
    liar.put(signed, forged)
    liar.local.verify = async () => ({})
    d.beyond.add(liar.key)
    const got = await d.fetch().catch(() => undefined)
    t.equal(got, undefined)
    t.same([relay.lies, d.lies], [[liar.key], []], 'the one in the middle finds out')
    t.ok(b && c)
  },
)

t.test('a peer that dies in the middle is followed by the next', async t => {
  for (const share of [0.1, 0.5, 0.99]) {
    const site = makeSite(t)
    const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
    a.put(signed, nar)
    c.put(signed, nar)
    a.local.breakAt = Math.floor(nar.length * share)
    const stop = setInterval(() => {
      if (b.requests > 0) a.local.broken = true
    }, 1)
    t.ok((await b.fetch())?.equals(nar), `${share * 100} %`)
    clearInterval(stop)
    t.ok(b.requests >= 2)
  }
})

t.test('all others off: a miss needs no network and no time', async t => {
  const site = makeSite(t)
  const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
  for (const host of [a, c]) {
    host.put(signed, nar)
    await host.kill()
  }
  await b.narinfo()
  const start = performance.now()
  for (let i = 0; i < 20; i++) t.equal(await b.narinfo(), undefined)
  t.ok((performance.now() - start) / 20 < 20, 'under 20 ms')
  t.equal(b.requests, 0)
  t.match(await explainWhyNot(b.substitution, info.storePath), {
    offeredOnLoopback: false,
    summary: /off/,
    holders: [{}, { verdict: 'holder-down' }, { verdict: 'holder-down' }],
  })
  a.up = true
  t.match(await b.narinfo(), 'StorePath', 'offered when it is there again')
  t.equal(await b.fetch(), undefined, 'but not reached: a clean miss')
})

t.test('the only holder dies in the middle and comes back', async t => {
  const narHash = encodeNix32(info.narHash.bytes)
  for (const seenGone of [true, false]) {
    const site = makeSite(t)
    const [a, b] = [await site.add('a'), await site.add('b', { returnWaitMs: 20_000 })]
    a.put(signed, nar)
    a.local.breakAt = 1_500_000
    const options = { resuming: false, startGateMs: 0 }
    const reply = await b.substitution.nar(url, here, options)
    const part: Buffer[] = []
    await t.rejects(async () => {
      for await (const chunk of reply?.open({ start: 0, end: nar.length }) ?? []) {
        part.push(Buffer.from(chunk))
        b.cutOff = true
      }
    })
    const got = Buffer.concat(part)
    t.ok(got.length > 0 && got.equals(nar.subarray(0, got.length)))
    if (seenGone) a.up = false
    const again = b.substitution.nar({ ...url, narHash }, here, { resuming: got.length > 0 })
    const first = await Promise.race([again, sleep(100, 'waits')])
    t.equal(first, 'waits', 'no 404 yet')
    a.local.breakAt = undefined
    b.cutOff = false
    a.up = true
    if (seenGone) b.events.emit('peer:up', a.key)
    const rest = await again
    const bytes = rest && (await collect(rest.open({ start: got.length, end: nar.length })))
    t.ok(bytes?.equals(nar.subarray(got.length)), seenGone ? 'seen gone' : 'never missed')
    t.equal(b.events.listenerCount('peer:up'), 0)
  }
})

t.test('the only holder dies before the first byte is given, and comes back', async t => {
  const site = makeSite(t)
  const [a, b] = [await site.add('a'), await site.add('b', { returnWaitMs: 20_000 })]
  a.put(signed, nar)
  a.local.breakAt = 1_500_000
  const again = b.substitution.nar(url, here, { resuming: false })
  while (b.requests === 0) await sleep(1)
  b.cutOff = true
  t.equal(await Promise.race([again, sleep(700, 'waits')]), 'waits')
  a.local.breakAt = undefined
  b.cutOff = false
  const reply = await again
  t.ok(reply && (await collect(reply.open({ start: 0, end: nar.length }))).equals(nar))
})

t.test('the only holder stays away', async t => {
  const site = makeSite(t)
  const [a, b] = [await site.add('a'), await site.add('b', { returnWaitMs: 300 })]
  a.put(signed, nar)
  a.up = false
  const ask = async (resuming: boolean) => {
    const start = performance.now()
    t.equal(await b.substitution.nar(url, here, { resuming }), undefined)
    return performance.now() - start
  }
  t.ok((await ask(false)) < 100, 'an ordinary miss is one at once')
  const waited = await ask(true)
  t.ok(waited >= 290 && waited < 3000, 'who has a part waits, and not for ever')
  a.index.clear()
  // Tells that the index changed.
  b.put(fakePath('other-1.0', nar), nar)
  t.ok((await ask(true)) < 200, 'for nobody, nobody waits')
})

t.test('a liar', async t => {
  const site = makeSite(t)
  const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
  const forged = Buffer.from(nar)
  forged[10] = (forged[10] ?? 0) ^ 1
  // It believes itself: what it holds fits what it says there, not what it says in its index.
  a.put({ ...fakePath('big-1.0', forged), signatures: signed.signatures }, forged, { info: signed })
  a.local.content.set(hashPart, { info: signed, nar: forged })
  a.local.verify = async () => ({})
  t.equal(await b.fetch(), undefined, 'alone: a clean miss')
  t.same(b.lies, [a.key], 'and it is named')
  t.match(await explainWhyNot(b.substitution, info.storePath), {
    summary: /^peer a has it, but/,
    holders: [{}, { verdict: 'nar-bad', title: 'peer a' }],
  })
  const resumed = { ...url, narHash: encodeNix32(info.narHash.bytes) }
  c.put(signed, nar)
  t.equal(
    await b.substitution.nar(resumed, here, { resuming: true }),
    undefined,
    'who has a part of the forgery does not get the rest of the right one',
  )
  t.ok((await b.fetch())?.equals(nar), 'from the start it does')
})

t.test('a liar caught while its bytes go out already', async t => {
  const site = makeSite(t)
  const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
  const forged = Buffer.from(nar)
  forged[10] = (forged[10] ?? 0) ^ 1
  a.put(signed, forged)
  a.local.verify = async () => ({})
  c.put(signed, nar)
  const reply = await b.substitution.nar(url, here, { resuming: false, startGateMs: 0 })
  let bytes = 0
  await t.rejects(
    (async () => {
      for await (const chunk of reply?.open({ start: 0, end: nar.length }) ?? []) {
        bytes += chunk.length
      }
    })(),
  )
  t.ok(bytes < nar.length, 'the client never has a whole forgery')
  const again = { resuming: true }
  t.equal(await b.substitution.nar(url, here, again), undefined, 'and cannot complete it')
  t.ok((await b.fetch())?.equals(nar))
})

t.test('a peer that begins with wrong bytes and then is silent', async t => {
  const site = makeSite(t)
  const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
  const small = randomBytes(400_000)
  const smallInfo: PathInfo = { ...fakePath('small-1.0', small), signatures: signed.signatures }
  const smallUrl: NarUrl = { hashPart: hashPartOf(smallInfo.storePath), compression: 'none' }
  const fetchSmall = async () => {
    const reply = await b.substitution.nar(smallUrl, here, { resuming: false, startGateMs: 0 })
    return reply && collect(reply.open({ start: 0, end: small.length }))
  }
  a.put(smallInfo, small)
  a.local.openNar = () => ({
    recycle() {},
    destroy() {},
    async *[Symbol.asyncIterator]() {
      yield Buffer.alloc(1000)
      await new Promise(() => {})
    },
  })
  a.local.verify = async () => ({})
  t.equal(await fetchSmall(), undefined, 'alone: a clean miss after one stall')
  const start = performance.now()
  t.equal(await fetchSmall(), undefined)
  t.ok(performance.now() - start < 1000, 'and from then on at once')
  t.match(await explainWhyNot(b.substitution, smallInfo.storePath), {
    summary: /sent nothing/,
    holders: [{}, { verdict: 'holder-down' }],
  })
  c.put(smallInfo, small)
  t.ok((await fetchSmall())?.equals(small), 'an honest one helps, its bytes from the first on')
  const d = await site.add('d')
  const reply = await d.substitution.nar(smallUrl, here, { resuming: false, startGateMs: 0 })
  const bytes = reply && (await collect(reply.open({ start: 0, end: small.length })))
  t.ok(bytes?.equals(small), 'also whom it had not cheated yet')
})

/** What a host may send in the place of its NAR. */
const MISDEEDS = {
  bytes: async function* (forged: Buffer) {
    yield forged
  },
  short: async function* (forged: Buffer) {
    yield forged.subarray(0, forged.length >> 1)
    throw new Error('enough')
  },
  silent: async function* () {
    yield await new Promise<Buffer>(() => {})
  },
  half: async function* (forged: Buffer) {
    yield forged.subarray(0, forged.length >> 1)
    await new Promise(() => {})
  },
}

/** A NAR as Nix gets it: from the byte where it broke on, up to five times; a 404 is the last word. */
async function asNix(host: SiteHost, wanted: NarUrl, size: number): Promise<Buffer | undefined> {
  let got = Buffer.alloc(0)
  for (let attempt = 0; attempt < 5; attempt++) {
    const options = { resuming: got.length > 0, startGateMs: 100 }
    const reply = await host.substitution.nar(wanted, here, options)
    if (reply === undefined) return undefined
    try {
      for await (const chunk of reply.open({ start: got.length, end: size })) {
        got = Buffer.concat([got, chunk])
      }
      return got
    } catch {
      // It tries again.
    }
  }
  return undefined
}

t.test('a liar alone, then an honest holder beside it that was known all the while', async t => {
  for (const size of [400_000, 3_000_000]) {
    for (const [misdeed, send] of Object.entries(MISDEEDS)) {
      const site = makeSite(t)
      const [m, a, b] = [
        await site.add('m'),
        await site.add('a'),
        await site.add('b', { returnWaitMs: 300 }),
      ]
      const real = randomBytes(size)
      const path: PathInfo = { ...fakePath('p-1.0', real), signatures: signed.signatures }
      const narHash = encodeNix32(path.narHash.bytes)
      const wanted: NarUrl = { hashPart: hashPartOf(path.storePath), narHash, compression: 'none' }
      m.put(path, real)
      a.put(path, real)
      const forged = randomBytes(size)
      m.local.openNar = () => ({
        recycle() {},
        destroy() {},
        [Symbol.asyncIterator]: () => send(forged),
      })
      m.local.verify = async () => ({})
      a.up = false
      const what = `${misdeed}, ${size} bytes`
      t.equal(await asNix(b, wanted, size), undefined, `${what}: alone, no wrong bytes`)
      a.up = true
      const bytes = await asNix(b, wanted, size)
      t.ok(bytes?.equals(real), `${what}: the honest one helps, ${bytes?.length}`)
    }
  }
})

t.test('a member’s word', async t => {
  const site = makeSite(t)
  const [a, b, c] = [await site.add('a'), await site.add('b'), await site.add('c')]
  a.put(info, nar, { builtHere: true })
  t.match(await b.narinfo(), 'NarHash', 'is enough on this machine')
  const lan: Audience = { loopback: false, legacy: false }
  t.equal(await b.substitution.narinfo(hashPart, lan), undefined, 'and not for the network')
  t.match(await explainWhyNot(b.substitution, info.storePath), {
    holders: [{}, { verdict: 'not-public', detail: /trust\.members/ }],
  })
  const other = randomBytes(1000)
  c.put({ ...fakePath('big-1.0', other), signatures: signed.signatures }, other)
  t.match(await b.narinfo(), 'NarSize: 1000\n', 'a signature is more than a word')
  c.index.clear()
  b.put({ ...fakePath('big-1.0', other), signatures: signed.signatures }, other)
  t.match(await b.narinfo(), 'NarSize: 1000\n', 'and what is here is nearest')
  a.put(info, nar)
  b.local.content.clear()
  t.equal(await b.narinfo(), undefined, 'nobody vouches and nothing proves it')
})

t.test('members that disagree', async t => {
  const site = makeSite(t)
  const [a, b, m] = [await site.add('a'), await site.add('b'), await site.add('m')]
  const forged = randomBytes(nar.length)
  const asForged = fakePath('big-1.0', forged)
  a.put(info, nar, { builtHere: true })
  m.put({ ...asForged, signatures: signed.signatures }, forged, { builtHere: true, info: asForged })
  a.up = false
  t.equal(await b.narinfo(), undefined, 'who is off has a say')
  const narHash = encodeNix32(asForged.narHash.bytes)
  const reply = await b.substitution.nar({ ...url, narHash }, here, { resuming: false })
  t.equal(reply, undefined, 'nor is it given to who knows its name')
  const why = await explainWhyNot(b.substitution, info.storePath)
  t.match(why, { offeredOnLoopback: false, summary: /disagree.*m against a/, hint: /signed/ })
  t.match(why.holders, [{}, { verdict: 'holder-down' }, { verdict: 'contradicted' }])
  a.up = true
  t.equal(await b.narinfo(), undefined, 'nor does either count when both are there')
  t.match(await m.narinfo(), `NarHash: sha256:${narHash}`, 'its own copy is its own')

  a.put(signed, nar, { builtHere: true })
  t.match(
    await b.narinfo(),
    `NarHash: sha256:${encodeNix32(info.narHash.bytes)}`,
    'a proof ends it',
  )
  a.up = false
  t.equal(await b.narinfo(), undefined, 'also while who has it is off')
  t.match(
    (await explainWhyNot(b.substitution, info.storePath)).summary,
    /not the one that a can prove/,
  )
  const c = await site.add('c')
  c.put(info, nar, { builtHere: true })
  t.match(await b.narinfo(), 'StorePath', 'a word for what is proven counts')

  // The same bytes with other references: no less a lie.
  const more = { ...info, references: asForged.references.concat(hashless('x')) }
  a.put(info, nar, { builtHere: true })
  c.put(more, nar, { builtHere: true })
  m.index.clear()
  t.equal(await b.narinfo(), undefined)
})

t.test('what is shared with peers', async t => {
  for (const [withPeers, reason, expected] of [
    ['all', 'built-here', true],
    ['signed', 'built-here', false],
    ['signed', 'signed', true],
    ['none', 'signed', false],
  ] as const) {
    const site = makeSite(t)
    const trust = fakeTrust(() => ({
      ...{ offered: true, reason, public: reason === 'signed', signatures: [] },
    }))
    const [a, b] = [await site.add('a', { withPeers, trust }), await site.add('b')]
    a.put(signed, nar)
    const bytes = await b.fetch()
    t.equal(bytes?.equals(nar) ?? false, expected, `${withPeers}: ${reason}`)
  }
})
