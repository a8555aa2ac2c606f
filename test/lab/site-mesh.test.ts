import t from 'tap'
import { differences } from '../helpers/nix-client.ts'
import { makeSite, siteSkip } from './site/site.ts'
import { timed, until } from './site/until.ts'
import { knowAll, knows, meshed, narinfoPath, record, within } from './site/views.ts'

// Six hosts on one network without a way out: they find one another, and what one has the others can install.

/** The aims of the issue, from the start of the processes and from the end of a build; docs/site.md has the figures. */
const MESH_AIM_MS = 3000
const PATH_AIM_MS = 2000

/** Until it is taken for broken: six starts at once on two processors that others use too. */
const MESH_LIMIT_MS = 90_000
const PATH_LIMIT_MS = 30_000
const LAB_LIMIT_MS = 300_000

t.setTimeout(LAB_LIMIT_MS)
t.test('six hosts', { skip: siteSkip }, async t => {
  const site = await makeSite(t, { hosts: ['a', 'b', 'c', 'd', 'e', 'f'] })
  const { hosts } = site
  const [a, f] = [site.host('a'), site.host('f')]
  await site.start()
  await site.unite()
  await Promise.all(hosts.map(host => host.stop()))

  await t.test('started together, they hold one another’s indexes', async t => {
    // Built while all daemons are off: nobody can know of them from before.
    const paths: string[] = []
    for (const host of hosts) paths.push(await host.build(`of-${host.name}`, host.name))
    const start = performance.now()
    const starting = site.start()
    await until('all are connected', MESH_LIMIT_MS, () => meshed(hosts), 50)
    const connected = performance.now() - start
    await until('all know what all have', MESH_LIMIT_MS, () => knowAll(hosts, paths), 50)
    within(t, 'six hosts started together: fully meshed', connected, MESH_AIM_MS)
    record(t, 'six hosts started together: all indexes everywhere', performance.now() - start)
    await starting
    t.ok(await meshed(hosts), 'fully meshed')
    await f.realise(paths)
    t.same(await differences(a.nix, f.nix, paths.slice(0, 1)), [], 'and install from one another')
  })

  await t.test('a path built on one is there for the last', async t => {
    const path = await a.build('fresh', 'built just now\n')
    const built = performance.now()
    await until(
      'f offers it',
      PATH_LIMIT_MS,
      async () => (await f.get(narinfoPath(path))).status === 200,
    )
    record(t, 'built on a: offered on f', performance.now() - built)
    await f.realise([path])
    within(t, 'built on a: installed on f', performance.now() - built, PATH_AIM_MS)
    t.same(await differences(a.nix, f.nix, [path]), [])
    for (const host of hosts) {
      await until(`${host.name} knows`, PATH_LIMIT_MS, () => knows(host, path, a))
      const { stdout } = await host.narwharf(['who-has', path])
      t.match(stdout, new RegExp(`\\ba\\b`), `who-has on ${host.name}`)
    }
  })

  await t.test('a path collected on one is offered no more', async t => {
    const path = await a.build('short-lived', 'soon gone\n')
    await until(
      'f offers it',
      PATH_LIMIT_MS,
      async () => (await f.get(narinfoPath(path))).status === 200,
    )
    await a.nix.run('nix-store', ['--delete', path])
    const { ms } = await timed(
      'f offers it no more',
      PATH_LIMIT_MS,
      async () => (await f.get(narinfoPath(path))).status === 404,
    )
    within(t, 'collected on a: offered no more on f', ms, PATH_AIM_MS)
    await until('f forgets who had it', PATH_LIMIT_MS, async () => !(await knows(f, path, a)))
    const { status } = await f.nix.run('nix-store', ['-r', path], { accept: 'any' })
    t.not(status, 0, 'a clean miss')
  })
})
