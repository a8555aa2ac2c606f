import { existsSync, readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import { isNarwharfError } from '../../protocol/errors.ts'
import { formatHash, hashOf } from '../../protocol/hash.ts'
import {
  NARINFO_MAX_BYTES,
  REFERENCES_MAX,
  SIGNATURES_MAX,
  checkNarUrl,
  formatNarinfo,
  parseNarinfo,
} from '../../protocol/narinfo.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { hashPartOf, parseHashPart, parseStorePath } from '../../protocol/store-path.ts'
import { mutations } from '../helpers/mutate.ts'

const GOLDEN = 'test/fixtures/protocol/narinfo'
const HOSTILE = 'test/fixtures/protocol/hostile'
const SHARED = '../shared/data/bad/narinfo'
const golden = readFileSync(`${GOLDEN}/xz-nyqlf76g5kmh50m11n7xq036xiiwn5y9.narinfo`, 'latin1')
const parse = (text: string) => parseNarinfo(Buffer.from(text, 'latin1'))

t.test('what a real Nix wrote is read, and written byte for byte', async t => {
  const files = readdirSync(GOLDEN)
  t.equal(files.length, 20)
  for (const file of files) {
    const bytes = readFileSync(`${GOLDEN}/${file}`)
    const expected = parseHashPart(file.replace(/.*-|\.narinfo/g, ''))
    const info = parseNarinfo(bytes, { expected })
    t.equal(formatNarinfo(info), bytes.toString(), file)
    t.equal(hashPartOf(info.storePath), expected)
    const compression = file.replace(/-.*/, '')
    const known = ['xz', 'zstd', 'bzip2', 'gzip', 'br'].includes(compression) ? compression : 'none'
    t.equal(info.compression, known)
  }
})

t.test('the fields', async t => {
  const info = parse(golden)
  t.match(info, {
    storePath: '/nix/store/nyqlf76g5kmh50m11n7xq036xiiwn5y9-many-1.0',
    url: /^nar\/[0-9a-z]{52}\.nar\.xz$/,
    compression: 'xz',
    narSize: Number(/NarSize: (\d+)/.exec(golden)?.[1]),
    fileSize: Number(/FileSize: (\d+)/.exec(golden)?.[1]),
    references: [
      'icsd4d6bjhg7nlbcx4q63nvmq00l0k51-leaf-1.0',
      'nyqlf76g5kmh50m11n7xq036xiiwn5y9-many-1.0',
      'qadqlrchsi8vkdhjlc3xsdy9c3swrqik-self-1.0',
    ],
    deriver: '4mjvzy2w57h4bkr344nxkfi7pz1mmi2p-many-1.0.drv',
    signatures: [/^golden-1:/],
    ca: undefined,
  })
  t.match(golden, formatHash(info.narHash, 'nix32'))
})

t.test('tolerated', async t => {
  const drop = (field: string) => golden.replace(new RegExp(`${field}: .*\n`), '')
  const put = (field: string, value: string) =>
    golden.replace(new RegExp(`${field}: .*\n`), `${field}: ${value}\n`)
  const { storePath, references } = parse(golden)
  const [first, second, third] = references as readonly string[] as [string, string, string]
  const sri = formatHash(parse(golden).narHash, 'sri')
  const cases: [name: string, text: string, expected: Partial<NarInfo>][] = [
    ['no Compression is bzip2', drop('Compression'), { compression: 'bzip2' }],
    ['no References is none', drop('References'), { references: [] }],
    [
      'no FileHash, no FileSize',
      drop('FileHash').replace(/FileSize.*\n/, ''),
      { fileSize: undefined },
    ],
    ['FileSize 0 is unknown', put('FileSize', '0'), { fileSize: undefined }],
    ['no Deriver', drop('Deriver'), { deriver: undefined }],
    ['unknown-deriver', put('Deriver', 'unknown-deriver'), { deriver: undefined }],
    [
      'Deriver as a whole path',
      put('Deriver', storePath),
      { deriver: parse(golden).references[1] },
    ],
    ['no Sig', drop('Sig'), { signatures: [] }],
    [
      'malformed Sig lines are dropped',
      `${golden}Sig: x\nSig: \n`,
      { signatures: parse(golden).signatures },
    ],
    ['doubled Sig', golden.replace(/Sig: .*\n/, '$&$&'), { signatures: parse(golden).signatures }],
    ['empty CA is none', `${golden}CA: \n`, { ca: undefined }],
    ['an SRI hash', put('NarHash', sri), { narHash: parse(golden).narHash }],
    [
      'References unsorted and doubled',
      put('References', `${third} ${first} ${second} ${first}`),
      { references },
    ],
    ['unknown fields', `Foo-bar_1: x\n${golden}X: \n`, { storePath }],
    [
      'another order',
      golden.split('\n').reverse().join('\n').slice(1) + '\n',
      { storePath, references },
    ],
    ['the largest safe size', put('NarSize', '9007199254740991'), { narSize: 2 ** 53 - 1 }],
  ] as [string, string, Partial<NarInfo>][]
  for (const [name, text, expected] of cases) t.match(parse(text), expected, name)
  const hex = `fixed:r:sha256:${'0'.repeat(64)}`
  t.equal(
    parse(`${golden}CA: ${hex}\n`).ca,
    `fixed:r:sha256:${'0'.repeat(52)}`,
    'CA has one spelling',
  )
})

t.test('a NAR that cannot be checked', async t => {
  for (const [field, value, problem] of [
    ['NarHash', `sha1:${'0'.repeat(40)}`, /NarHash is sha1/],
    ['NarHash', `md5:${'0'.repeat(32)}`, /NarHash is md5/],
    ['NarSize', '0', /NarSize is 0/],
  ] as const) {
    const text = golden.replace(new RegExp(`${field}: .*`), `${field}: ${value}`)
    t.throws(() => parse(text), { code: 'NARINFO_INVALID', message: problem }, value)
  }
})

t.test('what was asked for', async t => {
  const bytes = Buffer.from(golden)
  const { storePath } = parse(golden)
  const renamed = Buffer.from(golden.replace(/(StorePath: .*)-many/, '$1-evil'))
  const expected = hashPartOf(storePath)
  const code = { code: 'NARINFO_INVALID', message: /another path was asked for/ }
  t.equal(parseNarinfo(bytes, { expected, expectedPath: storePath }).storePath, storePath)
  t.throws(() => parseNarinfo(bytes, { expected: parseHashPart('0'.repeat(32)) }), code)
  t.ok(parseNarinfo(renamed, { expected }), 'the hash part alone cannot tell the name')
  t.throws(() => parseNarinfo(renamed, { expected, expectedPath: storePath }), code)
  t.throws(() => parseNarinfo(bytes, { storeDir: '/gnu/store' }), {
    message: /not below \/gnu\/store/,
  })
  const gnu = Buffer.from(golden.replaceAll('/nix/store', '/gnu/store'))
  t.equal(parseNarinfo(gnu, { storeDir: '/gnu/store' }).storePath, storePath.replace('nix', 'gnu'))
  const inside = new Uint8Array(bytes.length + 9)
  inside.set(bytes, 4)
  t.equal(parseNarinfo(inside.subarray(4, 4 + bytes.length)).storePath, storePath, 'a view')
})

t.test('limits', async t => {
  const reference = (n: number) => `${n.toString().padStart(32, '0')}-r`
  const refs = (count: number) =>
    golden.replace(
      /References: .*/,
      `References: ${Array.from({ length: count }, (_, n) => reference(n)).join(' ')}`,
    )
  const sigs = (count: number) => golden + 'Sig: x\n'.repeat(count - 1)
  t.equal(parse(refs(REFERENCES_MAX)).references.length, REFERENCES_MAX)
  t.throws(() => parse(refs(REFERENCES_MAX + 1)), { message: /more than 10000 references/ })
  t.equal(parse(sigs(SIGNATURES_MAX)).signatures.length, 1)
  t.throws(() => parse(sigs(SIGNATURES_MAX + 1)), { message: /more than 100 signatures/ })
  const filled = golden + `X: ${'x'.repeat(NARINFO_MAX_BYTES - golden.length - 4)}\n`
  t.equal(filled.length, NARINFO_MAX_BYTES)
  t.ok(parse(filled))
  t.throws(() => parse(`${filled}\n`), { message: /larger than 1048576 bytes/ })
  t.throws(() => parse(`${'x'.repeat(65)}: 1\n${golden}`), { message: /odd field name/ })
})

t.test('URLs', async t => {
  const good = [
    'nar/0abc.nar.xz',
    'x',
    'nar/0abc.nar?hash=0123',
    'a/b/c/d.nar',
    'nar/..x/.y/z..',
    'nar/a%2Bb.nar',
    'nar/a:b.nar',
    'nar/x?a=/b:c',
    'nar/x?http://a/b',
  ]
  for (const url of good) t.doesNotThrow(() => checkNarUrl(url), url)
  const bad = [
    '',
    '/etc/passwd',
    '//evil.example/x',
    'http://evil.example/x',
    'FILE:///etc/passwd',
    'data:x',
    ':x',
    '..',
    '.',
    '../x',
    'nar/../x',
    'nar/..',
    'nar/./x',
    'nar//x',
    'nar/',
    '?x',
    'nar/%2e%2e/x',
    'nar/.%2E/x',
    'nar/x%2f..%2fy',
    'nar/x%5c..%5cy',
    'nar/%252e%252e/x',
    'nar/x%00',
    'nar/x%0d%0aSet-Cookie:x',
    'nar/x%7f',
    'nar/x%c0%ae',
    'nar/x%',
    'nar/x%2',
    'nar/x%zz',
    'nar/x?/../y',
    'nar/x#y',
    'nar/x y',
    'nar\\..\\x',
    'nar/x\ty',
    'nar/ä',
    `nar/${'x'.repeat(2048)}`,
  ]
  for (const url of bad)
    t.throws(() => checkNarUrl(url), { code: 'NARINFO_INVALID' }, url.slice(0, 60))
})

t.test('formatNarinfo leaves out what is not there', async t => {
  const storePath = parseStorePath(`/nix/store/${'0'.repeat(32)}-x`)
  const info: NarInfo = {
    storePath,
    url: 'nar/x.nar',
    compression: 'none',
    narHash: hashOf('sha256', ''),
    narSize: 1,
    references: [],
    signatures: [],
  }
  t.equal(
    formatNarinfo(info),
    `StorePath: ${storePath}\nURL: nar/x.nar\nCompression: none\n` +
      'NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\nNarSize: 1\nReferences: \n',
  )
})

/** The careful reaction to each file of shared data/bad/narinfo: read, or refused with that problem. */
const REACTIONS: Record<string, 'read' | RegExp> = {
  '00-good': 'read',
  '01-url-traversal': /leaves the cache/,
  '02-url-absolute-path': /is absolute/,
  '03-url-other-host': /scheme|absolute|empty segment/,
  '04-url-file-scheme': /is absolute or has an empty segment/,
  '05-url-encoded-traversal': /hides a character/,
  '06-url-query': 'read',
  '07-url-crlf-injection': /control character/,
  '08-url-empty': /is empty/,
  '10-storepath-missing': /no StorePath/,
  '11-storepath-wrong-dir': /not below \/nix\/store/,
  '12-storepath-other-hash': /another path was asked for/,
  '13-storepath-other-name': /another path was asked for/,
  '14-storepath-traversal': /invalid store path/,
  '16-storepath-badbase32': /invalid store path/,
  '17-storepath-dot-name': /invalid store path/,
  '19-narhash-bad-base32': /invalid hash/,
  '20-narhash-short': /invalid hash/,
  '22-narhash-sri': 'read',
  '23-narhash-md5': /NarHash is md5, not sha256/,
  '25-narsize-missing': /no NarSize/,
  '26-narsize-zero': /NarSize is 0/,
  '28-narsize-huge': /NarSize 1844/,
  '29-narsize-overflow': /NarSize 9999/,
  '31-narsize-plus': /NarSize \+369944/,
  '32-refs-duplicate-line': /References given twice/,
  '34-refs-bad': /invalid store path/,
  '35-refs-missing': 'read',
  '37-crlf': /control character/,
  '38-no-final-newline': /no newline/,
  '40-no-space-after-colon': /no colon and space/,
  '41-unknown-field': 'read',
  '43-duplicate-url': /URL given twice/,
  '44-duplicate-narhash': /NarHash given twice/,
  // The signature is dropped, so that the path counts as unsigned: never relayed, refused by trust where unsigned.
  '46-sig-empty': 'read',
  '47-sig-bad-base64': 'read',
  '50-ca-malformed': /invalid content address/,
  '52-ca-empty': 'read',
  '53-deriver-fullpath': 'read',
  '55-deriver-garbage': /invalid store path/,
  '56-compression-unknown': /unknown compression rot13/,
  '58-compression-missing': 'read',
  // What the file's hash is, nobody vouches for: only the NAR hash counts.
  '59-filehash-mismatch': 'read',
  '61-filesize-text': /FileSize abc/,
  '62-filehash-missing': 'read',
  '64-utf8-bom': /odd field name/,
  '65-html': /odd field name/,
  '67-only-newlines': /odd field name/,
  '68-lowercase-keys': /no NarHash/,
  '70-value-trailing-space': /NarSize 369944 /,
  '71-key-1MB': /odd field name/,
}

t.test(
  'hostile narinfos of the shared data',
  { skip: !existsSync(SHARED) && `${SHARED} is absent` },
  async t => {
    const expectedPath = parseStorePath('/nix/store/dhksn3bxlnbhp31cd0r5d9p666b4pawr-dep-1.0')
    const good = parseNarinfo(readFileSync(`${SHARED}/00-good.narinfo`))
    for (const file of readdirSync(SHARED)) {
      const reaction = REACTIONS[file.replace('.narinfo', '')]
      if (reaction === undefined) {
        t.fail(`${file}: which reaction is careful?`)
        continue
      }
      const read = () => parseNarinfo(readFileSync(`${SHARED}/${file}`), { expectedPath })
      if (reaction !== 'read') {
        t.throws(read, { code: 'NARINFO_INVALID', message: reaction }, file)
        continue
      }
      const info = read()
      t.equal(info.storePath, good.storePath, file)
      // 22 has the SRI of another NAR.
      if (!file.startsWith('22-')) t.strictSame(info.narHash, good.narHash, file)
      t.equal(info.narSize, good.narSize, file)
      t.strictSame(info.signatures, /^4[67]/.test(file) ? [] : good.signatures, file)
      // What would kill a Nix never comes out again.
      t.doesNotThrow(() => parse(formatNarinfo(info)), file)
    }
  },
)

t.test('hostile narinfos of our own', async t => {
  const reactions: Record<string, 'read' | RegExp> = {
    'url-encoded-slash': /hides a character/,
    'url-query-climbs': /leaves the cache/,
    'url-other-host': /is absolute/,
    'sig-and-key-of-256': 'read',
    'nul-in-unknown-field': /control character/,
    'refs-double-space': /invalid store path/,
    // Well-formed; that md5 proves nothing is said by caProves.
    'ca-md5-of-other-path': 'read',
  }
  for (const [name, reaction] of Object.entries(reactions)) {
    const read = () => parseNarinfo(readFileSync(`${HOSTILE}/${name}.narinfo`))
    if (reaction === 'read') t.doesNotThrow(read, name)
    else t.throws(read, { code: 'NARINFO_INVALID', message: reaction }, name)
  }
  t.strictSame(parseNarinfo(readFileSync(`${HOSTILE}/sig-and-key-of-256.narinfo`)).signatures, [])
})

t.test('8000 damaged narinfos: read or refused, nothing else', async t => {
  let refused = 0
  const originals = ['xz-nyq', 'made', 'text-76'].map(start => {
    const file = readdirSync(GOLDEN).find(name => name.startsWith(start))
    return readFileSync(`${GOLDEN}/${file}`)
  })
  for (const [seed, original] of originals.entries()) {
    for (const bytes of mutations(original, 2700, seed)) {
      try {
        const info = parseNarinfo(bytes)
        const again = parse(formatNarinfo(info))
        if (formatNarinfo(again) !== formatNarinfo(info)) t.fail(bytes.toString('latin1'))
      } catch (error) {
        refused++
        if (!isNarwharfError(error, 'NARINFO_INVALID')) t.error(error, bytes.toString('latin1'))
      }
    }
  }
  t.ok(refused > 4000 && refused < 8100, `${refused} refused`)
})
