import { readFileSync } from 'node:fs'
import t from 'tap'
import {
  HASH_BYTES,
  formatHash,
  hashOf,
  isHashAlgorithm,
  parseHash,
  requireTrustAnchor,
  sameHash,
} from '../../protocol/hash.ts'
import type { HashAlgorithm } from '../../protocol/hash.ts'

const rows = readFileSync('test/fixtures/protocol/hashes.tsv', 'utf8')
  .trimEnd()
  .split('\n')
  .map(line => line.split('\t') as [HashAlgorithm, string, string, string, string])

t.test('every spelling, as nix-hash writes them', async t => {
  t.equal(rows.length, 12)
  for (const [algorithm, base16, nix32, base64, sri] of rows) {
    const hash = parseHash(sri)
    t.equal(hash.bytes.length, HASH_BYTES[algorithm])
    t.equal(formatHash(hash, 'sri'), sri)
    t.equal(formatHash(hash, 'sri', false), sri, 'SRI always names its algorithm')
    for (const [spelling, text] of [
      ['base16', base16],
      ['nix32', nix32],
      ['base64', base64],
    ] as const) {
      const name = `${algorithm} ${spelling}`
      t.ok(sameHash(parseHash(`${algorithm}:${text}`), hash), `${name} prefixed`)
      t.ok(sameHash(parseHash(text, { algorithm }), hash), `${name} bare`)
      t.ok(sameHash(parseHash(`${algorithm}:${text}`, { algorithm }), hash), `${name} agreeing`)
      t.equal(formatHash(hash, spelling), `${algorithm}:${text}`, `${name} written`)
      t.equal(formatHash(hash, spelling, false), text, `${name} written bare`)
    }
    t.ok(sameHash(parseHash(base16.toUpperCase(), { algorithm }), hash), 'upper case hex, as Nix')
  }
})

t.test('bytes that are no Buffer', async t => {
  const hash = { algorithm: 'md5', bytes: new Uint8Array(16).fill(255) } as const
  t.equal(formatHash(hash, 'base16', false), 'f'.repeat(32))
  t.ok(sameHash(hash, parseHash(formatHash(hash, 'sri'))))
  const inside = new Uint8Array(48).subarray(16, 32)
  t.equal(formatHash({ algorithm: 'md5', bytes: inside }, 'base64', false), `${'A'.repeat(22)}==`)
})

t.test('sameHash sees algorithm and bytes', async t => {
  const sha256 = hashOf('sha256', 'a')
  t.ok(sameHash(sha256, hashOf('sha256', Buffer.from('a'))))
  t.notOk(sameHash(sha256, hashOf('sha256', 'b')))
  t.notOk(sameHash(sha256, { algorithm: 'sha512', bytes: sha256.bytes }))
})

t.test('algorithm names', async t => {
  for (const name of Object.keys(HASH_BYTES)) t.ok(isHashAlgorithm(name), name)
  for (const name of ['SHA256', 'blake3', '', '__proto__', 'toString', 'constructor']) {
    t.notOk(isHashAlgorithm(name), name)
  }
})

t.test('refused', async t => {
  const hex = 'a'.repeat(64)
  const base64 = `${'A'.repeat(43)}=`
  const cases: [name: string, text: string, problem: RegExp, algorithm?: HashAlgorithm][] = [
    ['nothing', '', /no algorithm/],
    ['bare without an algorithm', hex, /no algorithm/],
    ['unknown algorithm', `blake3:${hex}`, /unknown algorithm/],
    ['inherited name', `constructor:${hex}`, /unknown algorithm/],
    ['other algorithm than expected', `sha256:${hex}`, /sha512 expected/, 'sha512'],
    ['no digits', 'sha256:', /fit no spelling/],
    ['a digit short', `sha256:${hex.slice(1)}`, /63 characters fit no spelling/],
    ['not hex', `sha256:${hex.slice(1)}g`, /not hexadecimal/],
    ['not nix32', `sha256:${'e'.repeat(52)}`, /alphabet/],
    ['nix32 with overflow', `sha256:z${'0'.repeat(51)}`, /beyond the last byte/],
    ['base64 with spare bits set', `sha256:${'A'.repeat(42)}B=`, /canonical/],
    ['base64 of the URL alphabet', `sha256:${'_'.repeat(43)}=`, /canonical/],
    ['base64 unpadded', `sha256:${'A'.repeat(43)}`, /fit no spelling/],
    ['base64 too short inside', `sha256:${'A'.repeat(42)}==`, /canonical/],
    ['SRI in hex', `sha256-${hex}`, /SRI hash is in base64/],
    ['SRI with options', `sha256-${base64}?x`, /SRI hash is in base64/],
    ['a method prefix', `r:sha256:${hex}`, /unknown algorithm/],
    ['space around', ` sha256:${hex}`, /unknown algorithm/],
    ['a megabyte', `sha256:${'a'.repeat(1_000_000)}`, /too long/],
  ]
  for (const [name, text, message, algorithm] of cases) {
    t.throws(() => parseHash(text, { algorithm }), { code: 'HASH_INVALID', message }, name)
  }
})

t.test('what may anchor trust', async t => {
  const cases: [HashAlgorithm, HashAlgorithm | undefined, trusted: boolean][] = [
    ['md5', undefined, false],
    ['md5', 'md5', false],
    ['sha1', undefined, true],
    ['sha1', 'sha256', false],
    ['sha256', 'sha256', true],
    ['sha512', undefined, true],
    ['sha512', 'sha256', false],
  ]
  for (const [algorithm, needed, trusted] of cases) {
    const check = () => requireTrustAnchor(hashOf(algorithm, ''), needed)
    const name = `${algorithm} where ${needed ?? 'any'} is needed`
    if (trusted) t.doesNotThrow(check, name)
    else t.throws(check, { code: 'HASH_NOT_TRUSTED', data: { algorithm } }, name)
  }
})
