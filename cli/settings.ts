import type { Config } from '../daemon/config.ts'
import type { GlobalOptions, Io } from './output.ts'

/** What a command knows of the daemon it talks to. */
export interface Settings {
  readonly config: Config
  /** Control sockets to try, the likeliest first. */
  readonly sockets: readonly string[]
  /** The command that starts that daemon. */
  readonly startCommand: string
}

/** A word as a shell takes it. */
const shellWord = (text: string): string =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`

/**
 * Reads the configuration that the daemon reads too. Without `--config` and `--state-dir` the daemon may be the user's own, the
 * machine's, or one with embedded defaults (`npm start`): their sockets are all tried. Throws CONFIG_INVALID.
 */
export async function loadSettings(io: Io, options: GlobalOptions): Promise<Settings> {
  // zod takes longer to load than most commands take to run.
  const { loadConfig, defaultPlaces, SYSTEM_PLACES } = await import('../daemon/config.ts')
  const around = { env: io.env, ...(io.env.HOME === undefined ? {} : { home: io.env.HOME }) }
  const config = loadConfig({ ...around, file: options.config, stateDir: options.stateDir })
  const named = options.config !== undefined || options.stateDir !== undefined
  const others = named ? [] : [defaultPlaces(around).controlSocket, SYSTEM_PLACES.controlSocket]
  const flags = [
    ...(options.config === undefined ? [] : ['--config', options.config]),
    ...(options.stateDir === undefined ? [] : ['--state-dir', options.stateDir]),
  ]
  return {
    config,
    sockets: [...new Set([config.controlSocket, ...others])],
    startCommand: [`${io.program} daemon`, ...flags.map(shellWord)].join(' '),
  }
}

/** Where Nix on this machine finds that daemon, by its configuration: a wildcard address is reached by loopback. */
export function clientUrl({ http }: Config): string {
  const host = http.host === '0.0.0.0' || http.host === '::' ? '127.0.0.1' : http.host
  return `http://${host.includes(':') ? `[${host}]` : host}:${http.port}`
}
