import type { CommandUsage } from './usage.ts'

// The commands about archives of `nix-store --export`.

export const ARCHIVE_COMMANDS: readonly CommandUsage[] = [
  {
    name: 'import',
    arguments: '[file]',
    summary: 'take an archive of nix-store --export into the cache',
    about:
      'Takes the paths of an archive into this host’s cache, from nix-store --export or narwharf export; “-” is standard input. ' +
      'Kept is what a trusted key has signed (the archive has no signatures: they come from FILE.signatures, or from whoever ' +
      'within reach has the same content), what its content proves, and what you vouch for by name. What is there already is ' +
      'skipped, so a broken import is just run again. Exit status 0 if all is there, 3 if some was refused, 1 if nothing is there.',
    options: [
      [
        '--trust [name...]',
        'vouch for these paths: names, store paths, patterns; alone: for all of the archive',
      ],
      [
        '--signatures <file>',
        'signatures from that file, or from nix path-info --json (default: FILE.signatures)',
      ],
      ['--no-signatures', 'do not look for FILE.signatures'],
    ],
    examples: [
      ['narwharf import firefox.export', 'what can be proven'],
      ['narwharf import tools.export --trust "ourtool-*"', 'and what you built elsewhere yourself'],
      ['zstd -dc big.export.zst | narwharf import -', 'a packed archive'],
    ],
    load: async () => (await import('./commands/import.ts')).importArchive,
  },
  {
    name: 'export',
    arguments: '<path...>',
    summary: 'write an archive that nix-store --import reads',
    about:
      'Writes store paths into one file that nix-store --import and narwharf import read, references first, from whoever has ' +
      'them: this host, drives, peers, upstream caches. As nix-store --export it takes the given paths only; with --closure also ' +
      'all they refer to. Signatures go into FILE.signatures beside it. The file appears when it is whole and every NAR in it was right.',
    options: [
      ['-o, --output <file>', 'where to; “-” is standard output'],
      ['--closure', 'all that the paths refer to as well'],
      ['--signatures <file>', 'write the signatures there (default: FILE.signatures)'],
      ['--no-signatures', 'write none'],
    ],
    examples: [
      ['narwharf export --closure "$(readlink -f result)" -o result.export', 'a whole closure'],
      [
        'narwharf export $(nix-store -qR ./result) -o - | ssh lab-2 nix-store --import',
        'as nix-store --export would',
      ],
    ],
    load: async () => (await import('./commands/export.ts')).exportPaths,
  },
]
