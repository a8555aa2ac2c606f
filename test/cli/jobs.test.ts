import t from 'tap'
import type { JobEvent, JobStatus } from '../../protocol/api-jobs.ts'
import { json, runCli, startControlServer, type Answer } from '../helpers/control-server.ts'

const HOUR_AGO = new Date(Date.now() - 3_600_500).toISOString()

const JOB: JobStatus = {
  id: 12,
  kind: 'merge',
  title: 'merge KERGUELEN-2',
  subject: 'drive-1',
  state: 'running',
  startedAt: HOUR_AGO,
  resumed: 0,
  progress: { done: 12, total: 2000, bytes: 5 * 1024, totalBytes: 1024 * 1024 },
  notes: [],
}

const lines =
  (...events: readonly JobEvent[]): Answer =>
  (_, reply) => {
    reply.writeHead(200, { 'content-type': 'application/x-ndjson' })
    for (const event of events) reply.write(`${JSON.stringify(event)}\n\n`)
    reply.end()
  }

t.test('jobs lists what runs and what is done', async t => {
  const done = { ...JOB, id: 3, state: 'partly', summary: '2 paths are missing' } as const
  const error = { code: 'INTERNAL', message: 'no\u001b[2Jdisk', hint: 'see' }
  const failed = { ...JOB, id: 2, state: 'failed', title: 'ship', error } as const
  const { stateDir } = await startControlServer(t, { jobs: json({ jobs: [JOB, done, failed] }) })
  const flags = ['--state-dir', stateDir]
  const { status, stdout } = await runCli(t, ['jobs', ...flags], { columns: 100 })
  t.equal(status, 0)
  t.equal(
    stdout,
    `JOB  WHAT               STATE    STARTED  RESULT
 12  merge KERGUELEN-2  running  1 h ago  12 of 2,000, 5.0 KiB of 1.0 MiB
  3  merge KERGUELEN-2  partly   1 h ago  2 paths are missing
  2  ship               failed   1 h ago  no\uFFFD[2Jdisk
`,
  )
  const asJson = await runCli(t, ['jobs', '--json', ...flags])
  t.match(JSON.parse(asJson.stdout), { jobs: [{ id: 12 }, { id: 3 }, { id: 2 }] })
  const none = await startControlServer(t, { jobs: json({ jobs: [] }) })
  t.match((await runCli(t, ['jobs', '--state-dir', none.stateDir])).stdout, 'no job has been run')
})

t.test('jobs NUMBER follows one to its end', async t => {
  const at = HOUR_AGO
  const events: JobEvent[] = [
    { event: 'job', job: { ...JOB, notes: [{ at, level: 'info', line: 'earlier' }] } },
    { event: 'progress', progress: { ...JOB.progress, bytes: 512 * 1024, what: 'hello' } },
    { event: 'progress', progress: { ...JOB.progress, bytes: 513 * 1024 } },
    { event: 'note', note: { at, level: 'warning', line: 'hello is damaged' } },
  ]
  const end = (job: Partial<JobStatus>): JobEvent => ({ event: 'end', job: { ...JOB, ...job } })
  const run = async (answer: Answer, ...more: string[]) => {
    const { stateDir } = await startControlServer(t, { 'jobs/12/events': answer })
    return runCli(t, ['jobs', '12', '--state-dir', stateDir, ...more])
  }
  const done = await run(lines(...events, end({ state: 'done', summary: 'all came' })))
  t.equal(done.status, 0)
  t.equal(done.stdout, 'merge KERGUELEN-2: done, all came\n')
  t.equal(
    done.stderr,
    `earlier
50 %  12 of 2,000, 512.0 KiB of 1.0 MiB
warning: hello is damaged
`,
  )
  const partly = await run(lines(end({ state: 'partly', result: { missing: [1] } })), '--json')
  t.equal(partly.status, 3)
  t.match(JSON.parse(partly.stdout), { job: { state: 'partly', result: { missing: [1] } } })
  const error = { code: 'JOB_CANCELLED', message: 'the job was cancelled', hint: 'again' }
  const cancelled = await run(lines(end({ state: 'cancelled', error })))
  t.equal(cancelled.status, 1)
  t.match(cancelled.stderr, 'narwharf: the job was cancelled (again)')
  t.equal((await run(lines(end({ state: 'failed' })))).status, 1)
  const broken = await run(lines(...events.slice(0, 1)))
  t.equal(broken.status, 1)
  t.match(broken.stderr, 'narwharf: the daemon broke off')
  const unknown = { error: { code: 'JOB_UNKNOWN', message: 'no job has 12', hint: 'see jobs' } }
  t.match((await run(json(unknown, 404))).stderr, 'narwharf: no job has 12 (see jobs)')
})

t.test('a job is stopped by its number', async t => {
  const { stateDir, asked } = await startControlServer(t, { 'jobs/12/cancel': json({ job: JOB }) })
  const ran = await runCli(t, ['jobs', '12', '--cancel', '--state-dir', stateDir])
  t.match(ran, { status: 0, stdout: 'merge KERGUELEN-2 is stopped\n' })
  t.same(asked, ['/api/v1/jobs/12/cancel'])
  const asJson = await runCli(t, ['jobs', '12', '--cancel', '--json', '--state-dir', stateDir])
  t.match(JSON.parse(asJson.stdout), { job: { id: 12 } })
  t.match(await runCli(t, ['jobs', 'x', '--state-dir', stateDir]), { status: 2 })
})
