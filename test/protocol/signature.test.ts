import { readFileSync, readdirSync } from 'node:fs'
import { inspect } from 'node:util'
import t from 'tap'
import { hashOf } from '../../protocol/hash.ts'
import { parseNarinfo } from '../../protocol/narinfo.ts'
import {
  KEY_NAME_MAX_LENGTH,
  fingerprint,
  formatPublicKey,
  formatSecretKey,
  generateKeyPair,
  isSignature,
  keyring,
  parsePublicKey,
  parseSecretKey,
  parseSignature,
  publicKeyOf,
  sign,
  signText,
  verifySignature,
  verifyText,
} from '../../protocol/signature.ts'
import { parseBaseName } from '../../protocol/store-path.ts'

const fixture = (file: string) => readFileSync(`test/fixtures/protocol/${file}`)
const secretText = (n: number) => fixture(`key-${n}.secret`).toString()
const publicText = (n: number) => fixture(`key-${n}.public`).toString()
const publicKeys = keyring([1, 2].map(n => parsePublicKey(publicText(n))))
const narinfos = readdirSync('test/fixtures/protocol/narinfo').map(
  file => [file, parseNarinfo(fixture(`narinfo/${file}`))] as const,
)
const many = parseNarinfo(fixture('narinfo/none-nyqlf76g5kmh50m11n7xq036xiiwn5y9.narinfo'))

t.test('keys as nix-store --generate-binary-cache-key writes them', async t => {
  for (const n of [1, 2]) {
    const secret = parseSecretKey(secretText(n))
    t.equal(secret.name, `golden-${n}`)
    t.equal(formatSecretKey(secret), secretText(n))
    t.equal(formatPublicKey(publicKeyOf(secret)), publicText(n))
    t.equal(formatPublicKey(parsePublicKey(publicText(n))), publicText(n))
    t.equal(formatSecretKey(parseSecretKey(`${secretText(n)}\n`)), secretText(n), 'a last newline')
    const seed = secretText(n).slice(9, 40)
    t.notMatch(inspect(secret, { depth: 9, showHidden: true }), seed, 'no dump shows the secret')
  }
})

t.test('new keys', async t => {
  const secret = generateKeyPair('lab-3.example-1')
  const text = formatSecretKey(secret)
  t.match(text, /^lab-3\.example-1:[A-Za-z0-9+/]{86}==$/)
  t.not(formatSecretKey(generateKeyPair('lab-3.example-1')), text)
  const again = parseSecretKey(text)
  t.equal(formatPublicKey(again.publicKey), formatPublicKey(secret.publicKey))
  t.equal(sign(many, again), sign(many, secret))
})

t.test('refused keys', async t => {
  const base64 = (bytes: number) => Buffer.alloc(bytes, 7).toString('base64')
  const [name, digits] = secretText(1).split(':') as [string, string]
  const other = secretText(2).split(':')[1] as string
  const swapped = Buffer.concat([
    Buffer.from(digits, 'base64').subarray(0, 32),
    Buffer.from(other, 'base64').subarray(32),
  ])
  const cases: [title: string, text: string, problem: RegExp][] = [
    ['nothing', '', /the name/],
    ['no colon', 'name', /the name/],
    ['no name', `:${base64(32)}`, /the name/],
    ['space in the name', `a b:${base64(32)}`, /the name/],
    ['newline in the name', `a\nb:${base64(32)}`, /the name/],
    ['name too long', `${'k'.repeat(KEY_NAME_MAX_LENGTH + 1)}:${base64(32)}`, /the name/],
    ['no digits', 'name:', /bytes in base64/],
    ['31 bytes', `name:${base64(31)}`, /bytes in base64/],
    ['33 bytes', `name:${base64(33)}`, /bytes in base64/],
    ['not base64', `name:${'@'.repeat(44)}`, /bytes in base64/],
    ['second colon', `name:x:${base64(32)}`, /bytes in base64/],
    ['trailing space', `name:${base64(32)} `, /bytes in base64/],
    ['a megabyte', `name:${'A'.repeat(1_000_000)}`, /bytes in base64/],
  ]
  for (const [title, text, message] of cases) {
    t.throws(() => parsePublicKey(text), { code: 'KEY_INVALID', message }, `public: ${title}`)
    t.throws(() => parseSecretKey(text), { code: 'KEY_INVALID', message }, `secret: ${title}`)
  }
  t.throws(() => parsePublicKey(secretText(1)), /32 bytes/, 'a secret key for a public one')
  t.throws(() => parseSecretKey(publicText(1)), /64 bytes/, 'a public key for a secret one')
  t.throws(() => parseSecretKey(`${name}:${swapped.toString('base64')}`), /does not belong/)
  for (const title of ['', 'a:b', 'a b', 'k'.repeat(256)]) {
    t.throws(() => generateKeyPair(title), { code: 'KEY_INVALID' }, `new key named ${title}`)
  }
  try {
    parsePublicKey(secretText(1))
  } catch (error) {
    t.notMatch((error as Error).message, digits.slice(0, 8), 'an error does not show the key')
  }
})

t.test('the fingerprint', async t => {
  t.equal(
    fingerprint(many),
    '1;/nix/store/nyqlf76g5kmh50m11n7xq036xiiwn5y9-many-1.0;' +
      `sha256:${fixture('narinfo/none-nyqlf76g5kmh50m11n7xq036xiiwn5y9.narinfo')
        .toString()
        .replace(/[^]*NarHash: sha256:(\w+)[^]*/, '$1')};${many.narSize};` +
      '/nix/store/icsd4d6bjhg7nlbcx4q63nvmq00l0k51-leaf-1.0,' +
      '/nix/store/nyqlf76g5kmh50m11n7xq036xiiwn5y9-many-1.0,' +
      '/nix/store/qadqlrchsi8vkdhjlc3xsdy9c3swrqik-self-1.0',
  )
  const turned = { ...many, references: [...many.references].reverse() }
  t.equal(fingerprint(turned), fingerprint(many), 'references are sorted')
  t.match(fingerprint(many, '/gnu/store'), /;\/gnu\/store\/icsd4d6/)
  t.match(fingerprint({ ...many, references: [] }), /;\d+;$/)
  const weak = { ...many, narHash: hashOf('sha1', '') }
  t.throws(() => fingerprint(weak), { code: 'HASH_NOT_TRUSTED' })
})

t.test('signatures by nix store sign', async t => {
  let signed = 0
  for (const [file, info] of narinfos) {
    for (const text of info.signatures) {
      signed++
      const name = text.slice(0, text.indexOf(':'))
      t.equal(verifySignature(info, text, publicKeys), name, file)
      const secret = parseSecretKey(secretText(Number(name.slice(-1))))
      t.equal(sign(info, secret), text, `${file}: Ed25519 gives the same signature again`)
    }
  }
  t.ok(signed >= 16, `${signed} signatures`)
})

t.test('not verified', async t => {
  const [text] = many.signatures as [string]
  const other = parseBaseName(`${'0'.repeat(32)}-x`)
  const forged = [
    ['another size', { ...many, narSize: many.narSize + 1 }],
    ['another NAR hash', { ...many, narHash: hashOf('sha256', '') }],
    ['one reference less', { ...many, references: many.references.slice(1) }],
    ['one reference more', { ...many, references: [...many.references, other] }],
  ] as const
  for (const [name, info] of forged)
    t.equal(verifySignature(info, text, publicKeys), undefined, name)
  const texts = [
    ['nothing', ''],
    ['no colon', 'golden-1'],
    ['unknown key', text.replace('golden-1', 'golden-9')],
    ['the other key', text.replace('golden-1', 'golden-2')],
    ['inherited name', text.replace('golden-1', '__proto__')],
    ['a bit turned', text.replace(/:(.)/, (_, first) => `:${first === 'A' ? 'B' : 'A'}`)],
    ['cut', text.slice(0, -4)],
  ] as const
  for (const [name, text] of texts) {
    t.equal(verifySignature(many, text, publicKeys), undefined, name)
  }
  t.equal(verifySignature(many, text, keyring([])), undefined, 'no keys')
})

t.test('several keys of one name', async t => {
  const [old, young] = [generateKeyPair('site-1'), generateKeyPair('site-1')]
  const keys = keyring([old.publicKey, young.publicKey, old.publicKey])
  t.equal(keys.get('site-1')?.length, 2, 'doubles are dropped')
  for (const secret of [old, young]) {
    t.equal(verifySignature(many, sign(many, secret), keys), 'site-1')
    t.equal(verifyText('text', signText('text', secret), keys), 'site-1')
    t.equal(verifyText('other', signText('text', secret), keys), undefined)
  }
})

t.test('well-formed signatures', async t => {
  const digits = `${'A'.repeat(86)}==`
  t.strictSame(parseSignature(`cache-1:${digits}`), { keyName: 'cache-1', base64: digits })
  t.ok(isSignature(`cache-1:${digits}`))
  const bad = [
    '',
    `:${digits}`,
    `a b:${digits}`,
    `a:b:${digits}`,
    `a:${digits.slice(1)}`,
    `a:A${digits}`,
    `a:${'A'.repeat(85)}B==`,
    `a:${digits}\n`,
    `a:${'@'.repeat(86)}==`,
    `${'k'.repeat(256)}:${digits}`,
    `ä:${digits}`,
  ]
  for (const text of bad) {
    t.notOk(isSignature(text), JSON.stringify(text))
    t.throws(() => parseSignature(text), { code: 'SIGNATURE_INVALID' })
  }
})
