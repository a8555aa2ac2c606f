import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { isNarwharfError } from '../../protocol/errors.ts'
import {
  EXPORT_END,
  EXPORT_PATH_BEGIN,
  LEGACY_SIGNATURE_MAX_BYTES,
  createExportReader,
  encodeExportedPath,
  type ExportedPath,
} from '../../protocol/export-archive.ts'
import { createSignaturesReader } from '../../protocol/export-signatures.ts'
import { hashOf, sameHash } from '../../protocol/hash.ts'
import { encodeStrings } from '../../protocol/nar/wire.ts'
import { encodeNar } from '../../protocol/nar/writer.ts'
import { REFERENCES_MAX } from '../../protocol/narinfo.ts'
import { hashPartOf, parseBaseName, parseStorePath } from '../../protocol/store-path.ts'
import { mutations } from '../helpers/mutate.ts'

const FIXTURES = join(process.cwd(), 'test/fixtures/export')
const HOSTILE = join(process.cwd(), '../shared/data/bad/export')
const fixture = (name: string) => readFileSync(join(FIXTURES, name))

/** A path as an archive has it. */
interface Read {
  readonly nar: Buffer
  readonly path: ExportedPath
}

/** Reads in pieces; what was read before an error is in `into`. */
function readIn(pieces: Iterable<Uint8Array>, into: Read[] = [], storeDir?: string): Read[] {
  let nar: Buffer[] = []
  const reader = createExportReader(
    {
      nar: bytes => nar.push(Buffer.from(bytes)),
      path(path) {
        into.push({ nar: Buffer.concat(nar), path })
        nar = []
      },
    },
    { storeDir },
  )
  for (const piece of pieces) reader.write(piece)
  reader.end()
  return into
}

const write = (paths: readonly Read[]): Buffer =>
  Buffer.concat([
    ...paths.flatMap(({ nar, path }) => [EXPORT_PATH_BEGIN, nar, encodeExportedPath(path)]),
    EXPORT_END,
  ])

const nameOf = ({ path }: Read) => path.storePath.slice(44)

t.test('what nix-store wrote is read, and written again byte for byte', t => {
  for (const name of ['closure', 'derivation', 'app-alone', 'nothing']) {
    const archive = fixture(`${name}.export`)
    const whole = readIn([archive])
    t.ok(write(whole).equals(archive), name)
    for (let at = 0; at <= archive.length; at++) {
      const paths = readIn([archive.subarray(0, at), archive.subarray(at)])
      if (!write(paths).equals(archive)) return t.fail(`${name} cut at ${at}`)
    }
    t.ok(write(readIn(Array.from(archive, byte => Uint8Array.of(byte)))).equals(archive))
  }
  const closure = readIn([fixture('closure.export')])
  t.strictSame(closure.map(nameOf).sort(), [
    'app-1.0',
    'fixed.txt',
    'lib-1.0',
    'none.txt',
    'text.txt',
    'tree',
  ])
  const app = closure.find(one => nameOf(one) === 'app-1.0')
  t.match(app?.path, { deriver: /-app-1\.0\.drv$/, narSize: app?.nar.length })
  t.strictSame(
    app?.path.references.map(reference => reference.slice(33)),
    ['app-1.0', 'text.txt', 'lib-1.0'],
  )
  t.end()
})

t.test('what Nix says of the same paths agrees', t => {
  const reader = createSignaturesReader()
  reader.write(fixture('closure.path-info.json'))
  const book = reader.end()
  for (const { nar, path } of readIn([fixture('closure.export')])) {
    const said = book.get(hashPartOf(path.storePath))
    t.equal(said?.signatures.length, 1)
    t.ok(said && sameHash(said.narHash, hashOf('sha256', nar)), path.storePath)
  }
  t.end()
})

const nar = encodeNar({ type: 'regular', contents: Buffer.from('x') })
const storePath = parseStorePath('/nix/store/00000000000000000000000000000000-x')
const u64 = (value: bigint | number): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}
const MAGIC = u64(0x4558494e)
const NOTHING = encodeStrings('')

t.test('the parts that Nix 2.8 does not write', t => {
  const legacy = Buffer.concat([
    ...[u64(1), nar, MAGIC, encodeStrings(storePath), u64(0), NOTHING, u64(1)],
    ...[encodeStrings('s'.repeat(LEGACY_SIGNATURE_MAX_BYTES)), u64(0)],
  ])
  t.equal(readIn([legacy]).length, 1, 'an old signature is passed over')
  const names = ['b', 'a', 'b'].map(name => `/nix/store/${name.repeat(32)}-x`)
  const doubled = Buffer.concat([
    ...[u64(1), nar, MAGIC, encodeStrings(storePath), u64(3)],
    ...[encodeStrings(...names), NOTHING, u64(0), u64(0)],
  ])
  t.strictSame(readIn([doubled])[0]?.path.references, [
    parseBaseName(`${'a'.repeat(32)}-x`),
    parseBaseName(`${'b'.repeat(32)}-x`),
  ])
  const elsewhere = parseStorePath('/opt/store/00000000000000000000000000000000-x', '/opt/store')
  const archive = write([{ nar, path: { storePath: elsewhere, references: [], narSize: 0 } }])
  t.equal(readIn([archive], [], '/opt/store').length, 1, 'another store directory')
  t.throws(() => readIn([archive]), { code: 'EXPORT_INVALID', message: /not below/ })
  t.end()
})

t.test('each fault has its place', t => {
  const path = Buffer.concat([MAGIC, encodeStrings(storePath)])
  const begun = Buffer.concat([u64(1), nar])
  const told = Buffer.concat([begun, path])
  const badPath = encodeStrings('/nix/store/../../etc/passwd')
  const cases: Readonly<Record<string, readonly [bytes: Buffer, problem: RegExp, at: number]>> = {
    empty: [Buffer.alloc(0), /ends early/, 0],
    'neither path nor end': [u64(2), /neither/, 0],
    'a marker beyond 2^53': [u64(2n ** 63n), /neither/, 0],
    text: [Buffer.from('Hello, this is no archive'), /neither/, 0],
    'no NAR': [Buffer.concat([u64(1), u64(99n)]), /a string of 99/, 8],
    'a broken NAR': [
      Buffer.concat([u64(1), nar.subarray(0, 24), Buffer.from('\x01\0\0\0\0\0\0\0[')]),
      /ends early/,
      41,
    ],
    'no magic': [Buffer.concat([begun, u64(1)]), /no end of one/, 8 + nar.length],
    'a path elsewhere': [
      Buffer.concat([begun, MAGIC, encodeStrings('/etc/passwd')]),
      /not below/,
      16 + nar.length,
    ],
    'a path that climbs': [Buffer.concat([begun, MAGIC, badPath]), /hash part/, 16 + nar.length],
    'a path too long': [Buffer.concat([begun, MAGIC, u64(1270)]), /longer/, 16 + nar.length],
    'a length beyond 2^53': [
      Buffer.concat([begun, MAGIC, u64(2n ** 60n)]),
      /longer/,
      16 + nar.length,
    ],
    padding: [Buffer.concat([told.subarray(0, -1), Buffer.of(1)]), /padding/, 16 + nar.length],
    'too many references': [
      Buffer.concat([told, u64(REFERENCES_MAX + 1)]),
      /references/,
      told.length,
    ],
    'references beyond 2^53': [
      Buffer.concat([told, u64(2n ** 64n - 1n)]),
      /references/,
      told.length,
    ],
    'a bad reference': [Buffer.concat([told, u64(1), badPath]), /hash part/, told.length + 8],
    'a bad deriver': [
      Buffer.concat([told, u64(0), encodeStrings('nonsense')]),
      /not below/,
      told.length + 8,
    ],
    'an odd mark': [Buffer.concat([told, u64(0), NOTHING, u64(7)]), /mark/, told.length + 16],
    'an endless old signature': [
      Buffer.concat([told, u64(0), NOTHING, u64(1), u64(5000)]),
      /longer/,
      told.length + 24,
    ],
    'cut short': [told, /ends early/, told.length],
    'bytes behind the end': [Buffer.concat([u64(0), Buffer.of(0)]), /bytes follow/, 8],
  }
  for (const [name, [bytes, problem, offset]] of Object.entries(cases)) {
    for (const pieces of [[bytes], Array.from(bytes, byte => Uint8Array.of(byte))]) {
      t.throws(
        () => readIn(pieces),
        { code: 'EXPORT_INVALID', message: problem, data: { offset } },
        name,
      )
    }
  }
  t.end()
})

t.test('after an error nothing is read any more', t => {
  const reader = createExportReader({ nar() {}, path() {} })
  t.throws(() => reader.write(u64(9)), { code: 'EXPORT_INVALID' })
  t.throws(() => reader.write(u64(0)), { code: 'EXPORT_INVALID' })
  t.throws(() => reader.end(), { code: 'EXPORT_INVALID' })
  const own = createExportReader(
    { nar() {}, path() {} },
    {
      narHandler: {
        regular() {
          throw new Error('enough')
        },
      },
    },
  )
  t.throws(() => own.write(fixture('closure.export')), { message: 'enough' })
  t.throws(() => own.end(), { message: 'enough' })
  t.end()
})

t.test('damaged archives are refused, or say something else in its only spelling', t => {
  const original = fixture('derivation.export')
  const counts = { read: 0, refused: 0 }
  function* flipped() {
    for (let bit = 0; bit < original.length * 8; bit++) {
      const bytes = Buffer.from(original)
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7))
      yield bytes
    }
  }
  for (const bytes of [...flipped(), ...mutations(original, 3000, 20261123)]) {
    try {
      const paths = readIn([bytes])
      // References may come in any order and twice; nothing else has two spellings.
      if (write(paths).length > bytes.length) return t.fail(bytes.toString('hex'))
      counts.read++
    } catch (error) {
      if (!isNarwharfError(error, 'EXPORT_INVALID')) throw error
      counts.refused++
    }
  }
  t.ok(counts.read > 1000 && counts.refused > 3000, JSON.stringify(counts))
  t.end()
})

/** How many paths of an archive are whole, and whether the archive is. What they are is the importer's to judge. */
const REACTIONS: Readonly<Record<string, readonly [paths: number, problem?: RegExp]>> = {
  'b01-truncated.export': [0, /ends early/],
  'b02-no-end-marker.export': [3, /ends early/],
  'b04-bad-magic.export': [0, /no end of one/],
  'b05-path-outside-store.export': [0, /not below/],
  'b07-bad-name.export': [0, /character other than/],
  'b08-ref-missing.export': [1],
  'b10-arbitrary-input-addressed.export': [1],
  'b11-with-legacy-signature.export': [1],
  'b13-just-end.export': [0],
  'b14-nar-tampered.export': [1],
  'b16-deriver-bad.export': [0, /not below/],
  'b17-self-ref.export': [1],
  'e1-app-only.export': [1],
  'e2-closure.export': [3],
  'e4-drvclosure.export': [3],
}

t.test(
  'hostile archives',
  { skip: existsSync(HOSTILE) ? false : 'needs ../shared/data/bad/export' },
  t => {
    t.strictSame(readdirSync(HOSTILE).sort(), Object.keys(REACTIONS), 'each has its reaction')
    for (const [name, [paths, problem]] of Object.entries(REACTIONS)) {
      const bytes = readFileSync(join(HOSTILE, name))
      const read: Read[] = []
      if (problem === undefined) t.doesNotThrow(() => readIn([bytes], read), name)
      else t.throws(() => readIn([bytes], read), { code: 'EXPORT_INVALID', message: problem }, name)
      t.equal(read.length, paths, `${name}: whole paths`)
    }
    t.end()
  },
)
