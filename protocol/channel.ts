// Channels as nix-channel and mirrors know them: a folder of files under a name. Source: Nix manual, "Channels"; what the
// folders of nixos.org have.
import { fail } from './errors.ts'

declare const channelName: unique symbol
/** A channel's name, as it stands in its address: `nixos-25.11`, `home-manager`. */
export type ChannelName = string & { readonly [channelName]: true }

/** Characters of a name, or of a file's: the longest in use have some 40. */
export const CHANNEL_NAME_MAX_LENGTH = 100

/** The files every channel should have; others may lie beside them. */
export const CHANNEL_FILES = [
  'git-revision',
  'nixexprs.tar.xz',
  'store-paths.xz',
  'binary-cache-url',
] as const

/** Letters, digits and what stands between them in names: nothing hidden, no separator, no way up. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]*$/

const isName = (text: string): boolean => text.length <= CHANNEL_NAME_MAX_LENGTH && NAME.test(text)

/** Throws CHANNEL_INVALID for what cannot be a channel's name. */
export function parseChannelName(text: string): ChannelName {
  if (!isName(text)) return fail('CHANNEL_INVALID', { value: text, problem: 'not a name' })
  return text as ChannelName
}

/** Whether a text may be the name of a file of a channel. */
export const isChannelFile = isName

/** The revision that a `git-revision` file tells, 40 hex digits; undefined where it has none such. */
export function parseGitRevision(bytes: Uint8Array): string | undefined {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1').trim()
  return /^[0-9a-f]{40}$/.test(text) ? text : undefined
}

/** A channel whose tree is nixpkgs: what `nixpkgs` in a flake may stand for. */
export const isNixpkgsChannel = (name: ChannelName): boolean => /^nix(?:os|pkgs)-/.test(name)
