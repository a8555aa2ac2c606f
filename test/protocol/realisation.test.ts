import { readFileSync } from 'node:fs'
import t from 'tap'
import { isNarwharfError } from '../../protocol/errors.ts'
import {
  REALISATION_MAX_BYTES,
  REALISATION_SIGNATURES_MAX,
  buildTraceFingerprint,
  formatBuildTrace,
  formatRealisation,
  formatRealisationId,
  parseBuildTrace,
  parseRealisation,
  parseRealisationId,
  realisationFingerprint,
} from '../../protocol/realisation.ts'
import {
  generateKeyPair,
  keyring,
  parsePublicKey,
  signText,
  verifyText,
} from '../../protocol/signature.ts'
import { parseBaseName } from '../../protocol/store-path.ts'
import { mutations } from '../helpers/mutate.ts'

const fixture = (file: string) => readFileSync(`test/fixtures/protocol/${file}`)
const dependent = fixture('realisations/dependent.doi')
const HEX = '0123456789abcdef'.repeat(4)
const OUT = `${'0'.repeat(32)}-x`
const SIG = `${'A'.repeat(86)}==`
const json = (value: unknown) => Buffer.from(JSON.stringify(value))

t.test('what a real Nix wrote is read, and written byte for byte', async t => {
  const keys = keyring([parsePublicKey(fixture('key-1.public').toString())])
  for (const file of ['addressed', 'dependent']) {
    const bytes = fixture(`realisations/${file}.doi`)
    const realisation = parseRealisation(bytes)
    t.equal(formatRealisation(realisation), bytes.toString(), file)
    for (const signature of realisation.signatures) {
      t.equal(verifyText(realisationFingerprint(realisation), signature, keys), 'golden-1')
    }
  }
  const { signatures, dependentRealisations, outPath, id } = parseRealisation(dependent)
  t.equal(signatures.length, 1)
  t.equal(dependentRealisations.size, 1)
  t.equal(outPath.slice(33), 'dependent')
  t.equal(id.output, 'out')
  const other = { ...parseRealisation(dependent), outPath: parseBaseName(OUT) }
  t.equal(verifyText(realisationFingerprint(other), signatures[0] as string, keys), undefined)
})

t.test('dependent realisations are written sorted, as signed', async t => {
  const ids = ['b', 'c', 'a'].map(output => `sha256:${HEX}!${output}`)
  const value = {
    id: `sha256:${HEX}!out`,
    outPath: OUT,
    dependentRealisations: Object.fromEntries(ids.map(id => [id, OUT])),
  }
  const text = formatRealisation(parseRealisation(json(value)))
  t.strictSame(Object.keys(JSON.parse(text).dependentRealisations), [...ids].sort())
})

t.test('ids', async t => {
  const id = parseRealisationId(`sha256:${HEX}!dev`)
  t.equal(id.output, 'dev')
  t.equal(formatRealisationId(id), `sha256:${HEX}!dev`)
  const bad = [
    '',
    `sha256:${HEX}`,
    `sha256:${HEX}!`,
    `sha256:${HEX}!a/b`,
    `sha256:${HEX}!..`,
    `sha256:${HEX}!a!b`,
    `sha256:${HEX.slice(1)}!out`,
    `sha1:${HEX.slice(0, 40)}!out`,
    '!out',
  ]
  for (const text of bad) {
    t.throws(() => parseRealisationId(text), { code: 'REALISATION_INVALID' }, text)
  }
})

t.test('tolerated', async t => {
  const id = `sha256:${HEX}!out`
  const plain = parseRealisation(json({ id, outPath: OUT, other: [1] }))
  t.strictSame(plain.signatures, [])
  t.equal(plain.dependentRealisations.size, 0)
  const mixed = [
    `a:${SIG}`,
    { keyName: 'b', sig: SIG },
    'bad',
    { keyName: 'c', sig: 'AA' },
    `a:${SIG}`,
  ]
  t.strictSame(parseRealisation(json({ id, outPath: OUT, signatures: mixed })).signatures, [
    `a:${SIG}`,
    `b:${SIG}`,
  ])
})

t.test('refused', async t => {
  const id = `sha256:${HEX}!out`
  const signatures = Array.from({ length: REALISATION_SIGNATURES_MAX + 1 }, () => '')
  const cases: [name: string, bytes: Buffer, problem: RegExp][] = [
    ['nothing', Buffer.alloc(0), /JSON/],
    ['no JSON', Buffer.from('<html>'), /JSON/],
    ['not UTF-8', Buffer.from([0x22, 0xff, 0x22]), /UTF-8/],
    ['too large', Buffer.alloc(REALISATION_MAX_BYTES + 1, ' '), /larger than 1048576/],
    ['deep', Buffer.from('['.repeat(500_000)), /JSON|stack/],
    ['a list', json([]), /not an object/],
    ['null', json(null), /not an object/],
    ['a number', json(1), /not an object/],
    ['no id', json({ outPath: OUT }), /id is not a text/],
    ['id a number', json({ id: 1, outPath: OUT }), /id is not a text/],
    ['no outPath', json({ id }), /outPath is not a text/],
    ['outPath climbing', json({ id, outPath: '../x' }), /invalid store path/],
    ['outPath whole', json({ id, outPath: `/nix/store/${OUT}` }), /invalid store path/],
    ['signatures an object', json({ id, outPath: OUT, signatures: {} }), /not a list/],
    ['signatures of numbers', json({ id, outPath: OUT, signatures: [1] }), /not an object/],
    ['a signature without key', json({ id, outPath: OUT, signatures: [{}] }), /keyName/],
    ['too many signatures', json({ id, outPath: OUT, signatures }), /more than 100/],
    ['dependent a list', json({ id, outPath: OUT, dependentRealisations: [] }), /not an object/],
    ['dependent id bad', json({ id, outPath: OUT, dependentRealisations: { x: OUT } }), /"!"/],
    ['dependent path bad', json({ id, outPath: OUT, dependentRealisations: { [id]: 1 } }), /text/],
    ['a __proto__ of its own', fixture('hostile/proto.doi'), /__proto__ has no "!"/],
  ]
  for (const [name, bytes, message] of cases) {
    t.throws(() => parseRealisation(bytes), { code: 'REALISATION_INVALID', message }, name)
  }
  t.notOk('id' in {}, 'no prototype was touched')
})

t.test('build trace entries', async t => {
  const outPath = parseBaseName(OUT)
  const key = { derivation: parseBaseName(`${'1'.repeat(32)}-x.drv`), output: 'out' }
  const print = buildTraceFingerprint(key, { outPath, signatures: [] })
  t.equal(
    print,
    `{"key":{"drvPath":"${key.derivation}","outputName":"out"},"value":{"outPath":"${OUT}"}}`,
  )
  const secret = generateKeyPair('lab-1')
  const signature = signText(print, secret)
  const text = formatBuildTrace({ outPath, signatures: [signature] })
  const sig = signature.slice('lab-1:'.length)
  t.equal(text, `{"outPath":"${OUT}","signatures":[{"keyName":"lab-1","sig":"${sig}"}]}`)
  const entry = parseBuildTrace(Buffer.from(text))
  t.strictSame(entry, { outPath, signatures: [signature] })
  t.strictSame(
    parseBuildTrace(json({ outPath: OUT, signatures: [signature] })),
    entry,
    'older form',
  )
  t.strictSame(parseBuildTrace(json({ outPath: OUT })).signatures, [])
  const ring = keyring([secret.publicKey])
  t.equal(verifyText(buildTraceFingerprint(key, entry), signature, ring), 'lab-1')
  const other = { ...key, output: 'dev' }
  t.equal(verifyText(buildTraceFingerprint(other, entry), signature, ring), undefined)
  t.throws(() => parseBuildTrace(json({})), { code: 'REALISATION_INVALID' })
  t.throws(() => formatBuildTrace({ outPath, signatures: ['x'] }), { code: 'SIGNATURE_INVALID' })
})

t.test('4000 damaged realisations: read or refused, nothing else', async t => {
  let refused = 0
  for (const bytes of mutations(dependent, 4000, 7)) {
    for (const parse of [parseRealisation, parseBuildTrace]) {
      try {
        parse(bytes)
      } catch (error) {
        refused++
        if (!isNarwharfError(error, 'REALISATION_INVALID')) t.error(error, bytes.toString('latin1'))
      }
    }
  }
  t.ok(refused > 4000 && refused < 8000, `${refused} refused`)
})
