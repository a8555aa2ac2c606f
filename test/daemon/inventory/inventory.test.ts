import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { createEventBus, type EventBus } from '../../../daemon/events.ts'
import type { Holding } from '../../../daemon/holders/holder.ts'
import { createInventory, type InventoryOptions } from '../../../daemon/inventory/inventory.ts'
import type { PeerPresence } from '../../../daemon/inventory/who-has.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import { WHO_HAS_LIMIT } from '../../../protocol/api.ts'
import { baseNameOf, hashPartOf } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, type FakeHolder } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

const NOW = Date.parse('2026-01-02T03:04:05Z')
const nar = (text: string) => Buffer.from(text)

/** The next change that is told of. The inventory's own timer keeps no process alive, so this does. */
async function nextChange(events: EventBus): Promise<string[]> {
  const alive = setInterval(() => undefined, 1000)
  try {
    return (await once(events, 'holder:changed')) as string[]
  } finally {
    clearInterval(alive)
  }
}

interface Parts {
  readonly holders?: readonly FakeHolder[]
  readonly stateDir?: string
  readonly clock?: () => number
  readonly presence?: InventoryOptions['presence']
}

async function rig(t: Test, parts: Parts = {}) {
  const { stateDir = tempDir(t, 'inventory'), clock = () => NOW } = parts
  const holders = parts.holders ?? [
    fakeHolder('nix-store:/nix/store', 'nix-store'),
    fakeHolder('cache-dir:/srv/cache'),
  ]
  const file = join(stateDir, 'catalog.sqlite')
  const catalog = createCatalog({ file, clock, writerThread: false })
  await catalog.open()
  const events = createEventBus()
  const options: InventoryOptions = {
    holders,
    catalog,
    events,
    hostName: 'lab-3',
    checkMs: 5,
    clock,
    presence: parts.presence,
  }
  const inventory = createInventory(options)
  const close = async () => {
    await inventory.close()
    await catalog.close()
  }
  t.teardown(close)
  const [store, cache] = holders as [FakeHolder, FakeHolder]
  return { stateDir, catalog, events, inventory, store, cache, close }
}

t.test('counts, and follows what comes and goes', async t => {
  let now = NOW
  const { inventory, events, store, cache, catalog } = await rig(t, { clock: () => now })
  for (let n = 0; n < 10; n++) store.put(fakePath(`app-${n}`, nar('12345')), nar('12345'))
  store.put({ ...fakePath('shared', nar('1234567')) }, nar('1234567'))
  cache.put({ ...fakePath('shared', nar('1234567')) }, nar('1234567'))
  t.same(inventory.status(), [])
  await inventory.open()
  await inventory.open()
  await inventory.idle()
  const inventoryAt = '2026-01-02T03:04:05.000Z'
  const shared = { storeDir: '/nix/store', up: true, inventoryAt }
  t.same(inventory.status(), [
    { ...shared, id: store.id, kind: 'nix-store', paths: 11, narBytes: 57 },
    { ...shared, id: cache.id, kind: 'cache-dir', paths: 1, narBytes: 7 },
  ])
  t.match(catalog.holders.list(), [
    { id: store.id, host: 'lab-3', up: true, paths: 11, lastSeen: NOW },
    { id: cache.id, host: 'lab-3', up: true, paths: 1 },
  ])

  now += 60_000
  const changed = nextChange(events)
  cache.put(fakePath('new', nar('x')), nar('x'))
  t.same(await changed, [cache.id], 'seen by the timer')
  await inventory.idle()
  t.match(inventory.status(), [{ paths: 11 }, { paths: 2, narBytes: 8 }])

  now += 60_000
  const removed = nextChange(events)
  store.content.clear()
  store.put(fakePath('left', nar('y')), nar('y'))
  await removed
  t.match(inventory.status(), [{ paths: 1, narBytes: 1 }, { paths: 2 }])
  t.match(await inventory.whoHas('app-*'), { matches: [], more: 0 })
  await inventory.close()
  await inventory.close()
})

t.test('a holder out of reach', async t => {
  let now = NOW
  const { inventory, events, store, cache } = await rig(t, { clock: () => now })
  const info = fakePath('app', nar('a'))
  cache.put(info, nar('a'))
  await inventory.open()
  await inventory.idle()

  await t.test('says why, and its holdings stay known', async t => {
    cache.broken = true
    events.emit('holder:down', cache.id, 'unplugged')
    t.match(inventory.status(), [{ up: true }, { up: false, problem: 'unplugged', paths: 1 }])
    t.match(await inventory.whoHas('app'), {
      matches: [{ storePath: info.storePath, narSize: 1, holders: [{ id: cache.id, up: false }] }],
    })
    t.match(await inventory.whoHas(info.storePath), {
      matches: [{ holders: [{ id: cache.id, up: false, lastSeen: '2026-01-02T03:04:05.000Z' }] }],
    })
    events.emit('holder:down', 'somebody-else', 'x')
    cache.broken = false
    events.emit('holder:up', cache.id)
    t.match(inventory.status(), [{ up: true }, { up: true }])
    t.notOk('problem' in (inventory.status()[1] ?? {}))
  })

  await t.test('a scan that fails is told and tried again', async t => {
    const paths = store.paths
    store.paths = () => {
      throw new Error('disk on fire')
    }
    now += 60_000
    store.put(fakePath('later', nar('b')), nar('b'))
    while (inventory.status()[0]?.up) await new Promise(resolve => setImmediate(resolve))
    t.match(inventory.status()[0], { up: false, problem: 'disk on fire' })
    store.paths = paths
    const changed = nextChange(events)
    now += 60_000
    t.same(await changed, [store.id], 'though its generation is the same')
    t.match(inventory.status()[0], { up: true, paths: 1 })
  })
})

t.test('a holder that comes just after the start', async t => {
  let now = NOW
  const { inventory, catalog, events, store } = await rig(t, { clock: () => now })
  const { upsert } = catalog.holders
  // A thread that is just being started on a busy machine.
  const slowly: typeof upsert = async holder => {
    now += 5000
    await upsert(holder)
  }
  Object.assign(catalog.holders, { upsert: slowly })
  const paths = store.paths
  store.paths = () => {
    throw new Error('not made yet')
  }
  await inventory.open()
  await inventory.idle()
  t.match(inventory.status()[0], { up: false, problem: 'not made yet' })
  store.paths = paths
  const info = fakePath('first', nar('b'))
  store.put(info, nar('b'))
  const changed = nextChange(events)
  events.emit('holder:up', store.id)
  t.same(await changed, [store.id], 'is read at once')
  t.match(inventory.status()[0], { up: true, paths: 1 })
})

t.test('closing interrupts a scan', async t => {
  const { inventory, store, catalog } = await rig(t)
  let yields = 0
  let reached: () => void
  const first = new Promise<void>(resolve => (reached = resolve))
  store.paths = async function* () {
    for (;;) {
      yield [fakePath(`endless-${yields++}`, nar('x')).storePath]
      reached()
      await new Promise(resolve => setImmediate(resolve))
    }
  }
  await inventory.open()
  await first
  await inventory.close()
  const at = yields
  await new Promise(resolve => setImmediate(resolve))
  t.ok(yields <= at + 1, 'the walk has stopped')
  t.match(catalog.holders.list()[0], { paths: undefined }, 'a part is no count')
})

t.test('a holder that the configuration no longer names is forgotten', async t => {
  const { inventory, cache, stateDir, close } = await rig(t)
  cache.put(fakePath('gone', nar('a')), nar('a'))
  await inventory.open()
  await inventory.idle()
  await close()
  const next = await rig(t, {
    stateDir,
    holders: [fakeHolder('nix-store:/nix/store', 'nix-store')],
  })
  t.equal(next.catalog.holders.list().length, 2)
  await next.inventory.open()
  t.match(next.catalog.holders.list(), { length: 1 })
  t.match(await next.inventory.whoHas('gone'), { matches: [] })
})

const drvText = (outputs: Readonly<Record<string, string>>): Buffer => {
  const list = Object.entries(outputs).map(([name, path]) => `("${name}","${path}","","")`)
  return Buffer.from(`Derive([${list.join(',')}],[],[],"x86_64-linux","/bin/sh",[],[])`)
}

t.test('who has', async t => {
  const { inventory, store, cache, catalog } = await rig(t)
  const app = fakePath('app-1.0', nar('12345'))
  const lib = fakePath('lib-2.0', nar('123'))
  const out = fakePath('tool-3', nar('1'))
  const dev = fakePath('tool-3-dev', nar('12'))
  const drv = fakePath('tool-3.drv', nar('drv'))
  const broken = fakePath('broken.drv', nar('x'))
  for (const info of [app, lib, out, drv, broken]) store.put(info, nar('x'.repeat(info.narSize)))
  for (const info of [app, dev]) cache.put(info, nar('x'.repeat(info.narSize)))
  store.readFile = async ({ info }: Holding) =>
    info.storePath === drv.storePath
      ? drvText({ out: out.storePath, dev: dev.storePath })
      : Buffer.from('not a derivation')
  await inventory.open()
  await inventory.idle()
  await catalog.holders.upsert({
    id: 'peer:far',
    kind: 'peer',
    storeDir: '/nix/store',
    host: 'far',
    up: false,
    lastSeen: NOW - 1000,
  })
  const remote = fakePath('remote-only', nar(''))
  await catalog.holdings.add('peer:far', [{ storePath: remote.storePath, narSize: 99 }])

  const local = { host: 'lab-3', up: true, lastSeen: '2026-01-02T03:04:05.000Z' }
  const inStore = { ...local, id: store.id, kind: 'nix-store' }
  const inCache = { ...local, id: cache.id, kind: 'cache-dir' }
  const far = {
    id: 'peer:far',
    kind: 'peer',
    host: 'far',
    up: false,
    lastSeen: '2026-01-02T03:04:04.000Z',
  }
  const appMatch = { storePath: app.storePath, narSize: 5, holders: [inStore, inCache] }
  const outMatch = { storePath: out.storePath, narSize: 1, holders: [inStore] }
  const devMatch = { storePath: dev.storePath, narSize: 2, holders: [inCache] }
  const drvMatch = { storePath: drv.storePath, narSize: 3, holders: [inStore] }
  const cases: Readonly<Record<string, readonly object[]>> = {
    [app.storePath]: [appMatch],
    [`${app.storePath}/bin/app`]: [appMatch],
    [baseNameOf(app.storePath)]: [appMatch],
    [hashPartOf(app.storePath)]: [appMatch],
    'app-*': [appMatch],
    APP: [appMatch],
    [`/nix/store/${hashPartOf(app.storePath)}-other`]: [],
    'no-such-*': [],
    [drv.storePath]: [drvMatch, outMatch, devMatch],
    [`${drv.storePath}!dev`]: [devMatch],
    [`${drv.storePath}!out`]: [outMatch],
    [`${drv.storePath}^out,dev`]: [outMatch, devMatch],
    [`${baseNameOf(drv.storePath)}!*`]: [outMatch, devMatch],
    'remote-*': [{ storePath: remote.storePath, narSize: 99, holders: [far] }],
    [remote.storePath]: [{ storePath: remote.storePath, narSize: 99, holders: [far] }],
  }
  for (const [query, matches] of Object.entries(cases)) {
    t.same(await inventory.whoHas(query), { query, matches, more: 0 }, query)
  }
  const problems: Readonly<Record<string, RegExp>> = {
    '': /empty/,
    '/etc/passwd': /not a store path/,
    [`${drv.storePath}!doc`]: /no output doc, only out, dev/,
    [`${broken.storePath}!out`]: /nobody here has/,
    [`/nix/store/${'0'.repeat(32)}-x.drv!out`]: /nobody here has/,
    'tool*.drv!out': /whole \.drv path/,
  }
  for (const [query, problem] of Object.entries(problems)) {
    t.match(await inventory.whoHas(query), { query, matches: [], more: 0, problem }, query)
  }

  await t.test('what came or went after the last scan', async t => {
    store.paths = async function* () {}
    cache.paths = async function* () {}
    const fresh = fakePath('fresh-1', nar('abc'))
    cache.content.set(hashPartOf(fresh.storePath), { info: fresh, nar: nar('abc') })
    store.content.delete(hashPartOf(app.storePath))
    t.match(await inventory.whoHas(fresh.storePath), { matches: [{ holders: [inCache] }] })
    t.match(await inventory.whoHas(hashPartOf(fresh.storePath)), { matches: [{ narSize: 3 }] })
    for (const query of ['app-*', app.storePath]) {
      const { matches } = await inventory.whoHas(query)
      t.same(matches[0]?.holders, [inCache], `${query}: the store has it no more`)
    }
    cache.content.delete(hashPartOf(app.storePath))
    t.same((await inventory.whoHas('app-*')).matches, [])
  })
})

t.test('who has what peers hold', async t => {
  const [here, gone, never, stranger] = ['a', 'b', 'c', 'd'].map(digit => digit.repeat(64))
  const met = '2026-01-02T00:00:00.000Z'
  const presences: Readonly<Record<string, PeerPresence>> = {
    [String(here)]: { name: 'attic', up: true, lastSeen: met },
    [String(gone)]: { name: 'barn', up: false, lastSeen: met },
    [String(never)]: { name: 'cellar', up: false },
    [String(stranger)]: { up: false },
  }
  const presence = (key: PeerKey) => presences[key] ?? { up: false }
  const { inventory, catalog } = await rig(t, { presence })
  await inventory.open()
  const remote = fakePath('remote-only', nar(''))
  for (const key of Object.keys(presences)) {
    const id = `peer:${key}`
    // What the catalog says of connections is what it said before a crash: the opposite of what is so.
    const up = presences[key]?.up === false
    await catalog.holders.upsert({ id, kind: 'peer', storeDir: '/nix/store', host: 'old', up })
    await catalog.holdings.add(id, [{ storePath: remote.storePath, narSize: 9 }])
  }
  const { matches } = await inventory.whoHas('remote-only')
  t.same(matches[0]?.holders, [
    {
      id: `peer:${here}`,
      kind: 'peer',
      host: 'attic',
      up: true,
      lastSeen: '2026-01-02T03:04:05.000Z',
    },
    { id: `peer:${gone}`, kind: 'peer', host: 'barn', up: false, lastSeen: met },
    { id: `peer:${never}`, kind: 'peer', host: 'cellar', up: false },
    { id: `peer:${stranger}`, kind: 'peer', host: 'old', up: false },
  ])
})

t.test('more than can be shown', async t => {
  const { inventory, store } = await rig(t)
  for (let n = 0; n < WHO_HAS_LIMIT + 5; n++) store.put(fakePath(`many-${n}`, nar('')), nar(''))
  await inventory.open()
  await inventory.idle()
  const { matches, more } = await inventory.whoHas('many-*')
  t.equal(matches.length, WHO_HAS_LIMIT)
  t.equal(more, 5)
})

t.test('paths that differ in name only by case', async t => {
  const { inventory, store } = await rig(t)
  const upper = createHash('sha1').update('x').digest('hex')
  for (const name of [`Pkg-${upper}`, `pkg-${upper}`]) store.put(fakePath(name, nar('')), nar(''))
  await inventory.open()
  await inventory.idle()
  t.equal((await inventory.whoHas(`PKG-${upper}`)).matches.length, 2)
})
