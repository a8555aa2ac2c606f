// The texts that shipments, want lists, have digests and receipts are made of, each with one spelling and a limit.
import { isMemberName } from './member-list.ts'

/** Longest text that people wrote: a pattern, an expression, a drive's label, what is wrong with a path. */
export const PLAIN_TEXT_MAX_CHARACTERS = 1024

/** Control characters, and those that turn the writing direction: these texts end up on terminals. */
const UNPRINTABLE = /[\p{Cc}\u2028-\u202e\u2066-\u2069]/u

/** Throws unless it is one line of what can be shown. */
export function parsePlainText(text: string): string {
  if (text === '' || text.length > PLAIN_TEXT_MAX_CHARACTERS) {
    throw new Error(`empty or longer than ${PLAIN_TEXT_MAX_CHARACTERS} characters`)
  }
  if (UNPRINTABLE.test(text)) throw new Error('a character that cannot be shown')
  return text
}

/** The name of a host or site; throws. */
export function parseSiteName(text: string): string {
  if (!isMemberName(text)) throw new Error('no name of a host or site')
  return text
}

const TIME = /^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z$/

/** A time in UTC as Date writes it, milliseconds may be left out; throws for any other spelling and for a day that is none. */
export function parseTime(text: string): string {
  const ms = TIME.test(text) ? Date.parse(text) : NaN
  // Some days that are none are taken for the day after: what comes out differs then.
  if (Number.isNaN(ms) || new Date(ms).toISOString().slice(0, 19) !== text.slice(0, 19)) {
    throw new Error('no time like 2026-01-31T12:00:00Z')
  }
  return text
}

const HEX = /^[0-9a-f]*$/

/** Lower-case hex of so many bytes; the parser throws for any other text. */
export const parseHexOf =
  (bytes: number) =>
  (text: string): string => {
    if (text.length !== bytes * 2 || !HEX.test(text)) {
      throw new Error(`not ${bytes * 2} lower-case hex digits`)
    }
    return text
  }

/** Bytes of a shipment's id. */
export const SHIPMENT_ID_BYTES = 16

/** Reads the id of a shipment, 32 hex digits; throws. */
export const parseShipmentId = parseHexOf(SHIPMENT_ID_BYTES)

/** Most drives of one shipment. */
export const SHIPMENT_PARTS_MAX = 1000
