// The member list of a site: who belongs to it, as signed lines that any host can merge with any other list of the site.
//
//   list      = "narwharf-members 1 " site-key LF *(line LF)      lines sorted by byte, each once; ASCII
//   line      = author " " previous " " statement " " signature
//   author    = "site" | key                                     the site key itself, or an admin's host key
//   previous  = id of the author's own line before, | "-"        its lines are a chain   (always "-" for the site key)
//   statement = "site " revision " " name                        the site is called so            (site key only)
//             | "admin " key                                     that host is an admin
//             | "admit " key " " revision " " name " " nix-key   that host is a member, called so
//             | "revoke " key " " last                           that host is none, for good
//   last      = id of the last line that the revoked host signed, as far as who revokes it knows, | "-"
//   id        = the first 16 bytes of SHA-256 of a whole line, in hex
//   key       = 64 lower-case hex digits, an Ed25519 public key: the site's, or a host's (its Noise static key)
//   revision  = 1..999999; of several names of one key the highest revision counts, then the line that sorts last
//   nix-key   = "name:base64", the key the host signs store paths with, | "-"
//   signature = base64 of Ed25519 by the author over "narwharf member list 1" LF site-key LF and the line before its signature
//
// Why lines and not one signed table with a number: two admins on islands that do not hear one another both change the list.
// Of two whole tables one would win and an invite or a revocation be lost, or an admin be needed to mend it. Lines only ever
// add up: the union of two lists is the merged list, the same whoever makes it and in whatever order, with no admin present
// and no clock. "Newer" means to hold a line more; there is no number that a liar could raise.
//
// Why each admin signs with its own host key, and the site key is apart: a stolen or dismissed admin can be revoked, which a
// key shared by several hosts could not. The site key (its public half is the site's identity) makes the first admin and
// belongs in the safe, written down (recovery.ts): whoever brings it to a new machine is an admin again, so no site is lost
// with its machines.
//
// What the lines come to stands in membership.ts.
// Left to others: who may offer a list (daemon/membership), and when lists travel (daemon/gossip).
import { createHash } from 'node:crypto'
import { createVerifier, signBytes, type KeyPairBytes } from './ed25519.ts'
import { fail } from './errors.ts'

/** Hosts of one site. Beyond it no admin admits; islands that merge may come to more, which the limit of lines bounds. */
export const MEMBERS_MAX = 1000

/** Admissions, promotions and revocations of a site's whole life: four for each member. Bounds memory and signature checks. */
export const MEMBER_LINES_MAX = 4096

/** Longest name of a site or host: a host name's label. */
export const MEMBER_NAME_MAX_CHARACTERS = 63

/** Longest `name:base64` of a member's signing key: 44 characters of key and a name. */
export const NIX_KEY_MAX_CHARACTERS = 128

/** Two keys, an id, a name, a signing key, a signature and the words between come to 457. */
const LINE_MAX_CHARACTERS = 464

/** Bytes of a list: a full one of the longest lines. A site of 1000 hosts has about 370,000. */
export const MEMBER_LIST_MAX_BYTES = (MEMBER_LINES_MAX + 1) * (LINE_MAX_CHARACTERS + 1)

/** Highest revision of a name: a host does not join a million times. */
export const REVISION_MAX = 999_999

const HEAD = /^narwharf-members 1 ([0-9a-f]{64})$/
const KEY = '[0-9a-f]{64}'
const REVISION = '[1-9][0-9]{0,5}'
const NAME = '[A-Za-z0-9][A-Za-z0-9._-]{0,62}'
const ID_CHARACTERS = 32
const ID = '[0-9a-f]{32}|-'
const LINE = new RegExp(
  `^(?<author>site|${KEY}) (?<previous>${ID}) (?:site (?<siteRevision>${REVISION}) (?<siteName>${NAME})|` +
    `admin (?<admin>${KEY})|revoke (?<revoked>${KEY}) (?<last>${ID})|` +
    `admit (?<key>${KEY}) (?<revision>${REVISION}) (?<name>${NAME}) ` +
    `(?<nixKey>[\\x21-\\x7e]{1,${NIX_KEY_MAX_CHARACTERS}})) [A-Za-z0-9+/]{85}[AQgw]==$`,
)
const WHOLE_NAME = new RegExp(`^${NAME}$`)
/** A public key as Nix spells it; read by its form alone, a list has a thousand. 32 bytes end in a digit of 4 bits. */
const NIX_KEY = /^[\x21-\x39\x3b-\x7e]+:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/
const NONE = '-'
const DOMAIN = 'narwharf member list 1\n'

/** The author of what the site key itself signed. */
export const SITE_AUTHOR = 'site'

/** What one line says. Keys are 64 lower-case hex digits. */
export type Statement =
  | { readonly kind: 'site'; readonly revision: number; readonly name: string }
  | { readonly kind: 'admin'; readonly key: string }
  | {
      readonly kind: 'revoke'
      readonly key: string
      /** The last line of that host that still counts, and with it those before; undefined for none. */
      readonly last?: string | undefined
    }
  | {
      readonly kind: 'admit'
      readonly key: string
      readonly revision: number
      readonly name: string
      /** `name:base64`: what the host signs store paths with. */
      readonly nixKey?: string | undefined
    }

/** A statement with who made it, as it stands in the list. */
export interface Line {
  /** {@link SITE_AUTHOR} or an admin's key. */
  readonly author: string
  /** The id of the author's line before this one. */
  readonly previous: string | undefined
  readonly statement: Statement
  /** By which other lines name it. */
  readonly id: string
  /** The whole line, signature and all, without its end. */
  readonly text: string
}

/** A list whose every line is signed by the site key or somebody who was made an admin; only this file makes one. */
export interface MemberList {
  /** The site's identity: the public half of its key, 64 hex digits. */
  readonly siteKey: string
  /** By their text, sorted by byte. */
  readonly lines: ReadonlyMap<string, Line>
}

const invalid = (problem: string): never => fail('MEMBER_LIST_INVALID', { problem })

/** Whether a text can be the name of a site or host. */
export const isMemberName = (text: string): boolean => WHOLE_NAME.test(text)

/** Whether a text can stand as a member's signing key: `name:base64` of 32 bytes, in its one spelling, short enough. */
export const isNixKey = (text: string): boolean =>
  text.length <= NIX_KEY_MAX_CHARACTERS && NIX_KEY.test(text)

const optional = (text: string | undefined): string | undefined =>
  text === NONE ? undefined : text

function parseStatement(fields: Readonly<Record<string, string>>): Statement | undefined {
  const { author, siteName, siteRevision, admin, revoked, last, key = '', name = '' } = fields
  if (siteName !== undefined) {
    // Only the site key names the site: else two admins could call it to and fro.
    if (author !== SITE_AUTHOR) return undefined
    return { kind: 'site', revision: Number(siteRevision), name: siteName }
  }
  if (admin !== undefined) return { kind: 'admin', key: admin }
  if (revoked !== undefined) return { kind: 'revoke', key: revoked, last: optional(last) }
  const nixKey = optional(fields.nixKey)
  if (nixKey !== undefined && !isNixKey(nixKey)) return undefined
  return { kind: 'admit', key, revision: Number(fields.revision), name, nixKey }
}

function parseLine(text: string): Line | undefined {
  const fields = LINE.exec(text)?.groups
  const statement = fields === undefined ? undefined : parseStatement(fields)
  if (fields === undefined || statement === undefined) return undefined
  const { author = '', previous } = fields
  const id = createHash('sha256').update(text).digest('hex').slice(0, ID_CHARACTERS)
  return { author, previous: optional(previous), statement, id, text }
}

function formatStatement(statement: Statement): string {
  switch (statement.kind) {
    case 'site':
      return `site ${statement.revision} ${statement.name}`
    case 'admin':
      return `admin ${statement.key}`
    case 'revoke':
      return `revoke ${statement.key} ${statement.last ?? NONE}`
    case 'admit':
      return `admit ${statement.key} ${statement.revision} ${statement.name} ${statement.nixKey ?? NONE}`
  }
}

/** Where the signature stands in a line: behind the last blank. */
const signedPart = (line: string): string => line.slice(0, line.lastIndexOf(' '))

/**
 * Signs one statement: with the site's key pair as {@link SITE_AUTHOR}, with a host's own as that host. `previous` is the
 * host's last line so far ({@link lastLineOf}). Throws MEMBER_LIST_INVALID for what could not be read again.
 */
export function signStatement(
  siteKey: string,
  statement: Statement,
  signer: KeyPairBytes,
  previous?: string,
): Line {
  const key = signer.publicKey.toString('hex')
  const head = key === siteKey ? `${SITE_AUTHOR} ${NONE}` : `${key} ${previous ?? NONE}`
  const signed = `${head} ${formatStatement(statement)}`
  const signature = signBytes(Buffer.from(`${DOMAIN}${siteKey}\n${signed}`), signer.secretKey)
  const line = parseLine(`${signed} ${signature.toString('base64')}`)
  return line ?? invalid(`a statement that no list can hold: ${signed}`)
}

/** Who was made an admin by those grants, from the site key on; it is among them. */
export function adminsBy(grants: Iterable<Line>): Set<string> {
  const byAuthor = new Map<string, string[]>()
  for (const { author, statement } of grants) {
    if (statement.kind !== 'admin') continue
    const granted = byAuthor.get(author)
    if (granted === undefined) byAuthor.set(author, [statement.key])
    else granted.push(statement.key)
  }
  const found = new Set([SITE_AUTHOR])
  // A set hands out what is added while it is walked.
  for (const author of found) for (const key of byAuthor.get(author) ?? []) found.add(key)
  return found
}

const isSite = (author: string): boolean => author === SITE_AUTHOR

/** Everybody who was ever an admin, revoked ones too, but for those that the site key revoked. */
function everAdmins(lines: readonly Line[]): Set<string> {
  const isVoid = new Set(
    lines.flatMap(({ author, statement }) =>
      isSite(author) && statement.kind === 'revoke' ? [statement.key] : [],
    ),
  )
  return adminsBy(
    lines.filter(({ statement }) => statement.kind === 'admin' && !isVoid.has(statement.key)),
  )
}

/** A line with those before it in its author's chain, newest first. */
export function chainOf(byId: ReadonlyMap<string, Line>, last: string | undefined): Line[] {
  const chain: Line[] = []
  // Ids are hashes of what they name, so no chain runs in a ring.
  for (let line = byId.get(last ?? NONE); line !== undefined;) {
    chain.push(line)
    const before = byId.get(line.previous ?? NONE)
    line = before?.author === line.author ? before : undefined
  }
  return chain
}

/** Lines by their ids. */
export const linesById = ({ lines }: MemberList): Map<string, Line> =>
  new Map([...lines.values()].map(line => [line.id, line]))

/**
 * The id of the last line that a host signed; undefined where it signed none. Of several ends (its disk was rolled back once)
 * that of the longest chain.
 */
export function lastLineOf(list: MemberList, key: string): string | undefined {
  const byId = linesById(list)
  const own = [...list.lines.values()].filter(({ author }) => author === key)
  const continued = new Set(own.map(({ previous }) => previous))
  let longest: Line[] = []
  for (const { id } of own) {
    if (continued.has(id)) continue
    const chain = chainOf(byId, id)
    if (chain.length > longest.length) longest = chain
  }
  return longest[0]?.id
}

/** Sorted, each once, void lines dropped. Throws MEMBER_LIST_INVALID for more lines than a list may have. */
function listOf(siteKey: string, lines: readonly Line[]): MemberList {
  const authors = everAdmins(lines)
  const kept = lines.filter(({ author }) => authors.has(author))
  const byText = new Map(kept.map(line => [line.text, line]))
  if (byText.size > MEMBER_LINES_MAX) invalid(`more than ${MEMBER_LINES_MAX} lines`)
  // ASCII: the order of UTF-16 units is that of bytes.
  return { siteKey, lines: new Map([...byText].sort(([a], [b]) => (a < b ? -1 : 1))) }
}

/** A list with more lines: what both say, in its one order. Throws MEMBER_LIST_INVALID when that is too long. */
export const withLines = (list: MemberList, more: Iterable<Line>): MemberList =>
  listOf(list.siteKey, [...list.lines.values(), ...more])

/** The list of a site that has none yet: what its key signed first. */
export const newMemberList = (siteKey: string, lines: readonly Line[]): MemberList =>
  listOf(siteKey, lines)

/** The list as it travels and lies on the disk: its one spelling. */
export const formatMemberList = ({ siteKey, lines }: MemberList): Buffer =>
  Buffer.from(
    `narwharf-members 1 ${siteKey}\n${[...lines.keys()].map(text => `${text}\n`).join('')}`,
  )

/** Checks signatures author by author, the site key first: nobody's line costs a check before it is known to be an admin's. */
function verifyLines(siteKey: string, lines: readonly Line[], known: MemberList['lines']): void {
  const byAuthor = new Map<string, Line[]>()
  for (const line of lines) {
    if (known.has(line.text)) continue
    const own = byAuthor.get(line.author)
    if (own === undefined) byAuthor.set(line.author, [line])
    else own.push(line)
  }
  for (const author of everAdmins(lines)) {
    const unknown = byAuthor.get(author)
    if (unknown === undefined) continue
    const verify = createVerifier(Buffer.from(isSite(author) ? siteKey : author, 'hex'))
    for (const { text } of unknown) {
      const signed = signedPart(text)
      const signature = Buffer.from(text.slice(signed.length + 1), 'base64')
      if (!verify(Buffer.from(`${DOMAIN}${siteKey}\n${signed}`), signature)) {
        invalid('a line whose signature is not its author’s')
      }
    }
  }
}

/**
 * Reads a list strictly: one spelling, every signature good, no line of anybody who was never an admin. Signatures of lines
 * in `known` (a list of the same site) are not checked again. Throws MEMBER_LIST_INVALID.
 */
export function parseMemberList(bytes: Uint8Array, known?: MemberList): MemberList {
  if (bytes.length > MEMBER_LIST_MAX_BYTES) {
    return invalid(`${bytes.length} bytes, at most ${MEMBER_LIST_MAX_BYTES}`)
  }
  const [head = '', ...texts] = Buffer.from(bytes).toString('latin1').split('\n')
  const siteKey = HEAD.exec(head)?.[1] ?? invalid('its first line is not narwharf-members 1')
  if (texts.pop() !== '') return invalid('it does not end with a line')
  if (texts.length > MEMBER_LINES_MAX) return invalid(`more than ${MEMBER_LINES_MAX} lines`)
  const knownLines = known?.siteKey === siteKey ? known.lines : new Map<string, Line>()
  const lines = texts.map((text, at) => {
    if (at > 0 && text <= (texts[at - 1] as string)) invalid(`line ${at + 2} is out of order`)
    return (
      knownLines.get(text) ??
      parseLine(text) ??
      invalid(`line ${at + 2} is not one of the list’s forms`)
    )
  })
  verifyLines(siteKey, lines, knownLines)
  const list = listOf(siteKey, lines)
  if (list.lines.size !== lines.length) return invalid('a line by somebody who is no admin')
  return list
}
