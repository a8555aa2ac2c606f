import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { decodeHaveDigest, encodeHaveDigest } from '../../protocol/have-digest.ts'
import { formatReceipt, parseReceipt } from '../../protocol/receipt.ts'
import { createShipmentIndexReader, encodeShipmentIndex } from '../../protocol/shipment-index.ts'
import {
  formatShipment,
  parseShipment,
  shipmentIdOf,
  type ShipmentManifest,
} from '../../protocol/shipment.ts'
import { keyring } from '../../protocol/signature.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import { formatWantList, parseWantList } from '../../protocol/want-list.ts'
import { deflate, inflate } from '../helpers/index-paths.ts'
import {
  baseName,
  depotKey,
  hashPart,
  sampleEntries,
  sampleHaveAbout,
  sampleManifest,
  sampleReceipt,
  sampleWantList,
  sign,
} from '../helpers/shipment-samples.ts'

// What lies on drives out there must be read for ever: the files below are the first that were written.
// `npx tap run --snapshot test/protocol/shipment-golden.test.ts` writes them anew: only for a format with another number.

const DIR = 'test/fixtures/protocol/shipment'
const held = [hashPart(1), hashPart(4)]
const fixture = (name: string): Buffer => readFileSync(`${DIR}/${name}`)
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** The sample's manifest, made to fit its index file and have digest. */
function manifestFor(index: Buffer, have: Buffer): ShipmentManifest {
  const paths = sampleEntries.map(({ info: { storePath, narHash } }) => ({
    storePath,
    narHash: Buffer.from(narHash.bytes).toString('hex'),
  }))
  return {
    ...sampleManifest,
    id: shipmentIdOf({ paths, sections: [] }),
    part: 1,
    parts: 1,
    against: { site: 'kerguelen', digest: sha256(have) },
    sections: [
      {
        kind: 'index',
        file: 'narwharf/index/000001.blk',
        size: index.length,
        sha256: sha256(index),
      },
    ],
  }
}

const have = () => encodeHaveDigest(held, sampleHaveAbout, sign)

if (process.env.TAP_SNAPSHOT === '1') {
  const index = encodeShipmentIndex(sampleEntries, '/nix/store', deflate)
  writeFileSync(`${DIR}/000001.blk`, index)
  writeFileSync(`${DIR}/kerguelen.have`, have())
  writeFileSync(`${DIR}/shipment.json`, formatShipment(manifestFor(index, have()), sign))
  writeFileSync(`${DIR}/want.json`, formatWantList(sampleWantList, sign))
  writeFileSync(`${DIR}/receipt.json`, formatReceipt(sampleReceipt, sign))
}

const keys = keyring([depotKey.publicKey])

t.test('a shipment written long ago is read', async t => {
  const index = fixture('000001.blk')
  const manifest = manifestFor(index, fixture('kerguelen.have'))
  const shipment = parseShipment(fixture('shipment.json'))
  t.strictSame(shipment.manifest, manifest)
  t.equal(verifySigned(shipment, keys), depotKey.name)
  t.ok(formatShipment(manifest, sign).equals(fixture('shipment.json')), 'and written the same')
  const reader = createShipmentIndexReader(inflate)
  t.strictSame(reader.write(index), sampleEntries)
  reader.end()
})

t.test('what travels back, likewise', async t => {
  const wants = parseWantList(fixture('want.json'))
  t.strictSame(wants.list, sampleWantList)
  t.equal(verifySigned(wants, keys), depotKey.name)
  t.ok(formatWantList(sampleWantList, sign).equals(fixture('want.json')))
  const receipt = parseReceipt(fixture('receipt.json'))
  t.strictSame(receipt.receipt, sampleReceipt)
  t.equal(verifySigned(receipt, keys), depotKey.name)
  t.ok(formatReceipt(sampleReceipt, sign).equals(fixture('receipt.json')))
  const digest = decodeHaveDigest(fixture('kerguelen.have'))
  t.match(digest, { site: 'kerguelen', count: 2, shipments: sampleHaveAbout.shipments })
  t.same(
    [1, 2, 3, 4].map(n => digest.has(hashPart(n))),
    [true, false, false, true],
  )
  t.equal(verifySigned(digest, keys), depotKey.name)
  t.ok(have().equals(fixture('kerguelen.have')))
})

t.test('docs/shipment-format.md shows these bytes', async t => {
  const page = readFileSync('docs/shipment-format.md', 'utf8')
  const { signature } = JSON.parse(fixture('shipment.json').toString()) as { signature: string }
  t.match(page, signature, 'the manifest')
  t.match(page, baseName(3), 'its root')
  for (const name of ['000001.blk', 'kerguelen.have']) {
    const bytes = fixture(name)
    const [first = '', last = ''] = [bytes.subarray(0, 16), bytes.subarray(-16)].map(dump)
    t.match(page, first, `the beginning of ${name}`)
    t.match(page, last, `the end of ${name}`)
  }
})

const dump = (bytes: Buffer): string => (bytes.toString('hex').match(/../g) ?? []).join(' ')
