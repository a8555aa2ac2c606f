// Builds dist/: tsc, then what tsc leaves out (SQL, the dashboard, package.json stays where it is). The new tree is made
// beside the old one and takes its place by rename, so that a daemon that runs from dist never sees half of it.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const SOURCES = ['protocol', 'daemon', 'cli']
const SETTINGS = ['tsconfig.json', 'tsconfig.build.json', 'package-lock.json', '.ci/build.mjs']
const STAMP = '.fingerprint'

/** Every file below the sources, relative to the project. */
function sourceFiles() {
  return SOURCES.flatMap(folder =>
    readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => relative(root, join(entry.parentPath ?? entry.path, entry.name))),
  ).sort()
}

/** Changes with any source's name, size or time: a removed file counts too, which a newest time would miss. */
export function fingerprint() {
  const hash = createHash('sha256')
  for (const file of [...sourceFiles(), ...SETTINGS]) {
    const { size, mtimeMs } = statSync(join(root, file))
    hash.update(`${file}\0${size}\0${mtimeMs}\n`)
  }
  return hash.digest('hex')
}

/** Whether dist was built from the sources as they are. */
export function isFresh() {
  const stamp = join(root, 'dist', STAMP)
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint()
}

/** Builds dist; returns tsc's exit status, 0 when dist is there. */
export function build() {
  const stamp = fingerprint()
  const fresh = join(root, `.dist-${process.pid}`)
  const old = join(root, `.dist-old-${process.pid}`)
  try {
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    const { status } = spawnSync(
      process.execPath,
      [tsc, '-p', 'tsconfig.build.json', '--outDir', fresh],
      { cwd: root, stdio: 'inherit' },
    )
    if (status !== 0) return status ?? 1
    for (const file of sourceFiles().filter(name => !name.endsWith('.ts'))) {
      mkdirSync(dirname(join(fresh, file)), { recursive: true })
      cpSync(join(root, file), join(fresh, file))
    }
    chmodSync(join(fresh, 'cli/main.js'), 0o755)
    writeFileSync(join(fresh, STAMP), stamp)
    if (existsSync(join(root, 'dist'))) renameSync(join(root, 'dist'), old)
    renameSync(fresh, join(root, 'dist'))
    return 0
  } finally {
    rmSync(fresh, { recursive: true, force: true })
    rmSync(old, { recursive: true, force: true })
  }
}

if (resolve(process.argv[1] ?? '') === fileURLToPath(import.meta.url)) process.exit(build())
