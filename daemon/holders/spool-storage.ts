import { close, open, read, write } from 'node:fs'
import { link, statfs, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

// Where the bytes of a NAR that arrives are kept: in a nameless file, in memory while small, or, where the disk has no
// room, in a window that moves on as they are read.

/** Bytes that arrive in order and are read at any place between `from` and what has arrived. */
export interface SpoolStorage {
  /** The first byte that is still there. */
  readonly from: number
  /** Only where bytes may arrive in any order, each once: resolves when they are there. */
  put?(at: number, chunk: Buffer): Promise<void>
  /** Adds the bytes behind those that are there; resolves when more may come. */
  append(chunk: Buffer): Promise<void>
  /** Copies bytes from `at` on into `out`, at least one, and resolves to their number; they have arrived and not passed by. */
  read(at: number, out: Buffer): Promise<number>
  /** Only where the bytes lie in a file with a name: gives it a second one. False where that cannot be. */
  link?(to: string): Promise<boolean>
  /** Safe to call twice; nothing is read or added any more. */
  close(): Promise<void>
}

const openFile = promisify(open)
const closeFile = promisify(close)

const writeAt = (fd: number, bytes: Buffer, position: number): Promise<number> =>
  new Promise((resolve, reject) => {
    write(fd, bytes, 0, bytes.length, position, (error, count) =>
      error === null ? resolve(count) : reject(error),
    )
  })

const readAt = (fd: number, out: Buffer, position: number): Promise<number> =>
  new Promise((resolve, reject) => {
    read(fd, out, 0, out.length, position, (error, count) =>
      error === null ? resolve(count) : reject(error),
    )
  })

/**
 * A file in that directory which has no name any more: it goes with the process, however that ends. `named`: it keeps its name
 * until it is closed, so that it can be given another.
 */
export async function createFileStorage(
  dir: string,
  name: string,
  named = false,
): Promise<SpoolStorage> {
  const path = join(dir, name)
  const fd = await openFile(path, 'wx+', 0o600)
  if (!named) await unlink(path)
  let length = 0
  let users = 0
  let closing = false
  const writeAll = async (at: number, chunk: Buffer): Promise<void> => {
    for (let done = 0; done < chunk.length;) {
      done += await writeAt(fd, chunk.subarray(done), at + done)
    }
  }
  let onClosed = (): void => undefined
  const closed = new Promise<void>(resolve => (onClosed = resolve))
  const closeUnused = (): void => {
    // A descriptor closed under a running read may by then be another file's.
    if (closing && users === 0) void closeFile(fd).then(onClosed, onClosed)
  }
  const use = async <T>(work: () => Promise<T>): Promise<T> => {
    if (closing) throw new Error('the spool file is closed')
    users++
    try {
      return await work()
    } finally {
      users--
      closeUnused()
    }
  }
  return {
    from: 0,
    append: chunk =>
      use(async () => {
        await writeAll(length, chunk)
        length += chunk.length
      }),
    put: (at, chunk) => use(() => writeAll(at, chunk)),
    read: (at, out) => use(() => readAt(fd, out, at)),
    ...(named && {
      link: (to: string) =>
        use(() =>
          link(path, to).then(
            () => true,
            () => false,
          ),
        ),
    }),
    close() {
      if (!closing) {
        closing = true
        if (named) unlink(path).catch(() => undefined)
        closeUnused()
      }
      return closed
    },
  }
}

/** Memory for a NAR whose size is known to be small. */
export function createMemoryStorage(size: number): SpoolStorage {
  const bytes = Buffer.allocUnsafe(size)
  let length = 0
  return {
    from: 0,
    async append(chunk) {
      length += chunk.copy(bytes, length)
    },
    async read(at, out) {
      return bytes.copy(out, 0, at, length)
    },
    async close() {},
  }
}

/** A window over the last bytes that arrived. */
export interface WindowStorage extends SpoolStorage {
  /** Bytes before this one are not wanted any more. Infinity: none are. */
  pass(at: number): void
}

/** Keeps at most about `limit` bytes: more are waited with until those before were passed. */
export function createWindowStorage(limit: number): WindowStorage {
  let parts: Buffer[] = []
  let from = 0
  let length = 0
  let passed = 0
  let closed = false
  let wake: (() => void) | undefined
  const drop = (): void => {
    while (parts[0] !== undefined && from + parts[0].length <= passed) {
      from += parts[0].length
      parts.shift()
    }
    if (length - Math.max(from, Math.min(passed, length)) < limit) wake?.()
  }
  return {
    get from() {
      return Math.max(from, Math.min(passed, length))
    },
    async append(chunk) {
      parts.push(Buffer.from(chunk))
      length += chunk.length
      drop()
      while (!closed && length - Math.max(from, passed) >= limit) {
        await new Promise<void>(resolve => (wake = resolve))
        wake = undefined
      }
    },
    async read(at, out) {
      let start = from
      for (const part of parts) {
        if (at < start + part.length) return part.copy(out, 0, at - start)
        start += part.length
      }
      throw new Error('read beyond the window')
    },
    pass(at) {
      passed = Math.max(passed, at)
      drop()
    },
    async close() {
      closed = true
      parts = []
      wake?.()
    },
  }
}

/** Bytes that a file system still takes from an ordinary user; 0 where it cannot be asked. */
export async function freeBytes(dir: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(dir)
    return bavail * bsize
  } catch {
    return 0
  }
}
