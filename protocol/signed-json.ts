// A small file that somebody answers for: canonical JSON with a signature among its members.
//
//   file      = canonical JSON of an object, LF
//   members   = "format": text, "version": "major.minor", "signature": "name:base64", and those of the format
//   signature = Ed25519, in Nix's spelling, over the canonical JSON of all members but itself (without the LF)
//
// The format's name among the members keeps a signature from counting for anything else that the same key signs: the
// fingerprint of a path begins with "1;", that of a realisation has other members and no more. A newer minor version adds
// members, which are covered by the signature and passed over; a newer major one is refused with SHIPMENT_TOO_NEW.
// Left to others: whose keys count.
import {
  formatCanonicalJson,
  jsonFields,
  parseCanonicalJson,
  type Invalid,
  type JsonFields,
  type JsonValue,
} from './canonical-json.ts'
import { fail, type ErrorCode } from './errors.ts'
import { parseSignature, signText, verifyText, type Keyring, type SecretKey } from './signature.ts'

/** A format of signed JSON. */
export interface SignedFormat {
  /** The member `format`. */
  readonly name: string
  readonly major: number
  readonly minor: number
  /** What is thrown for whatever is wrong; must have a `{problem}`. */
  readonly code: ErrorCode
  readonly maxBytes: number
}

/** Signs bytes: `name:base64`. */
export type Sign = (bytes: Buffer) => string

/** What a signature covers, and the signature, well-formed and not verified. */
export interface Signed {
  /** `name:base64`. */
  readonly signature: string
  readonly signedBytes: Buffer
}

/** A file taken apart; `fields` are those of the format, unknown ones among them. */
export interface SignedJson extends Signed {
  readonly fields: JsonFields
}

const VERSION = /^(0|[1-9][0-9]{0,5})\.(?:0|[1-9][0-9]{0,5})$/

const invalidOf =
  ({ code }: SignedFormat): Invalid =>
  (problem, cause) =>
    fail(code, { problem }, cause)

/** Signs with a key of Nix's form: what `sign` of every format takes. */
export const signerOf =
  (secret: SecretKey): Sign =>
  bytes =>
    signText(bytes.toString('utf8'), secret)

/** The name of the key by which the signature verifies, or undefined. */
export const verifySigned = (
  { signature, signedBytes }: Signed,
  keys: Keyring,
): string | undefined =>
  // What was canonical JSON is UTF-8, so the text is the bytes.
  verifyText(signedBytes.toString('utf8'), signature, keys)

/** Writes and signs a file. Throws the format's code for what has no canonical form or is too large. */
export function formatSignedJson(
  format: SignedFormat,
  members: Readonly<Record<string, JsonValue | undefined>>,
  sign: Sign,
): Buffer {
  const invalid = invalidOf(format)
  const version = `${format.major}.${format.minor}`
  const signed = { ...members, format: format.name, version }
  const signature = sign(Buffer.from(formatCanonicalJson(signed, invalid)))
  const bytes = Buffer.from(`${formatCanonicalJson({ ...signed, signature }, invalid)}\n`)
  if (bytes.length > format.maxBytes) invalid(`larger than ${format.maxBytes} bytes`)
  return bytes
}

/** Reads a file. Throws the format's code, and SHIPMENT_TOO_NEW for a newer major version. */
export function parseSignedJson(format: SignedFormat, bytes: Uint8Array): SignedJson {
  const invalid = invalidOf(format)
  if (bytes.length > format.maxBytes) invalid(`larger than ${format.maxBytes} bytes`)
  const members = parseCanonicalJson(bytes, invalid)
  const fields = jsonFields(members, 'it', invalid)
  if (members.format !== format.name) invalid(`its format is not ${format.name}`)
  const version = fields.text('version', String)
  const major = Number(VERSION.exec(version)?.[1] ?? invalid(`its version ${version} is none`))
  if (major > format.major) {
    fail('SHIPMENT_TOO_NEW', { format: format.name, version, known: `${format.major}.x` })
  }
  if (major < format.major) invalid(`there was no version ${version}`)
  fields.text('signature', parseSignature)
  const { signature, ...signed } = members
  return {
    fields,
    signature: signature as string,
    signedBytes: Buffer.from(formatCanonicalJson(signed, invalid)),
  }
}
