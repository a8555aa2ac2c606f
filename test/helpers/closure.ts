import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeNixHost, type NixHost } from './nix-host.ts'
import { tempDir, type Scope } from './scope.ts'

/** Bytes of the two files large enough to be cut in the middle. */
export const BIG_FILE_BYTES = 6_000_000
/** A build id as in an ELF note, for `lib/debug/.build-id`. */
export const BUILD_ID = '0123456789abcdef0123456789abcdef01234567'
/** Source trees that the expression takes in; its other numbers stand in test/fixtures/lab/closure.nix. */
const SOURCES = 20

/** The closure and what is special in it. Paths are logical (`/nix/store/…`). */
export interface LabClosure {
  /** The host whose store has it. */
  readonly host: NixHost
  readonly top: string
  /** Everything `top` needs at run time, itself included. */
  readonly paths: readonly string[]
  /** Signed by {@link upstreamKey}, not built here. */
  readonly signed: readonly string[]
  /** Their derivation's names are in the log; each holds one large file: one signed, one built here. */
  readonly bigSigned: string
  readonly big: string
  /** Executables, links, odd names, deep folders. */
  readonly shapes: string
  /** Its derivation, which has a log. */
  readonly shapesDrv: string
  readonly contentAddressed: readonly string[]
  /** A valid path without signature that the host did not build: not to be offered. */
  readonly stray: string
  /** Public key of {@link signed}, `name:base64`. */
  readonly upstreamKey: string
}

const byName = (paths: readonly string[], name: string): string => {
  const found = paths.find(path => path.endsWith(`-${name}`))
  if (found === undefined) throw new Error(`the closure has no ${name}`)
  return found
}

/**
 * Makes a host whose store has a closure of some 330 paths, by a real Nix, in a few seconds: a first host builds and signs a
 * part, the second substitutes that and builds the rest.
 */
export async function makeClosure(scope: Scope): Promise<LabClosure> {
  const shared = tempDir(scope, 'closure')
  for (let i = 0; i < SOURCES; i++) {
    mkdirSync(join(shared, `sources/${i}/inner`), { recursive: true })
    writeFileSync(join(shared, `sources/${i}/inner/file`), `source ${i}\n`)
  }
  copyFileSync('test/fixtures/lab/closure.nix', join(shared, 'closure.nix'))
  const upstream = makeNixHost(scope, { extra: shared })
  const shell = (script: string, ...args: string[]) =>
    upstream.words('sh', '-euc', script, 'sh', ...args)
  const [recursiveHash = ''] = await shell(`
    mkdir /extra/recursive; cd /extra/recursive; printf one > one; ln -s one two
    nix-store --generate-binary-cache-key lab-upstream-1 /extra/key.sec /extra/key.pub
    nix-hash --type sha256 --base32 .`)
  const build = (...attributes: string[]) => [
    ...['/extra/closure.nix', '--no-out-link', '--arg', 'sources', '/extra/sources'],
    ...['--argstr', 'recursiveHash', recursiveHash, '--argstr', 'buildId', BUILD_ID],
    ...['--argstr', 'bigBytes', String(BIG_FILE_BYTES)],
    ...attributes.flatMap(attribute => ['-A', attribute]),
  ]
  const [stray = ''] = await upstream.words('nix-build', ...build('stray'))
  const outputs = await upstream.words('nix-build', ...build('upstreams', 'bigSigned'))
  await shell(
    `nix-store --export "$1" > /extra/stray; shift
    nix copy --to "file:///extra/cache?compression=none&secret-key=/extra/key.sec" "$@"`,
    stray,
    ...outputs,
  )
  const [upstreamKey = ''] = await shell('cat /extra/key.pub')

  const host = makeNixHost(scope, { extra: shared })
  host.setConf({ substituters: 'file:///extra/cache', 'trusted-public-keys': upstreamKey })
  const [top = ''] = await host.words('nix-build', ...build('top'))
  host.setConf({})
  await host.run('sh', ['-euc', 'nix-store --import < /extra/stray'])
  const paths = (await host.words('nix-store', '-qR', top)).sort()
  const shapes = byName(paths, 'shapes')
  const [shapesDrv = ''] = await host.words('nix-store', '-qd', shapes)
  return {
    host,
    top,
    paths,
    signed: paths.filter(path => /-(upstream-\d+(-o\d+)?|big-signed)$/.test(path)),
    bigSigned: byName(paths, 'big-signed'),
    big: byName(paths, 'big'),
    shapes,
    shapesDrv,
    contentAddressed: paths.filter(path => /-(text-\d+|source-\d+|flat|recursive)$/.test(path)),
    stray,
    upstreamKey,
  }
}
