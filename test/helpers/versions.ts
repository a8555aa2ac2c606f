import { chrootsDirectory, readyChroots, SUITES } from '../lab/chroots.mjs'

/** The Debian suites whose Nix the lab could be run with and is not, with the command that changes that. */
export function missingVersions(): { readonly suite: string; readonly command: string }[] {
  const ready = new Set(readyChroots().map(({ suite }) => suite))
  return Object.keys(SUITES)
    .filter(suite => !ready.has(suite))
    .map(suite => ({
      suite,
      command: `node test/lab/chroots.mjs make ${suite} (into ${chrootsDirectory()})`,
    }))
}
