import { closeSync, openSync, readSync } from 'node:fs'
import { MOUNT_TABLE_MAX_BYTES, parseMountTable, type Mount } from './mount-table.ts'

// The kernel tells of a change of the mount table through poll(2) with POLLPRI on an open /proc/self/mountinfo, which Node
// cannot wait for: libuv asks for readability alone (always so, for a file of /proc), and inotify is silent about mounts. So the
// table is read again and again: it is the kernel's memory, no disk, and some 50 µs where 30 file systems are mounted.

const MOUNT_TABLE = '/proc/self/mountinfo'

/** How often it is read, ms: with what follows, a drive is noticed within 2 s. */
const READ_MS = 700

/** After a read, so many times as long is rested: a table of thousands of mounts costs no more than a thousandth of a core. */
const REST_FACTOR = 1000

/** But no longer than this, ms. */
const REST_MAX_MS = 1500

/** Bytes of the first buffer: the table of a desktop. */
const BUFFER_BYTES = 16 * 1024

export interface MountWatchOptions {
  /** Gives the table; default: the kernel's, of this process's own mount namespace. */
  readonly readTable?: (() => Buffer) | undefined
  readonly readMs?: number | undefined
  /** Told of the whole table at first, and whenever it changed. */
  readonly onTable: (mounts: readonly Mount[]) => void
}

export interface MountWatch {
  /** Reads at once, and from then on. */
  open(): void
  close(): void
  /** Reads now. */
  look(): void
}

let buffer = Buffer.alloc(BUFFER_BYTES)

/** The kernel's mount table as it is now; as good as empty where there is none (no /proc). */
export function readMountTable(): Buffer {
  let fd: number | undefined
  try {
    fd = openSync(MOUNT_TABLE, 'r')
    let length = 0
    for (;;) {
      if (length === buffer.length) {
        if (length >= MOUNT_TABLE_MAX_BYTES) break
        buffer = Buffer.concat([buffer, Buffer.alloc(length)])
      }
      const count = readSync(fd, buffer, length, buffer.length - length, length)
      if (count === 0) break
      length += count
    }
    return buffer.subarray(0, length)
  } catch {
    return Buffer.alloc(0)
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

/** Watches the mount table. */
export function createMountWatch(options: MountWatchOptions): MountWatch {
  const { readTable = readMountTable, readMs = READ_MS, onTable } = options
  let timer: NodeJS.Timeout | undefined
  let last: Buffer | undefined
  let isOpen = false

  const look = (): void => {
    const table = readTable()
    if (last?.equals(table) === true) return
    last = Buffer.from(table)
    onTable(parseMountTable(last.toString('utf8')))
  }
  const tick = (): void => {
    const start = performance.now()
    look()
    if (!isOpen) return
    const rest = Math.min(REST_MAX_MS, (performance.now() - start) * REST_FACTOR)
    timer = setTimeout(tick, Math.max(readMs, rest)).unref()
  }

  return {
    open() {
      if (isOpen) return
      isOpen = true
      tick()
    },
    close() {
      isOpen = false
      clearTimeout(timer)
      last = undefined
    },
    look,
  }
}
