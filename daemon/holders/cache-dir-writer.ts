import { createHash, type Hash as Digest } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { COMPRESSION_EXTENSIONS } from '../../protocol/nar-url.ts'
import { formatNarinfo } from '../../protocol/narinfo.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { Hash } from '../../protocol/hash.ts'
import type { Compression, NarInfo, PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import { createEncoder } from '../compression/encoder.ts'
import type { ByteStream } from '../workers/byte-stream.ts'

// Writes a flat binary cache, as `nix copy --to file://` does, so that it is a valid cache at every moment, wherever the
// power goes: a NAR is under its name only when it is whole and on the disk, a narinfo only when its NAR and the narinfos
// of its references are.

export interface CacheDirWriterOptions {
  readonly dir: string
  /** How NARs are packed; default: zstd for all but the smallest. */
  readonly compression?: 'zstd' | 'none' | undefined
}

export interface AddOptions {
  /** Its references need not be in this cache: somebody else at the site keeps those that are not. */
  readonly partial?: boolean | undefined
}

/** What was written. */
export interface WrittenPath {
  /** The narinfo as it stands in the cache. */
  readonly narinfo: NarInfo
}

export interface CacheDirWriter {
  /** Makes the directory and clears away what a killed writer left. Throws CACHE_UNWRITABLE. */
  open(): Promise<void>
  /** Whether the cache has a narinfo of that path. */
  has(hashPart: HashPart): boolean
  /**
   * Adds a path: `info` is written as given (signatures and content address must be proven), the NAR is checked against it
   * on the way. Its references must be there. Throws CACHE_INCOMPLETE, CACHE_UNWRITABLE, NAR_MISMATCH, and what the stream
   * throws; then nothing of it is in the cache. Adding a path again writes it anew.
   */
  add(info: PathInfo, nar: ByteStream, options?: AddOptions): Promise<WrittenPath>
  /** A name on the cache's disk for a file that is to be adopted. */
  nextName(): string
  /**
   * Makes a file of that name the NAR file of a path, without copying: whoever gives it has checked it against `info`. Throws
   * CACHE_UNWRITABLE; the file is gone then.
   */
  adopt(info: NarInfo, file: string): Promise<WrittenPath>
  /** Lets go of such a file. */
  discard(file: string): Promise<void>
}

/** Files that are not finished have this before their name; nothing reads them. */
export const UNFINISHED = '.narwharf-unfinished-'

/** NARs below this are stored as they are: a block of the disk is not less than that. */
const PACK_FROM_BYTES = 4096

const isUnfinished = (name: string): boolean => name.startsWith(UNFINISHED)

/** Makes what was renamed or made in a directory outlast a power cut. */
async function syncDir(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Writes what comes, and knows its hash and size. */
interface Sink {
  readonly hash: Digest
  size: number
  write(chunk: Buffer): Promise<void>
}

function createSink(handle: FileHandle): Sink {
  const sink: Sink = {
    hash: createHash('sha256'),
    size: 0,
    async write(chunk) {
      sink.hash.update(chunk)
      sink.size += chunk.length
      for (let done = 0; done < chunk.length;) {
        done += (await handle.write(chunk, done, chunk.length - done)).bytesWritten
      }
    },
  }
  return sink
}

/** Packs a stream into a sink. */
async function pack(source: AsyncIterable<Buffer>, sink: Sink): Promise<void> {
  const encoder = createEncoder('zstd') ?? fail('COMPRESSION_UNKNOWN', { compression: 'zstd' })
  const feed = async () => {
    for await (const chunk of source) {
      if (encoder.destroyed) return
      // The encoder may keep the bytes for a while, and the chunk goes back to its source.
      if (!encoder.write(Buffer.from(chunk))) {
        await new Promise<void>(resolve => encoder.once('drain', resolve).once('close', resolve))
      }
    }
    encoder.end()
  }
  const feeding = feed().catch((error: Error) => void encoder.destroy(error))
  try {
    for await (const packed of encoder as AsyncIterable<Buffer>) await sink.write(packed)
  } finally {
    encoder.destroy()
    await feeding
  }
}

/** Makes the writer of a directory; only one may write at a time, any number may read. */
export function createCacheDirWriter(options: CacheDirWriterOptions): CacheDirWriter {
  const { dir, compression: wanted = 'zstd' } = options
  const narDir = join(dir, 'nar')
  let count = 0

  const unwritable = (error: unknown): never =>
    fail('CACHE_UNWRITABLE', { dir, problem: problemOf(error) }, error)
  const has = (hashPart: HashPart): boolean => existsSync(join(dir, `${hashPart}.narinfo`))

  /** The bytes, checked against what they must be; given back to their source when they are used. */
  async function* checked(
    info: PathInfo,
    nar: ByteStream,
  ): AsyncGenerator<Buffer, void, undefined> {
    const { storePath, narHash, narSize } = info
    const hash = createHash('sha256')
    let size = 0
    for await (const chunk of nar) {
      size += chunk.length
      if (size > narSize) break
      hash.update(chunk)
      yield chunk
      nar.recycle(chunk)
    }
    if (size !== narSize) {
      fail('NAR_MISMATCH', { path: storePath, field: 'size', actual: size, expected: narSize })
    }
    const digest = hash.digest()
    if (Buffer.compare(digest, narHash.bytes) !== 0) {
      const expected = Buffer.from(narHash.bytes).toString('hex')
      fail('NAR_MISMATCH', {
        ...{ path: storePath, field: 'hash', actual: digest.toString('hex'), expected },
      })
    }
  }

  /** Writes a file under a name that says it is not finished; gives that name once it is on the disk. */
  const writeUnfinished = async (
    below: string,
    work: (handle: FileHandle) => Promise<void>,
  ): Promise<string> => {
    const file = nextName(below)
    const handle = await open(file, 'wx', 0o644).catch(unwritable)
    try {
      await work(handle)
      await handle.sync()
    } catch (error) {
      await handle.close()
      await rm(file, { force: true })
      throw error
    }
    await handle.close()
    return file
  }

  const nextName = (below: string): string => join(below, `${UNFINISHED}${process.pid}-${++count}`)

  const writeNar = async (info: PathInfo, nar: ByteStream): Promise<NarInfo> => {
    const compression = wanted === 'zstd' && info.narSize >= PACK_FROM_BYTES ? 'zstd' : 'none'
    let sink: Sink | undefined
    const file = await writeUnfinished(narDir, async handle => {
      sink = createSink(handle)
      if (compression === 'zstd') await pack(checked(info, nar), sink)
      else for await (const chunk of checked(info, nar)) await sink.write(chunk)
    })
    if (sink === undefined) return unwritable('nothing was written')
    const fileHash = { algorithm: 'sha256', bytes: sink.hash.digest() } as const
    const url = narUrl(fileHash, compression)
    await rename(file, join(dir, url))
    await syncDir(narDir)
    return { ...info, url, compression, fileHash, fileSize: sink.size }
  }

  const narUrl = (fileHash: Hash, compression: Compression): string =>
    `nar/${encodeNix32(fileHash.bytes)}.nar${COMPRESSION_EXTENSIONS[compression]}`

  const writeNarinfo = async (narinfo: NarInfo): Promise<void> => {
    const file = await writeUnfinished(dir, handle => handle.writeFile(formatNarinfo(narinfo)))
    await rename(file, join(dir, `${hashPartOf(narinfo.storePath)}.narinfo`))
    await syncDir(dir)
  }

  return {
    async open() {
      try {
        await mkdir(narDir, { recursive: true })
        for (const place of [dir, narDir]) {
          for (const name of (await readdir(place)).filter(isUnfinished)) {
            await rm(join(place, name), { force: true })
          }
        }
      } catch (error) {
        unwritable(error)
      }
    },
    has,
    async add(info, nar, { partial = false } = {}) {
      try {
        const own = hashPartOf(info.storePath)
        for (const reference of info.references) {
          const part = hashPartOf(reference)
          if (!partial && part !== own && !has(part)) {
            fail('CACHE_INCOMPLETE', { path: info.storePath, reference })
          }
        }
        const narinfo = await writeNar(info, nar)
        await writeNarinfo(narinfo)
        return { narinfo }
      } catch (error) {
        if (isNarwharfError(error)) throw error
        // What the file system says is about the cache; anything else is the stream's.
        if (error instanceof Error && 'syscall' in error) return unwritable(error)
        throw error
      } finally {
        nar.destroy()
      }
    },
    nextName: () => nextName(narDir),
    discard: file => rm(file, { force: true }),
    async adopt(info, file) {
      try {
        const { fileHash = fail('CACHE_UNWRITABLE', { dir, problem: 'a file without hash' }) } =
          info
        const handle = await open(file, 'r+')
        try {
          await handle.chmod(0o644)
          await handle.sync()
        } finally {
          await handle.close()
        }
        const narinfo = { ...info, url: narUrl(fileHash, info.compression) }
        await rename(file, join(dir, narinfo.url))
        await syncDir(narDir)
        await writeNarinfo(narinfo)
        return { narinfo }
      } catch (error) {
        await rm(file, { force: true })
        return isNarwharfError(error) ? Promise.reject(error) : unwritable(error)
      }
    },
  }
}
