import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { createCounters } from '../../../daemon/http/counters.ts'
import { addFastLane } from '../../../daemon/http/fast-lane.ts'
import type { Audience } from '../../../daemon/substitution/candidates.ts'
import type { Substitution } from '../../../daemon/substitution/substitution.ts'

const hash = 'dhksn3bxlnbhp31cd0r5d9p666b4pawr'
const absent = '0'.repeat(32)
const late = '1'.repeat(32)
const body = 'StorePath: /nix/store/x\n'

/** A server that says on its slow lane what it got, and on the fast one the narinfo. */
async function lanes(t: Test, idleMs = 60_000) {
  const slow: string[] = []
  const audiences: Audience[] = []
  const server = createServer((request: IncomingMessage, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => (text += chunk.toString()))
    request.on('end', () => {
      slow.push(`${request.method} ${request.url} ${text}`.trim())
      response.end(`slow ${request.url}`)
    })
  })
  server.on('clientError', (_error, socket) => void socket.destroy())
  const counters = createCounters()
  const lane = addFastLane(
    server,
    {
      narinfo(hashPart: string, audience: Audience) {
        audiences.push(audience)
        if (hashPart === late) return Promise.resolve(Buffer.from(body))
        return hashPart === hash ? Buffer.from(body) : undefined
      },
    } as unknown as Substitution,
    counters,
    { idleMs },
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const sockets: Socket[] = []
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    lane.close()
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  })
  const open = async () => {
    const socket = connect(port, '127.0.0.1')
    sockets.push(socket)
    await once(socket, 'connect')
    return socket
  }
  return { slow, audiences, counters, open, lane }
}

/** Reads until `count` replies with their announced bodies are there. */
async function replies(socket: Socket, count: number, bodyless = false): Promise<string[]> {
  let text = ''
  const found: string[] = []
  const take = () => {
    for (;;) {
      const match = /^HTTP\/1\.1[^]*?Content-Length: (\d+)[^]*?\r\n\r\n/i.exec(text)
      if (match === null) return
      const end = match[0].length + (bodyless ? 0 : Number(match[1]))
      if (text.length < end) return
      found.push(text.slice(0, end))
      text = text.slice(end)
    }
  }
  while (found.length < count) {
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    text += chunk.toString('latin1')
    take()
  }
  return found
}

const ask = (path: string, extra = '') =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/7.85.0 Nix/2.8.0\r\n${extra}\r\n`

t.test('plain requests stay on the fast lane', async t => {
  const { slow, counters, open, audiences } = await lanes(t)
  const socket = await open()
  for (let round = 0; round < 3; round++) {
    socket.write(ask(`/${hash}.narinfo`))
    const [hit] = await replies(socket, 1)
    t.match(hit, /^HTTP\/1\.1 200 OK\r\nContent-Type: text\/x-nix-narinfo\r\nDate: .* GMT\r\n/)
    t.ok(hit?.endsWith(`\r\n\r\n${body}`))
    socket.write(ask(`/${absent}.narinfo`))
    t.match((await replies(socket, 1))[0], /^HTTP\/1\.1 404 Not Found\r\n[^]*\r\n\r\n404\n$/)
  }
  socket.write(ask(`/${hash}.narinfo`).replace('GET', 'HEAD'))
  t.match((await replies(socket, 1, true))[0], /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n$/)
  t.same(slow, [])
  t.match(counters, { narinfos: 4, misses: 3 })
  t.same(audiences[0], { loopback: true, legacy: false })
})

t.test('whatever is not plain goes to the other lane, whole', async t => {
  const narinfo = `/${hash}.narinfo`
  const many = ask(narinfo, 'X-Pad: y\r\n'.repeat(20))
  for (const [name, bytes, expected] of [
    ['another path', ask('/nar/x.nar'), ['GET /nar/x.nar']],
    ['a query', ask(`${narinfo}?a=b`), [`GET ${narinfo}?a=b`]],
    ['a range', ask(narinfo, 'Range: bytes=0-1\r\n'), [`GET ${narinfo}`]],
    ['a proxy', ask(narinfo, 'X-Forwarded-For: 10.0.0.1\r\n'), [`GET ${narinfo}`]],
    ['a proxy, shouting', ask(narinfo, 'VIA: p\r\n'), [`GET ${narinfo}`]],
    ['closing', ask(narinfo, 'Connection: close\r\n'), [`GET ${narinfo}`]],
    ['a body', `${ask(narinfo, 'Content-Length: 3\r\n')}abc`, [`GET ${narinfo} abc`]],
    ['two at once', ask(narinfo) + ask('/b'), [`GET ${narinfo}`, 'GET /b']],
    ['twenty headers', many, [`GET ${narinfo}`]],
    ['an answer that takes time', ask(`/${late}.narinfo`), [`GET /${late}.narinfo`]],
    ['another method', ask(narinfo).replace('GET', 'PUT'), [`PUT ${narinfo}`]],
  ] as const) {
    const { slow, open } = await lanes(t)
    const socket = await open()
    socket.write(bytes)
    await replies(socket, expected.length)
    t.same(slow, expected, name)
  }
})

t.test('a request in pieces is one request', async t => {
  const { slow, open } = await lanes(t)
  const request = ask(`/${hash}.narinfo`)
  for (const cut of [1, 20, 45, 60, request.length - 3, request.length - 1]) {
    const socket = await open()
    socket.write(request.slice(0, cut))
    // The pieces must arrive apart: the second leaves when the first was seen.
    await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
    socket.write(request.slice(cut))
    t.match((await replies(socket, 1))[0], /^HTTP\/1\.1 200/, `cut at ${cut}`)
  }
  t.ok(slow.every(line => line === `GET /${hash}.narinfo`))
})

t.test('one connection changes lanes once and keeps the order', async t => {
  const { slow, open } = await lanes(t)
  const socket = await open()
  socket.write(ask(`/${hash}.narinfo`))
  t.match((await replies(socket, 1))[0], body)
  socket.write(ask('/nar/x.nar'))
  t.match((await replies(socket, 1))[0], 'slow /nar/x.nar')
  socket.write(ask(`/${hash}.narinfo`))
  t.match((await replies(socket, 1))[0], `slow /${hash}.narinfo`)
  t.equal(slow.length, 2)
})

t.test(
  'no Host, two Hosts, odd bytes: refused by the strict server, not answered here',
  async t => {
    for (const bytes of [
      `GET /${hash}.narinfo HTTP/1.1\r\nUser-Agent: x\r\n\r\n`,
      ask(`/${hash}.narinfo`, 'Bad\x01: x\r\n'),
      ask(`/${hash}.narinfo`, 'Split: a\n b\r\n'),
    ]) {
      const { counters, open } = await lanes(t)
      const socket = await open()
      socket.on('error', () => {})
      const closed = once(socket, 'close')
      socket.resume()
      socket.write(bytes)
      socket.end()
      await closed
      t.equal(counters.narinfos, 0)
    }
  },
)

t.test('idle connections and a closing server end', async t => {
  const { open } = await lanes(t, 20)
  const idle = await open()
  idle.resume()
  await once(idle, 'close')
  const second = await lanes(t)
  const kept = await second.open()
  kept.resume()
  kept.write(ask(`/${hash}.narinfo`))
  await once(kept, 'data')
  second.lane.close()
  await once(kept, 'close')
  t.pass('closed')
})
