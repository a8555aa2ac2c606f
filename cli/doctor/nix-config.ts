import { execFile } from 'node:child_process'
import { readFile, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'

// What Nix on this machine is configured to do: as Nix itself says, or read from its files where it cannot be asked.

/** The settings that matter to a substituter; lists in Nix's own order. */
export interface NixSettings {
  readonly substituters: readonly string[]
  readonly trustedPublicKeys: readonly string[]
  readonly negativeTtlSeconds: number
  readonly substitute: boolean
  /** Where it was learnt. */
  readonly source: string
}

/** Nix's own default of narinfo-cache-negative-ttl. */
const NEGATIVE_TTL_DEFAULT_SECONDS = 3600

/** Nix answers in 50 ms; one that takes longer hangs on something this check is not about. */
const NIX_TIMEOUT_MS = 10_000

const FLAGS = ['--extra-experimental-features', 'nix-command']

/** `show-config` up to 2.19, `config show` from 2.20 on. */
const QUESTIONS = [
  ['show-config', '--json'],
  ['config', 'show', '--json'],
]

const execute = promisify(execFile)

interface ShownSetting {
  readonly value?: unknown
}

const strings = (value: unknown): string[] =>
  Array.isArray(value) ? value.filter(one => typeof one === 'string') : []

function fromShown(shown: Readonly<Record<string, ShownSetting | undefined>>): NixSettings {
  const value = (name: string): unknown => shown[name]?.value
  const ttl = value('narinfo-cache-negative-ttl')
  return {
    substituters: strings(value('substituters')),
    trustedPublicKeys: strings(value('trusted-public-keys')),
    negativeTtlSeconds: typeof ttl === 'number' ? ttl : NEGATIVE_TTL_DEFAULT_SECONDS,
    substitute: value('substitute') !== false,
    source: 'nix show-config',
  }
}

/** Asks Nix; undefined when there is none or it does not answer. */
async function askNix(env: NodeJS.ProcessEnv): Promise<NixSettings | undefined> {
  for (const question of QUESTIONS) {
    try {
      const { stdout } = await execute('nix', [...FLAGS, ...question], {
        env,
        timeout: NIX_TIMEOUT_MS,
        maxBuffer: 1 << 24,
      })
      return fromShown(JSON.parse(stdout) as Record<string, ShownSetting>)
    } catch {
      // The next question, or the files.
    }
  }
  return undefined
}

/** Includes deeper than this are a loop. */
const INCLUDE_DEPTH_LIMIT = 16

type Settings = Map<string, string>

/** Settings that an `extra-` line adds to. */
const isList = (name: string): boolean => /^(?:trusted-)?(?:substituters|public-keys)$/.test(name)

/** Reads one nix.conf after Nix's grammar: `name = value`, `include file`, `!include file`, comments (src/libutil/config.cc). */
async function readInto(settings: Settings, file: string, depth: number): Promise<boolean> {
  if (depth > INCLUDE_DEPTH_LIMIT) return false
  let text
  try {
    text = await readFile(file, 'utf8')
  } catch {
    return false
  }
  for (const line of text.split('\n')) {
    const words = line
      .replace(/#.*$/, '')
      .split(/[ \t\n\r]+/)
      .filter(word => word !== '')
    const [first = '', second = '', ...rest] = words
    if (first === 'include' || first === '!include') {
      await readInto(settings, resolve(dirname(file), second), depth + 1)
    } else if (second === '=') {
      const base = first.replace(/^extra-/, '')
      const added = first !== base && isList(base)
      const value = [...(added ? [settings.get(base) ?? ''] : []), ...rest].join(' ')
      settings.set(ALIASES[base] ?? base, value.trim())
    }
  }
  return true
}

/** Old names that Nix still takes. */
const ALIASES: Readonly<Record<string, string>> = {
  'binary-caches': 'substituters',
  'binary-cache-public-keys': 'trusted-public-keys',
}

/** The files in the order in which Nix reads them, later ones being stronger (nix.conf(5)). */
function configFiles(env: NodeJS.ProcessEnv): { system: string; user: string[] } {
  const home = env.HOME ?? '/'
  const configDirs = [
    env.XDG_CONFIG_HOME || join(home, '.config'),
    ...(env.XDG_CONFIG_DIRS || '/etc/xdg').split(':'),
  ]
  const user =
    env.NIX_USER_CONF_FILES === undefined
      ? configDirs.map(dir => join(dir, 'nix/nix.conf'))
      : env.NIX_USER_CONF_FILES.split(':')
  return { system: join(env.NIX_CONF_DIR || '/etc/nix', 'nix.conf'), user: user.reverse() }
}

/** The file that speaks for the whole machine, and whether a system of declared files owns it (NixOS, nix-darwin). */
export async function systemConfigFile(
  env: NodeJS.ProcessEnv,
): Promise<{ readonly file: string; readonly declared: boolean }> {
  const { system } = configFiles(env)
  const declared = await stat('/etc/NIXOS').then(
    () => true,
    () => false,
  )
  return { file: system, declared }
}

async function readFiles(env: NodeJS.ProcessEnv): Promise<NixSettings | undefined> {
  const { system, user } = configFiles(env)
  const settings: Settings = new Map([
    ['substituters', 'https://cache.nixos.org'],
    ['trusted-public-keys', ''],
  ])
  const found = []
  for (const file of [system, ...user]) if (await readInto(settings, file, 0)) found.push(file)
  if (found.length === 0) return undefined
  const list = (name: string) => (settings.get(name) ?? '').split(' ').filter(one => one !== '')
  const ttl = Number(settings.get('narinfo-cache-negative-ttl') ?? NEGATIVE_TTL_DEFAULT_SECONDS)
  return {
    substituters: list('substituters'),
    trustedPublicKeys: list('trusted-public-keys'),
    negativeTtlSeconds: Number.isFinite(ttl) ? ttl : NEGATIVE_TTL_DEFAULT_SECONDS,
    substitute: settings.get('substitute') !== 'false',
    source: found.join(', '),
  }
}

/** Nix's settings in force for this user; undefined where there is neither a Nix nor a nix.conf. */
export async function readNixSettings(env: NodeJS.ProcessEnv): Promise<NixSettings | undefined> {
  return (await askNix(env)) ?? (await readFiles(env))
}
