import { createHash } from 'node:crypto'
import type { Test } from 'tap'
import { BIG_FILE_BYTES, BUILD_ID, type LabClosure } from '../helpers/closure.ts'
import { fetchText, type Reply } from '../helpers/daemon.ts'
import { GOOD_STATUSES } from '../helpers/proxy.ts'

// The read surface for Nix clients, asked by hand, on a real closure.

const hashPartOf = (path: string) => path.slice('/nix/store/'.length, '/nix/store/'.length + 32)
const baseNameOf = (path: string) => path.slice('/nix/store/'.length)

/** A narinfo's fields; Sig and others that repeat keep the last. */
export const fieldsOf = (text: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    text
      .split('\n')
      .filter(line => line.includes(': '))
      .map(line => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]),
  )

/** A node of a `.ls` listing. */
interface Listed {
  readonly type: string
  readonly size?: number
  readonly narOffset?: number
  readonly executable?: boolean
  readonly entries?: Readonly<Record<string, Listed>>
}

/** Asks for every endpoint of a daemon that serves the closure. `extras`: whether the holder has logs and debug info too. */
export async function checkSurface(t: Test, closure: LabClosure, url: string): Promise<void> {
  const { shapes, shapesDrv, bigSigned, host, stray } = closure
  const statuses: string[] = []
  const ask = async (
    path: string,
    options: Parameters<typeof fetchText>[1] = {},
  ): Promise<Reply> => {
    const reply = await fetchText(`${url}${path}`, options)
    if (!GOOD_STATUSES.includes(reply.status)) statuses.push(`${reply.status} ${path}`)
    return reply
  }

  await t.test('nix-cache-info and narinfo', async t => {
    const info = await ask('/nix-cache-info')
    t.match(info.body, /^StoreDir: \/nix\/store$/m)
    t.match(info.body, /^WantMassQuery: 1$/m)
    t.match(info.body, /^Priority: \d+$/m)
    const narinfo = await ask(`/${hashPartOf(shapes)}.narinfo`)
    t.equal(fieldsOf(narinfo.body).StorePath, shapes)
    const head = await ask(`/${hashPartOf(shapes)}.narinfo`, { method: 'HEAD' })
    t.same([head.status, head.bytes.length], [200, 0], 'HEAD has the status and no body')
    t.equal(head.headers['content-length'], narinfo.headers['content-length'])
  })

  await t.test('NARs: HEAD, ranges, both foreign shapes', async t => {
    const fields = fieldsOf((await ask(`/${hashPartOf(bigSigned)}.narinfo`)).body)
    const narHash = (fields.NarHash ?? '').replace('sha256:', '')
    const narSize = Number(fields.NarSize)
    t.ok(narSize > BIG_FILE_BYTES)
    const own = `/nar/${hashPartOf(bigSigned)}-${narHash}.nar`
    const whole = await ask(own)
    t.equal(whole.status, 200)
    t.equal(whole.bytes.length, narSize)
    t.equal(whole.headers['accept-ranges'], 'bytes')
    const { stdout } = await host.run('sh', [
      '-euc',
      'nix-store --dump "$1" | sha256sum',
      'sh',
      bigSigned,
    ])
    const sum = createHash('sha256').update(whole.bytes).digest('hex')
    t.equal(sum, stdout.split(' ')[0], 'the NAR is what nix-store --dump makes')

    const foreign = await ask(`/nar/${narHash}.nar?hash=${hashPartOf(bigSigned)}`)
    t.ok(foreign.bytes.equals(whole.bytes), 'the shape of harmonia gives the same')
    const head = await ask(own, { method: 'HEAD' })
    t.same(
      [head.status, head.bytes.length, head.headers['content-length']],
      [200, 0, String(narSize)],
    )

    const cases: [string, number, number][] = [
      ['bytes=0-0', 0, 1],
      [`bytes=${narSize - 1}-`, narSize - 1, narSize],
      ['bytes=100000-', 100_000, narSize],
      ['bytes=3000001-3000100', 3_000_001, 3_000_101],
      ['bytes=-17', narSize - 17, narSize],
    ]
    for (const [range, start, end] of cases) {
      const part = await ask(own, { headers: { Range: range } })
      t.equal(part.status, 206, `${range} is partial content`)
      t.equal(part.headers['content-range'], `bytes ${start}-${end - 1}/${narSize}`)
      t.ok(part.bytes.equals(whole.bytes.subarray(start, end)), `${range} is that part`)
    }
    t.equal((await ask(own, { headers: { Range: `bytes=${narSize}-` } })).status, 416)
    t.equal(
      (await ask(own, { headers: { 'If-None-Match': String(whole.headers.etag) } })).status,
      304,
    )
  })

  await t.test('the URL in the narinfo leads to the NAR', async t => {
    const fields = fieldsOf((await ask(`/${hashPartOf(shapes)}.narinfo`)).body)
    const reply = await ask(`/${fields.URL}`)
    t.equal(reply.status, 200)
    t.equal(reply.bytes.length, Number(fields.FileSize ?? reply.bytes.length))
  })

  await t.test('.ls listing: its offsets point at the files in the NAR', async t => {
    const fields = fieldsOf((await ask(`/${hashPartOf(shapes)}.narinfo`)).body)
    const narHash = (fields.NarHash ?? '').replace('sha256:', '')
    const reply = await ask(`/${hashPartOf(shapes)}.ls`)
    t.equal(reply.status, 200)
    const listing = JSON.parse(reply.body) as { readonly version: number; readonly root: Listed }
    t.equal(listing.version, 1)
    const hello = listing.root.entries?.bin?.entries?.hello
    t.match(hello, { type: 'regular', executable: true, size: 21 })
    const start = hello?.narOffset ?? 0
    const file = await ask(`/nar/${hashPartOf(shapes)}-${narHash}.nar`, {
      headers: { Range: `bytes=${start}-${start + 20}` },
    })
    t.equal(file.body, '#!/bin/sh\necho hello\n')
    t.equal((await ask(`/${hashPartOf(shapes)}.ls`, { method: 'HEAD' })).bytes.length, 0)
  })

  await t.test('logs and debug info', async t => {
    const log = await ask(`/log/${baseNameOf(shapesDrv)}`)
    t.same([log.status, log.body], [200, 'the log of shapes\n'])
    for (const name of [BUILD_ID, `${BUILD_ID}.debug`]) {
      const debug = await ask(`/debuginfo/${name}`)
      t.equal(debug.status, 200, `/debuginfo/${name}`)
      const { archive, member } = JSON.parse(debug.body) as { archive: string; member: string }
      t.equal(member, `lib/debug/.build-id/${BUILD_ID.slice(0, 2)}/${BUILD_ID.slice(2)}.debug`)
      const nar = await ask(new URL(archive, `${url}/debuginfo/x`).pathname)
      t.equal(nar.status, 200, 'its archive is a NAR')
    }
  })

  await t.test('what is not there is a 404', async t => {
    const absent = '0'.repeat(32)
    const gone = [
      `/${absent}.narinfo`,
      `/${absent}.ls`,
      `/${hashPartOf(stray)}.narinfo`,
      `/nar/${absent}-${'0'.repeat(52)}.nar`,
      `/nar/${hashPartOf(shapes)}-${'0'.repeat(52)}.nar`,
      `/nar/${'0'.repeat(52)}.nar?hash=${absent}`,
      '/nar/',
      '/nar/..%2f..%2fetc%2fpasswd',
      `/log/${absent}-nothing.drv`,
      '/log/..%2f..%2fetc%2fpasswd',
      `/realisations/sha256:${'0'.repeat(64)}!out.doi`,
      `/build-trace-v2/${absent}-nothing.drv/out.doi`,
      `/debuginfo/${'0'.repeat(40)}.debug`,
      '/nowhere',
    ]
    for (const path of gone) {
      for (const method of ['GET', 'HEAD']) {
        const reply = await ask(path, { method })
        t.equal(reply.status, 404, `${method} ${path}`)
      }
    }
  })
  t.same(statuses, [], 'no other status')
}
