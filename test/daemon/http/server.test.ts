import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import pino from 'pino'
import t, { type Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import type { ApiSources } from '../../../daemon/http/api.ts'
import { createCounters } from '../../../daemon/http/counters.ts'
import { createHttp } from '../../../daemon/http/server.ts'
import { createSubstitution } from '../../../daemon/substitution/substitution.ts'
import type { StatusReply } from '../../../protocol/api.ts'
import { fail } from '../../../protocol/errors.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, fakeTrust, type FakeHolder } from '../../helpers/fake-holder.ts'

const nar = randomBytes(400_000)
const info = fakePath('hello-2.12', nar)
const hashPart = hashPartOf(info.storePath)

const status: StatusReply = {
  version: '0',
  hostName: '<b>lab</b>',
  startedAt: '2026-11-23T00:00:00Z',
  pid: 1,
  stateDir: '/x',
  http: { url: 'http://127.0.0.1:1', openToLan: false },
  publicKey: 'k:x',
  memoryBytes: 1,
  holders: [{ id: '<i>store</i>', kind: 'nix-store', up: true, storeDir: '/nix/store', paths: 7 }],
  served: { narinfos: 0, misses: 0, nars: 0, narBytes: 0 },
  problems: [],
}

const api: ApiSources = {
  status: () => status,
  whoHas: async queries => ({
    results: queries.map(query => ({ query, matches: [], more: 0 })),
  }),
  whyNot: async path => fail('STORE_PATH_INVALID', { value: path, problem: 'for the test' }),
  nixConf: () => ({ lines: ['extra-substituters = <x>'] }),
  doctor: async () => ({ findings: [] }),
}

interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

async function serve(t: Test, ...holders: FakeHolder[]) {
  const dir = await mkdtemp(join(tmpdir(), 'narwharf-http-'))
  const counters = createCounters()
  const substitution = createSubstitution({
    holders,
    trust: fakeTrust(),
    verdictStore: { get: () => undefined, put() {} },
    narinfoStore: { get: () => undefined, put() {} },
    narinfoEpoch: 'test',
    events: createEventBus(),
    storeDir: '/nix/store',
    withLan: 'signed',
    liveCompression: 'none',
  })
  const log = pino({ level: 'silent' })
  const http = createHttp({
    substitution,
    counters,
    api,
    storeDir: '/nix/store',
    priority: 30,
    log,
  })
  const port = await http.listen('127.0.0.1', 0)
  const socketPath = join(dir, 's')
  await http.listenControl(socketPath)
  t.teardown(async () => {
    await http.close()
    await rm(dir, { recursive: true })
  })
  const ask = (
    path: string,
    options: { method?: string; headers?: object; control?: boolean } = {},
  ) =>
    new Promise<Reply>((resolve, reject) => {
      const where = options.control === true ? { socketPath } : { host: '127.0.0.1', port }
      const request = httpRequest(
        { ...where, path, method: options.method ?? 'GET', headers: { ...options.headers } },
        response => {
          const chunks: Buffer[] = []
          response.on('data', (chunk: Buffer) => chunks.push(chunk))
          response.on('error', reject)
          response.on('end', () =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              body: Buffer.concat(chunks),
            }),
          )
        },
      )
      request.on('error', reject)
      request.end()
    })
  return { ask, port, counters }
}

function full(): FakeHolder {
  const holder = fakeHolder('a')
  holder.put(info, nar)
  return holder
}

t.test('a start does not wait for packages that serving needs none of', async t => {
  const { ask } = await serve(t, full())
  t.equal((await ask('/health')).status, 200)
  const loaded = Object.keys(createRequire(import.meta.url).cache).map(file =>
    file.replaceAll('\\', '/'),
  )
  t.ok(loaded.some(file => file.includes('/node_modules/fastify/')))
  for (const name of [
    'prom-client',
    '@fastify/ajv-compiler',
    '@fastify/fast-json-stringify-compiler',
  ]) {
    t.notOk(
      loaded.find(file => file.includes(`/node_modules/${name}/`)),
      name,
    )
  }
})

t.test('what a Nix client asks', async t => {
  const { ask, counters } = await serve(t, full())
  const cacheInfo = await ask('/nix-cache-info')
  t.equal(cacheInfo.body.toString(), 'StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n')
  const narinfo = await ask(`/${hashPart}.narinfo`)
  t.match(narinfo, { status: 200, headers: { 'content-type': 'text/x-nix-narinfo' } })
  const url = `/${/^URL: (.*)$/m.exec(narinfo.body.toString())?.[1]}`
  const whole = await ask(url)
  t.match(whole, {
    status: 200,
    headers: { 'accept-ranges': 'bytes', 'content-length': String(nar.length) },
  })
  t.ok(whole.body.equals(nar))
  for (const foreign of [`/nar/${hashPart}.nar`, `/nar/${narHashOf(url)}.nar?hash=${hashPart}`]) {
    t.ok((await ask(foreign)).body.equals(nar), foreign)
  }
  const rest = await ask(url, { headers: { range: 'bytes=399000-' } })
  t.match(rest, { status: 206, headers: { 'content-range': 'bytes 399000-399999/400000' } })
  t.ok(rest.body.equals(nar.subarray(399_000)))
  t.match(await ask(url, { headers: { range: 'bytes=400000-' } }), {
    status: 416,
    headers: { 'content-range': 'bytes */400000' },
  })
  const etag = whole.headers.etag
  t.equal((await ask(url, { headers: { 'if-none-match': etag } })).status, 304)
  t.equal((await ask(url, { headers: { range: 'bytes=9-', 'if-range': '"other"' } })).status, 200)
  t.equal((await ask(url, { headers: { range: 'bytes=9-', 'if-range': etag } })).status, 206)
  t.match(counters, { narinfos: 1, misses: 0, nars: 6 })
})

const narHashOf = (url: string) => /-([0-9a-z]{52})\.nar/.exec(url)?.[1] ?? ''

t.test('HEAD says the same and sends nothing', async t => {
  const { ask } = await serve(t, full())
  const url = `/nar/${hashPart}.nar`
  for (const path of ['/nix-cache-info', `/${hashPart}.narinfo`, url, '/', '/health']) {
    const [head, get] = [await ask(path, { method: 'HEAD' }), await ask(path)]
    t.equal(head.status, get.status, path)
    t.equal(head.headers['content-length'], get.headers['content-length'], path)
    t.equal(head.body.length, 0)
  }
  t.match(await ask(url, { method: 'HEAD', headers: { range: 'bytes=5-9' } }), {
    status: 206,
    headers: { 'content-length': '5' },
  })
})

t.test('everything unknown is a plain 404', async t => {
  const { ask } = await serve(t, full())
  const none = '0'.repeat(32)
  for (const path of [
    `/${none}.narinfo`,
    `/nar/${none}.nar`,
    '/nar/',
    '/nar/../../etc/passwd',
    '/nar/%2e%2e%2fetc%2fpasswd',
    `/${hashPart.toUpperCase()}.narinfo`,
    `/${none}.ls`,
    `/log/${none}-x.drv`,
    '/log/%00',
    '/realisations/sha256:00!out.doi',
    `/build-trace-v2/${none}-x.drv/out.doi`,
    `/debuginfo/${'0'.repeat(40)}.debug`,
    '/nothing',
    '/%',
    `/${'x'.repeat(5000)}`,
    '//',
  ]) {
    for (const method of ['GET', 'HEAD']) {
      t.equal((await ask(path, { method })).status, 404, `${method} ${path.slice(0, 60)}`)
    }
  }
  t.equal((await ask('/nix-cache-info', { method: 'PUT' })).status, 405)
})

t.test('trouble inside is a 404 too, never a 5xx', async t => {
  const holder = full()
  const { ask } = await serve(t, holder)
  holder.broken = true
  t.equal((await ask(`/${hashPart}.narinfo`)).status, 404)
  t.equal((await ask(`/nar/${hashPart}.nar`)).status, 404)
  t.equal((await ask(`/${hashPart}.ls`)).status, 404)
})

t.test('a NAR that cannot be finished is cut, not ended', async t => {
  const holder = full()
  holder.breakAt = 250_000
  const { ask, counters } = await serve(t, holder)
  await t.rejects(ask(`/nar/${hashPart}.nar`), { code: 'ECONNRESET' })
  holder.breakAt = undefined
  const rest = await ask(`/nar/${hashPart}.nar`, { headers: { range: 'bytes=250000-' } })
  t.ok(rest.body.equals(nar.subarray(250_000)), 'and resumed')
  t.equal(counters.narsBroken, 1)
})

t.test('bytes that are not HTTP are refused and harm nothing', async t => {
  const { ask, port } = await serve(t, full())
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('\x00\x01 rubbish\r\n\r\n'))
    let text = ''
    socket.on('data', (chunk: Buffer) => (text += chunk.toString()))
    socket.on('close', () => resolve(text))
    socket.on('error', reject)
  })
  t.match(answer, /^HTTP\/1.1 400/)
  t.equal((await ask('/health')).status, 200)
})

t.test('the API: this machine only, and not for pages of elsewhere', async t => {
  const { ask } = await serve(t, full())
  t.same(JSON.parse((await ask('/api/v1/status')).body.toString()), status)
  t.match(JSON.parse((await ask('/api/v1/who-has?query=a&query=b')).body.toString()), {
    results: [{ query: 'a' }, { query: 'b' }],
  })
  t.equal((await ask('/api/v1/status', { headers: { host: 'evil.example' } })).status, 403)
  t.equal((await ask('/api/v1/status', { headers: { 'x-forwarded-for': '10.0.0.9' } })).status, 403)
  t.equal((await ask('/api/v1/who-has')).status, 400)
  const refused = await ask('/api/v1/why-not?path=nonsense', { control: true })
  t.match(refused, { status: 400 })
  t.match(JSON.parse(refused.body.toString()), { error: { code: 'STORE_PATH_INVALID' } })
  t.same(JSON.parse((await ask('/api/v1/status', { control: true })).body.toString()), status)
  t.equal((await ask(`/${hashPart}.narinfo`, { control: true })).status, 404)
})

t.test('the page at /: text stays text, strangers see only how to use it', async t => {
  const { ask } = await serve(t, full())
  const page = await ask('/')
  t.match(page.headers['content-security-policy'], /default-src 'none'/)
  const html = page.body.toString()
  t.match(html, '&lt;b&gt;lab&lt;/b&gt;')
  t.match(html, '&lt;i&gt;store&lt;/i&gt;')
  t.notMatch(html, '<b>lab')
  const stranger = (await ask('/', { headers: { via: 'proxy' } })).body.toString()
  t.match(stranger, 'extra-substituters = &lt;x&gt;')
  t.notMatch(stranger, '&lt;i&gt;store')
})

t.test('metrics', async t => {
  const { ask } = await serve(t, full())
  await ask(`/${hashPart}.narinfo`)
  await ask(`/${'0'.repeat(32)}.narinfo`)
  const text = (await ask('/metrics')).body.toString()
  t.match(text, 'narwharf_narinfo_hits_total 1\n')
  t.match(text, 'narwharf_narinfo_misses_total 1\n')
  t.match(text, /narwharf_holder_paths\{.*\} 7\n/)
})
