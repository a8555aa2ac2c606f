import { execFile } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'

// The programs that make a drive safe to unplug. Their arguments are fixed but for the mount point, which is absolute and comes
// from the kernel; no shell is between.

/** A stick of 10 MB/s with a full write cache of some GB takes minutes, ms. */
const SYNC_MS = 10 * 60_000

/** Unmounting writes what is left, ms. */
const UNMOUNT_MS = 2 * 60_000

/** A file system that is busy is tried again so often, ms between. */
const BUSY_TRIES = 12
const BUSY_MS = 250

/** Runs one program; resolves to why it failed, or undefined. */
export type RunProgram = (
  program: string,
  args: readonly string[],
  timeoutMs: number,
) => Promise<string | undefined>

export const runProgram: RunProgram = (program, args, timeoutMs) =>
  new Promise(resolve => {
    const options = { timeout: timeoutMs, env: { ...process.env, LC_ALL: 'C' } }
    execFile(program, [...args], options, (error, _, stderr) => {
      if (error === null) return resolve(undefined)
      const said = stderr.trim().split('\n').at(-1) ?? ''
      resolve(said === '' ? error.message : said)
    })
  })

export interface UnmountRequest {
  readonly mountPoint: string
  /** The device, where it is one. */
  readonly source: string
}

/** Writes what waits to the file system; resolves to why it could not. */
export const flush = (mountPoint: string, run: RunProgram = runProgram) =>
  run('sync', ['-f', mountPoint], SYNC_MS)

/** This process's own files are closed a moment after it is told to let go of them. */
async function unmountHere(mountPoint: string, run: RunProgram): Promise<string | undefined> {
  for (let n = 1; ; n++) {
    const problem = await run('umount', [mountPoint], UNMOUNT_MS)
    if (problem === undefined || !problem.includes('busy') || n === BUSY_TRIES) return problem
    await wait(BUSY_MS)
  }
}

/** Unmounts by whichever way is allowed; resolves to why none is. */
export async function unmount(
  { mountPoint, source }: UnmountRequest,
  run: RunProgram = runProgram,
): Promise<string | undefined> {
  const problem = await unmountHere(mountPoint, run)
  if (problem === undefined || !source.startsWith('/dev/')) return problem
  // Where a desktop mounted it for its user, udisks lets that user's programs unmount it.
  const other = await run(
    'udisksctl',
    ['unmount', '--no-user-interaction', '--block-device', source],
    UNMOUNT_MS,
  )
  return other === undefined ? undefined : problem
}
