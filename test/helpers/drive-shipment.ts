import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { SecretKey } from '../../protocol/signature.ts'
import { signerOf } from '../../protocol/signed-json.ts'
import { encodeShipmentIndex, shipmentIndexFile } from '../../protocol/shipment-index.ts'
import {
  formatShipment,
  SHIPMENT_MANIFEST_FILE,
  shipmentIdOf,
  type ShipmentManifest,
} from '../../protocol/shipment.ts'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

export interface ManifestOptions {
  readonly key: SecretKey
  /** Numbers of files that NARs are split into, by URL. */
  readonly parts?: Readonly<Record<string, number>>
  readonly changes?: Partial<ShipmentManifest>
  /** Makes the signature another's. */
  readonly sign?: (bytes: Buffer) => string
}

/** Makes a shipment of a flat cache: writes its index file and its manifest, which is given. */
export function addManifest(
  dir: string,
  infos: readonly NarInfo[],
  { key, parts = {}, changes, sign = signerOf(key) }: ManifestOptions,
): ShipmentManifest {
  const entries = infos.map(info => ({ info, builtHere: false, parts: parts[info.url] }))
  const index = encodeShipmentIndex(entries, '/nix/store', bytes => deflateRawSync(bytes))
  const file = shipmentIndexFile(1)
  mkdirSync(join(dir, 'narwharf/index'), { recursive: true })
  writeFileSync(join(dir, file), index)
  const sha256 = hex(createHash('sha256').update(index).digest())
  const narBytes = infos.reduce((sum, { narSize }) => sum + narSize, 0)
  const manifest: ShipmentManifest = {
    id: shipmentIdOf({
      paths: infos.map(({ storePath, narHash }) => ({ storePath, narHash: hex(narHash.bytes) })),
      sections: [],
    }),
    ...{ depot: 'depot', name: 'KERGUELEN-2', part: 1, parts: 1 },
    ...{ createdAt: '2026-01-02T03:04:05Z', storeDir: '/nix/store' },
    ...{ paths: infos.length, narBytes, fileBytes: narBytes, roots: [] },
    sections: [{ kind: 'index', file, size: index.length, sha256 }],
    splits: Object.entries(parts).map(([url, count]) => ({ url, parts: count })),
    ...changes,
  }
  writeFileSync(join(dir, SHIPMENT_MANIFEST_FILE), formatShipment(manifest, sign))
  return manifest
}
