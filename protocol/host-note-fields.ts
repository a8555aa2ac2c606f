// What stands in a host's note (host-notes.ts), and the strict reading of it: the host is a member of the site, which does
// not make it sane, and what it says ends up on the screens of all.
import {
  formatCanonicalJson,
  jsonFields,
  parseCanonicalJson,
  type Invalid,
  type JsonFields,
  type JsonValue,
} from './canonical-json.ts'
import { fail } from './errors.ts'
import { parsePlainText, parseShipmentId, parseTime, SHIPMENT_PARTS_MAX } from './json-texts.ts'
import { parseBaseName, parseStoreDir, type BaseName } from './store-path.ts'
import { parseWantKind, type WantKind } from './want-list.ts'

/** Something that a host wishes for. */
export interface NotedWant {
  /** Unique on its host. */
  readonly id: string
  readonly kind: WantKind
  /** As it was asked for: a path, a pattern, the name of a .drv, words for a configuration. */
  readonly text: string
  /** What it came to; none for a pattern. */
  readonly paths: readonly BaseName[]
  /** 1 (most urgent) to 9. */
  readonly priority: number
  /** Who asked: `user@host`. */
  readonly by: string
  /** ISO 8601 UTC, by that host's clock. */
  readonly since: string
}

/** A drive that a host knows, plugged or not. */
export interface NotedDrive {
  /** The same wherever it is plugged: `<uuid>`, or `<uuid>/<folder>`. */
  readonly id: string
  readonly name: string
  readonly label?: string | undefined
  readonly shipment?:
    | {
        readonly id: string
        readonly part: number
        readonly parts: number
        readonly depot: string
      }
    | undefined
  readonly plugged: boolean
  /** When it was plugged there last; ISO 8601 UTC, by that host's clock. */
  readonly lastSeen: string
  readonly mountPoint?: string | undefined
  /** Store paths on it; 0 where they were not counted. */
  readonly paths: number
  /** The have digest of what is on it, base64, where there was room. */
  readonly have?: string | undefined
}

/** A shipment that a host merges just now. */
export interface NotedMerge {
  readonly shipment: string
  readonly part: number
  readonly drive?: string | undefined
  /** Its share of what several merge together has come. */
  readonly shareDone: boolean
}

/** What a host tells its site of itself. */
export interface HostNote {
  /** When it was written; ISO 8601 UTC, by that host's clock. */
  readonly at: string
  /** Drawn at each start: two machines with one key have different ones. */
  readonly instance: string
  readonly storeDir: string
  /** Whether its cache keeps what shipments bring. */
  readonly keeper: boolean
  readonly wants: readonly NotedWant[]
  readonly drives: readonly NotedDrive[]
  readonly merges: readonly NotedMerge[]
  /** Shipments whose parts it has merged: `<id>/<part>`. */
  readonly merged: readonly string[]
}

/** Wants of one host: a list that a person keeps. */
export const NOTED_WANTS_MAX = 1000

/** Paths of all wants of one host: two whole configurations, and what fits into a note beside them. */
export const NOTED_WANT_PATHS_MAX = 40_000

/** Drives that one host remembers: a shelf full, newest first. */
export const NOTED_DRIVES_MAX = 200

/** Merges at a time: one for each plug of a machine. */
export const NOTED_MERGES_MAX = 50

/** Parts of shipments remembered as merged, the newest: twenty years of monthly ships with four drives. */
export const NOTED_MERGED_MAX = 1000

const IDENTIFIER = /^[0-9A-Za-z._:+-]{1,128}$/
const MERGED = /^[0-9a-f]{32}\/[1-9]\d{0,3}$/
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/

export const invalidNote: Invalid = (problem, cause) => fail('NOTE_INVALID', { problem }, cause)

/** A text of that shape, or throws. */
const shaped = (shape: RegExp) => (text: string) => {
  if (!shape.test(text)) throw new Error('not as it should be')
  return text
}
const identifier = shaped(IDENTIFIER)
const merged = shaped(MERGED)

function parseDigest(text: string): string {
  if (!BASE64.test(text)) throw new Error('no base64')
  return text
}

const fieldsOf = (value: unknown, where: string): JsonFields =>
  jsonFields(value, where, invalidNote)

function readWant(value: unknown, where: string): NotedWant {
  const want = fieldsOf(value, where)
  return {
    id: want.text('id', identifier),
    kind: want.text('kind', parseWantKind),
    text: want.text('text', parsePlainText),
    paths: want.texts('paths', NOTED_WANT_PATHS_MAX, parseBaseName),
    priority: want.number('priority', 9, 1),
    by: want.text('by', parsePlainText),
    since: want.text('since', parseTime),
  }
}

function readDrive(value: unknown, where: string): NotedDrive {
  const drive = fieldsOf(value, where)
  const label = drive.optionalText('label', parsePlainText)
  const mountPoint = drive.optionalText('mountPoint', parsePlainText)
  const have = drive.optionalText('have', parseDigest)
  const shipment = drive.optionalObject('shipment', fields => ({
    id: fields.text('id', parseShipmentId),
    part: fields.number('part', SHIPMENT_PARTS_MAX, 1),
    parts: fields.number('parts', SHIPMENT_PARTS_MAX, 1),
    depot: fields.text('depot', parsePlainText),
  }))
  return {
    id: drive.text('id', parsePlainText),
    name: drive.text('name', parsePlainText),
    ...(label !== undefined && { label }),
    ...(shipment !== undefined && { shipment }),
    plugged: drive.flag('plugged'),
    lastSeen: drive.text('lastSeen', parseTime),
    ...(mountPoint !== undefined && { mountPoint }),
    paths: drive.number('paths', Number.MAX_SAFE_INTEGER),
    ...(have !== undefined && { have }),
  }
}

function readMerge(value: unknown, where: string): NotedMerge {
  const merge = fieldsOf(value, where)
  const drive = merge.optionalText('drive', parsePlainText)
  return {
    shipment: merge.text('shipment', parseShipmentId),
    part: merge.number('part', SHIPMENT_PARTS_MAX, 1),
    ...(drive !== undefined && { drive }),
    shareDone: merge.flag('shareDone'),
  }
}

/** Reads the body of a note, canonical JSON; members that are not known are passed over. Throws NOTE_INVALID. */
export function readHostNote(bytes: Uint8Array): HostNote {
  const body = fieldsOf(parseCanonicalJson(bytes, invalidNote), 'it')
  const note: HostNote = {
    at: body.text('at', parseTime),
    instance: body.text('instance', identifier),
    storeDir: body.text('storeDir', parseStoreDir),
    keeper: body.flag('keeper'),
    wants: body.list('wants', NOTED_WANTS_MAX, readWant),
    drives: body.list('drives', NOTED_DRIVES_MAX, readDrive),
    merges: body.list('merges', NOTED_MERGES_MAX, readMerge),
    merged: body.texts('merged', NOTED_MERGED_MAX, merged),
  }
  const paths = note.wants.reduce((sum, want) => sum + want.paths.length, 0)
  return paths > NOTED_WANT_PATHS_MAX ? invalidNote(`its wants name ${paths} paths`) : note
}

/** Writes the body of a note: equal bytes where two notes say the same. Throws NOTE_INVALID for what has no canonical form. */
export function writeHostNote(note: HostNote): Buffer {
  const body: JsonValue = {
    ...note,
    wants: note.wants.map(want => ({ ...want })),
    drives: note.drives.map(drive => ({ ...drive })),
    merges: note.merges.map(merge => ({ ...merge })),
  }
  return Buffer.from(`${formatCanonicalJson(body, invalidNote)}\n`)
}
