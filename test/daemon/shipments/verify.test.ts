import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createDirectoryRepair } from '../../../daemon/shipments/verify-repair.ts'
import { verifyDirectory } from '../../../daemon/shipments/verify.ts'
import { keyring } from '../../../protocol/signature.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import { pathOf } from '../../helpers/nix-store.ts'
import { tempDir } from '../../helpers/scope.ts'
import {
  DEPOT_KEY,
  makeDepot,
  sampleClosure,
  writeCache,
  type Depot,
} from '../../helpers/ship-rig.ts'

const quiet = { note() {}, progress() {} }
const signal = new AbortController().signal

/** A depot, and a drive that it packed. */
async function packed(t: Test): Promise<{ depot: Depot; cache: string; dir: string }> {
  const cache = join(tempDir(t, 'verify'), 'cache')
  await writeCache(cache, sampleClosure())
  const depot = await makeDepot(t, [cache])
  const dir = join(tempDir(t, 'verify'), 'drive')
  await depot.ship({ dir, roots: [pathOf('top')] })
  return { depot, cache, dir }
}

const verify = (
  { host }: Depot,
  dir: string,
  repair?: Parameters<typeof verifyDirectory>[0]['repair'],
) =>
  verifyDirectory({
    ...{ dir, signal, repair, storeDir: '/nix/store', job: quiet, pool: host.pool },
    ...{ trust: host.trust, substitution: host.substitution },
    keys: keyring([DEPOT_KEY.publicKey]),
  })

const narinfoOf = (dir: string, name: string) => join(dir, `${hashPartOf(pathOf(name))}.narinfo`)
const narOfPath = (dir: string, name: string) =>
  join(dir, /^URL: (.*)$/m.exec(readFileSync(narinfoOf(dir, name), 'latin1'))?.[1] ?? '')

function flip(file: string): void {
  const bytes = readFileSync(file)
  bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1)
  writeFileSync(file, bytes)
}

t.test('what is right', async t => {
  const { depot, cache, dir } = await packed(t)
  const all = { paths: 6, good: 6, damagedPaths: 0, incompletePaths: 0, problems: [] }
  t.match(await verify(depot, dir), all)
  t.match(await verify(depot, cache), all, 'a cache without a manifest')
})

t.test('each kind of damage is found', async t => {
  const { depot, dir } = await packed(t)
  flip(narOfPath(dir, 'firefox'))
  const cut = narOfPath(dir, 'gtk')
  writeFileSync(cut, readFileSync(cut).subarray(0, -1))
  rmSync(narOfPath(dir, 'bash'))
  const link = narOfPath(dir, 'glibc')
  rmSync(link)
  symlinkSync('/dev/zero', link)
  writeFileSync(narinfoOf(dir, 'empty'), 'StorePath: nonsense\n')
  const [index = ''] = readdirSync(join(dir, 'narwharf/index'))
  flip(join(dir, 'narwharf/index', index))
  const found = await verify(depot, dir)
  t.match(found, { paths: 6, good: 1, damagedPaths: 5, repairedPaths: 0 })
  t.equal(found.damaged.length, 5)
  t.match(found.problems[0], /index.* is damaged/)
  flip(join(dir, 'narwharf/shipment.json'))
  t.match((await verify(depot, dir)).problems[0], /the manifest is damaged/)
})

t.test('a narinfo that the index does not know', async t => {
  const { depot, dir } = await packed(t)
  const text = readFileSync(narinfoOf(dir, 'empty'), 'latin1')
  writeFileSync(narinfoOf(dir, 'empty'), text.replace(/^FileHash: .*\n/m, ''))
  rmSync(narinfoOf(dir, 'top'))
  const { problems } = await verify(depot, dir)
  t.equal(problems.length, 2)
  t.match(problems.join('\n'), /index says other things of .*-empty/)
  t.match(problems.join('\n'), /index has .*-top, which is not there/)
})

t.test('what it refers to is nowhere', async t => {
  const dir = join(tempDir(t, 'verify'), 'cache')
  await writeCache(dir, sampleClosure())
  const none = join(tempDir(t, 'verify'), 'none')
  mkdirSync(none)
  const depot = await makeDepot(t, [none])
  rmSync(narinfoOf(dir, 'empty'))
  const found = await verify(depot, dir)
  t.match(found, { good: 5, incompletePaths: 1, incomplete: [{ storePath: pathOf('top') }] })
})

t.test('damage is repaired from another holder', async t => {
  const { depot, cache, dir } = await packed(t)
  const repairOf = () =>
    createDirectoryRepair({
      ...{ ...depot.host, dir, job: quiet, signal },
      without: [`cache-dir:${dir}`],
    })
  await t.test('which has it', async t => {
    flip(narOfPath(dir, 'firefox'))
    rmSync(narOfPath(dir, 'glibc'))
    const repair = await repairOf()
    const found = await verify(depot, dir, path => repair.mend(path))
    await repair.finish()
    await repair.close()
    t.match(found, { good: 4, damagedPaths: 2, repairedPaths: 2 })
    t.ok(found.damaged.every(({ repairedFrom }) => repairedFrom === `cache-dir:${cache}`))
    t.match(await verify(depot, dir), { good: 6, damagedPaths: 0, problems: [] })
  })
  await t.test('and stays where nobody has', async t => {
    flip(narOfPath(dir, 'firefox'))
    rmSync(narinfoOf(cache, 'firefox'))
    const repair = await repairOf()
    const found = await verify(depot, dir, path => repair.mend(path))
    await repair.finish()
    await repair.close()
    t.match(found, { good: 5, damagedPaths: 1, repairedPaths: 0 })
    t.ok(existsSync(narOfPath(dir, 'firefox')), 'a NAR with one wrong bit is more than none')
  })
})

t.test('a place that is none', async t => {
  const { depot } = await packed(t)
  await t.rejects(verify(depot, join(tempDir(t, 'verify'), 'none')), { code: 'SHIP_TARGET_UNFIT' })
})
