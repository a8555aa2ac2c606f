import { decodeNix32, encodeNix32 } from '../../protocol/nix32.ts'
import type { HashPart } from '../../protocol/store-path.ts'

// The hash parts that a holder was seen to have: 20 bytes each in blocks by their first two characters, so that a block
// of a million paths (a thousand) is compared in a millisecond. As strings they would take five times the memory.

/** Bytes of a hash part. */
const PART_BYTES = 20

const DIGITS = '0123456789abcdfghijklmnpqrsvwxyz'.split('')

/** The first two characters of hash parts, in order: one block each. */
export const BLOCK_PREFIXES: readonly string[] = DIGITS.flatMap(first =>
  DIGITS.map(second => first + second),
)

/** Room of a new block, in hash parts; it doubles. */
const BLOCK_ROOM = 8

/** The block of a hash part, or of any text that begins like one; -1 for other texts. */
export function blockOf(text: string): number {
  const first = DIGITS.indexOf(text[0] ?? '')
  const second = DIGITS.indexOf(text[1] ?? '')
  return first < 0 || second < 0 ? -1 : first * DIGITS.length + second
}

/** How a block differs from what was known of it. */
export interface BlockDifference {
  readonly added: readonly HashPart[]
  readonly removed: readonly HashPart[]
}

/** The hash parts known, by blocks. */
export interface KnownParts {
  /** One that is known already takes room until its block is compared, nothing else. */
  add(part: HashPart): void
  remove(part: HashPart): void
  /** All of a block, each once. */
  of(block: number): ReadonlySet<HashPart>
  /** Makes the block what is there now, and tells how it differed. */
  become(block: number, now: ReadonlySet<HashPart>): BlockDifference
}

interface Block {
  bytes: Buffer
  count: number
}

/** Nothing known yet. */
export function createKnownParts(): KnownParts {
  const blocks = new Map<number, Block>()

  const add = (part: HashPart): void => {
    const index = blockOf(part)
    const block = blocks.get(index) ?? { bytes: Buffer.alloc(BLOCK_ROOM * PART_BYTES), count: 0 }
    blocks.set(index, block)
    const at = block.count * PART_BYTES
    if (at === block.bytes.length) {
      const larger = Buffer.alloc(at * 2)
      block.bytes.copy(larger)
      block.bytes = larger
    }
    decodeNix32(part, PART_BYTES).copy(block.bytes, at)
    block.count++
  }

  const of = (index: number): Set<HashPart> => {
    const parts = new Set<HashPart>()
    const { bytes, count } = blocks.get(index) ?? { bytes: Buffer.alloc(0), count: 0 }
    for (let at = 0; at < count * PART_BYTES; at += PART_BYTES) {
      parts.add(encodeNix32(bytes.subarray(at, at + PART_BYTES)) as HashPart)
    }
    return parts
  }

  const set = (index: number, parts: ReadonlySet<HashPart>): void => {
    if (parts.size === 0) {
      blocks.delete(index)
      return
    }
    const bytes = Buffer.alloc(parts.size * PART_BYTES)
    let at = 0
    for (const part of parts) at += decodeNix32(part, PART_BYTES).copy(bytes, at)
    blocks.set(index, { bytes, count: parts.size })
  }

  return {
    add,
    of,
    remove(part) {
      const index = blockOf(part)
      const parts = of(index)
      if (parts.delete(part)) set(index, parts)
    },
    become(index, now) {
      const before = of(index)
      const added = [...now].filter(part => !before.has(part))
      const removed = [...before].filter(part => !now.has(part))
      if (added.length > 0 || blocks.get(index)?.count !== now.size) set(index, now)
      return { added, removed }
    },
  }
}
