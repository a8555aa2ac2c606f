import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeNixHost, type NixHost } from '../../test/helpers/nix-host.ts'
import { tempDir, type Scope } from '../../test/helpers/scope.ts'

// A real store with the kinds of paths that a serialiser meets: one large file, trees of small files, a small file.

/** Names of the paths, and what they are. */
export type TreeName = 'file-256m' | 'tree-2400' | 'tree-20000' | 'file-100k'

export interface TreeStore {
  readonly host: NixHost
  /** Logical store paths. */
  readonly paths: Readonly<Record<TreeName, string>>
  /** Their NARs, ready, in one directory: `NAME.nar`. */
  readonly nars: string
}

/** Sizes like those of a Python installation: most some kilobytes, few large; mean about 20 KB. */
function sizeOf(index: number): number {
  const random = Math.imul(index + 1, 0x9e3779b1) >>> 0
  return Math.round(200 * 2 ** ((random / 2 ** 32) * 10.5))
}

const FILES_PER_FOLDER = 40

/** Bytes that are neither zero nor random: compressing them is work, not a miracle. */
function content(bytes: number, seed: number): Buffer {
  const buffer = Buffer.alloc(bytes)
  let state = (seed + 1) | 0
  for (let i = 0; i + 4 <= bytes; i += 4) {
    state = (Math.imul(state, 1103515245) + 12345) | 0
    buffer.writeUInt32LE((state >>> 8) & 0x3f3f3f3f, i)
  }
  return buffer
}

function writeTree(root: string, files: number): void {
  for (let i = 0; i < files; i++) {
    const folder = join(root, `folder-${Math.floor(i / FILES_PER_FOLDER)}`)
    if (i % FILES_PER_FOLDER === 0) mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, `file-${i}.py`), content(sizeOf(i), i), {
      mode: i % 50 ? 0o644 : 0o755,
    })
  }
}

/** Makes the store with `nix-store --add`, so that every path proves itself by its content address. */
export async function makeTreeStore(scope: Scope): Promise<TreeStore> {
  const source = tempDir(scope, 'trees')
  writeFileSync(join(source, 'file-256m'), content(256 * 1024 * 1024, 1))
  writeFileSync(join(source, 'file-100k'), content(100_000, 2))
  writeTree(join(source, 'tree-2400'), 2_400)
  writeTree(join(source, 'tree-20000'), 20_000)
  const host = makeNixHost(scope, { extra: source })
  const names: readonly TreeName[] = ['file-256m', 'tree-2400', 'tree-20000', 'file-100k']
  const added = await host.words('nix-store', '--add', ...names.map(name => `/extra/${name}`))
  const paths = Object.fromEntries(names.map((name, i) => [name, added[i] ?? ''])) as Record<
    TreeName,
    string
  >
  mkdirSync(join(source, 'nars'))
  for (const name of names) {
    const script = 'nix-store --dump "$1" > "$2"'
    await host.run('sh', ['-euc', script, 'sh', paths[name], `/extra/nars/${name}.nar`])
  }
  return { host, paths, nars: join(source, 'nars') }
}

/** The NAR URL that a daemon offers for a path. */
export function narUrlOf(narinfo: string): string {
  const url = /^URL: (.*)$/m.exec(narinfo)?.[1]
  if (url === undefined) throw new Error(`no narinfo:\n${narinfo}`)
  return url
}
