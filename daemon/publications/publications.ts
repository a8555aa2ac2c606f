import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import {
  isChannelFile,
  isNixpkgsChannel,
  parseChannelName,
  parseGitRevision,
  type ChannelName,
} from '../../protocol/channel.ts'
import {
  FLAKE_NOTE_MAX_BYTES,
  isFlakeId,
  parseFlakeNote,
  tarballName,
  type PublishedFlake,
} from '../../protocol/flake.ts'
import { formatHash, sameHash, type Hash } from '../../protocol/hash.ts'
import { readSmallFile } from '../holders/small-file.ts'
import { findFile, type FoundFile, type PublishedFile } from './published-file.ts'

// What a cache has beside store paths, under `<cache>/narwharf/`: channels, flakes and the tarballs of a hashed mirror, as a
// mirror or a merge left them. Looked up at each request: nothing is kept in memory but which tarballs were hashed.

/** Where a flake's tarball is found. */
export interface FoundFlake {
  readonly flake: PublishedFlake
  readonly file: PublishedFile
}

/** The room: reads only, and never throws for what it finds. */
export interface Publications {
  /** Names, in their order. */
  channels(): Promise<readonly ChannelName[]>
  /** The files of a channel by name; undefined where there is no such channel. */
  channelFiles(name: ChannelName): Promise<readonly string[] | undefined>
  channelFile(name: ChannelName, file: string): PublishedFile | undefined
  /** Every flake that has a tarball here, by name; `nixpkgs` is the newest channel of it where nothing else is. */
  flakes(): Promise<readonly FoundFlake[]>
  flake(id: string): Promise<FoundFlake | undefined>
  /** The tarball of a flake by what {@link tarballName} says, older ones included. */
  flakeTarball(id: string, name: string): Promise<PublishedFile | undefined>
  /** A file with that hash, hashed before it is offered. */
  tarball(hash: Hash): Promise<PublishedFile | undefined>
}

/** Bytes of a `git-revision` looked at. */
const REVISION_MAX_BYTES = 200

/** Tarballs known to be right that are remembered: those of several large systems. */
const VERIFIED_MAX = 20_000

/** Entries of a folder that are looked at. */
const NAMES_MAX = 10_000

const EXTENSIONS = ['gz', 'xz', 'zst', 'bz2'] as const

/** Names in a folder, sorted; none where it cannot be read. */
async function namesIn(dir: string): Promise<readonly string[]> {
  try {
    return (await readdir(dir)).sort().slice(0, NAMES_MAX)
  } catch {
    return []
  }
}

const attempt = <T>(work: () => T): T | undefined => {
  try {
    return work()
  } catch {
    return undefined
  }
}

async function hashFile(file: FoundFile, hash: Hash): Promise<boolean> {
  const digest = createHash(hash.algorithm)
  const stream = file.open()
  for await (const chunk of stream) {
    digest.update(chunk)
    stream.recycle(chunk)
  }
  return sameHash(hash, { algorithm: hash.algorithm, bytes: digest.digest() })
}

/** The publications of one cache directory; `dir` is its `narwharf` folder, which need not exist. */
export function createPublications({ dir }: { readonly dir: string }): Publications {
  const channelDir = join(dir, 'channels')
  const flakeDir = join(dir, 'flakes')
  const tarballDir = join(dir, 'tarballs')
  /** What the files that were hashed turned out to be, by hash and stamp. */
  const verified = new Map<string, Promise<boolean>>()

  const isRight = (file: FoundFile, hash: Hash): Promise<boolean> => {
    const key = `${formatHash(hash, 'base16')} ${file.stamp.text}`
    const known = verified.get(key)
    if (known !== undefined) return known
    const check = hashFile(file, hash).catch(() => {
      // It could not be read, which says nothing of what it is.
      verified.delete(key)
      return false
    })
    // What was changed within this tick of the clock might be changed again unseen.
    if (!file.stamp.fresh) verified.set(key, check)
    if (verified.size > VERIFIED_MAX) {
      const [oldest = ''] = verified.keys()
      verified.delete(oldest)
    }
    return check
  }

  const channels = async (): Promise<readonly ChannelName[]> =>
    (await namesIn(channelDir)).flatMap(text => attempt(() => parseChannelName(text)) ?? [])

  const channelFile = (name: ChannelName, file: string): FoundFile | undefined =>
    isChannelFile(file) ? findFile(channelDir, `${name}/${file}`) : undefined

  const revisionOf = async (name: ChannelName): Promise<string | undefined> => {
    const found = channelFile(name, 'git-revision')
    const bytes = found && (await readSmallFile(found.path, REVISION_MAX_BYTES))
    return bytes && parseGitRevision(bytes)
  }

  /** nixpkgs as the newest channel has it. */
  const nixpkgs = async (): Promise<FoundFlake | undefined> => {
    let newest: { readonly name: ChannelName; readonly file: FoundFile } | undefined
    for (const name of (await channels()).filter(isNixpkgsChannel)) {
      const file = channelFile(name, 'nixexprs.tar.xz')
      if (file && file.changedAt >= (newest?.file.changedAt ?? 0)) newest = { name, file }
    }
    if (newest === undefined) return undefined
    const rev = await revisionOf(newest.name)
    return {
      flake: { id: 'nixpkgs', rev, file: `nixpkgs/${rev ?? 'channel'}.tar.xz` },
      file: newest.file,
    }
  }

  const flake = async (id: string): Promise<FoundFlake | undefined> => {
    if (!isFlakeId(id)) return undefined
    const note = await readSmallFile(join(flakeDir, `${id}.json`), FLAKE_NOTE_MAX_BYTES)
    const noted = note && attempt(() => parseFlakeNote(note))
    const file = noted?.id === id ? findFile(flakeDir, noted.file) : undefined
    if (noted !== undefined && file !== undefined) return { flake: noted, file }
    return id === 'nixpkgs' ? nixpkgs() : undefined
  }

  return {
    channels,
    async channelFiles(name) {
      const names = await namesIn(join(channelDir, name))
      const files = names.filter(file => channelFile(name, file) !== undefined)
      return files.length === 0 ? undefined : files
    },
    channelFile,
    flake,
    async flakes() {
      const noted = (await namesIn(flakeDir))
        .filter(name => name.endsWith('.json'))
        .map(name => name.slice(0, -'.json'.length))
      const ids = [...new Set([...noted, 'nixpkgs'])].sort()
      const found = await Promise.all(ids.map(flake))
      return found.filter(one => one !== undefined)
    },
    async flakeTarball(id, name) {
      const current = await flake(id)
      if (current !== undefined && tarballName(current.flake) === name) return current.file
      if (!isFlakeId(id) || !isChannelFile(name)) return undefined
      for (const extension of EXTENSIONS) {
        const file = findFile(flakeDir, `${id}/${name}.tar.${extension}`)
        if (file !== undefined) return file
      }
      // A channel whose revision this was, under whichever name.
      for (const channel of id === 'nixpkgs' ? await channels() : []) {
        if ((await revisionOf(channel)) === name) return channelFile(channel, 'nixexprs.tar.xz')
      }
      return undefined
    },
    async tarball(hash) {
      const name = formatHash(hash, 'base16', false)
      const file = findFile(tarballDir, `${hash.algorithm}/${name}`)
      return file !== undefined && (await isRight(file, hash)) ? file : undefined
    },
  }
}
