import { readFileSync } from 'node:fs'
import t from 'tap'
import { generateKeyPair, keyring, parsePublicKey } from '../../protocol/signature.ts'
import {
  formatSignedJson,
  parseSignedJson,
  verifySigned,
  type SignedFormat,
} from '../../protocol/signed-json.ts'
import {
  parseHexOf,
  parsePlainText,
  parseSiteName,
  parseTime,
  PLAIN_TEXT_MAX_CHARACTERS,
} from '../../protocol/json-texts.ts'
import { changed, depotKey, problemIn, sign } from '../helpers/shipment-samples.ts'

const format: SignedFormat = {
  name: 'narwharf-test',
  major: 2,
  minor: 3,
  code: 'SHIPMENT_INVALID',
  maxBytes: 400,
}
const file = formatSignedJson(format, { name: 'Île', none: undefined }, sign)
const problem = (bytes: Uint8Array) =>
  problemIn('SHIPMENT_INVALID', () => parseSignedJson(format, bytes))

t.test('who signed', async t => {
  const signed = parseSignedJson(format, file)
  t.equal(signed.fields.text('name', String), 'Île')
  t.equal(
    signed.signedBytes.toString(),
    '{"format":"narwharf-test","name":"Île","version":"2.3"}',
    'what is signed',
  )
  const depot = parsePublicKey(readFileSync('test/fixtures/protocol/key-1.public', 'latin1'))
  t.equal(verifySigned(signed, keyring([depot])), depotKey.name)
  t.equal(verifySigned(signed, keyring([generateKeyPair(depotKey.name).publicKey])), undefined)
  t.equal(verifySigned(signed, keyring([])), undefined)
  const renamed = parseSignedJson(format, changed(file, { name: 'Ile' }))
  t.equal(verifySigned(renamed, keyring([depot])), undefined, 'something else')
  const more = parseSignedJson(format, changed(file, { more: 1 }))
  t.equal(verifySigned(more, keyring([depot])), undefined, 'a member more')
})

t.test('a newer minor version brings members, which are covered', async t => {
  const newer = formatSignedJson({ ...format, minor: 9 }, { name: 'a', later: [{ x: 1 }] }, sign)
  const signed = parseSignedJson(format, newer)
  t.match(signed.signedBytes.toString(), /"later":\[\{"x":1\}\]/)
  t.equal(verifySigned(signed, keyring([depotKey.publicKey])), depotKey.name)
})

t.test('a newer major version is another format', async t => {
  const newer = formatSignedJson({ ...format, major: 3, minor: 0 }, {}, sign)
  t.throws(() => parseSignedJson(format, newer), {
    code: 'SHIPMENT_TOO_NEW',
    message: 'narwharf-test is of version 3.0, this narwharf knows 2.x',
    hint: /update/,
  })
})

t.test('hostile', async t => {
  const cases: [name: string, bytes: Uint8Array, problem: RegExp][] = [
    ['too large', Buffer.alloc(401, ' '), /larger than 400/],
    ['another format', changed(file, { format: 'narwharf-other' }), /format is not narwharf-test/],
    ['no format', changed(file, { format: undefined }), /format is not/],
    ['an older major version', changed(file, { version: '1.0' }), /no version 1\.0/],
    ['no version', changed(file, { version: undefined }), /it\.version is no text/],
    ['a number as version', changed(file, { version: 2 }), /it\.version is no text/],
    ['half a version', changed(file, { version: '2' }), /version 2 is none/],
    ['an odd version', changed(file, { version: '02.1' }), /version 02\.1 is none/],
    ['no signature', changed(file, { signature: undefined }), /it\.signature is no text/],
    ['a bad signature', changed(file, { signature: 'a-1:AAAA' }), /invalid signature/],
    ['bytes behind', Buffer.concat([file, file]), /JSON/],
  ]
  for (const [name, bytes, message] of cases) t.match(problem(bytes), message, name)
  t.match(
    problemIn('SHIPMENT_INVALID', () => formatSignedJson(format, { a: 'x'.repeat(400) }, sign)),
    /larger than/,
    'too large to write',
  )
  t.match(
    problemIn('SHIPMENT_INVALID', () => formatSignedJson(format, { a: 0.5 }, sign)),
    /no whole number/,
  )
})

t.test('texts', async t => {
  const good: [parse: (text: string) => string, text: string][] = [
    [parsePlainText, 'Île de la Possession'],
    [parsePlainText, 'x'.repeat(PLAIN_TEXT_MAX_CHARACTERS)],
    [parseSiteName, 'lab-3'],
    [parseTime, '2024-02-29T23:59:59Z'],
    [parseTime, '2026-01-31T12:00:00.001Z'],
    [parseHexOf(2), '00ff'],
  ]
  for (const [parse, text] of good) t.equal(parse(text), text)
  const bad: [parse: (text: string) => string, text: string][] = [
    [parsePlainText, ''],
    [parsePlainText, 'x'.repeat(PLAIN_TEXT_MAX_CHARACTERS + 1)],
    [parsePlainText, 'a\nb'],
    [parsePlainText, '\u001b[31mred'],
    [parsePlainText, 'evil\u202egpj.exe'],
    [parseSiteName, ''],
    [parseSiteName, '../etc'],
    [parseTime, '2026-02-30T12:00:00Z'],
    [parseTime, '2026-01-31T24:00:00Z'],
    [parseTime, '2026-01-31T12:00:00+01:00'],
    [parseTime, '2026-01-31 12:00:00'],
    [parseTime, '2026-13-01T12:00:00Z'],
    [parseTime, 'yesterday'],
    [parseHexOf(2), '00f'],
    [parseHexOf(2), '00FF'],
    [parseHexOf(2), '00ffff'],
  ]
  for (const [parse, text] of bad) t.throws(() => parse(text), /./, JSON.stringify(text))
})
