import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { MergeResult } from '../../../protocol/api-jobs.ts'
import { formatNarinfo, parseNarinfo } from '../../../protocol/narinfo.ts'
import { parseReceipt } from '../../../protocol/receipt.ts'
import type { ShipmentManifest, ShipmentSection } from '../../../protocol/shipment.ts'
import { flip } from '../../helpers/cache-places.ts'
import {
  depotPublicKey,
  flawsOf,
  mergeRig,
  namesIn,
  narTimes,
  partNamed,
  pathNamed,
  writeSampleCache,
  type SamplePath,
} from '../../helpers/merge-rig.ts'
import { tempDir } from '../../helpers/scope.ts'

const CHAIN: readonly SamplePath[] = [
  { name: 'app', references: ['lib', 'base'], size: 3000 },
  { name: 'lib', references: ['base', 'lib'] },
  { name: 'base', size: 70_000, compression: 'none' },
]

const narinfoIn = (dir: string, name: string) =>
  parseNarinfo(readFileSync(join(dir, `${partNamed(name)}.narinfo`)))

const nameFile = (dir: string, name: string) => join(dir, narinfoIn(dir, name).url)

async function driveOf(t: Test, paths: readonly SamplePath[] = CHAIN) {
  const dir = tempDir(t, 'drive')
  return { dir, infos: writeSampleCache(dir, paths) }
}

t.test('a drive is merged by hand: all that is signed comes, files as they are', async t => {
  const { dir } = await driveOf(t)
  const rig = await mergeRig(t)
  rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
  t.same(rig.jobs.list(), [], 'nothing begins by itself where the host is no keeper')
  const job = await rig.merges.merge({ drive: 'K-1' })
  const ended = await job.ended
  t.match(ended, { state: 'done', title: 'merge K-1', summary: '3 paths came' })
  t.match(ended.result, { came: 3, wasThere: 0, damaged: 0, paths: 3, cut: false })
  t.same(namesIn(rig.cacheDir), ['app', 'base', 'lib'])
  t.same(flawsOf(rig.cacheDir), [])
  for (const name of ['app', 'lib', 'base']) {
    const [from, here] = [narinfoIn(dir, name), narinfoIn(rig.cacheDir, name)]
    t.equal(here.url, from.url)
    t.ok(
      from.signatures.every(signature => here.signatures.includes(signature)),
      'signatures stay',
    )
    t.same(readFileSync(join(rig.cacheDir, here.url)), readFileSync(join(dir, from.url)))
  }
  const times = narTimes(rig.cacheDir)
  const again = await (await rig.merges.merge({ drive: dir })).ended
  t.match(again, { state: 'done', result: { came: 0, wasThere: 3 } })
  t.same(narTimes(rig.cacheDir), times, 'nothing is copied twice')
  t.equal(rig.drives.inUse, 0)
  await t.rejects(
    rig.merges.merge({
      drive: (rig.drives.plug({ ...(await rig.drive(dir)), id: 'e', holder: undefined }), 'e'),
    }),
    { code: 'MERGE_NOTHING' },
  )
})

t.test('receipts and what travels back', async t => {
  const { dir } = await driveOf(t)
  const missing = [pathNamed('wished')]
  const rig = await mergeRig(t, {
    wantsMissing: async () => missing,
    travel: async () => [{ file: 'narwharf/have/lab.have', bytes: Buffer.from('have') }],
    clock: () => Date.UTC(2026, 0, 2, 3, 4, 5),
  })
  rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
  const { result } = await (await rig.merges.merge({ drive: 'k-1' })).ended
  const { receipt } = result as MergeResult
  t.equal(receipt, 'narwharf/receipts/lab-lab-3-2026-01-02T03-04-05Z.json')
  const read = parseReceipt(readFileSync(join(dir, receipt ?? '')))
  t.match(read.receipt, {
    drive: 'K-1',
    host: 'lab-3',
    site: 'lab',
    came: 3,
    complete: true,
    missing,
  })
  t.equal(readFileSync(join(dir, 'narwharf/have/lab.have'), 'utf8'), 'have')
  t.same(readdirSync(join(dir, 'narwharf/receipts')).length, 1, 'no half file')
  // A link on the drive leads nowhere.
  const outside = tempDir(t, 'outside')
  rmSync(join(dir, 'narwharf'), { recursive: true })
  symlinkSync(outside, join(dir, 'narwharf'))
  const second = await (await rig.merges.merge({ drive: 'k-1' })).ended
  t.match(second.result, { receiptProblem: /is no directory/ })
  t.same(readdirSync(outside), [])
  rig.drives.plug(await rig.drive(dir, { id: 'k-2', readOnly: true }))
  t.match((await (await rig.merges.merge({ drive: 'k-2' })).ended).result, {
    receiptProblem: 'the drive is read-only',
  })
})

t.test('what nobody trusted answers for is left, unless the operator does', async t => {
  const { dir } = await driveOf(t, [
    { name: 'base', signed: false },
    { name: 'app', references: ['base'] },
    { name: 'my-secrets-1' },
  ])
  const rig = await mergeRig(t)
  rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
  const first = await (await rig.merges.merge({ drive: 'k-1' })).ended
  t.match(first, {
    state: 'partly',
    result: {
      came: 0,
      refused: 2,
      parked: 1,
      parkedPaths: [{ storePath: pathNamed('app'), lacking: partNamed('base') }],
    },
  })
  t.ok((first.result as MergeResult).refusedPaths.some(({ problem }) => /no trusted/.test(problem)))
  t.same(namesIn(rig.cacheDir), [])
  const second = await (await rig.merges.merge({ drive: 'k-1', trust: true })).ended
  t.match(second.result, { came: 2, refused: 1, parked: 0 })
  t.match(narinfoIn(rig.cacheDir, 'base').signatures, [/^lab-3/], 'this host answers for it')
  t.same(flawsOf(rig.cacheDir), [])
})

t.test(
  'damaged files: that path is said, repaired where another has it, the rest goes on',
  async t => {
    const { dir } = await driveOf(t, [
      { name: 'base' },
      { name: 'flipped', references: ['base'] },
      { name: 'cut', references: ['base'], size: 5000 },
      { name: 'gone' },
      { name: 'above', references: ['flipped'] },
      { name: 'fine', references: ['cut'] },
      { name: 'bomb', content: Buffer.alloc(3_000_000), size: 1 },
      { name: 'link' },
      { name: 'swapped' },
    ])
    const repaired = narinfoIn(dir, 'cut')
    flip(nameFile(dir, 'flipped'))
    truncateSync(nameFile(dir, 'cut'), 100)
    rmSync(nameFile(dir, 'gone'))
    const secret = join(tempDir(t, 'outside'), 'secret')
    writeFileSync(secret, readFileSync(nameFile(dir, 'link')))
    rmSync(nameFile(dir, 'link'))
    symlinkSync(secret, nameFile(dir, 'link'))
    writeFileSync(nameFile(dir, 'swapped'), readFileSync(nameFile(dir, 'base')))
    const asked: string[] = []
    const rig = await mergeRig(t, {
      // Another holder has the one that was cut off.
      substitution: {
        verdicts: { condemn() {} },
        candidates: async (part: string) => {
          asked.push(part)
          return part === partNamed('cut')
            ? [{ holder: { id: 'peer:a', kind: 'peer' }, holding: { info: repaired } }]
            : []
        },
        nar: async () => undefined,
      } as never,
    })
    rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
    const { state, result, notes } = await (await rig.merges.merge({ drive: 'k-1' })).ended
    t.equal(state, 'partly')
    // What has no file of the right kind and size is not on the drive at all.
    t.match(result, { paths: 7, came: 2, damaged: 3, repaired: 0, parked: 2 })
    t.same(namesIn(rig.cacheDir), ['base', 'bomb'])
    t.same(flawsOf(rig.cacheDir), [])
    t.equal(notes.filter(({ level }) => level === 'warning').length, 3)
    t.ok(asked.includes(partNamed('cut')))
  },
)

t.test('the order: wishes first, references always before', async t => {
  const names = Array.from({ length: 60 }, (_, n) => `n${n}`)
  const { dir } = await driveOf(t, [
    ...names.map(name => ({ name })),
    { name: 'urgent', references: ['n7', 'deep'] },
    { name: 'deep', references: ['n50'] },
    { name: 'late' },
  ])
  const order: string[] = []
  const rig = await mergeRig(t, {
    wanted: (_, name) => (name === 'late' ? 5 : name === 'urgent' ? 1 : undefined),
  })
  const drive = await rig.drive(dir, { id: 'k-1' })
  rig.drives.plug(drive)
  const { makeMergePlan } = await import('../../../daemon/shipments/merge-plan.ts')
  const plan = await makeMergePlan({
    entries: () => (drive.holder as NonNullable<typeof drive.holder>).entries(),
    ...{ storeDir: '/nix/store', signal: new AbortController().signal },
    admit: ({ info }) => ({ signatures: info.signatures }),
    ...{ has: () => false, kept: () => false, siteHas: () => false },
    wanted: (_, name) => (name === 'late' ? 5 : name === 'urgent' ? 1 : undefined),
    spillFile: join(rig.stateDir, 'spill'),
  })
  for (const path of plan.order) order.push(plan.read(path).info.storePath.slice(44))
  plan.close()
  t.same([...order.slice(0, 4)].sort(), ['deep', 'n50', 'n7', 'urgent'])
  t.ok(order.indexOf('n50') < order.indexOf('deep') && order.indexOf('deep') < 3)
  t.equal(order[4], 'late')
  t.equal(order.length, 63)
  t.notOk(readdirSync(rig.stateDir).includes('spill'), 'the plan has no name')
})

t.test('what refers to itself in a circle, or to what nobody has, is parked and said', async t => {
  const { dir } = await driveOf(t, [
    { name: 'egg', references: ['hen'] },
    { name: 'hen', references: ['egg'] },
    { name: 'chick', references: ['hen'] },
    { name: 'lacks', references: ['nowhere'] },
    { name: 'above', references: ['lacks'] },
    { name: 'near', references: ['peers-have-it'] },
  ])
  const rig = await mergeRig(t, { siteHas: part => part === partNamed('peers-have-it') })
  rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
  const { result } = await (await rig.merges.merge({ drive: 'k-1' })).ended
  t.match(result, { came: 1, parked: 5 })
  t.same(namesIn(rig.cacheDir), ['near'])
})

const hash = (text: string) => createHash('sha256').update(text).digest('hex')
const section = (kind: ShipmentSection['kind'], file: string, text: string): ShipmentSection => ({
  ...{ kind, file, size: text.length, sha256: hash(text) },
})
const manifestOf = (sections: readonly ShipmentSection[]): ShipmentManifest => ({
  ...{ id: 'ab'.repeat(16), depot: 'depot', name: 'K', part: 1, parts: 2 },
  ...{ createdAt: '2026-01-02T03:04:05Z', storeDir: '/nix/store', paths: 3, narBytes: 1 },
  ...{ fileBytes: 1, roots: [], sections, splits: [] },
})

t.test('channels, flakes and tarballs come too; what is newer here stays', async t => {
  const { dir } = await driveOf(t)
  const put = (root: string, file: string, text: string) => {
    mkdirSync(join(root, file, '..'), { recursive: true })
    writeFileSync(join(root, file), text)
  }
  const channel = 'narwharf/channels/nixos/git-revision'
  const sections = [
    section('channel', channel, 'new'),
    section('tarball', 'narwharf/tarballs/sha256/x', 'tar'),
    section('flake', 'narwharf/flakes/a.json', 'flake'),
    section('archive', 'narwharf/archives/a', 'left'),
    section('have', 'narwharf/have/a', 'left'),
    section('tarball', 'narwharf/tarballs/sha256/bad', 'right'),
    section('tarball', 'narwharf/tarballs/sha256/none', 'none'),
  ]
  for (const { file, kind } of sections.slice(0, 3)) {
    put(dir, file, { channel: 'new', tarball: 'tar', flake: 'flake' }[kind as 'channel'])
  }
  put(dir, 'narwharf/archives/a', 'left')
  put(dir, 'narwharf/tarballs/sha256/bad', 'wrong')
  const manifest = manifestOf(sections)
  const rig = await mergeRig(t)
  rig.drives.plug(await rig.drive(dir, { id: 'k-0', shipment: { manifest } }))
  const nobodys = await (await rig.merges.merge({ drive: 'k-0' })).ended
  t.match(nobodys.result, { came: 3, files: undefined }, 'not of a manifest that nobody signed')
  rig.drives.pull('k-0')
  rig.drives.plug(
    await rig.drive(dir, {
      id: 'k-1',
      contents: { shipment: { manifest, signedBy: 'depot-1' }, cache: true, archives: [] },
    }),
  )
  const { result, state } = await (await rig.merges.merge({ drive: 'k-1' })).ended
  t.equal(state, 'partly')
  t.match(result, {
    shipment: { part: 1, parts: 2, signedBy: 'depot-1' },
    files: { came: 3, damaged: 2, wasThere: 0, damagedFiles: [{}, {}] },
  })
  t.equal(readFileSync(join(rig.cacheDir, channel), 'utf8'), 'new')
  t.throws(() => readFileSync(join(rig.cacheDir, 'narwharf/archives/a')))
  writeFileSync(join(rig.cacheDir, channel), 'newest')
  const second = await (await rig.merges.merge({ drive: 'k-1' })).ended
  t.match(second.result, { files: { came: 0, newer: 1, wasThere: 2 } })
  t.equal(readFileSync(join(rig.cacheDir, channel), 'utf8'), 'newest')
  t.same(flawsOf(rig.cacheDir), [])
})

t.test(
  'a keeper merges what is plugged; interrupted merges go on when the drive is there',
  async t => {
    const { dir } = await driveOf(t)
    const rig = await mergeRig(t, { keeper: true })
    await rig.merges.open()
    const drive = await rig.drive(dir, { id: 'k-1' })
    rig.drives.plug(drive)
    const [job] = rig.jobs.list()
    t.match(job, { kind: 'merge', subject: 'k-1' })
    for await (const event of rig.jobs.follow(job?.id ?? 0) ?? []) {
      if (event.event === 'end') t.match(event.job, { state: 'done', result: { came: 3 } })
    }
    rig.events.emit('drive:changed', 'k-1')
    t.equal(rig.jobs.list().length, 1, 'a receipt that was written starts no other')
    rig.drives.pull('k-1')
    rig.drives.plug(drive)
    t.equal(rig.jobs.list().length, 2, 'plugged again it is looked at again')
  },
)

t.test('a drive that is pulled interrupts its merge, which goes on when it comes back', async t => {
  const names = Array.from({ length: 40 }, (_, n) => ({ name: `n${n}`, size: 20_000 }))
  const { dir } = await driveOf(t, names)
  let pull = () => {}
  const rig = await mergeRig(t, {
    siteHas: () => false,
    wanted: () => (pull(), undefined),
  })
  const drive = await rig.drive(dir, { id: 'k-1' })
  rig.drives.plug(drive)
  await rig.merges.open()
  let looked = 0
  pull = () => {
    if (++looked === 20) rig.drives.pull('k-1')
  }
  const job = await rig.merges.merge({ drive: 'k-1' })
  t.match(await job.ended, { state: 'interrupted', summary: /K-1 was taken away/ })
  t.same(flawsOf(rig.cacheDir), [])
  pull = () => {}
  rig.drives.plug(drive)
  const [again] = rig.jobs.list()
  t.equal(again?.id, job.id)
  let last
  for await (const event of rig.jobs.follow(job.id) ?? []) last = event
  t.match(last, { event: 'end', job: { state: 'done', resumed: 1, result: { came: 40 } } })
  t.same(flawsOf(rig.cacheDir), [])
})

t.test(
  'quota and reserve: what fits comes, the rest is said, a rerun with room completes',
  async t => {
    const { dir } = await driveOf(t, [
      { name: 'base', size: 30_000, compression: 'none' },
      { name: 'big', size: 300_000, compression: 'none', references: ['base'] },
      { name: 'on-big', references: ['big'] },
      { name: 'small', references: ['base'] },
    ])
    const cacheDir = join(tempDir(t, 'cache'), 'c')
    const rig = await mergeRig(t, {
      cacheDir,
      cache: { dir: cacheDir, maxSize: 200_000, reserve: 0 },
    })
    rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
    const first = await (await rig.merges.merge({ drive: 'k-1' })).ended
    t.match(first, { state: 'partly', result: { came: 2, noRoom: 2, damaged: 0 } })
    t.same(namesIn(cacheDir), ['base', 'small'])
    t.same(flawsOf(cacheDir), [])
    const times = narTimes(cacheDir)
    await rig.close()
    const roomy = await mergeRig(t, {
      cacheDir,
      cache: { dir: cacheDir, maxSize: 1e12, reserve: 0 },
    })
    roomy.drives.plug(await roomy.drive(dir, { id: 'k-1' }))
    t.match((await (await roomy.merges.merge({ drive: 'k-1' })).ended).result, {
      came: 2,
      wasThere: 2,
    })
    for (const [name, time] of times) t.equal(narTimes(cacheDir).get(name), time)
    const none = await mergeRig(t, {
      cacheDir: join(tempDir(t, 'none'), 'c'),
      cache: { dir: join(tempDir(t, 'n'), 'c'), maxSize: 1e12, reserve: 1e15 },
    })
    t.ok(none)
  },
)

t.test(
  'a whole NAR without its narinfo, of a merge that was killed, is not read again',
  async t => {
    const { dir } = await driveOf(t, [{ name: 'base' }])
    const rig = await mergeRig(t)
    const { url } = narinfoIn(dir, 'base')
    writeFileSync(join(rig.cacheDir, url), readFileSync(join(dir, url)))
    const times = narTimes(rig.cacheDir)
    rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
    t.match((await (await rig.merges.merge({ drive: 'k-1' })).ended).result, {
      came: 1,
      damaged: 0,
    })
    t.same(narTimes(rig.cacheDir), times)
    t.same(flawsOf(rig.cacheDir), [])
  },
)

t.test('a file hash told wrong of a right NAR does no harm', async t => {
  const { dir } = await driveOf(t, [{ name: 'base' }])
  const info = narinfoIn(dir, 'base')
  const fileHash = { algorithm: 'sha256', bytes: Buffer.alloc(32, 7) } as const
  writeFileSync(join(dir, `${partNamed('base')}.narinfo`), formatNarinfo({ ...info, fileHash }))
  const rig = await mergeRig(t, { publicKeys: [depotPublicKey] })
  rig.drives.plug(await rig.drive(dir, { id: 'k-1' }))
  t.match((await (await rig.merges.merge({ drive: 'k-1' })).ended).result, { came: 1 })
  t.same(narinfoIn(rig.cacheDir, 'base').fileHash, info.fileHash, 'the right one is told on')
})
