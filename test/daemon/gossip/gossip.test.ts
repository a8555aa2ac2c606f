import t from 'tap'
import { connect, createSite, entry, isUp, sight, startHost, storePathOf, until } from './rooms.ts'

t.test('what one host holds is in the other’s catalog at once', async t => {
  const site = createSite()
  const a = await startHost(t, site, 'a')
  const b = await startHost(t, site, 'b')
  await a.gossip.append({
    added: [entry('glibc'), entry('hello', ['glibc', 'hello'])],
    removed: [],
  })
  await connect(a, b)
  await until(b, () => b.indexes.names(a.key).length === 2)
  t.same(b.indexes.names(a.key), ['glibc', 'hello'], 'what was there before they met')

  const at = performance.now()
  await a.gossip.append({ added: [entry('firefox', ['glibc'])], removed: [storePathOf('hello')] })
  await until(b, () => b.indexes.names(a.key).includes('firefox'))
  t.comment(`from append to the peer's catalog ${(performance.now() - at).toFixed(1)} ms`)
  t.same(b.indexes.names(a.key), ['firefox', 'glibc'], 'what came, without what went')

  const [seen] = b.gossip.status()
  t.match(seen, { up: true, version: '1.2.3', paths: 2, narBytes: 2000, epoch: 1, lag: 0 })
  t.match(seen?.address, `127.0.0.1:${a.port}`)
  t.ok(b.lists.includes('list 1'), 'the member list came along')
})
