import { randomBytes } from 'node:crypto'
import t from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import { createHolderList } from '../../../daemon/holders/holder-list.ts'
import type { Audience } from '../../../daemon/substitution/candidates.ts'
import { createSubstitution } from '../../../daemon/substitution/substitution.ts'
import { drivesAway, explainWhyNot } from '../../../daemon/substitution/why-not.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, fakeTrust, type FakeHolder } from '../../helpers/fake-holder.ts'

// Holders that come and go, and take their time.

const HERE: Audience = { loopback: true, legacy: false }

const nar = randomBytes(1000)
const info = fakePath('hello-2.12', nar)
const part = hashPartOf(info.storePath)

function room(...first: readonly FakeHolder[]) {
  const holders = createHolderList(first)
  const substitution = createSubstitution({
    ...{ holders, trust: fakeTrust(), events: createEventBus(), storeDir: '/nix/store' },
    verdictStore: { get: () => undefined, put() {} },
    narinfoStore: { get: () => undefined, put() {} },
    ...{ narinfoEpoch: 'test', withLan: 'all', liveCompression: 'none' },
  })
  const ask = async () => (await substitution.narinfo(part, HERE))?.toString()
  return { holders, substitution, ask }
}

const cache = () => fakeHolder('cache-dir:/srv/cache')
const drive = () => {
  const holder = fakeHolder('drive:x', 'drive')
  holder.put(info, nar)
  return holder
}

t.test('served from the moment it is there, and not a moment longer', async t => {
  const { holders, ask, substitution } = room(cache())
  t.equal(await ask(), undefined)
  const plugged = drive()
  holders.add(plugged)
  t.match(await ask(), info.storePath)
  t.match(await ask(), info.storePath, 'from memory, too')
  t.equal(substitution.holders.length, 2)
  // As drives do it: out of the list first, then the holder is closed.
  holders.remove('drive:x')
  plugged.broken = true
  t.equal(await ask(), undefined, 'memory does not outlive it')
  const url = { hashPart: part, compression: 'none' } as const
  t.equal(await substitution.nar(url, HERE, { raw: false } as never), undefined)
})

t.test('what lies nearer does not wait for it', async t => {
  const near = cache()
  const slow = drive()
  let asked = 0
  slow.find = () => {
    asked++
    return new Promise(() => undefined)
  }
  const { ask } = room(near, slow)
  near.put(info, nar)
  t.match(await ask(), info.storePath)
  t.equal(asked, 0)
})

t.test('why not: it is in a drawer', async t => {
  const { substitution } = room(cache())
  const holder = { id: 'drive:x', kind: 'drive', host: 'a', name: 'OLD' } as const
  const away = drivesAway({
    ...{ query: info.storePath, more: 0 },
    matches: [
      {
        storePath: info.storePath,
        holders: [
          { ...holder, up: false, lastSeen: '2026-01-02T03:04:05.000Z' },
          { ...holder, id: 'drive:y', up: true },
          { id: 'peer:1', kind: 'peer', host: 'b', up: false },
        ],
      },
    ],
  })
  const reply = await explainWhyNot(substitution, info.storePath, away)
  t.match(reply, {
    summary:
      /^drive OLD cannot be asked: it is on a drive that is not plugged \(last seen here on 2026/,
    hint: /plug the drive/,
  })
  t.equal(reply.holders.length, 2)
})
