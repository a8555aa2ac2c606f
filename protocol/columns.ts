// Columns of numbers and texts in bytes, for formats that keep many rows of one shape together. A number is LEB128: seven
// bits a byte, least significant first, the top bit says that more follow, and no byte at the end may be zero but a lone one.
import { fail } from './errors.ts'
import type { ErrorCode } from './errors.ts'

/** Largest number that four bytes hold: counts and positions. */
export const UINT32_MAX = 2 ** 32 - 1

/** Bytes that a number of a column may take at most: 53 bits. */
const VARINT_MAX_BYTES = 8

/** Reads columns in order; whatever is not as it should be throws the error the reader was made with. */
export interface ColumnReader {
  /** Bytes not read yet. */
  left(): number
  bytes(length: number): Buffer
  /** One number, at most `max`. */
  number(max?: number): number
  /** `count` numbers, each at most `max`. */
  numbers(count: number, max?: number): Float64Array
  /** A number of bytes, at most `maxBytes`, and as many bytes of Latin 1. */
  text(maxBytes: number): string
  /** Throws unless all is read. */
  end(): void
}

/** A reader over `source`; `what` names it in the problems of `code`, which must have a `{problem}`. */
export function createColumnReader(
  source: Uint8Array,
  code: ErrorCode,
  what: string,
): ColumnReader {
  const buffer = Buffer.from(source.buffer, source.byteOffset, source.byteLength)
  let at = 0
  const invalid = (problem: string): never => fail(code, { problem: `${what}: ${problem}` })

  const bytes = (length: number): Buffer => {
    if (length > buffer.length - at) invalid('it ends too early')
    return buffer.subarray(at, (at += length))
  }
  const number = (max: number = Number.MAX_SAFE_INTEGER): number => {
    let value = 0
    let scale = 1
    for (let length = 1; ; length++, scale *= 128) {
      const byte = buffer[at++]
      if (byte === undefined) return invalid('it ends too early')
      value += (byte & 0x7f) * scale
      if (byte < 0x80) {
        if (byte === 0 && length > 1) invalid('a number is written too long')
        break
      }
      if (length === VARINT_MAX_BYTES) invalid('a number is too long')
    }
    if (value > max) invalid(`a number is ${value}, at most ${max} may be`)
    return value
  }
  return {
    left: () => buffer.length - at,
    bytes,
    number,
    numbers(count, max = Number.MAX_SAFE_INTEGER) {
      // Asked before anything is allocated: a count is only as true as the bytes behind it.
      if (count > buffer.length - at) invalid('it ends too early')
      const all = new Float64Array(count)
      for (let i = 0; i < count; i++) all[i] = number(max)
      return all
    },
    text(maxBytes) {
      return bytes(number(maxBytes)).toString('latin1')
    },
    end() {
      if (at < buffer.length) invalid(`${buffer.length - at} bytes too many`)
    },
  }
}

/** Collects columns. */
export interface ColumnWriter {
  bytes(bytes: Uint8Array): void
  number(value: number): void
  numbers(values: ArrayLike<number>): void
  text(text: string): void
  finish(): Buffer
}

/** Bytes a writer starts with unless told: it doubles as it fills. */
const WRITER_FIRST_BYTES = 4096

/** A writer of what {@link createColumnReader} reads. Numbers must be safe integers from 0, texts Latin 1. */
export function createColumnWriter(firstBytes: number = WRITER_FIRST_BYTES): ColumnWriter {
  let buffer = Buffer.allocUnsafe(firstBytes)
  let at = 0
  const reserve = (length: number): void => {
    if (at + length <= buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(buffer.length * 2, at + length))
    buffer.copy(larger, 0, 0, at)
    buffer = larger
  }
  const bytes = (more: Uint8Array): void => {
    reserve(more.length)
    buffer.set(more, at)
    at += more.length
  }
  const number = (value: number): void => {
    reserve(VARINT_MAX_BYTES)
    let rest = value
    // Bit operators only know 32 bits.
    while (rest > 0x7fffffff) {
      buffer[at++] = (rest % 128) | 0x80
      rest = Math.floor(rest / 128)
    }
    while (rest > 0x7f) {
      buffer[at++] = (rest & 0x7f) | 0x80
      rest >>>= 7
    }
    buffer[at++] = rest
  }
  return {
    bytes,
    number,
    numbers(values) {
      for (let i = 0; i < values.length; i++) number(values[i] as number)
    },
    text(text) {
      number(text.length)
      bytes(Buffer.from(text, 'latin1'))
    },
    finish: () => Buffer.from(buffer.subarray(0, at)),
  }
}
