import t, { type Test } from 'tap'
import { makeBinaryCache, type BinaryCache } from '../helpers/binary-cache.ts'
import { makeClosure, type LabClosure } from '../helpers/closure.ts'
import { daemonSkip, startDaemon, type ConfigOverrides } from '../helpers/daemon.ts'
import { differences, storeProblems, useSubstituters } from '../helpers/nix-client.ts'
import { hostNix, labSkip, makeNixHost, nixVersions, type NixVersion } from '../helpers/nix-host.ts'
import { badExchanges, startProxy, type RecordingProxy } from '../helpers/proxy.ts'
import { missingVersions } from '../helpers/versions.ts'
import { checkSurface } from './surface.ts'

// The main job: a real Nix with an empty store installs a whole closure from the daemon, from a live store and from
// directories, with every version of Nix that is here.

const LAB_LIMIT_MS = 300_000

/** Something a daemon serves the closure from. */
type Source = 'live' | 'none' | 'xz' | 'zstd'

t.setTimeout(LAB_LIMIT_MS)
t.test('a real Nix', { skip: labSkip || daemonSkip }, async t => {
  const closure = await makeClosure(t)
  const caches: Record<Exclude<Source, 'live'>, BinaryCache> = {
    none: await makeBinaryCache(closure.host, [closure.top], { compression: 'none' }),
    xz: await makeBinaryCache(closure.host, [closure.top], { compression: 'xz' }),
    zstd: await makeBinaryCache(closure.host, [closure.top, closure.shapesDrv], {
      compression: 'zstd',
      listings: true,
      logs: [closure.shapesDrv],
    }),
  }
  const served = {
    live: await serve(t, closure, 'live'),
    none: await serve(t, closure, 'none'),
    xz: await serve(t, closure, 'xz'),
    zstd: await serve(t, closure, 'zstd'),
  }

  async function serve(scope: Test, { host, upstreamKey }: LabClosure, source: Source) {
    const config: ConfigOverrides =
      source === 'live'
        ? { store: { enable: true, root: host.root }, trust: { publicKeys: [upstreamKey] } }
        : { cache: { dir: caches[source].dir }, trust: { publicKeys: [caches[source].publicKey] } }
    const daemon = await startDaemon(scope, config)
    const proxy = await startProxy(scope, daemon.url)
    return { proxy, publicKey: daemon.publicKey }
  }

  t.equal(closure.paths.length > 300, true, `the closure has ${closure.paths.length} paths`)

  for (const source of ['live', 'zstd'] as const) {
    await t.test(`the HTTP surface over ${source}`, t =>
      checkSurface(t, closure, served[source].proxy.url),
    )
  }
  for (const version of nixVersions()) {
    // The other versions differ in how they ask, not in how they unpack each compression.
    const sources: readonly Source[] =
      version === hostNix ? ['live', 'none', 'xz', 'zstd'] : ['live', 'xz']
    for (const source of sources) {
      await t.test(`Nix ${version.version} installs from ${source}`, t =>
        install(t, closure, version, served[source]),
      )
    }
    await t.test(`Nix ${version.version} looks around in the daemon`, t =>
      lookAround(t, closure, version, served.live),
    )
  }
  for (const { suite, command } of missingVersions()) {
    t.test(`Nix of Debian ${suite}`, { skip: `make it with: ${command}` }, async () => {})
  }
})

interface Served {
  readonly proxy: RecordingProxy
  readonly publicKey: string
}

/** `nix-store -r` into an empty store: all paths, whole, the same, and no bad status on the way. */
async function install(
  t: Test,
  { host, top, paths }: LabClosure,
  version: NixVersion,
  { proxy, publicKey }: Served,
): Promise<void> {
  const client = makeNixHost(t, { version })
  useSubstituters(client, [proxy.url], [publicKey])
  proxy.exchanges.length = 0
  await client.run('nix-store', ['-r', top])
  t.same((await client.words('nix-store', '-qR', top)).sort(), paths, 'every path is there')
  t.same(await storeProblems(client), [], 'nix-store --verify --check-contents is content')
  t.same(await differences(host, client, paths), [], 'byte for byte the same as the source')
  t.same(badExchanges(proxy), [], 'no status but 200, 206, 304, 404 and 416')
}

/** The other commands of Nix that ask a binary cache. */
async function lookAround(
  t: Test,
  { host, top, paths, shapes, shapesDrv, stray }: LabClosure,
  version: NixVersion,
  { proxy, publicKey }: Served,
): Promise<void> {
  proxy.exchanges.length = 0
  const url = proxy.url
  const client = makeNixHost(t, { version })
  useSubstituters(client, [url], [publicKey])

  const known = await client.words('nix', 'path-info', '--store', url, '-r', top)
  t.same(known.sort(), paths, 'nix path-info -r knows the closure')

  const listed = await client.run('nix', ['store', 'ls', '--store', url, '-R', `${shapes}/bin`])
  t.match(listed.stdout, /hello/, 'nix store ls lists')
  const hello = await client.run('nix', ['store', 'cat', '--store', url, `${shapes}/bin/hello`])
  t.equal(hello.stdout, '#!/bin/sh\necho hello\n', 'nix store cat shows the file')

  const log = await client.run('nix', ['log', '--store', url, shapesDrv])
  t.match(log.stdout, /the log of shapes/, 'nix log shows the log')

  await client.run('nix', ['store', 'verify', '--store', url, '-r', top])
  t.pass('nix store verify -r finds every NAR right and every signature trusted')

  await client.run('nix', ['copy', '--from', url, top])
  t.same(await differences(host, client, paths), [], 'nix copy --from copies the closure')

  const refused = await client.run('nix-store', ['-r', stray], { accept: 'any' })
  t.not(refused.status, 0, 'a path that nobody vouches for is not to be had')
  t.same(badExchanges(proxy), [], 'no status but 200, 206, 304, 404 and 416')
}
