import { chmodSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { dirname, join } from 'node:path'
import Database from 'better-sqlite3'
import { fail } from '../protocol/errors.ts'

/** The state directory, held by this process alone until released. */
export interface StateDir {
  readonly dir: string
  release(): void
}

/** Only the daemon's user reads it: the signing key lies in it. */
const STATE_DIR_MODE = 0o700

/** Whoever may open the socket may ask and, later, change things: the daemon's user and group. */
const SOCKET_MODE = 0o660

/**
 * Makes the state directory and takes it. The lock is an SQLite one, which the kernel drops with the process however it
 * ends, so no stale lock file can keep a daemon from starting. Throws STATE_DIR_BUSY.
 */
export function takeStateDir(dir: string): StateDir {
  mkdirSync(dir, { recursive: true, mode: STATE_DIR_MODE })
  const pidFile = join(dir, 'daemon.pid')
  const lock = new Database(join(dir, 'daemon.lock'), { timeout: 0 })
  try {
    lock.pragma('locking_mode = EXCLUSIVE')
    lock.pragma('journal_mode = MEMORY')
    lock.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    lock.close()
    let pid = 'unknown'
    try {
      pid = readFileSync(pidFile, 'utf8').trim()
    } catch {
      // The other one has not written it yet.
    }
    return fail('STATE_DIR_BUSY', { dir, pid }, error)
  }
  writeFileSync(pidFile, `${process.pid}\n`)
  let held = true
  return {
    dir,
    release() {
      if (!held) return
      held = false
      try {
        unlinkSync(pidFile)
      } catch {
        // Somebody tidied up before us.
      }
      lock.close()
    },
  }
}

/** Whether somebody answers on a Unix socket. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = createConnection(socketPath)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/** Clears the way for the control socket: a dead one of an earlier run goes, a living one is another daemon's (STATE_DIR_BUSY). */
export async function clearSocket(socketPath: string): Promise<void> {
  mkdirSync(dirname(socketPath), { recursive: true, mode: 0o755 })
  if (await answers(socketPath)) fail('STATE_DIR_BUSY', { dir: socketPath, pid: 'unknown' })
  try {
    unlinkSync(socketPath)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

/** Lets the daemon's group use the socket. */
export function shareSocket(socketPath: string): void {
  chmodSync(socketPath, SOCKET_MODE)
}
