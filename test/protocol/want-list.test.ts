import t from 'tap'
import { keyring } from '../../protocol/signature.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import {
  formatWantList,
  parseWantList,
  readWants,
  WANT_KINDS,
  WANT_PATHS_MAX,
  WANTS_MAX,
} from '../../protocol/want-list.ts'
import {
  changed,
  depotKey,
  problemIn,
  sampleWantList,
  sign,
  storePath,
} from '../helpers/shipment-samples.ts'

const bytes = formatWantList(sampleWantList, sign)
const [want] = sampleWantList.wants

t.test('what goes in comes out', async t => {
  const read = parseWantList(bytes)
  t.strictSame(read.list, sampleWantList)
  t.equal(verifySigned(read, keyring([depotKey.publicKey])), depotKey.name)
  const empty = { ...sampleWantList, wants: [] }
  t.strictSame(parseWantList(formatWantList(empty, sign)).list, empty, 'nothing is wanted')
  for (const kind of WANT_KINDS) {
    const list = parseWantList(changed(bytes, { wants: [{ ...want, kind }] })).list
    t.equal(list.wants[0]?.kind, kind)
  }
})

t.test('wants alone', async t => {
  const alone = JSON.parse(JSON.stringify({ wants: [want] })) as unknown
  t.strictSame(readWants(alone, sampleWantList.storeDir), [want])
  t.throws(() => readWants([], '/nix/store'), { code: 'WANT_LIST_INVALID' })
})

t.test('what a newer minor version brings is passed over', async t => {
  const newer = changed(bytes, { version: '1.1', x: 1, wants: [{ ...want, mood: 'bad' }] })
  t.strictSame(parseWantList(newer).list, { ...sampleWantList, wants: [want] })
  t.throws(() => parseWantList(changed(bytes, { version: '9.0' })), { code: 'SHIPMENT_TOO_NEW' })
})

t.test('hostile want lists', async t => {
  const wants = (...changes: readonly object[]) => ({
    wants: changes.map(change => ({ ...want, ...change })),
  })
  const half = Array.from({ length: WANT_PATHS_MAX / 2 + 1 }, () => storePath(1))
  const cases: [name: string, changes: Readonly<Record<string, unknown>>, problem: RegExp][] = [
    ['no site', { site: undefined }, /it\.site is no text/],
    ['a site that is a path', { site: 'a/b' }, /it\.site: no name/],
    ['no time', { createdAt: 1 }, /it\.createdAt is no text/],
    ['no store directory', { storeDir: '' }, /it\.storeDir/],
    ['no wants', { wants: undefined }, /it\.wants is no list/],
    ['a want that is none', { wants: [null] }, /it\.wants\[0\] is no object/],
    ['too many wants', { wants: Array(WANTS_MAX + 1).fill(0) }, /more than 10000 items/],
    ['an id that is a path', wants({ id: '../1' }), /wants\[0\]\.id: no id/],
    ['one id twice', wants({}, {}), /two wants have one id/],
    ['an unknown kind', wants({ kind: 'rumour' }), /none of path, pattern, drv, configuration/],
    ['an empty text', wants({ text: '' }), /wants\[0\]\.text/],
    ['a text of two lines', wants({ text: 'a\nb' }), /wants\[0\]\.text/],
    ['a path elsewhere', wants({ paths: ['/etc/passwd'] }), /wants\[0\]\.paths\[0\]/],
    ['too many paths', wants({ paths: half }, { id: 'b', paths: half }), /more than 100000 paths/],
    ['priority 0', wants({ priority: 0 }), /from 1 to 9/],
    ['priority 10', wants({ priority: 10 }), /from 1 to 9/],
    ['nobody', wants({ by: '' }), /wants\[0\]\.by/],
    ['since ever', wants({ since: 'ever' }), /wants\[0\]\.since/],
  ]
  for (const [name, changes, problem] of cases) {
    t.match(
      problemIn('WANT_LIST_INVALID', () => parseWantList(changed(bytes, changes))),
      problem,
      name,
    )
  }
  t.match(
    problemIn('WANT_LIST_INVALID', () =>
      formatWantList({ ...sampleWantList, site: 'no site' }, sign),
    ),
    /it\.site/,
    'is not written either',
  )
  t.match(
    problemIn('WANT_LIST_INVALID', () => parseWantList(Buffer.from('{}\n'))),
    /format/,
    'another file',
  )
})
