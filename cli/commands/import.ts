import { createReadStream, existsSync } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Readable } from 'node:stream'
import type { ImportEvent, ImportProof } from '../../protocol/api-archives.ts'
import { createArchiveClient, type SideFile } from '../archive-client.ts'
import type { Command, Context } from '../command.ts'
import { CommandError, EXIT, type ExitStatus } from '../exit.ts'
import { describeProgress } from '../follow-job.ts'
import { formatSize, plural, printable } from '../format.ts'
import type { Io, Output } from '../output.ts'
import { formatTable } from '../table.ts'

/** Bytes read from the archive at a time. */
const READ_BYTES = 1024 * 1024

/** What stands behind an archive's name for the file with its signatures. */
export const SIGNATURES_SUFFIX = '.signatures'

type Of<E extends ImportEvent['event']> = Extract<ImportEvent, { event: E }>

/** What came of the archive, as `--json` prints it. */
interface Result {
  readonly accepted: Omit<Of<'accepted'>, 'event'>[]
  readonly there: Omit<Of<'there'>, 'event'>[]
  readonly refused: Omit<Of<'refused'>, 'event'>[]
  narBytes: number
  error?: Of<'failed'>['error']
}

const cannotRead = (file: string, error: unknown): CommandError =>
  new CommandError(
    `${file} cannot be read: ${(error as Error).message}`,
    'give an archive of nix-store --export or narwharf export, or - for standard input',
    EXIT.failed,
    error,
  )

/** A file as a stream, and its size where it has one. */
async function openFile(file: string): Promise<{ stream: Readable; size: number | undefined }> {
  try {
    const facts = await stat(file)
    if (facts.isDirectory()) throw new Error('it is a directory')
    const handle = await open(file)
    const stream = createReadStream(file, { fd: handle, highWaterMark: READ_BYTES })
    return { stream, size: facts.isFile() ? facts.size : undefined }
  } catch (error) {
    throw cannotRead(file, error)
  }
}

/** The file with the signatures: the one that is named, or the one beside the archive. */
async function openSide(file: string, given: unknown): Promise<SideFile | undefined> {
  const beside = `${file}${SIGNATURES_SUFFIX}`
  const side = typeof given === 'string' ? given : existsSync(beside) ? beside : undefined
  if (given === false || side === undefined) return undefined
  const size = (await stat(side).catch((error: unknown) => Promise.reject(cannotRead(side, error))))
    .size
  return { stream: createReadStream(side, size === 0 ? {} : { end: size - 1 }), size }
}

/** `--trust` alone vouches for all. Commander gives it what follows: where nothing else was given, the last word is the archive. */
function readWords({ arguments: [first], options }: Context): { file: string; trust: string[] } {
  const given = options.trust
  const words = Array.isArray(given) ? (given as string[]) : []
  const file = first ?? words.pop()
  if (file === undefined) {
    throw new CommandError('no archive was given', 'narwharf help import', EXIT.usage)
  }
  const all = given !== undefined && words.length === 0
  return { file, trust: all ? ['*'] : words }
}

/** Why a path was accepted, in a few words. */
function proofText(proof: ImportProof): string {
  switch (proof.how) {
    case 'signed':
      return `signed by ${proof.key}`
    case 'content-addressed':
      return 'content-addressed'
    case 'known':
      return `the same as in ${proof.holder}`
    case 'trusted':
      return 'trusted by you'
  }
}

function printTable(out: Output, { accepted, there, refused }: Result): void {
  const kinds = new Map<string, { paths: number; bytes: number }>()
  for (const { proof, narSize } of accepted) {
    const kind = proofText(proof)
    const { paths, bytes } = kinds.get(kind) ?? { paths: 0, bytes: 0 }
    kinds.set(kind, { paths: paths + 1, bytes: bytes + narSize })
  }
  const differing = there.filter(({ differs }) => differs).length
  const rows = [
    ...[...kinds].map(([kind, { paths, bytes }]) => [
      ...['accepted', printable(kind), String(paths), formatSize(bytes)],
    ]),
    ...(there.length > differing
      ? [['there already', '', String(there.length - differing), '']]
      : []),
    ...(differing > 0
      ? [['there already', 'with another content, which stays', String(differing), '']]
      : []),
    ...(refused.length > 0 ? [['refused', '', String(refused.length), '']] : []),
  ]
  if (rows.length === 0) out.print('the archive has no path')
  else
    out.print(
      formatTable(rows, {
        head: ['RESULT', 'WHY', 'PATHS', 'SIZE'],
        right: [2, 3],
        width: out.width,
      }),
    )
}

/** On a terminal one line that changes. */
function createProgress(io: Io, out: Output, totalBytes: number | undefined) {
  const drawn = io.stderr.isTTY === true && !out.asJson && !out.quiet
  let line = ''
  const clear = (): void => {
    if (line !== '') io.stderr.write(`\r${' '.repeat(line.length)}\r`)
    line = ''
  }
  return {
    clear,
    show(done: number, bytes: number): void {
      if (!drawn) return
      const next = describeProgress({ done, bytes, totalBytes })
      io.stderr.write(`\r${next.padEnd(line.length)}`)
      line = next
    },
  }
}

function exitOf({ accepted, there, refused, error }: Result): ExitStatus {
  if (refused.length === 0 && error === undefined) return EXIT.done
  return accepted.length + there.length === 0 ? EXIT.failed : EXIT.partly
}

/** `narwharf import FILE|-`: takes an archive of nix-store --export into this host's cache. */
export const importArchive: Command = async context => {
  const { io, out, options, settings } = context
  const { file, trust } = readWords(context)
  const client = createArchiveClient(await settings())
  const fromStdin = file === '-'
  if (fromStdin && io.stdin === undefined)
    throw cannotRead('standard input', new Error('it is closed'))
  const signatures = await openSide(file, options.signatures)
  const { stream, size } =
    fromStdin && io.stdin !== undefined
      ? { stream: io.stdin, size: undefined }
      : await openFile(file)
  const result: Result = { accepted: [], there: [], refused: [], narBytes: 0 }
  const progress = createProgress(io, out, size)
  const say = (line: string): void => {
    progress.clear()
    if (!out.asJson) out.note(line)
  }
  const title = fromStdin ? 'standard input' : resolve(file)
  const onEvent = (event: ImportEvent): void => {
    switch (event.event) {
      case 'progress': {
        const done = result.accepted.length + result.there.length + result.refused.length
        return progress.show(done, event.bytes)
      }
      case 'accepted': {
        const { storePath, narSize, proof } = event
        result.accepted.push({ storePath, narSize, proof })
        result.narBytes += narSize
        return say(
          `${printable(storePath)}  ${formatSize(narSize)}  ${printable(proofText(proof))}`,
        )
      }
      case 'there':
        return void result.there.push({ storePath: event.storePath, differs: event.differs })
      case 'refused':
        return void result.refused.push({ storePath: event.storePath, problem: event.problem })
      case 'failed':
        result.error = event.error
        return
      default:
    }
  }
  try {
    await client.importArchive({ title, size, trust }, stream, signatures, onEvent)
  } finally {
    progress.clear()
  }
  report(io, out, result)
  return exitOf(result)
}

function report(io: Io, out: Output, result: Result): void {
  if (out.asJson) out.json(result)
  else if (result.error === undefined || result.accepted.length + result.there.length > 0) {
    printTable(out, result)
  }
  for (const { storePath, problem } of result.refused) {
    io.stderr.write(`narwharf: ${printable(storePath)}: ${printable(problem)}\n`)
  }
  if (result.refused.length > 0) {
    out.note(
      `${plural(result.refused.length, 'path')} refused: give the signatures (--signatures), trust the key (trust.publicKeys), or vouch for what you know (--trust NAME)`,
    )
  }
  const { error } = result
  if (error !== undefined)
    io.stderr.write(`narwharf: ${printable(error.message)} (${printable(error.hint)})\n`)
}
