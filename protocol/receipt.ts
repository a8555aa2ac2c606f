// A receipt, `narwharf/receipts/*.json`: what a merge did with what lay on a drive, signed by the host that merged. Signed
// JSON (signed-json.ts) with the members of Receipt by their names; terms and an example stand in docs/shipment-format.md.
// Left to others: whether the key counts, and whether what it says is so.
import { jsonFields, type Invalid, type JsonFields } from './canonical-json.ts'
import { fail } from './errors.ts'
import {
  parsePlainText,
  parseShipmentId,
  parseSiteName,
  parseTime,
  SHIPMENT_PARTS_MAX,
} from './json-texts.ts'
import {
  formatSignedJson,
  parseSignedJson,
  type Sign,
  type Signed,
  type SignedFormat,
} from './signed-json.ts'
import { parseStoreDir, parseStorePath, type StorePath } from './store-path.ts'

/** Bytes of the largest receipt: 100,000 missing paths have 8 MB. */
export const RECEIPT_MAX_BYTES = 16 * 1024 * 1024

/** Most damaged paths listed: a drive with more is thrown away. */
export const RECEIPT_DAMAGED_MAX = 10_000

/** Most missing paths listed: as many as a want list may have. */
export const RECEIPT_MISSING_MAX = 100_000

/** A path whose NAR on the drive was not what it should be. */
export interface DamagedPath {
  readonly storePath: StorePath
  readonly problem: string
  /** The holder that gave a whole one; undefined where none did. */
  readonly repairedFrom?: string | undefined
}

/** What one host's merge of one drive did. */
export interface Receipt {
  /** Undefined for a plain cache, which has no manifest. */
  readonly shipment?:
    { readonly id: string; readonly part: number; readonly parts: number } | undefined
  /** What the drive is called. */
  readonly drive: string
  /** Who merged. */
  readonly host: string
  /** Undefined for a host without a site. */
  readonly site?: string | undefined
  /** When the merge ended: ISO 8601, UTC. */
  readonly at: string
  readonly storeDir: string
  /** Whether nothing is left to do: a merge that was cancelled, or found no room, is not. */
  readonly complete: boolean
  /** Paths that came, and the bytes of their files. */
  readonly came: number
  readonly bytes: number
  /** Paths the site had already. */
  readonly wasThere: number
  /** Paths left on the drive: nobody's signature that counts, no room, cancelled. */
  readonly left: number
  readonly damaged: readonly DamagedPath[]
  /** What of the want list is still missing. */
  readonly missing: readonly StorePath[]
}

/** A receipt as it was read; its signature is not verified. */
export interface SignedReceipt extends Signed {
  readonly receipt: Receipt
}

const FORMAT: SignedFormat = {
  name: 'narwharf-receipt',
  major: 1,
  minor: 0,
  code: 'RECEIPT_INVALID',
  maxBytes: RECEIPT_MAX_BYTES,
}

const invalid: Invalid = (problem, cause) => fail('RECEIPT_INVALID', { problem }, cause)

function readDamaged(item: unknown, where: string, storeDir: string): DamagedPath {
  const fields = jsonFields(item, where, invalid)
  return {
    storePath: fields.text('storePath', text => parseStorePath(text, storeDir)),
    problem: fields.text('problem', parsePlainText),
    repairedFrom: fields.optionalText('repairedFrom', parsePlainText),
  }
}

function readShipment(fields: JsonFields): NonNullable<Receipt['shipment']> {
  const parts = fields.number('parts', SHIPMENT_PARTS_MAX, 1)
  return {
    id: fields.text('id', parseShipmentId),
    part: fields.number('part', parts, 1),
    parts,
  }
}

/** Reads a receipt strictly, within limits. Throws RECEIPT_INVALID, and SHIPMENT_TOO_NEW for a newer major version. */
export function parseReceipt(bytes: Uint8Array): SignedReceipt {
  const { fields, signature, signedBytes } = parseSignedJson(FORMAT, bytes)
  const storeDir = fields.text('storeDir', parseStoreDir)
  const number = (name: string): number => fields.number(name, Number.MAX_SAFE_INTEGER)
  const receipt: Receipt = {
    shipment: fields.optionalObject('shipment', readShipment),
    drive: fields.text('drive', parsePlainText),
    host: fields.text('host', parseSiteName),
    site: fields.optionalText('site', parseSiteName),
    at: fields.text('at', parseTime),
    storeDir,
    complete: fields.flag('complete'),
    came: number('came'),
    bytes: number('bytes'),
    wasThere: number('wasThere'),
    left: number('left'),
    damaged: fields.list('damaged', RECEIPT_DAMAGED_MAX, (item, where) =>
      readDamaged(item, where, storeDir),
    ),
    missing: fields.texts('missing', RECEIPT_MISSING_MAX, text => parseStorePath(text, storeDir)),
  }
  return { receipt, signature, signedBytes }
}

/** Writes and signs a receipt. Throws RECEIPT_INVALID for one that could not be read again. */
export function formatReceipt(receipt: Receipt, sign: Sign): Buffer {
  const { shipment, damaged } = receipt
  const bytes = formatSignedJson(
    FORMAT,
    {
      shipment: shipment && { id: shipment.id, part: shipment.part, parts: shipment.parts },
      drive: receipt.drive,
      host: receipt.host,
      site: receipt.site,
      at: receipt.at,
      storeDir: receipt.storeDir,
      complete: receipt.complete,
      came: receipt.came,
      bytes: receipt.bytes,
      wasThere: receipt.wasThere,
      left: receipt.left,
      damaged: damaged.map(({ storePath, problem, repairedFrom }) => ({
        storePath,
        problem,
        repairedFrom,
      })),
      missing: receipt.missing,
    },
    sign,
  )
  parseReceipt(bytes)
  return bytes
}
