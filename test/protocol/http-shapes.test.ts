import t from 'tap'
import { parseRange } from '../../protocol/http-range.ts'
import { formatNarUrl, parseNarUrl, type NarUrl } from '../../protocol/nar-url.ts'
import type { HashPart } from '../../protocol/store-path.ts'

const hashPart = 'dhksn3bxlnbhp31cd0r5d9p666b4pawr' as HashPart
const narHash = '1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0'
const fileHash = '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73'

t.test('our own NAR URLs come back as they went', async t => {
  const shapes: (NarUrl & { narHash: string })[] = [
    { hashPart, narHash, fileHash: undefined, compression: 'none' },
    { hashPart, narHash, fileHash: undefined, compression: 'zstd' },
    { hashPart, narHash, fileHash, compression: 'xz' },
    { hashPart, narHash, fileHash, compression: 'bzip2' },
    { hashPart, narHash, fileHash, compression: 'gzip' },
    { hashPart, narHash, fileHash, compression: 'br' },
  ]
  for (const shape of shapes) {
    const text = formatNarUrl(shape)
    t.match(text, /^nar\//)
    t.same(parseNarUrl(text.slice('nar/'.length)), shape, text)
  }
})

t.test('the shapes of nix-serve and harmonia are understood', async t => {
  t.same(parseNarUrl(`${hashPart}-${narHash}.nar`), {
    hashPart,
    narHash,
    fileHash: undefined,
    compression: 'none',
  })
  t.same(parseNarUrl(`${hashPart}.nar`), {
    hashPart,
    narHash: undefined,
    fileHash: undefined,
    compression: 'none',
  })
  t.same(parseNarUrl(`${narHash}.nar`, `hash=${hashPart}`), {
    hashPart,
    narHash,
    compression: 'none',
  })
})

t.test('everything else is not a NAR URL', async t => {
  for (const [file, query] of [
    ['', ''],
    ['../../etc/passwd', ''],
    [`${hashPart}-${narHash}.nar.lzip`, ''],
    [`${hashPart}-${narHash.slice(1)}.nar`, ''],
    [`${hashPart.replace('d', 'e')}-${narHash}.nar`, ''],
    [`${narHash}.nar`, ''],
    [`${narHash}.nar`, `hash=../${hashPart}`],
    [`${hashPart}-${narHash}.nar/x`, ''],
  ] as const) {
    t.equal(parseNarUrl(file, query), undefined, `${file}?${query}`)
  }
})

t.test('Range headers', async t => {
  const whole = { kind: 'whole' }
  const bad = { kind: 'unsatisfiable' }
  const part = (start: number, end: number) => ({ kind: 'part', start, end })
  for (const [header, total, expected] of [
    [undefined, 100, whole],
    ['bytes=0-', 100, part(0, 100)],
    ['bytes=10-', 100, part(10, 100)],
    ['bytes=10-19', 100, part(10, 20)],
    ['bytes=10-500', 100, part(10, 100)],
    ['bytes=-7', 100, part(93, 100)],
    ['bytes=-700', 100, part(0, 100)],
    ['bytes=99-', 100, part(99, 100)],
    ['bytes=100-', 100, bad],
    ['bytes=-0', 100, bad],
    ['bytes=-5', 0, bad],
    ['bytes=20-10', 100, whole],
    ['bytes=-', 100, whole],
    ['bytes=0-1,4-5', 100, whole],
    ['items=0-1', 100, whole],
    ['bytes=99999999999999999999-', 100, whole],
    ['bytes=5-', undefined, part(5, Infinity)],
    ['bytes=5-9', undefined, whole],
    ['bytes=-5', undefined, whole],
  ] as const) {
    t.same(parseRange(header, total), expected, `${header} of ${total}`)
  }
})
