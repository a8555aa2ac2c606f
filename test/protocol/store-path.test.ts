import { readFileSync } from 'node:fs'
import t from 'tap'
import { hashOf, parseHash } from '../../protocol/hash.ts'
import {
  DEFAULT_STORE_DIR,
  NAME_MAX_LENGTH,
  baseNameOf,
  computeFixedOutputPath,
  computeStorePath,
  computeTextPath,
  hashPartOf,
  joinStorePath,
  nameOf,
  parseBaseName,
  parseHashPart,
  parseStoreDir,
  parseStorePath,
  storeDirOf,
} from '../../protocol/store-path.ts'
import type { FixedOutputMethod } from '../../protocol/store-path.ts'

const PART = '0123456789abcdfghijklmnpqrsvwxyz'
const table = (file: string) =>
  readFileSync(`test/fixtures/protocol/${file}`, 'utf8')
    .trimEnd()
    .split('\n')
    .map(line => line.split('\t'))

t.test('parts of a path', async t => {
  for (const storeDir of [DEFAULT_STORE_DIR, '/gnu/store']) {
    const path = parseStorePath(`${storeDir}/${PART}-gcc-12.2.0-lib`, storeDir)
    t.equal(hashPartOf(path), PART)
    t.equal(nameOf(path), 'gcc-12.2.0-lib')
    t.equal(storeDirOf(path), storeDir)
    const baseName = baseNameOf(path)
    t.equal(baseName, parseBaseName(`${PART}-gcc-12.2.0-lib`))
    t.equal(hashPartOf(baseName), PART)
    t.equal(nameOf(baseName), 'gcc-12.2.0-lib')
    t.equal(joinStorePath(storeDir, baseName), path)
  }
})

t.test('names', async t => {
  const good = ['a', '.a', '..a', '...', '....', '.a-', '-', 'A+b-c._?=9', 'x'.repeat(211)]
  for (const name of good) t.equal(nameOf(parseBaseName(`${PART}-${name}`)), name, name)
  const bad: [name: string, problem: RegExp][] = [
    ['', /name is empty/],
    ['.', /relative path/],
    ['..', /relative path/],
    ['.-x', /relative path/],
    ['..-x', /relative path/],
    ['x'.repeat(NAME_MAX_LENGTH + 1), /longer than 211/],
    ['a/b', /a character other/],
    ['a\n', /a character other/],
    ['a\0', /a character other/],
    ['ä', /a character other/],
    ['a b', /a character other/],
    ['a~', /a character other/],
  ]
  for (const [name, message] of bad) {
    const expected = { code: 'STORE_PATH_INVALID', message }
    t.throws(() => parseBaseName(`${PART}-${name}`), expected, JSON.stringify(name))
    t.throws(() => parseStorePath(`/nix/store/${PART}-${name}`), expected)
  }
})

t.test('refused paths', async t => {
  const cases: [name: string, text: string, problem: RegExp][] = [
    ['other store', `/gnu/store/${PART}-x`, /not below \/nix\/store/],
    ['no slash', `/nix/store${PART}-x`, /not below/],
    ['the store itself', '/nix/store', /not below/],
    ['relative', `${PART}-x`, /not below/],
    ['climbing', '/nix/store/../../etc/passwd', /hash part/],
    ['two slashes', `/nix/store//${PART}-x`, /hash part/],
    ['inside a path', `/nix/store/${PART}-x/bin/sh`, /a character other/],
    ['short hash part', `/nix/store/${PART.slice(1)}-x`, /hash part/],
    ['bad letter in the hash part', `/nix/store/e${PART.slice(1)}-x`, /hash part/],
    ['no dash', `/nix/store/${PART}_x`, /no dash/],
    ['hash part alone', `/nix/store/${PART}`, /no dash/],
  ]
  for (const [name, text, message] of cases) {
    t.throws(() => parseStorePath(text), { code: 'STORE_PATH_INVALID', message }, name)
  }
})

t.test('hash parts', async t => {
  t.equal(parseHashPart(PART), PART)
  for (const text of ['', PART.slice(1), `${PART}0`, `u${PART.slice(1)}`, PART.toUpperCase()]) {
    t.throws(() => parseHashPart(text), { code: 'STORE_PATH_INVALID' }, text)
  }
})

t.test('store directories', async t => {
  for (const dir of ['/nix/store', '/x', '/a.b/..c/.d/...']) t.equal(parseStoreDir(dir), dir)
  const bad = [
    '',
    '/',
    'nix/store',
    '/nix/store/',
    '/nix//store',
    '/nix/../store',
    '/nix/.',
    '/nix/st ore',
    '/nix/store\n',
    '/nix/störe',
    '/nix:/store',
    `/${'x'.repeat(1024)}`,
  ]
  for (const dir of bad) {
    t.throws(() => parseStoreDir(dir), { code: 'STORE_PATH_INVALID' }, JSON.stringify(dir))
  }
})

t.test('paths of added files and trees, as nix-store --add and --add-fixed gave them', async t => {
  const rows = table('fixed-paths.tsv')
  t.equal(rows.length, 13)
  for (const [name = '', method, hash = '', path] of rows) {
    const object = { name, hash: parseHash(hash), method: method as FixedOutputMethod }
    t.equal(computeFixedOutputPath(object), path, `${method} ${hash}`)
  }
})

t.test('paths of text files, as builtins.toFile gave them', async t => {
  const rows = table('text-paths.tsv')
  t.equal(rows.length, 4)
  for (const [name = '', hash = '', list = '', path] of rows) {
    const references = list === '' ? [] : list.split(',').map(parseBaseName)
    const object = { name, hash: parseHash(hash), references }
    t.equal(computeTextPath(object), path, name)
    const turned = [...references, ...references].reverse()
    t.equal(
      computeTextPath({ ...object, references: turned }),
      path,
      'order and doubles do not count',
    )
    t.not(computeTextPath(object, '/gnu/store').slice(-40), path?.slice(-40), 'the store dir does')
  }
})

t.test('what has no path', async t => {
  const hash = hashOf('sha256', '')
  const reference = parseBaseName(`${PART}-x`)
  const flat = { name: 'x', hash, method: 'flat' } as const
  const ca = { code: 'CONTENT_ADDRESS_INVALID' }
  t.throws(() => computeStorePath('source', hash, '..'), { code: 'STORE_PATH_INVALID' })
  t.throws(() => computeTextPath({ name: 'x', hash: hashOf('sha1', ''), references: [] }), ca)
  t.throws(() => computeFixedOutputPath({ ...flat, references: [reference] }), ca)
  t.throws(() => computeFixedOutputPath({ ...flat, selfReference: true }), ca)
  const sha1 = { name: 'x', hash: hashOf('sha1', ''), method: 'recursive' } as const
  t.throws(() => computeFixedOutputPath({ ...sha1, references: [reference] }), ca)
})
