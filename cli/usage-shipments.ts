import type { CommandUsage } from './usage.ts'

// The commands that pack and check.

export const SHIPMENT_COMMANDS: readonly CommandUsage[] = [
  {
    name: 'ship',
    arguments: '<dir> [root...]',
    summary: 'pack a shipment onto a drive',
    about:
      'Packs store paths with their closures into a directory, less what a have digest says is there already: a plain binary ' +
      'cache that stock Nix can use, with a signed manifest and an index beside it. Roots are store paths, .drv files (their ' +
      'outputs), links into the store, files with a path a line, or - for such a list on standard input. Want lists come ' +
      'first, by their priority, then the roots in their order. What goes is planned before a byte is written: only whole ' +
      'closures, the most wanted first, as much as fits; the rest is listed, with exit status 3. A run that was cut off is ' +
      'just run again, and a drive that has a shipment is topped up.',
    options: [
      ['--have <file>', 'leave out what this have digest says is there (narwharf have -o FILE)'],
      ['--want <file>', 'pack what this want list asks for (narwharf want export)'],
      ['--from <cache>', 'pack from this cache as well: a directory, or an http(s) URL'],
      ['--size-limit <size>', 'take no more of a drive than this, such as 64GB'],
      [
        '--split <n>',
        'make n drives of it, each as large as --size-limit says or all about the same: DIR/part-1 to DIR/part-n',
      ],
      [
        '--part <k>',
        'with --split: only the k-th of them, into DIR itself, one stick after the other',
      ],
      ['--channel <names>', 'take these channels of the cache along, with commas between them'],
      ['--channels', 'take all channels, flakes and tarballs of the cache along'],
      ['--name <name>', 'what to call the shipment (default: the drive’s label)'],
      ['--replace', 'remove what lies there and is not part of it'],
      ['--verify', 'read what lies there already instead of looking at its size'],
      [
        '--max-file-size <size>',
        'split larger NARs, which stock Nix then cannot read (default: below 4 GiB on FAT32, no limit elsewhere)',
      ],
      ['--dry-run', 'say what would go, and write nothing'],
    ],
    examples: [
      ['narwharf ship /mnt/ssd /nix/var/nix/profiles/system', 'a system with all it needs'],
      [
        'narwharf ship /mnt/ssd --have island.have --want island.want',
        'what an island wants and has not',
      ],
      ['narwharf ship /mnt/ssd ./paths.txt --dry-run', 'how much a list of paths comes to'],
      ['narwharf ship /mnt/stick ./result --split 3 --part 1 --size-limit 30GB', 'the first of 3'],
    ],
    load: async () => (await import('./commands/ship.ts')).ship,
  },
  {
    name: 'verify',
    arguments: '[target...]',
    summary: 'read everything in the cache or on a drive, and repair it',
    about:
      'Reads every NAR of this host’s cache, of a directory or of a drive (by its name), and compares hashes, signatures, ' +
      'references, manifest and index. With --repair, what is damaged is taken from another holder: live store, peers, ' +
      'drives, upstreams. Exit status 0 if all is right or repaired, 3 if something is not and the rest is, 1 if nothing is.',
    options: [['--repair', 'replace damaged paths by copies of other holders']],
    examples: [
      ['narwharf verify', 'the cache'],
      ['narwharf verify /mnt/ssd', 'a drive that was packed, before it travels'],
      ['narwharf verify KERGUELEN-2 --repair', 'a drive by its name'],
    ],
    load: async () => (await import('./commands/verify.ts')).verify,
  },
]
