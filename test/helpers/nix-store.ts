import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import type { Test } from 'tap'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { StorePath } from '../../protocol/store-path.ts'

// Real chroot stores (`nix --store ROOT`: physical ROOT/nix/store, logical /nix/store), filled by a real `nix-store --import`
// of an export archive written here: any tree under any name, with references, in some 50 ms and without network.

/** A tree: a string or Buffer is a regular file. */
export type Tree =
  | string
  | Buffer
  | { readonly executable: string }
  | { readonly link: string }
  | { readonly dir: Readonly<Record<string, Tree>> }

/** A path to put into a store. */
export interface PathSpec {
  readonly tree: Tree
  /** Names of other paths of the store, or its own. */
  readonly references?: readonly string[]
  /** Base name of its derivation. */
  readonly deriver?: string
}

export interface ChrootStore {
  readonly root: string
  readonly storeDir: '/nix/store'
  readonly db: string
  readonly logDir: string
  /** Where a store path really lies. */
  physical(storePath: StorePath): string
  /** The path a name was given; throws for a name never added. */
  path(name: string): StorePath
  /** The NAR that path should have, as written by this helper and not by narwharf. */
  nar(name: string): Buffer
  /** Adds paths in one import. */
  add(spec: Readonly<Record<string, PathSpec>>): void
  /** Adds a tree by its content (`nix-store --add`): a content-addressed source. */
  addContent(name: string, tree: Tree): StorePath
  /** `nix-store --delete`. */
  delete(...names: readonly string[]): void
  /** Changes db.sqlite beside Nix's back. */
  sql(statement: string, ...parameters: readonly (string | number | null)[]): void
  /** Runs a nix command against the store; throws with its stderr when it fails. */
  nix(command: string, args: readonly string[], input?: Buffer): string
}

/** Why tests that need real Nix are skipped here, or false. */
export const noNix: string | false =
  spawnSync('nix-store', ['--version']).status === 0 ? false : 'nix-store is not installed'

const u64 = (n: number): Buffer => {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64LE(BigInt(n))
  return buffer
}

const text = (value: string | Buffer): Buffer => {
  const bytes = Buffer.from(value as string)
  return Buffer.concat([u64(bytes.length), bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)])
}

function narNode(tree: Tree): Buffer[] {
  const words = (...list: readonly string[]) => list.map(text)
  if (typeof tree === 'string' || Buffer.isBuffer(tree)) {
    return [...words('(', 'type', 'regular', 'contents'), text(tree), text(')')]
  }
  if ('executable' in tree) {
    return words('(', 'type', 'regular', 'executable', '', 'contents', tree.executable, ')')
  }
  if ('link' in tree) return words('(', 'type', 'symlink', 'target', tree.link, ')')
  const names = Object.keys(tree.dir).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  const entries = names.flatMap(name => [
    ...words('entry', '(', 'name', name, 'node'),
    ...narNode(tree.dir[name] as Tree),
    text(')'),
  ])
  return [...words('(', 'type', 'directory'), ...entries, text(')')]
}

/** The NAR of a tree, written by the grammar alone: an oracle for what narwharf makes. */
export const narOf = (tree: Tree): Buffer =>
  Buffer.concat([text('nix-archive-1'), ...narNode(tree)])

/** The store path this helper gives a name: fixed, so that tests may spell it. */
export const pathOf = (name: string): StorePath =>
  `/nix/store/${encodeNix32(createHash('sha1').update(name).digest())}-${name}` as StorePath

const EXPORT_MAGIC = 0x4558494e

function exportOf(spec: Readonly<Record<string, PathSpec>>): Buffer {
  const parts: Buffer[] = []
  for (const [name, { tree, references = [], deriver }] of Object.entries(spec)) {
    parts.push(u64(1), narOf(tree), u64(EXPORT_MAGIC), text(pathOf(name)), u64(references.length))
    parts.push(...references.map(reference => text(pathOf(reference))))
    parts.push(text(deriver === undefined ? '' : `/nix/store/${deriver}`), u64(0))
  }
  return Buffer.concat([...parts, u64(0)])
}

/** A folder of its own for a test, removed after it even where Nix took the write rights away. */
export function makeTempDir(t: Test, name: string): string {
  const dir = mkdtempSync(join(tmpdir(), `narwharf-${name}-`))
  t.teardown(() => {
    if (process.getuid?.() !== 0) spawnSync('chmod', ['-R', 'u+w', dir])
    rmSync(dir, { recursive: true, force: true })
  })
  return dir
}

/** Settings that keep a nix command off this machine's own store, configuration and caches. */
export const nixEnvironment = (home: string): NodeJS.ProcessEnv => ({
  ...process.env,
  HOME: home,
  XDG_CACHE_HOME: join(home, 'cache'),
  NIX_CONF_DIR: join(home, 'conf'),
  NIX_REMOTE: '',
  NIX_CONFIG: [
    'build-users-group =',
    'experimental-features = nix-command ca-derivations',
    'substituters =',
    'sandbox = false',
  ].join('\n'),
})

/** Makes a chroot store with those paths; it is removed with the test. */
export function makeChrootStore(
  t: Test,
  spec: Readonly<Record<string, PathSpec>> = {},
): ChrootStore {
  const base = makeTempDir(t, 'store')
  const root = join(base, 'root')
  const env = nixEnvironment(join(base, 'home'))
  mkdirSync(join(base, 'home'))
  const trees = new Map<string, Tree>()
  const content = new Map<string, StorePath>()

  const nix: ChrootStore['nix'] = (command, args, input) => {
    const done = spawnSync(command, ['--store', root, ...args], {
      env,
      input: input ?? Buffer.alloc(0),
      maxBuffer: 64 * 1024 * 1024,
    })
    if (done.status !== 0) {
      throw new Error(`${command} ${args.join(' ')}: ${done.stderr?.toString() ?? done.error}`)
    }
    return done.stdout.toString()
  }
  const store: ChrootStore = {
    root,
    storeDir: '/nix/store',
    db: join(root, 'nix/var/nix/db/db.sqlite'),
    logDir: join(root, 'nix/var/log/nix'),
    physical: storePath => join(root, storePath),
    path(name) {
      if (!trees.has(name)) throw new Error(`${name} was never added`)
      return content.get(name) ?? pathOf(name)
    },
    nar: name => narOf(trees.get(name) ?? ''),
    add(added) {
      for (const [name, { tree }] of Object.entries(added)) trees.set(name, tree)
      nix('nix-store', ['--import'], exportOf(added))
    },
    addContent(name, tree) {
      const source = mkdtempSync(join(base, 'source-'))
      const restored = spawnSync('nix-store', ['--restore', join(source, name)], {
        env,
        input: narOf(tree),
      })
      if (restored.status !== 0) throw new Error(restored.stderr.toString())
      const storePath = nix('nix-store', ['--add', join(source, name)]).trim() as StorePath
      trees.set(name, tree)
      content.set(name, storePath)
      return storePath
    },
    delete: (...names) => void nix('nix-store', ['--delete', ...names.map(store.path)]),
    sql(statement, ...parameters) {
      const database = new Database(store.db)
      try {
        database.prepare(statement).run(...parameters)
      } finally {
        database.close()
      }
    },
    nix,
  }
  store.add(spec)
  return store
}

/** Compressions that `nix copy` writes. */
export type CacheCompression = 'none' | 'xz' | 'zstd' | 'bzip2' | 'gzip' | 'br'

/** Copies paths (with closures) into a flat cache directory, as `nix copy --to file://` does; `settings` are the URL's. */
export function copyToCache(
  store: ChrootStore,
  dir: string,
  names: readonly string[],
  settings: Readonly<Record<string, string>> = {},
): void {
  const query = new URLSearchParams({ 'compression-level': '1', ...settings })
  const args = ['copy', '--to', `file://${dir}?${query.toString()}`, ...names.map(store.path)]
  store.nix('nix', args)
}
