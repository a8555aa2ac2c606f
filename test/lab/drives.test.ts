import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { DrivesReply } from '../../protocol/api-drives.ts'
import type { StatusReply, WhoHasReply } from '../../protocol/api.ts'
import { runCli } from '../helpers/control-server.ts'
import { daemonSkip, NODE_FLAGS, PROGRAM } from '../helpers/daemon.ts'
import { copyToCache, makeChrootStore, noNix } from '../helpers/nix-store.ts'
import { freePort, tempDir } from '../helpers/scope.ts'

// A drive as the kernel knows it: a loop device with a real file system, mounted in a mount namespace of the test's own beside a
// daemon; and a real Nix that installs from it.

const LAB_LIMIT_MS = 300_000
t.setTimeout(LAB_LIMIT_MS)

/** A drive is noticed within this long, and so is its going, ms. */
const NOTICE_MS = 2000

const MEGABYTE = 1024 ** 2

const lacks = (program: string): boolean =>
  spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0

function skipOf(maker: string): string | false {
  if (daemonSkip !== false) return daemonSkip
  if (noNix !== false) return noNix
  if (process.getuid?.() !== 0) return 'needs root (mounts)'
  const lacking = [maker, 'unshare', 'nsenter', 'losetup'].find(lacks)
  if (lacking !== undefined) return `needs ${lacking}`
  return spawnSync('losetup', ['-f']).status === 0 ? false : 'needs loop devices'
}

/** A mount namespace that lives as long as the test; gives how commands are run there. */
async function namespace(t: Test) {
  const script = 'mount --make-rprivate / && echo ready && exec cat'
  const holder = spawn('unshare', ['-m', 'sh', '-c', script], { stdio: ['pipe', 'pipe', 'ignore'] })
  t.teardown(async () => {
    holder.kill('SIGKILL')
    if (holder.exitCode === null && holder.signalCode === null) await once(holder, 'close')
  })
  await once(holder.stdout, 'data')
  const enter = ['-t', String(holder.pid), '-m']
  return {
    run(program: string, ...args: string[]) {
      const done = spawnSync('nsenter', [...enter, program, ...args], { encoding: 'utf8' })
      if (done.status !== 0) throw new Error(`${program} ${args.join(' ')}: ${done.stderr}`)
      return done.stdout
    },
    start: (program: string, args: readonly string[]): ChildProcess =>
      spawn('nsenter', [...enter, program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] }),
  }
}

/** Until it is so; gives how long that took, ms. */
async function until(what: () => Promise<boolean>): Promise<number> {
  const start = performance.now()
  while (!(await what().catch(() => false))) await new Promise(resolve => setTimeout(resolve, 20))
  return performance.now() - start
}

async function startDaemon(t: Test, place: Awaited<ReturnType<typeof namespace>>, under: string) {
  const stateDir = tempDir(t, 'state')
  const http = { host: '127.0.0.1', port: await freePort() }
  const file = join(stateDir, 'config.json')
  const keys = [readFileSync('test/fixtures/protocol/key-1.public', 'utf8').trim()]
  writeFileSync(
    file,
    JSON.stringify({
      ...{
        stateDir,
        hostName: 'lab-3',
        http,
        store: { enable: false },
        trust: { publicKeys: keys },
      },
      network: { port: await freePort(), mdns: false },
      drives: { under: [under] },
    }),
  )
  const args = [...NODE_FLAGS, PROGRAM, 'daemon', '--config', file]
  const child = place.start(process.execPath, args)
  // What nobody reads would stop it once the pipe is full.
  child.stdout?.resume()
  child.stderr?.resume()
  t.teardown(async () => {
    child.kill('SIGTERM')
    if (child.exitCode === null) await once(child, 'close')
  })
  const url = `http://127.0.0.1:${http.port}`
  const ask = async <Reply>(path: string) => (await (await fetch(url + path)).json()) as Reply
  await until(async () => (await fetch(`${url}/nix-cache-info`)).ok)
  const { publicKey: key } = await ask<StatusReply>('/api/v1/status')
  const drives = async () => (await ask<DrivesReply>('/api/v1/drives')).drives
  const cli = (...words: string[]) => runCli(t, [...words, '--config', file])
  return { url, key, drives, cli, ask }
}

const FILE_SYSTEMS: readonly (readonly [name: string, maker: string, flags: readonly string[]])[] =
  [
    ['ext4', 'mkfs.ext4', ['-q', '-F', '-L']],
    ['vfat', 'mkfs.vfat', ['-F', '32', '-n']],
    ['btrfs', 'mkfs.btrfs', ['-q', '-L']],
  ]

for (const [name, maker, flags] of FILE_SYSTEMS) {
  t.test(`a drive with ${name}`, { skip: skipOf(maker) }, async t => {
    const image = join(tempDir(t, 'image'), 'image')
    writeFileSync(image, '')
    truncateSync(image, 128 * MEGABYTE)
    spawnSync(maker, [...flags, 'KERGUELEN', image])
    const place = await namespace(t)
    const under = tempDir(t, 'media')
    const mountPoint = join(under, 'ada', 'MY STICK')
    mkdirSync(mountPoint, { recursive: true })
    const mounted = spawnSync('unshare', ['-m', 'mount', '-o', 'loop', image, mountPoint])
    if (mounted.status !== 0) {
      t.pass('plugged', { skip: `this kernel does not mount ${name}` })
      return
    }

    const tree = {
      dir: { bin: { dir: { run: { executable: '#!/bin/sh\n' } } }, data: 'x'.repeat(50_000) },
    }
    const paths = { lib: { tree: 'lib\n' }, app: { tree, references: ['lib'] } }
    const depot = makeChrootStore(t, paths)
    const key = join(process.cwd(), 'test/fixtures/protocol/key-1.secret')
    copyToCache(depot, `${image}-cache`, ['app'], { compression: 'xz', 'secret-key': key })
    const plug = () => place.run('mount', '-o', 'loop', image, mountPoint)
    plug()
    place.run('cp', '-r', `${image}-cache/.`, mountPoint)
    place.run('umount', mountPoint)

    const { url, key: hostKey, drives, cli, ask } = await startDaemon(t, place, under)
    t.same(await drives(), [], 'nothing yet')
    plug()
    const noticed = await until(async () => (await drives())[0]?.plugged === true)
    t.ok(noticed < NOTICE_MS, `noticed after ${noticed.toFixed()} ms`)
    t.match(await drives(), [{ name: 'KERGUELEN', label: 'KERGUELEN', fsType: name, mountPoint }])

    const site = makeChrootStore(t)
    const options = ['--option', 'substituters', url, '--option', 'trusted-public-keys', hostKey]
    site.nix('nix-store', ['-r', depot.path('app'), ...options])
    t.equal(
      readFileSync(join(site.physical(depot.path('app')), 'data'), 'utf8'),
      'x'.repeat(50_000),
      'a real Nix installs what is on it alone',
    )

    const narinfo = `${url}/${depot.path('app').slice(11, 43)}.narinfo`
    t.equal((await fetch(narinfo)).status, 200)
    await until(async () => (await drives())[0]?.paths === 2)
    place.run('umount', '-l', mountPoint)
    const missed = await until(async () => (await fetch(narinfo)).status === 404)
    t.ok(missed < NOTICE_MS, `not offered any more after ${missed.toFixed()} ms`)
    const gone = await until(async () => (await drives())[0]?.plugged === false)
    t.ok(gone < NOTICE_MS, `known to be gone ${gone.toFixed()} ms later`)
    t.match(await drives(), [{ name: 'KERGUELEN', paths: 2 }])
    await until(async () => {
      const { results } = await ask<WhoHasReply>('/api/v1/who-has?query=app')
      return results[0]?.matches[0]?.holders[0]?.up === false
    })
    const whoHas = await cli('who-has', depot.path('app'))
    t.match(whoHas.stdout, /on drive KERGUELEN  lab-3  last seen here on \S+, not plugged/)
    const whyNot = await cli('why-not', depot.path('app'))
    t.match(whyNot.stdout, /on a drive that is not plugged/)

    plug()
    await until(async () => (await drives())[0]?.plugged === true)
    t.equal((await drives()).length, 1, 'it is the same drive again')
    const ejected = await cli('eject', 'KERGUELEN')
    t.match(ejected, { status: 0, stdout: 'KERGUELEN is unmounted: unplug it\n' }, ejected.stderr)
    t.notMatch(place.run('cat', '/proc/self/mountinfo'), 'MY\\040STICK')
  })
}
