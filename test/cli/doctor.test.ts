import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import type { DoctorReply, Finding, StatusReply } from '../../protocol/api.ts'
import { checkClock, checkDisk, checkStateDir } from '../../cli/doctor/checks.ts'
import { readNixSettings } from '../../cli/doctor/nix-config.ts'
import {
  json,
  runCli,
  startControlServer,
  writeConfig,
  type Answer,
} from '../helpers/control-server.ts'
import { tempDir, type Scope } from '../helpers/scope.ts'

const PUBLIC = readFileSync('test/fixtures/protocol/key-1.public', 'utf8').trim()
const SECRET = readFileSync('test/fixtures/protocol/key-1.secret', 'utf8')
const KEY_NAME = PUBLIC.slice(0, PUBLIC.indexOf(':'))
const URL_HERE = 'http://127.0.0.1:7123'

const STATUS: StatusReply = {
  version: '0.1.0',
  hostName: 'lab-3',
  startedAt: '2026-01-01T00:00:00Z',
  pid: 4711,
  stateDir: '/var/lib/narwharf',
  http: { url: URL_HERE, openToLan: false },
  publicKey: PUBLIC,
  memoryBytes: 1,
  holders: [],
  served: { narinfos: 0, misses: 0, nars: 0, narBytes: 0 },
  problems: [],
}

/** A user's surroundings: no `nix` on PATH, so that the files are read. */
function makeUser(scope: Scope, nixConf?: string) {
  const home = tempDir(scope, 'home')
  const env = {
    HOME: home,
    PATH: join(home, 'no-programs'),
    NIX_CONF_DIR: join(home, 'etc-nix'),
    XDG_CONFIG_DIRS: join(home, 'xdg'),
  }
  mkdirSync(env.NIX_CONF_DIR)
  if (nixConf !== undefined) writeFileSync(join(env.NIX_CONF_DIR, 'nix.conf'), nixConf)
  return env
}

const GOOD_CONF = `extra-substituters = ${URL_HERE}/
extra-trusted-public-keys = ${PUBLIC} # ours
narinfo-cache-negative-ttl = 0
`

interface Remembered {
  readonly hashPart: string
  readonly present: boolean
  readonly ageSeconds: number
  readonly url?: string
}

/** Nix's own cache file, schema of its version 6 (src/libstore/nar-info-disk-cache.cc). */
function writeNarinfoCache(home: string, entries: readonly Remembered[]): string {
  const file = join(home, '.cache/nix/binary-cache-v6.sqlite')
  mkdirSync(dirname(file), { recursive: true })
  const database = new Database(file)
  database.exec(`
    create table BinaryCaches (id integer primary key autoincrement not null, url text unique not null,
      timestamp integer not null, storeDir text not null, wantMassQuery integer not null, priority integer not null);
    create table NARs (cache integer not null, hashPart text not null, namePart text, url text, compression text,
      fileHash text, fileSize integer, narHash text, narSize integer, refs text, deriver text, sigs text, ca text,
      timestamp integer not null, present integer not null, primary key (cache, hashPart))`)
  const now = Math.floor(Date.now() / 1000)
  const addCache = database.prepare(
    'insert or ignore into BinaryCaches(url, timestamp, storeDir, wantMassQuery, priority) values (?, ?, ?, 1, 30)',
  )
  const addNar = database.prepare(
    `insert into NARs(cache, hashPart, namePart, timestamp, present)
     values ((select id from BinaryCaches where url = ?), ?, 'x', ?, ?)`,
  )
  for (const { url = URL_HERE, hashPart, present, ageSeconds } of entries) {
    addCache.run(url, now, '/nix/store')
    addNar.run(url, hashPart, now - ageSeconds, present ? 1 : 0)
  }
  database.close()
  return file
}

/** Answers who-has: held is what `held` lists. */
const whoHas =
  (held: readonly string[]): Answer =>
  (url, reply, request) => {
    const results = url.searchParams.getAll('query').map(query => ({
      query,
      more: 0,
      matches: held.includes(query) ? [{ storePath: `/nix/store/${query}-x`, holders: [] }] : [],
    }))
    json({ results })(url, reply, request)
  }

async function examine(scope: Scope, argv: readonly string[], env: NodeJS.ProcessEnv) {
  const { status, stdout, stderr } = await runCli(scope, ['doctor', '--json', ...argv], { env })
  const { findings } = JSON.parse(stdout) as DoctorReply
  const find = (name: string): Finding | undefined => findings.find(one => one.name === name)
  return { status, stderr, findings, find }
}

const daemonFindings = (...findings: Finding[]) => ({
  status: json(STATUS),
  doctor: json({ findings }),
  'who-has': whoHas(['h'.repeat(32)]),
})

const CLOCK: Finding = { name: 'clock', level: 'ok', what: 'the clock is right' }

t.test('all is well', async t => {
  const server = await startControlServer(t, daemonFindings(CLOCK))
  const env = makeUser(t, GOOD_CONF)
  writeNarinfoCache(env.HOME, [
    { hashPart: 'h'.repeat(32), present: true, ageSeconds: 10 },
    { hashPart: 'a'.repeat(32), present: false, ageSeconds: 10 },
    { hashPart: 'b'.repeat(32), present: true, ageSeconds: 31 * 86_400 },
    { hashPart: 'c'.repeat(32), present: true, ageSeconds: 1, url: 'https://cache.nixos.org' },
  ])
  const { status, findings } = await examine(t, ['--state-dir', server.stateDir], env)
  t.equal(status, 0)
  t.same(
    findings.filter(({ level }) => level !== 'ok'),
    [],
    'with a ttl of 0 a remembered absence does no harm',
  )
  t.equal(findings.filter(({ name }) => name === 'clock').length, 1, 'both clocks are one finding')
  t.notOk(
    findings.some(({ name }) => name === 'disk'),
    'a running daemon speaks for its own disk',
  )
  const person = await runCli(t, ['doctor', '--state-dir', server.stateDir], { env })
  t.match(person.stdout, /^0 errors, 0 warnings, \d+ ok\n$/)
  const all = await runCli(t, ['doctor', '--all', '--state-dir', server.stateDir], { env })
  t.match(all.stdout, 'ok       substituter: Nix uses this host')
})

t.test('a daemon that is not running is a finding', async t => {
  const stateDir = tempDir(t, 'state')
  writeFileSync(join(stateDir, 'secret-key'), SECRET)
  const file = writeConfig(t, { stateDir, http: { port: 7123 } })
  const env = makeUser(t, GOOD_CONF)
  const { status, findings, find } = await examine(t, ['--config', file], env)
  t.equal(status, 1)
  t.match(findings[0], { name: 'daemon', level: 'error', mend: `narwharf daemon --config ${file}` })
  t.match(find('trusted-key'), { level: 'ok' }, 'the key is known from its file')
  t.match(find('substituter'), { level: 'ok' })
  t.match(find('state-dir'), { level: 'ok' })
  t.match(find('disk'), { what: /free at/ })
  const person = await runCli(t, ['doctor', '--config', file], { env })
  t.match(person.stdout, /^error {4}daemon: the daemon is not running.*\n {9}narwharf daemon/)
  t.match(person.stdout, /\n1 error, /)
})

t.test('what Nix is not configured to do', async t => {
  const server = await startControlServer(t, daemonFindings(CLOCK))
  const argv = ['--state-dir', server.stateDir]
  const bare = makeUser(t, '')
  const none = await examine(t, argv, bare)
  t.equal(none.status, 0, 'warnings at most')
  const conf = join(bare.NIX_CONF_DIR, 'nix.conf')
  t.match(none.find('substituter'), {
    level: 'warning',
    mend: `echo 'extra-substituters = ${URL_HERE}' | sudo tee -a ${conf}`,
  })
  t.match(none.find('trusted-key'), {
    level: 'warning',
    mend: `'extra-trusted-public-keys = ${PUBLIC}'`,
  })
  t.match(none.find('negative-ttl'), { level: 'warning', what: /for 3600 s/ })

  const noKey = makeUser(t, `substituters = ${URL_HERE}?priority=10\n`)
  const untrusted = await examine(t, argv, noKey)
  t.equal(untrusted.status, 1, 'used but not trusted: nothing would be installed')
  t.match(untrusted.find('substituter'), { level: 'ok' })
  t.match(untrusted.find('trusted-key'), { level: 'error' })

  const renewed = makeUser(t, `trusted-public-keys = ${KEY_NAME}:${'A'.repeat(43)}=\n`)
  t.match((await examine(t, argv, renewed)).find('trusted-key'), { what: /made anew/ })

  const off = makeUser(t, `substitute = false\n${GOOD_CONF}`)
  t.match((await examine(t, argv, off)).find('substitute'), { level: 'error' })

  const without = await examine(t, argv, makeUser(t))
  t.match(without.find('nix'), { level: 'ok', what: /no Nix on this machine/ })
})

t.test('what Nix remembers wrongly', async t => {
  const server = await startControlServer(t, daemonFindings(CLOCK))
  const argv = ['--state-dir', server.stateDir]
  const env = makeUser(t, GOOD_CONF.replace('ttl = 0', 'ttl = 600'))
  const file = writeNarinfoCache(env.HOME, [
    { hashPart: 'h'.repeat(32), present: true, ageSeconds: 10 },
    { hashPart: 'g'.repeat(32), present: true, ageSeconds: 20 },
    { hashPart: 'a'.repeat(32), present: false, ageSeconds: 10 },
    { hashPart: 'b'.repeat(32), present: false, ageSeconds: 599 },
    { hashPart: 'c'.repeat(32), present: false, ageSeconds: 700 },
  ])
  const { find } = await examine(t, argv, env)
  t.match(find('narinfo-cache'), {
    level: 'warning',
    what: `${file} remembers 2 paths as absent and 1 path that nobody holds any more`,
    mend: `rm -f ${file}*`,
  })
  const damaged = makeUser(t, GOOD_CONF)
  mkdirSync(join(damaged.HOME, '.cache/nix'), { recursive: true })
  writeFileSync(join(damaged.HOME, '.cache/nix/binary-cache-v7.sqlite'), 'no database'.repeat(100))
  t.match((await examine(t, argv, damaged)).find('narinfo-cache'), {
    level: 'warning',
    what: /cannot be read: file is not a database/,
  })
})

t.test('graver findings of either side stand, gravest first', async t => {
  const server = await startControlServer(
    t,
    daemonFindings(
      { name: 'clock', level: 'warning', what: 'behind', mend: 'date -s' },
      { name: 'signing-key', level: 'error', what: 'others can read it', mend: 'chmod 600 key' },
    ),
  )
  const { status, findings } = await examine(
    t,
    ['--state-dir', server.stateDir],
    makeUser(t, GOOD_CONF),
  )
  t.equal(status, 1)
  t.same(
    findings.slice(0, 2).map(({ name, level }) => [name, level]),
    [
      ['signing-key', 'error'],
      ['clock', 'warning'],
    ],
  )
  t.equal(findings.filter(({ name }) => name === 'clock').length, 1)
})

t.test('a configuration that cannot be taken is the finding', async t => {
  const file = writeConfig(t, { http: { prot: 1 } })
  const { status, findings } = await examine(t, ['--config', file], makeUser(t, GOOD_CONF))
  t.equal(status, 1)
  t.match(findings, [{ name: 'configuration', level: 'error', what: /did you mean http.port/ }])
})

t.test('clock, disk and state directory', async t => {
  const program = new Date('2026-05-01T00:00:00Z')
  for (const [now, level] of [
    ['1970-01-01T00:00:09Z', 'warning'],
    ['2026-04-30T23:59:59Z', 'warning'],
    ['2026-05-01T00:00:01Z', 'ok'],
  ] as const) {
    t.equal(checkClock(new Date(now), program).level, level, now)
  }
  t.match(await checkDisk(join(tempDir(t, 'x'), 'not/yet/there')), {
    name: 'disk',
    what: /free at/,
  })
  t.match(checkStateDir(join(tempDir(t, 'x'), 'new')), { level: 'ok', what: /can be made/ })
  const file = writeConfig(t, {})
  t.match(checkStateDir(join(file, 'state')), { level: 'warning', what: `${file} is not a folder` })
})

t.test('nix.conf as Nix reads it', async t => {
  const env = makeUser(
    t,
    `# a comment
substituters = https://one https://two   # and more
include more.conf
!include absent.conf
include ../etc-nix/loop.conf
binary-cache-public-keys = a:1
`,
  )
  writeFileSync(
    join(env.NIX_CONF_DIR, 'more.conf'),
    'extra-substituters = https://three\nnarinfo-cache-negative-ttl = 7\n',
  )
  writeFileSync(join(env.NIX_CONF_DIR, 'loop.conf'), 'include loop.conf\n')
  const own = join(env.HOME, '.config/nix')
  mkdirSync(own, { recursive: true })
  writeFileSync(join(own, 'nix.conf'), 'extra-trusted-public-keys = b:2\nsubstitute = false\n')
  const settings = await readNixSettings(env)
  t.ok(settings?.substituters.includes('https://one'))
  t.ok(settings?.substituters.includes('https://three'), 'through an include')
  t.same(settings?.trustedPublicKeys, ['a:1', 'b:2'], "the machine's, then the user's")
  t.equal(settings?.negativeTtlSeconds, 7)
  t.equal(settings?.substitute, false)
  const chosen = join(env.HOME, 'chosen.conf')
  writeFileSync(chosen, 'narinfo-cache-negative-ttl = 9\n')
  const named = await readNixSettings({ ...env, NIX_USER_CONF_FILES: chosen })
  t.equal(named?.negativeTtlSeconds, 9)
  t.equal(named?.substitute, true)
})

t.test('Nix itself is asked where there is one', async t => {
  const env = makeUser(t, 'substituters = https://not-this\n')
  const bin = join(env.HOME, 'no-programs')
  mkdirSync(bin)
  const shown = {
    substituters: { value: [URL_HERE] },
    'trusted-public-keys': { value: [PUBLIC] },
    'narinfo-cache-negative-ttl': { value: 0 },
    substitute: { value: true },
  }
  // As Nix 2.20 and newer: the old question is unknown.
  const script = `#!/bin/sh\n[ "$3 $4" = "config show" ] || exit 1\necho '${JSON.stringify(shown)}'\n`
  writeFileSync(join(bin, 'nix'), script, { mode: 0o755 })
  t.match(await readNixSettings(env), {
    substituters: [URL_HERE],
    trustedPublicKeys: [PUBLIC],
    negativeTtlSeconds: 0,
    substitute: true,
  })
})
