import { once } from 'node:events'
import { get, request, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import fastify from 'fastify'
import t, { type Test } from 'tap'
import { addJobsApi, listJobs } from '../../../daemon/http/api-jobs.ts'
import { addMergeApi } from '../../../daemon/http/api-merge.ts'
import { createJobs, type JobHandle, type JobOutcome } from '../../../daemon/jobs/jobs.ts'
import type { JobEvent } from '../../../protocol/api-jobs.ts'
import { NarwharfError } from '../../../protocol/errors.ts'

const SPEC = { kind: 'merge', title: 'merge K', subject: 'k' } as const

/** Jobs behind the API on a port of its own; `merge` starts work that ends when told to. */
async function served(t: Test) {
  const jobs = createJobs({ rows: { list: () => [], lastId: () => 0, put: async () => {} } })
  await jobs.open()
  let finish: (outcome: JobOutcome) => void = () => {}
  let handle: JobHandle | undefined
  const begin = () =>
    jobs.start(SPEC, job => {
      handle = job
      return new Promise((resolve, reject) => {
        finish = resolve
        job.signal.addEventListener('abort', () => reject(job.signal.reason as Error))
      })
    })
  const server = fastify()
  addJobsApi(server, jobs)
  addMergeApi(server, {
    jobs,
    merges: {
      async merge({ drive }) {
        if (drive === 'none') throw new NarwharfError('MERGE_NOTHING', { drive })
        if (drive === 'broken') throw new Error('unforeseen')
        return begin()
      },
    },
  })
  await server.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(async () => {
    await jobs.close()
    server.server.closeAllConnections()
    await server.close()
  })
  const { port } = server.server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}/api/v1`
  return {
    ...{ jobs, url, begin },
    end: (outcome: JobOutcome) => finish(outcome),
    note: (line: string) => handle?.note(line),
  }
}

const post = async (url: string, body: unknown): Promise<IncomingMessage> => {
  const sent = request(url, { method: 'POST', headers: { 'content-type': 'application/json' } })
  sent.end(JSON.stringify(body))
  const [reply] = (await once(sent, 'response')) as [IncomingMessage]
  return reply
}

/** The lines of an answer, as they come. */
async function* events(reply: IncomingMessage): AsyncGenerator<JobEvent> {
  let text = ''
  for await (const chunk of reply as AsyncIterable<Buffer>) {
    text += chunk.toString()
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    for (const line of lines) if (line !== '') yield JSON.parse(line) as JobEvent
  }
}

const json = async (reply: IncomingMessage): Promise<unknown> => {
  let text = ''
  for await (const chunk of reply as AsyncIterable<Buffer>) text += chunk.toString()
  return JSON.parse(text)
}

t.test('a merge goes on when the asker leaves, and a late asker hears its end', async t => {
  const { jobs, url, end, note } = await served(t)
  const first = await post(`${url}/merge`, { drive: 'K' })
  t.equal(first.headers['content-type'], 'application/x-ndjson')
  for await (const event of events(first)) {
    t.match(event, { event: 'job', job: { id: 1, state: 'running' } })
    first.destroy()
    break
  }
  const [late] = (await once(get(`${url}/jobs/1/events`), 'response')) as [IncomingMessage]
  const heard: JobEvent[] = []
  for await (const event of events(late)) {
    heard.push(event)
    if (event.event === 'job') note('half of it')
    if (event.event === 'note') end({ state: 'partly', summary: 'some came' })
  }
  t.match(heard, [
    { event: 'job', job: { state: 'running' } },
    { event: 'note', note: { line: 'half of it' } },
    { event: 'end', job: { state: 'partly', summary: 'some came' } },
  ])
  t.match(listJobs(jobs), { jobs: [{ id: 1, notes: [] }] })
  t.same(listJobs(undefined), { jobs: [] })
})

t.test('jobs are cancelled by number; what is asked wrongly is refused', async t => {
  const { url, begin, jobs } = await served(t)
  const { ended } = begin()
  t.match(await json(await post(`${url}/jobs/1/cancel`, {})), { job: { id: 1 } })
  t.match(await ended, { state: 'cancelled' })
  t.match(jobs.get(1), { state: 'cancelled' })
  for (const id of ['7', 'x', '99999999999999999999']) {
    const reply = await post(`${url}/jobs/${id}/cancel`, {})
    t.equal(reply.statusCode, 404)
    t.match(await json(reply), { error: { code: 'JOB_UNKNOWN' } })
    const [none] = (await once(get(`${url}/jobs/${id}/events`), 'response')) as [IncomingMessage]
    t.equal(none.statusCode, 404)
    none.resume()
  }
  for (const body of [{}, { drive: '' }, { drive: 'K', odd: 1 }, { drive: 'x'.repeat(5000) }]) {
    const reply = await post(`${url}/merge`, body)
    t.equal(reply.statusCode, 400)
    reply.resume()
  }
  const nothing = await post(`${url}/merge`, { drive: 'none' })
  t.match(await json(nothing), { error: { code: 'MERGE_NOTHING' } })
  const broken = await post(`${url}/merge`, { drive: 'broken' })
  t.equal(broken.statusCode, 500)
  broken.resume()
})
