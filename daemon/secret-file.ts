import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  fchmodSync,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import type { Problem } from '../protocol/api.ts'
import { problemOf } from '../protocol/errors.ts'

// Small files that must never be half-written, and secrets that nobody else may read. Synchronous: they are read at the
// start and written a few times in a host's life, and what they say must not be acted on before it is on the disk.

/** Only the daemon's user reads a secret. */
export const SECRET_MODE = 0o600

const isCode = (error: unknown, code: string): boolean =>
  (error as NodeJS.ErrnoException).code === code

/** How a new file takes its name: over the old one, or only where there is none. */
export type Placing = 'replace' | 'if-absent'

/** Makes the directory's own entry durable, or a power cut could bring the old name back. */
function syncDirectory(directory: string): void {
  const handle = openSync(directory, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}

/**
 * Writes a whole file under another name first, so that after a kill or a power cut there is the old content, the new, or
 * none. `if-absent` leaves a file alone that somebody else made meanwhile. Throws what the file system throws.
 */
export function writeWhole(
  file: string,
  content: string | Uint8Array,
  mode: number,
  placing: Placing = 'replace',
): void {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`
  try {
    const handle = openSync(temporary, 'wx', mode)
    try {
      writeFileSync(handle, content)
      // The umask may have taken bits away, never more than asked for.
      fchmodSync(handle, mode)
      fsyncSync(handle)
    } finally {
      closeSync(handle)
    }
    if (placing === 'replace') {
      renameSync(temporary, file)
    } else {
      try {
        // Unlike a rename, a link does not replace the file that another process made in this moment.
        linkSync(temporary, file)
      } catch (error) {
        if (!isCode(error, 'EEXIST')) throw error
      }
    }
  } finally {
    rmSync(temporary, { force: true })
  }
  syncDirectory(dirname(file))
}

/**
 * The file's bytes, or undefined where there is none. Throws what the file system throws, and an Error for a file larger
 * than `limitBytes`, which is not read.
 */
export function readSmallFile(file: string, limitBytes: number): Buffer | undefined {
  let handle
  try {
    handle = openSync(file, 'r')
  } catch (error) {
    if (isCode(error, 'ENOENT')) return undefined
    throw error
  }
  try {
    const { size } = fstatSync(handle)
    if (size > limitBytes) throw new Error(`${size} bytes is too large, at most ${limitBytes}`)
    return readFileSync(handle)
  } finally {
    closeSync(handle)
  }
}

/** Removes a file for good; one that is not there is fine. */
export function removeFile(file: string): void {
  rmSync(file, { force: true })
  syncDirectory(dirname(file))
}

/**
 * Takes a secret away from others' eyes; one that cannot be changed (a read-only mount) is only told of. `name` is what the
 * secret is, `consequence` what whoever may have read it can do.
 */
export function mendMode(file: string, name: string, consequence: string): Problem | undefined {
  const { mode } = statSync(file)
  if ((mode & 0o077) === 0) return undefined
  const was = (mode & 0o777).toString(8).padStart(4, '0')
  try {
    chmodSync(file, SECRET_MODE)
    return {
      what: `the ${name} ${file} could be read by others (mode ${was}); now it cannot`,
      hint: consequence,
    }
  } catch (error) {
    return {
      what: `the ${name} ${file} can be read by others (mode ${was}): ${problemOf(error)}`,
      hint: `chmod 600 ${file}; ${consequence}`,
    }
  }
}

/** Removes what a kill in the middle of {@link writeWhole} left beside those files. */
export function sweepTemporary(directory: string, names: readonly string[]): void {
  for (const entry of readdirSync(directory)) {
    const [, name] = /^(.+)\.[0-9a-f]{12}\.tmp$/.exec(entry) ?? []
    if (name !== undefined && names.includes(name)) rmSync(join(directory, entry), { force: true })
  }
}
