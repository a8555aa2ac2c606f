import { constants } from 'node:fs'
import { fail, isNarwharfError } from '../../protocol/errors.ts'

/**
 * How files are opened for reading: a name that has become a symlink is not followed out of its tree, one that has become
 * a FIFO does not hang the thread.
 */
export const READ_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** Failures that mean: what was there is not there any more, or is something else now. */
const VANISHED: ReadonlySet<unknown> = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'ESTALE'])

/**
 * Throws what a failed file system call on `path` means: HOLDING_GONE where it went away, HOLDER_UNREADABLE otherwise
 * (permissions, descriptors, disk). Errors that are narwharf's already pass.
 */
export function failedOn(path: string, error: unknown): never {
  if (isNarwharfError(error)) throw error
  const { code, message } = error as NodeJS.ErrnoException
  if (VANISHED.has(code)) return fail('HOLDING_GONE', { path, holder: 'this host' }, error)
  return fail('HOLDER_UNREADABLE', { holder: path, problem: code ?? message }, error)
}
