import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import pino from 'pino'
import t, { type Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import type { ApiSources } from '../../../daemon/http/api.ts'
import { createCounters } from '../../../daemon/http/counters.ts'
import { createHttp } from '../../../daemon/http/server.ts'
import { listPeers } from '../../../daemon/http/peer-list.ts'
import { siteSources } from '../../../daemon/http/site-sources.ts'
import { localAddresses } from '../../../daemon/membership/local-addresses.ts'
import { createSubstitution } from '../../../daemon/substitution/substitution.ts'
import type { SiteMember } from '../../../protocol/api.ts'
import { runCli } from '../../helpers/control-server.ts'
import { fakeTrust } from '../../helpers/fake-holder.ts'
import { createPairingNet, openHost } from '../../helpers/pairing.ts'
import { tempDir } from '../../helpers/scope.ts'

type Net = ReturnType<typeof createPairingNet>

/** A host with both doors, of which only membership is real. */
async function startHost(t: Test, net: Net, name: string) {
  const host = await openHost(t, name, { addresses: () => [net.addressOf(name)] })
  net.put(name, host.room)
  const transport = net.transport(() => host.room.key)
  const site = siteSources({ membership: host.room, transport, candidates: () => [] })
  const http = createHttp({
    substitution: createSubstitution({
      holders: [],
      trust: fakeTrust(),
      verdictStore: { get: () => undefined, put() {} },
      narinfoStore: { get: () => undefined, put() {} },
      narinfoEpoch: 'test',
      events: createEventBus(),
      storeDir: '/nix/store',
      withLan: 'signed',
      liveCompression: 'none',
    }),
    counters: createCounters(),
    api: { site, status: () => ({ holders: [] }) as unknown } as ApiSources,
    storeDir: '/nix/store',
    priority: 30,
    log: pino({ level: 'silent' }),
  })
  const stateDir = tempDir(t, 'site-api')
  const socketPath = join(stateDir, 'control.sock')
  const port = await http.listen('127.0.0.1', 0)
  await http.listenControl(socketPath)
  t.teardown(() => http.close())
  const post = (path: string, body: string, where: object = { socketPath }) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const headers = { 'content-type': 'application/json' }
      const request = httpRequest({ ...where, path, method: 'POST', headers }, response => {
        let text = ''
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
      })
      request.on('error', reject).end(body)
    })
  const run = (argv: readonly string[], stdin?: string) =>
    runCli(t, [...argv, '--state-dir', stateDir], stdin === undefined ? {} : { stdin })
  return { ...host, port, post, run }
}

t.test('a site from the command line to the disk', async t => {
  const net = createPairingNet()
  const [a, b] = [await startHost(t, net, 'a'), await startHost(t, net, 'b')]

  const none = await a.run(['members'])
  t.equal(none.stdout, 'a belongs to no site\n')
  t.match((await a.run(['invite'])).stderr, /^narwharf: this host belongs to no site \(make one/)
  const made = await a.run(['site', 'init', 'lab'])
  t.match(made.stderr, 'write down its key')
  t.equal(made.stdout, `${a.room.recovery().join('\n')}\n`)
  t.equal((await a.run(['site', 'init', 'lab'])).status, 1)

  const invite = await a.run(['invite', '--expires', '2h', '--name', 'attic'])
  t.match(invite.stderr, 'into the site lab, once, within 2 h;')
  t.match(invite.stdout, /^nw-[0-9a-z-]+\n$/, 'the code alone')
  const code = invite.stdout.trim()
  const mistyped = `${code.slice(0, -1)}${code.endsWith('0') ? '1' : '0'}`
  t.match((await b.run(['join', mistyped])).stderr, /this is no invite code: it is mistyped/)
  const joined = await b.run(['join', '-'], `${code}\n`)
  t.equal(joined.stdout, 'attic is a member of the site lab\n', joined.stderr)
  t.match((await b.run(['join', code])).stderr, /belongs to the site lab already/)
  t.match((await b.run(['revoke', 'a'])).stderr, /is no admin of the site lab/)
  t.equal((await a.run(['site', 'admin', 'attic'])).stdout, 'attic is an admin now\n')

  const asJson = JSON.parse((await a.run(['invite', '--json'])).stdout)
  t.match(asJson, { site: 'lab', code: /^nw-/, expiresInMs: 86_400_000 })
  const { stdout, stderr } = await a.run(['members'])
  t.equal(
    stdout
      .replace(a.room.key.slice(0, 16), '<a>')
      .replace(b.room.key.slice(0, 16), '<b>')
      .replaceAll(/ +/g, ' '),
    'a is an admin of the site lab\n\nHOST STANDING KEY\na admin <a> this host\nattic admin <b>\n',
  )
  t.equal(stderr, '1 invite open\n')
  t.match(JSON.parse((await a.run(['members', '--json'])).stdout), {
    state: { site: { name: 'lab', members: 2 } },
    members: [{ name: 'a', self: true }, { name: 'attic' }],
  })

  const paper = (await a.run(['site', 'recovery', '--forget'])).stdout
  t.match((await a.run(['site', 'recovery'])).stderr, /the site key of lab is not on this host/)
  t.match((await a.run(['site', 'restore'], '1: zzzz\n')).stderr, /it has 1 lines, 4 are needed/)
  t.equal((await a.run(['site', 'restore'], '  \n')).status, 2)
  t.equal((await a.run(['site', 'restore'], paper)).stdout, 'a is an admin of the site lab\n')
  t.equal((await a.run(['revoke', b.room.key.slice(0, 16)])).stdout, 'attic is revoked\n')
  const entirely = await a.run(['revoke', 'attic', '--entirely', '--json'])
  t.same(JSON.parse(entirely.stdout), { name: 'attic', key: b.room.key, kept: [], back: [] })
  t.equal((await a.run(['revoke', 'nobody'])).status, 1)
})

t.test('a place that the user names', async t => {
  const net = createPairingNet()
  const [a, b] = [await startHost(t, net, 'a'), await startHost(t, net, 'b')]
  a.room.init('lab')
  const { code } = a.room.invite()
  net.cut('a')
  net.put('moved', a.room)
  t.match(
    (await b.run(['join', code])).stderr,
    /could not be reached: 192\.0\.2\.1:1: nobody answers/,
  )
  const { host, port } = net.addressOf('moved')
  const cases: readonly (readonly [string, number])[] = [
    ['moved', 2],
    ['10.0.0.5', 2],
    ['10.0.0.5:0', 2],
    ['lab.local:80', 2],
    [`[::1]:${port}`, 0],
    [`${host}:${port}`, 1],
  ]
  for (const [address, status] of cases) {
    t.equal((await b.run(['join', code, '--address', address])).status, status, address)
  }
})

t.test('what the socket does not understand changes nothing', async t => {
  const net = createPairingNet()
  const { post, port, room } = await startHost(t, net, 'a')
  room.init('lab')
  const list = room.list()
  const refused: readonly (readonly [path: string, body: string, status: number])[] = [
    ['revoke', '{"host": 7}', 400],
    ['revoke', '{}', 400],
    ['revoke', '{"host": "a", "how": "gently"}', 400],
    ['invite', '{"expiresInMs": -1}', 400],
    ['join', '{"code": "x", "addresses": [{"host": "lab.local", "port": 1}]}', 400],
    ['join', '{"code": "x"}', 400],
    ['recover', '{"text": "x"}', 400],
    ['recover', '[]', 400],
    ['invite', '{', 404],
    ['recover', JSON.stringify({ text: 'x'.repeat(100_000) }), 404],
    ['nothing', '{}', 405],
  ]
  for (const [path, body, status] of refused) {
    t.equal(
      (await post(`/api/v1/site/${path}`, body)).status,
      status,
      `${path} ${body.slice(0, 60)}`,
    )
  }
  t.match((await post('/api/v1/site/revoke', '{}')).text, /host: /)
  const outside = await post('/api/v1/site/invite', '{}', { host: '127.0.0.1', port })
  t.equal(outside.status, 405, 'not on the TCP port')
  t.ok(list?.equals(room.list() ?? Buffer.alloc(0)))
})

t.test('how long an invite is good', async t => {
  const net = createPairingNet()
  const { run, room } = await startHost(t, net, 'a')
  room.init('lab')
  const cases: readonly (readonly [string, number | undefined])[] = [
    ['90s', 90_000],
    ['30min', 1_800_000],
    ['5m', 300_000],
    ['7d', 604_800_000],
    ['999d', 31 * 86_400_000],
    ['0h', undefined],
    ['soon', undefined],
    ['1', undefined],
  ]
  for (const [span, ms] of cases) {
    const { status, stdout } = await run(['invite', '--expires', span, '--json'])
    t.equal(status, ms === undefined ? 2 : 0, span)
    if (ms !== undefined) t.equal(JSON.parse(stdout).expiresInMs, ms)
  }
})

t.test('the help of the site’s commands', async t => {
  const main = await runCli(t, ['--help'])
  for (const name of ['site', 'invite', 'join', 'members', 'revoke']) {
    t.match(main.stdout, new RegExp(`^ {2}${name} .*\\S`, 'm'), name)
  }
  const group = await runCli(t, ['site', '--help'])
  for (const name of ['init', 'recovery', 'restore', 'admin']) {
    t.match(group.stdout, new RegExp(`^ {2}${name} .*\\S`, 'm'), name)
    const one = await runCli(t, ['site', name, '--help'])
    t.match(one.stdout, /\n\nExamples:\n/, name)
    t.match(one.stdout, /^ {2}--json /m)
  }
  t.equal((await runCli(t, ['site'])).status, 2)
  t.equal((await runCli(t, ['site', 'burn'])).status, 2)
  t.equal((await runCli(t, ['site', 'init'])).status, 2)
})

t.test('peers are all other members, met or not', async t => {
  const key = (digit: string) => digit.repeat(64)
  const met = (name: string, digit: string) =>
    ({ name, key: key(digit), up: true, paths: 3, narBytes: 9, lag: 0 }) as const
  const member = (name: string, digit: string, more: Partial<SiteMember> = {}): SiteMember => ({
    ...{ name, key: key(digit), admin: false, state: 'member', self: false },
    ...more,
  })
  const peers = listPeers(
    [met('d', '4'), met('b', '2')],
    [
      member('a', '1', { self: true }),
      member('b', '2'),
      member('c', '3'),
      member('d', '4'),
      member('e', '5', { state: 'revoked' }),
      member('f', '6', { state: 'orphaned' }),
    ],
  )
  t.same(peers, [
    met('b', '2'),
    { name: 'c', key: key('3'), up: false, paths: 0, narBytes: 0, lag: 0 },
    met('d', '4'),
  ])
})

t.test('addresses in a code, the likeliest first', async t => {
  const on = (address: string, internal = false) => ({
    address,
    internal,
    family: address.includes(':') ? ('IPv6' as const) : ('IPv4' as const),
    netmask: '',
    mac: '',
    cidr: null,
    scopeid: 0,
  })
  const found = localAddresses(6280, {
    lo: [on('127.0.0.1', true)],
    docker0: [on('172.17.0.1')],
    eth0: [on('fd00::5'), on('fe80::1'), on('10.0.0.5')],
    gone: undefined,
  })
  t.same(
    found.map(({ host }) => host),
    ['10.0.0.5', 'fd00::5', '172.17.0.1'],
  )
  t.equal(found[0]?.port, 6280)
})
