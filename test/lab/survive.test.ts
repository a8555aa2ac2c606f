import { spawnSync } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { randomFillSync } from 'node:crypto'
import t, { type Test } from 'tap'
import { makeBinaryCache, type BinaryCache } from '../helpers/binary-cache.ts'
import { makeClosure, type LabClosure } from '../helpers/closure.ts'
import { daemonSkip, startDaemon, type RunningDaemon } from '../helpers/daemon.ts'
import { differences, useSubstituters } from '../helpers/nix-client.ts'
import {
  hostNix,
  labSkip,
  makeNixHost,
  nixVersions,
  type NixHost,
  type NixVersion,
} from '../helpers/nix-host.ts'
import { badExchanges, startProxy, type Exchange, type RecordingProxy } from '../helpers/proxy.ts'
import { freePort } from '../helpers/scope.ts'
import { missingVersions } from '../helpers/versions.ts'
import { checkDamage } from './damage.ts'

// What a client of narwharf must survive: cut transfers, a daemon that dies, paths that vanish, damaged files.

const LAB_LIMIT_MS = 300_000

/** More than the socket buffers between daemon and client hold (some 10 MB on loopback), so that the middle is the middle. */
const BULK_BYTES = 48_000_000
/** Where a transfer is cut: behind the first chunks, far before the end of BIG_FILE_BYTES. */
const CUT_BYTES = 2_000_000

interface Lab {
  readonly closure: LabClosure
  /** A content-addressed path of {@link BULK_BYTES}. */
  readonly bulk: string
  readonly xz: BinaryCache
  readonly none: BinaryCache
  /** Adds a path to the closure's store and the uncompressed cache. */
  add(name: string, bytes: number): Promise<string>
}

const hashPart = (path: string) => path.slice('/nix/store/'.length, '/nix/store/'.length + 32)
const nars = (proxy: RecordingProxy, path: string): Exchange[] =>
  proxy.exchanges.filter(({ url }) => url.startsWith('/nar/') && url.includes(hashPart(path)))

t.setTimeout(LAB_LIMIT_MS)
t.test('a client survives', { skip: labSkip || daemonSkip }, async t => {
  const lab = await makeLab(t)
  const { closure, xz, none } = lab
  const trust = { publicKeys: [closure.upstreamKey, xz.publicKey, none.publicKey] }
  const live = { store: { enable: true, root: closure.host.root }, trust }

  for (const [name, config] of [
    ['a live store', live],
    ['an uncompressed directory', { cache: { dir: none.dir }, trust }],
    ['an xz directory', { cache: { dir: xz.dir }, trust }],
  ] as const) {
    await t.test(name, async t => {
      const daemon = await startDaemon(t, config)
      for (const version of nixVersions()) {
        await t.test(`Nix ${version.version} resumes a NAR that was cut on the way`, t =>
          resumesAfterCut(t, lab, version, daemon),
        )
      }
      await t.test('URLs outlive the daemon', t => urlsOutliveDaemon(t, lab, daemon))
    })
  }
  for (const version of nixVersions()) {
    await t.test(`Nix ${version.version}`, async t => {
      const daemon = await startDaemon(t, live)
      await t.test('a path collected between narinfo and NAR', t =>
        fallsBackWhenCollected(t, lab, version, daemon),
      )
      await t.test('kill -9 in the middle of a NAR, and back', t =>
        resumesAfterKill(t, lab, version, daemon),
      )
      await t.test('no daemon at all, and a second substituter', t =>
        buildsWithoutDaemon(t, lab, version),
      )
    })
  }
  for (const { suite, command } of missingVersions()) {
    t.test(`Nix of Debian ${suite}`, { skip: `make it with: ${command}` }, async () => {})
  }

  await t.test('a holder that breaks in the middle: the next goes on unseen', t =>
    nextHolderGoesOn(t, lab),
  )
  await t.test('damage in a directory', t => checkDamage(t, closure))
  await t.test('a path of the live store that rotted on the disk', t => rottenPath(t, lab, live))
})

async function makeLab(t: Test): Promise<Lab> {
  const closure = await makeClosure(t)
  const { host } = closure
  const addToStore = async (name: string, bytes: number) => {
    writeFileSync(join(host.dir, name), randomFillSync(Buffer.alloc(bytes)))
    const [path = ''] = await host.words('nix-store', '--add', `/client/${name}`)
    return path
  }
  const bulk = await addToStore('bulk', BULK_BYTES)
  const none = await makeBinaryCache(host, [closure.top, bulk], { compression: 'none' })
  const xz = await makeBinaryCache(host, [closure.top], { compression: 'xz' })
  return {
    closure,
    bulk,
    xz,
    none,
    async add(name, bytes) {
      const path = await addToStore(name, bytes)
      await host.run('nix', ['copy', '--to', `file:///client/${none.dir.split('/').at(-1)}`, path])
      return path
    },
  }
}

/** A client with the daemon first and a plain `file://` cache behind it. */
function clientWithFallback(
  t: Test,
  version: NixVersion,
  urls: readonly string[],
  keys: readonly string[],
  fallback: BinaryCache,
): NixHost {
  const client = makeNixHost(t, { version, extra: fallback.dir })
  useSubstituters(client, [...urls, 'file:///extra?priority=90'], [...keys, fallback.publicKey])
  return client
}

async function resumesAfterCut(
  t: Test,
  { closure: { host, bigSigned } }: Lab,
  version: NixVersion,
  daemon: RunningDaemon,
): Promise<void> {
  const proxy = await startProxy(t, daemon.url)
  let cuts = 0
  proxy.meddle = ({ url }) =>
    url.startsWith('/nar/') && cuts++ === 0 ? { cutAfter: CUT_BYTES } : undefined
  const client = makeNixHost(t, { version })
  useSubstituters(client, [proxy.url], [daemon.publicKey])
  await client.run('nix-store', ['-r', bigSigned])
  const [first, second, ...more] = nars(proxy, bigSigned)
  t.match(first, { status: 200, acceptRanges: 'bytes', broken: true })
  t.match(second, { status: 206, broken: false, range: /^bytes=[1-9]\d*-$/ }, 'it resumed')
  t.same(more, [])
  t.same(await differences(host, client, [bigSigned]), [])
  t.same(badExchanges(proxy), [])
}

async function resumesAfterKill(
  t: Test,
  { closure: { host }, bulk }: Lab,
  version: NixVersion,
  daemon: RunningDaemon,
): Promise<void> {
  const proxy = await startProxy(t, daemon.url)
  let kills = 0
  proxy.meddle = ({ url }) =>
    url.startsWith('/nar/') && kills++ === 0
      ? {
          pauseAt: {
            bytes: CUT_BYTES,
            run: async () => {
              await daemon.kill()
              await daemon.restart()
            },
          },
        }
      : undefined
  const client = makeNixHost(t, { version })
  useSubstituters(client, [proxy.url], [daemon.publicKey])
  await client.run('nix-store', ['-r', bulk])
  const [first, ...later] = nars(proxy, bulk)
  t.match(first, { status: 200, broken: true })
  t.match(later.at(-1), { status: 206, broken: false, range: /^bytes=[1-9]\d*-$/ }, 'it resumed')
  t.same(await differences(host, client, [bulk]), [])
  t.same(badExchanges(proxy), [])
}

async function fallsBackWhenCollected(
  t: Test,
  { closure: { host }, none, add }: Lab,
  version: NixVersion,
  daemon: RunningDaemon,
): Promise<void> {
  const lone = await add(`lone-${version.name}`, 300_000)
  const proxy = await startProxy(t, daemon.url)
  proxy.meddle = ({ url }) =>
    url.startsWith('/nar/')
      ? { before: () => host.run('nix-store', ['--delete', lone], { accept: 'any' }) }
      : undefined
  const client = clientWithFallback(t, version, [proxy.url], [daemon.publicKey], none)
  await client.run('nix-store', ['-r', lone])
  t.match(
    proxy.exchanges.filter(({ url }) => url.endsWith('.narinfo')),
    [{ status: 200 }],
    'the narinfo was there',
  )
  t.match(nars(proxy, lone), [{ status: 404 }], 'the NAR was not')
  t.same(await client.words('nix-store', '-q', '--hash', lone).then(words => words.length), 1)
  t.same(badExchanges(proxy), [])
}

/** A path is installed, collected and installed again after the daemon came back: Nix remembers its URL and asks for no narinfo. */
async function urlsOutliveDaemon(
  t: Test,
  { closure: { host, bigSigned } }: Lab,
  daemon: RunningDaemon,
): Promise<void> {
  const proxy = await startProxy(t, daemon.url)
  const clients = nixVersions().map(version => makeNixHost(t, { version }))
  for (const client of clients) {
    useSubstituters(client, [proxy.url], [daemon.publicKey])
    await client.run('nix-store', ['-r', bigSigned])
    await client.run('nix-store', ['--delete', bigSigned])
  }
  await daemon.restart()
  for (const client of clients) {
    proxy.exchanges.length = 0
    await client.run('nix-store', ['-r', bigSigned])
    t.match(
      proxy.exchanges.map(({ url, status }) => [url.startsWith('/nar/'), status]),
      [[true, 200]],
      `Nix ${client.version.version} went straight to the NAR`,
    )
    t.same(await differences(host, client, [bigSigned]), [])
  }
}

async function buildsWithoutDaemon(
  t: Test,
  { closure: { host, top, paths }, none }: Lab,
  version: NixVersion,
): Promise<void> {
  const url = `http://127.0.0.1:${await freePort()}`
  const client = clientWithFallback(t, version, [url], [], none)
  const expression = `derivation { name = "uses-top"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo $top > $out" ]; top = builtins.storePath "${top}"; }`
  await client.run('nix-store', ['-r', top])
  const [built = ''] = await client.words('nix-build', '--no-out-link', '-E', expression)
  t.match(built, /-uses-top$/)
  t.same(await differences(host, client, paths), [])
}

async function nextHolderGoesOn(t: Test, lab: Lab): Promise<void> {
  const { closure, bulk, none } = lab
  const first = await makeBinaryCache(closure.host, [bulk], { compression: 'none' })
  const daemon = await startDaemon(t, {
    cache: { dir: first.dir, extraDirs: [none.dir] },
    trust: { publicKeys: [first.publicKey, none.publicKey] },
  })
  const proxy = await startProxy(t, daemon.url)
  const file = spawnSync('find', [join(first.dir, 'nar'), '-type', 'f', '-size', '+40M'], {
    encoding: 'utf8',
  }).stdout.trim()
  proxy.meddle = ({ url }) =>
    url.startsWith('/nar/')
      ? { pauseAt: { bytes: CUT_BYTES, run: async () => truncateSync(file, CUT_BYTES) } }
      : undefined
  const client = makeNixHost(t, { version: hostNix })
  useSubstituters(client, [proxy.url], [daemon.publicKey])
  await client.run('nix-store', ['-r', bulk])
  t.match(nars(proxy, bulk), [{ status: 200, broken: false }], 'one transfer, never broken')
  t.same(await differences(closure.host, client, [bulk]), [])
  t.same(badExchanges(proxy), [])
}

async function rottenPath(
  t: Test,
  { closure: { host }, none, add }: Lab,
  config: Parameters<typeof startDaemon>[1],
): Promise<void> {
  const rotten = await add('rotten', 200_000)
  spawnSync('sh', [
    '-c',
    'printf X | dd of="$1" bs=1 seek=100000 conv=notrunc',
    'sh',
    host.physical(rotten),
  ])
  const daemon = await startDaemon(t, config)
  const proxy = await startProxy(t, daemon.url)
  const client = clientWithFallback(t, hostNix, [proxy.url], [daemon.publicKey], none)
  await client.run('nix-store', ['-r', rotten])
  t.same(
    proxy.exchanges.filter(({ url, bytes }) => url.startsWith('/nar/') && bytes > 10),
    [],
    'no byte of it reached the client',
  )
  t.same((await client.run('nix-store', ['--verify-path', rotten], { accept: 'any' })).status, 0)
  t.same(badExchanges(proxy), [])
}
