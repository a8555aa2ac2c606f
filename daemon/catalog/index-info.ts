import { createColumnReader, createColumnWriter } from '../../protocol/columns.ts'
import { NAR_HASH_BYTES, SIGNATURE_BYTES } from '../../protocol/index-block.ts'
import type { IndexAdd } from '../../protocol/index-block.ts'

// The column `infos.rest`: what is known of a path beyond its NAR. Paths are ids of the table `paths`.
//
//   rest = references{count, id...ascending} deriver{0 none, else id + 1} ca:text {key name:text signature{64}}*

/** Most characters of a content address, key name, as they were checked when they came. */
const TEXT_MAX_BYTES = 256

/** References of one path: what a block may have. */
export interface InfoRest {
  readonly references: readonly number[]
  readonly deriver: number | undefined
  readonly ca: string | undefined
  readonly signatures: readonly string[]
}

/** The rest of one entry of a block; `references` ascending. */
export function encodeRest(
  block: IndexAdd,
  entry: number,
  references: Float64Array,
  deriver: number | undefined,
): Buffer {
  const writer = createColumnWriter(64)
  writer.number(references.length)
  writer.numbers(references)
  writer.number(deriver === undefined ? 0 : deriver + 1)
  writer.text(block.cas[entry] ?? '')
  const end = block.signatureStarts[entry + 1] as number
  for (let at = block.signatureStarts[entry] as number; at < end; at++) {
    writer.text(block.keyNames[block.signatureKeys[at] as number] as string)
    writer.bytes(block.signatures.subarray(at * SIGNATURE_BYTES, (at + 1) * SIGNATURE_BYTES))
  }
  return writer.finish()
}

/** Reads what {@link encodeRest} wrote. */
export function decodeRest(bytes: Buffer): InfoRest {
  const reader = createColumnReader(bytes, 'INDEX_INVALID', 'an info of the catalog')
  const references = [...reader.numbers(reader.number())]
  const deriver = reader.number()
  const ca = reader.text(TEXT_MAX_BYTES)
  const signatures: string[] = []
  while (reader.left() > 0) {
    const keyName = reader.text(TEXT_MAX_BYTES)
    signatures.push(`${keyName}:${reader.bytes(SIGNATURE_BYTES).toString('base64')}`)
  }
  return {
    references,
    deriver: deriver === 0 ? undefined : deriver - 1,
    ca: ca === '' ? undefined : ca,
    signatures,
  }
}

/** Paths that a rest speaks of. */
export function referredIn(bytes: Buffer): number[] {
  const reader = createColumnReader(bytes, 'INDEX_INVALID', 'an info of the catalog')
  const paths = [...reader.numbers(reader.number())]
  const deriver = reader.number()
  if (deriver > 0) paths.push(deriver - 1)
  return paths
}

/** The NAR hash of an entry. */
export const narHashAt = (block: IndexAdd, entry: number): Buffer =>
  block.narHashes.subarray(entry * NAR_HASH_BYTES, (entry + 1) * NAR_HASH_BYTES)
