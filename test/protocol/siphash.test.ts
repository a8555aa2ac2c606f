import t from 'tap'
import { createSipHash, SIPHASH_KEY_BYTES } from '../../protocol/siphash.ts'

const counted = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, at) => at))

t.test('the vectors of its paper', async t => {
  const hash = createSipHash(counted(SIPHASH_KEY_BYTES))
  // Key and message are the bytes 0, 1, 2, …; outputs of the reference implementation, by length of the message.
  const vectors: [length: number, hash: string][] = [
    [0, '726fdb47dd0e0e31'],
    [1, '74f839c593dc67fd'],
    [7, 'ab0200f58b01d137'],
    [8, '93f5f5799a932462'],
    [15, 'a129ca6149be45e5'],
  ]
  for (const [length, wanted] of vectors) {
    const { high, low } = hash(counted(length).toString('latin1'))
    const text = [high, low].map(half => half.toString(16).padStart(8, '0')).join('')
    t.equal(text, wanted, `${length} bytes`)
  }
})

t.test('another key, another hash', async t => {
  const of = (key: Uint8Array): number => createSipHash(key)('text').low
  t.equal(of(Buffer.alloc(16, 1)), of(Buffer.alloc(16, 1)))
  t.not(of(Buffer.alloc(16, 1)), of(Buffer.alloc(16, 2)))
  t.equal(
    of(counted(20).subarray(4)),
    of(Buffer.from(counted(20).subarray(4))),
    'a part of a buffer',
  )
})
