import { fail } from '../../protocol/errors.ts'
import type { KeyPairBytes } from '../../protocol/ed25519.ts'
import { siteFingerprint } from '../../protocol/invite.ts'
import type { Member } from '../../protocol/membership.ts'
import { removeFile } from '../secret-file.ts'
import { renewHostKey } from './host-key.ts'
import type { Invites } from './invites.ts'
import { readKeyPair, writeKeyPair } from './key-file.ts'
import type { Roster, Site } from './roster.ts'

/** What the parts of membership work on: this host, opened. */
export interface Host {
  readonly stateDir: string
  readonly siteKeyFile: string
  readonly name: string
  /** 64 hex digits. */
  readonly key: string
  readonly keyPair: KeyPairBytes
  /** `name:base64`: what it signs store paths with. */
  readonly nixKey: string | undefined
  readonly roster: Roster
  readonly invites: Invites
}

/** What people see of a site that has not told its name yet. */
export const siteLabel = ({ view, list }: Site): string =>
  view.siteName ?? `site-${siteFingerprint(list.siteKey).slice(0, 8)}`

/** The host's site. Throws SITE_NONE. */
export const siteOfHost = ({ roster }: Host): Site => roster.site ?? fail('SITE_NONE')

/** The host's site, where the host is an admin of it. Throws SITE_NONE, SITE_NOT_ADMIN. */
export function siteToManage(host: Host): Site {
  const site = siteOfHost(host)
  const isAdmin = site.view.members.get(host.key)?.admin === true
  return isAdmin ? site : fail('SITE_NOT_ADMIN', { site: siteLabel(site) })
}

/** The key of that site, where it lies on this host. Throws KEY_INVALID for a damaged file. */
export function siteKeyHere({ siteKeyFile }: Host, { list }: Site): KeyPairBytes | undefined {
  const pair = readKeyPair(siteKeyFile)
  return pair?.publicKey.toString('hex') === list.siteKey ? pair : undefined
}

/** The key of that site. Throws SITE_KEY_ABSENT, KEY_INVALID. */
export const siteKeyNeeded = (host: Host, site: Site): KeyPairBytes =>
  siteKeyHere(host, site) ?? fail('SITE_KEY_ABSENT', { site: siteLabel(site) })

export const writeSiteKey = ({ siteKeyFile }: Host, pair: KeyPairBytes): void =>
  writeKeyPair(siteKeyFile, 'narwharf-site', pair, 'replace')

/** Forgets what belongs to a site that the host has left. */
export function forgetSite({ siteKeyFile, invites }: Host): void {
  removeFile(siteKeyFile)
  invites.clear()
}

/** Says what a revoked key means for the host: with `leave` it gets a new one for its next start. Always throws. */
export function refuseRevokedKey({ stateDir }: Host, leave: boolean): never {
  if (!leave) return fail('HOST_KEY_REVOKED')
  renewHostKey(stateDir)
  return fail('HOST_KEY_RENEWED')
}

/** A name that no other member has: a second `nixos` becomes `nixos-2`. */
export function freeName(
  members: ReadonlyMap<string, Member>,
  wanted: string,
  key: string,
): string {
  const taken = new Set([...members.values()].filter(one => one.key !== key).map(one => one.name))
  let name = wanted
  for (let number = 2; taken.has(name); number++) {
    const suffix = `-${number}`
    name = `${wanted.slice(0, 63 - suffix.length)}${suffix}`
  }
  return name
}
