import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readyChroots } from '../lab/chroots.mjs'
import { run, type Outcome, type RunOptions } from './run.ts'
import { tempDir, type Scope } from './scope.ts'

// A "host" with its own /nix: every command runs in a mount namespace of its own, where a fresh root directory is made
// of the base system's directories (this machine's, or a Debian chroot's), the host's own /nix, and `/client`, the host's folder.
// So the store directory is really /nix/store, nothing of the machine is touched, and nothing stays mounted.

/** A Nix that clients can be run with. */
export interface NixVersion {
  /** `host`, or the Debian suite of a chroot. */
  readonly name: string
  readonly version: string
  /** The root directory of its system. */
  readonly base: string
}

/** Why nothing here can run, or false: for tap's `skip`. */
export const labSkip: false | string = (() => {
  if (process.platform !== 'linux') return 'needs Linux'
  if (process.getuid?.() !== 0) return 'needs root (mount namespaces)'
  if (spawnSync('nix-store', ['--version']).status !== 0)
    return 'needs Nix (apt-get install nix-bin)'
  if (spawnSync('unshare', ['-m', 'true']).status !== 0) return 'needs mount namespaces'
  return false
})()

/** This machine's own Nix. */
export const hostNix: NixVersion = {
  name: 'host',
  version:
    labSkip === false ? nixVersionOf(String(spawnSync('nix-store', ['--version']).stdout)) : '',
  base: '/',
}

function nixVersionOf(text: string): string {
  return /\d+\.\d+\S*/.exec(text)?.[0] ?? 'unknown'
}

/** This machine's Nix and those of the chroots that are there (test/lab/chroots.mjs makes them). */
export function nixVersions(): NixVersion[] {
  if (labSkip !== false) return []
  return [
    hostNix,
    ...readyChroots().map(({ suite, directory, nixVersion }) => ({
      name: suite,
      version: nixVersion,
      base: directory,
    })),
  ]
}

const ENTER = String.raw`set -eu
home=$1 base=$2 extra=$3; shift 3
root=$home/root
mount -t tmpfs -o mode=755,size=1m tmpfs "$root"
for entry in "$base"/*; do
  name=$(basename "$entry")
  case $name in nix|proc|dev|client|lost+found) continue;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "$root/$name"
  elif [ -d "$entry" ]; then mkdir "$root/$name"; mount --rbind "$entry" "$root/$name"
  fi
done
mkdir "$root/nix" "$root/proc" "$root/dev" "$root/client"
mount --bind "$home/nix" "$root/nix"
mount --bind "$home" "$root/client"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
if [ -n "$extra" ]; then mkdir "$root/extra"; mount --bind "$extra" "$root/extra"; fi
# Not chroot: Nix enters its mount namespace anew for the programs it starts, which leads out of a mere chroot.
cd "$root"
mkdir .machine
pivot_root . .machine
umount -l /.machine
rmdir /.machine
exec "$@"
`

/** What {@link makeNixHost} is told. */
export interface NixHostOptions {
  readonly version?: NixVersion
  /** Lines of nix.conf beside the ones that every host of the lab has. */
  readonly conf?: Readonly<Record<string, string>>
  /** Below which directory it lies; default the system's temporary directory. */
  readonly baseDir?: string
  /** A host's `/nix` to begin with (copied): see {@link NixHost.nixDir}. */
  readonly nixFrom?: string
  /** A directory of the machine that its commands see as `/extra`. */
  readonly extra?: string
  /** A network namespace (`ip netns`) that its commands run in; default the machine's. */
  readonly netns?: string
}

/** A process as `spawn` takes it. Every wrapper replaces itself, so the process's id is the command's own. */
export interface Command {
  readonly program: string
  readonly args: readonly string[]
  readonly env: NodeJS.ProcessEnv
}

/** A machine of the lab with its own Nix store, configuration and caches. */
export interface NixHost {
  readonly version: NixVersion
  /** Its folder on this machine, `/client` to its commands. */
  readonly dir: string
  /** Its `/nix`, as this machine sees it. */
  readonly nixDir: string
  /** Root of its store for `store.root` of the daemon and `nix --store`. */
  readonly root: string
  /** Its nix.conf, to be changed between two commands. */
  setConf(conf: Readonly<Record<string, string>>): void
  run(command: string, args: readonly string[], options?: RunOptions): Promise<Outcome>
  /** What this machine has to start for a command to run there: for a daemon or a shell, which `run` would wait for. */
  command(command: string, args: readonly string[]): Command
  /** The words of a command's standard output. */
  words(command: string, ...args: string[]): Promise<string[]>
  /** Forgets what its Nix remembers of substituters. */
  forgetCaches(): void
  /** Where a logical `/nix/...` path lies on this machine. */
  physical(path: string): string
}

const BASE_CONF: Readonly<Record<string, string>> = {
  sandbox: 'false',
  'build-users-group': '',
  'experimental-features': 'nix-command flakes',
  substituters: '',
  'max-jobs': '4',
  // The lab tests what is stored, not whether it survives a power cut.
  'fsync-metadata': 'false',
}

/** Makes a host with an empty store. */
export function makeNixHost(scope: Scope, options: NixHostOptions = {}): NixHost {
  const version = options.version ?? hostNix
  const dir = tempDir(scope, 'host', options.baseDir)
  for (const name of ['root', 'home', 'etc', 'tmp', 'store-root']) mkdirSync(join(dir, name))
  const nixDir = join(dir, 'store-root/nix')
  if (options.nixFrom === undefined) mkdirSync(nixDir)
  else copyTree(options.nixFrom, nixDir)
  const setConf = (conf: Readonly<Record<string, string>>) => {
    const lines = Object.entries({ ...BASE_CONF, ...options.conf, ...conf })
    writeFileSync(
      join(dir, 'etc/nix.conf'),
      lines.map(([key, value]) => `${key} = ${value}\n`).join(''),
    )
  }
  setConf({})
  writeFileSync(join(dir, 'enter.sh'), ENTER.replace('$home/nix', '$home/store-root/nix'))
  let cacheHome = 0
  const network = options.netns === undefined ? [] : ['ip', 'netns', 'exec', options.netns]
  const host: NixHost = {
    version,
    dir,
    nixDir,
    root: join(dir, 'store-root'),
    setConf,
    command(command, args) {
      const base = version.base.replace(/\/$/, '')
      const argv = [
        ...network,
        ...['unshare', '-m', '--propagation', 'private', 'sh', join(dir, 'enter.sh')],
        ...[dir, base, options.extra ?? '', command, ...args],
      ]
      const [program = 'unshare', ...rest] = argv
      const env = {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        HOME: '/client/home',
        XDG_CACHE_HOME: `/client/home/cache-${cacheHome}`,
        NIX_CONF_DIR: '/client/etc',
        NIX_REMOTE: '',
        TMPDIR: '/client/tmp',
        LC_ALL: 'C.UTF-8',
      }
      return { program, args: rest, env }
    },
    run(command, args, runOptions = {}) {
      const { program, args: argv, env } = host.command(command, args)
      return run(program, argv, { ...runOptions, env: { ...env, ...runOptions.env } })
    },
    async words(command, ...args) {
      const { stdout } = await host.run(command, args)
      return stdout.split(/\s+/).filter(word => word !== '')
    },
    forgetCaches: () => void cacheHome++,
    physical: path => join(dir, 'store-root', path),
  }
  return host
}

/** Copies a tree with modes, times, owners and links as they are. */
function copyTree(from: string, to: string): void {
  const { status, stderr } = spawnSync('cp', ['-a', '--reflink=auto', from, to])
  if (status !== 0) throw new Error(`copying ${from} failed: ${String(stderr)}`)
}

/** The text of a file in a host's folder. */
export const readInHost = (host: NixHost, path: string) =>
  readFileSync(join(host.dir, path), 'utf8')
