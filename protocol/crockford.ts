// Crockford's base 32, for what people read aloud, write down and type: no I, L, O and U among the digits; typed in either
// case; I and L are read as 1, O as 0; hyphens and white space stand wherever they please. Most significant bit first; the
// bits that fill up the last digit are zero. Source: https://www.crockford.com/base32.html.

const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz'

const DIGIT_OF = new Map<string, number>([
  ...Array.from(ALPHABET, (character, digit): [string, number] => [character, digit]),
  ['i', 1],
  ['l', 1],
  ['o', 0],
])

/** How many digits spell that many bytes. */
export const crockfordLength = (bytes: number): number => Math.ceil((bytes * 8) / 5)

/** The digits of bytes, lower case, without hyphens. */
export function encodeCrockford(bytes: Uint8Array): string {
  let text = ''
  let bits = 0
  let value = 0
  for (const byte of bytes) {
    value = (value << 8) | byte
    bits += 8
    for (; bits >= 5; bits -= 5) text += ALPHABET.charAt((value >> (bits - 5)) & 31)
    value &= 31
  }
  return bits === 0 ? text : text + ALPHABET.charAt((value << (5 - bits)) & 31)
}

/** What was typed without hyphens and white space. */
export const withoutGaps = (text: string): string => text.replace(/[\s\u2010-\u2015-]+/g, '')

/** The bytes of digits without gaps; undefined where a character is no digit, or the last digit carries stray bits. */
export function decodeCrockford(text: string): Buffer | undefined {
  const bytes = Buffer.alloc(Math.floor((text.length * 5) / 8))
  let at = 0
  let bits = 0
  let value = 0
  for (const character of text.toLowerCase()) {
    const digit = DIGIT_OF.get(character)
    if (digit === undefined) return undefined
    value = (value << 5) | digit
    bits += 5
    if (bits >= 8) {
      bits -= 8
      bytes[at++] = value >> bits
      value &= (1 << bits) - 1
    }
  }
  // Five spare bits would be a digit too many; any other stray bit a second spelling of the same bytes.
  return bits < 5 && value === 0 ? bytes : undefined
}

/** Digits in groups with hyphens between, as people copy them. */
export const inGroups = (text: string, size: number): string =>
  text.replace(new RegExp(`(.{${size}})(?=.)`, 'g'), '$1-')
