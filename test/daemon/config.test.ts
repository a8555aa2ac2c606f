import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  defaultPlaces,
  loadConfig,
  SOCKET_PATH_LIMIT_BYTES,
  type LoadOptions,
} from '../../daemon/config.ts'
import { CONFIG_KEYS } from '../../daemon/config-schema.ts'
import { nearestName, parseRate, parseSize, parseWindow } from '../../daemon/config-values.ts'
import { isNarwharfError } from '../../protocol/errors.ts'

const AS_ROOT = { env: {}, uid: 0, home: '/root', hostName: 'localhost' } as const

const KEY = 'cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY='

t.test('every default, embedded', async t => {
  const config = loadConfig({ ...AS_ROOT, embedded: true })
  t.same(config, {
    file: undefined,
    stateDir: '/var/lib/narwharf',
    hostName: 'localhost',
    http: { host: '127.0.0.1', port: 6279, compression: 'auto', priority: 30 },
    controlSocket: '/run/narwharf/control.sock',
    store: { enable: true, root: '/', dir: '/nix/store', db: '/nix/var/nix/db/db.sqlite' },
    cache: {
      dir: '/var/lib/narwharf/cache',
      extraDirs: [],
      maxSize: 200 * 2 ** 30,
      keepShipments: false,
      tee: false,
    },
    network: { port: 6280, mdns: true, interfaces: [], peers: [], nixServe: true },
    share: { withPeers: 'all', withLan: 'signed', deny: [] },
    trust: {
      publicKeys: [KEY],
      members: true,
      store: 'ultimate',
      secretKeyFile: '/var/lib/narwharf/secret-key',
    },
    upstreams: [],
    drives: { watch: true, under: ['/media', '/run/media', '/mnt'], merge: 'signed' },
    log: { level: 'info' },
  })
})

t.test('the example file has every key with its default', async t => {
  const file = 'narwharf.example.json'
  const example = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>
  for (const path of CONFIG_KEYS.filter(key => !key.includes('*'))) {
    const value = path.reduce<unknown>(
      (at, name) => (at as Record<string, unknown> | undefined)?.[name],
      example,
    )
    t.not(value, undefined, path.join('.'))
  }
  const { file: from, ...config } = loadConfig({ ...AS_ROOT, file })
  const { file: none, ...defaults } = loadConfig({ ...AS_ROOT, embedded: true })
  t.same(config, defaults)
  t.match(from, /narwharf\.example\.json$/)
  t.equal(none, undefined)
})

const PEER = '0a'.repeat(32)

/** The sample of the project's contract, word for word but for the peer's key. */
const SAMPLE = `{ "stateDir": "/var/lib/narwharf", "hostName": "lab-3",
  "http": { "host": "127.0.0.1", "port": 6279 },
  "controlSocket": "/run/narwharf/control.sock",
  "store": { "enable": true, "root": "/", "dir": "/nix/store", "db": "/nix/var/nix/db/db.sqlite" },
  "cache": { "dir": "/var/lib/narwharf/cache", "maxSize": "200GiB", "keepShipments": false },
  "network": { "port": 6280, "mdns": true, "interfaces": ["eth0"], "peers": ["10.0.0.5:6280#${PEER}"] },
  "share": { "withPeers": "all", "withLan": "signed", "deny": ["*-secrets-*"] },
  "trust": { "publicKeys": ["${KEY}"], "members": true },
  "upstreams": [ { "url": "https://cache.nixos.org", "rate": "64kbit", "window": "22:00-06:00" } ],
  "drives": { "watch": true, "under": ["/media", "/run/media", "/mnt"], "merge": "signed" } }`

/** Loads a configuration with that text. */
function load(t: { testdir(): string }, text: string | Buffer, options: LoadOptions = {}) {
  const file = join(t.testdir(), 'config.json')
  writeFileSync(file, text)
  return loadConfig({ ...AS_ROOT, file, ...options })
}

t.test('values become numbers and parts', async t => {
  const config = load(t, SAMPLE)
  t.equal(config.hostName, 'lab-3')
  t.same(config.network.peers, [{ host: '10.0.0.5', port: 6280, publicKey: PEER }])
  t.same(config.upstreams, [
    { url: 'https://cache.nixos.org', rate: 8000, window: { from: 22 * 60, to: 6 * 60 } },
  ])
  const six = load(t, `{"network":{"peers":["[fe80::1%eth0]:7#${PEER.toUpperCase()}"]}}`)
  t.same(six.network.peers, [{ host: 'fe80::1%eth0', port: 7, publicKey: PEER }])
  t.equal(load(t, '{"http":{"host":"::1"}}').http.host, '::1')
  const byteOrderMark = load(t, '\uFEFF{"http":{"port":0}}')
  t.equal(byteOrderMark.http.port, 0)
})

t.test('it is frozen, to the last list', async t => {
  const config = load(t, SAMPLE)
  for (const part of [config, config.http, config.upstreams, config.upstreams[0]?.window]) {
    t.ok(Object.isFrozen(part))
  }
})

t.test('places', async t => {
  t.same(defaultPlaces({ env: {}, uid: 1000, home: '/home/ada' }), {
    configFiles: ['/home/ada/.config/narwharf/config.json', '/etc/narwharf/config.json'],
    stateDir: '/home/ada/.local/state/narwharf',
    controlSocket: '/home/ada/.local/state/narwharf/control.sock',
  })
  const env = { XDG_STATE_HOME: '/s', XDG_RUNTIME_DIR: '/run/user/7', XDG_CONFIG_HOME: 'relative' }
  const places = defaultPlaces({ env, uid: 7, home: '/h' })
  t.equal(places.stateDir, '/s/narwharf')
  t.equal(places.controlSocket, '/run/user/7/narwharf/control.sock')
  t.equal(places.configFiles[0], '/h/.config/narwharf/config.json', 'relative ones are ignored')
  t.equal(
    defaultPlaces({ env: {}, uid: undefined, home: '/h' }).stateDir,
    '/h/.local/state/narwharf',
  )

  const home = t.testdir({ '.config': { narwharf: { 'config.json': '{"hostName":"mine"}' } } })
  const own = loadConfig({ env: {}, uid: 1000, home })
  t.equal(own.hostName, 'mine', "the user's own file is found")
  t.equal(own.cache.dir, join(home, '.local/state/narwharf/cache'))

  const moved = load(t, '{"stateDir":"/srv/a"}')
  t.equal(moved.controlSocket, '/srv/a/control.sock', 'a second daemon has a socket of its own')
  const stronger = load(t, '{"stateDir":"/srv/a"}', { stateDir: '/srv/b/' })
  t.equal(stronger.stateDir, '/srv/b')
  t.equal(stronger.trust.secretKeyFile, '/srv/b/secret-key')
  const chroot = load(t, '{"store":{"root":"/mnt/x/"}}')
  t.equal(chroot.store.db, '/mnt/x/nix/var/nix/db/db.sqlite')
})

t.test('the host name by default is fit for a key name', async t => {
  for (const [hostName, wanted] of [
    ['lab 3:a', 'lab-3-a'],
    ['(none)', 'none-'],
    ['', 'localhost'],
    ['ä', 'localhost'],
    ['x'.repeat(80), 'x'.repeat(63)],
  ] as const) {
    t.equal(loadConfig({ ...AS_ROOT, hostName, embedded: true }).hostName, wanted, hostName)
  }
})

const REFUSED: readonly (readonly [
  name: string,
  text: string,
  problem: string | RegExp,
  key?: string,
])[] = [
  ['nothing', '', 'is not JSON: Unexpected end of JSON input (line 1, column 1)'],
  ['a comma too many', '{\n "log": {},\n}', /^is not JSON: .*\(line 3, column 1\)$/],
  ['no object', '[]', /^top level: .*expected object/, ''],
  ['null', 'null', /^top level: .*expected object/, ''],
  ['a misspelling', '{"htp":{}}', 'unknown key htp, did you mean http?', 'htp'],
  [
    'swapped letters',
    '{"http":{"prot":1}}',
    'unknown key http.prot, did you mean http.port?',
    'http.prot',
  ],
  ['a wrong case', '{"statedir":"/x"}', 'unknown key statedir, did you mean stateDir?', 'statedir'],
  ['a wrong place', '{"port":1}', 'unknown key port, did you mean http.port?', 'port'],
  [
    'in a list',
    '{"upstreams":[{"url":"http://x","rte":1}]}',
    'unknown key upstreams.0.rte, did you mean upstreams.0.rate?',
  ],
  ['nothing near', '{"log":{"zzz":1}}', 'unknown key log.zzz (known here: level)'],
  ['a prototype', '{"__proto__":{"port":1}}', /^unknown key __proto__/],
  ['a constructor', '{"http":{"constructor":1}}', /^unknown key http.constructor/],
  ['a port as text', '{"http":{"port":"1"}}', 'http.port: must be a whole number', 'http.port'],
  ['a port too high', '{"http":{"port":65536}}', /^http.port: /],
  ['a relative path', '{"stateDir":"x"}', 'stateDir: must be an absolute path'],
  ['a zero byte', '{"stateDir":"/x\\u0000"}', 'stateDir: must not contain a zero byte'],
  [
    'a host that is none',
    '{"http":{"host":"a b"}}',
    'http.host: must be an address or a host name',
  ],
  ['a name with a colon', '{"hostName":"a:b"}', /^hostName: must be letters/],
  ['a key cut short', `{"trust":{"publicKeys":["${KEY.slice(0, -2)}"]}}`, /^trust.publicKeys.0: /],
  ['a secret key as public', `{"trust":{"publicKeys":["a:${'A'.repeat(86)}=="]}}`, /32 bytes$/],
  ['a size without unit', '{"cache":{"maxSize":"9"}}', /^cache.maxSize: must be a size/],
  ['a size that is a list', '{"cache":{"maxSize":[]}}', /^cache.maxSize: must be a size/],
  ['a rate without unit', '{"upstreams":[{"url":"http://x","rate":"9"}]}', /^upstreams.0.rate: /],
  ['a window of nothing', '{"upstreams":[{"url":"http://x","window":"6:00-7:00"}]}', /window: /],
  ['an upstream by ssh', '{"upstreams":[{"url":"ssh://x"}]}', /^upstreams.0.url: must be an http/],
  ['a peer without key', '{"network":{"peers":["h:1"]}}', /^network.peers.0: must look like/],
  ['a peer at port 0', `{"network":{"peers":["h:0#${PEER}"]}}`, /^network.peers.0: must look like/],
  ['a peer at port 65536', `{"network":{"peers":["h:65536#${PEER}"]}}`, /must look like host:port/],
  [
    'a peer with a key cut short',
    `{"network":{"peers":["h:1#${PEER.slice(1)}"]}}`,
    /64 hex digits/,
  ],
  ['a peer with a key of a cache', `{"network":{"peers":["h:1#${KEY}"]}}`, /64 hex digits/],
  ['an unknown choice', '{"http":{"compression":"gzip"}}', /^http.compression: .*"auto"/],
  ['a switch as text', '{"store":{"enable":"yes"}}', /^store.enable: .*boolean/],
  [
    'a socket path too long',
    `{"controlSocket":"/${'x'.repeat(SOCKET_PATH_LIMIT_BYTES)}"}`,
    /has 108 bytes, a Unix socket takes 107/,
    'controlSocket',
  ],
]

t.test('what is refused, and how it is said', async t => {
  for (const [name, text, problem, key] of REFUSED) {
    try {
      load(t, text)
      t.fail(`${name} was taken`)
    } catch (error) {
      if (!isNarwharfError(error, 'CONFIG_INVALID')) throw error
      t.match(error.data.problem, problem, name)
      t.match(error.data.file, /config\.json$/, `${name}: the file is named`)
      if (key !== undefined) t.equal(error.data.key, key, `${name}: the key is named`)
    }
  }
})

t.test('files that are none', async t => {
  const dir = t.testdir()
  mkdirSync(join(dir, 'folder'))
  const refused = (file: string, problem: RegExp) =>
    t.throws(
      () => loadConfig({ ...AS_ROOT, file }),
      { code: 'CONFIG_INVALID', data: { problem } },
      file,
    )
  refused(join(dir, 'absent'), /does not exist/)
  refused(join(dir, 'folder'), /cannot be read \(EISDIR\)/)
  refused('/dev/zero', /is larger than 1048576 bytes/)
  t.throws(
    () => loadConfig({ ...AS_ROOT, embedded: true, stateDir: `/${'y'.repeat(120)}` }),
    { code: 'CONFIG_INVALID', message: /\(embedded defaults\)/ },
    'a state directory too deep for a socket',
  )
})

t.test('sizes', async t => {
  for (const [text, bytes] of [
    ['200GiB', 200 * 2 ** 30],
    ['1.5 TB', 1.5e12],
    ['7b', 7],
    ['10kb', 10_000],
    ['1 KiB', 1024],
    [12, 12],
    [0, undefined],
    [1.5, undefined],
    [-1, undefined],
    ['0GiB', undefined],
    ['-1GiB', undefined],
    ['1e3B', undefined],
    ['GiB', undefined],
    ['9000000PiB', undefined],
    ['1 constructor', undefined],
    ['1 GiB GiB', undefined],
  ] as const) {
    t.equal(parseSize(text), bytes, String(text))
  }
})

t.test('rates', async t => {
  for (const [text, bytesPerSecond] of [
    ['64kbit', 8000],
    ['1Mbit/s', 125_000],
    ['8KiB/s', 8192],
    ['1 MB/s', 1e6],
    ['8KiB', undefined],
    ['3bit/s/s', undefined],
    ['0kbit', undefined],
    ['fast', undefined],
  ] as const) {
    t.equal(parseRate(text), bytesPerSecond, text)
  }
})

t.test('windows', async t => {
  t.same(parseWindow('08:30-17:00'), { from: 510, to: 1020 })
  for (const text of ['24:00-01:00', '08:30', '8:30-9:30', '06:00-06:00', '08:60-09:00']) {
    t.equal(parseWindow(text), undefined, text)
  }
})

t.test('the nearest name', async t => {
  const known = ['host', 'port', 'compression', 'priority']
  for (const [name, nearest] of [
    ['hots', 'host'],
    ['compresion', 'compression'],
    ['PORT', 'port'],
    ['sort', 'port'],
    ['banana', undefined],
    ['', undefined],
    ['x'.repeat(10_000), undefined],
  ] as const) {
    t.equal(nearestName(name, known), nearest, name.slice(0, 20))
  }
})
