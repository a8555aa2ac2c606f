import t from 'tap'
import { keyring } from '../../protocol/signature.ts'
import {
  formatShipment,
  parseSectionFile,
  parseShipment,
  SECTION_DIRECTORIES,
  SHIPMENT_SECTIONS_MAX,
  shipmentIdOf,
  splitFiles,
  type ShipmentManifest,
  type ShipmentSectionKind,
} from '../../protocol/shipment.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import {
  changed,
  depotKey,
  problemIn,
  sampleManifest,
  sign,
  storePath,
} from '../helpers/shipment-samples.ts'
import { mutations } from '../helpers/mutate.ts'

const bytes = formatShipment(sampleManifest, sign)
const section = sampleManifest.sections[0]
const split = sampleManifest.splits[0]

t.test('what goes in comes out', async t => {
  const cases: [name: string, manifest: ShipmentManifest][] = [
    ['all there is', sampleManifest],
    ['packed against nothing', { ...sampleManifest, against: undefined }],
    [
      'nothing in it',
      { ...sampleManifest, part: 1, parts: 1, paths: 0, roots: [], sections: [], splits: [] },
    ],
    ['milliseconds', { ...sampleManifest, createdAt: '2026-01-31T12:00:00.123Z' }],
  ]
  for (const [name, manifest] of cases) {
    const read = parseShipment(formatShipment(manifest, sign))
    t.strictSame(read.manifest, manifest, name)
    t.equal(verifySigned(read, keyring([depotKey.publicKey])), depotKey.name)
  }
  t.ok(formatShipment(sampleManifest, sign).equals(bytes), 'the same bytes each time')
})

t.test('what a newer minor version brings is passed over, and covered', async t => {
  const extra = { kind: 'hologram', file: '../../etc/passwd', lumen: 3 }
  const newer = changed(bytes, {
    version: '1.7',
    mood: { good: true },
    sections: [{ ...section, colour: 'red' }, extra],
  })
  const { manifest, signedBytes } = parseShipment(newer)
  t.strictSame(manifest, { ...sampleManifest, sections: [section] })
  t.match(signedBytes.toString(), /"mood":\{"good":true\}/)
  t.match(signedBytes.toString(), /hologram/)
  t.throws(() => parseShipment(changed(bytes, { version: '2.0', id: 7 })), {
    code: 'SHIPMENT_TOO_NEW',
  })
})

t.test('hostile manifests', async t => {
  const sections = (...changes: readonly object[]) => ({
    sections: changes.map(change => ({ ...section, ...change })),
  })
  const splits = (...changes: readonly object[]) => ({
    splits: changes.map(change => ({ ...split, ...change })),
  })
  const cases: [name: string, changes: Readonly<Record<string, unknown>>, problem: RegExp][] = [
    ['no id', { id: undefined }, /it\.id is no text/],
    ['an id in upper case', { id: sampleManifest.id.toUpperCase() }, /32 lower-case hex/],
    ['a depot that is a path', { depot: '../x' }, /no name of a host/],
    ['a name that steers the terminal', { name: '\u001b]0;x' }, /cannot be shown/],
    ['part 0', { part: 0 }, /it\.part is no whole number from 1 to 3/],
    ['part 4 of 3', { part: 4 }, /it\.part is no whole number from 1 to 3/],
    ['a million parts', { parts: 1_000_000 }, /it\.parts/],
    ['no time', { createdAt: 'now' }, /it\.createdAt/],
    ['a store directory that is none', { storeDir: 'nix/store' }, /it\.storeDir/],
    ['a digest that is none', { against: { site: 'a', digest: 'ab' } }, /it\.against\.digest/],
    ['nothing said against', { against: {} }, /it\.against\.site is no text/],
    ['a negative count', { paths: -1 }, /it\.paths/],
    ['a root of another store', { roots: [storePath(1).replace('nix', 'gnu')] }, /it\.roots\[0\]/],
    ['a root below a path', { roots: [`${storePath(1)}/bin`] }, /it\.roots\[0\]/],
    ['a section that is none', { sections: ['x'] }, /it\.sections\[0\] is no object/],
    ['a section without a kind', sections({ kind: undefined }), /sections\[0\]\.kind/],
    ['a section that climbs', sections({ file: 'narwharf/index/../../x' }), /no file name to use/],
    ['a section of another kind', sections({ file: 'narwharf/have/x' }), /not below/],
    ['a hash in upper case', sections({ sha256: 'AB'.repeat(32) }), /sections\[0\]\.sha256/],
    ['a size that is a text', sections({ size: '1' }), /sections\[0\]\.size/],
    [
      'a section twice but for case',
      sections({}, { file: 'narwharf/index/000001.BLK' }),
      /section narwharf\/index\/000001\.BLK comes twice/,
    ],
    [
      'more sections than any',
      { sections: Array.from({ length: SHIPMENT_SECTIONS_MAX + 1 }, () => 0) },
      /more than 65536 items/,
    ],
    ['a split into one', splits({ parts: 1 }), /splits\[0\]\.parts/],
    ['a split into very many', splits({ parts: 1001 }), /splits\[0\]\.parts/],
    ['a split that climbs', splits({ url: 'nar/../../etc/passwd' }), /leaves the cache/],
    ['a split elsewhere', splits({ url: 'narwharf/x' }), /no file below nar/],
    ['a split with a query', splits({ url: 'nar/x.nar?y' }), /no file below nar/],
    ['a split twice', splits({}, {}), /split NAR .* comes twice/],
  ]
  for (const [name, changes, problem] of cases) {
    t.match(
      problemIn('SHIPMENT_INVALID', () => parseShipment(changed(bytes, changes))),
      problem,
      name,
    )
  }
  t.match(
    problemIn('SHIPMENT_INVALID', () => formatShipment({ ...sampleManifest, part: 9 }, sign)),
    /it\.part/,
    'is not written either',
  )
})

t.test('file names of sections', async t => {
  const kinds = Object.keys(SECTION_DIRECTORIES) as ShipmentSectionKind[]
  for (const kind of kinds) {
    const file = `narwharf/${SECTION_DIRECTORIES[kind]}/a/b-1.0+x_y=z@1,2`
    t.equal(parseSectionFile(file, kind), file, kind)
  }
  const bad = [
    '/narwharf/index/x',
    'narwharf/index',
    'narwharf/index/',
    'narwharf/index//x',
    'narwharf/index/x/',
    'narwharf/index/.',
    'narwharf/index/..',
    'narwharf/index/../have/x',
    'narwharf/index/x/../../../y',
    'narwharf/index/.hidden',
    'narwharf/index/x.',
    'narwharf/index/x ',
    'narwharf/index/a\\b',
    'narwharf/index/a:b',
    'narwharf/index/a\0b',
    'narwharf/index/a\nb',
    'narwharf/index/café',
    'narwharf/index/a*',
    'narwharf/index/~',
    'narwharf/index/a%2f..',
    'narwharf/indexes/x',
    'Narwharf/index/x',
    './narwharf/index/x',
    `narwharf/index/${'x'.repeat(256)}`,
    `narwharf/index/${'x/'.repeat(600)}x`,
  ]
  for (const file of bad) {
    t.not(
      problemIn('SHIPMENT_INVALID', () => parseSectionFile(file, 'index')),
      'nothing wrong',
      JSON.stringify(file.slice(0, 40)),
    )
  }
})

t.test(
  'damaged bytes give the error of the format, or another value that nobody signed',
  async t => {
    const keys = keyring([depotKey.publicKey])
    let read = 0
    for (const damaged of mutations(bytes, 2000, 4)) {
      let signed: ReturnType<typeof parseShipment>
      try {
        signed = parseShipment(damaged)
      } catch (error) {
        if (!['SHIPMENT_INVALID', 'SHIPMENT_TOO_NEW'].includes((error as { code: string }).code)) {
          throw error
        }
        continue
      }
      read++
      if (!damaged.equals(bytes) && verifySigned(signed, keys) !== undefined) {
        t.fail(`signed: ${damaged.toString('latin1')}`)
      }
    }
    t.ok(read > 0, `${read} of 2000 could be read`)
  },
)

t.test('the files of a split NAR', async t => {
  t.same(splitFiles({ url: 'nar/x.nar.zst', parts: 3 }), [
    'nar/x.nar.zst.000',
    'nar/x.nar.zst.001',
    'nar/x.nar.zst.002',
  ])
})

t.test('the same content has the same id', async t => {
  const path = (n: number, narHash = 'aa') => ({ storePath: storePath(n), narHash })
  const file = { file: 'narwharf/flakes/a.tar.gz', sha256: 'bb' }
  const id = shipmentIdOf({ paths: [path(1), path(2)], sections: [file] })
  t.match(id, /^[0-9a-f]{32}$/)
  t.equal(shipmentIdOf({ paths: new Set([path(2), path(1)]), sections: [file] }), id, 'any order')
  t.not(shipmentIdOf({ paths: [path(1)], sections: [file] }), id)
  t.not(shipmentIdOf({ paths: [path(1), path(2, 'cc')], sections: [file] }), id)
  t.not(shipmentIdOf({ paths: [path(1), path(2)], sections: [] }), id)
})
