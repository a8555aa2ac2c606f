import t from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import { createExtras } from '../../../daemon/http/nix-extras.ts'
import { createSiteQuestions } from '../../../daemon/http/site-questions.ts'
import type { Audience } from '../../../daemon/substitution/candidates.ts'
import { createSubstitution } from '../../../daemon/substitution/substitution.ts'
import { baseNameOf } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, fakeTrust, type FakeHolder } from '../../helpers/fake-holder.ts'

const ID = `sha256:${'a'.repeat(64)}!out`
const BUILD_ID = 'b'.repeat(40)
const MEMBER = `lib/debug/.build-id/bb/${'b'.repeat(38)}.debug`

const here: Audience = { loopback: true, legacy: false }
const lan: Audience = { loopback: false, legacy: false }
const peer: Audience = { loopback: false, legacy: false, peer: true }

const nar = Buffer.from('a NAR')
const info = fakePath('tool-1.0', nar)
const realisationOf = (path: typeof info) =>
  Buffer.from(JSON.stringify({ id: ID, outPath: baseNameOf(path.storePath) }))

/** A host without anything of its own among such peers. */
function siteOf(peers: readonly FakeHolder[], trustMembers = true) {
  const substitution = createSubstitution({
    holders: [fakeHolder('cache-dir:/own')],
    peers: { able: () => peers, claiming: () => peers, up: () => peers },
    trust: fakeTrust(),
    trustMembers,
    verdictStore: { get: () => undefined, put: () => undefined },
    narinfoStore: { get: () => undefined, put: () => undefined },
    narinfoEpoch: '',
    events: createEventBus(),
    storeDir: '/nix/store',
    withLan: 'signed',
    liveCompression: 'none',
  })
  t.teardown(() => substitution.close())
  const { routes } = createExtras(substitution)
  const ask = async (prefix: string, word: string, audience: Audience) =>
    (await routes.find(route => route.prefix === prefix)?.answer([word], audience))?.body.toString()
  return {
    realisation: (audience: Audience) => ask('realisations', `${ID}.doi`, audience),
    debugInfo: (audience: Audience) => ask('debuginfo', `${BUILD_ID}.debug`, audience),
  }
}

function peerWith(name: string): FakeHolder {
  const holder = fakeHolder(`peer:${name}`, 'peer')
  holder.put(info, nar)
  holder.realisation = async () => realisationOf(info)
  holder.debugInfo = async () => ({ storePath: info.storePath, member: MEMBER })
  return holder
}

t.test('what a derivation came to is asked of the peers', async t => {
  const silent = fakeHolder('peer:silent', 'peer')
  silent.realisation = () => Promise.reject(new Error('it is broken'))
  const site = siteOf([silent, peerWith('a'), peerWith('b')])
  t.match(await site.realisation(here), baseNameOf(info.storePath))
  t.match(await site.realisation(lan), baseNameOf(info.storePath))
  t.equal(await site.realisation(peer), undefined, 'but not for a peer: nothing goes in circles')

  const liar = peerWith('liar')
  liar.realisation = async () => realisationOf(fakePath('other', nar))
  t.equal(
    await siteOf([peerWith('a'), liar]).realisation(here),
    undefined,
    'who disagree are not believed',
  )
  liar.content.clear()
  t.equal(await siteOf([liar]).realisation(here), undefined, 'nor a path that is not to be had')
  t.equal(
    await siteOf([peerWith('a')], false).realisation(here),
    undefined,
    'nor members who are not trusted',
  )
})

t.test('whose a debug file is, too', async t => {
  const liar = peerWith('liar')
  liar.debugInfo = async () => ({ storePath: fakePath('gone', nar).storePath, member: MEMBER })
  const site = siteOf([liar, peerWith('a')])
  t.match(JSON.parse((await site.debugInfo(here)) ?? '{}'), {
    archive: /^\.\.\/nar\//,
    member: MEMBER,
  })
  t.equal(await site.debugInfo(peer), undefined)
  t.equal(await siteOf([liar]).debugInfo(here), undefined)
})

t.test('a peer that does not answer is waited for a short while only', async t => {
  const questions = createSiteQuestions(50)
  const dead = fakeHolder('peer:dead', 'peer')
  const asked = await questions.ask([dead, peerWith('a')], async ({ id }) =>
    id === 'peer:dead' ? new Promise<string>(() => {}) : id,
  )
  t.same(asked, ['peer:a'])
  const forever = Array.from({ length: 16 }, () =>
    questions.ask([dead], () => new Promise<string>(() => {})),
  )
  t.same(await questions.ask([peerWith('a')], async () => 'an answer'), [], 'too many at a time')
  await Promise.all(forever)
  t.same(await questions.ask([peerWith('a')], async () => 'an answer'), ['an answer'])
})
