#!/usr/bin/env node
// Makes Debian chroots with newer Nix versions, so that the lab tests meet the clients people have.
//
//   node test/lab/chroots.mjs make trixie sid     make them (root; about a minute and 300 MB each)
//   node test/lab/chroots.mjs list                what is there, with Nix versions
//   node test/lab/chroots.mjs remove trixie       take one away
//
// They lie in $NARWHARF_CHROOTS, else in ~/.cache/narwharf-test. Packages come from the mirror of this host's own apt
// configuration, with its proxies. Every mount is made in a mount namespace of its own: nothing is left mounted, however this ends.

import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Debian suites with a Nix newer than the host's, and the Nix they had when this was written. */
export const SUITES = { trixie: '2.26', sid: '2.34' }

/** A file that stands in a finished chroot only; holds Nix's version. */
const MARK = 'narwharf-nix-version'

/** Where the chroots lie. */
export const chrootsDirectory = () =>
  process.env.NARWHARF_CHROOTS || join(homedir(), '.cache/narwharf-test')

/** The chroots that are ready: suite, directory and Nix version. */
export function readyChroots() {
  const base = chrootsDirectory()
  return Object.keys(SUITES)
    .map(suite => ({ suite, directory: join(base, suite) }))
    .filter(({ directory }) => existsSync(join(directory, MARK)))
    .map(chroot => ({
      ...chroot,
      nixVersion: readFileSync(join(chroot.directory, MARK), 'utf8').trim(),
    }))
}

/** The mirror that the host's own Debian packages come from. */
function hostMirror() {
  const targets = execFileSync(
    'apt-get',
    ['indextargets', '--format', '$(REPO_URI) $(LABEL) $(COMPONENT)', 'Created-By: Packages'],
    { encoding: 'utf8' },
  )
  for (const line of targets.split('\n')) {
    const [uri, label, component] = line.split(' ')
    if (label === 'Debian' && component === 'main') return uri
  }
  throw new Error("no Debian mirror in this host's apt configuration (run apt-get update once)")
}

/** The host's proxy settings as apt.conf lines, and as debootstrap's environment. */
function hostProxy() {
  const lines = execFileSync('apt-config', ['dump'], { encoding: 'utf8' })
    .split('\n')
    .filter(line => /^Acquire::https?::Proxy(::| )/i.test(line))
  const proxy = /^Acquire::http::Proxy "(.+)";$/im.exec(lines.join('\n'))?.[1]
  return { lines, env: proxy === undefined ? {} : { http_proxy: proxy } }
}

/** Runs a shell script in a mount namespace of its own; `$1` is the chroot. */
function inNamespace(script, directory, env = {}) {
  const { status, signal } = spawnSync(
    'unshare',
    ['-m', '--propagation', 'private', 'sh', '-euc', script, 'sh', directory],
    { stdio: ['ignore', 2, 2], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', ...env } },
  )
  if (status !== 0) throw new Error(`failed (${signal ?? `status ${status}`}): ${script}`)
}

/** Makes one chroot; half a chroot never stands under the final name. */
function make(suite) {
  const directory = join(chrootsDirectory(), suite)
  if (existsSync(join(directory, MARK))) {
    console.log(`${suite}: is there already (${directory})`)
    return
  }
  rmSync(directory, { recursive: true, force: true })
  const making = `${directory}.making-${process.pid}`
  mkdirSync(making, { recursive: true })
  try {
    const mirror = hostMirror()
    const proxy = hostProxy()
    inNamespace(
      `debootstrap --variant=minbase --include=ca-certificates ${suite} "$1" ${JSON.stringify(mirror)}`,
      making,
      proxy.env,
    )
    // A mirror's copy of sid may be some days old, and apt then refuses its Release file.
    writeFileSync(
      join(making, 'etc/apt/apt.conf.d/99narwharf'),
      ['Acquire::Check-Valid-Until "false";', ...proxy.lines, ''].join('\n'),
    )
    inNamespace(
      'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; chroot "$1" apt-get update -q;' +
        ' chroot "$1" apt-get install -y -q --no-install-recommends nix-bin; chroot "$1" apt-get clean',
      making,
    )
    rmSync(join(making, 'var/lib/apt/lists'), { recursive: true, force: true })
    mkdirSync(join(making, 'nix'), { recursive: true })
    const version = execFileSync(
      'unshare',
      [
        '-m',
        '--propagation',
        'private',
        'sh',
        '-euc',
        'mount -t proc proc "$1/proc"; exec chroot "$1" nix --version',
        'sh',
        making,
      ],
      { encoding: 'utf8' },
    )
    writeFileSync(join(making, MARK), `${/\d+\.\d+\S*/.exec(version)?.[0] ?? version.trim()}\n`)
    renameSync(making, directory)
    console.log(`${suite}: ready (${directory})`)
  } finally {
    rmSync(making, { recursive: true, force: true })
  }
}

function main([verb, ...suites]) {
  const unknown = suites.find(suite => !(suite in SUITES))
  if (unknown !== undefined)
    throw new Error(`unknown suite ${unknown}; known: ${Object.keys(SUITES).join(', ')}`)
  if (verb === 'list') {
    for (const { suite, directory, nixVersion } of readyChroots()) {
      console.log(`${suite}\tNix ${nixVersion}\t${directory}`)
    }
  } else if (verb === 'make' && suites.length > 0) {
    if (process.getuid?.() !== 0) throw new Error('making chroots needs root')
    for (const suite of suites) make(suite)
  } else if (verb === 'remove' && suites.length > 0) {
    const there = existsSync(chrootsDirectory()) ? readdirSync(chrootsDirectory()) : []
    for (const suite of suites.filter(name => there.includes(name))) {
      rmSync(join(chrootsDirectory(), suite), { recursive: true })
    }
  } else {
    console.error('usage: node test/lab/chroots.mjs make|remove SUITE...  |  list')
    process.exitCode = 2
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main(process.argv.slice(2))
  } catch (error) {
    console.error(`chroots: ${error.message}`)
    process.exitCode = 1
  }
}
