// The site key on paper: its seed of 32 bytes as four lines, each with a checksum of its own, so that a slip of the pen is
// found in its line and two lines in the wrong order are noticed.
//
//   text = 4 line
//   line = number ": " 4 group          groups of 4 digits of Crockford's base 32, a blank between
//          8 bytes of the seed, then 2 bytes: SHA-256 of "narwharf site key 1" LF, the line's number as one byte, and those 8
//
// Numbers, blanks and hyphens are for the eye; what begins with "#" is a remark.
import { createHash } from 'node:crypto'
import { decodeCrockford, encodeCrockford, withoutGaps } from './crockford.ts'
import { SEED_BYTES } from './ed25519.ts'
import { fail } from './errors.ts'

const LINES = 4
const LINE_BYTES = SEED_BYTES / LINES
const CHECKSUM_BYTES = 2
const LINE_DIGITS = 16

/** What is read at most: the four lines and a page of remarks. */
export const RECOVERY_MAX_CHARACTERS = 4096

const invalid = (problem: string): never => fail('RECOVERY_INVALID', { problem })

function checksum(number: number, part: Uint8Array): Buffer {
  const hash = createHash('sha256').update('narwharf site key 1\n')
  return hash.update(Uint8Array.of(number)).update(part).digest().subarray(0, CHECKSUM_BYTES)
}

/** The four lines to write down for a seed of 32 bytes. */
export function formatRecovery(seed: Uint8Array): string[] {
  return Array.from({ length: LINES }, (_, at) => {
    const part = seed.subarray(at * LINE_BYTES, (at + 1) * LINE_BYTES)
    const digits = encodeCrockford(Buffer.concat([part, checksum(at + 1, part)]))
    return `${at + 1}: ${digits.replace(/.{4}(?=.)/g, '$& ')}`
  })
}

/** The seed of a text that somebody wrote down. Throws RECOVERY_INVALID, which names the line but never what it says. */
export function parseRecovery(text: string): Buffer {
  if (text.length > RECOVERY_MAX_CHARACTERS) invalid('it is too long')
  const lines = text
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))
  if (lines.length !== LINES) invalid(`it has ${lines.length} lines, ${LINES} are needed`)
  return Buffer.concat(
    lines.map((line, at) => {
      const digits = withoutGaps(line.replace(/^\d\s*:/, ''))
      const bytes = decodeCrockford(digits)
      if (bytes === undefined) return invalid(`line ${at + 1} has a character that is no digit`)
      if (digits.length !== LINE_DIGITS) {
        return invalid(`line ${at + 1} has ${digits.length} characters, ${LINE_DIGITS} are needed`)
      }
      const part = bytes.subarray(0, LINE_BYTES)
      if (!checksum(at + 1, part).equals(bytes.subarray(LINE_BYTES))) {
        return invalid(`line ${at + 1} is mistyped, or not in its place`)
      }
      return part
    }),
  )
}
