import t from 'tap'
import type { DrivesReply, DriveStatus } from '../../protocol/api-drives.ts'
import type { WhoHasReply } from '../../protocol/api.ts'
import { json, runCli, startControlServer, type Answer } from '../helpers/control-server.ts'

const DAY_MS = 86_400_000

const drive = (name: string, facts: Partial<DriveStatus> = {}): DriveStatus => ({
  ...{ id: name.toLowerCase(), name, fsType: 'ext4', plugged: true },
  ...{ mountPoint: `/media/ada/${name}`, dir: `/media/ada/${name}`, readOnly: false },
  ...{ adopted: false, cache: true, archives: [], host: 'lab-3', problems: [] },
  ...{ firstSeen: '2026-01-02T03:04:05.000Z', lastSeen: '2026-01-02T03:04:05.000Z' },
  ...facts,
})

const SHIPMENT = {
  ...{ id: 'a'.repeat(32), name: 'KERGUELEN', depot: 'depot', part: 1, parts: 2 },
  createdAt: '2026-01-02T03:04:05.000Z',
}

const REPLY: DrivesReply = {
  drives: [
    drive('KERGUELEN-1', {
      ...{ shipment: SHIPMENT, paths: 41_302, narBytes: 105_700_000_000 },
      problems: ['its index is not used: \u001b[2Jit is cut off'],
    }),
    drive('BLANK', { cache: false }),
    drive('OLD', {
      ...{ plugged: false, archives: ['a.export', 'b.export'], paths: 1, narBytes: 128 },
      lastSeen: new Date(Date.now() - 12 * DAY_MS - 3 * 3_600_500).toISOString(),
    }),
  ],
}

t.test('drives', async t => {
  const server = await startControlServer(t, { drives: json(REPLY) })
  const flags = ['--state-dir', server.stateDir]
  const { status, stdout, stderr } = await runCli(t, ['drives', ...flags], { columns: 110 })
  t.equal(status, 0)
  t.equal(stderr, '')
  t.equal(
    stdout,
    `DRIVE        WHERE                           CONTENTS                PATHS       SIZE
KERGUELEN-1  /media/ada/KERGUELEN-1          shipment 1/2 of depot  41,302   98.4 GiB
BLANK        /media/ada/BLANK                nothing for narwharf        -          -
OLD          not plugged, seen 12 d 3 h ago  cache, 2 archives           1  128 bytes

problem: KERGUELEN-1: its index is not used: \uFFFD[2Jit is cut off
`,
  )
  const asJson = await runCli(t, ['drives', '--json', ...flags])
  t.same(JSON.parse(asJson.stdout), REPLY)

  const none = await startControlServer(t, { drives: json({ drives: [] }) })
  const empty = await runCli(t, ['drives', '--state-dir', none.stateDir])
  t.equal(empty.stdout, 'no drive was seen yet\n')
})

/** Answers what was asked to be ejected, and how it went. */
const ejecting =
  (facts: object): Answer =>
  (_, reply, request) => {
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      const { drive: name } = JSON.parse(body) as { drive: string }
      const mountPoint = `/media/ada/${name}`
      json({ id: 'x', name, mountPoint, ...facts })(new URL('http://x'), reply, request)
    })
  }

t.test('eject', async t => {
  const run = async (facts: object, ...more: readonly string[]) => {
    const server = await startControlServer(t, { 'drives/eject': ejecting(facts) })
    return runCli(t, ['eject', 'STICK', '--state-dir', server.stateDir, ...more])
  }
  t.match(await run({ unmounted: true }), {
    status: 0,
    stdout: 'STICK is unmounted: unplug it\n',
    stderr: '',
  })
  const hint = 'run: umount /media/ada/STICK (must be superuser to unmount)'
  t.match(await run({ unmounted: false, hint }), {
    status: 3,
    stdout: `STICK is not used any more; safe to unmount: ${hint}\n`,
    stderr: 'it is still mounted at /media/ada/STICK\n',
  })
  const asJson = await run({ unmounted: false, hint }, '--json')
  t.equal(asJson.status, 3)
  t.match(JSON.parse(asJson.stdout), { name: 'STICK', unmounted: false, hint })

  const error = { code: 'DRIVE_UNKNOWN', message: 'no drive STICK', hint: 'narwharf drives' }
  const server = await startControlServer(t, { 'drives/eject': json({ error }, 404) })
  t.match(await runCli(t, ['eject', 'STICK', '--state-dir', server.stateDir]), {
    status: 1,
    stderr: 'narwharf: no drive STICK (narwharf drives)\n',
  })
  t.match(await runCli(t, ['eject', '--state-dir', server.stateDir]), { status: 2 })
})

t.test('who-has tells of drives by their names', async t => {
  const holder = { kind: 'drive', host: 'lab-3', label: 'X' } as const
  const reply: WhoHasReply = {
    results: [
      {
        ...{ query: 'hello', more: 0 },
        matches: [
          {
            storePath: '/nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12',
            narSize: 100,
            holders: [
              { ...holder, id: 'drive:a', name: 'NEW', up: true, mountPoint: '/media/ada/NEW' },
              {
                ...holder,
                id: 'drive:b',
                name: 'OLD',
                up: false,
                lastSeen: '2026-01-02T03:04:05Z',
              },
            ],
          },
        ],
      },
    ],
  }
  const server = await startControlServer(t, { 'who-has': json(reply) })
  const { stdout } = await runCli(t, ['who-has', 'hello', '--state-dir', server.stateDir])
  t.equal(
    stdout,
    `/nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12  100 bytes
  on drive NEW  lab-3  plugged, /media/ada/NEW
  on drive OLD  lab-3  last seen here on 2026-01-02T03:04:05Z, not plugged
`,
  )
})
