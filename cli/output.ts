import type { Readable, Writable } from 'node:stream'
import { createColors } from 'picocolors'
import { EXIT, CommandError, type ExitStatus } from './exit.ts'
import { printable } from './format.ts'

/** What a command talks to: the process's own streams, or a test's. */
export interface Io {
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number }
  readonly stderr: Writable & { readonly isTTY?: boolean }
  /** What is typed or piped in, for commands that read a secret. */
  readonly stdin?: Readable & { readonly isTTY?: boolean }
  readonly env: NodeJS.ProcessEnv
  /** How the user calls this program, for commands shown in hints. */
  readonly program: string
}

/** Options that every command has. */
export interface GlobalOptions {
  readonly config?: string
  readonly stateDir?: string
  readonly json?: boolean
  readonly quiet?: boolean
  /** Commander's form of `--no-color`. */
  readonly color?: boolean
}

/** Where a command writes: results to stdout, everything said about them to stderr. */
export interface Output {
  readonly asJson: boolean
  /** Only results and errors are wanted. */
  readonly quiet: boolean
  /** Columns to fit in; Infinity where no terminal reads. */
  readonly width: number
  readonly colors: ReturnType<typeof createColors>
  /** The result as JSON, whole, one document. */
  json(value: unknown): void
  /** Lines of the result for a person. */
  print(...lines: readonly string[]): void
  /** A word about the result, kept back by `--quiet`. */
  note(line: string): void
}

/** Picks how to write, by the options, the terminal and https://no-color.org. */
export function createOutput(io: Io, options: GlobalOptions): Output {
  const { NO_COLOR, COLUMNS } = io.env
  const color = options.color !== false && io.stdout.isTTY === true && !NO_COLOR
  const columns = Number(COLUMNS) > 0 ? Number(COLUMNS) : io.stdout.columns
  return {
    asJson: options.json === true,
    quiet: options.quiet === true,
    width: columns ?? Infinity,
    colors: createColors(color),
    json: value => void io.stdout.write(`${JSON.stringify(value, null, 2)}\n`),
    print: (...lines) => void io.stdout.write(lines.map(line => `${line}\n`).join('')),
    note: line => {
      if (options.quiet !== true) io.stderr.write(`${line}\n`)
    },
  }
}

/** A caught error of any kind as its line, `narwharf: what happened (what to do)`, and the exit status. */
export function describeError(error: unknown): { line: string; status: ExitStatus } {
  const { message, hint } = error as { readonly message?: unknown; readonly hint?: unknown }
  const what = printable(typeof message === 'string' ? message : String(error))
  const status = error instanceof CommandError ? error.status : EXIT.failed
  const todo =
    typeof hint === 'string' ? hint : 'set NARWHARF_DEBUG=1 and run it again to see where'
  return { line: `narwharf: ${what} (${printable(todo)})`, status }
}

/** Prints an error, with its stack only for NARWHARF_DEBUG; returns the exit status. */
export function printError(io: Io, error: unknown): ExitStatus {
  const { line, status } = describeError(error)
  io.stderr.write(`${line}\n`)
  if (io.env.NARWHARF_DEBUG && error instanceof Error) {
    io.stderr.write(`${error.stack ?? ''}\n`)
    if (error.cause instanceof Error) io.stderr.write(`caused by ${error.cause.stack ?? ''}\n`)
  }
  return status
}
