// A want list, `narwharf/want/*.json`: what a site wishes for, signed by the host that wrote it down. Signed JSON
// (signed-json.ts) with the members of WantList by their names; terms and an example stand in docs/shipment-format.md.
// Left to others: whether the key counts, and what a pattern or a configuration comes to: the paths say what it came to.
import { jsonFields, type Invalid, type JsonFields } from './canonical-json.ts'
import { fail } from './errors.ts'
import { parsePlainText, parseSiteName, parseTime } from './json-texts.ts'
import {
  formatSignedJson,
  parseSignedJson,
  type Sign,
  type Signed,
  type SignedFormat,
} from './signed-json.ts'
import { parseStoreDir, parseStorePath, type StorePath } from './store-path.ts'

/** Bytes of the largest want list: its 100,000 paths have 8 MB. */
export const WANT_LIST_MAX_BYTES = 16 * 1024 * 1024

/** Most wants of a site. */
export const WANTS_MAX = 10_000

/** Most paths of all wants of a list together. */
export const WANT_PATHS_MAX = 100_000

/** The least urgent; 1 is the most urgent. */
export const WANT_PRIORITY_MAX = 9

/** What a want's text is. */
export const WANT_KINDS = ['path', 'pattern', 'drv', 'configuration'] as const

/** One of {@link WANT_KINDS}. */
export type WantKind = (typeof WANT_KINDS)[number]

/** What somebody wishes for. */
export interface Want {
  /** Unique in the list: 1..64 of letters, digits, ".", "_" and "-". */
  readonly id: string
  readonly kind: WantKind
  /** As it was asked for: a store path, a name pattern, a `.drv`, the name of a configuration. */
  readonly text: string
  /** What it came to where it was asked; none where that could not be told there. Their closures are meant. */
  readonly paths: readonly StorePath[]
  /** 1, the most urgent, to {@link WANT_PRIORITY_MAX}. */
  readonly priority: number
  /** Who asked: a host, or a person there. */
  readonly by: string
  /** ISO 8601, UTC. */
  readonly since: string
}

/** What the hosts of a site wish for. */
export interface WantList {
  readonly site: string
  /** ISO 8601, UTC. */
  readonly createdAt: string
  readonly storeDir: string
  readonly wants: readonly Want[]
}

/** A want list as it was read; its signature is not verified. */
export interface SignedWantList extends Signed {
  readonly list: WantList
}

const FORMAT: SignedFormat = {
  name: 'narwharf-want-list',
  major: 1,
  minor: 0,
  code: 'WANT_LIST_INVALID',
  maxBytes: WANT_LIST_MAX_BYTES,
}

const invalid: Invalid = (problem, cause) => fail('WANT_LIST_INVALID', { problem }, cause)

const WANT_ID = /^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$/

function parseWantId(text: string): string {
  if (!WANT_ID.test(text)) throw new Error('no id of a want')
  return text
}

/** Reads a kind; throws an Error. */
export function parseWantKind(text: string): WantKind {
  const kind = WANT_KINDS.find(known => known === text)
  if (kind === undefined) throw new Error(`none of ${WANT_KINDS.join(', ')}`)
  return kind
}

function readWant(item: unknown, where: string, storeDir: string): Want {
  const fields = jsonFields(item, where, invalid)
  return {
    id: fields.text('id', parseWantId),
    kind: fields.text('kind', parseWantKind),
    text: fields.text('text', parsePlainText),
    paths: fields.texts('paths', WANT_PATHS_MAX, text => parseStorePath(text, storeDir)),
    priority: fields.number('priority', WANT_PRIORITY_MAX, 1),
    by: fields.text('by', parsePlainText),
    since: fields.text('since', parseTime),
  }
}

/** Reads the member `wants` of an object that JSON gave. Throws WANT_LIST_INVALID. */
export function readWants(value: unknown, storeDir: string): Want[] {
  return wantsOf(jsonFields(value, 'it', invalid), storeDir)
}

function wantsOf(fields: JsonFields, storeDir: string): Want[] {
  const wants = fields.list('wants', WANTS_MAX, (item, where) => readWant(item, where, storeDir))
  const ids = new Set(wants.map(({ id }) => id))
  if (ids.size < wants.length) invalid('two wants have one id')
  if (wants.reduce((sum, { paths }) => sum + paths.length, 0) > WANT_PATHS_MAX) {
    invalid(`more than ${WANT_PATHS_MAX} paths`)
  }
  return wants
}

/** Reads a want list strictly, within limits. Throws WANT_LIST_INVALID, and SHIPMENT_TOO_NEW for a newer major version. */
export function parseWantList(bytes: Uint8Array): SignedWantList {
  const { fields, signature, signedBytes } = parseSignedJson(FORMAT, bytes)
  const storeDir = fields.text('storeDir', parseStoreDir)
  const wants = wantsOf(fields, storeDir)
  const list = {
    site: fields.text('site', parseSiteName),
    createdAt: fields.text('createdAt', parseTime),
    storeDir,
    wants,
  }
  return { list, signature, signedBytes }
}

/** Writes and signs a want list. Throws WANT_LIST_INVALID for one that could not be read again. */
export function formatWantList({ site, createdAt, storeDir, wants }: WantList, sign: Sign): Buffer {
  const bytes = formatSignedJson(
    FORMAT,
    {
      site,
      createdAt,
      storeDir,
      wants: wants.map(({ id, kind, text, paths, priority, by, since }) => ({
        id,
        kind,
        text,
        paths,
        priority,
        by,
        since,
      })),
    },
    sign,
  )
  parseWantList(bytes)
  return bytes
}
