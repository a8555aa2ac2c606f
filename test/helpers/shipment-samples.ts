import { readFileSync } from 'node:fs'
import { isNarwharfError, type ErrorCode } from '../../protocol/errors.ts'
import type { HaveDigestAbout } from '../../protocol/have-digest.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { Compression, NarInfo } from '../../protocol/path-info.ts'
import type { Receipt } from '../../protocol/receipt.ts'
import { shipmentNarUrl, type ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { ShipmentManifest } from '../../protocol/shipment.ts'
import { parseSecretKey } from '../../protocol/signature.ts'
import { signerOf } from '../../protocol/signed-json.ts'
import type { BaseName, HashPart, StorePath } from '../../protocol/store-path.ts'
import type { WantList } from '../../protocol/want-list.ts'

// What lies on a small shipment, for tests and for the fixture that docs/shipment-format.md shows.

/** The key of the tests that stands for the depot's. */
export const depotKey = parseSecretKey(
  readFileSync('test/fixtures/protocol/key-1.secret', 'latin1'),
)

/** Signs with {@link depotKey}. */
export const sign = signerOf(depotKey)

export const hashPart = (n: number): HashPart => encodeNix32(Buffer.alloc(20, n)) as HashPart
export const baseName = (n: number, name = `pkg-${n}`): BaseName =>
  `${hashPart(n)}-${name}` as BaseName
export const storePath = (n: number, name?: string): StorePath =>
  `/nix/store/${baseName(n, name)}` as StorePath
const sha256 = (n: number) => ({ algorithm: 'sha256', bytes: Buffer.alloc(32, n) }) as const

/** An entry as a depot has most: zstd, by file hash. */
export function shipmentEntry(
  n: number,
  {
    compression = 'zstd',
    builtHere = false,
    parts,
    ...extra
  }: Partial<NarInfo> & {
    readonly compression?: Compression
    readonly builtHere?: boolean
    readonly parts?: number
  } = {},
): ShipmentEntry {
  return {
    builtHere,
    parts,
    info: {
      storePath: storePath(n),
      narHash: sha256(n),
      narSize: 100 + n,
      references: [],
      ca: undefined,
      signatures: [],
      deriver: undefined,
      url: shipmentNarUrl(Buffer.alloc(32, n + 100), compression),
      compression,
      fileHash: sha256(n + 100),
      fileSize: 50 + n,
      ...extra,
    },
  }
}

/** The entries of the fixture: a library, what needs it, and a NAR that FAT32 cannot hold. */
export const sampleEntries: readonly ShipmentEntry[] = [
  shipmentEntry(1),
  shipmentEntry(2, { references: [baseName(1), baseName(2)] }),
  shipmentEntry(3, { references: [baseName(2)], fileSize: 5_000_000_000, parts: 2 }),
]

export const sampleManifest: ShipmentManifest = {
  id: '5f9e1d2c3b4a59687786a5b4c3d2e1f0',
  depot: 'bremerhaven-1',
  name: 'KERGUELEN-2',
  part: 2,
  parts: 3,
  createdAt: '2026-01-31T12:00:00Z',
  storeDir: '/nix/store',
  against: { site: 'kerguelen', digest: 'ab'.repeat(32) },
  paths: 3,
  narBytes: 306,
  fileBytes: 5_000_000_103,
  roots: [storePath(3)],
  sections: [
    {
      kind: 'index',
      file: 'narwharf/index/000001.blk',
      size: 366,
      sha256: 'cd'.repeat(32),
    },
    {
      kind: 'channel',
      file: 'narwharf/channels/nixos-25.11/nixexprs.tar.xz',
      size: 0,
      sha256: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
    },
  ],
  splits: [{ url: shipmentNarUrl(Buffer.alloc(32, 103), 'zstd'), parts: 2 }],
}

export const sampleWantList: WantList = {
  site: 'kerguelen',
  createdAt: '2026-01-31T12:00:00Z',
  storeDir: '/nix/store',
  wants: [
    {
      id: 'w1',
      kind: 'pattern',
      text: 'firefox-*',
      paths: [],
      priority: 5,
      by: 'lab-3',
      since: '2026-01-30T08:15:00.250Z',
    },
    {
      id: 'w2',
      kind: 'configuration',
      text: 'nixosConfigurations.méteo',
      paths: [storePath(4), storePath(5)],
      priority: 1,
      by: 'anna at lab-1',
      since: '2026-01-29T23:59:59Z',
    },
  ],
}

export const sampleReceipt: Receipt = {
  shipment: { id: sampleManifest.id, part: 2, parts: 3 },
  drive: 'KERGUELEN-2',
  host: 'lab-1',
  site: 'kerguelen',
  at: '2026-03-02T07:00:00Z',
  storeDir: '/nix/store',
  complete: true,
  came: 1,
  bytes: 51,
  wasThere: 1,
  left: 0,
  damaged: [
    { storePath: storePath(3), problem: 'NAR hash differs', repairedFrom: 'peer lab-2' },
    { storePath: storePath(4), problem: 'file is missing', repairedFrom: undefined },
  ],
  missing: [storePath(4), storePath(5)],
}

export const sampleHaveAbout: HaveDigestAbout = {
  site: 'kerguelen',
  createdAt: '2026-01-31T12:00:00Z',
  shipments: [{ id: sampleManifest.id, parts: [1, 3], of: 3 }],
  salt: Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex'),
}

/** The message of the error of that code that work throws; throws on for any other error. */
export function problemIn(code: ErrorCode, work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (isNarwharfError(error, code)) return error.message
    throw error
  }
  return 'nothing wrong'
}

/** Canonical JSON of an object that is so already: for forging. */
export const forged = (members: Readonly<Record<string, unknown>>): Buffer =>
  Buffer.from(`${JSON.stringify(sortedMembers(members))}\n`)

function sortedMembers(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortedMembers)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, sortedMembers(member)]),
  )
}

/** What was written, with some members changed (undefined: left out) and the signature as it was. */
export const changed = (bytes: Buffer, changes: Readonly<Record<string, unknown>>): Buffer =>
  forged({ ...(JSON.parse(bytes.toString()) as object), ...changes })
