import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { createNarReader } from '../../../protocol/nar/reader.ts'
import {
  encodeStrings,
  MAX_DEPTH,
  MAX_NAME_BYTES,
  MAX_TARGET_BYTES,
  sizeOfString,
} from '../../../protocol/nar/wire.ts'
import { encodeNar, MAX_NODE_BYTES, type NarTree } from '../../../protocol/nar/writer.ts'
import { mutations, seededRandom } from '../../helpers/mutate.ts'
import { createTreeBuilder } from '../../helpers/nar-tree.ts'

const HOSTILE = join(process.cwd(), '../shared/data/bad/nar')

const b = (text: string) => Buffer.from(text, 'latin1')
const file = (text: string, executable = false): NarTree => ({
  type: 'regular',
  contents: b(text),
  executable,
})
const link = (target: string): NarTree => ({ type: 'symlink', target: b(target) })
const folder = (entries: Record<string, NarTree>): NarTree => ({
  type: 'directory',
  entries: Object.entries(entries).map(([name, node]) => ({ name: b(name), node })),
})
const nested = (levels: number, innermost: NarTree): NarTree => {
  let tree = innermost
  for (let level = 0; level < levels; level++) tree = folder({ d: tree })
  return tree
}

/** Reads in pieces as given; returns the tree. */
function readIn(pieces: Iterable<Uint8Array>): NarTree | undefined {
  const { handler, tree } = createTreeBuilder()
  const reader = createNarReader(handler)
  for (const piece of pieces) reader.write(piece)
  reader.end()
  return tree()
}

function* split(bytes: Buffer, ...at: number[]): Generator<Buffer> {
  let from = 0
  for (const to of [...at, bytes.length]) {
    yield bytes.subarray(from, to)
    from = to
  }
}

const GOOD: Record<string, NarTree> = {
  'empty file': file(''),
  'file of 8 bytes': file('12345678'),
  'file with padding': file('hello'),
  executable: file('#!/bin/sh\n', true),
  'empty executable': file('', true),
  symlink: link('/etc/passwd'),
  'symlink with the longest target': link('x'.repeat(MAX_TARGET_BYTES)),
  'symlink to bytes that are no text': link('\xff\xfe../..'),
  'empty folder': folder({}),
  'names as bytes': folder({
    a: file('a'),
    'a.b': file('dot sorts before slash'),
    'a-b': link('b'),
    A: folder({ z: file('z') }),
    '\xff\xfe': file('not UTF-8'),
    'new\nline': file('x'),
    'back\\slash': file('x'),
    ' ': file(' '),
    '...': file('three dots are a name'),
    '.hidden': file('x'),
    'x~nix~case~hack~1': file('x'),
    é: file('two bytes in UTF-8, one here'),
    ['n'.repeat(MAX_NAME_BYTES)]: file('longest name'),
  }),
  'folders in folders': folder({
    a: folder({ b: folder({ c: file('deep') }), b2: folder({}) }),
    z: file('after', true),
  }),
  'as deep as allowed': nested(MAX_DEPTH - 1, file('bottom')),
}

t.test('what is written is read again, however it is cut', t => {
  for (const [name, tree] of Object.entries(GOOD)) {
    const nar = encodeNar(tree)
    const whole = readIn([nar])
    t.ok(encodeNar(whole as NarTree).equals(nar), `${name}: whole`)
    const singles = readIn(Array.from(nar, byte => Uint8Array.of(byte)))
    t.ok(encodeNar(singles as NarTree).equals(nar), `${name}: byte by byte`)
    if (nar.length > 4000) continue
    let cutsRead = 0
    for (let at = 0; at <= nar.length; at++) {
      if (encodeNar(readIn(split(nar, at)) as NarTree).equals(nar)) cutsRead++
    }
    t.equal(cutsRead, nar.length + 1, `${name}: cut once at every byte`)
  }
  t.end()
})

t.test('contents pass without being copied, and offsets are those of the NAR', t => {
  const nar = encodeNar(folder({ a: file('first'), b: file('second one'), c: file('') }))
  const seen: unknown[] = []
  const reader = createNarReader({
    regular: (name, size, executable, narOffset) =>
      seen.push([
        name?.toString(),
        size,
        executable,
        nar.toString('latin1', narOffset, narOffset + size),
      ]),
    contents: bytes => seen.push(bytes.buffer === nar.buffer),
  })
  reader.write(nar)
  reader.end()
  t.strictSame(seen, [
    ['a', 5, false, 'first'],
    true,
    ['b', 10, false, 'second one'],
    true,
    ['c', 0, false, ''],
  ])
  const silent = createNarReader({})
  silent.write(encodeNar(GOOD['names as bytes'] as NarTree))
  silent.end()
  t.end()
})

/** Words by hand, where the writer would refuse. */
const nar = (...words: (string | Buffer)[]) =>
  Buffer.concat([
    encodeStrings('nix-archive-1'),
    ...words.map(word => (typeof word === 'string' ? encodeStrings(b(word)) : word)),
  ])
const inFolder = (...words: (string | Buffer)[]) => nar('(', 'type', 'directory', ...words, ')')
const entry = (name: string) => [
  'entry',
  '(',
  'name',
  name,
  'node',
  '(',
  'type',
  'regular',
  'contents',
  '',
  ')',
  ')',
]
const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}
const small = encodeNar(file('hello'))
const patched = (original: Buffer, at: number, ...bytes: number[]) => {
  const copy = Buffer.from(original)
  copy.set(bytes, at)
  return copy
}

const BAD: Record<string, readonly [nar: Buffer, problem: RegExp, offset: number]> = {
  nothing: [Buffer.alloc(0), /ends early/, 0],
  'another magic': [encodeStrings('nix-archive-2'), /"nix-archive-2" where "nix-archive-1"/, 0],
  text: [b('StoreDir: /nix/store\n'), /a string of \d+ bytes/, 0],
  'cut in the magic': [small.subarray(0, 10), /ends early/, 10],
  'cut in contents': [small.subarray(0, 98), /ends early/, 98],
  'cut in padding': [small.subarray(0, 102), /ends early/, 102],
  'cut before the end': [small.subarray(0, -16), /ends early/, 104],
  'a byte behind the end': [Buffer.concat([small, b('\0')]), /bytes follow/, small.length],
  'two NARs': [Buffer.concat([small, small]), /bytes follow/, small.length],
  'padding of contents': [patched(small, 101, 1), /padding is not zero/, 101],
  'padding of a word': [patched(small, 33, 1), /padding is not zero/, 24],
  'a length of 2^64 - 1': [nar(u64(2n ** 64n - 1n)), /at most 32/, 24],
  'contents of 2^63 bytes': [
    nar('(', 'type', 'regular', 'contents', u64(2n ** 63n)),
    /beyond 2\^53/,
    88,
  ],
  'a word for another': [nar('{'), /"\{" where "\("/, 24],
  'a word cut short': [nar('(', 'typ'), /"typ" where "type"/, 40],
  'no type': [nar('(', 'contents'), /where "type"/, 40],
  'an unknown type': [nar('(', 'type', 'device'), /where a type/, 56],
  'a file without contents': [nar('(', 'type', 'regular', ')'), /where "contents"/, 72],
  'an executable with a value': [
    nar('(', 'type', 'regular', 'executable', 'yes'),
    /has a value/,
    96,
  ],
  'executable twice': [
    nar('(', 'type', 'regular', 'executable', '', 'executable', ''),
    /where "contents"/,
    104,
  ],
  'contents in a folder': [nar('(', 'type', 'directory', 'contents'), /where "entry" or "\)"/, 80],
  'a symlink without target': [nar('(', 'type', 'symlink', ')'), /where "target"/, 72],
  'an empty target': [nar('(', 'type', 'symlink', 'target', ''), /empty target/, 88],
  'a target with a zero': [nar('(', 'type', 'symlink', 'target', 'a\0b'), /zero byte/, 88],
  'a target of 4096 bytes': [
    nar('(', 'type', 'symlink', 'target', 'x'.repeat(4096)),
    /at most 4095/,
    88,
  ],
  'an empty name': [inFolder(...entry('')), /name is empty/, 128],
  'a name of one dot': [inFolder(...entry('.')), /"\."/, 128],
  'a name of two dots': [inFolder(...entry('..')), /"\."/, 128],
  'a name with a slash': [inFolder(...entry('a/b')), /slash/, 128],
  'a name with a zero': [inFolder(...entry('a\0')), /zero byte/, 128],
  'a name of 256 bytes': [inFolder(...entry('n'.repeat(256))), /at most 255/, 128],
  'names out of order': [inFolder(...entry('b'), ...entry('a')), /not in order/, 312],
  'a name that begins another': [inFolder(...entry('ab'), ...entry('a')), /not in order/, 312],
  'a name twice': [inFolder(...entry('a'), ...entry('a')), /twice/, 312],
  'an entry without a name': [inFolder('entry', '(', 'node'), /where "name"/, 112],
  'an entry without a node': [inFolder('entry', '(', 'name', 'a', ')'), /where "node"/, 144],
  'an entry with two nodes': [
    inFolder('entry', '(', 'name', 'a', 'node', '(', 'type', 'directory', ')', 'node'),
    /where "\)"/,
    232,
  ],
}

t.test('what no NAR has is refused at its first byte, and nothing is read after it', t => {
  for (const [name, [bytes, problem, offset]] of Object.entries(BAD)) {
    for (const pieces of [[bytes], Array.from(bytes, byte => Uint8Array.of(byte))]) {
      const reader = createNarReader({})
      let found: unknown
      try {
        for (const piece of pieces) reader.write(piece)
        reader.end()
      } catch (error) {
        found = error
      }
      if (!isNarwharfError(found, 'NAR_INVALID')) return t.fail(`${name} was accepted`)
      t.match(found.data['problem'], problem, name)
      t.equal(found.data['offset'], offset, `${name}: offset`)
      t.throws(() => reader.write(small), found, `${name}: poisoned`)
      t.throws(() => reader.end(), found)
    }
  }
  t.end()
})

t.test('depth is bounded, whatever comes', t => {
  const level = encodeStrings('entry', '(', 'name', 'd', 'node', '(', 'type', 'directory')
  const deep = nar('(', 'type', 'directory', ...Array.from({ length: 10_000 }, () => level))
  t.throws(() => createNarReader({}).write(deep), {
    code: 'NAR_INVALID',
    message: /deeper than 64/,
  })
  t.throws(() => encodeNar(nested(MAX_DEPTH, file('x'))), { code: 'NAR_INVALID' })
  t.end()
})

t.test('a handler that throws ends the reading', t => {
  const stop = new Error('enough')
  const reader = createNarReader({
    regular() {
      throw stop
    },
  })
  t.throws(() => reader.write(small), stop)
  t.throws(() => reader.end(), stop)
  t.end()
})

t.test('the writer refuses what no reader takes', t => {
  for (const tree of [
    folder({ '': file('') }),
    folder({ '..': file('') }),
    folder({ 'a/b': file('') }),
    folder({ ['n'.repeat(256)]: file('') }),
    link(''),
    link('a\0'),
    link('x'.repeat(4096)),
    {
      type: 'directory',
      entries: [b('a'), b('a')].map(name => ({ name, node: file('') })),
    } as const,
  ]) {
    t.throws(() => encodeNar(tree), { code: 'NAR_INVALID' })
  }
  t.equal(sizeOfString(9), 24)
  const largest = encodeNar(folder({ ['n'.repeat(255)]: link('x'.repeat(4095)) }))
  t.ok(largest.length < MAX_NODE_BYTES + 200, 'the bound of one node holds')
  t.end()
})

/** Reactions of shared/data/bad/README.md; everything else there is refused. */
const ACCEPTED = /^(00-good|10-|32-|34-|39-|40-|41-)/

t.test(
  'hostile files get the careful reaction',
  { skip: !existsSync(HOSTILE) && 'the shared collection of hostile files is not here' },
  t => {
    const files = readdirSync(HOSTILE).filter(name => name.endsWith('.nar'))
    t.ok(files.length >= 30)
    for (const name of files) {
      const bytes = readFileSync(join(HOSTILE, name))
      const cuts: Iterable<Uint8Array>[] = [
        [bytes],
        split(bytes, 7, 100),
        Array.from(bytes, byte => Uint8Array.of(byte)),
      ]
      const verdicts = cuts.map(pieces => {
        try {
          return encodeNar(readIn(pieces) as NarTree).equals(bytes) ? 'accepted' : 'changed'
        } catch (error) {
          return isNarwharfError(error, 'NAR_INVALID') ? 'refused' : String(error)
        }
      })
      const wanted = ACCEPTED.test(name) ? 'accepted' : 'refused'
      t.strictSame(verdicts, [wanted, wanted, wanted], name)
    }
    t.end()
  },
)

t.test('damaged NARs are refused, or are another tree in its only spelling', t => {
  const random = seededRandom(7)
  const original = encodeNar(
    folder({
      a: file('hello'),
      b: folder({ c: file('', true), d: link('a') }),
      e: file('12345678'),
    }),
  )
  const counts = { same: 0, refused: 0 }
  function* flipped() {
    for (let bit = 0; bit < original.length * 8; bit++) {
      const at = bit >> 3
      yield patched(original, at, (original[at] as number) ^ (1 << (bit & 7)))
    }
  }
  for (const bytes of [...flipped(), ...mutations(original, 5000, 20261122)]) {
    const at = Math.floor(random() * bytes.length)
    try {
      const tree = readIn(split(bytes, at))
      if (!encodeNar(tree as NarTree).equals(bytes)) return t.fail(bytes.toString('hex'))
      counts.same++
    } catch (error) {
      if (!isNarwharfError(error, 'NAR_INVALID')) throw error
      counts.refused++
    }
  }
  t.ok(counts.same > 100 && counts.refused > 4000, JSON.stringify(counts))
  t.end()
})

t.test('a NAR among other things is read to its end and no further', t => {
  const nar = encodeNar(folder({ a: file('hello'), b: link('a') }))
  const whole = Buffer.concat([nar, b('what follows')])
  for (let at = 0; at <= whole.length; at++) {
    const reader = createNarReader({})
    let taken = 0
    for (const piece of split(whole, at)) taken += reader.writePart(piece)
    if (taken !== nar.length || !reader.isComplete()) return t.fail(`cut at ${at}`)
    reader.end()
  }
  const cut = createNarReader({})
  t.equal(cut.writePart(nar.subarray(0, -1)), nar.length - 1)
  t.notOk(cut.isComplete())
  t.throws(() => cut.writePart(Buffer.of(1)), { code: 'NAR_INVALID' })
  t.throws(() => cut.writePart(nar.subarray(-1)), { code: 'NAR_INVALID' }, 'for good')
  t.end()
})
