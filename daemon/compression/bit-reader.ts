import type { Compression } from '../../protocol/path-info.ts'
import { damaged, ENDS_EARLY, type PackedSource } from './decoder.ts'

/** Bits of packed bytes, most significant first. */
export interface BitReader {
  /** The next 1 to 24 bits. Throws COMPRESSED_DATA_INVALID where the data ends before. */
  read(count: number): number
  /** The next 32 bits as a signed number. */
  read32(): number
  /** The next 20 bits without taking them; zeros behind the end. */
  peek20(): number
  /** Takes bits after a peek, up to 20. */
  skip(count: number): void
  /** Throws if more was taken by {@link skip} than there was. */
  check(): void
  /** Goes to the next whole byte; true where the data ends there. */
  alignAtEnd(): boolean
}

/** Reads bits from a source. */
export function createBitReader(source: PackedSource, compression: Compression): BitReader {
  let input: Buffer | undefined = Buffer.alloc(0)
  let at = 0
  /** Bits not taken yet: the low `available` ones. */
  let window = 0
  let available = 0
  /** Of those, how many zeros were made up behind the end. */
  let invented = 0

  /** The next byte, or -1 at the end. */
  const nextByte = (): number => {
    while (input !== undefined && at === input.length) {
      input = source()
      at = 0
    }
    return input === undefined ? -1 : (input[at++] as number)
  }

  const ensure = (count: number): void => {
    while (available < count) {
      let byte = nextByte()
      if (byte === -1) {
        byte = 0
        invented += 8
      }
      window = (window << 8) | byte
      available += 8
    }
  }

  const check = (): void => {
    if (invented > available) damaged(compression, ENDS_EARLY)
  }

  const read = (count: number): number => {
    ensure(count)
    available -= count
    check()
    return (window >>> available) & ((1 << count) - 1)
  }

  return {
    read,
    read32: () => (read(16) << 16) | read(16),
    peek20() {
      ensure(20)
      return (window >>> (available - 20)) & 0xfffff
    },
    skip(count) {
      available -= count
    },
    check,
    alignAtEnd() {
      available -= available % 8
      if (available > invented) return false
      // Nothing is left but what was made up.
      if (invented > 0) return true
      const byte = nextByte()
      if (byte === -1) return true
      window = byte
      available = 8
      return false
    },
  }
}
