import { rmSync } from 'node:fs'
import { open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import type { Writable } from 'node:stream'
import type { ExportEvent } from '../../protocol/api-archives.ts'
import { createArchiveClient } from '../archive-client.ts'
import type { Command } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { formatSize, plural, printable } from '../format.ts'
import { SIGNATURES_SUFFIX } from './import.ts'

type Of<E extends ExportEvent['event']> = Extract<ExportEvent, { event: E }>

/** Where an archive goes. Nothing stands under its name before it is whole. */
interface Target {
  write(bytes: Buffer): Promise<void>
  /** It is whole. */
  finish(): Promise<void>
  /** Removes what is not. */
  abandon(): Promise<void>
}

const UNFINISHED = '.narwharf-unfinished-'

const cannotWrite = (file: string, error: unknown): CommandError =>
  error instanceof CommandError
    ? error
    : new CommandError(
        `${file} cannot be written: ${(error as Error).message}`,
        'check that its directory exists, that you may write there, and that space is left',
        EXIT.failed,
        error,
      )

const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Removes what exports of that file left that were killed. */
async function removeLeft(dir: string, prefix: string): Promise<void> {
  for (const name of await readdir(dir)) {
    const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : NaN
    if (Number.isInteger(pid) && !isRunning(pid)) await rm(join(dir, name), { force: true })
  }
}

/** A file that appears under its name when it is whole and on the disk. */
async function createFileTarget(file: string): Promise<Target> {
  const [dir, name] = [dirname(resolve(file)), basename(file)]
  const prefix = `.${name}${UNFINISHED}`
  const unfinished = join(dir, `${prefix}${process.pid}`)
  let handle: FileHandle
  try {
    await removeLeft(dir, prefix)
    handle = await open(unfinished, 'w', 0o644)
  } catch (error) {
    throw cannotWrite(file, error)
  }
  const onSignal = (signal: NodeJS.Signals): void => {
    rmSync(unfinished, { force: true })
    process.off(signal, onSignal)
    process.kill(process.pid, signal)
  }
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, onSignal)
  let open_ = true
  const close = async (): Promise<void> => {
    if (!open_) return
    open_ = false
    await handle.close()
    for (const signal of signals) process.off(signal, onSignal)
  }
  const guarded = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work()
    } catch (error) {
      throw cannotWrite(file, error)
    }
  }
  return {
    write: bytes =>
      guarded(async () => {
        for (let at = 0; at < bytes.length;) {
          at += (await handle.write(bytes, at, bytes.length - at)).bytesWritten
        }
      }),
    finish: () =>
      guarded(async () => {
        await handle.sync()
        await rename(unfinished, file)
        await close()
      }),
    async abandon() {
      if (!open_) return
      await rm(unfinished, { force: true })
      await close()
    },
  }
}

/** Standard output, which cannot be taken back: what it got is cut short if the export fails, and no Nix imports the last of it. */
const createStreamTarget = (stream: Writable): Target => ({
  write: bytes =>
    new Promise((resolve_, reject) => {
      stream.write(bytes, error => {
        if (error) reject(cannotWrite('standard output', error))
        else resolve_()
      })
    }),
  async finish() {},
  async abandon() {},
})

function targetsOf(output: unknown, signatures: unknown) {
  if (typeof output !== 'string' || output === '') {
    throw new CommandError(
      'no file was given for the archive',
      'say -o FILE, or -o - for standard output',
      EXIT.usage,
    )
  }
  const file = output === '-' ? undefined : output
  const beside = file === undefined ? undefined : `${file}${SIGNATURES_SUFFIX}`
  const side =
    typeof signatures === 'string' ? signatures : signatures === false ? undefined : beside
  return { file, side }
}

/** `narwharf export PATH... -o FILE`: writes an archive that nix-store --import reads. */
export const exportPaths: Command = async ({ io, out, options, arguments: paths, settings }) => {
  const { file, side } = targetsOf(options.output, options.signatures)
  if (file === undefined && io.stdout.isTTY === true) {
    throw new CommandError(
      'an archive is nothing for a terminal',
      'say -o FILE, or send it on with |',
      EXIT.usage,
    )
  }
  const client = createArchiveClient(await settings())
  const archive = file === undefined ? createStreamTarget(io.stdout) : await createFileTarget(file)
  const sideFile = side === undefined ? undefined : await createFileTarget(side)
  const missing: Omit<Of<'missing'>, 'event'>[] = []
  let ended: Of<'end'> | undefined
  let done = 0
  let total = 0
  const onEvent = async (event: ExportEvent): Promise<void> => {
    switch (event.event) {
      case 'start':
        total = event.paths
        return
      case 'missing':
        missing.push({ storePath: event.storePath, problem: event.problem })
        return
      case 'exported': {
        const { storePath, narSize, line } = event
        if (line !== undefined) await sideFile?.write(Buffer.from(line))
        if (!out.asJson)
          out.note(`${printable(storePath)}  ${formatSize(narSize)}  (${++done} of ${total})`)
        return
      }
      case 'end':
        ended = event
        return
      case 'failed':
        throw new CommandError(event.error.message, event.error.hint)
    }
  }
  try {
    await client.exportPaths(
      { paths, closure: options.closure === true, signatures: side !== undefined },
      bytes => archive.write(bytes),
      onEvent,
    )
    if (ended === undefined) {
      throw new CommandError(
        'the daemon broke off',
        'nothing was written under the archive’s name; run it again',
      )
    }
    if (ended.exported > 0 || missing.length === 0) {
      // The archive last: where it is, its signatures are.
      await sideFile?.finish()
      await archive.finish()
    }
  } finally {
    await sideFile?.abandon()
    await archive.abandon()
  }
  const { exported, narBytes, outside, outsideCount } = ended
  const result = { exported, narBytes, missing, outside, outsideCount, file, signatures: side }
  // Standard output has the archive where it goes there.
  const summary = `exported ${plural(exported, 'path')}, ${formatSize(narBytes)}`
  if (file === undefined) out.note(summary)
  else if (out.asJson) out.json(result)
  else out.print(summary)
  if (outsideCount > 0) {
    out.note(
      `the archive does not have all that its paths refer to: who imports it needs ${plural(outsideCount, 'path')} more, such as ${outside[0] ?? ''} (--closure exports them too)`,
    )
  }
  for (const { storePath, problem } of missing) {
    io.stderr.write(`narwharf: ${printable(storePath)}: ${printable(problem)}\n`)
  }
  if (missing.length === 0) return EXIT.done
  return exported === 0 ? EXIT.failed : EXIT.partly
}
