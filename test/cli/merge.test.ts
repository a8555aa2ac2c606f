import { resolve } from 'node:path'
import t from 'tap'
import type { JobEvent, JobStatus, MergeResult } from '../../protocol/api-jobs.ts'
import { json, runCli, startControlServer, type Answer } from '../helpers/control-server.ts'
import { tempDir } from '../helpers/scope.ts'

const HELLO = '/nix/store/0yzady5j02x1anl1ldinl49xvwfi56zz-hello-2.12'

const RESULT: MergeResult = {
  drive: { id: 'd', name: 'KERGUELEN-2' },
  shipment: { id: 'ab'.repeat(16), part: 1, parts: 2, depot: 'depot', signedBy: 'depot-1' },
  ...{ paths: 20, cut: false, came: 12, bytes: 3 * 1024 * 1024, wasThere: 3, elsewhere: 1 },
  ...{ damaged: 2, repaired: 1, refused: 1, parked: 1, noRoom: 1, left: 0 },
  damagedPaths: [{ storePath: HELLO, problem: 'wrong' }],
  refusedPaths: [{ storePath: `${HELLO}-r`, problem: 'no trusted signature' }],
  parkedPaths: [{ storePath: `${HELLO}-p`, lacking: 'x'.repeat(32) }],
  wantsMissing: { paths: 1, storePaths: [`${HELLO}-w`] },
  files: {
    ...{ came: 2, bytes: 10, wasThere: 0, newer: 0, noRoom: 0, damaged: 1 },
    damagedFiles: [{ file: 'narwharf/tarballs/x', problem: 'wrong hash' }],
  },
  receipt: 'narwharf/receipts/r.json',
}

const JOB: JobStatus = {
  ...{ id: 4, kind: 'merge', title: 'merge KERGUELEN-2', subject: 'd', state: 'partly' },
  ...{ startedAt: new Date().toISOString(), resumed: 0, progress: { done: 12 }, notes: [] },
  result: RESULT,
}

const ending =
  (job: JobStatus, bodies: string[] = []): Answer =>
  (_, reply, request) => {
    request.on('data', (chunk: Buffer) => bodies.push(chunk.toString()))
    request.on('end', () => {
      const event: JobEvent = { event: 'end', job }
      reply.writeHead(200, { 'content-type': 'application/x-ndjson' })
      reply.end(`${JSON.stringify(event)}\n`)
    })
  }

t.test('merge says what came, what did not, and why', async t => {
  const bodies: string[] = []
  const { stateDir } = await startControlServer(t, { merge: ending(JOB, bodies) })
  const flags = ['--state-dir', stateDir]
  const ran = await runCli(t, ['merge', 'KERGUELEN-2', ...flags])
  t.equal(ran.status, 3)
  t.equal(
    ran.stdout,
    `merge KERGUELEN-2 (part 1 of 2 by depot): partly
  12 paths came, 3.0 MiB
  3 paths here already
  1 path kept by other hosts
  1 path damaged on the drive and repaired from another holder
  1 path damaged on the drive
  1 path without a trusted signature (merge --trust takes them)
  1 path left out, as what they refer to is nowhere
  1 path found no room (cache.maxSize, or the disk)
  1 path still wished for
  2 files of channels, flakes and tarballs came
  receipt on the drive: narwharf/receipts/r.json
`,
  )
  t.match(ran.stderr, `narwharf: ${HELLO}-r: no trusted signature`)
  t.match(ran.stderr, `narwharf: ${HELLO}-p: left out`)
  t.match(ran.stderr, `narwharf: ${HELLO}-w: still wished for`)
  t.match(ran.stderr, 'narwharf: narwharf/tarballs/x: wrong hash')
  const dir = tempDir(t, 'merge')
  const asJson = await runCli(t, [
    'merge',
    `${dir}/.`,
    '--trust',
    '--everything',
    '--json',
    ...flags,
  ])
  t.match(JSON.parse(asJson.stdout), { job: { result: { came: 12 } } })
  t.same(
    bodies.map(body => JSON.parse(body) as unknown),
    [{ drive: 'KERGUELEN-2' }, { drive: resolve(dir), trust: true, everything: true }],
  )
})

t.test('a merge without trouble, and one that cannot be', async t => {
  const whole: MergeResult = {
    ...RESULT,
    ...{ shipment: undefined, files: undefined, wantsMissing: undefined, receipt: undefined },
    ...{ wasThere: 0, elsewhere: 0, damaged: 0, repaired: 0, refused: 0, parked: 0, noRoom: 0 },
    ...{ refusedPaths: [], parkedPaths: [], receiptProblem: 'the drive is read-only' },
  }
  const server = await startControlServer(t, {
    merge: ending({ ...JOB, state: 'done', result: whole }),
  })
  const ran = await runCli(t, ['merge', 'K', '--state-dir', server.stateDir])
  t.equal(ran.status, 0)
  t.equal(ran.stdout, 'merge KERGUELEN-2: done\n  12 paths came, 3.0 MiB\n')
  t.match(ran.stderr, 'no receipt: the drive is read-only')
  const error = { code: 'MERGE_NOTHING', message: 'nothing to merge on K', hint: 'see drives' }
  const none = await startControlServer(t, { merge: json({ error }, 400) })
  const failed = await runCli(t, ['merge', 'K', '--state-dir', none.stateDir])
  t.match(failed, { status: 1, stderr: 'narwharf: nothing to merge on K (see drives)\n' })
})
