import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCatalog } from '../../../daemon/catalog/catalog.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import { tempDir } from '../../helpers/scope.ts'
import { connect, createSite, entry, isUp, startHost, storePathOf, until } from './rooms.ts'

async function openCatalog(t: Test) {
  const catalog = createCatalog({ file: join(tempDir(t, 'catalog'), 'catalog.sqlite') })
  await catalog.open()
  t.teardown(() => catalog.close())
  return catalog
}

t.test('with real catalogs: found by hash, whoever told of it', async t => {
  const site = createSite()
  const [inA, inB, inC] = [await openCatalog(t), await openCatalog(t), await openCatalog(t)]
  const compaction = { removedLeast: 1, removedShare: 0.2 }
  const a = await startHost(t, site, 'a', { indexes: inA.indexes, compaction })
  const b = await startHost(t, site, 'b', { indexes: inB.indexes })
  const found = (catalog: typeof inB, name: string) =>
    catalog.indexes.find(hashPartOf(storePathOf(name)))
  await a.gossip.append({ added: [entry('glibc'), entry('hello', ['glibc'])], removed: [] })
  await connect(a, b)
  await until(b, () => found(inB, 'hello').length === 1)
  t.match(found(inB, 'hello'), [{ peer: a.key, ...entry('hello', ['glibc']) }])
  await a.gossip.append({ added: [entry('firefox', ['hello'])], removed: [storePathOf('glibc')] })
  await until(b, () => found(inB, 'firefox').length === 1 && found(inB, 'glibc').length === 0)
  await until(b, () => inB.indexes.position(a.key, 'in-force')?.epoch === 2)
  t.match(found(inB, 'hello'), [{ info: { references: entry('x', ['glibc']).info.references } }])
  t.match(b.gossip.status(), [{ paths: 2, narBytes: 2000, epoch: 2, lag: 0 }])

  await a.gossip.close()
  await until(b, () => !isUp(b, a))
  const c = await startHost(t, site, 'c', { indexes: inC.indexes })
  await connect(b, c)
  await until(c, () => found(inC, 'firefox').length === 1)
  t.match(found(inC, 'firefox'), [{ peer: a.key }], 'C has it from B')
})
