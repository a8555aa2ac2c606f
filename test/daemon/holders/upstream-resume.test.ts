import { randomBytes } from 'node:crypto'
import { cpSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { SYSTEM_CLOCK } from '../../../daemon/holders/clock.ts'
import { createDownloads } from '../../../daemon/holders/upstream-downloads.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { makeTempDir } from '../../helpers/nix-store.ts'
import { openUpstreamRig, put, read } from '../../helpers/upstream-rig.ts'

const { setUp } = await openUpstreamRig(t)
const BIG = randomBytes(3_000_000)

t.test('a NAR comes over the link once', async t => {
  const { dir, server, holderOf, stateDir } = await setUp(t)
  const { nar, file, url } = put(dir, 'big', BIG)
  const { holder, find } = await holderOf()
  const holding = await find('big')
  const [first, second, packed, verdict] = await Promise.all([
    read(holder.openNar(holding)),
    read(holder.openNar(holding, { offset: 1_000_000, end: 1_000_100 })),
    read(holder.openFile?.(holding) as ByteStream),
    holder.verify(holding),
  ])
  t.ok(first.equals(nar))
  t.ok(second.equals(nar.subarray(1_000_000, 1_000_100)))
  t.ok(packed.equals(file))
  t.equal(verdict.problem, undefined)
  t.equal(server.count(url), 1)
  await server.stop()
  t.ok((await read(holder.openNar(holding))).equals(nar), 'without the upstream too')
  t.equal(statSync(stateDir).mode & 0o777, 0o700)
})

t.test('cut again and again, it goes on from where it was', async t => {
  const { dir, server, holderOf } = await setUp(t)
  const { nar, file, url } = put(dir, 'big', BIG)
  server.fault = path => (path === url ? { kind: 'cut', after: 700_000 } : undefined)
  const { holder, find } = await holderOf()
  t.ok((await read(holder.openNar(await find('big')))).equals(nar))
  const sent = server.asked.filter(({ path }) => path === url)
  t.ok(sent.length >= 4, `${sent.length} requests`)
  t.ok(sent[1]?.range?.startsWith('bytes='), 'by Range')
  const bytes = sent.reduce((sum, one) => sum + one.bytes, 0)
  t.ok(bytes < file.length * 1.6, `${bytes} bytes sent for ${file.length}`)
})

t.test('a server without Range is read past what is there', async t => {
  const { dir, server, holderOf } = await setUp(t)
  const { nar, url } = put(dir, 'big', BIG)
  server.ranges = false
  let cuts = 1
  server.fault = path => (path === url && cuts-- > 0 ? { kind: 'cut', after: 700_000 } : undefined)
  const { holder, find } = await holderOf()
  t.ok((await read(holder.openNar(await find('big')))).equals(nar))
  t.equal(server.count(url), 2)
})

t.test('what came before a kill is not fetched again', async t => {
  const { dir, server, holderOf, stateDir } = await setUp(t)
  const { nar, file, url } = put(dir, 'big', BIG)
  server.fault = (path, range) => {
    if (path !== url) return undefined
    return range === undefined ? { kind: 'cut', after: 2_000_000 } : { kind: 'silence' }
  }
  const before = await holderOf()
  const stream = before.holder.openFile?.(await before.find('big')) as ByteStream
  const killed = join(makeTempDir(t, 'killed'), 'upstream')
  let seen = 0
  for await (const chunk of stream) {
    seen += chunk.length
    if (seen < 1_900_000) continue
    // The directory as it is in the middle: what kill -9 leaves, and all that the next daemon has.
    cpSync(stateDir, killed, { recursive: true })
    break
  }
  await before.holder.close()
  const [left = ''] = readdirSync(killed)
  const kept = statSync(join(killed, left)).size
  t.ok(kept >= seen && kept < file.length, `${kept} bytes are left`)
  server.fault = () => undefined
  server.asked.length = 0
  const downloads = createDownloads({ dir: killed, clock: SYSTEM_CLOCK })
  downloads.open()
  t.teardown(() => downloads.close())
  const after = await holderOf({ downloads })
  const holding = await after.find('big')
  const [bytes, verdict] = await Promise.all([
    read(after.holder.openNar(holding)),
    after.holder.verify(holding),
  ])
  t.ok(bytes.equals(nar))
  t.equal(verdict.problem, undefined)
  const asked = server.asked.filter(({ path }) => path === url)
  t.same(
    asked.map(({ range, bytes: sent }) => [range, sent]),
    [[`bytes=${kept}-`, file.length - kept]],
    'only the rest',
  )
})

t.test('leftovers of another file cost one more attempt', async t => {
  const { dir, server, holderOf, stateDir } = await setUp(t)
  const { nar, url } = put(dir, 'big', BIG)
  const before = await holderOf()
  for await (const _ of before.holder.openNar(await before.find('big'))) break
  await before.holder.close()
  const [left = ''] = readdirSync(stateDir)
  writeFileSync(join(stateDir, left), randomBytes(1_000_000))
  const after = await holderOf()
  t.ok((await after.holder.verify(await after.find('big'))).problem, 'the joined file is wrong')
  const holding = await after.find('big')
  t.equal((await after.holder.verify(holding)).problem, undefined, 'a whole one is right')
  t.ok((await read(after.holder.openNar(holding))).equals(nar))
  t.ok(server.count(url) >= 3)
})
