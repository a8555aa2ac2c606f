import { cpSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { DrivesReply } from '../../protocol/api-drives.ts'
import type { JobsReply } from '../../protocol/api-jobs.ts'
import { differences, storeProblems } from '../helpers/nix-client.ts'
import { DRIVES_DIR, driveSkip, makeDrive } from './site/drive.ts'
import type { SiteHost } from './site/site-host.ts'
import { makeSite, siteSkip } from './site/site.ts'
import { timed, until } from './site/until.ts'
import { narinfoPath, record, within } from './site/views.ts'

// The story that all of this is for: the island says what it has and wishes for, the depot packs a drive, the ship brings it, it
// is plugged into somebody's desktop; what it brought is there for everybody, and stays when the drive goes back.

const NOTICED_AIM_MS = 2000
const LIMIT_MS = 60_000
const LAB_LIMIT_MS = 300_000
const LABEL = 'KERGUELEN-2'

/** Slow enough that a merge is under way while somebody installs, bits per second. */
const SLOW_CABLE = 24_000_000
const BIG_BYTES = 4_000_000

/** A path that refers to another. */
const APP = `
  let make = name: text: derivation { inherit name text; system = builtins.currentSystem;
        builder = "/bin/sh"; args = [ "-euc" "printf %s \\"$text\\" > $out" ]; };
  in make "app-1.0" "uses \${make "lib-1.0" "the library"}"`

const mergesOn = async (host: SiteHost) =>
  (await host.api<JobsReply>('jobs')).jobs.filter(({ kind }) => kind === 'merge')
const isPlugged = async (host: SiteHost) =>
  (await host.api<DrivesReply>('drives')).drives.some(
    ({ name, plugged }) => name === LABEL && plugged,
  )
const offers = async (host: SiteHost, path: string) =>
  (await host.get(narinfoPath(path))).status === 200

t.setTimeout(LAB_LIMIT_MS)
t.test('a shipment, from the wish to the receipt', { skip: siteSkip || driveSkip() }, async t => {
  const site = await makeSite(t, {
    hosts: [
      { name: 'depot', networks: ['far'] },
      'desk',
      { name: 'keeper', config: { cache: { keepShipments: true } } },
      'lab',
      'late',
    ],
    config: { drives: { watch: true, under: [DRIVES_DIR] } },
  })
  const [depot, desk, keeper, lab, late] = ['depot', 'desk', 'keeper', 'lab', 'late'].map(name =>
    site.host(name),
  ) as [SiteHost, SiteHost, SiteHost, SiteHost, SiteHost]
  const island = [desk, keeper, lab, late]
  await depot.start()
  const trust = { publicKeys: [depot.publicKey] }
  await Promise.all(island.map(host => host.start({ trust })))
  await site.unite('desk', 'keeper', 'lab', 'late')

  const known = await depot.build('known', 'the island has this already\n')
  t.equal(await lab.build('known', 'the island has this already\n'), known)
  const [app = ''] = await depot.nix.words('nix-build', '--no-out-link', '-E', APP)
  const big: string[] = []
  for (let number = 0; number < 5; number++) {
    big.push(await depot.build(`big-${number}`, BIG_BYTES))
  }
  const [first = '', second = ''] = big

  await t.test('the island says what it has and wishes for', async t => {
    await lab.narwharf(['want', 'add', app, '--priority', '1'])
    await until('the desk knows of the wish', LIMIT_MS, async () =>
      (await desk.narwharf(['want', 'list'])).stdout.includes('app-1.0'),
    )
    const missing = await desk.narwharf(['missing', app], { accept: 'any' })
    t.equal(missing.status, 3, 'something is missing')
    t.match(missing.stdout, /app-1\.0/)
    await until('the desk knows who has it', LIMIT_MS, () => offers(desk, known))
    await desk.narwharf(['have', '-o', '/client/island.have'])
    await desk.narwharf(['want', 'export', '-o', '/client/island.want'])
  })

  const drive = await makeDrive(t, site.dir, { label: LABEL, megabytes: 128 })
  await t.test('the depot packs what is wished for and lacking', async t => {
    for (const file of ['island.have', 'island.want']) {
      cpSync(join(desk.nix.dir, file), join(depot.nix.dir, file))
    }
    await drive.plug(depot)
    await depot.narwharf([
      ...['ship', drive.mountPoint, known, ...big],
      ...['--have', '/client/island.have', '--want', '/client/island.want'],
    ])
    const names = await drive.shell(depot, 'cat "$1"/*.narinfo')
    t.match(names, /-app-1\.0\n/, 'what was wished for')
    t.match(names, /-lib-1\.0\n/, 'with what it needs')
    t.match(names, /-big-4\n/)
    t.notMatch(names, /-known\n/, 'the island has it')
    const { status } = await depot.narwharf(['verify', drive.mountPoint])
    t.equal(status, 0)
    await depot.narwharf(['eject', LABEL], { accept: 'any' })
    await until('it is out', LIMIT_MS, async () => !(await isPlugged(depot)))
  })

  await t.test('plugged into a desk: offered to all, and merged by the keeper', async t => {
    await site.network.setRate('keeper', SLOW_CABLE)
    await drive.plug(desk)
    const plugged = performance.now()
    await until('the desk notices', LIMIT_MS, () => isPlugged(desk))
    within(t, 'drive plugged: noticed', performance.now() - plugged, NOTICED_AIM_MS)
    await until('the desk offers', LIMIT_MS, () => offers(desk, first))
    record(t, 'drive plugged: offered by its host', performance.now() - plugged)
    await until('another host offers', LIMIT_MS, () => offers(lab, app))
    record(t, 'drive plugged: offered by another host', performance.now() - plugged)
    await until('the keeper merges', LIMIT_MS, async () =>
      (await mergesOn(keeper)).some(({ state }) => state === 'running'),
    )
    await lab.realise([app, first])
    t.match(
      await mergesOn(keeper),
      [{ state: 'running' }],
      'installed while the merge was still running',
    )
    t.same(await differences(depot.nix, lab.nix, [app, first]), [])
    await site.network.setRate('keeper', undefined)
    await until('the keeper has it all', LIMIT_MS, async () =>
      (await mergesOn(keeper)).some(({ state }) => state === 'done'),
    )
    record(t, 'drive plugged: kept by the keeper', performance.now() - plugged)
  })

  await t.test('what travels back lies on the drive', async t => {
    const isWhole = (files: string) => files.includes('want/') && !files.includes('unfinished')
    const listing = await until('the receipt and the rest', LIMIT_MS, async () => {
      const files = await drive.shell(desk, 'cd "$1/narwharf"; find . -type f | sort')
      return files.includes('receipts/') && isWhole(files) && files
    })
    t.match(listing, /^\.\/have\//m, 'the new have digest')
    t.match(listing, /^\.\/want\//m, 'the want list')
    t.match(listing, /^\.\/receipts\/lab-desk-.*\.json$/m)
  })

  await t.test('pulled, everything stays', async t => {
    await drive.unplug(desk, { lazy: true })
    const { ms } = await timed('the desk notices', LIMIT_MS, async () => !(await isPlugged(desk)))
    within(t, 'drive pulled: noticed', ms, NOTICED_AIM_MS)
    await late.realise([app, second])
    t.same(await differences(depot.nix, late.nix, [app, second]), [], 'from the keeper')
    t.same(await storeProblems(late.nix), [])
    const { stdout } = await desk.narwharf(['who-has', second])
    t.match(stdout, /KERGUELEN-2/, 'a drive in a drawer stays known')
    t.match(stdout, /not plugged/)
    await until('another host knows it, too', LIMIT_MS, async () =>
      (await late.narwharf(['who-has', second])).stdout.includes('not plugged'),
    )
    const missing = await late.narwharf(['missing', app, ...big], { accept: 'any' })
    t.equal(missing.status, 0, `nothing is missing: ${missing.stdout}${missing.stderr}`)
  })
})
