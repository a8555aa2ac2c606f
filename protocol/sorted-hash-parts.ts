// Hash parts in order, each once, in 24 bytes of memory each: a million as texts in a Set take ten times that. The order is
// that of their texts: nix32 writes the last byte first and its digits ascend, so it is that of the bytes read backwards.
import { PATH_HASH_BYTES } from './index-block.ts'
import { decodeNix32, encodeNix32 } from './nix32.ts'
import type { HashPart } from './store-path.ts'

/** Records of one piece of memory. */
const PIECE_RECORDS = 65_536

/** Buckets by the first two bytes: some fifteen records each of a million. */
const BUCKETS = 65_536

/** Hash parts in the order of their texts. */
export interface SortedHashParts extends Iterable<HashPart> {
  readonly count: number
}

/** Sorts hash parts and drops doubles. `max` counts what came, doubles too; `tooMany` is called at the one beyond. */
export function sortHashParts(
  hashParts: Iterable<HashPart>,
  max: number,
  tooMany: () => never,
): SortedHashParts {
  const pieces: Buffer[] = []
  const starts = new Uint32Array(BUCKETS + 1)
  let came = 0
  for (const hashPart of hashParts) {
    if (came === max) tooMany()
    const within = came % PIECE_RECORDS
    if (within === 0) pieces.push(Buffer.alloc(PIECE_RECORDS * PATH_HASH_BYTES))
    const record = decodeNix32(hashPart, PATH_HASH_BYTES).reverse()
    record.copy(pieces.at(-1) as Buffer, within * PATH_HASH_BYTES)
    const after = record.readUInt16BE(0) + 1
    starts[after] = (starts[after] as number) + 1
    came++
  }
  const recordOf = (number: number): Buffer => {
    const at = (number % PIECE_RECORDS) * PATH_HASH_BYTES
    const piece = pieces[Math.floor(number / PIECE_RECORDS)] as Buffer
    return piece.subarray(at, at + PATH_HASH_BYTES)
  }
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    starts[bucket + 1] = (starts[bucket + 1] as number) + (starts[bucket] as number)
  }
  const order = new Uint32Array(came)
  const next = starts.slice()
  for (let number = 0; number < came; number++) {
    const bucket = recordOf(number).readUInt16BE(0)
    const at = next[bucket] as number
    order[at] = number
    next[bucket] = at + 1
  }
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    order
      .subarray(starts[bucket], starts[bucket + 1])
      .sort((a, b) => recordOf(a).compare(recordOf(b)))
  }
  let count = 0
  for (const number of order) {
    const before = count === 0 ? undefined : recordOf(order[count - 1] as number)
    if (before?.equals(recordOf(number)) !== true) order[count++] = number
  }
  return {
    count,
    *[Symbol.iterator]() {
      for (let at = 0; at < count; at++) {
        const record = Buffer.from(recordOf(order[at] as number)).reverse()
        yield encodeNix32(record) as HashPart
      }
    },
  }
}
