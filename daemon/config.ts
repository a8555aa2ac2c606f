import { closeSync, openSync, readSync } from 'node:fs'
import { homedir, hostname } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { fail } from '../protocol/errors.ts'
import { CONFIG_KEYS, configSchema, type ParsedConfig } from './config-schema.ts'
import { nearestName } from './config-values.ts'

// The configuration: one JSON file, every key optional. It is parsed here, once, into a frozen value whose every
// default is filled in; nothing below asks the environment again.

/** A configuration is a page of text; anything larger is not one. */
const CONFIG_LIMIT_BYTES = 1 << 20

/** sun_path of Linux holds 108 bytes with the closing zero (unix(7)). */
export const SOCKET_PATH_LIMIT_BYTES = 107

/** What errors name where no file was read. */
const EMBEDDED = '(embedded defaults)'

/** A branded text is an object to the compiler, and stays what it is. */
type DeepReadonly<T> = T extends string
  ? T
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T

/** The whole configuration, frozen, every default filled in. Sizes in bytes, rates in bytes per second, paths absolute. */
export type Config = DeepReadonly<
  Omit<ParsedConfig, 'stateDir' | 'hostName' | 'controlSocket' | 'store' | 'cache' | 'trust'> & {
    /** The file it was read from; undefined for the embedded defaults. */
    file: string | undefined
    stateDir: string
    hostName: string
    controlSocket: string
    /** `dir` is the store directory as paths spell it; `db` the database's real place, below `root` unless given. */
    store: ParsedConfig['store'] & { db: string }
    cache: ParsedConfig['cache'] & { dir: string }
    trust: ParsedConfig['trust'] & { secretKeyFile: string }
  }
>

/** Where the process runs and as whom: options, so that tests need no other user and no other machine. */
export interface Surroundings {
  readonly env?: NodeJS.ProcessEnv
  /** 0 is root; undefined where there are no user ids. */
  readonly uid?: number | undefined
  readonly home?: string
  readonly hostName?: string
}

/** Where narwharf looks and writes when it is not told. */
export interface Places {
  /** Configuration files, the first that exists is taken. */
  readonly configFiles: readonly string[]
  readonly stateDir: string
  readonly controlSocket: string
}

/** Where the daemon of the whole machine stands, run by root or by a service of its own. */
export const SYSTEM_PLACES: Places = {
  configFiles: ['/etc/narwharf/config.json'],
  stateDir: '/var/lib/narwharf',
  controlSocket: '/run/narwharf/control.sock',
}

/** The default places: the machine's for root, else the user's own after the XDG base directories, and the machine's configuration after the user's own. */
export function defaultPlaces(around: Surroundings = {}): Places {
  const { env = process.env, home = homedir() } = around
  const uid = 'uid' in around ? around.uid : process.getuid?.()
  if (uid === 0) return SYSTEM_PLACES
  // The XDG specification has relative paths ignored.
  const xdg = (name: string): string | undefined => {
    const value = env[name]
    return value !== undefined && isAbsolute(value) ? value : undefined
  }
  const stateDir = join(xdg('XDG_STATE_HOME') ?? join(home, '.local/state'), 'narwharf')
  const runtime = xdg('XDG_RUNTIME_DIR')
  return {
    configFiles: [
      join(xdg('XDG_CONFIG_HOME') ?? join(home, '.config'), 'narwharf/config.json'),
      ...SYSTEM_PLACES.configFiles,
    ],
    stateDir,
    controlSocket: join(
      runtime === undefined ? stateDir : join(runtime, 'narwharf'),
      'control.sock',
    ),
  }
}

/** What {@link loadConfig} is told. */
export interface LoadOptions extends Surroundings {
  /** The file to read; it must exist. Without one the default places are looked at, and none is no error. */
  readonly file?: string | undefined
  /** Stronger than the file's `stateDir`. */
  readonly stateDir?: string | undefined
  /** Reads no file at all: what `npm start` runs with. */
  readonly embedded?: boolean
}

/** Reads, checks and completes the configuration. Throws CONFIG_INVALID with the file, the key and what is wrong with it. */
export function loadConfig(options: LoadOptions = {}): Config {
  const places = defaultPlaces(options)
  const { file, text } = readFirst(options, places)
  const values =
    text === undefined
      ? check({}, EMBEDDED)
      : check(parseJson(text, file ?? EMBEDDED), file ?? EMBEDDED)
  const stateDir =
    options.stateDir === undefined
      ? (values.stateDir ?? places.stateDir)
      : resolve(options.stateDir)
  const controlSocket =
    values.controlSocket ??
    (stateDir === places.stateDir ? places.controlSocket : join(stateDir, 'control.sock'))
  checkSocketPath(controlSocket, file ?? EMBEDDED)
  const own = options.hostName ?? hostname()
  return deepFreeze({
    ...values,
    file,
    stateDir,
    hostName: values.hostName ?? defaultHostName(own),
    controlSocket,
    store: {
      ...values.store,
      db: values.store.db ?? join(values.store.root, 'nix/var/nix/db/db.sqlite'),
    },
    cache: { ...values.cache, dir: values.cache.dir ?? join(stateDir, 'cache') },
    trust: {
      ...values.trust,
      secretKeyFile: values.trust.secretKeyFile ?? join(stateDir, 'secret-key'),
    },
  })
}

/** Makes the machine's own name fit for a key name, where a colon or a blank would break the line. */
function defaultHostName(name: string): string {
  const cleaned = name
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
    .slice(0, 63)
  return cleaned === '' ? 'localhost' : cleaned
}

function readFirst(
  options: LoadOptions,
  places: Places,
): { file: string | undefined; text?: string } {
  if (options.embedded === true) return { file: undefined }
  const named = options.file === undefined ? undefined : resolve(options.file)
  for (const file of named === undefined ? places.configFiles : [named]) {
    let bytes
    try {
      bytes = readStart(file, CONFIG_LIMIT_BYTES + 1)
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? 'unknown'
      if (named === undefined && (code === 'ENOENT' || code === 'ENOTDIR')) continue
      const problem = code === 'ENOENT' ? 'the file does not exist' : `cannot be read (${code})`
      return fail('CONFIG_INVALID', { file, problem }, error)
    }
    if (bytes.length > CONFIG_LIMIT_BYTES) {
      return fail('CONFIG_INVALID', {
        file,
        problem: `is larger than ${CONFIG_LIMIT_BYTES} bytes`,
      })
    }
    return { file, text: bytes.toString('utf8').replace(/^\uFEFF/, '') }
  }
  return { file: undefined }
}

/** The first `limit` bytes: whatever the file is, a device or a pipe too, no more is read. */
function readStart(file: string, limit: number): Buffer {
  const descriptor = openSync(file, 'r')
  try {
    const buffer = Buffer.alloc(limit)
    let length = 0
    for (;;) {
      const read = readSync(descriptor, buffer, length, limit - length, null)
      if (read === 0) return buffer.subarray(0, length)
      length += read
    }
  } finally {
    closeSync(descriptor)
  }
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const message = (error as Error).message
    const position = /position (\d+)/.exec(message)?.[1]
    const before = text
      .slice(0, position === undefined ? text.length : Number(position))
      .split('\n')
    const place = `line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}`
    const what = message.replace(/ in JSON at position.*$/s, '').replace(/, "[^]*$/, '')
    return fail('CONFIG_INVALID', { file, problem: `is not JSON: ${what} (${place})` }, error)
  }
}

function check(value: unknown, file: string): ParsedConfig {
  const result = configSchema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  if (issue === undefined) throw result.error
  const unknown = issue.code === 'unrecognized_keys' ? issue.keys[0] : undefined
  const key = [...issue.path, ...(unknown === undefined ? [] : [unknown])].map(String)
  const problem =
    unknown === undefined
      ? `${key.length === 0 ? 'top level' : key.join('.')}: ${lowerFirst(issue.message)}`
      : `unknown key ${key.join('.')}${suggestion(issue.path.map(String), unknown)}`
  return fail('CONFIG_INVALID', { file, key: key.join('.'), problem })
}

const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1)

/** The names known at that place of the file. */
function keysAt(path: readonly string[]): readonly string[] {
  return CONFIG_KEYS.filter(key => key.length === path.length + 1)
    .filter(key =>
      path.every((part, i) => part === key[i] || (key[i] === '*' && /^\d+$/.test(part))),
    )
    .map(key => key.at(-1) ?? '')
}

function suggestion(path: readonly string[], unknown: string): string {
  const siblings = keysAt(path)
  const near = nearestName(unknown, siblings)
  if (near !== undefined) return `, did you mean ${[...path, near].join('.')}?`
  const elsewhere = CONFIG_KEYS.find(key => key.at(-1) === unknown && !key.includes('*'))
  if (elsewhere !== undefined) return `, did you mean ${elsewhere.join('.')}?`
  return ` (known here: ${siblings.join(', ')})`
}

function checkSocketPath(controlSocket: string, file: string): void {
  const bytes = Buffer.byteLength(controlSocket)
  if (bytes <= SOCKET_PATH_LIMIT_BYTES) return
  fail('CONFIG_INVALID', {
    file,
    key: 'controlSocket',
    problem:
      `controlSocket: the path ${dirname(controlSocket)}/… has ${bytes} bytes, ` +
      `a Unix socket takes ${SOCKET_PATH_LIMIT_BYTES}; set a shorter one`,
  })
}

function deepFreeze<T extends object>(value: T): T {
  for (const inner of Object.values(value)) {
    if (typeof inner === 'object' && inner !== null) deepFreeze(inner)
  }
  return Object.freeze(value)
}
