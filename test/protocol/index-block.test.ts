import { randomBytes } from 'node:crypto'
import { deflateRawSync } from 'node:zlib'
import t from 'tap'
import { createColumnReader, createColumnWriter } from '../../protocol/columns.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import {
  baseNameAt,
  decodeIndexBlock,
  indexPathsOf,
  INDEX_BLOCK_MAX_BYTES,
  INDEX_ENTRIES_MAX,
  INDEX_REMOVALS_MAX,
} from '../../protocol/index-block.ts'
import type { IndexAdd, IndexBlock, IndexPath } from '../../protocol/index-block.ts'
import {
  encodeIndexAdd,
  encodeIndexAdds,
  encodeIndexRemoves,
  pathsForBlock,
  type IndexAddPlace,
} from '../../protocol/index-block-encode.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { baseNameOf } from '../../protocol/store-path.ts'
import type { BaseName, StorePath } from '../../protocol/store-path.ts'
import { deflate, inflate, realStorePaths, syntheticPaths } from '../helpers/index-paths.ts'
import { mutations } from '../helpers/mutate.ts'

const part = (n: number) => encodeNix32(Buffer.alloc(20, n))
const base = (n: number, name = `pkg-${n}`) => `${part(n)}-${name}` as BaseName
const sha256 = (n: number) => ({ algorithm: 'sha256', bytes: Buffer.alloc(32, n) }) as const
const signature = (key: string, n: number) => `${key}:${Buffer.alloc(64, n).toString('base64')}`

type Extra = Partial<IndexPath['info']> & { readonly builtHere?: boolean; readonly name?: string }

const path = (n: number, { builtHere = false, name, ...extra }: Extra = {}): IndexPath => ({
  builtHere,
  info: {
    storePath: `/nix/store/${base(n, name)}` as StorePath,
    narHash: sha256(n),
    narSize: 100 + n,
    references: [],
    ca: undefined,
    signatures: [],
    deriver: undefined,
    ...extra,
  },
})

const nowhere: IndexAddPlace = { firstPosition: 0, positionOf: () => undefined }
const problem = (work: () => unknown): string => {
  try {
    work()
  } catch (error) {
    if (isNarwharfError(error, 'INDEX_INVALID')) return error.message
    throw error
  }
  return 'nothing wrong'
}
const decodeAdd = (bytes: Uint8Array): IndexAdd => {
  const block = decodeIndexBlock(bytes, inflate)
  if (block.kind !== 'add') throw new Error('not an add record')
  return block
}
/** Encodes, decodes and resolves. */
const roundTrip = (paths: readonly IndexPath[], place = nowhere, known: BaseName[] = []) =>
  indexPathsOf(
    decodeAdd(encodeIndexAdd(paths, place, deflate)),
    place.firstPosition,
    position => known[position],
  )

t.test('what goes in comes out', async t => {
  const hash = encodeNix32(Buffer.alloc(32, 7))
  const sha512 = encodeNix32(Buffer.alloc(64, 7))
  const cases: [name: string, paths: readonly IndexPath[]][] = [
    ['one path', [path(1)]],
    ['built here', [path(1, { builtHere: true }), path(2)]],
    [
      'a reference to itself and to one before',
      [path(1), path(2, { references: [base(1), base(2)] })],
    ],
    ['a reference to a later one', [path(1, { references: [base(2)] }), path(2)]],
    [
      'references to what is not there',
      [path(1, { references: [base(8), base(9)] }), path(2, { references: [base(9)] })],
    ],
    [
      'a size beyond 32 bits',
      [path(1, { narSize: Number.MAX_SAFE_INTEGER }), path(2, { narSize: 2 ** 32 })],
    ],
    ['the deriver of the name', [path(1, { name: 'a-1-dev', deriver: base(9, 'a-1.drv') })]],
    [
      'the deriver of two',
      [
        path(1, { name: 'a', deriver: base(9, 'a.drv') }),
        path(2, { name: 'a-dev', deriver: base(9, 'a.drv') }),
      ],
    ],
    [
      'a deriver of another name',
      [path(1, { deriver: base(9, 'other.drv') }), path(2, { deriver: base(8, 'no-derivation') })],
    ],
    [
      'a deriver before, behind, and among the references',
      [
        path(3, { deriver: base(4, 'x.drv') }),
        path(4, { name: 'x.drv' }),
        path(5, { deriver: base(4, 'x.drv') }),
        path(6, { references: [base(9, 'pkg.drv')], deriver: base(9, 'pkg.drv') }),
      ],
    ],
    ['the deriver of a one-letter name', [path(1, { name: 'a', deriver: base(9, '.drv') })]],
    ...[
      `fixed:r:sha256:${encodeNix32(Buffer.alloc(32, 1))}`,
      `text:sha256:${hash}`,
      `fixed:md5:${encodeNix32(Buffer.alloc(16, 7))}`,
      `fixed:sha1:${encodeNix32(Buffer.alloc(20, 7))}`,
      `fixed:sha256:${hash}`,
      `fixed:sha512:${sha512}`,
      `fixed:r:md5:${encodeNix32(Buffer.alloc(16, 7))}`,
      `fixed:r:sha1:${encodeNix32(Buffer.alloc(20, 7))}`,
      `fixed:r:sha256:${hash}`,
      `fixed:r:sha512:${sha512}`,
    ].map((ca): [string, IndexPath[]] => [ca, [path(1, { ca }), path(2)]]),
    [
      'signatures',
      [
        path(1, { signatures: [signature('a-1', 1), signature('a-1', 2), signature('b-1', 1)] }),
        path(2),
        path(3, { signatures: [signature('b-1', 9)] }),
      ],
    ],
  ]
  for (const [name, paths] of cases) t.strictSame(roundTrip(paths), paths, name)

  t.strictSame(
    roundTrip([
      path(1, {
        signatures: [signature('b', 1), 'b:short', signature('a', 1), signature('b', 1)],
        ca: 'fixed:git:sha1:x',
      }),
    ]),
    [path(1, { signatures: [signature('a', 1), signature('b', 1)] })],
    'what proves nothing is left out, signatures come in order and once',
  )
  const other = {
    ...path(1),
    info: { ...path(1).info, storePath: `/gnu/store/${base(1)}` as StorePath },
  }
  t.strictSame(roundTrip([other]), [other], 'another store directory')
})

t.test('references to earlier blocks are distances', async t => {
  const known = [base(1), base(2), base(3, 'pkg-3.drv')]
  const place = {
    firstPosition: 3,
    positionOf: (name: BaseName) => (known.indexOf(name) + 1 ? known.indexOf(name) : undefined),
  }
  const paths = [
    path(4, { references: [base(1)] }),
    path(5, { references: [base(1), base(2), base(4), base(9)], deriver: base(3, 'pkg-3.drv') }),
  ]
  const bytes = encodeIndexAdd(paths, place, deflate)
  t.strictSame(decodeAdd(bytes).outside, [3, 1, 2, base(9)], 'the most used first, base names last')
  t.strictSame(roundTrip(paths, place, known), paths)
  t.match(
    problem(() => roundTrip(paths, place, known.slice(0, 1))),
    /nothing stands at position 2/,
  )
  t.match(
    problem(() => roundTrip(paths, place, [base(1), base(1), base(3)])),
    /refers to one path twice/,
  )
  for (const position of [3, -1e10, 0.5 / 0]) {
    t.match(
      problem(() => encodeIndexAdd(paths, { ...place, positionOf: () => position }, deflate)),
      /is not before 3/,
      String(position),
    )
  }

  const many = [...syntheticPaths(1700)]
  const blocks = encodeIndexAdds(many, { firstPosition: 10, positionOf: () => undefined }, deflate)
  t.equal(blocks.length, 4, 'blocks of 500')
  const names: BaseName[] = []
  const out = blocks.flatMap(bytes => {
    const block = decodeAdd(bytes)
    const first = names.length
    for (let at = 0; at < block.count; at++) names.push(baseNameAt(block, at))
    t.notOk(
      block.outside.some(link => typeof link === 'string'),
      'no base name is written out',
    )
    return indexPathsOf(block, first + 10, position => names[position - 10])
  })
  t.match(out, many)
})

t.test('few go into a block that says much of each', t => {
  const references = Array.from(
    { length: 9000 },
    (_, n) => `${encodeNix32(randomBytes(20))}-${'x'.repeat(100)}${n}` as BaseName,
  ).sort()
  const paths = [path(1, { references }), path(2, { references }), path(3)]
  t.equal(pathsForBlock(paths), 1)
  t.equal(pathsForBlock(paths, 1), 1)
  t.equal(pathsForBlock(paths, 2), 1)
  t.equal(pathsForBlock(paths, 3), 0)
  const blocks = encodeIndexAdds(paths.slice(0, 1), nowhere, deflate)
  t.strictSame(
    indexPathsOf(decodeAdd(blocks[0] as Buffer), 0, () => undefined),
    paths.slice(0, 1),
  )
  t.strictSame(encodeIndexAdds([], nowhere, deflate), [])
  t.end()
})

t.test('removals', t => {
  const back = (blocks: readonly Buffer[]) =>
    blocks.flatMap(bytes => {
      const block = decodeIndexBlock(bytes, inflate)
      return block.kind === 'remove' ? [...block.positions] : []
    })
  t.strictSame(back(encodeIndexRemoves([7, 0, 8, 300, 2 ** 32 - 1])), [0, 7, 8, 300, 2 ** 32 - 1])
  t.strictSame(encodeIndexRemoves([]), [])
  const all = Array.from({ length: INDEX_REMOVALS_MAX + 1 }, (_, n) => n * 3)
  t.equal(encodeIndexRemoves(all).length, 2)
  t.strictSame(back(encodeIndexRemoves(all)), all)
  for (const bad of [[1, 1], [-1], [0.5], [2 ** 32]]) {
    t.match(
      problem(() => encodeIndexRemoves(bad)),
      /is none, or comes twice/,
      String(bad),
    )
  }
  t.end()
})

t.test('what no block can say', t => {
  const many = Array.from({ length: INDEX_ENTRIES_MAX + 1 }, (_, n) => path(n % 256))
  const references = Array.from({ length: 10_001 }, (_, n) => base(1, `n${n}`))
  const random = (n: number) =>
    Array.from({ length: n }, (_, at) => `k${at}:${randomBytes(64).toString('base64')}`)
  const long = Array.from(
    { length: 10_000 },
    (_, n) => `${encodeNix32(randomBytes(20))}-${'x'.repeat(206)}${n}` as BaseName,
  )
  const cases: [name: string, paths: readonly IndexPath[], problem: RegExp][] = [
    ['nothing', [], /nothing to add/],
    ['too many', many, /more than 512 paths/],
    ['twice', [path(1), path(1)], /comes twice/],
    [
      'two store directories',
      [
        path(1),
        { ...path(2), info: { ...path(2).info, storePath: `/gnu/store/${base(2)}` as StorePath } },
      ],
      /not below \/nix\/store/,
    ],
    [
      'sha512',
      [path(1, { narHash: { algorithm: 'sha512', bytes: Buffer.alloc(64) } })],
      /other than sha256/,
    ],
    ['no size', [path(1, { narSize: 0 })], /no NAR size/],
    ['half a byte', [path(1, { narSize: 1.5 })], /no NAR size/],
    ['references', [path(1, { references })], /more than 10000 references/],
    ['signatures', [path(1, { signatures: random(101) })], /more than 100 signatures/],
    [
      'keys',
      Array.from({ length: 11 }, (_, n) =>
        path(n, { signatures: random(100).map(text => `${n}${text}`) }),
      ),
      /more than 1024 keys/,
    ],
    [
      'columns',
      [
        path(1, { references: long }),
        path(2, { references: long.map(name => name.replace('-', '-a') as BaseName) }),
      ],
      /more than 4194304 bytes/,
    ],
  ]
  for (const [name, paths, expected] of cases) {
    t.match(
      problem(() => encodeIndexAdd(paths, nowhere, deflate)),
      expected,
      name,
    )
  }
  t.match(
    problem(() => encodeIndexAdd([path(1)], nowhere, () => Buffer.alloc(INDEX_BLOCK_MAX_BYTES))),
    /larger than 2097152 bytes/,
  )
  t.end()
})

/** Columns by hand: what an honest encoder never writes. */
interface Wire {
  storeDir?: string
  count?: number
  names?: string
  flags?: number[]
  narSizes?: number[]
  distances?: number[]
  outsideNames?: string[]
  linkCounts?: number[]
  links?: number[]
  derivers?: number[]
  cuts?: number[]
  keyNames?: string[]
  signatureCounts?: number[]
  signatureKeys?: number[]
  raw?: Buffer
  tail?: Buffer
}

function wire(w: Wire): Buffer {
  const count = w.count ?? 1
  const zeros = Array.from({ length: count }, () => 0)
  const plain = createColumnWriter()
  plain.text(w.storeDir ?? '/nix/store')
  plain.number(count)
  plain.text(w.names ?? Array.from({ length: count }, (_, n) => `n${n}`).join('\n'))
  plain.bytes(Uint8Array.from(w.flags ?? zeros))
  plain.numbers(w.narSizes ?? zeros.map(() => 1))
  plain.number(w.distances?.length ?? 0)
  plain.numbers(w.distances ?? [])
  plain.number(w.outsideNames?.length ?? 0)
  plain.text(w.outsideNames?.join('\n') ?? '')
  plain.numbers(w.linkCounts ?? zeros)
  plain.numbers(w.links ?? [])
  plain.numbers(w.derivers ?? zeros)
  plain.numbers(w.cuts ?? [])
  plain.number(w.keyNames?.length ?? 0)
  plain.text(w.keyNames?.join('\n') ?? '')
  plain.numbers(w.signatureCounts ?? zeros)
  plain.numbers(w.signatureKeys ?? [])
  plain.bytes(w.tail ?? Buffer.alloc(0))
  const raw = w.raw ?? Buffer.alloc(count * 52)
  return assemble(raw, plain.finish())
}

function assemble(raw: Buffer, plain: Buffer, length = plain.length): Buffer {
  const block = createColumnWriter()
  block.number(1)
  block.number(raw.length)
  block.number(length)
  block.bytes(raw)
  block.bytes(deflateRawSync(plain))
  return block.finish()
}

t.test('refused', t => {
  const good = encodeIndexAdd([path(1)], nowhere, deflate)
  const signed = { keyNames: ['a'], signatureCounts: [2], signatureKeys: [0, 0] }
  const cases: [name: string, bytes: Uint8Array, problem: RegExp][] = [
    ['nothing', Buffer.alloc(0), /unknown kind of record \(empty\)/],
    ['an unknown kind', Buffer.from([3, 0]), /unknown kind of record 3/],
    ['too large', Buffer.alloc(INDEX_BLOCK_MAX_BYTES + 1, 1), /larger than/],
    ['only the kind', Buffer.from([1]), /ends too early/],
    ['cut off', good.subarray(0, 30), /ends too early|cannot be inflated/],
    ['not deflated', Buffer.from([1, 0, 3, 255, 255, 255]), /cannot be inflated/],
    ['inflates to more', assemble(Buffer.alloc(0), Buffer.alloc(100), 10), /cannot be inflated/],
    ['inflates to less', assemble(Buffer.alloc(0), Buffer.alloc(100), 110), /another length/],
    ['no entries', wire({ count: 0 }), /nothing to add/],
    ['too many entries', wire({ count: 513 }), /a number is 513, at most 512/],
    ['a relative store directory', wire({ storeDir: 'nix' }), /store directory/],
    ['a bad name', wire({ names: 'a b' }), /a b is not a name/],
    ['an empty name', wire({ names: '' }), /is not a name/],
    ['too few names', wire({ count: 2, names: 'a' }), /other than 2 names/],
    ['too many names', wire({ names: 'a\nb' }), /other than 1 names/],
    ['unknown flags', wire({ flags: [22] }), /unknown flags 22/],
    [
      'a content address that is the NAR hash',
      wire({ flags: [18], raw: Buffer.alloc(84) }),
      /longer than it need be/,
    ],
    ['a NAR of no bytes', wire({ narSizes: [0] }), /a NAR size is 0/],
    ['no distance', wire({ distances: [0] }), /a distance is 0/],
    ['a distance beyond 32 bits', wire({ distances: [2 ** 32] }), /at most 4294967295/],
    ['a name outside without hash', wire({ outsideNames: ['a'] }), /raw part: it ends too early/],
    ['more raw than there is to say', wire({ raw: Buffer.alloc(53) }), /1 bytes too many/],
    ['more columns', wire({ tail: Buffer.alloc(1) }), /columns: 1 bytes too many/],
    ['a link to before the block', wire({ linkCounts: [1], links: [2] }), /to before the block/],
    ['a link to nowhere', wire({ linkCounts: [1], links: [1] }), /leads nowhere/],
    ['a link twice', wire({ linkCounts: [2], links: [0, 0] }), /do not ascend/],
    ['more links than bytes', wire({ linkCounts: [9999] }), /ends too early/],
    ['too many links', wire({ linkCounts: [10_001] }), /at most 10000/],
    ['a deriver before the block', wire({ derivers: [4] }), /to before the block/],
    [
      'a deriver cut too short',
      wire({ derivers: [1], cuts: [3], raw: Buffer.alloc(72) }),
      /more of a name away/,
    ],
    [
      'a deriver without place for .drv',
      wire({ names: 'a'.repeat(211), derivers: [1], cuts: [0], raw: Buffer.alloc(72) }),
      /aaaaaa/,
    ],
    ['a bad key name', wire({ keyNames: ['a:b'] }), /not a key name/],
    ['an empty key name', wire({ keyNames: [''] }), /not a key name/],
    ['key names in no order', wire({ keyNames: ['b', 'a'] }), /do not ascend/],
    ['another number of key names', wire({ keyNames: ['b\nc'] }), /other than 1 key names/],
    [
      'a key without name',
      wire({ ...signed, signatureCounts: [1], signatureKeys: [1], raw: Buffer.alloc(116) }),
      /key without name/,
    ],
    ['a signature twice', wire({ ...signed, raw: Buffer.alloc(180) }), /do not ascend/],
    [
      'signatures in no order of keys',
      wire({
        keyNames: ['a', 'b'],
        signatureCounts: [2],
        signatureKeys: [1, 0],
        raw: Buffer.alloc(180),
      }),
      /do not ascend/,
    ],
    ['removes nothing', Buffer.from([2, 0]), /nothing to remove/],
    ['removes too many', Buffer.from([2, 0xff, 0xff, 3, 0]), /at most 16384/],
    ['removes more than there is', Buffer.from([2, 2, 0]), /ends too early/],
    ['removes with a tail', Buffer.from([2, 1, 0, 0]), /1 bytes too many/],
    ['removes beyond 32 bits', Buffer.from([2, 2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]), /too large/],
    ['a number written too long', Buffer.from([2, 1, 0x80, 0]), /written too long/],
    [
      'a number without end',
      Buffer.from([2, 1, ...Array.from({ length: 9 }, () => 0x80)]),
      /number is too long/,
    ],
  ]
  for (const [name, bytes, expected] of cases) {
    t.match(
      problem(() => decodeIndexBlock(bytes, inflate)),
      expected,
      name,
    )
  }
  t.strictSame(decodeIndexBlock(wire({}), inflate).kind, 'add', 'the same by hand, without a fault')
  t.end()
})

t.test('damaged bytes are a block or an INDEX_INVALID, soon', t => {
  const paths = [...syntheticPaths(60, { signatures: 2 })]
  const [whole] = encodeIndexAdds(paths, nowhere, deflate)
  const plainParts = encodeIndexAdds(paths, nowhere, bytes => deflateRawSync(bytes, { level: 0 }))
  const [removal] = encodeIndexRemoves([1, 5, 700])
  const start = performance.now()
  let read = 0
  const total = 3000
  for (const bytes of [whole, plainParts[0], removal]) {
    for (const bad of mutations(bytes as Buffer, total / 3, 42)) {
      let block: IndexBlock | undefined
      const said = problem(() => {
        block = decodeIndexBlock(bad, inflate)
        if (block.kind === 'add') indexPathsOf(block, 1000, () => base(200))
      })
      if (said === 'nothing wrong' && block !== undefined) read++
    }
  }
  t.ok(performance.now() - start < 30_000)
  t.comment(`${read} of ${total} could be read`)
  t.end()
})

t.test('columns', t => {
  const writer = createColumnWriter(1)
  const numbers = [0, 1, 127, 128, 2 ** 31 - 1, 2 ** 31, 2 ** 32, Number.MAX_SAFE_INTEGER]
  writer.numbers(numbers)
  writer.text('naïve')
  writer.bytes(Buffer.from('xyz'))
  const reader = createColumnReader(new Uint8Array(writer.finish()), 'INDEX_INVALID', 'it')
  t.strictSame([...reader.numbers(numbers.length)], numbers)
  t.equal(reader.text(5), 'naïve')
  t.equal(reader.left(), 3)
  t.match(
    problem(() => reader.end()),
    /it: 3 bytes too many/,
  )
  t.equal(reader.bytes(3).toString(), 'xyz')
  reader.end()
  t.match(
    problem(() => reader.number()),
    /ends too early/,
  )
  t.end()
})

const real = realStorePaths()
t.test(
  'bytes a path over a real channel',
  { skip: real === undefined && 'the list of store paths is not here' },
  t => {
    let at = 0
    const paths = [...syntheticPaths(5000)].map(({ info, builtHere }) => ({
      builtHere,
      info: {
        ...info,
        storePath: (real as StorePath[])[at++] as StorePath,
        references: info.references
          .map(name =>
            baseNameOf(
              (real as StorePath[])[Number.parseInt(name.slice(0, 2), 36) % 400] as StorePath,
            ),
          )
          .filter((name, n, all) => all.indexOf(name) === n)
          .sort(),
      },
    }))
    const blocks = encodeIndexAdds(paths, nowhere, deflate)
    const perPath = blocks.reduce((sum, block) => sum + block.length, 0) / paths.length
    t.comment(`${perPath.toFixed(1)} bytes a path, 52 of them hashes`)
    t.ok(perPath <= 95, `${perPath} bytes a path`)
    t.end()
  },
)
