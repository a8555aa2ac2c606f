import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { createDrives, type DrivesOptions } from '../../../daemon/drives/drives.ts'
import { createEventBus } from '../../../daemon/events.ts'
import { createHolderList } from '../../../daemon/holders/holder-list.ts'
import { createInventory } from '../../../daemon/inventory/inventory.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import { depotPublicKey, partNamed, pathNamed, writeSampleCache } from '../../helpers/merge-rig.ts'
import { tempDir } from '../../helpers/scope.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

interface FakeMount {
  readonly id: number
  readonly device?: string
  readonly source?: string
  readonly fsType?: string
  readonly root?: string
}

/** A mount table of folders, with the room of the drives and those it works with. */
async function rig(t: Test, options: Partial<DrivesOptions> = {}) {
  const stateDir = options.stateDir ?? tempDir(t, 'state')
  const top = tempDir(t, 'mnt')
  const table = new Map<string, FakeMount>()
  const catalog = createCatalog({ file: join(stateDir, 'catalog.sqlite'), writerThread: false })
  await catalog.open()
  const events = createEventBus()
  const told: string[] = []
  for (const event of ['drive:plugged', 'drive:changed', 'drive:leaving', 'drive:gone'] as const) {
    events.on(event, (id: string, problem?: string) =>
      told.push(
        `${event.slice(6)} ${drives.list().find(one => one.id === id)?.name} ${problem ?? ''}`.trim(),
      ),
    )
  }
  const holders = createHolderList()
  const ran: string[] = []
  const devices = new Set<string>()
  const drives = createDrives({
    ...{ watch: true, under: [top], stateDir, hostName: 'lab-3', storeDir: '/nix/store', pool },
    ...{ events, holders, rows: catalog.drives, keys: () => [depotPublicKey] },
    counts: holderId => catalog.holders.list().find(({ id }) => id === holderId) ?? {},
    readTable: () =>
      Buffer.from(
        [...table]
          .map(([dir, { id, device, source, fsType = 'ext4', root = '/' }]) => {
            const from = source ?? `/dev/fake${id}`
            return `${id} 1 ${device ?? `8:${id}`} ${root} ${dir} rw - ${fsType} ${from} rw\n`
          })
          .join(''),
      ),
    ...{ readMs: 10, lookMs: 20, deviceExists: source => devices.has(source) },
    run: async (program, args) => {
      ran.push([program, ...args].join(' '))
      return undefined
    },
    ...options,
  })
  const inventory = createInventory({
    ...{ holders, catalog, events, hostName: 'lab-3', checkMs: 5, driveOf: drives.factsOf },
  })
  await inventory.open()
  await drives.open()
  const close = async () => {
    await drives.close()
    await inventory.close()
    await catalog.close()
  }
  t.teardown(close)
  const mount = (name: string, facts: FakeMount): string => {
    const dir = join(top, name)
    table.set(dir, facts)
    return dir
  }
  const unmount = (name: string) => table.delete(join(top, name))
  return {
    ...{ top, table, catalog, events, told, holders, ran, devices, drives, inventory },
    ...{ stateDir, mount, unmount, close },
  }
}

/** Until it is so; a test that waits for ever is ended by tap. */
async function until(what: () => unknown): Promise<void> {
  while (!(await what())) await new Promise(resolve => setTimeout(resolve, 5))
}

t.test('plugged, in a drawer, and back', async t => {
  const { top, drives, mount, unmount, holders, told, inventory } = await rig(t)
  writeSampleCache(join(top, 'ada/STICK'), [{ name: 'a' }, { name: 'b' }])
  mount('ada/STICK', { id: 7 })
  await until(() => drives.plugged().length === 1)
  const [drive] = drives.plugged()
  t.match(drive, { name: 'STICK', fsType: 'ext4', contents: { cache: true }, adopted: false })
  t.same(told, ['plugged STICK'])
  const [holder] = holders.current()
  t.equal(holder?.id, `drive:${drive?.id}`)
  t.ok(await holder?.find(partNamed('a')), 'served at once')
  await inventory.idle()
  await until(() => drives.list()[0]?.paths === 2)
  t.match(drives.list(), [{ plugged: true, paths: 2, cache: true, host: 'lab-3', problems: [] }])
  const up = await inventory.whoHas(pathNamed('a'))
  t.match(up.matches[0]?.holders, [
    { kind: 'drive', up: true, name: 'STICK', mountPoint: join(top, 'ada/STICK') },
  ])

  unmount('ada/STICK')
  await until(() => drives.plugged().length === 0)
  t.same(holders.current(), [], 'asked no more')
  t.same(told, ['plugged STICK', 'gone STICK'])
  t.throws(() => holder?.find(partNamed('a')), { code: 'HOLDER_UNREADABLE' })
  t.match(drives.list(), [{ name: 'STICK', plugged: false, paths: 2 }])
  await inventory.idle()
  const away = await inventory.whoHas(pathNamed('a'))
  t.match(away.matches[0]?.holders, [{ kind: 'drive', up: false, name: 'STICK' }])
  t.match(away.matches[0]?.holders[0]?.lastSeen, /^\d{4}-/)
  t.notOk(away.matches[0]?.holders[0]?.mountPoint)

  mount('ada/STICK', { id: 9, device: '8:7', source: '/dev/fake7' })
  await until(() => drives.plugged().length === 1)
  t.equal(drives.plugged()[0]?.id, drive?.id, 'the same drive')
  t.match(drives.list(), [{ name: 'STICK', plugged: true }])
})

t.test('what was seen is known after a restart', async t => {
  const first = await rig(t)
  writeSampleCache(join(first.top, 'STICK'), [{ name: 'a' }])
  first.mount('STICK', { id: 7 })
  await until(() => first.drives.list()[0]?.paths === 1)
  await first.close()
  const second = await rig(t, { stateDir: first.stateDir })
  t.match(second.drives.list(), [{ name: 'STICK', plugged: false, paths: 1, fsType: 'ext4' }])
  t.match((await second.inventory.whoHas('a')).matches[0]?.holders, [{ up: false, name: 'STICK' }])
})

t.test('names', async t => {
  const { top, drives, mount } = await rig(t)
  for (const user of ['ada', 'bob']) {
    writeSampleCache(join(top, user, 'STICK'), [{ name: user }])
    writeSampleCache(join(top, user, 'STICK/more'), [{ name: `${user}-more` }])
  }
  mount('ada/STICK', { id: 1 })
  await until(() => drives.plugged().length === 2)
  mount('bob/STICK', { id: 2 })
  await until(() => drives.plugged().length === 4)
  t.same(
    drives
      .plugged()
      .map(({ name }) => name)
      .sort(),
    ['STICK', 'STICK-2', 'STICK/more', 'STICK/more-2'],
  )
  t.equal(drives.find('STICK-2')?.dir, join(top, 'bob/STICK'))
  t.equal(drives.find(join(top, 'bob/STICK/more/nar/x'))?.name, 'STICK/more-2', 'by a path on it')
  t.equal(drives.find('/dev/fake1')?.mountPoint, join(top, 'ada/STICK'), 'by its device')
  t.equal(drives.find(drives.plugged()[0]?.id ?? '')?.id, drives.plugged()[0]?.id)
  t.equal(drives.find('absent'), undefined)
  t.equal(drives.find('/'), undefined)
})

t.test('one file system, however often it is mounted', async t => {
  const { top, drives, mount, unmount } = await rig(t)
  writeSampleCache(join(top, 'a'), [{ name: 'x' }])
  renameSync(join(top, 'a'), join(top, 'b'))
  writeSampleCache(join(top, 'a'), [{ name: 'x' }])
  mount('a', { id: 1, device: '8:1' })
  mount('b', { id: 2, device: '8:1' })
  await until(() => drives.plugged().length > 0)
  await drives.idle()
  t.same(
    drives.plugged().map(({ dir }) => dir),
    [join(top, 'a')],
  )
  unmount('a')
  await until(() => drives.plugged()[0]?.dir === join(top, 'b'))
})

t.test('what is written to it is seen', async t => {
  const { top, drives, mount, told } = await rig(t)
  mkdirSync(join(top, 'BLANK'))
  mount('BLANK', { id: 1 })
  await until(() => drives.plugged().length === 1)
  t.match(drives.list(), [{ name: 'BLANK', cache: false, archives: [] }], 'nothing yet')
  writeSampleCache(join(top, 'BLANK'), [{ name: 'x' }])
  await until(() => drives.plugged()[0]?.holder !== undefined)
  t.match(drives.list(), [{ name: 'BLANK', cache: true }])
  t.same(told, ['plugged BLANK', 'gone BLANK', 'plugged BLANK'])
  rmSync(join(top, 'BLANK/nix-cache-info'))
  await until(() => drives.plugged()[0]?.holder === undefined)
  await drives.look()
  t.equal(drives.plugged().length, 1)
})

t.test('ejected', async t => {
  const { top, drives, mount, told, ran, table } = await rig(t, {})
  const dir = join(top, 'STICK')
  writeSampleCache(dir, [{ name: 'x' }])
  mount('STICK', { id: 1 })
  await until(() => drives.plugged().length === 1)
  const [{ id } = { id: '' }] = drives.plugged()
  const use = drives.use(id, 'a merge')
  t.equal(use?.signal.aborted, false)
  use?.signal.addEventListener('abort', () => {
    t.equal(drives.use(id, 'another'), undefined, 'nobody begins with it now')
    use.done()
  })
  t.same(await drives.eject('STICK'), { id, name: 'STICK', mountPoint: dir, unmounted: true })
  t.same(ran, [`sync -f ${dir}`, `umount ${dir}`])
  t.same(told, ['plugged STICK', 'leaving STICK', 'gone STICK'])
  t.same(drives.plugged(), [])
  await drives.idle()
  t.same(drives.plugged(), [], 'not taken again while it is still in the table')
  t.equal(drives.use(id, 'a merge'), undefined)
  table.clear()
  await drives.idle()
  mount('STICK', { id: 1 })
  await until(() => drives.plugged().length === 1)
  t.pass('when it is mounted anew it is')
  await t.rejects(drives.eject('absent'), { code: 'DRIVE_UNKNOWN' })
})

t.test('not allowed to unmount', async t => {
  const ran: string[] = []
  const { top, drives, mount } = await rig(t, {
    run: async (program, args) => {
      ran.push([program, ...args].join(' '))
      return program === 'sync' ? undefined : 'must be superuser to unmount'
    },
  })
  const dir = writeAt(join(top, 'STICK'))
  mount('STICK', { id: 1 })
  await until(() => drives.plugged().length === 1)
  t.match(await drives.eject(dir), {
    unmounted: false,
    hint: `run: umount ${dir} (must be superuser to unmount)`,
  })
  t.match(ran.at(-1), /^udisksctl unmount --no-user-interaction --block-device \/dev\/fake1$/)
})

function writeAt(dir: string): string {
  writeSampleCache(dir, [{ name: 'x' }])
  return dir
}

t.test('pulled out', async t => {
  const { top, drives, mount, devices, told, holders } = await rig(t)
  devices.add('/dev/fake1')
  writeAt(join(top, 'STICK'))
  mount('STICK', { id: 1 })
  await until(() => drives.plugged().length === 1)
  devices.clear()
  await until(() => drives.plugged().length === 0)
  t.same(told, ['plugged STICK', 'gone STICK it was pulled out without being ejected'])
  t.same(holders.current(), [])
})

t.test('a folder named by hand', async t => {
  const { drives, told } = await rig(t, { watch: false })
  const dir = writeAt(join(tempDir(t, 'folder'), 'cache'))
  const drive = await drives.adopt(dir)
  t.match(drive, { name: 'cache', adopted: true, fsType: 'folder', contents: { cache: true } })
  t.equal((await drives.adopt(`${dir}/`)).id, drive.id, 'once')
  const use = drives.use(drive.id, 'a merge')
  await drives.release(drive.id)
  t.equal(use?.signal.aborted, true)
  t.same(drives.plugged(), [])
  t.same(told, ['plugged cache', 'gone cache'])
  t.equal((await drives.adopt(dir)).id, drive.id, 'the same again')
  const blank = await drives.adopt(tempDir(t, 'blank'))
  t.match(blank.contents, { cache: false })
  t.match(await drives.eject(blank.id), { unmounted: true })
  const file = join(tempDir(t, 'file'), 'file')
  writeFileSync(file, '')
  for (const bad of [file, '/nowhere/at/all']) {
    await t.rejects(drives.adopt(bad), { code: 'DRIVE_UNREADABLE' })
  }
})

t.test('this host’s own cache on a disk below', async t => {
  const own = join(tempDir(t, 'own'), 'cache')
  writeAt(own)
  const { drives, table } = await rig(t, { own: [own], under: [join(own, '..', '..')] })
  table.set(own, { id: 1, source: 'tmpfs' })
  table.set(join(own, '..'), { id: 2, source: 'tmpfs' })
  await drives.idle()
  t.same(drives.plugged(), [])
})

t.test('a cache of another store', async t => {
  const { top, drives, mount } = await rig(t)
  const dir = writeAt(join(top, 'STICK'))
  writeFileSync(join(dir, 'nix-cache-info'), 'StoreDir: /gnu/store\n')
  mount('STICK', { id: 1 })
  await until(() => drives.plugged().length === 1)
  t.match(drives.list()[0]?.problems, [/StoreDir is \/gnu\/store/])
})

t.test('in a drawer since the daemon was killed', async t => {
  const { catalog, stateDir, close } = await rig(t)
  await catalog.holders.upsert({
    ...{ id: 'drive:x', kind: 'drive', storeDir: '/nix/store', host: 'lab-3', up: true },
    lastSeen: 1000,
  })
  await close()
  const { catalog: next } = await rig(t, { stateDir })
  t.match(next.holders.list(), [{ id: 'drive:x', up: false, lastSeen: 1000 }])
})
