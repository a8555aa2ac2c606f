import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { createCacheDirWriter } from '../../../daemon/holders/cache-dir-writer.ts'
import { createCacheDirHolder } from '../../../daemon/holders/cache-dir.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import { formatCacheInfo } from '../../../protocol/cache-info.ts'
import { parseNarinfo } from '../../../protocol/narinfo.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { hashPartOf, parseBaseName } from '../../../protocol/store-path.ts'
import { narHashOf } from '../../helpers/fake-peer.ts'
import { narOf, pathOf } from '../../helpers/nix-store.ts'
import { tempDir, type Scope } from '../../helpers/scope.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

const infoOf = (name: string, nar: Buffer, references: readonly string[] = []): PathInfo => ({
  storePath: pathOf(name),
  narHash: narHashOf(nar),
  narSize: nar.length,
  references: references.map(reference => parseBaseName(pathOf(reference).slice(11))).sort(),
  signatures: [],
})

/** Bytes in uneven pieces; an error at the end if one is given. */
const streamOf = (nar: Buffer, error?: Error): ByteStream => ({
  recycle() {},
  destroy() {},
  async *[Symbol.asyncIterator]() {
    for (let at = 0; at < nar.length; at += 70_001) yield nar.subarray(at, at + 70_001)
    if (error !== undefined) throw error
  },
})

async function makeWriter(scope: Scope, compression?: 'none' | 'zstd') {
  const dir = tempDir(scope, 'writer')
  writeFileSync(
    join(dir, 'nix-cache-info'),
    formatCacheInfo({ storeDir: '/nix/store', wantMassQuery: true, priority: undefined }),
  )
  const writer = createCacheDirWriter({ dir, compression })
  await writer.open()
  const holder = createCacheDirHolder({ dir, pool, expectedStoreDir: '/nix/store' })
  await holder.open()
  const files = () => [...readdirSync(dir), ...readdirSync(join(dir, 'nar'))]
  return { dir, writer, holder, files }
}

const small = narOf('hello\n')
const big = narOf({ dir: { text: 'a line of text\n'.repeat(50_000), noise: randomBytes(300_000) } })

t.test('what is written is a cache', async t => {
  for (const compression of ['none', 'zstd'] as const) {
    const { dir, writer, holder } = await makeWriter(t, compression)
    await writer.add(infoOf('small', small), streamOf(small))
    const { narinfo } = await writer.add(infoOf('big', big, ['small', 'big']), streamOf(big))
    t.equal(narinfo.compression, compression)
    t.ok(compression === 'none' || (narinfo.fileSize ?? 0) < big.length, 'packed')
    const file = join(dir, `${hashPartOf(pathOf('big'))}.narinfo`)
    t.match(parseNarinfo(readFileSync(file)), { url: narinfo.url, narSize: big.length })
    for (const name of ['small', 'big']) {
      const holding = await holder.find(hashPartOf(pathOf(name)))
      t.ok(holding, `${name} is found`)
      t.equal(holding && (await holder.verify(holding)).problem, undefined, `${name} is right`)
      t.equal(holding?.fileSize !== undefined && holding.fileHash !== undefined, true)
    }
    t.ok(writer.has(hashPartOf(pathOf('big'))))
    await writer.add(infoOf('big', big, ['small', 'big']), streamOf(big))
    t.ok(await holder.find(hashPartOf(pathOf('big'))), 'once more does no harm')
  }
})

t.test('what is wrong leaves nothing behind', async t => {
  const { writer, files } = await makeWriter(t)
  const before = files()
  const info = infoOf('big', big)
  const forged = Buffer.from(big)
  forged[5000] = (forged[5000] ?? 0) ^ 1
  const cases: readonly (readonly [string, PathInfo, ByteStream, string])[] = [
    ['other bytes', info, streamOf(forged), 'NAR_MISMATCH'],
    ['too few', info, streamOf(big.subarray(0, -1)), 'NAR_MISMATCH'],
    ['too many', info, streamOf(Buffer.concat([big, small])), 'NAR_MISMATCH'],
    [
      'broken off',
      info,
      streamOf(big.subarray(0, 99_999), Object.assign(new Error('cut'), { code: 'EIO' })),
      'EIO',
    ],
    ['before its references', infoOf('big', big, ['small']), streamOf(big), 'CACHE_INCOMPLETE'],
  ]
  for (const [what, path, stream, code] of cases) {
    await t.rejects(writer.add(path, stream), { code }, what)
    t.same(files(), before, `${what}: nothing`)
  }
})

t.test('a place where nothing can be written', async t => {
  const dir = join(tempDir(t, 'writer'), 'file')
  writeFileSync(dir, '')
  await t.rejects(createCacheDirWriter({ dir }).open(), { code: 'CACHE_UNWRITABLE' })
  const { dir: cache, writer } = await makeWriter(t)
  mkdirSync(join(cache, `${hashPartOf(pathOf('small'))}.narinfo`))
  await t.rejects(writer.add(infoOf('small', small), streamOf(small)), { code: 'CACHE_UNWRITABLE' })
})

t.test('killed at any moment', async t => {
  const dir = tempDir(t, 'writer')
  const script = new URL('../../helpers/write-cache.ts', import.meta.url)
  const names = ['one', 'two', 'three']
  const inputs = names.map((name, index) => {
    const nar = narOf(randomBytes(100_000))
    const info = infoOf(name, nar, names.slice(0, index))
    const narHash = Buffer.from(info.narHash.bytes).toString('base64')
    const file = join(dir, `${name}.json`)
    writeFileSync(file, JSON.stringify({ info, narHash, nar: nar.toString('base64') }))
    return file
  })
  for (const words of [1, 5, 11, 12, 13, 20, 24, 36]) {
    const { dir: cache, holder } = await makeWriter(t)
    const child = fork(script, [cache, ...inputs])
    let heard = 0
    child.on('message', () => {
      if (++heard === words) child.kill('SIGKILL')
    })
    await once(child, 'exit')
    t.ok(heard >= words, 'it came so far')
    const there = names.filter(name =>
      existsSync(join(cache, `${hashPartOf(pathOf(name))}.narinfo`)),
    )
    t.same(there, names.slice(0, there.length), `${words}: references first`)
    for (const name of there) {
      const holding = await holder.find(hashPartOf(pathOf(name)))
      t.equal(holding && (await holder.verify(holding)).problem, undefined, `${words}: ${name}`)
    }
    await createCacheDirWriter({ dir: cache }).open()
    const left = readdirSync(join(cache, 'nar')).filter(name => name.startsWith('.'))
    t.same(left, [], 'the next start clears away what was not finished')
  }
})
