// nix32: Nix's own base 32, least significant digit last, no padding. The text of n bytes has ceil(8n/5) characters; digit d
// counted from the END of the text holds bits 5d..5d+4 of the bytes read as a little-endian number. Bits beyond the
// last byte must be zero, so that every value has exactly one spelling.
// Source: NixOS/nix src/libutil/hash.cc (printHash32) and base-nix-32.cc.
import { fail } from './errors.ts'

const ALPHABET = '0123456789abcdfghijklmnpqrsvwxyz'

/** Longest text quoted or worked on: a sha512 has 103 characters, nothing in Nix is longer. */
const NIX32_MAX_CHARACTERS = 256

const DIGIT_CODES = Buffer.from(ALPHABET, 'latin1')
const NOT_A_DIGIT = 0xff
const DIGIT_OF_CODE = new Uint8Array(128).fill(NOT_A_DIGIT)
DIGIT_CODES.forEach((code, digit) => {
  DIGIT_OF_CODE[code] = digit
})

/** How many nix32 characters spell that many bytes. */
export const nix32Length = (byteLength: number): number => Math.ceil((byteLength * 8) / 5)

/** The nix32 text of bytes: `nix32Length(bytes.length)` characters; empty for no bytes. */
export function encodeNix32(bytes: Uint8Array): string {
  const length = nix32Length(bytes.length)
  const text = Buffer.allocUnsafe(length)
  for (let at = 0, bit = (length - 1) * 5; at < length; at++, bit -= 5) {
    const index = bit >> 3
    const shift = bit & 7
    // Reading past the end gives undefined, which the bit operators take for 0.
    const pair = (bytes[index] as number) | ((bytes[index + 1] as number) << 8)
    text[at] = DIGIT_CODES[(pair >> shift) & 31] as number
  }
  return text.toString('latin1')
}

/**
 * The bytes of a nix32 text that must spell exactly `expectedBytes` bytes.
 * Throws NIX32_INVALID for another length, a character outside the alphabet, or non-zero bits beyond the last byte.
 */
export function decodeNix32(text: string, expectedBytes: number): Buffer {
  const length = nix32Length(expectedBytes)
  if (text.length !== length || length > NIX32_MAX_CHARACTERS) {
    fail('NIX32_INVALID', {
      value: text,
      problem: `has ${text.length} characters, ${length} expected`,
    })
  }
  const bytes = Buffer.alloc(expectedBytes)
  for (let at = 0, bit = (length - 1) * 5; at < length; at++, bit -= 5) {
    const digit = DIGIT_OF_CODE[text.charCodeAt(at)] ?? NOT_A_DIGIT
    if (digit === NOT_A_DIGIT) {
      fail('NIX32_INVALID', { value: text, problem: `character ${at + 1} is not in the alphabet` })
    }
    const index = bit >> 3
    const pair = digit << (bit & 7)
    bytes[index] = (bytes[index] as number) | (pair & 0xff)
    const carry = pair >> 8
    if (carry !== 0) {
      // Two spellings of one hash would defeat every comparison by text.
      if (index + 1 >= expectedBytes) {
        fail('NIX32_INVALID', { value: text, problem: 'bits beyond the last byte are not zero' })
      }
      bytes[index + 1] = (bytes[index + 1] as number) | carry
    }
  }
  return bytes
}
