import type { CommandUsage } from './usage.ts'

// The commands about drives and what is done with them.

export const DRIVE_COMMANDS: readonly CommandUsage[] = [
  {
    name: 'drives',
    summary: 'list the drives, plugged or not',
    about:
      'Shows the drives that this host knows: plugged in and where, or in a drawer and last seen when; what lies on each (a ' +
      'shipment, a binary cache, export archives), how many paths and bytes, and what is wrong with it.',
    examples: [
      ['narwharf drives', 'for a person'],
      [
        "narwharf drives --json | jq -r '.drives[] | select(.plugged).mountPoint'",
        'where the plugged ones are',
      ],
    ],
    load: async () => (await import('./commands/drives.ts')).drives,
  },
  {
    name: 'merge',
    arguments: '<drive>',
    summary: 'bring what lies on a drive into the cache',
    about:
      'Copies what a shipment or any flat binary cache has and the site lacks into this host’s cache: what is trusted, wished-' +
      'for paths first, each checked on the way. The drive is named as `drives` shows it, or by a directory. Run again it does ' +
      'the rest; on a keeper it runs by itself when a drive is plugged. Exit status 0 if all is there, 3 if something is ' +
      'left, which is listed, 1 if it failed.',
    options: [
      ['--trust', 'take what has no trusted signature too: this host answers for it'],
      ['--everything', 'take what other keepers keep already too'],
    ],
    examples: [
      ['narwharf merge KERGUELEN-2', 'a drive by its name'],
      ['narwharf merge /mnt/old-cache --trust', 'a cache that nobody signed, made by oneself'],
    ],
    load: async () => (await import('./commands/merge.ts')).merge,
  },
  {
    name: 'jobs',
    arguments: '[number]',
    summary: 'list work that takes long, running and done',
    about:
      'Shows merges, shipments and the like: running, done, and interrupted ones, which go on by themselves when they can. With ' +
      'a number, follows that job to its end, notes and all, and exits as it ends; stopping to follow does not stop it.',
    options: [['--cancel', 'stop the job with that number']],
    examples: [
      ['narwharf jobs', 'the newest first'],
      ['narwharf jobs 12', 'follow one'],
      ['narwharf jobs 12 --cancel', 'stop it; what it has done stays'],
    ],
    load: async () => (await import('./commands/jobs.ts')).jobs,
  },
  {
    name: 'eject',
    arguments: '<drive>',
    summary: 'make a drive safe to unplug',
    about:
      'Ends every use of a drive, named as `drives` shows it or by its mount point, writes to it what waits and unmounts it. ' +
      'Where this host may not unmount it, says what command does; the exit status is then 3.',
    examples: [
      ['narwharf eject KERGUELEN-2', 'by name'],
      ['narwharf eject /run/media/ada/KERGUELEN-2', 'by mount point'],
    ],
    load: async () => (await import('./commands/eject.ts')).eject,
  },
]
