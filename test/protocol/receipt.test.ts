import t from 'tap'
import {
  formatReceipt,
  parseReceipt,
  RECEIPT_DAMAGED_MAX,
  type Receipt,
} from '../../protocol/receipt.ts'
import { keyring } from '../../protocol/signature.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import { changed, depotKey, problemIn, sampleReceipt, sign } from '../helpers/shipment-samples.ts'

const bytes = formatReceipt(sampleReceipt, sign)
const [damaged] = sampleReceipt.damaged

t.test('what goes in comes out', async t => {
  const cases: [name: string, receipt: Receipt][] = [
    ['all there is', sampleReceipt],
    ['a plain cache', { ...sampleReceipt, shipment: undefined }],
    ['a host without a site', { ...sampleReceipt, site: undefined }],
    ['all went well', { ...sampleReceipt, damaged: [], missing: [] }],
    ['cancelled', { ...sampleReceipt, complete: false, left: 7 }],
  ]
  for (const [name, receipt] of cases) {
    const read = parseReceipt(formatReceipt(receipt, sign))
    t.strictSame(read.receipt, receipt, name)
    t.equal(verifySigned(read, keyring([depotKey.publicKey])), depotKey.name)
  }
})

t.test('what a newer minor version brings is passed over', async t => {
  const newer = changed(bytes, { version: '1.1', x: 1, damaged: [{ ...damaged, y: 2 }] })
  t.strictSame(parseReceipt(newer).receipt, { ...sampleReceipt, damaged: [damaged] })
  t.throws(() => parseReceipt(changed(bytes, { version: '2.0' })), { code: 'SHIPMENT_TOO_NEW' })
})

t.test('hostile receipts', async t => {
  const { shipment } = sampleReceipt
  const cases: [name: string, changes: Readonly<Record<string, unknown>>, problem: RegExp][] = [
    ['a shipment that is none', { shipment: [] }, /it\.shipment is no object/],
    ['an id that is none', { shipment: { ...shipment, id: 'x' } }, /it\.shipment\.id/],
    ['part 4 of 3', { shipment: { ...shipment, part: 4 } }, /it\.shipment\.part/],
    ['no drive', { drive: undefined }, /it\.drive is no text/],
    ['a host that is a path', { host: '/etc' }, /it\.host/],
    ['a site that is a path', { site: '/etc' }, /it\.site/],
    ['no time', { at: '' }, /it\.at/],
    ['no store directory', { storeDir: '/' }, /it\.storeDir/],
    ['perhaps complete', { complete: 1 }, /it\.complete is neither/],
    ['less than nothing', { came: -1 }, /it\.came/],
    ['no bytes', { bytes: null }, /it\.bytes/],
    ['a count that is a text', { wasThere: '1' }, /it\.wasThere/],
    ['no rest', { left: undefined }, /it\.left/],
    ['damage that is none', { damaged: [1] }, /it\.damaged\[0\] is no object/],
    [
      'damage elsewhere',
      { damaged: [{ ...damaged, storePath: '/etc' }] },
      /damaged\[0\]\.storePath/,
    ],
    [
      'damage of two lines',
      { damaged: [{ ...damaged, problem: 'a\nb' }] },
      /damaged\[0\]\.problem/,
    ],
    ['repaired by nobody', { damaged: [{ ...damaged, repairedFrom: '' }] }, /repairedFrom/],
    [
      'all is damaged',
      { damaged: Array(RECEIPT_DAMAGED_MAX + 1).fill(0) },
      /more than 10000 items/,
    ],
    ['missing elsewhere', { missing: ['/etc/passwd'] }, /it\.missing\[0\]/],
  ]
  for (const [name, changes, problem] of cases) {
    t.match(
      problemIn('RECEIPT_INVALID', () => parseReceipt(changed(bytes, changes))),
      problem,
      name,
    )
  }
  t.match(
    problemIn('RECEIPT_INVALID', () => formatReceipt({ ...sampleReceipt, drive: '' }, sign)),
    /it\.drive/,
    'is not written either',
  )
})
