import { randomBytes } from 'node:crypto'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import type { Holder, Holding } from '../../../daemon/holders/holder.ts'
import { createNarSpool, type NarSpoolOptions } from '../../../daemon/holders/nar-spool.ts'
import { createPeerHolders } from '../../../daemon/holders/peers.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { hashPartOf, parseBaseName, parseHashPart } from '../../../protocol/store-path.ts'
import type { HashPart, StorePath } from '../../../protocol/store-path.ts'
import { fakePath } from '../../helpers/fake-holder.ts'
import { makeFakeSite, narHashOf, type FakePeer, type FakeSite } from '../../helpers/fake-peer.ts'
import { narOf, pathOf, type PathSpec } from '../../helpers/nix-store.ts'
import { tempDir } from '../../helpers/scope.ts'
import { testHolder, type HolderFixture } from './conformance.ts'

async function collect(stream: ByteStream): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) {
    parts.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(parts)
}

const byteOrder = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** The path info of a path of that name with that content. */
function infoOf(name: string, { references = [], deriver }: PathSpec, nar: Buffer): PathInfo {
  return {
    storePath: pathOf(name),
    narHash: narHashOf(nar),
    narSize: nar.length,
    references: references
      .map(reference => parseBaseName(pathOf(reference).slice(11)))
      .sort(byteOrder),
    signatures: [],
    ...(deriver === undefined ? {} : { deriver: parseBaseName(deriver) }),
  }
}

/** A peer whose peering is started before the fixtures, which are made at once. */
async function makeFixture(t: Test): Promise<() => HolderFixture> {
  const site = await makeFakeSite(t)
  const places = await Promise.all(Array.from({ length: 8 }, () => site.add('a')))
  const spool = createNarSpool({ dir: tempDir(t, 'spool'), keepMs: 0 })
  await spool.open()
  t.teardown(() => spool.close())
  return () => {
    const peer = places.pop()
    if (peer === undefined) throw new Error('more fixtures than peers')
    const nars = new Map<string, Buffer>()
    const partOf = (name: string) => hashPartOf(pathOf(name))
    const putInfo = (change: Partial<PathInfo>, hashPart: HashPart): HashPart => {
      const good = peer.index.get(partOf('text'))
      if (good === undefined) throw new Error('text is missing')
      peer.index.set(hashPart, { ...good, info: { ...good.info, ...change } })
      site.touch()
      return hashPart
    }
    return {
      holder: site.holder(peer, spool),
      put(spec) {
        for (const [name, one] of Object.entries(spec)) {
          const nar = narOf(one.tree)
          nars.set(name, nar)
          peer.put(infoOf(name, one, nar), nar)
        }
      },
      nar: name => nars.get(name) ?? Buffer.alloc(0),
      remove(name) {
        peer.index.delete(partOf(name))
        peer.nars.delete(partOf(name))
        site.touch()
      },
      damage(name) {
        const nar = Buffer.from(peer.nars.get(partOf(name)) ?? '')
        const middle = nar.length >> 1
        nar[middle] = (nar[middle] ?? 0) ^ 1
        peer.nars.set(partOf(name), nar)
      },
      putHostile: () => {
        const other = pathOf('other')
        const foreign = other.replace('/nix/', '/gnu/') as StorePath
        const part = hashPartOf(other)
        return {
          'of another path': putInfo({}, parseHashPart('1'.repeat(32))),
          'of another store directory': putInfo({ storePath: foreign }, part),
          'endless size': putInfo({ storePath: other, narSize: 2 ** 52 }, part),
          'negative size': putInfo({ storePath: other, narSize: -1 }, part),
          'no size': putInfo({ storePath: other, narSize: Number.NaN }, part),
          'a weak hash': putInfo(
            { storePath: other, narHash: { algorithm: 'md5', bytes: Buffer.alloc(16) } },
            part,
          ),
        }
      },
      takeAway: () => void (peer.up = false),
      bringBack: () => void (peer.up = true),
    }
  }
}

const make = await makeFixture(t)
testHolder(t, 'a peer', make)

/** Bytes enough that a transfer is seen in its middle. */
const nar = randomBytes(4_000_000)
const info = fakePath('big-1.0', nar)
const hashPart = hashPartOf(info.storePath)

async function makeSite(
  t: Test,
  names: readonly string[],
  options: Partial<NarSpoolOptions> = {},
): Promise<{
  site: FakeSite
  peers: FakePeer[]
  holders: Holder[]
  spool: ReturnType<typeof createNarSpool>
  find(holder: Holder): Holding
  lies: (readonly [PeerKey, string])[]
}> {
  const site = await makeFakeSite(t)
  const spool = createNarSpool({ dir: tempDir(t, 'spool'), ...options })
  await spool.open()
  t.teardown(() => spool.close())
  const peers: FakePeer[] = []
  for (const name of names) peers.push(await site.add(name))
  for (const peer of peers) peer.put(info, nar)
  const lies: (readonly [PeerKey, string])[] = []
  site.events.on('peer:lied', (key, problem) => void lies.push([key, problem]))
  return {
    site,
    peers,
    spool,
    lies,
    holders: peers.map(peer => site.holder(peer, spool)),
    find: holder => holder.find(hashPart) as Holding,
  }
}

/** The same NAR with one byte of the first half changed. */
function wrong(): Buffer {
  const bytes = Buffer.from(nar)
  bytes[1000] = (bytes[1000] ?? 0) ^ 1
  return bytes
}

/** Every way the spool keeps bytes: a file, and a window where the disk has no room. */
const PLACES: Readonly<Record<string, Partial<NarSpoolOptions>>> = {
  'a file': {},
  'no room on the disk': { freeBytes: async () => 0 },
}

for (const [place, options] of Object.entries(PLACES)) {
  t.test(`${place}: bytes that break off go on elsewhere`, async t => {
    for (const share of [0.1, 0.5, 0.99]) {
      const { peers, holders, find } = await makeSite(t, ['a', 'b'], options)
      const [a, b] = peers as [FakePeer, FakePeer]
      const [first, second] = holders as [Holder, Holder]
      const cut = Math.floor(nar.length * share)
      a.misdeed = { cutAfter: cut }
      const stream = first.openNar(find(first))
      const parts: Buffer[] = []
      await t.rejects(
        async () => {
          for await (const chunk of stream) {
            parts.push(Buffer.from(chunk))
            // The second connection to it is refused.
            a.misdeed = { cutAfter: 0 }
          }
        },
        { code: /^PEER_/ },
        `${share}: the peer's end is told`,
      )
      const got = Buffer.concat(parts)
      t.ok(got.length > 0 && got.equals(nar.subarray(0, got.length)), 'what came is right')
      const rest = await collect(second.openNar(find(second), { offset: got.length }))
      t.ok(rest.equals(nar.subarray(got.length)), 'the rest follows')
      if (place === 'a file') {
        const [range] = b.asked
        t.match(range, /^bytes=\d+-$/, 'what came already is not asked for again')
        t.ok(Number(/\d+/.exec(range ?? '')?.[0]) >= got.length)
      }
    }
  })

  t.test(`${place}: a connection that breaks is made again, from the same byte`, async t => {
    const { peers, holders, find } = await makeSite(t, ['a'], options)
    const [a] = peers as [FakePeer]
    const [holder] = holders as [Holder]
    a.misdeed = { cutAfter: 1_000_000 }
    const stream = holder.openNar(find(holder))
    const parts: Buffer[] = []
    for await (const chunk of stream) {
      a.misdeed = undefined
      parts.push(Buffer.from(chunk))
    }
    t.ok(Buffer.concat(parts).equals(nar))
    t.equal(a.asked.length, 2)
    t.match(a.asked[1], /^bytes=\d+-$/)
  })

  t.test(`${place}: one transfer for all who want it`, async t => {
    const { peers, holders, find } = await makeSite(t, ['a'], options)
    const [holder] = holders as [Holder]
    const holding = find(holder)
    const readers = Array.from({ length: 5 }, () => collect(holder.openNar(holding)))
    const verified = holder.verify(holding)
    for (const bytes of await Promise.all(readers)) t.ok(bytes.equals(nar))
    t.equal((await verified).problem, undefined)
    const part = await collect(holder.openNar(holding, { offset: 123_456, end: 2_000_000 }))
    t.ok(part.equals(nar.subarray(123_456, 2_000_000)))
    if (place === 'a file') t.equal(peers[0]?.asked.length, 1)
  })

  t.test(`${place}: a liar's last bytes never go out, and it is named`, async t => {
    const { peers, holders, find, lies } = await makeSite(t, ['a', 'b'], options)
    const [a, b] = peers as [FakePeer, FakePeer]
    const [first, second] = holders as [Holder, Holder]
    a.nars.set(hashPart, wrong())
    const holding = find(first)
    let bytes = 0
    await t.rejects(
      async () => {
        for await (const chunk of first.openNar(holding)) bytes += chunk.length
      },
      { code: 'PEER_LIED' },
    )
    t.ok(bytes < nar.length, `${bytes} of ${nar.length}`)
    t.match(lies, [[a.key, /hash/]])
    t.match(await first.verify(holding), { problem: { code: 'NAR_MISMATCH' } })
    const asked = a.asked.length
    await first.verify(holding)
    t.equal(a.asked.length, asked, 'it is not asked again')
    t.ok((await collect(second.openNar(find(second)))).equals(nar), 'an honest one is believed')
    t.equal(b.asked[0], 'whole', 'from the first byte on')
    t.equal(lies.length, 1)
  })

  t.test(`${place}: truncated, endless, silent`, async t => {
    for (const [misdeed, code] of [
      [{ truncateAt: 1_000_000 }, 'PEER_BROKE'],
      [{ stallAfter: 1_000_000 }, 'PEER_STALLED'],
      [{ endless: true }, 'PEER_LIED'],
    ] as const) {
      const { peers, holders, find, lies } = await makeSite(t, ['a', 'b'], options)
      const [a, b] = peers as [FakePeer, FakePeer]
      const [first, second] = holders as [Holder, Holder]
      a.misdeed = misdeed
      if ('endless' in misdeed) a.nars.set(hashPart, nar.subarray(0, 1_000_000))
      const what = Object.keys(misdeed).join()
      await t.rejects(collect(first.openNar(find(first))), { code }, what)
      t.equal(lies.length, code === 'PEER_LIED' ? 1 : 0, `${what}: only a lie is one`)
      t.ok((await collect(second.openNar(find(second)))).equals(nar), `${what}: the next is right`)
      t.ok(b.asked.length > 0)
    }
  })
}

t.test('a NAR that several gave and that is wrong: each has to prove itself', async t => {
  const { peers, holders, find, lies } = await makeSite(t, ['a', 'b'])
  const [a, b] = peers as [FakePeer, FakePeer]
  const [first, second] = holders as [Holder, Holder]
  a.nars.set(hashPart, wrong())
  a.misdeed = { cutAfter: 2_000_000 }
  const stream = first.openNar(find(first))
  await t.rejects(async () => {
    for await (const _ of stream) a.misdeed = { cutAfter: 0 }
  })
  a.misdeed = undefined
  // The honest one goes on with what the liar began.
  await t.rejects(collect(second.openNar(find(second), { offset: 1_000_000 })), {
    code: 'PEER_LIED',
  })
  t.match(b.asked, [/^bytes=/])
  t.ok((await collect(second.openNar(find(second)))).equals(nar), 'by itself it is right')
  t.equal(b.asked[1], 'whole')
  while (lies.length === 0) await sleep(10)
  t.match(lies, [[a.key, /hash/]], 'the liar is found, nobody else is blamed')
})

t.test('who waits with an honest peer is not harmed by a liar that was quicker', async t => {
  const { peers, holders, find, lies } = await makeSite(t, ['a', 'b'])
  const [first, second] = holders as [Holder, Holder]
  peers[0]?.nars.set(hashPart, wrong())
  const [liar, honest] = await Promise.all([first.verify(find(first)), second.verify(find(second))])
  t.match(liar, { problem: { code: 'NAR_MISMATCH' } })
  t.equal(honest.problem, undefined)
  t.equal(lies.length, 1)
})

t.test('nobody waits: the transfer ends, and goes on when somebody comes back', async t => {
  const { peers, holders, find, spool } = await makeSite(t, ['a'])
  const [a] = peers as [FakePeer]
  const [holder] = holders as [Holder]
  a.misdeed = { stallAfter: 1_000_000 }
  const stream = holder.openNar(find(holder))
  for await (const chunk of stream) if (chunk.length > 0) break
  stream.destroy()
  while (spool.running(holder.id) > 0) await sleep(5)
  a.misdeed = undefined
  t.ok((await collect(holder.openNar(find(holder)))).equals(nar))
  t.match(a.asked, ['whole', /^bytes=\d+-$/])
})

t.test('the spool leaves nothing behind', async t => {
  const dir = tempDir(t, 'spool')
  writeFileSync(join(dir, 'left by a killed daemon'), 'x')
  const { holders, find, spool } = await makeSite(t, ['a'], { dir })
  t.same(readdirSync(dir), [])
  const [holder] = holders as [Holder]
  const stream = holder.openNar(find(holder))
  for await (const chunk of stream) {
    t.ok(chunk.length > 0)
    break
  }
  t.same(readdirSync(dir), [], 'its files have no name')
  await spool.close()
  await t.rejects(
    holder.verify(find(holder)).then(({ problem }) => Promise.reject(problem)),
    {
      code: 'HOLDING_GONE',
    },
  )
})

t.test('who takes a request and sends nothing is passed over', async t => {
  const { site, peers, spool } = await makeSite(t, ['a', 'b'])
  const [a, b] = peers as [FakePeer, FakePeer]
  let clock = 0
  const all = createPeerHolders({
    ownKey: site.own.key,
    indexes: site.indexes,
    facts: {
      isUp: key => peers.some(peer => peer.key === key && peer.up),
      addresses: key => peers.filter(peer => peer.key === key).map(({ address }) => address),
      nameOf: key => (key === a.key ? 'a' : 'b'),
      rttMs: key => (key === a.key ? 1 : 2),
    },
    transport: site.peering,
    spool,
    async *paths() {},
    storeDir: '/nix/store',
    events: site.events,
    now: () => clock,
  })
  const other = fakePath('other-1.0', nar)
  for (const peer of peers) peer.put(other, nar)
  const keys = (part = hashPart) => all.able(part).map(({ id }) => id.slice(5))
  const holder = all.holder(a.key)
  const stall = async () => {
    await t.rejects(collect(holder.openNar(holder.find(hashPart) as Holding)), {
      code: 'PEER_STALLED',
    })
  }
  a.misdeed = { stallAfter: 1000 }
  t.same(keys(), [a.key, b.key])
  await stall()
  t.same(keys(), [b.key], 'for that path')
  t.same(keys(hashPartOf(other.storePath)), [b.key, a.key], 'and the last for others')
  t.match(all.passedOver(holder, hashPart), /a sent nothing.* 30 s/)
  clock += 30_001
  t.same(keys(), [a.key, b.key], 'for a while')
  await stall()
  clock += 30_001
  t.same(keys(), [b.key], 'which grows')
  clock += 30_001
  t.same(keys(), [a.key, b.key])
  b.up = false
  a.up = false
  t.equal(all.passedOver(holder, hashPart), undefined)
})

t.test('who is asked first, and what a miss costs', async t => {
  const { site, peers, spool } = await makeSite(t, ['a', 'b', 'c'])
  const [a, b, c] = peers as [FakePeer, FakePeer, FakePeer]
  let lookups = 0
  const rtt = new Map([[a.key, 20], [b.key, 1]]) // prettier-ignore
  const all = createPeerHolders({
    ownKey: site.own.key,
    indexes: {
      get version() {
        return site.indexes.version
      },
      find(part) {
        lookups++
        return site.indexes.find(part)
      },
    },
    facts: {
      isUp: key => peers.some(peer => peer.key === key && peer.up),
      addresses: key => peers.filter(peer => peer.key === key).map(({ address }) => address),
      nameOf: key => key.slice(0, 8),
      rttMs: key => rtt.get(key),
    },
    transport: site.peering,
    spool,
    async *paths() {},
    storeDir: '/nix/store',
    events: site.events,
  })
  const keys = (holders: readonly Holder[]) => holders.map(({ id }) => id.slice(5))
  t.same(keys(all.able(hashPart)), [b.key, a.key, c.key], 'the nearest, the unknown last')
  a.misdeed = b.misdeed = c.misdeed = { stallAfter: 1000 }
  const busy = all.holder(b.key).openNar(all.holder(b.key).find(hashPart) as Holding)
  const first = busy[Symbol.asyncIterator]().next()
  while (spool.running(`peer:${b.key}`) === 0) await sleep(5)
  t.same(keys(all.able(hashPart)), [a.key, c.key, b.key], 'who is busy comes last')
  busy.destroy()
  await first.catch(() => undefined)
  lookups = 0
  const absent = parseHashPart('0'.repeat(32))
  for (const holder of all.able(absent)) holder.find(absent)
  t.equal(lookups, 1, 'a miss is one question to the catalog')
  lookups = 0
  site.touch()
  for (const holder of all.able(hashPart)) t.ok(holder.find(hashPart))
  t.equal(lookups, 1, 'and so is a hit')
  b.up = false
  t.same(keys(all.able(hashPart)), [a.key, c.key])
  t.same(keys(all.claiming(hashPart)).length, 3, 'who is off is still said to have it')
})
