import { spawnSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { makeClosure, type LabClosure } from '../helpers/closure.ts'
import { daemonSkip, startDaemon, type RunningDaemon } from '../helpers/daemon.ts'
import { makeLink, type Link } from '../helpers/link.ts'
import { differences, storeProblems, useSubstituters } from '../helpers/nix-client.ts'
import { labSkip, makeNixHost, nixVersions, type NixVersion } from '../helpers/nix-host.ts'
import { badExchanges, startProxy } from '../helpers/proxy.ts'

// Another machine asks, over a network of the test's own: what may leave this host, and how it is packed.

const LAB_LIMIT_MS = 300_000
const CUT_BYTES = 2_000_000

const linkSkip =
  labSkip ||
  (spawnSync('ip', ['netns', 'list']).status !== 0 && 'needs network namespaces (iproute2)')

const hashPart = (path: string) => path.slice('/nix/store/'.length, '/nix/store/'.length + 32)

t.setTimeout(LAB_LIMIT_MS)
t.test('from another machine', { skip: linkSkip || daemonSkip }, async t => {
  const closure = await makeClosure(t)
  const link = await makeLink(t)
  const start = (share: string) =>
    startDaemon(t, {
      http: { host: link.host },
      store: { enable: true, root: closure.host.root },
      trust: { publicKeys: [closure.upstreamKey] },
      share: { withLan: share },
    })
  const signed = await start('signed')
  const all = await start('all')
  for (const version of nixVersions()) {
    await t.test(`Nix ${version.version}`, async t => {
      await t.test('is offered what is signed or content-addressed, no more', t =>
        onlyPublic(t, closure, link, version, signed),
      )
      await t.test('resumes a NAR that is packed on the fly', t =>
        resumesPacked(t, closure, link, version, signed),
      )
      await t.test('is offered everything where the owner says so', t =>
        installsAll(t, closure, link, version, all),
      )
    })
  }
})

/** A client on the other machine, and a proxy that the daemon takes for that machine. */
async function makeClient(t: Test, link: Link, version: NixVersion, daemon: RunningDaemon) {
  const proxy = await startProxy(t, daemon.url, link.host)
  const client = makeNixHost(t, { version, netns: link.netns })
  useSubstituters(client, [proxy.url], [daemon.publicKey])
  return { client, proxy }
}

async function onlyPublic(
  t: Test,
  { host, signed, contentAddressed, shapes, stray }: LabClosure,
  link: Link,
  version: NixVersion,
  daemon: RunningDaemon,
): Promise<void> {
  const { client, proxy } = await makeClient(t, link, version, daemon)
  const offered = [...signed.slice(0, 20), ...contentAddressed]
  await client.run('nix-store', ['-r', ...offered])
  t.same(await differences(host, client, offered), [])
  for (const path of [shapes, stray]) {
    const { status } = await client.run('nix-store', ['-r', path], { accept: 'any' })
    t.not(status, 0, `${path} stays here`)
    const asked = proxy.exchanges.filter(({ url }) => url.includes(hashPart(path)))
    t.ok(asked.length > 0 && asked.every(exchange => exchange.status === 404))
  }
  t.same(badExchanges(proxy), [])
}

async function resumesPacked(
  t: Test,
  { host, bigSigned }: LabClosure,
  link: Link,
  version: NixVersion,
  daemon: RunningDaemon,
): Promise<void> {
  const { client, proxy } = await makeClient(t, link, version, daemon)
  let cuts = 0
  proxy.meddle = ({ url }) =>
    url.startsWith('/nar/') && cuts++ === 0 ? { cutAfter: CUT_BYTES } : undefined
  await client.run('nix-store', ['-r', bigSigned])
  const nars = proxy.exchanges.filter(({ url }) => url.startsWith('/nar/'))
  t.ok(
    nars.every(({ url }) => url.endsWith('.nar.zst')),
    'packed with zstd',
  )
  t.match(nars, [
    { status: 200, acceptRanges: 'bytes', broken: true },
    { status: 206, broken: false, range: /^bytes=[1-9]\d*-$/ },
  ])
  t.same(await differences(host, client, [bigSigned]), [])
  t.same(badExchanges(proxy), [])
}

async function installsAll(
  t: Test,
  { host, top, paths }: LabClosure,
  link: Link,
  version: NixVersion,
  daemon: RunningDaemon,
): Promise<void> {
  const { client, proxy } = await makeClient(t, link, version, daemon)
  await client.run('nix-store', ['-r', top])
  t.same(await storeProblems(client), [])
  t.same(await differences(host, client, paths), [])
  t.same(badExchanges(proxy), [])
}
