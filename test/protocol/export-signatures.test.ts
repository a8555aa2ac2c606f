import t from 'tap'
import {
  SIGNATURES_FILE_MAX_BYTES,
  createSignaturesReader,
  formatExportSignatures,
  type SignatureBook,
} from '../../protocol/export-signatures.ts'
import { formatHash, hashOf } from '../../protocol/hash.ts'
import type { PathInfo } from '../../protocol/path-info.ts'
import { generateKeyPair, sign } from '../../protocol/signature.ts'
import { hashPartOf, parseStorePath, type StorePath } from '../../protocol/store-path.ts'
import { pathOf } from '../helpers/nix-store.ts'

const key = generateKeyPair('depot-1')
const infoOf = (name: string, facts: Partial<PathInfo> = {}): PathInfo => {
  const info = {
    storePath: pathOf(name),
    narHash: hashOf('sha256', name),
    narSize: 120,
    references: [],
    signatures: [],
    ...facts,
  }
  return { ...info, signatures: [...info.signatures, sign(info, key)] }
}

/** Reads a text in pieces of a size. */
function read(text: string | Buffer, size = Infinity, storeDir?: string): SignatureBook {
  const reader = createSignaturesReader(storeDir)
  const bytes = Buffer.from(text as string)
  for (let at = 0; at < bytes.length; at += size) reader.write(bytes.subarray(at, at + size))
  return reader.end()
}

const entry = (book: SignatureBook, path: StorePath) => book.get(hashPartOf(path))

const CA = `fixed:r:${formatHash(hashOf('sha256', 'tree'), 'nix32')}`

t.test('what is written is read again, however it is cut', t => {
  const infos = [infoOf('one'), infoOf('two', { ca: CA }), infoOf('three')]
  const text = infos.map(formatExportSignatures).join('')
  for (const size of [1, 7, 100, Infinity]) {
    const book = read(text, size)
    t.equal(book.size, 3)
    for (const { storePath, narHash, signatures, ca } of infos) {
      t.strictSame(entry(book, storePath), { storePath, narHash, signatures, ca })
    }
  }
  t.equal(read(`\n \n${text.slice(0, -1)}`).size, 3, 'blank lines, and none at the end')
  t.equal(read('').size, 0)
  t.end()
})

t.test('what stock Nix says', t => {
  const { storePath, narHash, signatures } = infoOf('one')
  const facts = { narHash: formatHash(narHash, 'nix32'), narSize: 120, signatures, valid: true }
  const absent = pathOf('absent')
  const old = [
    { path: storePath, ...facts, references: [], registrationTime: 1 },
    { path: absent, valid: false },
    null,
  ]
  const since = { [storePath]: { ...facts, ca: null }, [absent]: null }
  for (const document of [old, since]) {
    for (const indent of [0, 2]) {
      const text = `${JSON.stringify(document, null, indent)}\n`
      for (const size of [5, Infinity]) {
        const book = read(text, size)
        t.equal(book.size, 1)
        t.strictSame(entry(book, storePath), { storePath, narHash, signatures, ca: undefined })
      }
    }
  }
  t.end()
})

t.test('what is malformed in an entry is left out, or names its trouble', t => {
  const { storePath, narHash, signatures } = infoOf('one')
  const line = (facts: object) =>
    JSON.stringify({ path: storePath, narHash: formatHash(narHash, 'sri'), ...facts })
  const good = entry(
    read(
      line({
        signatures: ['nonsense', 5, null, ...signatures, 'depot-1:AAAA'],
        ca: 'fixed:git:sha1:x',
        extra: [1],
      }),
    ),
    storePath,
  )
  t.strictSame(good, { storePath, narHash, signatures, ca: undefined })
  for (const ca of ['', 5, { method: 'nar' }, undefined]) {
    t.equal(entry(read(line({ ca, signatures: 'none' })), storePath)?.ca, undefined)
  }
  const many = Array.from({ length: 150 }, () => signatures[0])
  t.equal(entry(read(line({ signatures: many })), storePath)?.signatures.length, 100)
  t.equal(
    read(line({ narHash: undefined })).size + read(line({ narHash: null })).size,
    0,
    'no hash: nothing is said',
  )

  const first = `${line({})}\n`
  const cases: Readonly<Record<string, readonly [string | Buffer, RegExp]>> = {
    'no JSON at all': ['StorePath: x\n', /JSON|token/],
    'an array cut short': ['[{"path":"/nix', /JSON|string/],
    'a later line no JSON': [`${first}{"path"`, /line 2 is no JSON/],
    'a later line no object': [`${first}[]\n`, /line 2 is no object/],
    'a later line without a path': [`${first}{}\n`, /no path/],
    'text alone': ['"x"\n', /neither/],
    'a list of texts': ['["x"]', /no object/],
    'a list of objects without path': ['[{}]', /no path/],
    'a path elsewhere': [line({ path: '/etc/passwd' }), /not below/],
    'a key that is no path': ['{"__proto__":{"narHash":"x"}}', /not below/],
    'a hash of another kind': [
      line({ narHash: formatHash(hashOf('sha1', ''), 'sri') }),
      /sha256 expected/,
    ],
    'a hash that is no text': [line({ narHash: 5 }), /no text/],
    'a line without end': [`${first}{"x":"${'a'.repeat(3_000_000)}"}`, /more than/],
    'too many lines': ['\n'.repeat(600_000), /more than/],
    'a document without end': [`[${' '.repeat(17_000_000)}]`, /more than/],
  }
  for (const [name, [text, problem]] of Object.entries(cases)) {
    t.throws(
      () => read(text, 65_536),
      { code: 'EXPORT_SIGNATURES_INVALID', message: problem },
      name,
    )
  }
  t.end()
})

t.test('a file too large, and no way on after an error', t => {
  const reader = createSignaturesReader()
  const blank = Buffer.alloc(1024 * 1024, ' ')
  blank[0] = 0x0a
  for (let written = 0; written < SIGNATURES_FILE_MAX_BYTES; written += blank.length) {
    reader.write(blank)
  }
  t.throws(() => reader.write(blank), { code: 'EXPORT_SIGNATURES_INVALID' })
  t.throws(() => reader.write(Buffer.alloc(0)), { code: 'EXPORT_SIGNATURES_INVALID' })
  t.throws(() => reader.end(), { code: 'EXPORT_SIGNATURES_INVALID' })
  t.end()
})

t.test('another store directory', t => {
  const storePath = parseStorePath('/opt/store/00000000000000000000000000000000-x', '/opt/store')
  const text = formatExportSignatures({ ...infoOf('x'), storePath })
  t.equal(read(text, Infinity, '/opt/store').size, 1)
  t.throws(() => read(text), { code: 'EXPORT_SIGNATURES_INVALID' })
  t.end()
})
