import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Problem, SiteMember, SiteState } from '../../protocol/api.ts'
import { fail } from '../../protocol/errors.ts'
import { formatInvite, parseInvite, siteFingerprint } from '../../protocol/invite.ts'
import { isMemberName } from '../../protocol/member-list.ts'
import type { EventBus } from '../events.ts'
import { mendMode, removeFile, sweepTemporary } from '../secret-file.ts'
import type { Members, NoiseKeyPair, PeerAddress, PeerCandidate, PeerKey } from '../site.ts'
import { answerPairing, refusal } from './greeter.ts'
import {
  siteKeyHere,
  siteKeyNeeded,
  siteLabel,
  siteOfHost,
  siteToManage,
  type Host,
} from './host.ts'
import { HOST_KEY_FILE, loadHostKey } from './host-key.ts'
import { INVITE_LIFE_MAX_MS, openInvites, type Clock } from './invites.ts'
import { finishJoin, introduceTo, joinRequest, joinSite } from './joiner.ts'
import {
  initSite,
  promoteMember,
  recoverSite,
  recoveryOf,
  revokeMember,
  type Revoked,
} from './manage.ts'
import type { PairingTransport } from './pairing-transport.ts'
import { listMembers, standingProblems } from './overview.ts'
import { createRateLimit } from './rate-limit.ts'
import { openRoster } from './roster.ts'
import { createSightings } from './sightings.ts'

/** The signed list, as every member has it. */
const LIST_FILE = 'members.list'
const INVITES_FILE = 'invites.json'
const SITE_KEY_FILE = 'site-key.secret'

/** A day: long enough to carry a code to the other building, short enough to be forgotten safely. */
export const INVITE_LIFE_MS = 24 * 3_600_000

export interface MembershipOptions {
  readonly stateDir: string
  /** What the host wants to be called in the site. */
  readonly hostName: string
  readonly events: EventBus
  /** `name:base64`: what the host signs store paths with, for members that trust one another. */
  readonly nixKey?: string | undefined
  /** Where this host listens, asked for each invite, the likeliest first. */
  readonly addresses?: (() => readonly PeerAddress[]) | undefined
  readonly clock?: Clock | undefined
  readonly machineIdFile?: string | undefined
}

/** A code with what it is good for. */
export interface MadeInvite {
  readonly code: string
  readonly expiresInMs: number
}

/** How an invite may be: each optional. */
export interface InviteWish {
  readonly expiresInMs?: number | undefined
  /** What the host will be called, whatever it calls itself. */
  readonly name?: string | undefined
  /** It becomes an admin as well. */
  readonly admin?: boolean | undefined
}

/** Who belongs to the site, and how hosts come and go. Everything needs `open` first. */
export interface Membership extends Members {
  /** Reads or makes the host's key, reads the list. Throws KEY_INVALID for a file that is no key. */
  open(): Promise<void>
  close(): Promise<void>
  state(): SiteState
  /** By name; revoked ones and those to be invited anew are said to be so. */
  members(): readonly SiteMember[]
  /** What members sign store paths with, `name:base64`. */
  nixKeys(): readonly string[]
  problems(): readonly Problem[]
  /** Makes a site; its key as four lines to write down. Throws SITE_TAKEN, MEMBER_NAME_INVALID. */
  init(name: string): readonly string[]
  /** The site key as four lines to write down. Throws SITE_NONE, SITE_KEY_ABSENT. */
  recovery(): readonly string[]
  /** Takes the site key off this host, once it is in the safe: who steals the host then has no hold on the site. */
  forgetSiteKey(): void
  /** Brings the written-down key: this host becomes an admin. Throws RECOVERY_INVALID, SITE_KEY_FOREIGN, HOST_KEY_REVOKED. */
  recover(text: string, options?: { readonly leave?: boolean | undefined }): void
  /** A code that lets one host in, once. Throws SITE_NONE, SITE_NOT_ADMIN, INVITES_TOO_MANY, MEMBER_NAME_INVALID. */
  invite(wish?: InviteWish): MadeInvite
  /** Makes a member an admin; its name. Throws SITE_NOT_ADMIN, MEMBER_UNKNOWN, MEMBER_AMBIGUOUS. */
  promote(who: string): string
  /** Revokes for good; `entirely`, with the site key: all it signed is void. Throws SITE_NOT_ADMIN, MEMBER_UNKNOWN, MEMBER_SELF. */
  revoke(who: string, options?: { readonly entirely?: boolean | undefined }): Revoked
  /**
   * The server side of pairing: answers one request of a connection in which `remoteKey` was proved. Anything wrong, too
   * late or too often gets one and the same reply.
   */
  admit(request: Uint8Array, handshakeHash: Uint8Array, remoteKey: PeerKey): Buffer
  /** The client side, for one connection. Throws INVITE_INVALID. */
  joinRequest(code: string, handshakeHash: Uint8Array): Buffer
  /** Takes the reply to it: the host belongs to the site when this returns. Throws PAIRING_REFUSED and others. */
  finishJoin(code: string, reply: Uint8Array, options?: { readonly leave?: boolean }): void
  /** Joins with a code, wherever the inviter is found. Throws INVITE_INVALID, SITE_TAKEN, PAIRING_FAILED, PAIRING_REFUSED. */
  join(
    code: string,
    transport: PairingTransport,
    candidates: readonly PeerCandidate[],
    options?: { readonly leave?: boolean | undefined },
  ): Promise<void>
  /**
   * Makes this host known to a candidate that is no member here: it may be one that another island admitted. Cheap to call at
   * every sighting: members, strangers tried lately and a host without a site are passed over. Resolves to whether it is a
   * member now; never rejects.
   */
  introduce(candidate: PeerCandidate, transport: PairingTransport): Promise<boolean>
}

const REAL_CLOCK: Clock = { now: Date.now, monotonic: () => performance.now() }

/** Membership of one host. */
export function createMembership(options: MembershipOptions): Membership {
  const { stateDir, hostName, events, nixKey, clock = REAL_CLOCK } = options
  const { addresses = () => [], machineIdFile = '/etc/machine-id' } = options
  const siteKeyFile = join(stateDir, SITE_KEY_FILE)
  const mayAsk = createRateLimit(clock.monotonic)
  const sightings = createSightings(clock.monotonic)
  let opened: { readonly host: Host; readonly problems: readonly Problem[] } | undefined
  let twin = false

  const host = (): Host => {
    if (opened === undefined) throw new Error('membership is closed')
    return opened.host
  }
  const view = () => host().roster.site?.view
  const open = async () => {
    if (opened !== undefined) return
    mkdirSync(stateDir, { recursive: true, mode: 0o700 })
    sweepTemporary(stateDir, [HOST_KEY_FILE, LIST_FILE, INVITES_FILE, SITE_KEY_FILE])
    const { keyPair, problems } = loadHostKey(stateDir, machineIdFile)
    opened = {
      problems,
      host: {
        stateDir,
        siteKeyFile,
        name: isMemberName(hostName) ? hostName : 'host',
        key: keyPair.publicKey.toString('hex'),
        keyPair,
        nixKey,
        roster: openRoster(join(stateDir, LIST_FILE), () => events.emit('members:changed')),
        invites: openInvites(join(stateDir, INVITES_FILE), clock),
      },
    }
    const site = opened.host.roster.site
    if (site === undefined || siteKeyHere(opened.host, site) === undefined) return
    const mended = mendMode(siteKeyFile, 'site key', 'whoever may have read it rules the site')
    if (mended !== undefined) opened = { ...opened, problems: [...problems, mended] }
  }

  return {
    open,
    async close() {
      opened?.host.invites.save()
      opened = undefined
    },
    get key() {
      return host().key as PeerKey
    },
    get keyPair(): NoiseKeyPair {
      return host().keyPair
    },
    get siteName() {
      const { site } = host().roster
      return site === undefined ? undefined : siteLabel(site)
    },
    isMember: key => view()?.members.has(key) ?? key === host().key,
    nameOf: key => view()?.members.get(key)?.name,
    list: () => host().roster.site?.bytes,
    offer: list => host().roster.take(list),

    state() {
      const { roster, key, name, invites } = host()
      const { site } = roster
      const self = site?.view.members.get(key)
      return {
        name: self?.name ?? name,
        key,
        admin: self?.admin === true,
        ...(site === undefined
          ? {}
          : {
              site: {
                name: siteLabel(site),
                fingerprint: siteFingerprint(site.list.siteKey),
                members: site.view.members.size,
                lines: site.list.lines.size,
                keyHere: siteKeyHere(host(), site) !== undefined,
                openInvites: invites.open,
              },
            }),
      }
    },
    members: () => listMembers(host()),
    nixKeys: () => [...(view()?.members.values() ?? [])].flatMap(member => member.nixKey ?? []),
    problems: () => [
      ...(opened?.problems ?? []),
      ...host().roster.problems,
      ...standingProblems(host(), twin),
    ],

    init: name => initSite(host(), name),
    recovery: () => recoveryOf(host()),
    forgetSiteKey() {
      siteKeyNeeded(host(), siteOfHost(host()))
      removeFile(siteKeyFile)
    },
    recover: (text, { leave = false } = {}) => recoverSite(host(), text, leave),
    invite({ expiresInMs = INVITE_LIFE_MS, name, admin = false } = {}) {
      const { list } = siteToManage(host())
      if (name !== undefined && !isMemberName(name)) fail('MEMBER_NAME_INVALID', { name })
      const lifeMs = Math.min(Math.max(expiresInMs, 1), INVITE_LIFE_MAX_MS)
      const { secret } = host().invites.add({ lifeMs, name, admin })
      const site = siteFingerprint(list.siteKey)
      const code = formatInvite({ secret, inviter: host().key, site, addresses: addresses() })
      return { code, expiresInMs: lifeMs }
    },
    promote: who => promoteMember(host(), who),
    revoke: (who, { entirely = false } = {}) => revokeMember(host(), who, entirely),

    admit(request, handshakeHash, remoteKey) {
      if (remoteKey === host().key) twin = true
      return mayAsk(remoteKey)
        ? answerPairing(host(), request, { handshakeHash, remoteKey })
        : refusal()
    },
    joinRequest: (code, handshakeHash) => joinRequest(host(), parseInvite(code), handshakeHash),
    finishJoin: (code, reply, { leave = false } = {}) =>
      finishJoin(host(), parseInvite(code), reply, leave),
    join: (code, transport, candidates, { leave = false } = {}) =>
      joinSite(host(), code, transport, candidates, leave),
    async introduce(candidate, transport) {
      const { key } = candidate
      const known = view()
      if (known?.members.has(key) === true) return true
      const isStranger = known !== undefined && key !== host().key && !known.revoked.has(key)
      if (!isStranger || !sightings.mayTry(key)) return false
      try {
        return await introduceTo(host(), candidate, transport)
      } catch {
        // Whoever is not there, or is no narwharf, is tried again at a later sighting.
        return false
      }
    },
  }
}
