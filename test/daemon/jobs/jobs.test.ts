import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCatalog, type Catalog } from '../../../daemon/catalog/catalog.ts'
import { KEPT_JOBS } from '../../../daemon/catalog/jobs.ts'
import { createJobs, type JobHandle, type Jobs } from '../../../daemon/jobs/jobs.ts'
import type { JobEvent } from '../../../protocol/api-jobs.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { tempDir } from '../../helpers/scope.ts'

async function openCatalog(t: Test, file: string): Promise<Catalog> {
  const catalog = createCatalog({ file, writerThread: false })
  await catalog.open()
  t.teardown(() => catalog.close())
  return catalog
}

async function opened(t: Test, file = join(tempDir(t, 'jobs'), 'catalog.sqlite')) {
  const catalog = await openCatalog(t, file)
  const jobs = createJobs({ rows: catalog.jobs })
  await jobs.open()
  t.teardown(() => jobs.close())
  return { jobs, catalog, file }
}

const SPEC = { kind: 'merge', title: 'merge K-1', subject: 'drive-1' } as const

/** Work that stands still until told to end. */
function held() {
  const handles: JobHandle[] = []
  let release: (summary: string) => void = () => {}
  const ended = new Promise<string>(resolve => {
    release = resolve
  })
  return {
    release: (summary: string) => release(summary),
    handles,
    work: async (job: JobHandle) => {
      handles.push(job)
      const stopped = new Promise<never>((_, reject) =>
        job.signal.addEventListener('abort', () => reject(job.signal.reason as Error)),
      )
      return { summary: await Promise.race([ended, stopped]) }
    },
  }
}

const all = async (jobs: Jobs, id: number): Promise<JobEvent[]> => {
  const events: JobEvent[] = []
  for await (const event of jobs.follow(id) ?? []) events.push(event)
  return events
}

t.test('a job is told of while it runs and afterwards, also after a restart', async t => {
  const { jobs, catalog, file } = await opened(t)
  const { work, release, handles } = held()
  const job = jobs.start({ ...SPEC, parameters: { drive: 'x' } }, work)
  t.match(job, { id: 1, already: false })
  t.match(jobs.get(1), { ...SPEC, state: 'running', progress: { done: 0 }, resumed: 0 })
  t.match(jobs.start(SPEC, work), { id: 1, already: true }, 'one of a kind and subject')
  t.match(
    jobs.start({ ...SPEC, subject: 'drive-2' }, async () => ({ summary: 'x' })),
    { id: 2 },
  )
  const early = all(jobs, 1)
  await new Promise(resolve => setImmediate(resolve))
  handles[0]?.progress({ done: 1, total: 2, what: 'a' })
  handles[0]?.note('b is damaged', 'warning')
  const late = all(jobs, 1)
  release('2 paths came')
  t.match(await job.ended, { state: 'done', summary: '2 paths came' })
  t.match(
    (await early).map(({ event }) => event).filter(event => event !== 'progress'),
    ['job', 'note', 'end'],
  )
  t.match(await late, [
    { event: 'job', job: { progress: { done: 1 }, notes: [{ line: 'b is damaged' }] } },
    { event: 'end', job: { state: 'done', summary: '2 paths came' } },
  ])
  t.match(await all(jobs, 1), [{ event: 'end', job: { state: 'done' } }])
  t.equal(jobs.follow(99), undefined)
  t.equal(jobs.cancel(1), false, 'what ended cannot be cancelled')
  t.equal(jobs.cancel(99), false)
  await jobs.close()
  await jobs.close()
  await catalog.close()
  const again = await opened(t, file)
  t.match(again.jobs.list(), [{ id: 2 }, { id: 1, state: 'done', notes: [{ level: 'warning' }] }])
  t.match(
    again.jobs.start(SPEC, async () => ({ summary: '' })),
    { id: 3, already: false },
  )
})

t.test('how jobs end: failed, partly, cancelled, interrupted', async t => {
  const { jobs, catalog, file } = await opened(t)
  const failed = jobs.start({ ...SPEC, subject: 'f' }, async () => {
    throw new Error('no disk')
  })
  t.match(await failed.ended, { state: 'failed', error: { code: 'INTERNAL', message: 'no disk' } })
  const partly = jobs.start({ ...SPEC, subject: 'p' }, async () => ({
    state: 'partly',
    summary: '1 is missing',
    result: { missing: ['a'] },
  }))
  t.match(await partly.ended, { state: 'partly', result: { missing: ['a'] } })
  const cancelled = jobs.start({ ...SPEC, subject: 'c' }, held().work)
  t.equal(jobs.cancel(cancelled.id), true)
  t.match(await cancelled.ended, { state: 'cancelled', error: { code: 'JOB_CANCELLED' } })
  let begin = () => {}
  const begun = new Promise<void>(resolve => (begin = resolve))
  const stopping = jobs.start({ ...SPEC, subject: 's' }, async ({ signal }) => {
    begin()
    await new Promise(resolve => signal.addEventListener('abort', resolve))
    return { state: 'partly', summary: 'half', result: 1 }
  })
  const stopped = jobs.start({ ...SPEC, subject: 'i', parameters: [1] }, held().work)
  await begun
  await jobs.close()
  t.match(await stopping.ended, { state: 'interrupted', result: 1 })
  t.match(await stopped.ended, { state: 'interrupted', error: { code: 'JOB_INTERRUPTED' } })
  t.throws(() => jobs.start(SPEC, held().work), { code: 'JOB_INTERRUPTED' })
  await catalog.close()
  const again = await opened(t, file)
  t.match(again.jobs.interrupted('merge'), [{ job: { id: stopped.id }, parameters: [1] }])
  t.same(again.jobs.interrupted('ship'), [])
  const resumed = again.jobs.start({ ...SPEC, subject: 'i', resumes: stopped.id }, async () => ({
    summary: 'whole',
  }))
  t.equal(resumed.id, stopped.id)
  t.match(await resumed.ended, { state: 'done', resumed: 1 })
  t.same(again.jobs.interrupted('merge'), [])
})

t.test('a job that was running when the daemon was killed is interrupted', async t => {
  const { catalog, jobs } = await opened(t)
  const row = { kind: 'merge', subject: 'd', state: 'running', startedAt: 1000 }
  const status = { title: 'merge d', resumed: 0, progress: { done: 7 }, notes: [] }
  const value = JSON.stringify({ status, parameters: { drive: 'd' } })
  await catalog.jobs.put({ ...row, id: 40, value })
  const after = createJobs({ rows: catalog.jobs })
  await after.open()
  await after.open()
  t.match(after.get(40), { state: 'interrupted', progress: { done: 7 }, title: 'merge d' })
  t.match(await all(after, 40), [{ event: 'end', job: { state: 'interrupted' } }])
  t.equal(after.cancel(40), true, 'it may be let rest')
  t.match(after.get(40), { state: 'cancelled' })
  t.same(after.interrupted('merge'), [])
  await after.close()
  t.ok(jobs.list())
})

t.test('old jobs are forgotten, those that can go on are not; notes are bounded', async t => {
  const { jobs, catalog } = await opened(t)
  const going = jobs.start({ ...SPEC, subject: 'long' }, held().work)
  for (let n = 0; n < KEPT_JOBS + 20; n++) {
    const job = jobs.start({ ...SPEC, subject: `n${n}` }, async handle => {
      if (n > 0) return { summary: '' }
      for (let i = 0; i < 500; i++) handle.note('x'.repeat(5000))
      return { summary: '' }
    })
    const { notes } = await job.ended
    if (n === 0) {
      t.equal(notes.length, 100)
      t.equal(notes[0]?.line.length, 1000)
    }
  }
  t.ok(jobs.list().length <= KEPT_JOBS)
  t.match(jobs.get(going.id), { state: 'running' })
  t.ok(catalog.jobs.list().length <= KEPT_JOBS)
})

t.test('a catalog that cannot be written does not stop the work', async t => {
  const put = async () => {}
  const jobs = createJobs({ rows: { list: () => [], lastId: () => 0, put } })
  await jobs.open()
  t.match(await jobs.start(SPEC, async () => ({ summary: 'ok' })).ended, { state: 'done' })
  const { catalog } = await opened(t)
  await catalog.close()
  await catalog.jobs.put({ id: 1, kind: '', subject: '', state: '', startedAt: 0, value: '{}' })
  t.ok(
    catalog.problems().some(({ what }) => what.includes('cannot be written')),
    'it is told of',
  )
  try {
    jobs.start({ ...SPEC, resumes: 77 }, async () => ({ summary: 'new' }))
  } catch (error) {
    t.notOk(isNarwharfError(error))
  }
  t.ok(jobs.get(2))
  await jobs.close()
})
