import type { CommandUsage } from './usage.ts'

// The commands about who belongs to the site.

export const SITE_COMMANDS: readonly CommandUsage[] = [
  {
    name: 'site init',
    arguments: '<name>',
    summary: 'make a site, with this host as its first',
    about:
      'Makes a site of which this host is the first member and admin, and prints the site key as four lines. Write them ' +
      'down and put them in a safe: with them any machine becomes an admin of the site again, whatever was lost.',
    examples: [
      ['narwharf site init lab', 'make the site “lab”'],
      ['narwharf site init lab --quiet > site-key.txt', 'keep the four lines in a file for now'],
    ],
    load: async () => (await import('./commands/site.ts')).siteInit,
  },
  {
    name: 'site recovery',
    summary: 'print the site key, to write it down',
    about:
      'Prints the site key as four lines, on the host that made the site or restored it. With --forget it is then taken ' +
      'off this host: who steals the host has no hold on the site any more.',
    options: [['--forget', 'take the key off this host, once it is written down']],
    examples: [
      ['narwharf site recovery', 'the four lines'],
      ['narwharf site recovery --forget', 'the four lines for the last time'],
    ],
    load: async () => (await import('./commands/site.ts')).siteRecovery,
  },
  {
    name: 'site restore',
    summary: 'bring the site key to this host',
    about:
      'Reads the four lines of the site key from standard input. This host is then an admin of the site: of the one it ' +
      'belongs to, or of the one that it finds with this key as soon as a host of it is near.',
    options: [['--leave', 'leave another site for it']],
    examples: [
      ['narwharf site restore < site-key.txt', 'from a file'],
      ['narwharf site restore', 'typed from paper, ended by Ctrl-D'],
    ],
    load: async () => (await import('./commands/site.ts')).siteRestore,
  },
  {
    name: 'site admin',
    arguments: '<host>',
    summary: 'make a member an admin',
    about:
      'Lets a member, by its name or key, invite and revoke hosts as well. A site with two admins does not wait for one.',
    examples: [
      ['narwharf site admin lab-2', 'a second admin'],
      ['narwharf members', 'who is one'],
    ],
    load: async () => (await import('./commands/site.ts')).siteAdmin,
  },
  {
    name: 'invite',
    summary: 'print a code that lets one host in',
    about:
      'Prints a code, alone on the last line, that lets one host join the site, once. It is a secret until it is used. ' +
      'How long it is good is counted on this host, whatever the clocks say.',
    options: [
      ['--expires <span>', 'how long it is good, such as 30min, 24h or 7d (default: 24h)'],
      ['--name <name>', 'what the host is to be called, instead of its own name'],
      ['--admin', 'make it an admin as well'],
    ],
    examples: [
      ['narwharf invite --expires 2h', 'a code for the next two hours'],
      ['narwharf invite --quiet | ssh lab-2 narwharf join -', 'let a host in over ssh'],
    ],
    load: async () => (await import('./commands/invite.ts')).invite,
  },
  {
    name: 'join',
    arguments: '<code>',
    summary: 'join a site with a code',
    about:
      'Joins the site that the code is for. The host that printed it must be reachable: it is found by the addresses in ' +
      'the code, by what is seen on the network, or where --address says. The code “-” is read from standard input.',
    options: [
      ['--address <host:port...>', 'where the host that made the code is'],
      ['--leave', 'leave another site for it'],
    ],
    examples: [
      ['narwharf join nw-04qz8-…', 'join'],
      ['narwharf join - --address 10.0.0.5:6280 < code.txt', 'where nothing is seen by itself'],
    ],
    load: async () => (await import('./commands/join.ts')).join,
  },
  {
    name: 'members',
    summary: 'list the hosts of the site',
    about:
      'Lists the hosts of the site with their keys: members, admins, those that must be invited anew, and revoked ones.',
    examples: [
      ['narwharf members', 'for a person'],
      [`narwharf members --json | jq -r '.members[] | select(.admin).name'`, 'the admins'],
    ],
    load: async () => (await import('./commands/members.ts')).members,
  },
  {
    name: 'revoke',
    arguments: '<host>',
    summary: 'shut a host out of the site, for good',
    about:
      'Revokes a host by its name or key: every host that hears of it cuts it off at once and for good. Hosts on an island ' +
      'that has not heard of it go on talking to it until they do. A host that may come back needs a new invite.',
    options: [['--entirely', 'make void whatever it signed as an admin, with the site key']],
    examples: [
      ['narwharf revoke lab-4', 'a host that was lost or sold'],
      ['narwharf revoke lab-2 --entirely', 'an admin that struck at others'],
    ],
    load: async () => (await import('./commands/revoke.ts')).revoke,
  },
]
