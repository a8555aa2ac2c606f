import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import {
  outputsNeeded,
  readDerivation,
  walkDerivations,
} from '../../../daemon/wants/derivations.ts'
import type { KnownNote, Notes } from '../../../daemon/wants/note-shelf.ts'
import { resolveWish } from '../../../daemon/wants/resolve-wish.ts'
import { createSiteWants } from '../../../daemon/wants/site-wants.ts'
import { createWantBook, type Wish } from '../../../daemon/wants/want-book.ts'
import type { HostNote } from '../../../protocol/host-note-fields.ts'
import { hashPartOf, type BaseName, type StorePath } from '../../../protocol/store-path.ts'
import { holderOfDerivations } from '../../helpers/drv-closures.ts'
import { fakeMembers } from '../../helpers/fake-members.ts'
import { fakePath } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

const path = (name: string) => fakePath(name, Buffer.from(name)).storePath
const wish = (text: string, ...paths: StorePath[]): Wish => ({
  ...{ kind: paths.length === 0 ? 'pattern' : 'path', text, paths, priority: 5, by: 'anna' },
})

function bookIn(stateDir: string, now = '2026-07-25T10:00:00.000Z') {
  const book = createWantBook({ stateDir, storeDir: '/nix/store', clock: () => new Date(now) })
  book.open()
  return book
}

t.test('kept over restarts, and apart from the catalog', async t => {
  const dir = tempDir(t, 'wants')
  const book = bookIn(dir)
  const [first] = book.add([wish('firefox-*'), wish(path('hello'), path('hello'))])
  const again = bookIn(dir, '2026-08-01T10:00:00.000Z')
  t.strictSame(again.list(), book.list())
  const [same] = again.add([{ ...wish('firefox-*'), priority: 1, by: 'bert' }])
  t.match(same, { id: first?.id, since: first?.since, priority: 1, by: 'bert' })
  t.equal(again.list().length, 2, 'the same wish takes its place')
  t.same(
    again.remove('firefox-*').map(({ id }) => id),
    [first?.id],
  )
  t.same(again.remove('firefox-*'), [])
  t.equal(bookIn(dir).list().length, 1)
})

t.test('a damaged file is moved aside, and said', async t => {
  for (const content of [
    '{"version":1,"wants":[{"id"',
    '{"version":2}',
    '{"version":1,"wants":3}',
  ]) {
    const dir = tempDir(t, 'wants')
    writeFileSync(join(dir, 'wants.json'), content)
    const book = bookIn(dir)
    t.same(book.list(), [])
    t.match(book.problems(), [{ what: /could not be read/, hint: /move it back/ }])
    const [aside = ''] = readdirSync(dir)
    t.equal(readFileSync(join(dir, aside), 'utf8'), content, 'nothing of it is lost')
    book.add([wish('x-*')])
    t.ok(existsSync(join(dir, 'wants.json')))
  }
})

t.test('what is left over from a kill goes, and more than a note can hold is refused', async t => {
  const dir = tempDir(t, 'wants')
  writeFileSync(join(dir, 'wants.json.0123456789ab.tmp'), 'half')
  const book = bookIn(dir)
  t.same(readdirSync(dir), [])
  const many = Array.from({ length: 1001 }, (_, index) => wish(`a-${index}-*`))
  t.throws(() => book.add(many), { code: 'WANTS_FULL' })
  t.same(book.list(), [], 'all or nothing')
  t.throws(() => book.add([wish('y', '/other/store/x' as StorePath)]), {
    code: 'STORE_PATH_INVALID',
  })
})

/** A derivation of one output. */
const drv = (out: string, inputs: readonly StorePath[] = [], local = false) =>
  Buffer.from(
    `Derive([("out","${out}","","")],[${inputs.map(one => `("${one}",["out"])`).join(',')}],[],` +
      `"x86_64-linux","/bin/sh",[],[${local ? '("allowSubstitutes",""),' : ''}("out","${out}")])`,
  )

const drvs = new Map<StorePath, Buffer>([
  [path('system.drv'), drv(path('system'), [path('etc.drv'), path('app.drv')], true)],
  [path('etc.drv'), drv(path('etc'), [path('tool.drv')], true)],
  [path('app.drv'), drv(path('app'), [path('compiler.drv')])],
  [path('tool.drv'), drv(path('tool'))],
  [path('compiler.drv'), drv(path('compiler'))],
])
const holder = holderOfDerivations(drvs)
const parts = { storeDir: '/nix/store', read: (one: StorePath) => readDerivation(one, [holder]) }

t.test('what a wish comes to', async t => {
  const asked = (text: string) => resolveWish({ text }, parts)
  t.same(await asked('firefox-*'), { kind: 'pattern', text: 'firefox-*', paths: [] })
  t.same(await asked(`${path('hello')}/bin/hello`), {
    ...{ kind: 'path', text: path('hello'), paths: [path('hello')] },
  })
  t.match(await asked(path('hello').slice(11)), { kind: 'path', text: path('hello') })
  for (const text of [path('app.drv'), `${path('app.drv')}!out`, `${path('app.drv')}^out`]) {
    t.same(await asked(text), { kind: 'drv', text, paths: [path('app')] })
  }
  const refused: [string, RegExp][] = [
    ['', /empty/],
    ['x'.repeat(1025), /too long/],
    ['firefox', /write firefox-\*/],
    ['fire fox*', /only letters/],
    ['/etc/passwd', /not below/],
    [path('other.drv'), /nobody here has/],
    [`${path('app.drv')}!dev`, /no output dev/],
  ]
  for (const [text, problem] of refused) {
    await t.rejects(asked(text), { code: 'WANT_INVALID', message: problem }, text.slice(0, 20))
  }
})

t.test(
  'a configuration: what no cache has is built, so what it is built from is wanted',
  async t => {
    const configuration = (build: boolean) =>
      resolveWish({ text: 'my system', derivations: [path('system.drv')], build }, parts)
    t.same((await configuration(false)).paths, ['system', 'etc', 'app', 'tool'].map(path))
    t.same(
      (await configuration(true)).paths,
      ['system', 'etc', 'app', 'tool', 'compiler'].map(path),
    )
    await t.rejects(resolveWish({ text: 'x', derivations: [path('none.drv')] }, parts), {
      code: 'WANT_INVALID',
    })
    await t.rejects(resolveWish({ text: 'x', derivations: ['nothing'] }, parts), {
      code: 'WANT_INVALID',
    })
    const graph = await walkDerivations([path('system.drv')], { read: parts.read, limit: 2 })
    t.ok(graph.cut, 'bounded')
    t.same(outputsNeeded([path('none.drv')], graph, true), [])
  },
)

/** Notes of other hosts, and this host's book. */
function siteOf(t: Test, others: readonly Partial<HostNote>[]) {
  const site = new Set<PeerKey>()
  const members = fakeMembers(site, 'lab-1')
  const notes = others.map((note, index): KnownNote => ({
    host: `${index}${'a'.repeat(63)}` as PeerKey,
    mark: { host: '', sequence: 0, size: 0, digest: '' },
    note: {
      ...{ at: '', instance: '', storeDir: '/nix/store', keeper: false },
      ...{ wants: [], drives: [], merges: [], merged: [] },
      ...note,
    },
  }))
  const book = bookIn(tempDir(t, 'wants'))
  const events = createEventBus()
  const wants = createSiteWants({
    ...{ book, members, events, hostName: 'lab-1', storeDir: '/nix/store' },
    notes: { all: () => notes } as unknown as Notes,
    clock: () => new Date('2026-07-25T10:00:00.000Z'),
  })
  t.teardown(() => wants.close())
  return { book, events, wants, key: members.key }
}

t.test('what the whole site wishes for', async t => {
  const noted = {
    ...({
      id: '1',
      kind: 'path',
      text: 'x',
      paths: [path('hello').slice(11) as BaseName],
    } as const),
    ...{ priority: 2, by: 'bert', since: '2026-07-01T10:00:00Z' },
  }
  const { book, events, wants, key } = siteOf(t, [
    { wants: [noted] },
    { wants: [{ ...noted, priority: 1 }], storeDir: '/elsewhere' },
  ])
  book.add([wish('Hell*'), { ...wish(path('zlib'), path('zlib')), priority: 9 }])
  events.emit('note:changed', key, 'us')
  t.equal(wants.wanted(hashPartOf(path('hello'))), 2, 'of a store elsewhere nothing counts')
  t.equal(wants.wanted(hashPartOf(path('hello')), 'hello'), 2, 'the most urgent counts')
  t.equal(wants.wanted(hashPartOf(path('other')), 'hello-2.12'), 5, 'by its name')
  t.equal(wants.wanted(hashPartOf(path('zlib'))), 9)
  t.equal(wants.wanted(hashPartOf(path('none')), 'none'), undefined)
  const { site, storeDir, wants: listed } = wants.wantList()
  t.match({ site, storeDir }, { site: 'test', storeDir: '/nix/store' })
  t.same(
    listed.map(({ priority }) => priority),
    [2, 5, 9],
  )
  t.equal(new Set(listed.map(({ id }) => id)).size, 3)
})
