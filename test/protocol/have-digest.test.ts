import { createHash } from 'node:crypto'
import t from 'tap'
import {
  decodeHaveDigest,
  encodeHaveDigest,
  HAVE_DIGEST_MAX_BYTES,
  HAVE_PATHS_MAX,
} from '../../protocol/have-digest.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { keyring } from '../../protocol/signature.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import {
  changed,
  depotKey,
  hashPart,
  problemIn,
  sampleHaveAbout as about,
  sign,
} from '../helpers/shipment-samples.ts'
import { mutations } from '../helpers/mutate.ts'

/** Hash parts as a store has them, the n-th always the same. */
const partsFrom = (from: number, count: number): HashPart[] =>
  Array.from(
    { length: count },
    (_, n) =>
      encodeNix32(
        createHash('sha256')
          .update(String(from + n))
          .digest()
          .subarray(0, 20),
      ) as HashPart,
  )
const encode = (parts: Iterable<HashPart>, extra: Partial<typeof about> = {}) =>
  encodeHaveDigest(parts, { ...about, ...extra }, sign)
const problem = (bytes: Uint8Array) =>
  problemIn('HAVE_DIGEST_INVALID', () => decodeHaveDigest(bytes))

const MAGIC_BYTES = 16
const HEADER_AT = MAGIC_BYTES + 4

/** A digest taken apart, changed, and put together again with a header that says so. */
function forge(
  bytes: Buffer,
  {
    header = {},
    set = {},
    body = setOf(bytes),
    more = [],
  }: {
    readonly header?: object
    readonly set?: object
    readonly body?: Buffer
    readonly more?: readonly (readonly [section: object, body: Buffer])[]
  },
): Buffer {
  const json = bytes.subarray(HEADER_AT, HEADER_AT + bytes.readUInt32LE(MAGIC_BYTES))
  const { sections } = JSON.parse(json.toString()) as { sections: object[] }
  const sealed = (section: object, content: Buffer) => ({
    ...section,
    size: content.length,
    sha256: createHash('sha256').update(content).digest('hex'),
  })
  const changedHeader = changed(json, {
    sections: [
      ...more.map(([section, content]) => sealed(section, content)),
      { ...sealed(sections[0] as object, body), ...set },
    ],
    ...header,
  })
  const length = Buffer.alloc(4)
  length.writeUInt32LE(changedHeader.length)
  return Buffer.concat([
    bytes.subarray(0, MAGIC_BYTES),
    length,
    changedHeader,
    ...more.map(([, content]) => content),
    body,
  ])
}

const setOf = (bytes: Buffer): Buffer => bytes.subarray(HEADER_AT + bytes.readUInt32LE(MAGIC_BYTES))

t.test('says what is there and what is not', async t => {
  const absent = partsFrom(20_000, 20_000)
  const present = partsFrom(0, 20_000)
  for (const count of [0, 1, 2, 7, 8, 9, 1000, 20_000]) {
    const parts = present.slice(0, count)
    const digest = decodeHaveDigest(encode(parts))
    t.equal(digest.count, count)
    t.ok(parts.every(digest.has), `all of ${count}`)
    t.notOk(absent.some(digest.has), 'and nothing else')
  }
})

t.test('what it says beside', async t => {
  const bytes = encode([hashPart(2), hashPart(1), hashPart(2)])
  const { site, createdAt, shipments } = about
  const digest = decodeHaveDigest(bytes)
  t.match(digest, { site, createdAt, shipments, count: 2 })
  t.equal(digest.id, createHash('sha256').update(bytes).digest('hex'))
  t.equal(
    digest.root,
    createHash('sha256')
      .update(`${hashPart(1)}\n${hashPart(2)}\n`)
      .digest('hex'),
  )
  t.equal(verifySigned(digest, keyring([depotKey.publicKey])), depotKey.name)
  t.ok(encode(new Set([hashPart(1), hashPart(2)])).equals(bytes), 'whatever the order')
  const salted = decodeHaveDigest(encode([hashPart(1), hashPart(2)], { salt: Buffer.alloc(16) }))
  t.not(salted.id, digest.id)
  t.equal(salted.root, digest.root, 'the same paths under another salt')
  t.ok(salted.has(hashPart(1)))
  t.strictSame(decodeHaveDigest(encode([], { shipments: [] })).shipments, [])
})

t.test('two paths of one value are both there', async t => {
  const parts = partsFrom(0, 3)
  const bytes = encode(parts)
  // All gaps zero: every path of the digest has the value 0.
  const body = Buffer.concat([Buffer.from([0b111]), Buffer.alloc(12)])
  const digest = decodeHaveDigest(forge(bytes, { body }))
  t.equal(digest.count, 3)
  t.equal(parts.filter(digest.has).length, 0)
})

t.test('sections to come are passed over', async t => {
  const parts = partsFrom(0, 10)
  const listing = [{ kind: 'listing', of: 'nixos-25.11' }, Buffer.from('bits')] as const
  const digest = decodeHaveDigest(forge(encode(parts), { more: [listing], header: { x: 1 } }))
  t.equal(digest.count, 10)
  t.ok(parts.every(digest.has))
  t.match(digest.signedBytes.toString(), /nixos-25\.11/)
})

t.test('100,000 paths have less than 430 KB', async t => {
  const parts = partsFrom(0, 100_000)
  const bytes = encode(parts)
  t.ok(bytes.length < 430_000, `${bytes.length} bytes`)
  const digest = decodeHaveDigest(bytes)
  t.ok(parts.every(digest.has))
  t.notOk(partsFrom(100_000, 20_000).some(digest.has))
})

t.test('hostile digests', async t => {
  const bytes = encode(partsFrom(0, 9))
  const body = setOf(bytes)
  const remainders = body.subarray(body.length - 36)
  const withQuotients = (...quotients: number[]) =>
    Buffer.concat([Buffer.from(quotients), remainders])
  const [merged] = about.shipments
  const shipments = (change: object) => ({ header: { shipments: [{ ...merged, ...change }] } })
  const cases: [name: string, bytes: Uint8Array, problem: RegExp][] = [
    ['nothing', Buffer.alloc(0), /does not begin/],
    ['only the magic', bytes.subarray(0, MAGIC_BYTES), /ends too early/],
    ['another file', Buffer.from('x'.repeat(100)), /does not begin/],
    ['larger than any', Buffer.alloc(HAVE_DIGEST_MAX_BYTES + 1), /larger than/],
    ['a header that is cut off', bytes.subarray(0, 40), /ends too early/],
    ['a header of 4 GiB', Buffer.concat([bytes.subarray(0, 16), Buffer.alloc(4, 255)]), /early/],
    ['a set that is cut off', bytes.subarray(0, -1), /ends too early/],
    ['bytes behind', Buffer.concat([bytes, Buffer.alloc(3)]), /3 bytes too many/],
    [
      'a set that was changed',
      Buffer.concat([bytes.subarray(0, -1), Buffer.from([0x55])]),
      /it\.sections\[0\] is damaged/,
    ],
    ['no set', forge(bytes, { set: { kind: 'listing' } }), /other than one set/],
    [
      'two sets',
      forge(bytes, { more: [[{ kind: 'set', count: 0, salt: '00'.repeat(16) }, Buffer.alloc(0)]] }),
      /other than one set/,
    ],
    ['a section that is none', forge(bytes, { header: { sections: [3] } }), /is no object/],
    ['more sections than any', forge(bytes, { header: { sections: Array(1025).fill(0) } }), /1024/],
    ['a count of more than any', forge(bytes, { set: { count: HAVE_PATHS_MAX + 1 } }), /\.count/],
    ['a count that its bytes do not hold', forge(bytes, { set: { count: 10 } }), /set of 10 paths/],
    ['a count far too large', forge(bytes, { set: { count: HAVE_PATHS_MAX } }), /does not have/],
    ['a count too small', forge(bytes, { set: { count: 8 } }), /set of 8 paths/],
    ['no salt', forge(bytes, { set: { salt: '' } }), /\.salt/],
    ['fewer ones', forge(bytes, { body: withQuotients(0xff, 0) }), /fewer paths than it says/],
    ['more ones', forge(bytes, { body: withQuotients(0xff, 3) }), /more paths than it says/],
    ['a byte too many', forge(bytes, { body: withQuotients(0xff, 1, 0) }), /longer than it need/],
    [
      'a value that is too large',
      forge(bytes, { body: withQuotients(0, 0xfe, 0x03) }),
      /value of a set is too large/,
    ],
    ['a root that is none', forge(bytes, { header: { root: 'x' } }), /it\.root/],
    ['a site that is a path', forge(bytes, { header: { site: '/' } }), /it\.site/],
    ['no time', forge(bytes, { header: { createdAt: 'x' } }), /it\.createdAt/],
    ['no ledger', forge(bytes, { header: { shipments: undefined } }), /shipments is no list/],
    ['a shipment that is none', forge(bytes, shipments({ id: 'x' })), /shipments\[0\]\.id/],
    ['part 4 of 3', forge(bytes, shipments({ parts: [4] })), /odd parts/],
    ['part 0', forge(bytes, shipments({ parts: [0] })), /odd parts/],
    ['a part twice', forge(bytes, shipments({ parts: [2, 2] })), /odd parts/],
    ['half a part', forge(bytes, shipments({ parts: ['1'] })), /odd parts/],
    ['parts of nothing', forge(bytes, shipments({ of: 0 })), /shipments\[0\]\.of/],
  ]
  for (const [name, forged, message] of cases) t.match(problem(forged), message, name)
  t.throws(() => decodeHaveDigest(forge(bytes, { header: { version: '2.0' } })), {
    code: 'SHIPMENT_TOO_NEW',
  })
  const newer = Buffer.concat([Buffer.from('narwharf-have 2\n'), bytes.subarray(MAGIC_BYTES)])
  t.throws(() => decodeHaveDigest(newer), { code: 'SHIPMENT_TOO_NEW' })
})

t.test('what could not be read again is not written', async t => {
  const cases: [name: string, extra: Partial<typeof about>, problem: RegExp][] = [
    ['a short salt', { salt: Buffer.alloc(8) }, /a salt of 8 bytes/],
    ['a site that is a path', { site: '/' }, /it\.site/],
    ['a ledger that is none', { shipments: [{ id: 'x', parts: [1], of: 1 }] }, /shipments\[0\]/],
  ]
  for (const [name, extra, message] of cases) {
    t.match(
      problemIn('HAVE_DIGEST_INVALID', () => encode([], extra)),
      message,
      name,
    )
  }
  function* countless(): Generator<HashPart> {
    const [one] = partsFrom(0, 1) as [HashPart]
    // Doubles count: what came is in memory.
    for (let n = 0; n <= HAVE_PATHS_MAX; n++) yield one
  }
  t.match(
    problemIn('HAVE_DIGEST_INVALID', () => encode(countless())),
    /more than 2097152 paths/,
  )
})

t.test('damaged bytes give the error of the format', async t => {
  const bytes = encode(partsFrom(0, 50))
  let refused = 0
  for (const damaged of mutations(bytes, 2000, 9)) {
    if (damaged.equals(bytes)) continue
    if (problem(damaged) !== 'nothing wrong') refused++
    else {
      // Only the header's own words can change without notice; then nobody signed them.
      t.equal(verifySigned(decodeHaveDigest(damaged), keyring([depotKey.publicKey])), undefined)
    }
  }
  t.ok(refused > 1500, `${refused} refused`)
})
