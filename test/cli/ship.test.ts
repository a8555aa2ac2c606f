import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { JobStatus } from '../../protocol/api-jobs.ts'
import type { ShipResult, VerifyResult } from '../../protocol/api-shipments.ts'
import { runCli, startControlServer, type Answer } from '../helpers/control-server.ts'
import { tempDir } from '../helpers/scope.ts'

const HELLO = '/nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12'
const BASH = '/nix/store/4mjvzy2w57h4bkr344nxkfi7pz1mmi2p-bash-5.2'

const RESULT: ShipResult = {
  ...{ dryRun: false, dir: '/mnt/ssd', name: 'KERGUELEN-2', of: 1, wanted: 30, had: 12 },
  parts: [
    {
      ...{ part: 1, dir: '/mnt/ssd', id: '0'.repeat(32), paths: 28, narBytes: 90_000_000 },
      ...{ fileBytes: 30_000_000, there: 8, written: 20, writtenBytes: 20_000_000 },
    },
  ],
  ...{ left: [BASH], leftPaths: 1, leftBytes: 5_000_000 },
  missing: [{ storePath: `${HELLO}\u001b[2J`, problem: 'nobody within reach offers it' }],
  missingPaths: 1,
}

const FOUND: VerifyResult = {
  targets: [
    {
      ...{ dir: '/mnt/ssd', paths: 10, fileBytes: 1_000_000, good: 8, unsigned: 1 },
      damaged: [
        { storePath: HELLO, problem: 'its NAR has another hash', repairedFrom: 'peer:abc' },
        { storePath: BASH, problem: 'nar/x.nar is not there' },
      ],
      ...{ damagedPaths: 2, repairedPaths: 1, incomplete: [], incompletePaths: 0 },
      problems: ['narwharf/index/000001.blk is damaged'],
    },
  ],
}

/** A job that ends with that, and what was asked for. */
function jobOf(state: JobStatus['state'], result: unknown, bodies: unknown[]): Answer {
  return (_, reply, request) => {
    let text = ''
    request.on('data', chunk => (text += String(chunk)))
    request.on('end', () => {
      bodies.push(JSON.parse(text))
      const job: JobStatus = {
        ...{ id: 7, kind: 'ship', title: 'ship', subject: '/mnt/ssd', state, result },
        ...{ startedAt: '2026-01-02T03:04:05Z', resumed: 0, progress: { done: 0 }, notes: [] },
      }
      reply.writeHead(200, { 'content-type': 'application/x-ndjson' })
      reply.end(
        `${JSON.stringify({ event: 'job', job })}\n${JSON.stringify({ event: 'end', job })}\n`,
      )
    })
  }
}

t.test('ship', async t => {
  const bodies: unknown[] = []
  const { stateDir } = await startControlServer(t, { ship: jobOf('partly', RESULT, bodies) })
  const ask = (...args: string[]) => runCli(t, [...args, '--state-dir', stateDir])
  const files = tempDir(t, 'ship-cli')
  const list = join(files, 'paths.txt')
  writeFileSync(list, `# what is wanted\n${HELLO}\n\n${BASH}/bin/sh\n`)

  await t.test('asks for what was named and prints what came of it', async t => {
    const { status, stdout, stderr } = await ask(
      ...['ship', '/mnt/ssd', list, HELLO, '--have', '/tmp/a.have', '--size-limit', '30GB'],
    )
    t.equal(status, 3, stderr)
    t.match(bodies.pop(), {
      dir: '/mnt/ssd',
      roots: [HELLO, BASH],
      have: ['/tmp/a.have'],
      sizeLimit: '30GB',
    })
    t.match(stdout, /KERGUELEN-2 +28 +85\.8 MiB +28\.6 MiB +8 +19\.1 MiB/)
    t.match(stderr, /1 path of 4\.8 MiB found no room/)
    t.match(stderr, /hello-2\.12\uFFFD\[2J: nobody within reach offers it/, 'made harmless')
  })
  await t.test('as JSON', async t => {
    const { stdout } = await ask('ship', '/mnt/ssd', HELLO, '--json')
    t.same(JSON.parse(stdout), RESULT)
  })
  await t.test('relative files and the same date every time', async t => {
    await runCli(
      t,
      [
        ...['ship', 'drive', HELLO, '--want', 'x.want', '--channel', 'a,b'],
        ...['--state-dir', stateDir],
      ],
      { env: { SOURCE_DATE_EPOCH: '1767323045' } },
    )
    t.match(bodies.pop(), {
      dir: join(process.cwd(), 'drive'),
      want: [join(process.cwd(), 'x.want')],
      channels: ['a', 'b'],
      createdAt: '2026-01-02T03:04:05.000Z',
    })
  })
  await t.test('wrong usage', async t => {
    mkdirSync(join(files, 'folder'))
    symlinkSync('/nowhere', join(files, 'dangling'))
    writeFileSync(join(files, 'odd.txt'), 'no path\n')
    for (const args of [
      ['ship', '/mnt/ssd'],
      ['ship'],
      ['ship', '/mnt/ssd', join(files, 'folder')],
      ['ship', '/mnt/ssd', join(files, 'dangling')],
      ['ship', '/mnt/ssd', join(files, 'odd.txt')],
      ['ship', '/mnt/ssd', HELLO, '--split', 'many'],
      ['ship', '/mnt/ssd', HELLO, '--split', '2', '--part', '3'],
    ]) {
      const { status, stderr } = await ask(...args)
      t.equal(status, 2, args.join(' '))
      t.match(stderr, /^narwharf: .+ \(.+\)\n$/)
    }
  })
})

t.test('verify', async t => {
  const bodies: unknown[] = []
  const { stateDir } = await startControlServer(t, { verify: jobOf('partly', FOUND, bodies) })
  const { status, stdout, stderr } = await runCli(t, [
    ...['verify', 'KERGUELEN-2', '/mnt/ssd', '--repair', '--state-dir', stateDir],
  ])
  t.equal(status, 3)
  t.same(bodies, [{ targets: ['KERGUELEN-2', '/mnt/ssd'], repair: true }])
  t.match(stdout, /8 of 10 paths are right/)
  t.match(stdout, /2 paths damaged, 1 repaired/)
  t.match(stderr, /hello-2\.12: .*\(repaired from peer:abc\)/)
  t.match(stderr, /bash-5\.2: .*\(not repaired\)/)
  t.match(stderr, /000001\.blk is damaged/)
})
