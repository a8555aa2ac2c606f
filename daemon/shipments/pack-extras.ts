import { createHash } from 'node:crypto'
import { constants, type Dirent } from 'node:fs'
import { lstat, mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import {
  parseSectionFile,
  SECTION_DIRECTORIES,
  type ShipmentSection,
  type ShipmentSectionKind,
} from '../../protocol/shipment.ts'
import { fail, problemOf } from '../../protocol/errors.ts'
import { UNFINISHED } from '../holders/cache-dir-writer.ts'

// What goes beside store paths: channels, flakes and tarballs, as they lie below `narwharf/` of this host's cache.

/** Which of them go. */
export interface ExtrasWish {
  /** Names of channels. */
  readonly channels: readonly string[]
  /** All channels, flakes and tarballs there are. */
  readonly all: boolean
}

/** A file that goes along. */
export interface ExtraFile {
  readonly kind: ShipmentSectionKind
  /** `narwharf/…`, the same at both ends. */
  readonly file: string
  readonly size: number
}

/** Levels below `narwharf/channels`: tarballs lie two deep. */
const DEPTH_MAX = 4

const CHUNK_BYTES = 256 * 1024
const READ_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW

async function* filesBelow(dir: string, depth = 0): AsyncGenerator<string> {
  let entries: Dirent[]
  try {
    entries = await readdir(dir, { withFileTypes: true })
  } catch {
    return
  }
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.isFile()) yield entry.name
    else if (entry.isDirectory() && depth < DEPTH_MAX) {
      for await (const file of filesBelow(join(dir, entry.name), depth + 1)) {
        yield `${entry.name}/${file}`
      }
    }
  }
}

/** What there is of what was wished for, and what cannot go, with the reason. */
export async function listExtras(
  cacheDir: string,
  wish: ExtrasWish,
): Promise<{ readonly files: readonly ExtraFile[]; readonly problems: readonly string[] }> {
  const files: ExtraFile[] = []
  const problems: string[] = []
  const list = async (kind: ShipmentSectionKind, below = ''): Promise<number> => {
    const directory = `narwharf/${SECTION_DIRECTORIES[kind]}${below === '' ? '' : `/${below}`}`
    let count = 0
    for await (const name of filesBelow(join(cacheDir, directory))) {
      try {
        const file = parseSectionFile(`${directory}/${name}`, kind)
        files.push({ kind, file, size: (await lstat(join(cacheDir, file))).size })
        count++
      } catch (error) {
        problems.push(`${directory}/${name} does not go: ${problemOf(error)}`)
      }
    }
    return count
  }
  if (wish.all) {
    for (const kind of ['channel', 'flake', 'tarball'] as const) await list(kind)
    return { files, problems }
  }
  for (const channel of new Set(wish.channels)) {
    if (!/^[\w.+-]+$/.test(channel) || (await list('channel', channel)) === 0) {
      problems.push(`there is no channel ${channel} in this host’s cache`)
    }
  }
  return { files, problems }
}

/** Every byte of a file to `take`. */
async function readAll(file: string, take: (chunk: Buffer) => Promise<void>): Promise<void> {
  const handle = await open(file, READ_FLAGS)
  try {
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null)
      if (bytesRead === 0) return
      await take(buffer.subarray(0, bytesRead))
    }
  } finally {
    await handle.close()
  }
}

/** SHA-256 of a file in hex; undefined where it cannot be read. */
export async function hashOfFile(file: string): Promise<string | undefined> {
  const hash = createHash('sha256')
  try {
    await readAll(file, async chunk => void hash.update(chunk))
  } catch {
    return undefined
  }
  return hash.digest('hex')
}

/** Copies them, but what lies there already, and says what each section is. Throws CACHE_UNWRITABLE. */
export async function writeExtras(
  files: readonly ExtraFile[],
  {
    cacheDir,
    dir,
    signal,
  }: { readonly cacheDir: string; readonly dir: string; readonly signal: AbortSignal },
): Promise<ShipmentSection[]> {
  const sections: ShipmentSection[] = []
  for (const { kind, file } of files) {
    signal.throwIfAborted()
    const target = join(dir, file)
    const there = await lstat(target).catch(() => undefined)
    const temporary = join(dirname(target), `${UNFINISHED}${process.pid}-extra`)
    const hash = createHash('sha256')
    let size = 0
    let handle: FileHandle | undefined
    try {
      await mkdir(dirname(target), { recursive: true })
      handle = await open(temporary, 'wx', 0o644)
      const writing = handle
      await readAll(join(cacheDir, file), async chunk => {
        hash.update(chunk)
        size += chunk.length
        for (let at = 0; at < chunk.length;) {
          at += (await writing.write(chunk, at, chunk.length - at)).bytesWritten
        }
      })
      const sha256 = hash.digest('hex')
      if (
        there?.isFile() !== true ||
        there.size !== size ||
        (await hashOfFile(target)) !== sha256
      ) {
        await handle.sync()
        await rename(temporary, target)
      }
      sections.push({ kind, file, size, sha256 })
    } catch (error) {
      fail('CACHE_UNWRITABLE', { dir, problem: problemOf(error) }, error)
    } finally {
      await handle?.close()
      await rm(temporary, { force: true }).catch(() => undefined)
    }
  }
  return sections
}
