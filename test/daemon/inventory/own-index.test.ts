import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { createEventBus } from '../../../daemon/events.ts'
import type { Holding } from '../../../daemon/holders/holder.ts'
import { createInventory } from '../../../daemon/inventory/inventory.ts'
import type { Tell, Telling } from '../../../daemon/inventory/index-entry.ts'
import { createOwnIndex } from '../../../daemon/inventory/own-index.ts'
import type { IndexChange, IndexEntry } from '../../../daemon/site.ts'
import { baseNameOf, hashPartOf, nameOf, type StorePath } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, type FakeHolder } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

const NAR = Buffer.from('12345')
const TOLD: Telling = { told: true, vouched: false, signatures: ['key-1:x'] }

interface Parts {
  readonly tell?: Tell
  readonly log?: Map<StorePath, IndexEntry>
  readonly prepare?: (store: FakeHolder, cache: FakeHolder) => void
}

/** An inventory over two holders, and a log in memory. Times are short, nothing waits for them. */
async function rig(t: Test, { tell = () => TOLD, log = new Map(), prepare }: Parts = {}) {
  const store = fakeHolder('nix-store:/nix/store', 'nix-store')
  const cache = fakeHolder('cache-dir:/srv/cache')
  prepare?.(store, cache)
  const file = join(tempDir(t, 'own-index'), 'catalog.sqlite')
  const catalog = createCatalog({ file, writerThread: false })
  await catalog.open()
  const events = createEventBus()
  const holders = [store, cache]
  // No rest between scans: the clock stands still.
  const clock = () => 0
  const inventory = createInventory({ holders, catalog, events, hostName: 'a', checkMs: 2, clock })
  const changes: IndexChange[] = []
  const appends = createEventBus()
  let failures = 0
  const index = createOwnIndex({
    holders,
    inventory,
    tell,
    log: {
      has: path => log.has(path),
      find: path => log.get(path),
      *whole() {
        yield [...log.values()]
      },
    },
    async append(change) {
      if (failures-- > 0) throw new Error('no disk')
      changes.push(change)
      for (const entry of change.added) log.set(entry.info.storePath, entry)
      for (const path of change.removed) log.delete(path)
      appends.emit('members:changed')
    },
    timings: { gatherMs: 1, flushMs: 1, retryMs: 1, restFactor: 0 },
  })
  const alive = setInterval(() => undefined, 1000)
  t.teardown(async () => {
    clearInterval(alive)
    await index.close()
    await index.close()
    await inventory.close()
    await catalog.close()
  })
  await inventory.open()
  await index.open()
  await index.open()
  await index.idle()
  return {
    store,
    cache,
    log,
    changes,
    index,
    inventory,
    fail: (times: number) => void (failures = times),
    appended: () => once(appends, 'members:changed'),
    names: () => [...log.keys()].map(path => nameOf(path)).sort(),
  }
}

t.test('tells what is there, then what comes and goes', async t => {
  const { store, cache, changes, names, appended, index } = await rig(t, {
    prepare(store, cache) {
      for (const name of ['a', 'b']) store.put(fakePath(name, NAR), NAR)
      cache.put(fakePath('b', NAR), NAR)
      cache.put(fakePath('c', NAR), NAR)
    },
  })
  t.same(names(), ['a', 'b', 'c'])
  t.match(changes[0]?.added[0], { builtHere: false, info: { signatures: ['key-1:x'] } })

  let next = appended()
  store.put(fakePath('d', NAR), NAR)
  await next
  t.same(names(), ['a', 'b', 'c', 'd'], 'a new path')

  const b = hashPartOf(fakePath('b', NAR).storePath)
  store.content.delete(b)
  next = appended()
  store.put(fakePath('e', NAR), NAR)
  await next
  await index.idle()
  t.same(names(), ['a', 'b', 'c', 'd', 'e'], 'the cache still has b')

  cache.content.delete(b)
  next = appended()
  cache.put(fakePath('f', NAR), NAR)
  await next
  await index.idle()
  t.same(names(), ['a', 'c', 'd', 'e', 'f'], 'nobody has b any more')
  t.equal(index.problem(), undefined)
})

t.test('a start compares with what was told before', async t => {
  const kept = fakePath('kept', NAR)
  const log = new Map<StorePath, IndexEntry>()
  const entry = (name: string, signatures: string[]): IndexEntry => ({
    info: { ...fakePath(name, NAR), ca: undefined, signatures },
    builtHere: false,
  })
  for (const one of [
    entry('kept', ['key-1:x']),
    entry('gone', ['key-1:x']),
    entry('signed-since', []),
  ]) {
    log.set(one.info.storePath, one)
  }
  const { changes, names } = await rig(t, {
    log,
    prepare(store) {
      store.put(kept, NAR)
      store.put(fakePath('signed-since', NAR), NAR)
      store.put(fakePath('new', NAR), NAR)
    },
  })
  t.same(names(), ['kept', 'new', 'signed-since'])
  const told = changes.flatMap(({ added }) => added.map(({ info }) => nameOf(info.storePath)))
  t.same(told.sort(), ['new', 'signed-since'], 'what is as it was told is not told again')
  t.same(
    changes.flatMap(({ removed }) => removed.map(path => nameOf(path))),
    ['gone'],
  )
})

t.test('what is not to be told is not, and goes when it no longer may be', async t => {
  const secret = fakePath('secret', NAR)
  const log = new Map<StorePath, IndexEntry>([
    [secret.storePath, { info: { ...secret, ca: undefined }, builtHere: false }],
  ])
  const { names } = await rig(t, {
    log,
    tell: (_, { info }) => (nameOf(info.storePath) === 'secret' ? { told: false } : TOLD),
    prepare(store) {
      store.put(secret, NAR)
      store.put(fakePath('open', NAR), NAR)
    },
  })
  t.same(names(), ['open'])
})

t.test('references come before what refers to them', async t => {
  const base = (name: string) => baseNameOf(fakePath(name, NAR).storePath)
  const { changes } = await rig(t, {
    prepare(store) {
      store.put(fakePath('app', NAR, [base('lib'), base('app'), base('elsewhere')]), NAR)
      store.put(fakePath('lib', NAR, [base('libc')]), NAR)
      store.put(fakePath('libc', NAR), NAR)
      // Two that refer to each other: hostile, and no reason to stop.
      store.put(fakePath('x', NAR, [base('y')]), NAR)
      store.put(fakePath('y', NAR, [base('x')]), NAR)
    },
  })
  const order = changes.flatMap(({ added }) => added.map(({ info }) => nameOf(info.storePath)))
  t.same(order.slice(0, 3), ['libc', 'lib', 'app'])
  t.same(order.slice(3).sort(), ['x', 'y'])
})

t.test('changes are of bounded size', async t => {
  const { changes, log } = await rig(t, {
    prepare(store) {
      for (let n = 0; n < 1201; n++) store.put(fakePath(`many-${n}`, NAR), NAR)
    },
  })
  t.equal(log.size, 1201)
  t.same(
    changes.map(({ added }) => added.length),
    [500, 500, 201],
  )
})

t.test('holders add to one another', async t => {
  const { log } = await rig(t, {
    tell: ({ kind }) =>
      kind === 'nix-store'
        ? { told: true, vouched: true, signatures: [] }
        : { told: true, vouched: false, ca: 'fixed:x', signatures: ['key-2:y'] },
    prepare(store, cache) {
      store.put(fakePath('both', NAR), NAR)
      cache.put(fakePath('both', NAR), NAR)
      store.put(fakePath('other-bytes', NAR), NAR)
      cache.put(fakePath('other-bytes', Buffer.from('forged')), Buffer.from('forged'))
    },
  })
  t.match(log.get(fakePath('both', NAR).storePath), {
    builtHere: true,
    info: { signatures: ['key-2:y'], ca: 'fixed:x' },
  })
  t.match(log.get(fakePath('other-bytes', NAR).storePath), {
    builtHere: true,
    info: { signatures: [], ca: undefined, narHash: fakePath('other-bytes', NAR).narHash },
  })
})

t.test('content that must be read holds nobody up', async t => {
  let release = (): void => undefined
  const gate = new Promise<void>(resolve => (release = resolve))
  const { names, appended, index } = await rig(t, {
    tell(_, { info }: Holding) {
      if (nameOf(info.storePath) !== 'slow') return TOLD
      return async () => {
        await gate
        return TOLD
      }
    },
    prepare(store) {
      store.put(fakePath('fast', NAR), NAR)
      setImmediate(() => store.put(fakePath('slow', NAR), NAR))
      setTimeout(() => release(), 30)
    },
  })
  if (!names().includes('slow')) await appended()
  await index.idle()
  t.same(names(), ['fast', 'slow'])
})

t.test('a holder out of reach takes nothing back', async t => {
  const { store, cache, names, appended } = await rig(t, {
    prepare(store) {
      store.put(fakePath('a', NAR), NAR)
    },
  })
  store.broken = true
  const next = appended()
  cache.put(fakePath('b', NAR), NAR)
  await next
  t.same(names(), ['a', 'b'])
})

t.test('an append that fails is tried again', async t => {
  const { store, names, appended, fail, index } = await rig(t)
  fail(3)
  const next = appended()
  store.put(fakePath('late', NAR), NAR)
  await next
  await index.idle()
  t.same(names(), ['late'])
  t.equal(index.problem(), undefined)
})
