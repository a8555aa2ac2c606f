// Every error narwharf raises about data or state has a code from this table; docs/errors.md lists the same codes
// (a test keeps the two equal). `message` says what happened with {fields} filled from the error's data, `hint` what
// to do about it. Codes are stable: scripts and the API lean on them.

/** One row of the table: the sentence (with `{field}` holes) and what the reader can do. */
export interface ErrorEntry {
  readonly message: string
  readonly hint: string
}

/** The table. Grouped by the format or room that raises the code; rooms of daemon/ add theirs below protocol's. */
export const ERRORS = {
  NIX32_INVALID: {
    message: 'invalid nix32 text {value}: {problem}',
    hint: 'nix32 uses 0-9 and a-z without e, o, u and t',
  },
  HASH_INVALID: {
    message: 'invalid hash {value}: {problem}',
    hint: 'write a hash as sha256:<nix32|hex|base64> or in SRI form, sha256-<base64>',
  },
  HASH_NOT_TRUSTED: {
    message: 'hash algorithm {algorithm} cannot anchor trust',
    hint: 'use sha256',
  },
  STORE_PATH_INVALID: {
    message: 'invalid store path {value}: {problem}',
    hint: 'a store path looks like /nix/store/<32 characters>-<name>',
  },
  NARINFO_INVALID: {
    message: 'invalid narinfo: {problem}',
    hint: 'whoever wrote the narinfo must write it again; it is treated as absent',
  },
  CACHE_INFO_INVALID: {
    message: 'invalid nix-cache-info: {problem}',
    hint: 'the file needs at least a line "StoreDir: /nix/store"',
  },
  KEY_INVALID: {
    message: 'invalid key: {problem}',
    hint: 'a key looks like name:base64, as nix-store --generate-binary-cache-key writes it',
  },
  SIGNATURE_INVALID: {
    message: 'invalid signature {value}: {problem}',
    hint: 'a signature looks like name:base64 with 64 bytes behind the colon',
  },
  CONTENT_ADDRESS_INVALID: {
    message: 'invalid content address {value}: {problem}',
    hint: 'a content address looks like fixed:r:sha256:<hash> or text:sha256:<hash>',
  },
  REALISATION_INVALID: {
    message: 'invalid realisation: {problem}',
    hint: 'whoever wrote the realisation must write it again; it is treated as absent',
  },
  DERIVATION_INVALID: {
    message: 'invalid derivation: {problem} (at byte {offset})',
    hint: 'the .drv file is damaged or not a derivation; fetch it again',
  },
  NAR_INVALID: {
    message: 'invalid NAR: {problem} (at byte {offset})',
    hint: 'the NAR is damaged or forged; it is not passed on and another holder is tried',
  },
  NAR_MISMATCH: {
    message: 'NAR of {path} has {field} {actual}, expected {expected}',
    hint: 'the copy is damaged; it is not passed on and another holder is tried',
  },
  EXPORT_INVALID: {
    message: 'invalid export archive: {problem} (at byte {offset})',
    hint: 'the archive is damaged, cut short or none of nix-store --export; make it again, or copy it again and compare',
  },
  EXPORT_SIGNATURES_INVALID: {
    message: 'invalid signatures of an export archive: {problem}',
    hint: 'write them again with the archive (narwharf export), or with nix path-info --json; or import without them',
  },
  IMPORT_CUT_SHORT: {
    message: 'the archive did not come to its end: {problem}',
    hint: 'send it again: what came of it is not written twice',
  },
  EXPORT_TOO_LARGE: {
    message: 'the closure has more than {limit} paths',
    hint: 'export it in parts, or pack a shipment: narwharf ship',
  },
  EXPORT_BROKE_OFF: {
    message: '{path} cannot be exported: {problem}',
    hint: 'run it again: a copy that was found damaged is not taken twice; narwharf why-not says who has the path',
  },
  FRAME_INVALID: {
    message: 'the daemon’s answer cannot be understood: {problem}',
    hint: 'it may be of another version than this command: narwharf status',
  },
  HOLDING_GONE: {
    message: '{path} is no longer held by {holder}',
    hint: 'it was garbage-collected or deleted; another holder is tried',
  },
  HOLDER_UNREADABLE: {
    message: '{holder} cannot be read: {problem}',
    hint: 'check that the path exists and that the daemon may read it; narwharf doctor says more',
  },
  COMPRESSION_UNKNOWN: {
    message: 'unknown compression {compression}',
    hint: 'known are none, xz, zstd, bzip2, gzip and br',
  },
  COMPRESSED_DATA_INVALID: {
    message: '{compression} data is damaged: {problem}',
    hint: 'the file is damaged; another holder is tried',
  },
  NAR_WORKER_LOST: {
    message: 'a NAR worker thread stopped: {problem}',
    hint: 'another takes its place; ask again, and report it if it comes back',
  },
  INDEX_INVALID: {
    message: 'invalid index record: {problem}',
    hint: 'whoever wrote the index is damaged or forges; nothing of the record is believed',
  },
  INDEX_OUT_OF_ORDER: {
    message: 'the index of {peer} cannot be taken from there: {problem}',
    hint: 'ask the catalog how far it has come and go on from there',
  },
  HEAD_INVALID: {
    message: 'invalid index head: {problem}',
    hint: 'whoever sent it is damaged or forges; the index known before stays in force',
  },
  NOTE_INVALID: {
    message: 'invalid note of a host: {problem}',
    hint: 'whoever sent it is damaged or forges; the note known before stays in force',
  },
  MEMBER_LIST_INVALID: {
    message: 'invalid member list: {problem}',
    hint: 'whoever sent it is damaged or forges; the list known before stays in force',
  },
  INVITE_INVALID: {
    message: 'this is no invite code: {problem}',
    hint: 'copy the whole code as narwharf invite printed it, from nw- on',
  },
  RECOVERY_INVALID: {
    message: 'this is no site key as it was written down: {problem}',
    hint: 'give the four lines that narwharf site recovery printed, in their order',
  },
  PAIRING_INVALID: {
    message: 'invalid words of a host that wants to pair: {problem}',
    hint: 'it runs another version or another program; it was refused',
  },
  SHIPMENT_INVALID: {
    message: 'invalid shipment: {problem}',
    hint: 'the drive is damaged or forged; what stands on it as a plain cache is still looked at, path by path',
  },
  SHIPMENT_TOO_NEW: {
    message: '{format} is of version {version}, this narwharf knows {known}',
    hint: 'it was written by a newer narwharf: update this one; stock Nix can use the drive as a binary cache meanwhile',
  },
  HAVE_DIGEST_INVALID: {
    message: 'invalid have digest: {problem}',
    hint: 'write it again at the site: narwharf have -o FILE',
  },
  WANT_LIST_INVALID: {
    message: 'invalid want list: {problem}',
    hint: 'write it again at the site: narwharf want export',
  },
  RECEIPT_INVALID: {
    message: 'invalid receipt: {problem}',
    hint: 'it tells what a merge did and nothing else depends on it: leave it, or merge again',
  },
  SITE_NONE: {
    message: 'this host belongs to no site',
    hint: 'make one with narwharf site init NAME, or join one with narwharf join CODE',
  },
  SITE_TAKEN: {
    message: 'this host belongs to the site {site} already',
    hint: 'to leave it for another one, say --leave: what it knows of this site is then forgotten here',
  },
  SITE_NOT_ADMIN: {
    message: 'this host is no admin of the site {site}',
    hint: 'run it on an admin (narwharf members names them), or bring the site key: narwharf site restore',
  },
  SITE_KEY_ABSENT: {
    message: 'the site key of {site} is not on this host',
    hint: 'it is on the host that made the site, or on paper in the safe: narwharf site restore',
  },
  SITE_KEY_FOREIGN: {
    message: 'that key is of another site than {site}, to which this host belongs',
    hint: 'take the key that was written down for this site; to leave the site instead, say --leave',
  },
  SITE_FULL: {
    message: 'the site has {count} members, and no more fit',
    hint: 'revoke hosts that are gone: narwharf members',
  },
  MEMBER_UNKNOWN: {
    message: 'no host of the site is called {name}',
    hint: 'narwharf members lists names and keys',
  },
  MEMBER_AMBIGUOUS: {
    message: '{count} hosts of the site are called {name}',
    hint: 'give the key instead of the name: narwharf members lists both',
  },
  MEMBER_SELF: {
    message: 'this host cannot revoke itself',
    hint: 'revoke it from another admin of the site; narwharf join CODE --leave leaves for another site',
  },
  MEMBER_NAME_INVALID: {
    message: 'a name cannot be {name}',
    hint: 'letters, digits, ".", "_" and "-", at most 63, the first a letter or digit',
  },
  INVITES_TOO_MANY: {
    message: '{count} invites are open, and no more can be',
    hint: 'wait until some are used or expire',
  },
  PAIRING_FAILED: {
    message: 'the host that made this code could not be reached: {problem}',
    hint: 'check that its daemon runs and that this host reaches it, or say where it is: --address host:port',
  },
  PAIRING_REFUSED: {
    message: 'the host that made this code refuses it',
    hint: 'it was used already, or is too old: make a new one there with narwharf invite',
  },
  HOST_KEY_REVOKED: {
    message: 'the key of this host was revoked in that site',
    hint: 'to come back under a new key, say --leave; then start the daemon anew and join',
  },
  HOST_KEY_RENEWED: {
    message: 'the key of this host was revoked in that site; it has a new one now',
    hint: 'start the daemon anew and say narwharf join CODE again',
  },
  CATALOG_TOO_NEW: {
    message: 'the catalog {file} has schema {found}, this narwharf knows up to {known}',
    hint: 'it was written by a newer narwharf: run that one, or start with another state directory',
  },
  CATALOG_UNUSABLE: {
    message: 'the catalog {file} cannot be used: {problem}',
    hint: 'check that the state directory exists, is writable and has space left',
  },
  DRIVE_UNKNOWN: {
    message: 'no drive {name} is plugged here',
    hint: 'narwharf drives lists them',
  },
  DRIVE_UNREADABLE: {
    message: 'the drive {drive} cannot be read: {problem}',
    hint: 'look whether it is plugged and mounted, and whether narwharf may read it',
  },
  DRIVE_BUSY: {
    message: 'the drive {drive} is still used: {problem}',
    hint: 'wait for it, or stop it: narwharf jobs says what runs',
  },
  MERGE_NOTHING: {
    message: 'there is no binary cache to merge on {drive}',
    hint: 'narwharf drives says what lies on it; export archives are taken in by narwharf import',
  },
  JOB_UNKNOWN: {
    message: 'no job has the number {id}',
    hint: 'narwharf jobs lists them',
  },
  JOB_CANCELLED: {
    message: 'the job was cancelled',
    hint: 'start it again when you like: what is done is not done twice',
  },
  JOB_INTERRUPTED: {
    message: 'the daemon was stopped while the job ran',
    hint: 'it goes on by itself where it can; else start it again: what is done is not done twice',
  },
  WANTS_FULL: {
    message:
      'this host would have {count} wants with {bytes} bytes of paths, more than its note has room for',
    hint: 'narwharf want remove takes out what has come; ask for a large configuration on another host of the site',
  },
  WANT_INVALID: {
    message: 'cannot want {want}: {problem}',
    hint: 'a want is a store path, a .drv that this host has, a name pattern such as firefox-*, or --file with an expression',
  },
  WANT_UNKNOWN: {
    message: 'this host has no want {want}',
    hint: 'narwharf want list shows them with their ids; a want is removed on the host where it was asked for',
  },
  ROOT_UNKNOWN: {
    message: 'cannot tell what {root} needs: {problem}',
    hint: 'give a store path, a .drv that this host has, a file with a list of them, or an expression with --file',
  },
  CONFIG_INVALID: {
    message: 'configuration {file}: {problem}',
    hint: 'narwharf.example.json lists every key with its default',
  },
  STATE_DIR_BUSY: {
    message: 'another narwharf daemon (pid {pid}) uses {dir}',
    hint: 'stop it first, or give this one a state directory of its own with --state-dir',
  },
  NETWORK_PORT_TAKEN: {
    message: 'UDP port {port} cannot be used: {problem}',
    hint: 'another program, or another narwharf, uses it: set network.port to a free one',
  },
  PEER_MESSAGE_INVALID: {
    message: 'invalid message from a peer ({message}): {problem}',
    hint: 'that host runs another program or lies; its connection was ended, and narwharf peers names it',
  },
  PEER_UNREACHABLE: {
    message: 'peer {peer} cannot be reached: {problem}',
    hint: 'it may be off, or its network.port blocked; narwharf peers says when it was last seen',
  },
  PEER_BROKE: {
    message: 'peer {peer} broke off: {problem}',
    hint: 'another holder goes on where it stopped; if it comes back often, look at the cable and the log there',
  },
  PEER_STALLED: {
    message: 'peer {peer} sends nothing, or next to nothing: {problem}',
    hint: 'it is passed over for a while; if it comes back often, look at its disk, its cable and its load',
  },
  PEER_LIED: {
    message: 'what {peer} sent of {path} is not what it promised: {problem}',
    hint: 'its bytes are dropped and another holder is tried; narwharf verify on that host finds damaged copies',
  },
  CHANNEL_INVALID: {
    message: 'invalid channel name {value}: {problem}',
    hint: 'a channel’s name has letters, digits and . _ + - only, e.g. nixos-25.11',
  },
  FLAKE_INVALID: {
    message: 'invalid note of a flake: {problem}',
    hint: 'mirror the flake again; until then it is not offered',
  },
  CACHE_UNWRITABLE: {
    message: 'the cache {dir} cannot be written: {problem}',
    hint: 'check that it exists, that the daemon may write there, and that space is left; what is in it stays valid',
  },
  CACHE_INCOMPLETE: {
    message: '{path} cannot be put into the cache before {reference}, which it refers to',
    hint: 'put its references there first: a cache has only whole closures',
  },
  SHIP_NOTHING: {
    message: 'there is nothing to pack: {problem}',
    hint: 'name store paths, .drv files or a list of them, or give a want list: --want FILE',
  },
  SHIP_FILE_UNREADABLE: {
    message: 'the daemon cannot read {file}: {problem}',
    hint: 'the daemon reads it, under its own user: let it, or copy the file to where it may',
  },
  SHIP_TARGET_UNFIT: {
    message: '{dir} cannot take a shipment: {problem}',
    hint: 'give a directory on the drive that the daemon may write to, and that is no cache or store of this host',
  },
  SHIP_TARGET_GONE: {
    message: '{dir} went away while it was being packed: {problem}',
    hint: 'plug or mount it again and run the same command: what lies on it is whole and is not copied again',
  },
  SHIPMENT_TOO_LARGE: {
    message: 'the shipment is too large: {problem}',
    hint: 'name fewer roots, raise --size-limit, or pack several drives: --split N',
  },
} as const satisfies Record<string, ErrorEntry>

/** A code of {@link ERRORS}. */
export type ErrorCode = keyof typeof ERRORS

/** Facts that fill the message: paths, fields, values. Never secrets: they end up in logs. */
export type ErrorData = Readonly<Record<string, string | number | undefined>>

/** How much of an offending value an error quotes: enough to recognise it, too little to flood a log. */
const QUOTED_CHARACTERS = 120

/** Control characters, and those that turn the writing direction: hostile text must not steer a terminal or forge log lines. */
const UNPRINTABLE = /[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu

const quote = (value: string | number | undefined): string => {
  const text = String(value)
    .slice(0, QUOTED_CHARACTERS + 1)
    .replace(
      UNPRINTABLE,
      character => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
    )
  return text.length > QUOTED_CHARACTERS ? `${text.slice(0, QUOTED_CHARACTERS)}…` : text
}

/** An error with a stable code, the facts, and a hint how to mend it. */
export class NarwharfError extends Error {
  override readonly name = 'NarwharfError'
  readonly code: ErrorCode
  readonly data: ErrorData

  constructor(code: ErrorCode, data: ErrorData = {}, cause?: unknown) {
    super(
      ERRORS[code].message.replace(/\{(\w+)\}/g, (_, field: string) => quote(data[field])),
      cause === undefined ? undefined : { cause },
    )
    this.code = code
    this.data = data
  }

  /** What the reader can do about it. */
  get hint(): string {
    return ERRORS[this.code].hint
  }
}

/** Throws the error of that code: reads well as the last word of a check. */
export function fail(code: ErrorCode, data: ErrorData = {}, cause?: unknown): never {
  throw new NarwharfError(code, data, cause)
}

/** Whether something caught is narwharf's own error, with that code if one is given. */
export function isNarwharfError(error: unknown, code?: ErrorCode): error is NarwharfError {
  return error instanceof NarwharfError && (code === undefined || error.code === code)
}

/** The sentence of something caught, to name as the problem of a wider error. */
export const problemOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error)
