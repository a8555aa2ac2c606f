import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { inflateRawSync } from 'node:zlib'
import { problemOf } from '../../protocol/errors.ts'
import {
  parseShipment,
  SHIPMENT_MANIFEST_FILE,
  SHIPMENT_MANIFEST_MAX_BYTES,
  type ShipmentManifest,
} from '../../protocol/shipment.ts'
import { readShipmentIndex, SHIPMENT_INDEX_ENTRIES_MAX } from '../../protocol/shipment-index.ts'
import { verifySigned } from '../../protocol/signed-json.ts'
import type { Keyring } from '../../protocol/signature.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import { readSmallFile } from '../holders/small-file.ts'
import { hashOfFile } from './pack-extras.ts'

// What a manifest says, held against what lies there.

/** A manifest that was found, and what is wrong with it and what it names. */
export interface CheckedManifest {
  readonly manifest?: ShipmentManifest | undefined
  /** Name of the known key that signed it. */
  readonly signedBy?: string | undefined
  readonly problems: readonly string[]
}

/** What a narinfo says of a path and its file, in short: equal where index and narinfo agree. */
export type PathMark = string

/** The mark of a path info with its file. */
export const markOf = (
  narHash: Uint8Array,
  fileHash: Uint8Array | undefined,
  url: string,
): PathMark =>
  createHash('sha256')
    .update(narHash)
    .update(fileHash ?? '-')
    .update(url)
    .digest('base64')
    .slice(0, 22)

const INDEX_FILE_MAX_BYTES = SHIPMENT_INDEX_ENTRIES_MAX * 400

const inflate = (bytes: Uint8Array, maxBytes: number): Uint8Array =>
  inflateRawSync(bytes, { maxOutputLength: Math.max(1, maxBytes) })

/** Reads the manifest, and every section that it names. */
export async function checkManifest(
  dir: string,
  keys: Keyring,
  signal: AbortSignal,
): Promise<CheckedManifest> {
  const bytes = await readSmallFile(join(dir, SHIPMENT_MANIFEST_FILE), SHIPMENT_MANIFEST_MAX_BYTES)
  if (bytes === undefined) return { problems: [] }
  try {
    const read = parseShipment(bytes)
    const problems: string[] = []
    for (const { file, size, sha256 } of read.manifest.sections) {
      signal.throwIfAborted()
      const hash = await hashOfFile(join(dir, file))
      if (hash === undefined) problems.push(`${file} cannot be read`)
      else if (hash !== sha256)
        problems.push(`${file} is damaged: it is not the one of ${size} bytes that was packed`)
    }
    return { manifest: read.manifest, signedBy: verifySigned(read, keys), problems }
  } catch (error) {
    signal.throwIfAborted()
    return { problems: [`the manifest is damaged: ${problemOf(error)}`] }
  }
}

/** Compares the index with the narinfos, by their marks; says what differs, `limit` at most. */
export async function compareIndex(
  dir: string,
  manifest: ShipmentManifest,
  marks: ReadonlyMap<HashPart, PathMark>,
  limit: number,
): Promise<string[]> {
  const problems: string[] = []
  for (const { kind, file, size } of manifest.sections) {
    if (kind !== 'index' || size > INDEX_FILE_MAX_BYTES) continue
    const bytes = await readSmallFile(join(dir, file), size)
    if (bytes === undefined) continue
    try {
      for await (const entries of readShipmentIndex([bytes], inflate)) {
        for (const { info } of entries) {
          const mark = marks.get(hashPartOf(info.storePath))
          const { narHash, fileHash, url, storePath } = info
          if (mark === markOf(narHash.bytes, fileHash?.bytes, url) || problems.length >= limit)
            continue
          problems.push(
            mark === undefined
              ? `the index has ${storePath}, which is not there or not whole`
              : `the index says other things of ${storePath} than its narinfo`,
          )
        }
      }
    } catch (error) {
      problems.push(`${file} cannot be read: ${problemOf(error)}`)
    }
  }
  return problems
}
