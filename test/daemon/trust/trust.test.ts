import t from 'tap'
import type { Holding } from '../../../daemon/holders/holder.ts'
import { matchGlob } from '../../../daemon/trust/glob.ts'
import { type TrustOptions } from '../../../daemon/trust/trust-room.ts'
import type { Decision } from '../../../daemon/trust/trust.ts'
import { baseNameOf, hashPartOf } from '../../../protocol/store-path.ts'
import { type FakeHolder } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'
import {
  trusted,
  fileNar,
  emptyDirNar,
  infoOf,
  fixed,
  rig,
  input,
  signed,
  refused,
  text,
  textNar,
  flat256,
  flat512,
  flat1,
  tree1,
  source,
  treeDrv,
} from '../../helpers/trust-rig.ts'

t.test('signed by this host alone', async t => {
  const { trust, holder, decide, stateDir, close } = await rig(t)
  const info = input('a')
  holder.put(info, emptyDirNar)
  const built = await decide(info, true)
  t.ok(built.offered)
  const own = built.offered ? [...built.signatures] : []
  const name = trust.publicKey.split(':')[0]
  const copied = { ...info, signatures: own }
  holder.put(copied, emptyDirNar)
  const decision = decide(copied)
  t.match(decision, { offered: true, reason: 'signed', key: name, public: false })
  t.same((decision as Extract<Decision, { offered: true }>).signatures, own, 'and not twice')
  const isSource = infoOf(source.path, emptyDirNar, {})
  holder.put(isSource, emptyDirNar)
  const proven = await decide(isSource)
  t.ok(proven.offered)
  const both = { ...isSource, signatures: proven.offered ? proven.signatures : [] }
  holder.put(both, emptyDirNar)
  t.match(decide(both), { reason: 'signed', public: true, ca: source.ca })
  await close()
  const elsewhere = await rig(t, { stateDir: tempDir(t, 'other-host') })
  elsewhere.holder.put(copied, emptyDirNar)
  t.match(await elsewhere.decide(copied), refused('no-trusted-signature', 'lab-3-1'))
  t.ok(stateDir)
})

const opens = (holder: FakeHolder) => holder.opened.length

t.test('what is known is not proven twice', async t => {
  const stateDir = tempDir(t, 'trust-again')
  const info = infoOf(flat512.path, textNar)
  const start = async (options: Partial<TrustOptions> = {}) => {
    const parts = await rig(t, { stateDir, options })
    parts.holder.put(info, textNar)
    return parts
  }
  const first = await start()
  const [one, two] = await Promise.all([first.decide(info), first.decide(info)])
  t.equal(opens(first.holder), 1, 'two that ask at once wait for one read')
  t.equal(one, two)
  await first.close()

  const second = await start()
  const again = second.decide(info)
  t.notOk(again instanceof Promise, 'the catalog knows')
  t.same(again, one)
  t.equal(opens(second.holder), 0)
  await second.close()

  const third = await start({ publicKeys: [] })
  t.ok(third.decide(info) instanceof Promise, 'other keys decide anew')
  await third.close()

  const fourth = await start({ deny: ['source.tar.*'] })
  t.match(fourth.decide(info), refused('denied'), 'a new deny rule holds at once')
  const signedLater = signed(input('a'), trusted)
  fourth.holder.put(input('a'), emptyDirNar)
  t.match(await fourth.decide(input('a')), refused('no-trusted-signature'))
  fourth.holder.put(signedLater, emptyDirNar)
  t.match(fourth.decide(signedLater), { reason: 'signed' }, 'a signature added later is seen')
})

t.test('a refusal that may pass is asked again', async t => {
  let now = 0
  const { holder, decide } = await rig(t, { options: { clock: () => now } })
  const info = infoOf(tree1.path, emptyDirNar, { deriver: baseNameOf(treeDrv.info.storePath) })
  holder.put(info, emptyDirNar)
  t.match(await decide(info), refused('no-trusted-signature'))
  holder.put(treeDrv.info, treeDrv.nar)
  t.match(decide(info), refused('no-trusted-signature'), 'not at every question')
  now += 60_000
  t.match(await decide(info), { reason: 'content-addressed' }, 'its deriver has come since')

  const broken = infoOf(flat256.path, textNar)
  holder.put(broken, textNar)
  holder.breakAt = 50
  t.match(await decide(broken), refused('no-trusted-signature'), 'the read broke off')
  holder.breakAt = undefined
  now += 60_000
  t.match(await decide(broken), { reason: 'content-addressed' })
})

t.test('a content cut at any byte, read in chunks of any size', async t => {
  const { holder, decide } = await rig(t)
  const long = Buffer.alloc(5000, 'content ')
  const out = fixed('long.bin', 'flat', 'sha256', long)
  holder.put(infoOf(out.path, fileNar(long)), fileNar(long))
  t.match(await decide(infoOf(out.path, fileNar(long))), { ca: out.ca })
  const empty = fixed('empty', 'flat', 'sha256', Buffer.alloc(0))
  holder.put(infoOf(empty.path, fileNar('')), fileNar(''))
  t.match(await decide(infoOf(empty.path, fileNar(''))), { ca: empty.ca })
  const lying = Buffer.from(fileNar(text))
  lying.writeBigUInt64LE(2n ** 60n, 88)
  holder.put(infoOf(flat1.path, lying), lying)
  t.match(await decide(infoOf(flat1.path, lying)), { offered: false }, 'a length beyond the NAR')
})

t.test('closing while content is read', async t => {
  const { trust, holder, decide } = await rig(t)
  const info = infoOf(flat256.path, textNar)
  holder.put(info, textNar)
  const waiting = decide(info)
  await trust.close()
  await trust.close()
  t.match(await waiting, { offered: false })
  t.throws(() => trust.decide(holder, holder.find(hashPartOf(info.storePath)) as Holding))
  await trust.open()
  t.match(await decide(info), { offered: true }, 'what was broken off is not remembered')
})

t.test('patterns', t => {
  const yes = [
    ['*', ''],
    ['*', 'anything'],
    ['*-secrets-*', 'aaa-secrets-1'],
    ['a?c', 'abc'],
    ['*a*a*', 'xxaya'],
    ['abc', 'abc'],
    ['a*', 'a'],
    ['*.drv', 'x.drv.drv'],
  ]
  const no = [
    ['', 'a'],
    ['abc', 'abcd'],
    ['a?c', 'ac'],
    ['*a*a*', 'xax'],
    ['[a]', 'a'],
    ['a.c', 'abc'],
  ]
  for (const [pattern = '', text = ''] of yes) t.ok(matchGlob(pattern, text), `${pattern} ${text}`)
  for (const [pattern = '', text = ''] of no)
    t.notOk(matchGlob(pattern, text), `${pattern} ${text}`)
  t.notOk(matchGlob('*a'.repeat(50) + 'b', 'a'.repeat(211)), 'a hostile one ends')
  t.end()
})
