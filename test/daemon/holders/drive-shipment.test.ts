import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import { loadDriveIndex } from '../../../daemon/holders/drive-index-load.ts'
import { createDriveFiles } from '../../../daemon/holders/drive-files.ts'
import { createDriveHolder } from '../../../daemon/holders/drive.ts'
import type { Holding } from '../../../daemon/holders/holder.ts'
import type { ByteRange } from '../../../daemon/workers/byte-stream.ts'
import type { NarInfo } from '../../../protocol/path-info.ts'
import { nameOf, type BaseName } from '../../../protocol/store-path.ts'
import { flip } from '../../helpers/cache-places.ts'
import { addManifest } from '../../helpers/drive-shipment.ts'
import {
  depotKey,
  partNamed,
  pathNamed,
  writeSampleCache,
  type SamplePath,
} from '../../helpers/merge-rig.ts'
import { makeTempDir } from '../../helpers/nix-store.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

const paths = (count: number): SamplePath[] =>
  Array.from({ length: count }, (_, n) => ({
    ...{ name: `path-${n}`, size: 2000 },
    references: n === 0 ? [] : [`path-${n - 1}`],
  }))

async function read(stream: AsyncIterable<Buffer> | readonly Buffer[]): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}

/** A shipment of some paths. */
function make(t: Test, count: number) {
  const dir = join(makeTempDir(t, 'drive'), 'cache')
  const infos = writeSampleCache(dir, paths(count))
  return { dir, infos, manifest: addManifest(dir, infos, { key: depotKey }) }
}

/** One with its holder, which believes the manifest unless it is plain. */
async function shipment(
  t: Test,
  count: number,
  { change, plain = false }: { change?: (dir: string) => void; plain?: boolean } = {},
) {
  const { dir, infos, manifest } = make(t, count)
  change?.(dir)
  const file = join(makeTempDir(t, 'state'), 'index.sqlite')
  const events = createEventBus()
  const bad: string[] = []
  events.on('holding:bad', ({ problem }) => bad.push(problem))
  const holder = createDriveHolder({
    ...{ driveId: 'test', dir, pool, events, ...(plain ? {} : { index: { manifest, file } }) },
  })
  await holder.open()
  t.teardown(() => holder.close())
  await holder.ready()
  const find = async (name: string) => holder.find(partNamed(name))
  return { dir, holder, infos, find, file, bad }
}

const namesOf = async (batches: AsyncIterable<readonly { readonly info: NarInfo }[]>) => {
  const names: string[] = []
  for await (const batch of batches) names.push(...batch.map(({ info }) => nameOf(info.storePath)))
  return names
}

t.test('a shipment that is believed', async t => {
  const { dir, holder, infos, find, file } = await shipment(t, 1200)
  t.equal(holder.indexedPaths, 1200)
  t.notOk(existsSync(file), 'its database is nobody else’s')
  t.same(
    await namesOf(holder.entries()),
    infos.map(({ storePath }) => nameOf(storePath)),
    'in the order in which it was packed',
  )
  t.match(
    holder.recall?.(partNamed('path-9'))?.info,
    infos[9]?.storePath && { narSize: infos[9].narSize },
  )
  t.equal(holder.recall?.(partNamed('absent')), undefined)
  // What narinfo files say does not matter, nor whether they are there.
  rmSync(join(dir, `${partNamed('path-7')}.narinfo`))
  const found = await find('path-7')
  t.same(found?.info.signatures, infos[7]?.signatures)
  t.equal(found?.builtHere, false)
  t.equal((await holder.verify(found as Holding)).problem, undefined)
  const [, , third] = infos
  rmSync(join(dir, third?.url ?? ''))
  t.equal(await find('path-2'), undefined, 'a NAR that is not there')
  let told = 0
  for await (const batch of holder.paths()) told += batch.length
  t.ok(told >= 1198 && told <= 1199, 'is not told of either')
  t.equal(await find('absent'), undefined)
  t.equal(holder.mayHave?.(partNamed('absent')), false, 'without asking the drive')

  const [later] = writeSampleCache(dir, [{ name: 'later' }])
  t.equal((await find('later'))?.info.narSize, later?.narSize, 'what was added is found as well')
  t.ok((await namesOf(holder.entries())).includes('later'))
})

t.test('an index that is not what the manifest says', async t => {
  const index = (dir: string) => join(dir, 'narwharf/index/000001.blk')
  const cases: Readonly<Record<string, (dir: string) => void>> = {
    'changed in one bit': dir => flip(index(dir)),
    'cut off': dir => truncateSync(index(dir), 100),
    missing: dir => rmSync(index(dir)),
    'a link': dir => {
      renameSync(index(dir), `${dir}-index`)
      symlinkSync(`${dir}-index`, index(dir))
    },
    'behind a link': dir => {
      renameSync(join(dir, 'narwharf/index'), `${dir}-index`)
      symlinkSync(`${dir}-index`, join(dir, 'narwharf/index'))
    },
    'a FIFO': dir => {
      rmSync(index(dir))
      spawnSync('mkfifo', [index(dir)])
    },
  }
  for (const [what, change] of Object.entries(cases)) {
    const { dir, manifest } = make(t, 3)
    change(dir)
    const file = join(makeTempDir(t, 'state'), 'index.sqlite')
    t.throws(() => loadDriveIndex({ ...manifest, dir, file }), what)
  }
  const { dir, manifest } = make(t, 3)
  const file = join(makeTempDir(t, 'state'), 'index.sqlite')
  const other = { ...manifest, storeDir: '/gnu/store' }
  t.throws(() => loadDriveIndex({ ...other, dir, file }), { code: 'SHIPMENT_INVALID' })
})

t.test('a shipment whose index cannot be believed is a plain cache', async t => {
  const { holder, find, file } = await shipment(t, 3, {
    change: dir => flip(join(dir, 'narwharf/index/000001.blk')),
  })
  t.match(holder.indexProblem, /not what the manifest says|SHIPMENT/)
  t.equal(holder.indexedPaths, undefined)
  t.ok(await find('path-1'))
  t.notOk(existsSync(file), 'nothing is left')
})

t.test('a NAR in several files', async t => {
  const dir = join(makeTempDir(t, 'drive'), 'cache')
  const infos = writeSampleCache(dir, [
    { name: 'packed', size: 3_000_000 },
    { name: 'plain', size: 3_000_000, compression: 'none' },
  ])
  const holder = createDriveHolder({ driveId: 'test', dir, pool })
  await holder.open()
  t.teardown(() => holder.close())
  for (const info of infos) {
    const name = nameOf(info.storePath)
    const whole = readFileSync(join(dir, info.url))
    const sizes = [1_000_000, 1_000_001, whole.length - 2_000_001]
    rmSync(join(dir, info.url))
    let at = 0
    for (const [n, size] of sizes.entries()) {
      writeFileSync(join(dir, `${info.url}.00${n}`), whole.subarray(at, (at += size)))
    }
    const holding = (await holder.find(partNamed(name))) as Holding
    t.equal(holding.fileSize, whole.length, name)
    t.equal((await holder.verify(holding)).problem, undefined, name)
    const file = (range?: ByteRange) => read(holder.openFile?.(holding, range) ?? [])
    t.ok((await file()).equals(whole), `${name}: its file`)
    for (const [offset, end] of [
      [999_999, 1_000_002],
      [1_000_000, 1_000_000],
      [2_500_000, undefined],
    ] as const) {
      const part = await file({ offset, end })
      t.ok(part.equals(whole.subarray(offset, end)), `${name}: ${offset}..${end}`)
    }
    const nar = await read(holder.openNar(holding, { offset: 1_999_990, end: 2_000_010 }))
    t.equal(nar.length, 20)
    truncateSync(join(dir, `${info.url}.001`), 5)
    t.notOk(holder.isCurrent(holding), `${name}: cut`)
    rmSync(join(dir, `${info.url}.001`))
    const rest = (await holder.find(partNamed(name))) as Holding
    t.ok((await holder.verify(rest)).problem, `${name}: a part is missing`)
  }
})

t.test('links on a drive are not followed, wherever they lead', async t => {
  const { dir, holder, find, bad } = await shipment(t, 4, { plain: true })
  const real = `${dir}-real`
  renameSync(join(dir, 'nar'), real)
  symlinkSync(real, join(dir, 'nar'))
  t.equal(await find('path-1'), undefined, 'the folder of NARs is a link')
  rmSync(join(dir, 'nar'))
  renameSync(real, join(dir, 'nar'))
  const holding = (await find('path-1')) as Holding
  t.ok(holding)
  renameSync(join(dir, 'nar'), real)
  symlinkSync(real, join(dir, 'nar'))
  await t.rejects(read(holder.openNar(holding)), 'nor when it became one meanwhile')
  rmSync(join(dir, 'nar'))
  renameSync(real, join(dir, 'nar'))
  // A narinfo that the index does not tell of.
  const [info] = writeSampleCache(dir, [{ name: 'linked' }])
  const narinfo = join(dir, `${partNamed('linked')}.narinfo`)
  renameSync(narinfo, `${narinfo}.real`)
  symlinkSync(`${narinfo}.real`, narinfo)
  t.equal(await find('linked'), undefined)
  rmSync(narinfo)
  const text = readFileSync(`${narinfo}.real`, 'utf8')
  for (const url of [
    'nar/../nix-cache-info',
    'nar/a/b.nar',
    'nix-cache-info',
    'nar/.hidden',
    '/x',
  ]) {
    writeFileSync(narinfo, text.replace(info?.url ?? '', url))
    t.equal(await find('linked'), undefined, url)
  }
  t.ok(bad.length > 0, 'and it is said')
})

t.test('a drive that gives no answer', async t => {
  // Its timers keep no process alive.
  const alive = setInterval(() => undefined, 1000)
  t.teardown(() => clearInterval(alive))
  const files = createDriveFiles('drive:test', makeTempDir(t, 'drive'), { stuckMs: 20 })
  t.equal(files.isStuck, false)
  const never = files.run(() => new Promise(() => undefined))
  const behind = files.run(async () => 'behind')
  while (!files.isStuck) await new Promise(resolve => setTimeout(resolve, 5))
  files.end()
  await t.rejects(never, { code: 'HOLDER_UNREADABLE' })
  await t.rejects(behind, { code: 'HOLDER_UNREADABLE' }, 'who waits is told')
  await t.rejects(
    files.run(async () => 1),
    { code: 'HOLDER_UNREADABLE' },
  )

  const late = createDriveFiles('drive:test', makeTempDir(t, 'drive'), { answerMs: 20 })
  await t.rejects(
    late.run(() => new Promise(() => undefined)),
    { code: 'HOLDER_UNREADABLE' },
  )
})

t.test('a folder of many odd names', async t => {
  const dir = makeTempDir(t, 'drive')
  writeSampleCache(dir, [{ name: 'good' }])
  for (let n = 0; n < 3000; n++)
    writeFileSync(join(dir, `odd-${n} \\ "${'x'.repeat(n % 200)}"`), '')
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0xfe, 0x0a])]), '')
  const holder = createDriveHolder({ driveId: 'test', dir, pool })
  await holder.open()
  t.teardown(() => holder.close())
  const found: string[] = []
  for await (const batch of holder.paths()) found.push(...batch)
  t.same(found, [pathNamed('good')])
})

t.test('what is on a drive beside NARs', async t => {
  const { dir, holder } = await shipment(t, 1, { plain: true })
  const derivation = '0123456789abcdfghijklmnpqrsvwxyz-thing.drv' as BaseName
  mkdirSync(join(dir, 'log'))
  writeFileSync(join(dir, 'log', derivation), 'built\n')
  t.equal(String(await holder.log(derivation)), 'built\n')
  rmSync(join(dir, 'log', derivation))
  symlinkSync('/etc/passwd', join(dir, 'log', derivation))
  t.equal(await holder.log(derivation), undefined)
  rmSync(join(dir, 'log'), { recursive: true })
  symlinkSync('/etc', join(dir, 'log'))
  t.equal(await holder.log('passwd' as BaseName), undefined)
})
