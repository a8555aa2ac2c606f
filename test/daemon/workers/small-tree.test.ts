import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import {
  digestSmallTree,
  readSmallTree,
  SMALL_NAR_BYTES,
} from '../../../daemon/workers/small-tree.ts'
import { encodeNar } from '../../../protocol/nar/writer.ts'
import { noise, sampleTree, writeTree } from '../../helpers/sample-tree.ts'

const dir = mkdtempSync(join(tmpdir(), 'narwharf-small-'))
t.teardown(() => rmSync(dir, { recursive: true }))
const root = join(dir, 'tree')
writeTree(root, sampleTree())
const nar = encodeNar(sampleTree())

async function collect(stream: ByteStream): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

t.test('the bytes of a NAR and of any part of it, whatever size it was said to have', async t => {
  for (const size of [nar.length, nar.length - 1, 20_000, 2 * nar.length]) {
    t.ok((await collect(readSmallTree(root, size))).equals(nar), `said to have ${size}`)
  }
  for (const [offset, end] of [
    [0, 100],
    [100, 101],
    [nar.length - 1, nar.length],
    [nar.length, undefined],
    [5, 5],
    [3000, undefined],
  ] as const) {
    const part = await collect(readSmallTree(root, nar.length, { offset, end }))
    t.ok(part.equals(nar.subarray(offset, end)), `${offset} to ${end}`)
  }
})

t.test('it comes in one chunk', async t => {
  let chunks = 0
  for await (const chunk of readSmallTree(root, nar.length)) chunks += chunk.length > 0 ? 1 : 0
  t.equal(chunks, 1)
})

t.test('it can be left at any time', async t => {
  const stream = readSmallTree(root, 1)
  for await (const chunk of stream) {
    t.ok(chunk.length < nar.length)
    break
  }
  stream.destroy()
  const never = readSmallTree(root, nar.length)
  never.destroy()
  t.equal((await collect(never)).length, 0)
  const under = readSmallTree(root, nar.length)
  const waiting = under[Symbol.asyncIterator]().next()
  under.destroy()
  await waiting
  t.same(await under[Symbol.asyncIterator]().next(), { done: true, value: undefined })
})

t.test('others have their turn while many nodes are read', async t => {
  const many = join(dir, 'many')
  mkdirSync(many)
  for (let i = 0; i < 500; i++) writeFileSync(join(many, `${i}`), '')
  let turns = 0
  let over = false
  const count = () => {
    turns++
    if (!over) setImmediate(count)
  }
  setImmediate(count)
  const digest = await digestSmallTree(many)
  over = true
  t.ok(digest !== undefined && turns > 5, `${turns} turns`)
})

t.test('its digest', async t => {
  const names = join(root, 'names')
  const bytes = await collect(readSmallTree(names, 10_000))
  const narHash = createHash('sha256').update(bytes).digest()
  t.same(await digestSmallTree(names), { narHash, narSize: bytes.length })
  const large = join(dir, 'large')
  writeFileSync(large, noise(SMALL_NAR_BYTES, 1))
  t.equal(await digestSmallTree(large), undefined, 'of a large one it is left to a worker')
  truncateSync(large, SMALL_NAR_BYTES - 200)
  t.ok(await digestSmallTree(large))
  const abort = new AbortController()
  abort.abort()
  await t.rejects(digestSmallTree(names, abort.signal), { name: 'AbortError' })
})

t.test('what is wrong is thrown as a worker throws it', async t => {
  await t.rejects(collect(readSmallTree(join(dir, 'nowhere'), 100)), { code: 'HOLDING_GONE' })
  await t.rejects(digestSmallTree(join(dir, 'nowhere')), { code: 'HOLDING_GONE' })
})
