import { createHash } from 'node:crypto'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { nameMatcher, parseQuery, type CatalogQuery } from '../../../daemon/catalog/query.ts'
import { encodeNix32 } from '../../../protocol/nix32.ts'
import { hashPartOf, parseStorePath, type StorePath } from '../../../protocol/store-path.ts'
import { tempDir } from '../../helpers/scope.ts'

const HOLDER = 'nix-store:/nix/store'
const path = (name: string, seed: number | string = 0): StorePath =>
  parseStorePath(
    `/nix/store/${encodeNix32(createHash('sha1').update(`${name} ${seed}`).digest())}-${name}`,
  )

const queryOf = (text: string): CatalogQuery => {
  const query = parseQuery(text)
  if ('problem' in query) throw new Error(query.problem)
  return query
}

t.test('queries as people write them', t => {
  const firefox = path('firefox-78.0.1')
  const hashPart = hashPartOf(firefox)
  const cases: Readonly<Record<string, CatalogQuery | { problem: RegExp }>> = {
    [firefox]: { kind: 'path', hashPart, name: 'firefox-78.0.1' },
    [` ${firefox}\n`]: { kind: 'path', hashPart, name: 'firefox-78.0.1' },
    [`${firefox}/bin/firefox`]: { kind: 'path', hashPart, name: 'firefox-78.0.1' },
    [`/mnt${firefox}`]: { kind: 'path', hashPart, name: 'firefox-78.0.1' },
    [firefox.slice(11)]: { kind: 'path', hashPart, name: 'firefox-78.0.1' },
    [hashPart]: { kind: 'path', hashPart },
    [`${hashPart}-fire*`]: { kind: 'glob', pattern: 'fire*', hashPart },
    [`${hashPart}-a?b=1`]: { kind: 'path', hashPart, name: 'a?b=1' },
    'firefox-*': { kind: 'glob', pattern: 'firefox-*' },
    'fire?ox': { kind: 'glob', pattern: 'fire?ox' },
    '[fg]*': { kind: 'glob', pattern: '[fg]*' },
    Firefox: { kind: 'substring', text: 'Firefox' },
    '.drv': { kind: 'substring', text: '.drv' },
    '': { problem: /empty/ },
    '   ': { problem: /empty/ },
    '/etc/passwd': { problem: /not a store path/ },
    '/nix/store/short-name': { problem: /not a store path/ },
    'a b': { problem: /letters, digits/ },
    "a' OR 1=1 --": { problem: /letters, digits/ },
    ['x'.repeat(2000)]: { problem: /longer than/ },
  }
  for (const [text, expected] of Object.entries(cases)) {
    t.match(parseQuery(text), expected, JSON.stringify(text.slice(0, 60)))
  }
  t.end()
})

t.test('patterns for the index never match less than the pattern', t => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ['firefox-*', 'firefox-%', true],
    ['*', '%', false],
    ['f*x*', 'f%x%', false],
    ['python3?-*', 'python3_-%', true],
    ['lib[ab]c', 'lib_c', true],
    ['lib[^a]c', 'lib_c', true],
    ['lib[]a]c', 'lib_c', true],
    ['a[bc', 'a%', false],
    ['my_package', '%my_package%', true],
  ]
  for (const [text, like, indexed] of cases) {
    const query = queryOf(text)
    t.match(nameMatcher(query), { like, indexed }, text)
  }
  t.end()
})

const NAMES = [
  'firefox-78.0.1',
  'firefox-79.0',
  'Firefox-old',
  'thunderbird-78',
  'python3.8-Django-2.2',
  'my_package-1',
  'myxpackage-1',
  'a?b',
  'axb',
  'gcc-9.3.0',
  'gcc-9.3.0.drv',
]

t.test('search', async t => {
  const file = join(tempDir(t, 'search'), 'catalog.sqlite')
  const catalog = createCatalog({ file, writerThread: false })
  await catalog.open()
  t.teardown(() => catalog.close())
  await catalog.holders.upsert({
    id: HOLDER,
    kind: 'nix-store',
    storeDir: '/nix/store',
    host: 'here',
    up: true,
  })
  const many = Array.from({ length: 30_000 }, (_, n) => path(`pkg-${n % 25_000}.${n % 7}`, n))
  await catalog.holdings.replaceAll(HOLDER, [NAMES.map(name => path(name)), many])

  const found = async (text: string, limit = 1000) => {
    const { matches, more } = await catalog.search(queryOf(text), limit)
    return { names: matches.map(({ baseName }) => baseName.slice(33)), more }
  }
  const cases: Readonly<Record<string, readonly string[]>> = {
    'firefox-*': ['Firefox-old', 'firefox-78.0.1', 'firefox-79.0'],
    'FIREFOX-7*': ['firefox-78.0.1', 'firefox-79.0'],
    django: ['python3.8-Django-2.2'],
    my_package: ['my_package-1'],
    'my?package-1': ['my_package-1', 'myxpackage-1'],
    'a?b': ['a?b', 'axb'],
    '[fg]??-*': ['gcc-9.3.0', 'gcc-9.3.0.drv'],
    'gcc-9.3.0': ['gcc-9.3.0', 'gcc-9.3.0.drv'],
    '*.drv': ['gcc-9.3.0.drv'],
    '*.DRV': ['gcc-9.3.0.drv'],
    'nothing-like-it': [],
    'a[bc': [],
    [path('gcc-9.3.0')]: ['gcc-9.3.0'],
    [hashPartOf(path('gcc-9.3.0'))]: ['gcc-9.3.0'],
    [`${hashPartOf(path('gcc-9.3.0'))}-gcc`]: [],
    [`${hashPartOf(path('gcc-9.3.0'))}-GCC*`]: ['gcc-9.3.0'],
    [`${hashPartOf(path('gcc-9.3.0'))}-x*`]: [],
  }
  for (const [text, names] of Object.entries(cases)) {
    t.same(await found(text), { names, more: 0 }, text)
  }

  t.match(await found('pkg', 10), { names: { length: 10 }, more: 29_990 }, 'the rest is counted')
  t.match(await found('*', 10), { names: { length: 10 }, more: 30_001 })
  t.match(await found('f*', 2), { names: { length: 2 }, more: 1 })

  await t.test('a forged name does not shut out the real one', async t => {
    const real = path('gcc-9.3.0')
    const forged = parseStorePath(`/nix/store/${hashPartOf(real)}-evil`)
    await catalog.holdings.add('peer:x', [{ storePath: forged }])
    t.same(await found(hashPartOf(real)), { names: ['evil', 'gcc-9.3.0'], more: 0 })
    t.same(await found(real), { names: ['gcc-9.3.0'], more: 0 })
  })

  await t.test('others have their turn while everything is searched', async t => {
    let turns = 0
    let searching = true
    const count = () => {
      turns++
      if (searching) setImmediate(count)
    }
    setImmediate(count)
    await found('*g*', 5)
    searching = false
    t.ok(turns > 10, `${turns} turns`)
  })

  await t.test('a search that a close interrupts ends', async t => {
    const search = catalog.search(queryOf('*k*'), 5)
    await catalog.close()
    t.match(await search, { matches: [] })
    await catalog.open()
    t.match(await found('gcc-9.3.0.drv'), { names: ['gcc-9.3.0.drv'] })
  })

  await t.test('every statement finds its rows by an index', t => {
    const database = new Database(file, { readonly: true })
    t.teardown(() => database.close())
    const plan = (sql: string) =>
      (database.prepare(`EXPLAIN QUERY PLAN ${sql}`).all() as { detail: string }[])
        .map(({ detail }) => detail)
        .join('; ')
    const statements = {
      'names by trigram': `SELECT rowid FROM names_by_trigram WHERE name LIKE 'firefox-%' AND lower(name) GLOB 'firefox-*'`,
      'paths by hash part': `SELECT id FROM paths WHERE key = 1 AND hash = x'00'`,
      'paths by name': `SELECT id FROM paths WHERE name = 1`,
      'holders of a path': `SELECT holder FROM holdings WHERE path = 1`,
      'paths of a holder': `SELECT path FROM holdings WHERE holder = 1 AND path > 5 ORDER BY path LIMIT 9`,
      'a decision': `SELECT value FROM decisions WHERE hash_part = 'x' AND holder = 1`,
      'a verification': `SELECT problem FROM verifications WHERE identity = 'x' AND holder = 1`,
      'what to forget': `DELETE FROM decisions WHERE id <= (SELECT max(id) FROM decisions) - 5`,
    }
    for (const [name, sql] of Object.entries(statements)) {
      const text = plan(sql)
      t.match(text, /USING|VIRTUAL TABLE INDEX \d+:[^;]*L/, `${name}: ${text}`)
      t.notMatch(text, /SCAN (paths|names|holdings|decisions|verifications)\b(?!.*VIRTUAL)/, name)
      t.notMatch(text, /TEMP B-TREE/, name)
    }
    t.end()
  })
})
