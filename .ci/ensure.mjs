// node .ci/ensure.mjs start|test: makes a fresh clone ready, and does nothing when it is. One line per thing done.
// Plain Node without dependencies: it runs before there are any.
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const purpose = process.argv[2]

/** package.json "engines": the oldest Node the sources are written for. */
const OLDEST_NODE = [20, 11]

/** Packages with native code. */
const NATIVE = ['better-sqlite3', 'zstd-napi', 'lzma-native']

/** What compiling them needs, by Debian package. */
const COMPILERS = { python3: 'python3', make: 'make', 'g++': 'g++' }

/** Commands that tests use, by Debian package, and what is skipped without them. */
const TEST_COMMANDS = {
  'nix-store': ['nix-bin', 'tests with a real Nix'],
  ip: ['iproute2', 'tests with several hosts in network namespaces'],
  python3: ['python3', 'tests over slow and lossy links'],
  nginx: ['nginx-light', 'comparisons with nginx'],
  xz: ['xz-utils', 'tests of xz made by another program'],
  zstd: ['zstd', 'tests of zstd made by another program'],
  bzip2: ['bzip2', 'tests of bzip2 made by another program'],
  brotli: ['brotli', 'tests of brotli made by another program'],
  sqlite3: ['sqlite3', 'tests that write a Nix database by hand'],
  curl: ['curl', 'tests over HTTP by another client'],
}

const say = text => console.log(`narwharf: ${text}`)

function die(text, hint) {
  console.error(`narwharf: ${text} (${hint})`)
  process.exit(1)
}

function onPath(command) {
  return (process.env.PATH ?? '').split(delimiter).some(folder => {
    try {
      accessSync(join(folder, command), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function isDebian() {
  try {
    return (
      /^ID(_LIKE)?=.*debian/m.test(readFileSync('/etc/os-release', 'utf8')) && onPath('apt-get')
    )
  } catch {
    return false
  }
}

const mayInstallPackages = process.getuid?.() === 0 && isDebian()

/** Installs Debian packages; false when that did not work. */
function aptInstall(packages) {
  const env = {
    ...process.env,
    DEBIAN_FRONTEND: 'noninteractive',
    // Run level 1: a package's service (nginx) is installed, not started.
    RUNLEVEL: '1',
  }
  // Without a network apt would try for minutes.
  const options = ['-qq', '-o', 'Acquire::Retries=1', '-o', 'Acquire::http::Timeout=30']
  const run = args => spawnSync('apt-get', [...options, ...args], { env, encoding: 'utf8' })
  say(`installing ${packages.join(' ')} with apt-get`)
  run(['update'])
  const { status, stderr } = run(['install', '-y', '--no-install-recommends', ...packages])
  if (status !== 0) say(`apt-get could not install them: ${stderr.trim().split('\n').at(-1)}`)
  return status === 0
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const [needMajor, needMinor] = OLDEST_NODE
  if (major < needMajor || (major === needMajor && minor < needMinor)) {
    die(
      `Node ${process.versions.node} is too old`,
      `install Node ${needMajor}.${needMinor} or newer`,
    )
  }
}

const readJson = file => JSON.parse(readFileSync(join(root, file), 'utf8'))

/** npm writes down what it installed as its last step: equal versions are a whole installation. */
function isInstalled() {
  try {
    const wanted = readJson('package-lock.json').packages
    const have = readJson('node_modules/.package-lock.json').packages
    return Object.entries(wanted).every(
      ([path, { version, optional }]) =>
        path === '' || (optional && !have[path]) || have[path]?.version === version,
    )
  } catch {
    return false
  }
}

/** Native code is built for one Node: after a change of Node it may not load. Remembered, as the check costs 0.2 s. */
function loadsHere() {
  const stamp = join(root, 'node_modules/.narwharf-loads')
  const here = `${process.versions.modules} ${process.platform} ${process.arch}`
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === here) return true
  const script = `for (const name of ${JSON.stringify(NATIVE)}) require(name); new (require('better-sqlite3'))(':memory:')`
  const { status } = spawnSync(process.execPath, ['-e', script], { cwd: root })
  if (status === 0) writeFileSync(stamp, here)
  return status === 0
}

/** Output of a failed npm that is worth reading, lines. */
const NPM_LINES = 25

function npm(args) {
  const env = {
    ...process.env,
    // zstd-napi has no prebuilt file for every Node and its download only costs time: always compiled, half a minute.
    npm_config_build_from_source: 'zstd-napi',
    JOBS: 'max',
  }
  // The headers beside this Node are the right ones and are here: node-gyp would download them.
  const prefix = resolve(dirname(process.execPath), '..')
  if (existsSync(join(prefix, 'include/node/node_version.h'))) env.npm_config_nodedir ??= prefix
  const quiet = ['--no-audit', '--no-fund', '--no-progress', '--loglevel=error']
  return spawnSync('npm', [...args, ...quiet], { cwd: root, env, encoding: 'utf8' })
}

function install() {
  const noCompiler = Object.keys(COMPILERS).filter(command => !onPath(command))
  if (noCompiler.length > 0 && mayInstallPackages) {
    aptInstall(noCompiler.map(command => COMPILERS[command]))
  }
  say('installing node_modules (native code may be compiled: up to some minutes)')
  let result = npm(['ci', '--include=dev'])
  if (result.error) die(`npm cannot be run: ${result.error.message}`, 'install npm')
  if (result.status !== 0 && /EUSAGE/.test(result.stderr)) {
    say('package-lock.json does not fit this npm: installing without npm ci')
    result = npm(['install', '--no-save', '--include=dev'])
  }
  if (result.status === 0 && loadsHere()) return
  console.error(`${result.stdout}${result.stderr}`.trim().split('\n').slice(-NPM_LINES).join('\n'))
  die(
    'node_modules could not be installed',
    noCompiler.length > 0
      ? `the native packages may need a compiler: apt-get install ${Object.values(COMPILERS).join(' ')}`
      : 'see the lines above; a package registry must be in reach once',
  )
}

async function ensureBuilt() {
  const { build, isFresh } = await import('./build.mjs')
  if (isFresh()) return
  say('building dist')
  if (build() !== 0) die('the build failed', 'see the errors above')
}

function ensureTestCommands() {
  const missing = () => Object.keys(TEST_COMMANDS).filter(command => !onPath(command))
  if (missing().length > 0 && mayInstallPackages) {
    // One by one where all together fail: a package unknown to this Debian must not cost the others.
    const packages = missing().map(command => TEST_COMMANDS[command][0])
    if (!aptInstall(packages) && packages.length > 1) {
      for (const name of packages) aptInstall([name])
    }
  }
  for (const command of missing()) {
    const [name, skipped] = TEST_COMMANDS[command]
    const why = mayInstallPackages
      ? `${name} could not be installed`
      : `${command} is missing and only root on Debian has it installed by this script`
    say(`skipped: ${skipped}, as ${why}`)
  }
  if (process.getuid?.() !== 0) say('skipped: tests that need root, as this is an ordinary user')
}

if (purpose !== 'start' && purpose !== 'test') {
  die('what to make ready for is missing', 'node .ci/ensure.mjs start|test')
}
checkNode()
if (!isInstalled() || !loadsHere()) install()
if (purpose === 'test') ensureTestCommands()
await ensureBuilt()
