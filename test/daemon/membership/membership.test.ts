import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  rmSync,
  cpSync,
} from 'node:fs'
import { join as joinPath } from 'node:path'
import t from 'tap'
import { createMembership } from '../../../daemon/membership/membership.ts'
import { createEventBus } from '../../../daemon/events.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import { parseInvite } from '../../../protocol/invite.ts'
import { openHost, type TestHost } from '../../helpers/pairing.ts'
import { tempDir } from '../../helpers/scope.ts'
import { NIX_KEY, HOUR_MS, site, names } from '../../helpers/site-rig.ts'

t.test('a host’s own key', async t => {
  const { room, stateDir } = await openHost(t, 'a')
  const file = joinPath(stateDir, 'host-key.secret')
  t.equal(statSync(file).mode & 0o777, 0o600)
  t.equal(room.keyPair.publicKey.toString('hex'), room.key)
  t.ok(room.keyPair.secretKey.subarray(32).equals(room.keyPair.publicKey))
  t.equal(room.siteName, undefined)
  t.equal(room.list(), undefined)
  t.same(room.members(), [])
  t.same(room.nixKeys(), [])
  t.ok(room.isMember(room.key))
  t.throws(() => room.offer(Buffer.from('x')), { code: 'MEMBER_LIST_INVALID' })
  t.throws(() => room.invite(), { code: 'SITE_NONE' })
  const { key } = room
  await room.close()
  await room.close()
  t.throws(() => room.key, /closed/)
  chmodSync(file, 0o644)
  await room.open()
  await room.open()
  t.equal(room.key, key)
  t.equal(statSync(file).mode & 0o777, 0o600)
  t.match(room.problems(), [{ what: /host key .* could be read by others/ }])
  await room.close()
  for (const text of [
    '',
    'narwharf-host:abc',
    `narwharf-host:${Buffer.alloc(64).toString('base64')}`,
  ]) {
    writeFileSync(file, text)
    await t.rejects(room.open(), { code: 'KEY_INVALID' })
    t.equal(readFileSync(file, 'utf8'), text, 'and left alone')
  }
  rmSync(file)
  writeFileSync(`${file}.0123456789ab.tmp`, 'half a key')
  await room.open()
  t.not(room.key, key)
  t.same(readdirSync(stateDir), ['host-key.secret'], 'what a kill left is swept away')
})

t.test('a state directory that wakes up on another machine', async t => {
  const machineIdFile = joinPath(tempDir(t, 'machine'), 'id')
  writeFileSync(machineIdFile, 'one\n')
  const host = await openHost(t, 'a', { machineIdFile })
  t.same((await host.restart()).room.problems(), [])
  const copy = tempDir(t, 'copy')
  cpSync(host.stateDir, copy, { recursive: true })
  writeFileSync(machineIdFile, 'two\n')
  const twin = await openHost(t, 'a', { machineIdFile, stateDir: copy })
  t.match(twin.room.problems(), [{ what: /comes from another machine/ }])
  twin.room.init('lab')
  t.same([...twin.room.admit(randomBytes(40), randomBytes(64), twin.room.key)], [1, 0])
  t.ok(twin.room.problems().some(({ what }) => /another machine uses this host’s key/.test(what)))
})

t.test('a site is made, and a host joins it', async t => {
  const { net, add, join, hosts } = await site(t, 'a')
  const [a] = hosts as [TestHost]
  t.equal(a.room.siteName, 'lab')
  t.equal(a.changes(), 1)
  t.throws(() => a.room.init('other'), { code: 'SITE_TAKEN' })
  const b = await add('b', { nixKey: NIX_KEY })
  t.throws(() => b.room.init('two words'), { code: 'MEMBER_NAME_INVALID' })
  const { code, expiresInMs } = a.room.invite()
  t.equal(expiresInMs, 24 * HOUR_MS)
  t.same(parseInvite(code).addresses, [net.addressOf('a')])
  t.equal(a.room.state().site?.openInvites, 1)
  await join(b, code)
  t.equal(a.room.state().site?.openInvites, 0)
  t.same(names(a), ['a', 'b'])
  t.same(names(b), ['a', 'b'])
  t.ok(a.room.isMember(b.room.key) && b.room.isMember(a.room.key))
  t.equal(b.room.nameOf(a.room.key), 'a')
  t.equal(b.room.siteName, 'lab')
  t.same(a.room.nixKeys(), [NIX_KEY])
  t.ok(a.room.list()?.equals(b.room.list() ?? Buffer.alloc(0)))
  t.match(b.room.state(), {
    admin: false,
    name: 'b',
    site: { name: 'lab', members: 2, keyHere: false },
  })
  t.throws(() => b.room.invite(), { code: 'SITE_NOT_ADMIN' })
  t.throws(() => b.room.revoke('a'), { code: 'SITE_NOT_ADMIN' })
  t.throws(() => b.room.recovery(), { code: 'SITE_KEY_ABSENT' })
  await t.rejects(join(b, a.room.invite().code), { code: 'SITE_TAKEN' })
  const second = await add('second', { hostName: 'b' })
  await join(second, a.room.invite().code)
  const third = await add('third', { hostName: 'b' })
  await join(third, a.room.invite({ name: 'attic', admin: true }).code)
  t.same(names(a), ['a', 'attic', 'b', 'b-2'])
  t.ok(third.room.state().admin, 'invited as an admin')
  t.throws(() => a.room.invite({ name: 'two words' }), { code: 'MEMBER_NAME_INVALID' })
  t.throws(
    () => {
      for (;;) a.room.invite()
    },
    { code: 'INVITES_TOO_MANY' },
  )
  const again = await b.restart()
  t.same(names(again), ['a', 'b'], 'as its disk says')
})

t.test('a code is good once, in time, for who has it', async t => {
  const { net, add, join, transport, hosts } = await site(t, 'a')
  let [a] = hosts as [TestHost]
  const [b, c] = [await add('b'), await add('c')]
  const refused = { code: 'PAIRING_REFUSED' }

  const { code } = a.room.invite()
  const stranger = randomBytes(32).toString('hex') as PeerKey
  const hash = randomBytes(64)
  const request = b.room.joinRequest(code, hash)
  const replies = [
    a.room.admit(request, randomBytes(64), b.room.key), // relayed over another connection
    a.room.admit(request, hash, stranger), // by another host
    a.room.admit(
      c.room.joinRequest(a.room.invite({ expiresInMs: 0 }).code, hash),
      hash,
      c.room.key,
    ),
    a.room.admit(randomBytes(100), hash, stranger),
    a.room.admit(Buffer.alloc(0), hash, stranger),
  ]
  a.clock.pass(1)
  const late = a.room.invite({ expiresInMs: 10 }).code
  a.clock.pass(10)
  replies.push(a.room.admit(c.room.joinRequest(late, hash), hash, c.room.key))
  for (const reply of replies.filter((_, n) => n !== 2))
    t.same([...reply], [1, 0], 'one and the same reply')
  t.same(names(a).includes('b'), false)
  await t.rejects(join(c, late), refused, 'too late')

  a = await a.restart()
  net.put('a', a.room)
  a.clock.setBack(999 * HOUR_MS)
  await join(b, code)
  t.ok(names(a).includes('b'), 'a restart and a wrong clock do not end it')
  const d = await add('d')
  await t.rejects(join(d, code), refused, 'used by another host')
  const lost = a.room.admit(b.room.joinRequest(code, hash), hash, b.room.key)
  b.room.finishJoin(code, lost)
  t.pass('the host that used it may ask again, when the reply was lost')
  a = await a.restart()
  net.put('a', a.room)
  await t.rejects(join(d, code), refused, 'also after a crash')

  const soon = a.room.invite({ expiresInMs: 10 * HOUR_MS }).code
  a.clock.pass(6 * HOUR_MS)
  a = await a.restart()
  net.put('a', a.room)
  a.clock.pass(3 * HOUR_MS)
  const [e, f] = [await add('e'), await add('f')]
  await join(e, soon)
  const other = a.room.invite({ expiresInMs: 10 * HOUR_MS }).code
  await a.room.close()
  a.clock.pass(11 * HOUR_MS)
  a = await a.restart()
  net.put('a', a.room)
  await t.rejects(join(f, other), refused, 'time passes while the daemon is off, too')

  net.cut('a')
  await t.rejects(join(f, a.room.invite().code), {
    code: 'PAIRING_FAILED',
    message: /192\.0\.2\.1:1: nobody answers/,
  })
  await t.rejects(f.room.join('nw-12345', transport(f), []), { code: 'INVITE_INVALID' })
  const nowhere = createMembership({
    stateDir: a.stateDir,
    hostName: 'a',
    events: createEventBus(),
  })
  await nowhere.open()
  const blind = nowhere.invite().code
  await nowhere.close()
  await t.rejects(join(f, blind), { code: 'PAIRING_FAILED', message: /nobody has said/ })
})

t.test('discovery says where the inviter is', async t => {
  const { net, add, transport, hosts } = await site(t, 'a')
  const [a] = hosts as [TestHost]
  const b = await add('b')
  const moved = await a.restart()
  net.put('elsewhere', moved.room)
  net.cut('a')
  const { code } = moved.room.invite()
  const candidates = [net.candidate('b', b.room.key), net.candidate('elsewhere', moved.room.key)]
  await b.room.join(code, transport(b), candidates)
  t.ok(b.room.isMember(moved.room.key))
})

t.test('strangers learn nothing and harm nothing', async t => {
  const { add, hosts, transport, net } = await site(t, 'a', 'b')
  const [a, b] = hosts as [TestHost, TestHost]
  const before = a.room.list()
  const key = () => randomBytes(32).toString('hex') as PeerKey
  for (let n = 0; n < 200; n++) {
    const garbage = Buffer.concat([Buffer.from([1, 1 + (n % 4)]), randomBytes(n * 3)])
    t.same([...a.room.admit(garbage, randomBytes(64), key())], [1, 0])
  }
  t.ok(before?.equals(a.room.list() ?? Buffer.alloc(0)))
  const lone = await add('lone')
  const [hash, code] = [randomBytes(64), a.room.invite().code]
  t.same(
    [...b.room.admit(lone.room.joinRequest(code, hash), hash, lone.room.key)],
    [1, 0],
    'no admin',
  )
  t.same([...lone.room.admit(randomBytes(90), hash, key())], [1, 0], 'without a site')
  t.same(await lone.room.introduce(net.candidate('a', a.room.key), transport(lone)), false)

  const greedy = await add('greedy')
  for (let n = 0; n < 12; n++) a.room.admit(randomBytes(50), hash, greedy.room.key)
  const request = greedy.room.joinRequest(code, hash)
  t.same([...a.room.admit(request, hash, greedy.room.key)], [1, 0], 'asked too often')
  a.clock.pass(60_000)
  t.equal(a.room.admit(request, hash, greedy.room.key)[1], 1, 'and may again in a minute')
  for (let n = 0; n < 1300; n++) a.room.admit(Buffer.alloc(0), hash, key())
  t.same([...a.room.admit(request, hash, greedy.room.key)], [1, 0], 'strangers all together')

  for (const bytes of [randomBytes(300), Buffer.alloc(0), Buffer.from('narwharf-members 1 x\n')]) {
    t.throws(() => a.room.offer(bytes), { code: 'MEMBER_LIST_INVALID' })
  }
  const foreign = await add('foreign')
  foreign.room.init('elsewhere')
  t.throws(() => a.room.offer(foreign.room.list() ?? Buffer.alloc(0)), { message: /foreign site/ })
  await t.rejects(foreign.room.join(a.room.invite().code, transport(foreign), []), {
    code: 'SITE_TAKEN',
  })
  t.equal(await foreign.room.introduce(net.candidate('a', a.room.key), transport(foreign)), false)
  const seen = net.exchanges.at(-1)?.request ?? Buffer.alloc(0)
  t.equal(seen.length, 34, 'a host of another site is shown a proof and no list')
  const sent = net.exchanges.length
  t.equal(await foreign.room.introduce(net.candidate('a', a.room.key), transport(foreign)), false)
  t.equal(net.exchanges.length, sent, 'and is not asked at every sighting')
})

t.test('the site outlives its machines', async t => {
  const { net, add, join, transport, hosts, recovery } = await site(t, 'a', 'b', 'c')
  const [a, b, c] = hosts as [TestHost, TestHost, TestHost]
  t.same(a.room.recovery(), recovery)
  t.equal(statSync(`${a.stateDir}/site-key.secret`).mode & 0o777, 0o600)
  b.room.offer(a.room.list() ?? Buffer.alloc(0))
  net.cut('a')
  await a.room.close()

  const fresh = await add('fresh')
  t.throws(() => fresh.room.recover('nonsense'), { code: 'RECOVERY_INVALID' })
  fresh.room.recover(recovery.join('\n'))
  t.match(fresh.room.siteName ?? '', /^site-[0-9a-f]{8}$/, 'the key alone does not know the name')
  t.equal(await fresh.room.introduce(net.candidate('b', b.room.key), transport(fresh)), true)
  t.equal(fresh.room.siteName, 'lab')
  t.same(names(fresh), ['a', 'b', 'c', 'fresh'])
  t.ok(b.room.isMember(fresh.room.key))
  fresh.room.revoke('a')
  const d = await add('d')
  await join(d, fresh.room.invite().code)
  t.same(names(fresh), ['b', 'c', 'd', 'fresh'])
  fresh.room.recover(recovery.join('\n'))
  t.pass('bringing it twice changes nothing')

  c.room.recover(recovery.join('\n'))
  t.ok(c.room.state().admin, 'a member becomes an admin by it')
  const other = await add('other')
  other.room.init('elsewhere')
  t.throws(() => other.room.recover(recovery.join('\n')), { code: 'SITE_KEY_FOREIGN' })
  await t.rejects(join(other, fresh.room.invite().code), { code: 'SITE_TAKEN' })
  await join(other, fresh.room.invite().code, { leave: true })
  t.equal(other.room.siteName, 'lab')
  t.throws(() => other.room.recovery(), { code: 'SITE_KEY_ABSENT' }, 'the other site’s key is gone')
  t.notOk(existsSync(`${other.stateDir}/site-key.secret`))
  const third = await add('third')
  third.room.init('elsewhere')
  third.room.recover(recovery.join('\n'), { leave: true })
  t.ok(third.room.state().admin)
  fresh.room.revoke('c')
  c.room.offer(fresh.room.list() ?? Buffer.alloc(0))
  t.throws(() => c.room.recover(recovery.join('\n')), { code: 'HOST_KEY_REVOKED' })
})

t.test('files that a kill, a full disk or a hand has damaged', async t => {
  const { hosts, join, add, net } = await site(t, 'a', 'b')
  let [a] = hosts as [TestHost]
  const b = hosts[1] as TestHost
  const file = joinPath(a.stateDir, 'members.list')
  const good = readFileSync(file)
  const { code } = a.room.invite()
  await a.room.close()
  for (const name of ['members.list', 'invites.json', 'site-key.secret']) {
    writeFileSync(joinPath(a.stateDir, `${name}.0123456789ab.tmp`), good.subarray(0, 100))
  }
  a = await a.restart()
  net.put('a', a.room)
  t.same(names(a), ['a', 'b'], 'a write that was cut short leaves the old file')
  t.notOk(readdirSync(a.stateDir).some(name => name.endsWith('.tmp')))
  const c = await add('c')
  await join(c, code)

  await a.room.close()
  writeFileSync(file, good.subarray(0, 200))
  writeFileSync(joinPath(a.stateDir, 'invites.json'), '[{"secret": "')
  a = await a.restart()
  t.equal(a.room.siteName, undefined)
  t.match(a.room.problems(), [{ what: /member list of this host is damaged and was put aside/ }])
  t.equal(readFileSync(`${file}.damaged`).length, 200)

  rmSync(b.stateDir, { recursive: true })
  t.equal(
    b.room.offer(c.room.list() ?? Buffer.alloc(0)),
    'newer',
    'in force although it cannot be written',
  )
  t.match(b.room.problems(), [{ what: /could not be written/ }])
  const lost = await add('lost')
  lost.room.init('x')
  rmSync(lost.stateDir, { recursive: true })
  t.throws(() => lost.room.invite(), /ENOENT/)
  t.throws(() => lost.room.promote('nobody'), { code: 'MEMBER_UNKNOWN' })
})

t.test('two hosts of one name are told apart by their keys', async t => {
  const { add, join, hosts } = await site(t, 'a', 'b')
  const [a, b] = hosts as [TestHost, TestHost]
  a.room.promote('b')
  b.room.offer(a.room.list() ?? Buffer.alloc(0))
  const [one, two] = [
    await add('one', { hostName: 'nixos' }),
    await add('two', { hostName: 'nixos' }),
  ]
  await join(one, a.room.invite().code)
  await join(two, b.room.invite().code)
  a.room.offer(b.room.list() ?? Buffer.alloc(0))
  t.same(names(a), ['a', 'b', 'nixos', 'nixos'])
  t.throws(() => a.room.revoke('nixos'), { code: 'MEMBER_AMBIGUOUS' })
  t.equal(a.room.revoke(two.room.key).name, 'nixos')
  t.ok(a.room.isMember(one.room.key))
})
