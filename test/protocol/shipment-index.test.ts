import { Readable } from 'node:stream'
import t from 'tap'
import { createColumnReader, createColumnWriter } from '../../protocol/columns.ts'
import { encodeIndexAdd, encodeIndexRemoves } from '../../protocol/index-block-encode.ts'
import type { Compression } from '../../protocol/path-info.ts'
import {
  createShipmentIndexReader,
  createShipmentIndexWriter,
  encodeShipmentIndex,
  readShipmentIndex,
  SHIPMENT_INDEX_ENTRIES_MAX,
  SHIPMENT_RECORD_MAX_BYTES,
  shipmentIndexFile,
  shipmentNarUrl,
  type ShipmentEntry,
} from '../../protocol/shipment-index.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import { deflate, inflate, syntheticPaths } from '../helpers/index-paths.ts'
import { mutations } from '../helpers/mutate.ts'
import {
  baseName,
  problemIn,
  sampleEntries,
  shipmentEntry as entry,
  storePath,
} from '../helpers/shipment-samples.ts'

const STORE = '/nix/store'
const encode = (entries: readonly ShipmentEntry[]) => encodeShipmentIndex(entries, STORE, deflate)
const decode = (bytes: Uint8Array): ShipmentEntry[] => {
  const reader = createShipmentIndexReader(inflate)
  const entries = reader.write(bytes)
  reader.end()
  return entries
}
const problem = (work: () => unknown) => problemIn('SHIPMENT_INVALID', work)
const sha256 = (n: number) => ({ algorithm: 'sha256', bytes: Buffer.alloc(32, n) }) as const
const signature = `a-1:${Buffer.alloc(64, 1).toString('base64')}`

t.test('what goes in comes out', async t => {
  const compressions: readonly Compression[] = ['none', 'xz', 'zstd', 'bzip2', 'gzip', 'br']
  const asNar = { compression: 'none', fileHash: sha256(1), fileSize: 101 } as const
  const ownUrl = shipmentNarUrl(Buffer.alloc(32, 1), 'none')
  const cases: [name: string, entries: readonly ShipmentEntry[]][] = [
    ['the sample', sampleEntries],
    ['nothing', []],
    ['each compression', compressions.map((compression, n) => entry(n, { compression }))],
    ['the NAR itself', [entry(1, { ...asNar, url: ownUrl })]],
    ['the NAR itself, elsewhere', [entry(1, { ...asNar, url: 'nar/my.nar' })]],
    ['uncompressed, of unknown size', [entry(1, { ...asNar, fileSize: undefined, url: ownUrl })]],
    ['uncompressed, another hash', [entry(1, { ...asNar, fileHash: sha256(9), url: 'nar/a.nar' })]],
    ['compressed to the same size', [entry(1, { fileSize: 101 })]],
    ['another URL', [entry(1), entry(2, { url: 'nar/ab/cd.nar.zst' }), entry(3)]],
    ['no file hash', [entry(1, { fileHash: undefined, url: 'nar/a.nar.zst' }), entry(2)]],
    ['no file size', [entry(1, { fileSize: undefined })]],
    ['a very large file', [entry(1, { fileSize: Number.MAX_SAFE_INTEGER })]],
    ['split', [entry(1, { parts: 2 }), entry(2), entry(3, { parts: 1000 })]],
    ['built there, signed', [entry(1, { builtHere: true, signatures: [signature] }), entry(2)]],
    [
      'references before, to itself, behind, nowhere; derivers',
      [
        entry(1, { references: [baseName(2), baseName(9)] }),
        entry(2, { references: [baseName(1), baseName(2)], deriver: baseName(8, 'pkg-2.drv') }),
      ],
    ],
  ]
  for (const [name, entries] of cases) t.strictSame(decode(encode(entries)), entries, name)

  const odd = entry(1, { fileHash: { algorithm: 'sha512', bytes: Buffer.alloc(64) } })
  const [read] = decode(encode([odd]))
  t.equal(read?.info.fileHash, undefined, 'a file hash that is not SHA-256 is left out')
  t.equal(read?.info.url, odd.info.url, 'and the URL written')
  const gnu = { ...entry(1).info, storePath: storePath(1).replace('nix', 'gnu') as StorePath }
  const other = [{ builtHere: false, info: gnu, parts: undefined }]
  t.strictSame(decode(encodeShipmentIndex(other, '/gnu/store', deflate)), other)
})

t.test('many records, references across them, in pieces of any size', async t => {
  const entries = Array.from(syntheticPaths(1300), ({ info, builtHere }, n): ShipmentEntry => {
    const { info: where } = entry(n % 256)
    const { url, compression, fileHash, fileSize } = where
    const full = { ca: undefined, deriver: undefined, ...info }
    return {
      builtHere,
      parts: undefined,
      info: { ...full, url, compression, fileHash, fileSize },
    }
  })
  const writer = createShipmentIndexWriter(STORE, deflate)
  const bytes = Buffer.concat([
    writer.add(entries.slice(0, 3)),
    writer.add([]),
    writer.add(entries.slice(3)),
    writer.finish(),
  ])
  t.equal(writer.count, entries.length)
  t.strictSame(decode(bytes), entries)
  for (const size of [1, 7, 1000, 65_536]) {
    const reader = createShipmentIndexReader(inflate)
    const read: ShipmentEntry[] = []
    for (let at = 0; at < bytes.length; at += size) {
      read.push(...reader.write(bytes.subarray(at, at + size)))
    }
    reader.end()
    t.strictSame(read, entries, `${size} bytes at once`)
  }
  const batches: number[] = []
  for await (const some of readShipmentIndex(
    Readable.from([bytes.subarray(0, 50_000), bytes.subarray(50_000)]),
    inflate,
  )) {
    batches.push(some.length)
  }
  t.equal(
    batches.reduce((sum, count) => sum + count, 0),
    entries.length,
  )
})

t.test('a stream that breaks', async t => {
  const bytes = encode(sampleEntries)
  const read = async (chunks: Iterable<Uint8Array>): Promise<number> => {
    let count = 0
    for await (const some of readShipmentIndex(chunks, inflate)) count += some.length
    return count
  }
  t.equal(await read([bytes]), 3)
  t.equal(await read(Array.from(bytes, byte => Buffer.from([byte]))), 3)
  await t.rejects(read([bytes.subarray(0, -1)]), { code: 'SHIPMENT_INVALID', message: /too early/ })
  await t.rejects(read([]), { code: 'SHIPMENT_INVALID', message: /too early/ })
})

t.test('a broken byte poisons the reader', async t => {
  const reader = createShipmentIndexReader(inflate)
  t.match(
    problem(() => reader.write(Buffer.from('x'.repeat(40)))),
    /does not begin/,
  )
  t.match(
    problem(() => reader.write(encode(sampleEntries))),
    /does not begin/,
  )
  t.match(
    problem(() => reader.end()),
    /does not begin/,
  )
})

/** The file with a record of those parts: the block and the columns, changed. */
interface Parts {
  readonly block?: Uint8Array
  readonly plain?: (plain: Buffer) => Uint8Array
  readonly raw?: (raw: Buffer) => Uint8Array
  readonly plainLength?: number
  readonly deflated?: Uint8Array
}

const one = [entry(1)]
const HEADER = Buffer.concat([
  Buffer.from('narwharf-index 1\n'),
  Buffer.from([10]),
  Buffer.from(STORE),
])
const blockOf = (entries: readonly ShipmentEntry[]) =>
  encodeIndexAdd(entries, { firstPosition: 0, positionOf: () => undefined }, deflate)

function written(fill: (writer: ReturnType<typeof createColumnWriter>) => void): Buffer {
  const writer = createColumnWriter()
  fill(writer)
  return writer.finish()
}

/** A whole file around one record. */
const fileOf = (body: Uint8Array, count = 1): Buffer =>
  Buffer.concat([
    HEADER,
    written(writer => {
      writer.number(body.length)
      writer.bytes(body)
      writer.number(0)
      writer.number(count)
    }),
  ])

function forge(entries: readonly ShipmentEntry[], parts: Parts): Buffer {
  const file = createColumnReader(encode(entries).subarray(HEADER.length), 'SHIPMENT_INVALID', '')
  const body = createColumnReader(file.bytes(file.number()), 'SHIPMENT_INVALID', '')
  const block = body.bytes(body.number())
  const [rawLength, plainLength] = [body.number(), body.number()]
  const rawBytes = body.bytes(rawLength)
  const plainBytes = inflate(body.bytes(body.left()), plainLength)
  const raw = parts.raw?.(rawBytes) ?? rawBytes
  const plain = parts.plain?.(plainBytes) ?? plainBytes
  return fileOf(
    written(writer => {
      const chosen = parts.block ?? block
      writer.number(chosen.length)
      writer.bytes(chosen)
      writer.number(raw.length)
      writer.number(parts.plainLength ?? plain.length)
      writer.bytes(raw)
      writer.bytes(parts.deflated ?? deflate(plain))
    }),
    entries.length,
  )
}

const codeTo = (code: number) => (plain: Buffer) => Buffer.from([code, ...plain.subarray(1)])

t.test('hostile files', async t => {
  t.strictSame(decode(forge(one, {})), one, 'the forger can do it right')
  const bytes = encode(one)
  const withUrl = [entry(1, { url: 'nar/abc.nar.zst' })]
  const urlTo = (text: string) => (plain: Buffer) =>
    Buffer.concat([plain.subarray(0, 2), written(writer => writer.text(text))])
  const gnu = { ...entry(1).info, storePath: storePath(1).replace('nix', 'gnu') as StorePath }
  const cases: [name: string, bytes: Uint8Array, problem: RegExp][] = [
    ['an older version', Buffer.from('narwharf-index 0\n'), /does not begin with narwharf-index 1/],
    ['an odd version', Buffer.from('narwharf-index x\n'), /does not begin/],
    ['no store directory', Buffer.from('narwharf-index 1\n\0'), /invalid store path/],
    ['an odd one', Buffer.from('narwharf-index 1\n\x03abc'), /invalid store path/],
    ['a long one', Buffer.from('narwharf-index 1\n\xff\xff\x7f', 'latin1'), /at most 1024/],
    ['an endless number', Buffer.concat([HEADER, Buffer.alloc(9, 0x80)]), /ends too early/],
    ['a number written long', Buffer.concat([HEADER, Buffer.from([0x80, 0])]), /too long/],
    [
      'a record larger than any',
      Buffer.concat([HEADER, written(writer => writer.number(SHIPMENT_RECORD_MAX_BYTES + 1))]),
      /at most/,
    ],
    ['an empty file', Buffer.alloc(0), /ends too early/],
    ['bytes behind', Buffer.concat([bytes, Buffer.from([0])]), /bytes behind its end/],
    ['no count', Buffer.concat([HEADER, Buffer.from([0])]), /ends too early/],
    ['more paths than it says', Buffer.concat([bytes.subarray(0, -1), Buffer.from([0])]), /says 0/],
    ['a record cut short', fileOf(Buffer.from([1])), /ends too early/],
    ['a block that is none', fileOf(Buffer.from([1, 9])), /unknown kind of record 9/],
    [
      'a record that removes',
      forge(one, { block: encodeIndexRemoves([1])[0] as Buffer }),
      /adds nothing/,
    ],
    [
      'a block of another store',
      forge(one, { block: blockOf([{ ...entry(1), info: gnu }]) }),
      /gnu/,
    ],
    [
      'a position that is not there',
      forge(one, {
        block: encodeIndexAdd(
          [entry(1, { references: [baseName(7)] })],
          { firstPosition: 5, positionOf: () => 2 },
          deflate,
        ),
      }),
      /nothing stands at position -3/,
    ],
    ['columns for fewer paths', forge(one, { block: blockOf([entry(1), entry(2)]) }), /too/],
    ['an unknown compression', forge(one, { plain: codeTo(6 | 8) }), /unknown code 14/],
    ['an unknown flag', forge(one, { plain: codeTo(0x80 | 8 | 2) }), /unknown code 138/],
    ['no hash and no URL', forge(one, { plain: codeTo(2) }), /neither a file hash nor a URL/],
    [
      'compressed, and the NAR itself',
      forge(one, { plain: () => Buffer.from([2 | 16, 0]) }),
      /odd code 18/,
    ],
    [
      'the NAR itself with another hash',
      forge(one, { plain: () => Buffer.from([0 | 8 | 16, 0]) }),
      /odd code 24/,
    ],
    ['a hash too few', forge(one, { raw: raw => raw.subarray(1) }), /ends too early/],
    ['a hash too many', forge(one, { raw: raw => Buffer.concat([raw, raw]) }), /32 bytes too many/],
    [
      'a column too many',
      forge(one, { plain: plain => Buffer.concat([plain, plain]) }),
      /too many/,
    ],
    ['columns that do not inflate', forge(one, { deflated: Buffer.from([255]) }), /index file: /],
    ['columns of another length', forge(one, { plainLength: 90 }), /another length/],
    ['columns that inflate to more', forge(one, { plainLength: 1 }), /index file: /],
    ['a URL that climbs', forge(withUrl, { plain: urlTo('../../etc/passwd') }), /leaves the cache/],
    ['a URL elsewhere', forge(withUrl, { plain: urlTo('file:///etc/passwd') }), /empty segment/],
    ['an absolute URL', forge(withUrl, { plain: urlTo('/etc/passwd') }), /absolute/],
    ['no URL', forge(withUrl, { plain: urlTo('') }), /URL/],
    [
      'two URLs for one',
      forge(withUrl, { plain: urlTo('nar/a.nar\nnar/b.nar') }),
      /other than 1 URLs/,
    ],
    ['a URL for none', forge(one, { plain: urlTo('nar/a.nar') }), /other than 0 URLs/],
    [
      'split into one',
      forge([entry(1, { parts: 2 })], {
        plain: plain => Buffer.from([...plain.subarray(0, 2), 1, 0]),
      }),
      /split into 1/,
    ],
  ]
  for (const [name, forged, message] of cases) {
    t.match(
      problem(() => decode(forged)),
      message,
      name,
    )
  }
})

t.test('more paths than a reader is to remember', async t => {
  const reader = createShipmentIndexReader(inflate, 2)
  t.match(
    problem(() => reader.write(encode(sampleEntries))),
    /more than 2 paths/,
  )
  t.equal(createShipmentIndexReader(inflate, 3).write(encode(sampleEntries)).length, 3)
})

t.test('a newer version is another format', async t => {
  t.throws(() => decode(Buffer.from('narwharf-index 2\nwhatever')), {
    code: 'SHIPMENT_TOO_NEW',
    message: 'narwharf-index is of version 2, this narwharf knows 1',
  })
})

t.test('what cannot be said is not written', async t => {
  const writer = () => createShipmentIndexWriter(STORE, deflate)
  const gnu = { ...entry(1).info, storePath: storePath(1).replace('nix', 'gnu') as StorePath }
  const cases: [name: string, work: () => unknown, problem: RegExp][] = [
    ['no store directory', () => createShipmentIndexWriter('nix', deflate).finish(), /store path/],
    [
      'a path of another store',
      () => writer().add([{ builtHere: false, info: gnu }]),
      /another store/,
    ],
    ['one path twice in a block', () => writer().add([entry(1), entry(1)]), /comes twice/],
    ['a URL that climbs', () => writer().add([entry(1, { url: '../x' })]), /leaves the cache/],
    ['split into one', () => writer().add([entry(1, { parts: 1 })]), /is split into 1/],
    ['split into very many', () => writer().add([entry(1, { parts: 2000 })]), /split into 2000/],
    [
      'one path twice',
      () => {
        const both = writer()
        both.add([entry(1)])
        both.add([entry(1)])
      },
      /comes twice/,
    ],
    [
      'more than a file may have',
      () => writer().add(Array(SHIPMENT_INDEX_ENTRIES_MAX + 1).fill(entry(1))),
      /more than 262144 paths/,
    ],
  ]
  for (const [name, work, message] of cases) t.match(problem(work), message, name)
})

t.test('damaged bytes give the error of the format', async t => {
  const bytes = encode(sampleEntries)
  let refused = 0
  for (const damaged of mutations(bytes, 3000, 11)) {
    if (problem(() => decode(damaged)) !== 'nothing wrong') refused++
  }
  t.ok(refused > 1000, `${refused} of 3000 refused`)
})

t.test('where they lie', async t => {
  t.equal(shipmentIndexFile(1), 'narwharf/index/000001.blk')
  t.equal(shipmentNarUrl(Buffer.alloc(32), 'none'), `nar/${'0'.repeat(52)}.nar`)
  t.equal(shipmentNarUrl(Buffer.alloc(32), 'xz'), `nar/${'0'.repeat(52)}.nar.xz`)
})
