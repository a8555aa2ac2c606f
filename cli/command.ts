import type { Client } from './client.ts'
import type { ExitStatus } from './exit.ts'
import type { GlobalOptions, Io, Output } from './output.ts'
import type { Settings } from './settings.ts'

/** What a command is given. */
export interface Context {
  readonly io: Io
  readonly out: Output
  readonly options: GlobalOptions & Readonly<Record<string, unknown>>
  readonly arguments: readonly string[]
  /** The configuration; throws CONFIG_INVALID. Read when first asked for. */
  settings(): Promise<Settings>
  client(): Promise<Client>
}

/** A command's work; what it throws becomes one line on stderr. */
export type Command = (context: Context) => Promise<ExitStatus>
