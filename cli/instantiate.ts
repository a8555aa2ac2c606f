import { spawn } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { CommandError, EXIT } from './exit.ts'
import { printable } from './format.ts'
import type { Io } from './output.ts'

// Expressions are evaluated here, as the user: the daemon never runs what somebody wrote.

/** An expression as the options say it; undefined where none was given. */
export interface Expression {
  readonly program: 'nix-instantiate' | 'nix'
  readonly args: readonly string[]
  /** By which people know it. */
  readonly name: string
}

/** Characters of what is printed by an evaluation: thousands of derivations. */
const OUTPUT_MAX_CHARACTERS = 16 * 1024 * 1024

/** Lines of its complaint that are passed on. */
const COMPLAINT_LINES = 5

const DERIVATION = /^(?<path>\/\S+\.drv)(?:!(?<name>\S+))?$/

const usage = (what: string, hint: string): never => {
  throw new CommandError(what, hint, EXIT.usage)
}

function nixosOf(text: string): Expression {
  const [folder = '', host = hostname()] = text.split('#')
  const path = resolve(folder)
  if (!existsSync(path)) usage(`${printable(text)} is not there`, 'name a file or folder')
  const isFolder = statSync(path).isDirectory()
  if (isFolder && existsSync(join(path, 'flake.nix'))) {
    const attribute = `nixosConfigurations."${host}".config.system.build.toplevel.drvPath`
    const features = ['--extra-experimental-features', 'nix-command flakes']
    return {
      program: 'nix',
      args: [...features, 'eval', '--raw', `${path}#${attribute}`],
      name: `${path}#${host}`,
    }
  }
  const file = isFolder ? join(path, 'configuration.nix') : path
  return {
    program: 'nix-instantiate',
    args: ['<nixpkgs/nixos>', '-A', 'system', '--arg', 'configuration', file],
    name: file,
  }
}

/** Reads the options `file`, `expr`, `attr` and `nixos`. Throws CommandError for some that do not go together. */
export function expressionOf(options: Readonly<Record<string, unknown>>): Expression | undefined {
  const text = (name: string): string | undefined =>
    typeof options[name] === 'string' ? options[name] : undefined
  const [file, expr, attr, nixos] = ['file', 'expr', 'attr', 'nixos'].map(text)
  const given = [file, expr, nixos].filter(one => one !== undefined)
  if (given.length > 1) {
    usage('more than one expression was given', 'give one of --file, --expr and --nixos')
  }
  if (nixos !== undefined) return nixosOf(nixos)
  const attributes = (attr ?? '').split(',').filter(one => one !== '')
  const flags = attributes.flatMap(one => ['-A', one])
  const suffix = attributes.length === 0 ? '' : ` -A ${attributes.join(' -A ')}`
  if (file !== undefined) {
    const where = file.startsWith('<') ? file : resolve(file)
    return { program: 'nix-instantiate', args: [where, ...flags], name: `${where}${suffix}` }
  }
  if (expr !== undefined) {
    return { program: 'nix-instantiate', args: ['-E', expr, ...flags], name: `${expr}${suffix}` }
  }
  if (attr !== undefined) usage('--attr without an expression', 'give --file or --expr as well')
  return undefined
}

/** The derivations of an expression, outputs named as `x.drv!out`. Rejects with a CommandError that has Nix's complaint. */
export async function instantiate({ program, args, name }: Expression, io: Io): Promise<string[]> {
  const { code, stdout, stderr } = await run(program, args, io)
  if (code !== 0) {
    const lines = stderr.trim().split('\n').slice(-COMPLAINT_LINES)
    throw new CommandError(
      `${printable(name)} cannot be evaluated: ${printable(lines.join(' ').trim())}`,
      `run it yourself to see all: ${program} ${args.join(' ')}`,
    )
  }
  const derivations = stdout
    .split('\n')
    .map(line => DERIVATION.exec(line.trim())?.groups)
    .flatMap(found =>
      found === undefined
        ? []
        : [`${found.path}${found.name === undefined ? '' : `!${found.name}`}`],
    )
  if (derivations.length > 0) return derivations
  throw new CommandError(`${printable(name)} has no derivation`, 'name an attribute: -A hello')
}

function run(
  program: string,
  args: readonly string[],
  io: Io,
): Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }> {
  return new Promise((done, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: io.env })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
      if (stdout.length > OUTPUT_MAX_CHARACTERS) child.kill()
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-OUTPUT_MAX_CHARACTERS / 16)
    })
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'ENOENT'
          ? new CommandError(
              `${program} is not installed here`,
              'evaluate it on a host with Nix and give the .drv instead',
            )
          : error,
      ),
    )
    child.once('close', code => done({ code, stdout, stderr }))
  })
}
