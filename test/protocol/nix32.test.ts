import t from 'tap'
import { decodeNix32, encodeNix32, nix32Length } from '../../protocol/nix32.ts'
import { seededRandom } from '../helpers/mutate.ts'

t.test('known texts', async t => {
  const known: [name: string, hex: string, text: string][] = [
    ['nothing', '', ''],
    ['one zero byte', '00', '00'],
    ['one full byte', 'ff', '7z'],
    [
      'sha1 of abc, by nix-hash',
      'a9993e364706816aba3e25717850c26c9cd0d89d',
      'kpcd173cq987hw957sx6m0868wv3x6d9',
    ],
    [
      'sha256 of nothing, by nix-hash',
      'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
      '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73',
    ],
  ]
  for (const [name, hex, text] of known) {
    const bytes = Buffer.from(hex, 'hex')
    t.equal(encodeNix32(bytes), text, name)
    t.strictSame(decodeNix32(text, bytes.length), bytes, `${name}, back`)
  }
})

t.test('any bytes come back', async t => {
  const random = seededRandom(32)
  for (let length = 0; length <= 64; length++) {
    const bytes = Uint8Array.from({ length }, () => Math.floor(random() * 256))
    const text = encodeNix32(bytes)
    t.equal(text.length, nix32Length(length))
    t.strictSame(decodeNix32(text, length), Buffer.from(bytes), `${length} bytes`)
  }
})

t.test('refused', async t => {
  const cases: [name: string, text: string, bytes: number, problem: RegExp][] = [
    ['too short', '0'.repeat(51), 32, /51 characters, 52 expected/],
    ['too long', '0'.repeat(53), 32, /53 characters/],
    ['absurdly long', '0'.repeat(8000), 5000, /8000 characters/],
    ['a letter left out of the alphabet', `${'0'.repeat(31)}e`, 20, /character 32 /],
    ['upper case', `A${'0'.repeat(31)}`, 20, /character 1 /],
    ['not ASCII', `${'0'.repeat(30)}é0`, 20, /character 31 /],
    ['beyond the table', `${'0'.repeat(31)}☃`, 20, /character 32 /],
    ['bits beyond the last byte', `2${'0'.repeat(51)}`, 32, /beyond the last byte/],
    ['bits beyond one byte', '80', 1, /beyond the last byte/],
  ]
  for (const [name, text, bytes, message] of cases) {
    t.throws(() => decodeNix32(text, bytes), { code: 'NIX32_INVALID', message }, name)
  }
})
