import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import t from 'tap'
import type { StatusReply, WhoHasReply, WhyNotReply } from '../../protocol/api.ts'
import {
  json,
  runCli,
  startControlServer,
  writeConfig,
  type Answer,
} from '../helpers/control-server.ts'
import { tempDir } from '../helpers/scope.ts'

const HELLO = '/nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12'
const LONG = '/nix/store/4mjvzy2w57h4bkr344nxkfi7pz1mmi2p-python3.11-a-name-that-is-quite-long-1.0'

const STATUS: StatusReply = {
  version: '0.1.0',
  hostName: 'lab-3',
  startedAt: new Date(Date.now() - (3 * 3600 + 12 * 60 + 30) * 1000).toISOString(),
  pid: 4711,
  stateDir: '/var/lib/narwharf',
  http: { url: 'http://127.0.0.1:6279', openToLan: false },
  publicKey: 'lab-3-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
  memoryBytes: 87_241_523,
  holders: [
    {
      id: 'nix-store:/nix/store',
      kind: 'nix-store',
      up: true,
      storeDir: '/nix/store',
      paths: 3214,
      narBytes: 10_500_000_000,
    },
    {
      id: 'cache-dir:/srv/cache\u001b[2J',
      kind: 'cache-dir',
      up: false,
      problem: 'gone',
      storeDir: '/nix/store',
    },
  ],
  served: { narinfos: 1234567, misses: 12, nars: 1, narBytes: 1023 },
  problems: [{ what: 'cache-dir:/srv/cache cannot be read: gone', hint: 'narwharf doctor' }],
}

t.test('status', async t => {
  const server = await startControlServer(t, { status: json(STATUS) })
  const flags = ['--state-dir', server.stateDir]
  const { status, stdout, stderr } = await runCli(t, ['status', ...flags])
  t.equal(status, 0)
  t.equal(stderr, '')
  t.equal(
    stdout,
    `lab-3  narwharf 0.1.0, up 3 h 12 min, pid 4711
address  http://127.0.0.1:6279 (this machine only)
key      lab-3-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
state    /var/lib/narwharf
memory   83.2 MiB
served   1,234,567 narinfos (12 not held), 1 NAR, 1023 bytes

HOLDER                    STATE  PATHS     SIZE
nix-store:/nix/store      up     3,214  9.8 GiB
cache-dir:/srv/cache\uFFFD[2J  down       -        -

problem: cache-dir:/srv/cache cannot be read: gone
  narwharf doctor
`,
  )
  const asJson = await runCli(t, ['status', ...flags, '--json'])
  t.same(JSON.parse(asJson.stdout), STATUS)
  t.same(server.asked, ['/api/v1/status', '/api/v1/status'])
  const bare = { ...STATUS, holders: [], problems: [], http: { ...STATUS.http, openToLan: true } }
  const empty = await startControlServer(t, { status: json(bare) })
  const { stdout: nothing } = await runCli(t, ['status', '--state-dir', empty.stateDir])
  t.match(nothing, 'no holder: nothing is served')
  t.match(nothing, '(this machine and the network)')
})

t.test('colours on a terminal, unless told otherwise', async t => {
  const { stateDir } = await startControlServer(t, { status: json(STATUS) })
  const argv = ['status', '--state-dir', stateDir]
  const BOLD = '\u001b[1mlab-3'
  t.match((await runCli(t, argv, { env: { NO_COLOR: '' } })).stdout, BOLD)
  t.notMatch((await runCli(t, [...argv, '--no-color'], { env: { NO_COLOR: '' } })).stdout, BOLD)
  t.notMatch(
    (await runCli(t, argv, { columns: 'no terminal', env: { NO_COLOR: '' } })).stdout,
    BOLD,
  )
})

const holder = (id: string, up = true) => ({
  id,
  kind: 'cache-dir' as const,
  host: 'lab-3',
  up,
  ...(up ? {} : { lastSeen: '2026-01-02T03:04:05Z' }),
})

const PEER = { id: `peer:${'a'.repeat(64)}`, kind: 'peer', host: 'attic', up: true } as const

t.test('who-has', async t => {
  const reply: WhoHasReply = {
    results: [
      {
        query: 'hello',
        more: 3,
        matches: [
          { storePath: HELLO, narSize: 206_104, holders: [holder('nix-store:/nix/store')] },
          {
            storePath: LONG,
            holders: [holder('cache-dir:/c'), holder('cache-dir:/d', false), PEER],
          },
        ],
      },
      { query: 'nothing', more: 0, matches: [] },
      { query: '???', more: 0, matches: [], problem: 'not a store path, hash part or pattern' },
    ],
  }
  const server = await startControlServer(t, { 'who-has': json(reply) })
  const argv = ['who-has', 'hello', 'a b&c', '--state-dir', server.stateDir]
  const wide = await runCli(t, argv)
  t.equal(
    wide.stdout,
    `${HELLO}  201.3 KiB
  nix-store:/nix/store  lab-3  up
${LONG}
  cache-dir:/c          lab-3  up
  cache-dir:/d          lab-3  down, last seen 2026-01-02T03:04:05Z
  peer                  attic  up
`,
  )
  t.equal(
    wide.stderr,
    `hello: and 3 paths more (ask more narrowly)
narwharf: nothing: nobody has it
narwharf: ???: not a store path, hash part or pattern
`,
  )
  t.equal(wide.status, 3, 'partly')
  t.same(server.asked, ['/api/v1/who-has?query=hello&query=a+b%26c'])
  t.notMatch((await runCli(t, [...argv, '--quiet'])).stderr, 'ask more narrowly')
  t.same(JSON.parse((await runCli(t, [...argv, '--json'])).stdout), reply)

  const one = (result: unknown) => ({ 'who-has': json({ results: [result] }) })
  const none = await startControlServer(t, one({ query: 'x', more: 0, matches: [] }))
  t.equal((await runCli(t, ['who-has', 'x', '--state-dir', none.stateDir])).status, 1)
  const all = await startControlServer(t, one(reply.results[0]))
  t.equal((await runCli(t, ['who-has', 'x', '--state-dir', all.stateDir])).status, 0)
})

t.test('why-not', async t => {
  const reply: WhyNotReply = {
    storePath: HELLO,
    offeredOnLoopback: false,
    offeredOnLan: false,
    summary: 'no trusted signature covers it',
    hint: 'add the key to trust.publicKeys',
    holders: [
      { id: 'cache-dir:/c', verdict: 'no-trusted-signature', detail: 'signed by foreign-1' },
      { id: 'nix-store:/nix/store', verdict: 'absent', detail: 'not there' },
      { id: 'peer:0123', title: 'peer lab-3', verdict: 'absent', detail: 'not there' },
    ],
  }
  const server = await startControlServer(t, { 'why-not': json(reply) })
  const argv = ['why-not', HELLO, '--state-dir', server.stateDir]
  const { stdout, status } = await runCli(t, argv)
  t.equal(status, 0)
  t.equal(
    stdout,
    `no trusted signature covers it
offered to this machine  no
offered to the network   no
to do  add the key to trust.publicKeys

HOLDER                VERDICT               DETAIL
cache-dir:/c          no-trusted-signature  signed by foreign-1
nix-store:/nix/store  absent                not there
peer lab-3            absent                not there
`,
  )
  t.same(JSON.parse((await runCli(t, [...argv, '--json'])).stdout), reply)
  t.same(server.asked[0], `/api/v1/why-not?path=${encodeURIComponent(HELLO)}`)
})

const SECRET = readFileSync('test/fixtures/protocol/key-1.secret', 'utf8')
const PUBLIC = readFileSync('test/fixtures/protocol/key-1.public', 'utf8').trim()

t.test('nix-conf', async t => {
  const server = await startControlServer(t, { 'nix-conf': json({ lines: ['# a', 'b = c'] }) })
  const asked = await runCli(t, ['nix-conf', '--state-dir', server.stateDir])
  t.same(asked, { status: 0, stdout: '# a\nb = c\n', stderr: '' })

  const stateDir = tempDir(t, 'state')
  writeFileSync(join(stateDir, 'secret-key'), SECRET)
  const file = writeConfig(t, { stateDir, http: { host: '::', port: 7000 } })
  const alone = await runCli(t, ['nix-conf', '--config', file])
  t.equal(alone.status, 0)
  t.match(alone.stderr, 'the daemon is not running')
  const settings = alone.stdout.split('\n').filter(line => line !== '' && !line.startsWith('#'))
  t.same(settings, [
    'extra-substituters = http://127.0.0.1:7000',
    `extra-trusted-public-keys = ${PUBLIC}`,
    'narinfo-cache-negative-ttl = 0',
    'connect-timeout = 5',
    'fallback = true',
  ])
  t.notMatch(alone.stdout, SECRET.trim().split(':')[1]?.slice(0, 40) ?? '?', 'no secret')
  const quiet = await runCli(t, ['nix-conf', '--config', file, '--quiet', '--json'])
  t.equal(quiet.stderr, '')
  t.match(JSON.parse(quiet.stdout), { lines: /./ })

  const empty = tempDir(t, 'state')
  const none = await runCli(t, ['nix-conf', '--state-dir', empty])
  t.equal(none.status, 1)
  t.match(none.stderr, /no key yet.*\(start it once, it makes the key: narwharf daemon --state-dir/)
  writeFileSync(join(empty, 'secret-key'), 'not a key')
  const bad = await runCli(t, ['nix-conf', '--state-dir', empty])
  t.equal(bad.status, 1)
  t.match(bad.stderr, /^narwharf: invalid key: .*\n$/)
  t.notMatch(bad.stderr, 'not a key', 'what may be a secret is not shown')
  const folder = tempDir(t, 'state')
  mkdirSync(join(folder, 'secret-key'))
  t.match((await runCli(t, ['nix-conf', '--state-dir', folder])).stderr, 'cannot be read (EISDIR)')
})

t.test('a daemon that is not there, or answers badly', async t => {
  const absent = join(tempDir(t, 'state'), "it's")
  const gone = await runCli(t, ['status', '--state-dir', absent])
  t.equal(gone.status, 1)
  t.equal(gone.stdout, '')
  t.equal(
    gone.stderr,
    `narwharf: the daemon is not running: nobody answers at ${absent}/control.sock ` +
      String.raw`(start it with: narwharf daemon --state-dir '${absent.replace("'", String.raw`'\''`)}')` +
      '\n',
  )
  const cases: readonly (readonly [name: string, answer: Parameters<typeof json>, said: RegExp])[] =
    [
      [
        'a refusal with a hint',
        [{ error: { code: 'X', message: 'no such thing', hint: 'ask otherwise' } }, 400],
        /^narwharf: no such thing \(ask otherwise\)\n$/,
      ],
      ['another version', [{}, 404], /HTTP status 404 \(it may be of another version/],
      ['null', [null, 500], /HTTP status 500/],
    ]
  for (const [name, answer, said] of cases) {
    const { stateDir } = await startControlServer(t, { status: json(...answer) })
    const ran = await runCli(t, ['status', '--state-dir', stateDir])
    t.match(ran.stderr, said, name)
    t.equal(ran.status, 1, name)
  }
  const text = await startControlServer(t, { status: (_, reply) => void reply.end('<html>') })
  t.match((await runCli(t, ['status', '--state-dir', text.stateDir])).stderr, 'is not JSON')
  const cut = await startControlServer(t, {
    status: (_, reply, request) => {
      reply.writeHead(200, { 'content-length': 100 })
      reply.write('{')
      setImmediate(() => request.socket.destroy())
    },
  })
  t.match((await runCli(t, ['status', '--state-dir', cut.stateDir])).stderr, 'the daemon broke off')
})

const NOBODY = 65_534

t.test('a user who may not open the socket reads over the loopback port', async t => {
  const { stateDir } = await startControlServer(t, {})
  const server = createServer((_, reply) => reply.end(JSON.stringify(STATUS)))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const file = writeConfig(t, { stateDir, http: { port } })
  chmodSync(dirname(file), 0o755)
  chmodSync(stateDir, 0o755)
  chmodSync(join(stateDir, 'control.sock'), 0)
  const asOrdinaryUser = async () => {
    const HOME = tempDir(t, 'home')
    // Root may open every socket.
    const isRoot = process.geteuid?.() === 0
    if (isRoot) process.seteuid?.(NOBODY)
    try {
      return await runCli(t, ['status', '--config', file], { env: { HOME } })
    } finally {
      if (isRoot) process.seteuid?.(0)
    }
  }
  t.match((await asOrdinaryUser()).stdout, 'lab-3')
  server.closeAllConnections()
  server.close()
  await once(server, 'close')
  t.match((await asOrdinaryUser()).stderr, 'may not open the control socket')
})

t.test('wrong usage', async t => {
  const cases: readonly (readonly [argv: string[], said: RegExp])[] = [
    [['statsu'], /^narwharf: unknown command 'statsu' \(did you mean status\?\)\n$/],
    [['frobnicate'], /^narwharf: unknown command 'frobnicate' \(narwharf --help lists/],
    [['status', '--jsno'], /^narwharf: unknown option '--jsno' \(did you mean --json\?\)\n$/],
    [['who-has'], /^narwharf: missing required argument 'query'/],
    [['why-not', 'a', 'b'], /^narwharf: too many arguments/],
    [['status', '--config'], /^narwharf: option '--config <file>' argument missing/],
    [['daemon', '--defaults', '--config', 'x'], /^narwharf: --defaults and --config exclude/],
    [[], /^Usage: narwharf/],
  ]
  for (const [argv, said] of cases) {
    const ran = await runCli(t, argv)
    t.equal(ran.status, 2, argv.join(' '))
    t.equal(ran.stdout, '', argv.join(' '))
    t.match(ran.stderr, said)
  }
})

t.test('a configuration that cannot be taken', async t => {
  const file = writeConfig(t, { htp: {} })
  const ran = await runCli(t, ['status', '--config', file])
  t.equal(ran.status, 1)
  t.match(ran.stderr, /^narwharf: configuration .*: unknown key htp, did you mean http\? \(.*\)\n$/)
  const loud = await runCli(t, ['status', '--config', file], { env: { NARWHARF_DEBUG: '1' } })
  t.match(loud.stderr, /\n {4}at /, 'a stack for those who ask')
})

t.test('help', async t => {
  const main = await runCli(t, ['--help'])
  t.equal(main.status, 0)
  t.equal(main.stderr, '')
  t.match(main.stdout, 'Exit status: 0 done, 1 failed, 2 wrong usage, 3 partly done')
  t.match((await runCli(t, ['--version'])).stdout, /^\d+\.\d+\.\d+\n$/)
  const names = ['daemon', 'status', 'who-has', 'why-not', 'nix-conf', 'doctor']
  for (const name of names) {
    t.match(main.stdout, new RegExp(`^ {2}${name} .*\\S`, 'm'))
    const { stdout, status } = await runCli(t, [name, '--help'])
    t.equal(status, 0, name)
    t.match(stdout, /\n\nExamples:\n( {2}# .+\n {2}narwharf .+\n){2}/, `${name}: two examples`)
    t.match(stdout, /^ {2}--json /m, `${name}: the options of every command`)
    t.equal((await runCli(t, ['help', name])).stdout, stdout, `help ${name}`)
    t.ok(
      stdout.split('\n').every(line => line.length <= 80 || line.startsWith('  narwharf')),
      `${name}: 80 columns`,
    )
  }
})

t.test('fetch', async t => {
  const progress = (event: string, storePath: string, done: number, more = {}) => ({
    ...{ event, storePath, done, paths: 3 },
    ...more,
  })
  const missing = [{ storePath: LONG, problem: 'nobody within reach has it' }]
  const lines = (...events: readonly object[]): Answer => {
    return (_, reply) => {
      reply.writeHead(200, { 'content-type': 'application/x-ndjson' })
      // With an empty line, as the daemon says that it is still at work.
      reply.end(events.map(event => `\n${JSON.stringify(event)}\n`).join(''))
    }
  }
  const ask = async (answer: Answer, ...words: string[]) => {
    const server = await startControlServer(t, { fetch: answer })
    return runCli(t, ['fetch', HELLO, ...words, '--state-dir', server.stateDir])
  }
  const end = { event: 'end', fetched: 1, here: 1, bytes: 1_500_000 }
  const partly = lines(
    { event: 'start', paths: 3 },
    progress('here', HELLO, 1),
    progress('fetched', HELLO, 2, { narSize: 1_500_000 }),
    progress('missing', LONG, 3, { problem: 'nobody within reach has it' }),
    { ...end, missing },
  )
  const told = await ask(partly)
  t.equal(told.status, 3)
  t.equal(told.stdout, 'fetched 1 path, 1.4 MiB; 1 were here already\n')
  t.match(told.stderr, `${HELLO}  1.4 MiB  (2 of 3)\n`)
  t.match(told.stderr, `narwharf: ${LONG}: nobody within reach has it\n`)
  const asJson = await ask(partly, '--json')
  t.same(JSON.parse(asJson.stdout), { fetched: 1, here: 1, bytes: 1_500_000, missing })
  t.equal((await ask(lines({ ...end, missing: [] }))).status, 0)
  t.equal((await ask(lines({ ...end, fetched: 0, here: 0, missing }))).status, 1)
  const failed = { code: 'CACHE_UNWRITABLE', message: 'the cache is full', hint: 'make room' }
  t.match(await ask(lines({ event: 'failed', error: failed })), {
    status: 1,
    stderr: 'narwharf: the cache is full (make room)\n',
  })
  t.match(await ask(lines({ event: 'start', paths: 3 })), { status: 1, stderr: /broke off/ })
})
