import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  type Dirent,
} from 'node:fs'
import { fail } from '../../protocol/errors.ts'
import { MAX_DEPTH } from '../../protocol/nar/wire.ts'
import {
  MAX_NODE_BYTES,
  putDirectory,
  putNodeEnd,
  putNodeStart,
  putPadding,
  putRegular,
  putSymlink,
} from '../../protocol/nar/writer.ts'

// A file system tree as NAR, pulled into the caller's buffers by synchronous calls: in a worker thread that is twelve
// times quicker for trees of small files than streams are (docs/performance.md), and the bytes are touched once.

/** A large file that the caller may stream by itself instead of having its bytes copied. The caller closes `fd`. */
export interface FileSegment {
  readonly fd: number
  readonly offset: number
  readonly length: number
}

/** A NAR being made. Throws HOLDING_GONE, NAR_MISMATCH or NAR_INVALID; after that only `close` may be called. */
export interface TreeNar {
  /** Fills `out` from its start; less than its length only before a segment or at the end (then 0 in the end). */
  fill(out: Buffer): number
  /** A large file's turn has come: to be taken before the next `fill`. Only where segments are asked for. */
  takeSegment(): FileSegment | undefined
  close(): void
}

export interface TreeNarOptions {
  /** Bytes of NAR to leave out at the start; they are stepped over by sizes, not read. */
  readonly skip?: number
  /** Files of at least so many bytes become segments; default never. */
  readonly segmentBytes?: number
}

/** Owner's execute bit: what Nix takes for `executable`. */
const EXECUTABLE_BIT = 0o100

/** O_NOFOLLOW: a name that became a symlink is not followed out of the tree. O_NONBLOCK: one that became a FIFO does not hang. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

const SEPARATOR = Buffer.from('/')

interface OpenDirectory {
  readonly path: Buffer
  readonly entries: readonly Dirent<Buffer>[]
  next: number
}

const VANISHED = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'ESTALE'])

/** Begins the NAR of whatever is at `root`. */
export function createTreeNar(root: string, options: TreeNarOptions = {}): TreeNar {
  const segmentBytes = options.segmentBytes ?? Infinity
  let skip = options.skip ?? 0
  const scratch = Buffer.alloc(2 * MAX_NODE_BYTES)
  let scratchStart = 0
  let scratchEnd = 0
  let fd = -1
  let filePath: Buffer = Buffer.alloc(0)
  let fileSize = 0
  let filePosition = 0
  let segment: FileSegment | undefined
  let begun = false
  const directories: OpenDirectory[] = []

  const guarded = <T>(path: Buffer, call: () => T): T => {
    try {
      return call()
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== undefined && VANISHED.has(code)) {
        fail('HOLDING_GONE', { path: path.toString(), holder: root }, error)
      }
      throw error
    }
  }

  const closeFile = () => {
    if (fd !== -1) closeSync(fd)
    fd = -1
  }

  const endNode = () => {
    scratchEnd = putNodeEnd(scratch, scratchEnd, directories.length === 0)
  }

  const beginFile = (path: Buffer) => {
    fd = guarded(path, () => openSync(path, OPEN_FLAGS))
    const stat = fstatSync(fd)
    if (!stat.isFile()) special(path)
    scratchEnd = putRegular(scratch, scratchEnd, stat.size, (stat.mode & EXECUTABLE_BIT) !== 0)
    filePath = path
    fileSize = stat.size
    filePosition = 0
    if (fileSize === 0) endFile()
  }

  const endFile = () => {
    closeFile()
    scratchEnd = putPadding(scratch, scratchEnd, fileSize)
    endNode()
  }

  const special = (path: Buffer): never =>
    fail('NAR_INVALID', {
      problem: `${path.toString()} is neither file, directory nor symlink`,
      offset: 0,
    })

  const beginSymlink = (path: Buffer) => {
    const target = guarded(path, () => readlinkSync(path, 'buffer'))
    scratchEnd = putSymlink(scratch, scratchEnd, target)
    endNode()
  }

  const beginDirectory = (path: Buffer) => {
    const entries = guarded(path, () =>
      readdirSync(path, { encoding: 'buffer', withFileTypes: true }),
    )
    entries.sort((a, b) => a.name.compare(b.name))
    scratchEnd = putDirectory(scratch, scratchEnd)
    directories.push({ path, entries, next: 0 })
  }

  type Kind = Pick<Dirent, 'isFile' | 'isDirectory' | 'isSymbolicLink'>

  const begin = (path: Buffer, name: Buffer | undefined, kind: Kind) => {
    if (directories.length >= MAX_DEPTH) {
      fail('NAR_INVALID', { problem: `folders are nested deeper than ${MAX_DEPTH}`, offset: 0 })
    }
    scratchEnd = putNodeStart(scratch, scratchEnd, name)
    if (kind.isFile()) beginFile(path)
    else if (kind.isDirectory()) beginDirectory(path)
    else if (kind.isSymbolicLink()) beginSymlink(path)
    else special(path)
  }

  /** Puts the next few bytes into the scratch, or opens the next file. False at the end. */
  const step = (): boolean => {
    if (!begun) {
      begun = true
      const path = Buffer.from(root)
      const stat = guarded(path, () => lstatSync(path))
      begin(path, undefined, stat)
      return true
    }
    const directory = directories[directories.length - 1]
    if (directory === undefined) return false
    const entry = directory.entries[directory.next++]
    if (entry === undefined) {
      directories.pop()
      endNode()
      return true
    }
    begin(Buffer.concat([directory.path, SEPARATOR, entry.name]), entry.name, entry)
    return true
  }

  /** Reads from the open file; returns what it put at `at`. */
  const readFile = (out: Buffer, at: number): number => {
    if (skip > 0) {
      const over = Math.min(skip, fileSize - filePosition)
      skip -= over
      filePosition += over
    }
    const wanted = Math.min(out.length - at, fileSize - filePosition)
    let got = 0
    if (wanted > 0) {
      got = readSync(fd, out, at, wanted, filePosition)
      if (got === 0) {
        fail('NAR_MISMATCH', {
          path: filePath.toString(),
          field: 'size',
          actual: filePosition,
          expected: fileSize,
        })
      }
      filePosition += got
    }
    if (filePosition === fileSize) endFile()
    return got
  }

  const drainScratch = (out: Buffer, at: number): number => {
    const over = Math.min(skip, scratchEnd - scratchStart)
    skip -= over
    scratchStart += over
    const count = Math.min(out.length - at, scratchEnd - scratchStart)
    scratch.copy(out, at, scratchStart, scratchStart + count)
    scratchStart += count
    if (scratchStart === scratchEnd) scratchStart = scratchEnd = 0
    return count
  }

  /** Hands the open file over when it is large enough to be worth it. */
  const splitSegment = (): boolean => {
    const from = Math.min(fileSize, filePosition + skip)
    if (fileSize - from < segmentBytes) return false
    skip -= from - filePosition
    segment = { fd, offset: from, length: fileSize - from }
    fd = -1
    filePosition = fileSize
    endFile()
    return true
  }

  return {
    fill(out) {
      let at = 0
      while (at < out.length) {
        if (scratchEnd > scratchStart) at += drainScratch(out, at)
        else if (fd !== -1) {
          if (splitSegment()) break
          at += readFile(out, at)
        } else if (!step()) break
      }
      return at
    },
    takeSegment() {
      // What stands before the file in the archive goes out first.
      const taken = segment
      segment = undefined
      return taken
    },
    close() {
      closeFile()
      if (segment !== undefined) closeSync(segment.fd)
      segment = undefined
      directories.length = 0
    },
  }
}
