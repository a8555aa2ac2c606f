import { readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import {
  caProves,
  contentCheckOf,
  formatContentAddress,
  parseContentAddress,
  storePathOfContentAddress,
} from '../../protocol/content-address.ts'
import { hashOf } from '../../protocol/hash.ts'
import { parseNarinfo } from '../../protocol/narinfo.ts'
import { parseBaseName, parseStorePath } from '../../protocol/store-path.ts'

const NIX32 = '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73'
const HEX = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

/** Every content-addressed narinfo that a real Nix wrote. */
const goldens = readdirSync('test/fixtures/protocol/narinfo')
  .map(file => ({
    file,
    info: parseNarinfo(readFileSync(`test/fixtures/protocol/narinfo/${file}`)),
  }))
  .flatMap(({ file, info }) =>
    info.ca === undefined ? [] : [{ file, info, ca: parseContentAddress(info.ca) }],
  )

t.test('spellings', async t => {
  const cases: [text: string, written: string][] = [
    [`text:sha256:${NIX32}`, `text:sha256:${NIX32}`],
    [`text:sha256:${HEX}`, `text:sha256:${NIX32}`],
    [`fixed:sha256:${HEX}`, `fixed:sha256:${NIX32}`],
    [`fixed:r:sha256:${NIX32}`, `fixed:r:sha256:${NIX32}`],
    ['fixed:md5:d41d8cd98f00b204e9800998ecf8427e', 'fixed:md5:3y8bwfr609h3lh9ch0izcqq7fl'],
    [`fixed:r:sha1:${'0'.repeat(32)}`, `fixed:r:sha1:${'0'.repeat(32)}`],
  ]
  for (const [text, written] of cases) {
    t.equal(formatContentAddress(parseContentAddress(text)), written, text)
  }
})

t.test('refused', async t => {
  const texts = [
    '',
    'bogus',
    'fixed',
    'fixed:',
    `fixed:${NIX32}`,
    `fixed:r:r:sha256:${NIX32}`,
    `fixed:git:sha1:${'0'.repeat(32)}`,
    `fixed:x:sha256:${NIX32}`,
    `fixed:sha256-${Buffer.alloc(32).toString('base64')}`,
    `fixed:sha256:${NIX32}0`,
    `fixed:sha256:${NIX32}\n`,
    `text:r:sha256:${NIX32}`,
    `text:sha1:${'0'.repeat(32)}`,
    `source:sha256:${NIX32}`,
  ]
  for (const text of texts) {
    t.throws(() => parseContentAddress(text), { code: 'CONTENT_ADDRESS_INVALID' }, text)
  }
})

t.test('what a real Nix wrote is proven', async t => {
  t.strictSame(
    goldens.map(({ file, info, ca }) => [file.replace(/-.*/, ''), contentCheckOf(info, ca)]),
    [
      ['drv', 'flat'],
      ['drv', 'flat'],
      ['drv', 'flat'],
      ['flat', 'flat'],
      ['made', 'nar-modulo-self'],
      ['recursive', 'nar-hash'],
      ['source', 'nar-hash'],
      ['text', 'flat'],
      ['text', 'flat'],
      ['text', 'flat'],
    ],
  )
  for (const { file, info, ca } of goldens) t.ok(caProves(info, ca), file)
})

t.test('a forgery is not', async t => {
  const other = parseBaseName(`${'0'.repeat(32)}-other`)
  for (const { file, info, ca } of goldens) {
    const path = info.storePath
    const forged = [
      ['another name', { ...info, storePath: parseStorePath(`${path}x`) }],
      ['another reference', { ...info, references: [other, ...info.references] }],
      ['another NAR', { ...info, narHash: hashOf('sha256', 'evil') }],
    ] as const
    for (const [name, info] of forged) {
      // Where the address is not a NAR hash the path cannot tell the NAR: contentCheckOf says what remains to be done.
      const expected = name === 'another NAR' && contentCheckOf(info, ca) !== 'nar-hash'
      t.equal(caProves(info, ca), expected, `${file}: ${name}`)
    }
    t.notOk(caProves(info, ca, '/gnu/store'), `${file}: another store`)
    const hash = hashOf('sha256', 'evil')
    t.notOk(caProves(info, { ...ca, hash }), `${file}: another hash`)
    const md5 = hashOf('md5', '')
    const weak = { kind: 'fixed', method: 'flat', hash: md5 } as const
    const storePath = storePathOfContentAddress(weak, 'x', [])
    t.notOk(caProves({ ...info, storePath, references: [] }, weak), 'md5 proves nothing')
  }
})

t.test('weak but accepted, and kinds that cannot be', async t => {
  const narHash = hashOf('sha256', 'nar')
  const sha1 = { kind: 'fixed', method: 'recursive', hash: hashOf('sha1', 'nar') } as const
  const storePath = storePathOfContentAddress(sha1, 'x', [])
  const info = { storePath, narHash, references: [] }
  t.ok(caProves(info, sha1), 'fixed:r:sha1, which Nix takes unsigned')
  t.equal(contentCheckOf(info, sha1), 'nar')
  const self = parseBaseName(storePath.slice('/nix/store/'.length))
  t.notOk(caProves({ ...info, references: [self] }, sha1), 'only sha256 trees have references')
  const text = { kind: 'text', hash: narHash } as const
  t.notOk(caProves({ ...info, references: [self] }, text), 'a text cannot refer to itself')
  const wrong = { kind: 'text', hash: hashOf('sha512', '') } as const
  t.notOk(caProves(info, wrong), 'a text is addressed by sha256')
  t.throws(() => storePathOfContentAddress(text, 'x', [], '/nix/store', true), {
    code: 'CONTENT_ADDRESS_INVALID',
  })
  t.throws(() => storePathOfContentAddress(sha1, 'x', [self]), { code: 'CONTENT_ADDRESS_INVALID' })
  t.throws(() => storePathOfContentAddress(sha1, '..', []), { code: 'STORE_PATH_INVALID' })
})
