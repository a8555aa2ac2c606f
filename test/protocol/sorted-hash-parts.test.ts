import { createHash } from 'node:crypto'
import t from 'tap'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { sortHashParts } from '../../protocol/sorted-hash-parts.ts'
import type { HashPart } from '../../protocol/store-path.ts'

const parts = (count: number): HashPart[] =>
  Array.from(
    { length: count },
    (_, at) => encodeNix32(createHash('sha1').update(String(at)).digest()) as HashPart,
  )

const never = (): never => {
  throw new Error('too many')
}

t.test('in the order of texts, each once', async t => {
  t.strictSame([...sortHashParts([], 0, never)], [])
  // More than one piece of memory, and many with the same first bytes.
  const many = parts(70_000)
  const alike = many.slice(0, 2000).map(part => `zzzz${part.slice(4)}` as HashPart)
  const all = [...many, ...alike, ...many.slice(0, 500), ...alike.slice(0, 3)]
  const sorted = sortHashParts(all, all.length, never)
  t.equal(sorted.count, new Set(all).size)
  t.strictSame([...sorted], [...new Set(all)].sort())
  t.strictSame([...sorted].length, sorted.count, 'as often as it is asked')
})

t.test('too many', async t => {
  t.throws(() => sortHashParts(parts(3), 2, never), /too many/)
  t.throws(() => sortHashParts(['x' as HashPart], 2, never), { code: 'NIX32_INVALID' })
})
