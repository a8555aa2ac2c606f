import { lstat, opendir } from 'node:fs/promises'
import type { Dir } from 'node:fs'
import { CACHE_INFO_MAX_BYTES } from '../../protocol/cache-info.ts'
import { problemOf } from '../../protocol/errors.ts'
import { SHIPMENT_MANIFEST_FILE, SHIPMENT_MANIFEST_MAX_BYTES } from '../../protocol/shipment.ts'
import type { DriveFiles } from '../holders/drive-files.ts'
import type { DriveContents } from './drive.ts'
import { judgeManifestAside, type JudgedManifest } from './manifest.ts'

// What lies on a file system: at its top, and in the folders there. Nothing deeper is looked at, nothing is read but small files
// and the first bytes of what is named like an archive, and a hostile number of names ends the looking.

/** Names looked at in one folder: the top of a cache has 100,000 narinfos, but what counts here has few. */
const NAMES_MAX = 200_000

/** Folders at the top that are looked into, and caches that are taken of them. */
const FOLDERS_MAX = 200
const PLACES_MAX = 32

/** Files named like archives whose first bytes are read. */
const ARCHIVES_MAX = 300

/** Names of one turn of the drive. */
const NAMES_PER_TURN = 1000

const ARCHIVE_NAME = /\.(?:export|nix-export|closure|nixexport|exported)$/i
const ARCHIVE_FOLDERS = ['.', 'narwharf/archives'] as const

/** u64 1, then the string that every NAR begins with. */
const ARCHIVE_MAGIC = Buffer.concat([
  Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0]),
  Buffer.from('nix-archive-1\0\0\0', 'latin1'),
])

const CACHE_INFO = 'nix-cache-info'

/** A place with something for narwharf. */
export interface FoundPlace {
  /** '' for the top, else the folder's name. */
  readonly folder: string
  readonly contents: DriveContents
  readonly problems: readonly string[]
}

/** What was found on a file system. */
export interface Found {
  readonly places: readonly FoundPlace[]
  /** Equal while nothing of what was found has changed. */
  readonly state: string
}

interface Names {
  readonly folders: readonly string[]
  readonly archives: readonly string[]
}

/** Folders and files named like archives in a folder; hidden ones are nobody's caches. */
async function namesIn(files: DriveFiles, folder: string): Promise<Names> {
  const path = `${files.dir}/${folder}`
  const folders: string[] = []
  const archives: string[] = []
  const dir = await files.run(async (): Promise<Dir | undefined> => {
    const stats = await lstat(path).catch(() => undefined)
    return stats?.isDirectory() === true ? opendir(path, { bufferSize: NAMES_PER_TURN }) : undefined
  })
  if (dir === undefined) return { folders, archives }
  try {
    for (let seen = 0; seen < NAMES_MAX; seen += NAMES_PER_TURN) {
      const isLast = await files.run(async () => {
        for (let n = 0; n < NAMES_PER_TURN; n++) {
          const entry = await dir.read()
          if (entry === null) return true
          const { name } = entry
          if (name.startsWith('.') || name.includes('\uFFFD')) continue
          if (entry.isDirectory() && folders.length < FOLDERS_MAX) folders.push(name)
          const isArchive = entry.isFile() && ARCHIVE_NAME.test(name)
          if (isArchive && archives.length < ARCHIVES_MAX) archives.push(name)
        }
        return false
      })
      if (isLast) break
    }
  } finally {
    await dir.close().catch(() => undefined)
  }
  return { folders: folders.sort(), archives: archives.sort() }
}

/** Whether a file begins as `nix-store --export` writes it. */
async function isArchive(files: DriveFiles, file: string): Promise<boolean> {
  const head = await files.readHead(file, ARCHIVE_MAGIC.length)
  return head?.equals(ARCHIVE_MAGIC) === true
}

async function archivesIn(files: DriveFiles, within: string, top: Names): Promise<string[]> {
  const found: string[] = []
  for (const folder of ARCHIVE_FOLDERS) {
    const isTop = folder === '.'
    const names = isTop ? top : await namesIn(files, `${within}${folder}`)
    for (const name of names.archives) {
      const file = isTop ? name : `${folder}/${name}`
      if (found.length >= ARCHIVES_MAX) return found
      if (await files.run(() => isArchive(files, `${within}${file}`))) found.push(file)
    }
  }
  return found
}

/** What a place's small files look like: read again only when one of them has changed. */
async function stateOf(files: DriveFiles, within: string): Promise<string> {
  const stamps = await files.run(async () => [
    await files.stampOf(`${within}${CACHE_INFO}`),
    await files.stampOf(`${within}${SHIPMENT_MANIFEST_FILE}`),
  ])
  return stamps.map(stamp => stamp?.text ?? '-').join(' ')
}

async function readManifest(
  { files, keys, judged }: RecogniseOptions,
  within: string,
): Promise<JudgedManifest> {
  const file = `${within}${SHIPMENT_MANIFEST_FILE}`
  const stamp = await files.run(() => files.stampOf(file))
  const known = judged.get(file)
  const isKnown = stamp !== undefined && !stamp.fresh && known?.stamp === stamp.text
  if (isKnown && known.keys === keys.join()) return known.manifest
  const read = await files.run(() => files.read(file, SHIPMENT_MANIFEST_MAX_BYTES))
  if (read === undefined) return {}
  if (read.bytes === undefined) return { problem: `its manifest ${read.problem}` }
  const manifest = await judgeManifestAside({ bytes: read.bytes, keys })
  judged.set(file, { stamp: read.stamp.text, keys: keys.join(), manifest })
  return manifest
}

/** What was said of a manifest in that state, where those keys were trusted. */
interface JudgedBefore {
  readonly stamp: string
  readonly keys: string
  readonly manifest: JudgedManifest
}

export interface RecogniseOptions {
  readonly files: DriveFiles
  /** Public keys whose manifests are believed, `name:base64`. */
  readonly keys: readonly string[]
  /** Looks into the folders at the top as well. */
  readonly folders: boolean
  /** What was found of manifests, by file: kept by the caller, so that none is read twice. */
  readonly judged: Map<string, JudgedBefore>
}

/** What {@link recognise} would find changes with this: a few looks at names. */
export function lookOver(files: DriveFiles, folders: readonly string[]): Promise<string> {
  const names = folders.flatMap(folder =>
    ['.', 'narwharf', 'narwharf/archives', CACHE_INFO, SHIPMENT_MANIFEST_FILE].map(name =>
      folder === '' ? name : `${folder}/${name}`,
    ),
  )
  return files.run(async () => {
    const stamps: string[] = []
    for (const name of names) stamps.push((await files.stampOf(name))?.text ?? '-')
    return stamps.join(' ')
  })
}

/** Looks at a file system. Throws HOLDER_UNREADABLE when it gives no answer, or goes. */
export async function recognise(options: RecogniseOptions): Promise<Found> {
  const { files, folders } = options
  const places: FoundPlace[] = []
  const states: string[] = []
  const look = async (folder: string, names: Names): Promise<void> => {
    const within = folder === '' ? '' : `${folder}/`
    states.push(`${folder} ${await stateOf(files, within)}`)
    const info = await files.run(() => files.read(`${within}${CACHE_INFO}`, CACHE_INFO_MAX_BYTES))
    const manifest = await readManifest(options, within)
    const archives = await archivesIn(files, within, names)
    const { shipment, problem } = manifest
    // Who copied a shipment may have left out the file that says of which store it is.
    const cache = info !== undefined || shipment !== undefined
    if (!cache && problem === undefined && archives.length === 0) return
    states.push(...archives)
    places.push({
      folder,
      contents: { shipment, cache, archives },
      problems: problem === undefined ? [] : [problem],
    })
  }
  const top = await namesIn(files, '.')
  await look('', top)
  for (const folder of folders ? top.folders : []) {
    if (folder === 'nar' || folder === 'narwharf' || places.length >= PLACES_MAX) continue
    // One folder that cannot be read does not hide the others.
    const names = { folders: [], archives: [] }
    await look(folder, names).catch((error: unknown) => {
      if (files.isStuck) throw error
      states.push(problemOf(error))
    })
  }
  return { places, state: states.join('\n') }
}
