import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { createEventBus } from '../../../daemon/events.ts'
import { createHolderList } from '../../../daemon/holders/holder-list.ts'
import type { Holder } from '../../../daemon/holders/holder.ts'
import { createInventory } from '../../../daemon/inventory/inventory.ts'
import { createOwnIndex } from '../../../daemon/inventory/own-index.ts'
import type { IndexEntry } from '../../../daemon/site.ts'
import { hashPartOf, nameOf, type StorePath } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, type FakeHolder } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

// A holder that comes while the daemon runs, answers late, and goes.

const NAR = Buffer.from('12345')

async function rig(t: Test) {
  const store = fakeHolder('nix-store:/nix/store', 'nix-store')
  store.put(fakePath('here', NAR), NAR)
  const catalog = createCatalog({
    ...{ file: join(tempDir(t, 'inventory'), 'catalog.sqlite'), writerThread: false },
  })
  await catalog.open()
  const events = createEventBus()
  const holders = createHolderList([store])
  const inventory = createInventory({
    ...{ holders, catalog, events, hostName: 'a', checkMs: 2, clock: () => 5000 },
    driveOf: id => ({ name: `name of ${id}`, lastSeen: 4000 }),
  })
  const log = new Map<StorePath, IndexEntry>()
  const index = createOwnIndex({
    ...{ holders, inventory },
    tell: () => ({ told: true, vouched: false, signatures: [] }),
    log: {
      has: path => log.has(path),
      find: path => log.get(path),
      *whole() {
        yield [...log.values()]
      },
    },
    async append({ added, removed }) {
      for (const entry of added) log.set(entry.info.storePath, entry)
      for (const path of removed) log.delete(path)
    },
    timings: { gatherMs: 1, flushMs: 1, retryMs: 1, restFactor: 0 },
  })
  const alive = setInterval(() => undefined, 1000)
  t.teardown(async () => {
    clearInterval(alive)
    await index.close()
    await inventory.close()
    await catalog.close()
  })
  await inventory.open()
  await index.open()
  const told = () => [...log.keys()].map(nameOf).sort()
  return { holders, inventory, catalog, told }
}

async function until(what: () => unknown): Promise<void> {
  while (!what()) await new Promise(resolve => setTimeout(resolve, 2))
}

/** A holder that gives promises, as that of a drive does. */
function late(holder: FakeHolder): Holder & { asked: number } {
  const one = Object.create(holder) as FakeHolder & { asked: number }
  const { find } = holder
  one.asked = 0
  one.mayHave = part => holder.content.has(part)
  one.find = part => {
    one.asked++
    return new Promise(resolve => setImmediate(() => resolve(find(part))))
  }
  one.heldPaths = async function* () {
    for await (const batch of holder.paths())
      yield batch.map(storePath => ({ storePath, narSize: 5 }))
  }
  return one
}

t.test('it is written down and told, and taken back', async t => {
  const { holders, inventory, catalog, told } = await rig(t)
  await until(() => told().length === 1)
  const drive = fakeHolder('drive:x', 'drive')
  for (const name of ['a', 'b']) drive.put(fakePath(name, NAR), NAR)
  holders.add(late(drive))
  await until(() => told().length === 3)
  t.same(told(), ['a', 'b', 'here'])
  await until(() => inventory.status().some(({ id, paths }) => id === 'drive:x' && paths === 2))
  t.match(inventory.status()[1], { kind: 'drive', up: true, narBytes: 10 })
  const path = fakePath('a', NAR).storePath
  t.match((await inventory.whoHas(path)).matches[0]?.holders, [
    { id: 'drive:x', up: true, name: 'name of drive:x' },
  ])

  holders.remove('drive:x')
  await until(() => told().length === 1)
  t.same(told(), ['here'], 'the peers are told that it is gone')
  t.same(
    inventory.status().map(({ id }) => id),
    ['nix-store:/nix/store'],
  )
  t.match(catalog.holders.list()[1], { id: 'drive:x', up: false, lastSeen: 5000, paths: 2 })
  t.match((await inventory.whoHas(path)).matches[0]?.holders, [
    { id: 'drive:x', up: false, lastSeen: new Date(4000).toISOString() },
  ])

  holders.add(late(drive))
  await until(() => told().length === 3)
  t.match(catalog.holders.list()[1], { up: true })
})

t.test('one that is asked for what it has not, or cannot be asked', async t => {
  const { holders, told, inventory } = await rig(t)
  const drive = fakeHolder('drive:x', 'drive')
  for (const name of ['a', 'b', 'c']) drive.put(fakePath(name, NAR), NAR)
  const one = late(drive)
  one.find = part => {
    if (part === hashPartOf(fakePath('a', NAR).storePath)) return Promise.resolve(undefined)
    if (part === hashPartOf(fakePath('b', NAR).storePath)) return Promise.reject(new Error('hangs'))
    return Promise.resolve(drive.find(part))
  }
  holders.add(one)
  await until(() => told().includes('c'))
  await inventory.idle()
  t.same(told(), ['c', 'here'])
})

t.test('what memory tells is not asked for', async t => {
  const { holders, told } = await rig(t)
  const drive = fakeHolder('drive:x', 'drive')
  for (const name of ['a', 'b', 'c']) drive.put(fakePath(name, NAR), NAR)
  const one = late(drive)
  one.recall = part => drive.find(part) as ReturnType<NonNullable<Holder['recall']>>
  holders.add(one)
  await until(() => told().length === 4)
  t.equal(one.asked, 0)
})
