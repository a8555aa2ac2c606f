// What each command is and how it is called, apart from the code that runs it: help needs no more than this file.
import type { Command } from './command.ts'
import { ARCHIVE_COMMANDS } from './usage-archives.ts'
import { DRIVE_COMMANDS } from './usage-drives.ts'
import { SHIPMENT_COMMANDS } from './usage-shipments.ts'
import { SITE_COMMANDS } from './usage-site.ts'
import { WANT_COMMANDS } from './usage-wants.ts'

/** One command of `narwharf`. */
export interface CommandUsage {
  readonly name: string
  /** Arguments in commander's spelling: `<path>` is needed, `[query...]` may be left out or repeated. */
  readonly arguments?: string
  /** One line of `narwharf --help`. */
  readonly summary: string
  /** What it does, one paragraph. */
  readonly about: string
  readonly options?: readonly (readonly [flags: string, about: string])[]
  readonly examples: readonly (readonly [command: string, about: string])[]
  /** Loads the command's module, when it runs and not before. */
  readonly load: () => Promise<Command>
}

/** Options of every command; output.ts has their types. */
export const GLOBAL_OPTIONS: readonly (readonly [flags: string, about: string])[] = [
  ['--config <file>', 'configuration file (default: /etc/narwharf/config.json, or the user’s own)'],
  ['--state-dir <dir>', 'state directory, stronger than the configuration’s'],
  ['--json', 'print the result as JSON, with keys that stay'],
  ['--quiet', 'print the result and errors only'],
  ['--no-color', 'print without colours'],
]

/** What stands below `narwharf --help`. */
export const EPILOGUE = `
Exit status: 0 done, 1 failed, 2 wrong usage, 3 partly done (what is missing is listed).

Examples:
  narwharf daemon          serve this machine's Nix store
  narwharf nix-conf        the lines for nix.conf that use it
  narwharf doctor          what is wrong, and the commands that mend it
`

/** What stands above the commands of a group. */
export const GROUPS: Readonly<Record<string, string>> = {
  site: 'make a site, keep its key, name its admins',
  want: 'say what the site wishes for',
}

/** Every command, in the order of `narwharf --help`. */
export const COMMANDS: readonly CommandUsage[] = [
  {
    name: 'daemon',
    summary: 'run the daemon in the foreground',
    about:
      'Serves the Nix store and the cache directories of this host to Nix clients, until it is told to end by SIGTERM or ' +
      'Ctrl-C. It prints its address, the dashboard’s address and the two lines of nix.conf that use it; its log goes to ' +
      'standard error as JSON lines. Needs no root. Under systemd, Type=notify with NotifyAccess=all tells when it is ready.',
    options: [['--defaults', 'take the embedded defaults, read no configuration file']],
    examples: [
      ['narwharf daemon', 'run with /etc/narwharf/config.json, if there is one'],
      [
        'narwharf daemon --config lab.json --state-dir /srv/narwharf',
        'a second daemon beside the first',
      ],
    ],
    load: async () => (await import('./commands/daemon.ts')).daemon,
  },
  {
    name: 'status',
    summary: 'say how this host’s daemon is doing',
    about:
      'Shows the running daemon: its address and public key, what it served since it started, each holder with its paths ' +
      'and bytes, and what is wrong, with a hint how to mend it.',
    examples: [
      ['narwharf status', 'for a person'],
      ['narwharf status --json | jq .served.narBytes', 'one number for a script'],
    ],
    load: async () => (await import('./commands/status.ts')).status,
  },
  {
    name: 'peers',
    summary: 'list the other hosts of the site',
    about:
      'Shows the other hosts of the site: up or down, when they were last seen, how many paths and bytes their index says ' +
      'they hold, where they are, and what one was caught at, if any was.',
    examples: [
      ['narwharf peers', 'for a person'],
      ["narwharf peers --json | jq -r '.peers[] | select(.up).name'", 'those that are up'],
    ],
    load: async () => (await import('./commands/peers.ts')).peers,
  },
  {
    name: 'who-has',
    arguments: '<query...>',
    summary: 'tell who holds a store path',
    about:
      'Lists the holders of store paths. A query is a store path, its 32-character hash part, a .drv whose outputs are ' +
      'meant, or a pattern of names. Exit status 0 if every query is held by somebody, 3 if some are, 1 if none is.',
    examples: [
      ['narwharf who-has /nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12', 'one path'],
      [
        'narwharf who-has "firefox-*" "*-sources"',
        'patterns, quoted so that the shell leaves them alone',
      ],
    ],
    load: async () => (await import('./commands/who-has.ts')).whoHas,
  },
  {
    name: 'why-not',
    arguments: '<path>',
    summary: 'tell why a store path is not offered',
    about:
      'Says whether this host’s substituter offers a store path to this machine and to the network and, holder by holder, ' +
      'why or why not: nobody has it, the holder is off, no trusted signature, a sharing rule, or a damaged NAR.',
    examples: [
      ['narwharf why-not /nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12', 'one path'],
      ['narwharf why-not --json "$(readlink -f result)" | jq -r .summary', 'the answer alone'],
    ],
    load: async () => (await import('./commands/why-not.ts')).whyNot,
  },
  ...DRIVE_COMMANDS,
  ...SHIPMENT_COMMANDS,
  ...ARCHIVE_COMMANDS,
  ...WANT_COMMANDS,
  ...SITE_COMMANDS,
  {
    name: 'fetch',
    arguments: '<path...>',
    summary: 'bring closures into this host’s cache',
    about:
      'Copies store paths and all they refer to into the cache directory of this host, from whoever has them: its own ' +
      'store, peers, upstream caches. What is there already is not fetched again, so a broken fetch is just run again. Exit ' +
      'status 0 if all is there, 3 if some is and the rest is listed, 1 if nothing is.',
    examples: [
      ['narwharf fetch /nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12', 'one closure'],
      ['narwharf fetch $(nix-store -q --references ./result)', 'several'],
    ],
    load: async () => (await import('./commands/fetch.ts')).fetch,
  },
  {
    name: 'nix-conf',
    summary: 'print the nix.conf lines that use this host',
    about:
      'Prints lines that nix.conf takes as they are: the substituter, its public key, and settings with which a path that ' +
      'just came is seen at once and a cache that is off costs little. Works from the key file when no daemon is running.',
    examples: [
      ['narwharf nix-conf | sudo tee -a /etc/nix/nix.conf', 'use it for every user'],
      [
        'narwharf nix-conf >> ~/.config/nix/nix.conf',
        'use it for oneself (as a trusted user of Nix)',
      ],
    ],
    load: async () => (await import('./commands/nix-conf.ts')).nixConf,
  },
  {
    name: 'doctor',
    summary: 'check the set-up and say how to mend it',
    about:
      'Checks the daemon, its holders, key, disk and clock, and what only the client can see: whether Nix is configured to ' +
      'use this host, and whether its cache of narinfos holds stale answers. Each fault comes with the command that mends ' +
      'it. Exit status 1 if something does not work, 0 if there are warnings at most.',
    options: [['--all', 'list what is well, too']],
    examples: [
      ['narwharf doctor', 'faults and warnings'],
      ['narwharf doctor --all', 'every check with its result'],
    ],
    load: async () => (await import('./commands/doctor.ts')).doctor,
  },
]
