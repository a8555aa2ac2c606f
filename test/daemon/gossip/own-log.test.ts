import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { tempDir } from '../../helpers/scope.ts'
import { fakeIndexes } from './fake-indexes.ts'
import {
  connect,
  createSite,
  entry,
  isUp,
  startHost,
  storePathOf,
  until,
  type Host,
} from './rooms.ts'

const logsOf = (host: Host) => join(host.stateDir, 'gossip')

/** What a kill leaves: no mark of a clean stop. */
const unclean = (host: Host) => rmSync(join(logsOf(host), 'closed.json'), { force: true })

const epochOf = (host: Host) => host.indexes.position(host.key)?.epoch

t.test('a clean stop: the log goes on where it ended', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  await a.gossip.append({ added: [entry('one')], removed: [] })
  await a.gossip.close()
  const again = await startHost(t, site, 'a', { again: a })
  await again.gossip.append({ added: [entry('two')], removed: [] })
  t.equal(epochOf(again), 1)
  t.same(again.indexes.names(a.key), ['one', 'two'])
})

t.test('an unclean stop without any peer: a new log at once', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  await a.gossip.append({ added: [entry('one')], removed: [] })
  await a.gossip.close()
  unclean(a)
  const again = await startHost(t, site, 'a', { again: a })
  await again.gossip.append({ added: [entry('two')], removed: [] })
  t.equal(epochOf(again), 2, 'with all that stood')
  t.same(again.indexes.names(a.key), ['one', 'two'])
})

t.test('an unclean stop: a peer that knows the end of the log lets it go on', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({ added: [entry('one')], removed: [] })
  await connect(a, b)
  await until(b, () => b.indexes.names(a.key).length === 1)
  await a.gossip.close()
  unclean(a)
  const again = await startHost(t, site, 'a', { again: a, timings: { witnessMs: 60_000 } })
  // Written as soon as B was heard, not before.
  await again.gossip.append({ added: [entry('two')], removed: [] })
  t.ok(isUp(again, b), 'found by what was remembered')
  t.equal(epochOf(again), 1)
  await until(b, () => b.indexes.names(a.key).length === 2)
  t.same(b.indexes.names(a.key), ['one', 'two'])
})

t.test('an unclean stop and no peer in time: a new log', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({ added: [entry('one')], removed: [] })
  await connect(a, b)
  await a.gossip.close()
  await b.gossip.close()
  unclean(a)
  const again = await startHost(t, site, 'a', { again: a, timings: { witnessMs: 50 } })
  await again.gossip.append({ added: [entry('two')], removed: [] })
  t.equal(epochOf(again), 2)
})

t.test('a store rolled back behind what a peer has: healed by a new log', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({ added: [entry('one')], removed: [] })
  await a.gossip.close()
  const backup = tempDir(t, 'backup')
  cpSync(a.stateDir, backup, { recursive: true })

  const later = await startHost(t, site, 'a', { again: a })
  await later.gossip.append({ added: [entry('two')], removed: [] })
  await later.gossip.append({ added: [entry('three')], removed: [] })
  await connect(later, b)
  await until(b, () => b.indexes.names(a.key).length === 3)
  await later.gossip.close()

  // The whole state directory comes back, catalog and mark of a clean stop included.
  const indexes = fakeIndexes()
  const restored = await startHost(t, site, 'a', { again: a, stateDir: backup, indexes })
  t.equal(epochOf(restored), 2, 'a copied directory is not appended to')
  await restored.gossip.append({ added: [entry('four')], removed: [] })
  await connect(restored, b)
  await until(b, () => b.indexes.names(a.key).includes('four'))
  t.match(b.indexes.names(a.key), ['four'], 'B follows the new log')
  t.same(b.gossip.status()[0]?.problem, undefined, 'and calls nobody a liar')
})

t.test('two histories of one log: both ends see it, the host begins another', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({ added: [entry('one')], removed: [] })
  await a.gossip.close()
  // A machine's snapshot: same directory, same inode; the log and its mark are put back in place.
  const snapshot = tempDir(t, 'snapshot')
  cpSync(logsOf(a), snapshot, { recursive: true, preserveTimestamps: true })
  const first = await startHost(t, site, 'a', { again: a })
  await first.gossip.append({ added: [entry('two')], removed: [] })
  await connect(first, b)
  await until(b, () => b.indexes.names(a.key).length === 2)
  await first.gossip.close()

  const db = join('logs', 'db')
  rmSync(join(logsOf(a), db), { recursive: true })
  cpSync(join(snapshot, db), join(logsOf(a), db), { recursive: true })
  rmSync(join(logsOf(a), 'peers.json'))
  for (const file of ['closed.json', 'own-log.json']) {
    cpSync(join(snapshot, file), join(logsOf(a), file), { force: true })
  }
  const indexes = fakeIndexes()
  const second = await startHost(t, site, 'a', { again: a, indexes })
  t.equal(epochOf(second), 1, 'nothing shows that it was put back')
  await second.gossip.append({ added: [entry('three')], removed: [] })
  await second.gossip.append({ added: [entry('four')], removed: [] })
  await connect(second, b)
  await until(b, () => b.indexes.names(a.key).includes('four'))
  t.same(b.indexes.names(a.key), ['four', 'one', 'three'])
  t.ok((epochOf(second) ?? 0) > 1, 'in a new log')
  await second.gossip.append({ added: [entry('five')], removed: [] })
  await until(b, () => b.indexes.names(a.key).includes('five'))
  t.pass('which is alive')
})

t.test('a log with too much removed, or in too small blocks, is written anew', async t => {
  const site = createSite()
  const compaction = { removedLeast: 3, removedShare: 0.3, smallBlocks: 8 }
  const a = await startHost(t, site, 'a', { compaction })
  const b = await startHost(t, site, 'b')
  await connect(a, b)
  const names = ['a', 'b', 'c', 'd', 'e', 'f']
  await a.gossip.append({ added: names.map(name => entry(name)), removed: [] })
  await a.gossip.append({ added: [], removed: ['a', 'b', 'c'].map(storePathOf) })
  t.equal(epochOf(a), 2, 'half of it was removed')
  await until(b, () => b.indexes.position(a.key, 'in-force')?.epoch === 2)
  t.same(b.indexes.names(a.key), ['d', 'e', 'f'])
  for (let i = 0; i < 9; i++) {
    await a.gossip.append({ added: [entry(`small-${i}`)], removed: [] })
  }
  t.equal(epochOf(a), 3, 'nine small blocks')
  await until(b, () => b.indexes.position(a.key, 'in-force')?.epoch === 3)
  t.equal(b.indexes.names(a.key).length, 12)
})

t.test('a path that went and came back is referred to where it stands now', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await connect(a, b)
  await a.gossip.append({ added: [entry('lib')], removed: [] })
  await a.gossip.append({ added: [entry('one', ['lib'])], removed: [] })
  await a.gossip.append({ added: [], removed: [storePathOf('lib')] })
  await a.gossip.append({ added: [entry('two', ['lib'])], removed: [] })
  await a.gossip.append({ added: [entry('lib')], removed: [] })
  await a.gossip.append({ added: [entry('three', ['lib']), entry('lib')], removed: [] })
  await a.gossip.append({ added: [entry('four', ['lib', 'three'])], removed: [] })
  await until(b, () => b.indexes.names(a.key).includes('four'))
  t.same(b.indexes.names(a.key), ['four', 'lib', 'one', 'three', 'two'])
  t.equal(b.gossip.status()[0]?.problem, undefined)
})
