// A Bloom filter over hash parts: says "no" only of what was never put in. A hash part is as good as random all through,
// so its own digits choose the bits.

/** Bits for every path the filter has room for: with four looks 1 in 400 absent paths is looked up for nothing. */
const BITS_PER_PATH = 16

/** Room of the smallest filter, paths: 128 KiB. */
const ROOM_MIN = 64 * 1024

/** Nix's base 32 digits to their values, by character code. */
const DIGIT_VALUES = new Uint8Array(128)
for (const [value, digit] of '0123456789abcdfghijklmnpqrsvwxyz'.split('').entries()) {
  DIGIT_VALUES[digit.charCodeAt(0)] = value
}

/** Digits of a hash part for one of the four looks, 5 bits each. */
const LOOKS = 4
const DIGITS_PER_LOOK = 6

export interface HashPartFilter {
  put(part: string): void
  /** False only for what was never put in. */
  mayHave(part: string): boolean
  /** It has more than it was made for: it says "maybe" too often to be of use. */
  readonly isFull: boolean
}

const bitOf = (part: string, look: number, bits: number): number => {
  let value = 0
  const from = look * DIGITS_PER_LOOK
  for (let at = from; at < from + DIGITS_PER_LOOK; at++) {
    value = (value << 5) | (DIGIT_VALUES[part.charCodeAt(at) & 127] ?? 0)
  }
  return (value >>> 0) % bits
}

/** An empty filter with room for that many paths. */
export function createHashPartFilter(paths: number): HashPartFilter {
  let room = Math.max(ROOM_MIN, paths)
  const bytes = new Uint8Array(Math.ceil((room * BITS_PER_PATH) / 8))
  const size = bytes.length * 8
  return {
    get isFull() {
      return room <= 0
    },
    put(part) {
      room--
      for (let look = 0; look < LOOKS; look++) {
        const bit = bitOf(part, look, size)
        bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) | (1 << (bit & 7))
      }
    },
    mayHave(part) {
      for (let look = 0; look < LOOKS; look++) {
        const bit = bitOf(part, look, size)
        if (((bytes[bit >> 3] ?? 0) & (1 << (bit & 7))) === 0) return false
      }
      return true
    },
  }
}
