import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createExportReader } from '../../protocol/export-archive.ts'
import { runCli } from '../helpers/control-server.ts'
import { daemonSkip, startDaemon, type RunningDaemon } from '../helpers/daemon.ts'
import { archiveOf } from '../helpers/import-rig.ts'
import {
  makeChrootStore,
  narOf,
  nixEnvironment,
  noNix,
  type ChrootStore,
} from '../helpers/nix-store.ts'
import { infoOf } from '../helpers/ship-rig.ts'
import { tempDir } from '../helpers/scope.ts'

// Archives between narwharf and the real nix-store, both ways, and a daemon that is killed in the middle of one.

const LAB_LIMIT_MS = 300_000
t.setTimeout(LAB_LIMIT_MS)

const PATHS = {
  lib: { tree: { dir: { 'lib.so': randomBytes(300_000), link: { link: 'lib.so' } } } },
  app: {
    tree: { dir: { bin: { dir: { app: { executable: '#!/bin/sh\n' } } }, empty: { dir: {} } } },
    references: ['lib', 'app'],
    deriver: '00000000000000000000000000000000-app.drv',
  },
  text: { tree: 'plain\n', references: ['app'] },
} as const

/** A nix-store command of a chroot store with its output in a file, as a shell would send it there. */
function nixTo(t: Test, store: ChrootStore, args: readonly string[], file: string): void {
  const out = openSync(file, 'w')
  const env = nixEnvironment(tempDir(t, 'home'))
  const { status, stderr } = spawnSync('nix-store', ['--store', store.root, ...args], {
    env,
    stdio: ['ignore', out, 'pipe'],
  })
  closeSync(out)
  if (status !== 0) throw new Error(String(stderr))
}

const importInto = (store: ChrootStore, file: string): string =>
  store.nix('nix-store', ['--import'], readFileSync(file))

/** A command of the user's against that daemon. */
const cli = (t: Test, daemon: RunningDaemon, argv: readonly string[], stdin?: Buffer) =>
  runCli(t, [...argv, '--config', daemon.configFile], {
    columns: 'no terminal',
    ...(stdin === undefined ? {} : { stdin }),
  })

const leftIn = (dir: string) => readdirSync(dir).filter(name => name.startsWith('.'))

t.test('with the real nix-store', { skip: noNix || daemonSkip }, async t => {
  const store = makeChrootStore(t, PATHS)
  const dir = tempDir(t, 'archives')
  const all = Object.keys(PATHS).map(store.path)
  const fromNix = join(dir, 'nix.export')
  nixTo(t, store, ['--export', ...all], fromNix)
  const live = await startDaemon(t, {
    store: { enable: true, root: store.root },
    trust: { store: 'all' },
  })

  await t.test(
    'what narwharf exports is what nix-store exports, and nix-store takes it',
    async t => {
      const ours = join(dir, 'ours.export')
      const exported = await cli(t, live, ['export', '--closure', store.path('text'), '-o', ours])
      t.equal(exported.status, 0, exported.stderr)
      t.match(exported.stdout, /exported 3 paths/)
      const again = join(dir, 'again.export')
      const order = readPaths(ours)
      nixTo(t, store, ['--export', ...order], again)
      t.ok(readFileSync(ours).equals(readFileSync(again)), 'byte for byte')
      const target = makeChrootStore(t)
      t.match(importInto(target, ours), store.path('app'))
      for (const path of all) {
        const facts = (which: ChrootStore) =>
          ['--hash', '--size', '--references', '--deriver'].map(what =>
            which.nix('nix-store', ['-q', what, path]),
          )
        t.strictSame(facts(target), facts(store), path)
      }
      target.nix('nix-store', ['--verify', '--check-contents'])
      t.strictSame(leftIn(dir), [])
    },
  )

  await t.test('given paths alone, to standard output', async t => {
    const alone = await runRaw(live, ['export', store.path('app'), '-o', '-'])
    t.equal(alone.status, 0, alone.stderr)
    t.match(alone.stderr, /needs 1 path more, such as .*-lib/)
    const expected = join(dir, 'alone.export')
    nixTo(t, store, ['--export', store.path('app')], expected)
    t.ok(alone.stdout.equals(readFileSync(expected)))
    const target = makeChrootStore(t, { lib: PATHS.lib })
    target.nix('nix-store', ['--import'], alone.stdout)
  })

  await t.test('nothing half-done, nothing that stood is lost', async t => {
    const file = join(dir, 'kept.export')
    writeFileSync(file, 'before')
    const unknown = '/nix/store/00000000000000000000000000000000-nowhere'
    const none = await cli(t, live, ['export', unknown, '-o', file])
    t.equal(none.status, 1)
    t.match(none.stderr, /nobody within reach/)
    t.equal(readFileSync(file, 'utf8'), 'before')
    const some = await cli(t, live, ['export', unknown, store.path('lib'), '-o', file, '--json'])
    t.equal(some.status, 3)
    t.match(JSON.parse(some.stdout), { exported: 1, missing: [{ storePath: unknown }] })
    t.ok(statSync(file).size > 300_000)
    writeFileSync(join(dir, '.kept.export.narwharf-unfinished-999999999'), 'of one that was killed')
    t.equal((await cli(t, live, ['export', store.path('lib'), '-o', file])).status, 0)
    t.strictSame(leftIn(dir), [])
    t.match(await cli(t, live, ['export', store.path('lib'), '-o', join(dir, 'no/where')]), {
      status: 1,
      stderr: /cannot be written/,
    })
    t.match(await cli(t, live, ['export', store.path('lib')]), { status: 2, stderr: /-o FILE/ })
    t.equal((await cli(t, live, ['export', '/etc/passwd', '-o', file])).status, 1)
    t.strictSame(leftIn(dir), [])
  })

  await t.test('what nix-store exports is imported', async t => {
    const daemon = await startDaemon(t, { hostName: 'other' })
    const refused = await cli(t, daemon, ['import', fromNix])
    t.equal(refused.status, 1)
    t.match(refused.stderr, /nobody within reach offers the same/)
    const trusted = await cli(t, daemon, ['import', fromNix, '--trust', 'lib', 'app'])
    t.equal(trusted.status, 3, trusted.stderr)
    t.match(trusted.stdout, /trusted by you +2/)
    const rest = await cli(t, daemon, ['import', '-', '--trust', '--json'], readFileSync(fromNix))
    t.equal(rest.status, 0, rest.stderr)
    t.match(JSON.parse(rest.stdout), {
      accepted: [{ storePath: store.path('text'), proof: { how: 'trusted' } }],
      there: [{ differs: false }, { differs: false }],
      refused: [],
    })
    const back = join(dir, 'back.export')
    await cli(t, daemon, ['export', ...all, '-o', back])
    t.strictSame(readPaths(back).sort(), [...all].sort())
    importInto(makeChrootStore(t), back)
    t.match(await cli(t, daemon, ['jobs']), { stdout: /import .*nix\.export +partly/ })
  })

  await t.test('signatures come along in a file of their own', async t => {
    const file = join(dir, 'signed.export')
    await cli(t, live, ['export', '--closure', store.path('text'), '-o', file])
    const daemon = await startDaemon(t, { trust: { publicKeys: [live.publicKey] } })
    const without = await cli(t, daemon, ['import', file, '--no-signatures'])
    t.equal(without.status, 1)
    const signed = await cli(t, daemon, ['import', file])
    t.equal(signed.status, 0, signed.stderr)
    t.match(signed.stdout, /accepted +signed by lab-host-1 +3/)
  })

  await t.test('what is no archive', async t => {
    const broken = join(dir, 'broken.export')
    writeFileSync(broken, readFileSync(fromNix).subarray(0, -30))
    const result = await cli(t, live, ['import', broken, '--trust'])
    t.match(result, { status: 3, stderr: /invalid export archive: it ends early/ })
    writeFileSync(broken, randomBytes(3_000_000))
    t.match(await cli(t, live, ['import', broken]), { status: 1, stderr: /neither a path/ })
    t.match(await cli(t, live, ['import', join(dir, 'nowhere')]), {
      status: 1,
      stderr: /cannot be read/,
    })
    t.match(await cli(t, live, ['import', dir]), { status: 1, stderr: /directory/ })
    t.match(await cli(t, live, ['import']), { status: 2, stderr: /no archive/ })
    writeFileSync(join(dir, 'bad.signatures'), '{"path":5}')
    const side = ['--signatures', join(dir, 'bad.signatures')]
    t.match(await cli(t, live, ['import', fromNix, ...side]), {
      status: 1,
      stderr: /invalid signatures/,
    })
  })
})

/** Store paths of an archive, in its order. */
function readPaths(file: string): string[] {
  const paths: string[] = []
  const reader = createExportReader({ nar() {}, path: ({ storePath }) => paths.push(storePath) })
  reader.write(readFileSync(file))
  reader.end()
  return paths
}

/** A command as a process of its own, for what it writes to standard output as bytes. */
async function runRaw(daemon: RunningDaemon, argv: readonly string[]) {
  const { PROGRAM } = await import('../helpers/daemon.ts')
  const { spawn } = await import('node:child_process')
  const child = spawn(process.execPath, [PROGRAM, ...argv, '--config', daemon.configFile])
  const read = async (stream: AsyncIterable<Buffer>) => {
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk)
    return Buffer.concat(chunks)
  }
  const ended = new Promise<number | null>(resolve => child.once('close', resolve))
  const [stdout, stderr, status] = await Promise.all([
    read(child.stdout),
    read(child.stderr),
    ended,
  ])
  return { stdout, stderr: stderr.toString(), status }
}

/** How long something may take to come about. */
const PATIENCE_MS = 60_000

async function until(isSo: () => boolean): Promise<void> {
  const end = Date.now() + PATIENCE_MS
  while (!isSo()) {
    if (Date.now() > end) throw new Error('it never came about')
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

t.test('killed in the middle of an import', { skip: daemonSkip }, async t => {
  const paths = Array.from({ length: 40 }, (_, index) => {
    const nar = narOf(randomBytes(index % 10 === 9 ? 8_000_000 : 400_000))
    return [infoOf(`p${index}`, nar, index === 0 ? [] : [`p${index - 1}`]), nar] as const
  })
  const archive = archiveOf(...paths)
  const file = join(tempDir(t, 'killed'), 'big.export')
  writeFileSync(file, archive)
  let daemon = await startDaemon(t)
  const cache = join(daemon.stateDir, 'cache')
  const narDir = join(cache, 'nar')
  const files = () => (existsSync(narDir) ? [...readdirSync(cache), ...readdirSync(narDir)] : [])
  const standing = () => files().filter(name => name.endsWith('.narinfo')).length
  const unfinished = () => files().filter(name => name.startsWith('.')).length
  let before = 0
  const moments: readonly (() => boolean)[] = [
    () => unfinished() > 0,
    () => standing() > before,
    () => unfinished() > 5,
    () => standing() > before && unfinished() > 0,
  ]
  for (const moment of moments) {
    before = standing()
    const importing = cli(t, daemon, ['import', file, '--trust'])
    await until(() => moment() || standing() === paths.length)
    await daemon.kill()
    const { status, stderr } = await importing
    if (standing() < paths.length) t.ok(status === 1 || status === 3, stderr)
    daemon = await daemon.restart()
    t.equal(unfinished(), 0, 'what was not finished is cleared away')
    t.ok(standing() >= before)
    // References come first, so what stands is the beginning of the archive.
    const there = paths.filter(([{ storePath }]) =>
      existsSync(join(cache, `${storePath.slice(11, 43)}.narinfo`)),
    )
    t.equal(there.length, standing())
    t.equal(there.at(-1)?.[0].storePath, paths[there.length - 1]?.[0].storePath)
  }
  const last = await cli(t, daemon, ['import', file, '--trust'])
  t.equal(last.status, 0, last.stderr)
  t.equal(standing(), paths.length)
  const out = `${file}.out`
  const names = paths.map(([{ storePath }]) => storePath)
  t.equal((await cli(t, daemon, ['export', ...names, '-o', out])).status, 0)
  t.ok(readFileSync(out).equals(archive), 'and all of it is right')
})
