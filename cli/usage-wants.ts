import type { CommandUsage } from './usage.ts'

// The commands about what the site wishes for, has and lacks.

/** How an expression is given, for whatever takes one. */
const EXPRESSION: readonly (readonly [string, string])[] = [
  ['-f, --file <file>', 'a Nix file whose derivations are meant, read by nix-instantiate'],
  ['-A, --attr <attributes>', 'attributes of it, with commas between them'],
  ['-E, --expr <expression>', 'a Nix expression instead of a file'],
  ['--nixos <path>', 'a NixOS configuration: its file, its folder, or a flake’s folder#host'],
]

export const WANT_COMMANDS: readonly CommandUsage[] = [
  {
    name: 'missing',
    arguments: '[root...]',
    summary: 'tell what roots need and a place lacks',
    about:
      'Walks the closure of store paths, .drv files, lists of paths (a file, or - for standard input), an expression or a ' +
      'configuration, and lists what the site lacks of it (or this host, a cache, a drive, the have digest of another site), ' +
      'grouped by reason, with sizes where they are known. Exit status 0 if nothing is missing, 3 if something is.',
    options: [
      ['--here', 'this host instead of the site'],
      ['--cache <url|dir>', 'a binary cache instead'],
      ['--drive <name>', 'a drive instead, plugged or in a drawer'],
      ['--have <file>', 'the site that wrote this have digest instead'],
      ['--build', 'also what they are built from'],
      ['--wants', 'also all that the site wishes for'],
      ...EXPRESSION,
      ['--paths', 'print the missing store paths alone, one a line'],
    ],
    examples: [
      ['narwharf missing ./result', 'what the site lacks of a closure'],
      ['narwharf missing --wants', 'what of the wishes has not come yet'],
      [
        'narwharf missing --nixos /etc/nixos --have lab.have --paths > to-pack',
        'what another site lacks of a system',
      ],
    ],
    load: async () => (await import('./commands/missing.ts')).missing,
  },
  {
    name: 'have',
    summary: 'write down what the site has, small enough to send',
    about:
      'Makes the site’s have digest: all store paths that its hosts hold, in four bytes each, signed. Whoever packs a ' +
      'shipment leaves out what is in it (narwharf ship --have). Without -o it is only told how much there is.',
    options: [
      ['-o, --output <file>', 'write the digest to a file; - for standard output'],
      ['--drives', 'count what is only on drives, too'],
    ],
    examples: [
      ['narwharf have -o lab.have', 'to be sent to the depot'],
      ['narwharf have --json | jq .paths', 'how many paths the site has'],
    ],
    load: async () => (await import('./commands/have.ts')).have,
  },
  {
    name: 'want add',
    arguments: '[query...]',
    summary: 'wish for something that a later shipment may bring',
    about:
      'Adds wishes to the site’s want list: store paths, .drv files (their outputs), patterns of names, or a whole ' +
      'configuration given as an expression. A wish for the same thing takes the place of the one before. Every host of the ' +
      'site knows of it within a second, and the list travels back with each drive.',
    options: [
      ['--priority <number>', 'how urgent it is, 1 (most) to 9; 5 unless said'],
      ['--by <name>', 'who asks, instead of user@host'],
      ['--build', 'of a configuration: everything it is built from, too'],
      ['--name <text>', 'of a configuration: the name it is listed by'],
      ...EXPRESSION,
    ],
    examples: [
      ['narwharf want add "firefox-*" --priority 2', 'whatever Firefox the next ship has'],
      ['narwharf want add --nixos /etc/nixos', 'this machine’s next system'],
      ['narwharf want add --file default.nix -A hello', 'an attribute of an expression'],
    ],
    load: async () => (await import('./commands/want.ts')).wantAdd,
  },
  {
    name: 'want remove',
    arguments: '<want...>',
    summary: 'take back wishes made on this host',
    about: 'Removes wishes that were made on this host, by their ids or as they were written.',
    examples: [
      ['narwharf want remove 3f9a1c20b7d4', 'by its id'],
      ['narwharf want remove "firefox-*"', 'by its words'],
    ],
    load: async () => (await import('./commands/want.ts')).wantRemove,
  },
  {
    name: 'want list',
    summary: 'list what the site wishes for',
    about:
      'Shows all wishes of the site, the most urgent first: who asked for what, since when, and how much of it is there. ' +
      'What has come stays listed until it is removed.',
    examples: [
      ['narwharf want list', 'for a person'],
      ["narwharf want list --json | jq -r '.wants[] | select(.fulfilled | not).text'", 'open ones'],
    ],
    load: async () => (await import('./commands/want.ts')).wantList,
  },
  {
    name: 'want export',
    summary: 'write the want list as a file to send',
    about:
      'Writes the site’s want list as signed JSON, which narwharf ship --want reads at the depot.',
    options: [['-o, --output <file>', 'write it to a file instead of standard output']],
    examples: [['narwharf want export -o lab-wants.json', 'to be sent to the depot']],
    load: async () => (await import('./commands/want.ts')).wantExport,
  },
]
