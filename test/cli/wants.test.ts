import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { HAVE_SALT_BYTES, encodeHaveDigest } from '../../protocol/have-digest.ts'
import { generateKeyPair } from '../../protocol/signature.ts'
import { signerOf } from '../../protocol/signed-json.ts'
import type { HashPart } from '../../protocol/store-path.ts'
import { json, runCli, startControlServer, type Answer } from '../helpers/control-server.ts'
import { tempDir } from '../helpers/scope.ts'

const hello = `/nix/store/${'0'.repeat(32)}-hello-2.12`
const zlib = `/nix/store/${'1'.repeat(32)}-zlib-1.3`

const digest = encodeHaveDigest(
  ['0'.repeat(32) as HashPart],
  {
    ...{ site: 'lab', createdAt: '2026-07-25T10:00:00.000Z', shipments: [] },
    salt: Buffer.alloc(HAVE_SALT_BYTES),
  },
  signerOf(generateKeyPair('lab-1')),
)

const want = {
  ...{ id: '7f', kind: 'path', text: hello, priority: 2, by: 'anna@lab-3' },
  ...{ since: '2026-07-25T10:00:00.000Z', host: 'lab-3', hostKey: 'ab', own: true },
  ...{ paths: 1, have: 0, missing: 1, fulfilled: false },
}

const reply = {
  ...{ event: 'end', place: 'site lab', closure: 12, there: 10, unsure: 1 },
  missing: [
    {
      ...{ storePath: hello, reason: 'away', narSize: 2048, fileSize: 1024 },
      where: [
        {
          ...{ host: 'lab-4', up: false, drive: 'KERGUELEN-2', plugged: false },
          lastSeen: '2026-07-25T10:00:00Z',
        },
        { host: 'lab-5', up: false },
      ],
    },
    { storePath: zlib, reason: 'source', urls: ['https://zlib.example/z.tar.gz'] },
  ],
  groups: [
    { reason: 'away', paths: 1, narBytes: 2048, fileBytes: 1024, unsized: 0 },
    { reason: 'source', paths: 1, narBytes: 0, fileBytes: 0, unsized: 1 },
  ],
  sourcesToBuild: [],
  derivationsAbsent: [`${zlib}.drv`],
}

const nothing = {
  ...{ event: 'end', place: 'site lab', closure: 12, there: 12, unsure: 0, missing: [] },
  ...{ groups: [], sourcesToBuild: [], derivationsAbsent: [] },
}

/** A daemon that answers so, and what it was asked. */
async function begin(t: Test, missing: object = reply) {
  const bodies: unknown[] = []
  const lines =
    (...events: readonly object[]): Answer =>
    (_, answer, request) => {
      let body = ''
      request.on('data', (text: Buffer) => (body += text.toString()))
      request.on('end', () => {
        bodies.push(JSON.parse(body))
        answer.writeHead(200).end(events.map(event => `${JSON.stringify(event)}\n`).join('\n'))
      })
    }
  const { stateDir } = await startControlServer(t, {
    wants: json({
      wants: [want, { ...want, id: '80', kind: 'pattern', text: 'x-*', have: 3, fulfilled: true }],
    }),
    'wants/add': lines({ wants: [want] }),
    'wants/remove': lines({ removed: [{ id: '7f', text: hello }] }),
    'wants/export': (_, answer) => void answer.writeHead(200).end('{"wants":[]}\n'),
    have: (_, answer) => void answer.writeHead(200).end(digest),
    missing: lines({ event: 'progress', looked: 5, missing: 1 }, missing),
  })
  const say = (argv: readonly string[], options: Parameters<typeof runCli>[2] = {}) =>
    runCli(t, ['--state-dir', stateDir, ...argv], { columns: 120, ...options })
  return { say, bodies }
}

t.test('missing, for a person', async t => {
  const { say, bodies } = await begin(t)
  const ran = await say(['missing', hello])
  t.equal(ran.status, 3)
  t.match(ran.stdout, /who has it is off.*1 path, 2.0 KiB unpacked, 1.0 KiB to fetch/)
  t.match(ran.stdout, `  ${hello}  2.0 KiB`)
  t.match(
    ran.stdout,
    'on drive KERGUELEN-2, last seen on lab-4 on 2026-07-25T10:00:00Z, not plugged',
  )
  t.match(ran.stdout, 'lab-5, off')
  t.match(ran.stdout, /a source to be fetched: 1 path\n/)
  t.match(ran.stdout, '    https://zlib.example/z.tar.gz')
  t.match(ran.stdout, /site lab lacks 2 of 12 paths\n$/)
  t.match(ran.stderr, /5 paths looked at, 1 missing/)
  t.match(ran.stderr, /nobody here knows what they refer to/)
  t.match(ran.stderr, `not looked into, as they are not here: ${zlib}.drv`)
  t.same(bodies, [{ roots: [hello], wants: false, build: false, place: { kind: 'site' } }])
})

t.test('missing, for a script', async t => {
  const { say } = await begin(t)
  t.equal((await say(['missing', hello, '--paths', '--quiet'])).stdout, `${hello}\n${zlib}\n`)
  const { event: _, ...expected } = reply
  t.same(JSON.parse((await say(['missing', hello, '--json'])).stdout), expected)
  const all = await (await begin(t, nothing)).say(['missing', hello])
  t.match(all, { status: 0, stdout: 'nothing is missing: site lab has all 12 paths\n' })
  const error = { code: 'ROOT_UNKNOWN', message: 'cannot tell', hint: 'give another' }
  const failed = await (await begin(t, { event: 'failed', error })).say(['missing', hello])
  t.match(failed, { status: 1, stderr: /narwharf: cannot tell \(give another\)/ })
})

t.test('places and roots of missing', async t => {
  const { say, bodies } = await begin(t, nothing)
  const dir = tempDir(t, 'files')
  const file = join(dir, 'lab.have')
  writeFileSync(file, digest)
  const list = join(dir, 'paths')
  writeFileSync(list, `# wanted\n${hello}\n\n${zlib}\n`)
  await say(['missing', hello, '--here'])
  await say(['missing', hello, '--cache', 'https://cache.example'])
  await say(['missing', hello, '--cache', dir])
  await say(['missing', hello, '--drive', 'K'])
  await say(['missing', hello, '--have', file, '--build'])
  await say(['missing', '--wants', list])
  await say(['missing', '-'], { stdin: `${zlib}\n` })
  t.match(bodies, [
    { place: { kind: 'here' } },
    { place: { kind: 'cache', cache: 'https://cache.example' } },
    { place: { kind: 'cache', cache: dir } },
    { place: { kind: 'drive', drive: 'K' } },
    { place: { kind: 'have', have: digest.toString('base64') }, build: true },
    { roots: [hello, zlib], wants: true },
    { roots: [zlib] },
  ])
  const wrong: [string[], number, RegExp][] = [
    [['missing'], 2, /no root was given/],
    [['missing', hello, '--here', '--drive', 'K'], 2, /more than one place/],
    [['missing', hello, '--have', join(dir, 'none')], 1, /cannot be read/],
    [['missing', '--file', 'x', '--expr', 'y'], 2, /more than one expression/],
    [['missing', hello, '--attr', 'x'], 2, /--attr without an expression/],
    [['missing', '--nixos', join(dir, 'none')], 2, /is not there/],
  ]
  for (const [argv, status, stderr] of wrong) {
    t.match(await say(argv), { status, stderr }, argv.join(' '))
  }
})

t.test('expressions are evaluated by the user’s own Nix', async t => {
  const { say, bodies } = await begin(t, nothing)
  const bin = tempDir(t, 'bin')
  const program = (name: string, script: string) => {
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`)
    chmodSync(join(bin, name), 0o755)
  }
  const asked = join(bin, 'asked')
  program(
    'nix-instantiate',
    `echo "$@" >> ${asked}; echo warning: do this >&2; echo ${hello}.drv!out; echo ${zlib}.drv`,
  )
  program('nix', `echo nix "$@" >> ${asked}; printf %s ${hello}.drv`)
  const env = { PATH: `${bin}:/usr/bin:/bin` }
  const nixos = tempDir(t, 'nixos')
  await say(['missing', '--file', 'x.nix', '-A', 'a,b'], { env })
  await say(['missing', '--expr', '1 + 1'], { env })
  await say(['missing', '--nixos', nixos], { env })
  writeFileSync(join(nixos, 'flake.nix'), '{}')
  await say(['missing', '--nixos', `${nixos}#lab-3`], { env })
  t.same(readFileSync(asked, 'utf8').trim().split('\n'), [
    `${join(process.cwd(), 'x.nix')} -A a -A b`,
    '-E 1 + 1',
    `<nixpkgs/nixos> -A system --arg configuration ${join(nixos, 'configuration.nix')}`,
    `nix --extra-experimental-features nix-command flakes eval --raw ${nixos}#nixosConfigurations."lab-3".config.system.build.toplevel.drvPath`,
  ])
  t.match(bodies[0], { roots: [`${hello}.drv!out`, `${zlib}.drv`] })
  t.match(bodies[3], { roots: [`${hello}.drv`] })

  program('nix-instantiate', 'echo error: undefined variable >&2; exit 1')
  t.match(await say(['missing', '--file', 'x.nix'], { env }), {
    status: 1,
    stderr: /cannot be evaluated: error: undefined variable/,
  })
  program('nix-instantiate', 'true')
  t.match((await say(['missing', '--file', 'x.nix'], { env })).stderr, /has no derivation/)
  const empty = tempDir(t, 'empty')
  mkdirSync(join(empty, 'bin'))
  t.match(await say(['missing', '--file', 'x.nix'], { env: { PATH: join(empty, 'bin') } }), {
    status: 1,
    stderr: /nix-instantiate is not installed here/,
  })
})

t.test('want', async t => {
  const { say, bodies } = await begin(t)
  t.match((await say(['want', 'list'])).stdout, /7f +2 +.*hello-2.12 +missing +anna@lab-3 +lab-3/)
  t.match((await say(['want', 'list'])).stdout, /80 +2 +x-\* +3 paths/)
  t.equal((await say(['want', 'add', 'x-*', '--priority', '1', '--by', 'anna'])).status, 0)
  t.match(bodies[0], { wants: [{ text: 'x-*' }], priority: 1, by: 'anna' })
  await say(['want', 'add', 'y-*'])
  t.match((bodies[1] as { by: string }).by, /.@./, 'who asks is known without saying')
  t.match(await say(['want', 'remove', '7f']), {
    status: 0,
    stdout: `no longer wanted: ${hello}\n`,
  })
  t.equal((await say(['want', 'export'])).stdout, '{"wants":[]}\n')
  const file = join(tempDir(t, 'out'), 'wants.json')
  t.equal((await say(['want', 'export', '-o', file])).stdout, '')
  t.equal(readFileSync(file, 'utf8'), '{"wants":[]}\n')
  t.match(await say(['want', 'add']), { status: 2, stderr: /nothing was asked for/ })
  t.match(await say(['want', 'add', 'x-*', '--priority', '12']), { status: 2, stderr: /priority/ })
  t.match(await say(['want', 'export', '-o', '/no/such/file']), { status: 1 })
})

t.test('have', async t => {
  const { say } = await begin(t)
  const file = join(tempDir(t, 'out'), 'lab.have')
  const ran = await say(['have', '-o', file])
  t.match(ran.stdout, /^lab has 1 path; the digest has \d+ bytes, written to /)
  t.ok(readFileSync(file).equals(digest))
  t.match(JSON.parse((await say(['have', '--json'])).stdout), { site: 'lab', paths: 1 })
  const raw = await say(['have', '-o', '-'])
  t.equal(Buffer.byteLength(raw.stdout) > 100, true)
})
