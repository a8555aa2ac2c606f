import { Command as Program, CommanderError } from 'commander'
import { createClient } from './client.ts'
import type { Context } from './command.ts'
import { EXIT, type ExitStatus } from './exit.ts'
import { createOutput, printError, type Io } from './output.ts'
import { loadSettings, type Settings } from './settings.ts'
import { COMMANDS, EPILOGUE, GLOBAL_OPTIONS, GROUPS, type CommandUsage } from './usage.ts'
import { version } from './version.ts'

const examplesOf = ({ examples }: CommandUsage): string =>
  `\nExamples:\n${examples.map(([command, about]) => `  # ${about}\n  ${command}\n`).join('')}`

/** Commander's words as this program's: `narwharf: unknown command 'statsu' (did you mean status?)`. */
function usageError(text: string): string {
  const [first = '', ...rest] = text.trim().split('\n')
  const what = first.replace(/^error: /, '')
  const suggestion = rest
    .join(' ')
    .trim()
    .replace(/^\((.*)\)$/, '$1')
  const hint = suggestion === '' ? 'narwharf --help lists commands and options' : suggestion
  return `narwharf: ${what} (${hint.charAt(0).toLowerCase()}${hint.slice(1)})\n`
}

function createContext(io: Io, options: Context['options'], args: readonly string[]): Context {
  let settings: Promise<Settings> | undefined
  const loadOnce = () => (settings ??= loadSettings(io, options))
  return {
    io,
    options,
    arguments: args,
    out: createOutput(io, options),
    settings: loadOnce,
    client: async () => createClient(await loadOnce()),
  }
}

/** The command under which others stand, such as `site`, made at the first of them. */
function groupOf(program: Program, name: string): Program {
  const made = program.commands.find(command => command.name() === name)
  return (
    made ??
    program
      .command(name)
      .description(GROUPS[name] ?? '')
      .helpCommand(false)
  )
}

function createProgram(io: Io, finish: (status: ExitStatus) => void): Program {
  const program = new Program('narwharf')
  const columns = io.stdout.columns ?? 80
  const output = {
    writeOut: (text: string) => void io.stdout.write(text),
    writeErr: (text: string) => void io.stderr.write(text),
    outputError: (text: string) => void io.stderr.write(usageError(text)),
    getOutHelpWidth: () => columns,
    getErrHelpWidth: () => columns,
  }
  program
    .description('A place without internet lives well on Nix: this host as a binary cache.')
    .version(version(), '--version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand('help [command]', 'print help for a command')
    .addHelpText('after', EPILOGUE)
    .configureOutput(output)
    .configureHelp({ showGlobalOptions: true })
    .exitOverride()
  for (const [flags, about] of GLOBAL_OPTIONS) program.option(flags, about)
  for (const usage of COMMANDS) {
    const [word = '', group] = usage.name.split(' ').reverse()
    const spelling = usage.arguments === undefined ? word : `${word} ${usage.arguments}`
    const parent = group === undefined ? program : groupOf(program, group)
    const command = parent.command(spelling).summary(usage.summary).description(usage.about)
    for (const [flags, about] of usage.options ?? []) command.option(flags, about)
    command.addHelpText('after', examplesOf(usage)).action(async () => {
      const context = createContext(io, command.optsWithGlobals(), command.args)
      const work = await usage.load()
      finish(await work(context))
    })
  }
  return program
}

/** Runs one command line (without `node` and the program's name); resolves to its exit status and never rejects. */
export async function run(argv: readonly string[], io: Io): Promise<ExitStatus> {
  let status: ExitStatus = EXIT.done
  const program = createProgram(io, result => {
    status = result
  })
  try {
    await program.parseAsync([...argv], { from: 'user' })
    return status
  } catch (error) {
    if (error instanceof CommanderError) {
      // Help that was asked for is no error; help because nothing was asked for is wrong usage.
      return error.code === 'commander.helpDisplayed' || error.code === 'commander.version'
        ? EXIT.done
        : error.code === 'commander.help' && argv[0] === 'help'
          ? EXIT.done
          : EXIT.usage
    }
    return printError(io, error)
  }
}
