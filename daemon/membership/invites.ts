import { randomBytes } from 'node:crypto'
import { fail } from '../../protocol/errors.ts'
import { checkProof, INVITE_SECRET_BYTES, type ProofOf } from '../../protocol/invite.ts'
import { isMemberName } from '../../protocol/member-list.ts'
import { readSmallFile, removeFile, SECRET_MODE, writeWhole } from '../secret-file.ts'

// The invites this host made. A code lives for a span of this host's own time: by the monotonic clock while the daemon runs,
// so that no jump of the wall clock ends or prolongs it; over restarts by the wall clock, which is all there is.

/** How an inviter counts time. */
export interface Clock {
  /** Ms since 1970, as far as the machine knows. */
  now(): number
  /** Ms that never jump. */
  monotonic(): number
}

/** Invites open at a time: a new site of this many hosts is set up in one go. Bounds what one wrong proof costs. */
export const INVITES_MAX = 100

/** A month: whoever needs longer makes a new one. */
export const INVITE_LIFE_MAX_MS = 31 * 24 * 3_600_000

/** Ten times a file of the most and longest invites. */
const FILE_LIMIT_BYTES = 1 << 18

/** An invite as it lies on the disk. */
interface Stored {
  /** Base64. */
  readonly secret: string
  /** What is left of its life at `seenAtMs`. */
  readonly leftMs: number
  /** Wall clock when that was written. */
  readonly seenAtMs: number
  /** What the host is to be called, where the inviter said so. */
  readonly name?: string | undefined
  /** The host becomes an admin as well. */
  readonly admin: boolean
  /** The key that used it: the same host may ask again, when the reply was lost; no other may. */
  readonly usedBy?: string | undefined
}

/** An invite in memory; it ends when the monotonic clock reaches `endsAt`. */
export interface OpenInvite extends Omit<Stored, 'secret' | 'leftMs' | 'seenAtMs'> {
  readonly secret: Buffer
  readonly endsAt: number
}

/** The invites of one host, kept in one file. */
export interface Invites {
  /** Not yet used, not yet over. */
  readonly open: number
  /** Makes one. Throws INVITES_TOO_MANY, and what the file system throws. */
  add(about: { lifeMs: number; name?: string | undefined; admin: boolean }): OpenInvite
  /** The invite whose secret that proof shows, still to be had by that key. */
  find(proof: Uint8Array, of: ProofOf): OpenInvite | undefined
  /** Uses it up for that key, on the disk first: after a crash nobody else can use it. Throws what the file system throws. */
  use(invite: OpenInvite, key: string): void
  /** Notes how much time is left, before the monotonic clock ends with the process. */
  save(): void
  clear(): void
}

const isStored = (value: unknown): value is Stored => {
  const { secret, leftMs, seenAtMs, name, admin, usedBy } = (value ?? {}) as Partial<
    Record<keyof Stored, unknown>
  >
  return (
    typeof secret === 'string' &&
    Buffer.from(secret, 'base64').length === INVITE_SECRET_BYTES &&
    Number.isFinite(leftMs) &&
    Number.isFinite(seenAtMs) &&
    typeof admin === 'boolean' &&
    (name === undefined || (typeof name === 'string' && isMemberName(name))) &&
    (usedBy === undefined || typeof usedBy === 'string')
  )
}

function read(file: string): Stored[] {
  try {
    const content = readSmallFile(file, FILE_LIMIT_BYTES)
    const list: unknown = content === undefined ? [] : JSON.parse(content.toString('utf8'))
    return Array.isArray(list) ? list.filter(isStored) : []
  } catch {
    // A damaged file costs its invites: they are made again in a moment, and a wrong guess would let strangers in.
    return []
  }
}

/** Opens the file of invites; one that is damaged counts as empty. */
export function openInvites(file: string, clock: Clock): Invites {
  const start = clock.monotonic()
  const wall = clock.now()
  let invites = read(file).map(({ secret, leftMs, seenAtMs, ...rest }): OpenInvite => ({
    ...rest,
    secret: Buffer.from(secret, 'base64'),
    // A clock that was set back while the daemon was off gives no time and takes none.
    endsAt: start + leftMs - Math.max(0, wall - seenAtMs),
  }))
  const current = (): OpenInvite[] => {
    const now = clock.monotonic()
    return invites.filter(({ endsAt }) => endsAt > now)
  }
  const write = (next: readonly OpenInvite[]) => {
    const [now, seenAtMs] = [clock.monotonic(), clock.now()]
    const stored = next.map(({ secret, endsAt, ...rest }): Stored => {
      return { ...rest, secret: secret.toString('base64'), leftMs: endsAt - now, seenAtMs }
    })
    writeWhole(file, `${JSON.stringify(stored, null, 1)}\n`, SECRET_MODE)
    invites = [...next]
  }
  return {
    get open() {
      return current().filter(({ usedBy }) => usedBy === undefined).length
    },
    add({ lifeMs, name, admin }) {
      const others = current()
      if (others.length >= INVITES_MAX) fail('INVITES_TOO_MANY', { count: others.length })
      const secret = randomBytes(INVITE_SECRET_BYTES)
      const invite = { secret, endsAt: clock.monotonic() + lifeMs, name, admin }
      write([...others, invite])
      return invite
    },
    find(proof, of) {
      // All are tried: how long it takes says nothing about which one fits.
      const fitting = current().filter(({ secret }) => checkProof(secret, of, proof))
      return fitting.find(({ usedBy }) => usedBy === undefined || usedBy === of.key)
    },
    use(invite, usedBy) {
      write(current().map(one => (one === invite ? { ...one, usedBy } : one)))
    },
    save() {
      if (invites.length > 0) write(current())
    },
    clear() {
      invites = []
      removeFile(file)
    },
  }
}
