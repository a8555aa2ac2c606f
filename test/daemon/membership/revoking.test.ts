import t from 'tap'
import { type TestHost } from '../../helpers/pairing.ts'
import { site, names } from '../../helpers/site-rig.ts'

t.test('a revoked host', async t => {
  const { net, add, join, gossip, hosts, transport } = await site(t, 'a', 'b', 'c')
  const [a, b, c] = hosts as [TestHost, TestHost, TestHost]
  gossip(a, b, c)
  const heard = c.changes()
  t.throws(() => a.room.revoke('nobody'), { code: 'MEMBER_UNKNOWN' })
  t.throws(() => a.room.revoke('a'), { code: 'MEMBER_SELF' })
  t.same(a.room.revoke('b'), { name: 'b', key: b.room.key, kept: [], back: [] })
  t.equal(c.room.offer(a.room.list() ?? Buffer.alloc(0)), 'newer')
  t.equal(c.changes(), heard + 1, 'is cut off where that is heard')
  t.notOk(c.room.isMember(b.room.key))
  t.equal(c.room.offer(b.room.list() ?? Buffer.alloc(0)), 'older')
  t.equal(c.room.offer(a.room.list() ?? Buffer.alloc(0)), 'same')
  t.same(
    c.room.members().map(({ name, state }) => `${name} ${state}`),
    ['a member', 'c member', 'b revoked'],
  )
  t.equal(
    await b.room.introduce(net.candidate('c', c.room.key), transport(b)),
    true,
    'b does not know yet',
  )
  const before = net.exchanges.length
  t.equal(await c.room.introduce(net.candidate('b', b.room.key), transport(c)), false)
  t.equal(net.exchanges.length, before, 'nobody introduces itself to a revoked host')

  t.equal(b.room.offer(a.room.list() ?? Buffer.alloc(0)), 'newer')
  t.match(b.room.problems(), [{ what: /this host was revoked in the site lab/ }])
  const { code } = a.room.invite()
  await t.rejects(join(b, code), { code: 'HOST_KEY_REVOKED' })
  await t.rejects(join(b, code, { leave: true }), { code: 'HOST_KEY_RENEWED' })
  const back = await b.restart()
  net.put('b', back.room)
  t.match(back.room.problems(), [{ what: /no member of the site lab/ }])
  await join(back, code)
  t.same(names(a), ['a', 'b', 'c'], 'it comes back under a new key')

  const fresh = await add('fresh')
  const told = a.room.invite().code
  await join(fresh, told)
  a.room.revoke(fresh.room.key)
  await t.rejects(
    add('fresh2', { stateDir: fresh.stateDir }).then(again => join(again, told, { leave: true })),
    {
      code: 'HOST_KEY_RENEWED',
    },
    'a host that was not told learns it from its invite',
  )
})

t.test('two admins on two islands', async t => {
  const { add, join, gossip, hosts, net, transport } = await site(t, 'a', 'b', 'c', 'd')
  const [a, b, c, d] = hosts as [TestHost, TestHost, TestHost, TestHost]
  t.equal(a.room.promote('b'), 'b')
  t.equal(a.room.promote(b.room.key), 'b', 'twice is as good as once')
  gossip(a, b, c, d)
  t.ok(b.room.state().admin)
  const [left, right] = [await add('left'), await add('right')]
  a.room.revoke('c')
  await join(left, a.room.invite().code)
  b.room.revoke('d')
  await join(right, b.room.invite().code)
  t.same(names(left), ['a', 'b', 'd', 'left'])
  t.same(names(right), ['a', 'b', 'c', 'right'])

  // Neither admin is there when the islands meet: two new members that know nothing of one another.
  t.notOk(left.room.isMember(right.room.key))
  net.cut('a')
  net.cut('b')
  t.equal(await left.room.introduce(net.candidate('right', right.room.key), transport(left)), true)
  t.ok(right.room.isMember(left.room.key), 'each knows the other now')
  gossip(left, right)
  t.same(names(left), ['a', 'b', 'left', 'right'])
  t.ok(left.room.list()?.equals(right.room.list() ?? Buffer.alloc(0)), 'one list, the same bytes')
  gossip(a, b, left, right)
  t.ok(a.room.list()?.equals(left.room.list() ?? Buffer.alloc(0)))
  t.same(names(a), ['a', 'b', 'left', 'right'])
  t.equal(await left.room.introduce(net.candidate('right', right.room.key), transport(left)), true)
})

t.test('an admin is revoked by one whom it promoted', async t => {
  const { join, add, gossip, hosts, recovery } = await site(t, 'a', 'b')
  const [a, b] = hosts as [TestHost, TestHost]
  a.room.promote('b')
  gossip(a, b)
  const c = await add('c')
  await join(c, a.room.invite().code)
  gossip(a, b, c)
  t.same(b.room.revoke('a').kept, [], 'nothing of what it did before is lost')
  t.same(names(b), ['b', 'c'])
  t.ok(b.room.state().admin)
  const d = await add('d')
  await join(d, b.room.invite().code)
  gossip(b, c, d)

  // The thief of a: invites its friend, and strikes at c.
  const friend = await add('friend')
  await join(friend, a.room.invite().code)
  a.room.revoke('c')
  b.room.offer(a.room.list() ?? Buffer.alloc(0))
  t.same(names(b), ['b', 'd'])
  t.ok(b.room.members().some(({ name, state }) => name === 'friend' && state === 'orphaned'))
  t.throws(() => b.room.revoke('a', { entirely: true }), { code: 'SITE_KEY_ABSENT' })
  b.room.recover(recovery.join('\n'))
  const { kept, back } = b.room.revoke('a', { entirely: true })
  t.same(back, [], 'a admitted c, so nothing of c is left')
  t.same(
    kept,
    ['b', 'd'].filter(name => kept.includes(name)),
  )
  t.same(names(b), ['b', 'd'], 'what b had done itself stays')
  t.ok(b.room.state().admin)
  gossip(b, d)
  t.ok(d.room.isMember(b.room.key))
})

t.test('revoked entirely: whom it had revoked comes back', async t => {
  const { gossip, hosts, recovery } = await site(t, 'a', 'b', 'c')
  const [a, b, c] = hosts as [TestHost, TestHost, TestHost]
  a.room.promote('b')
  gossip(a, b, c)
  b.room.revoke('c')
  a.room.offer(b.room.list() ?? Buffer.alloc(0))
  t.notOk(a.room.isMember(c.room.key))
  a.room.forgetSiteKey()
  t.throws(() => a.room.revoke('b', { entirely: true }), { code: 'SITE_KEY_ABSENT' })
  t.throws(() => a.room.forgetSiteKey(), { code: 'SITE_KEY_ABSENT' })
  a.room.recover(recovery.join('\n'))
  t.match(a.room.revoke('b', { entirely: true }), { kept: [], back: ['c'] })
  t.same(names(a), ['a', 'c'])
})
