// The first line of a binary file: the format's name, a blank, its version in one digit, a newline.
import { fail } from './errors.ts'
import type { Invalid } from './canonical-json.ts'

/**
 * Checks the first line of a file against that of the version known here. Throws SHIPMENT_TOO_NEW for a newer version,
 * calls `invalid` for anything else.
 */
export function checkMagic(bytes: Uint8Array, magic: string, invalid: Invalid): void {
  const text = Buffer.from(bytes).toString('latin1')
  if (text === magic) return
  const [name, version] = [magic.slice(0, -3), magic.slice(-2, -1)]
  const found = text.slice(-2, -1)
  if (text === `${name} ${found}\n` && /^[0-9]$/.test(found) && found > version) {
    fail('SHIPMENT_TOO_NEW', { format: name, version: found, known: version })
  }
  invalid(`it does not begin with ${magic.trim()}`)
}
