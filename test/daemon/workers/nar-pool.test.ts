import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import {
  startWorkerThread,
  type Listener,
  type WorkerThread,
} from '../../../daemon/workers/worker-thread.ts'
import { createListing } from '../../../protocol/nar/listing.ts'
import { createNarReader } from '../../../protocol/nar/reader.ts'
import {
  encodeNar,
  MAX_NODE_BYTES,
  putNodeStart,
  putRegular,
} from '../../../protocol/nar/writer.ts'
import type { Compression } from '../../../protocol/path-info.ts'
import { seededRandom } from '../../helpers/mutate.ts'
import { noise, sampleTree, writeTree } from '../../helpers/sample-tree.ts'

const dir = mkdtempSync(join(tmpdir(), 'narwharf-workers-'))
const root = join(dir, 'tree')
const tree = sampleTree()
writeTree(root, tree)
const nar = encodeNar(tree)
const narFile = join(dir, 'tree.nar')
writeFileSync(narFile, nar)

const threads: WorkerThread[] = []
const pool = createNarPool({
  threads: 2,
  startThread() {
    const thread = startWorkerThread()
    threads.push(thread)
    return thread
  },
})
t.before(() => pool.open())
t.teardown(async () => {
  await pool.close()
  await pool.close()
  rmSync(dir, { recursive: true })
})

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest()
const isThere = (command: string) => spawnSync(command, ['--version']).status === 0
const withoutNix = !isThere('nix-store') && 'Nix is not here'
/** Files of the test's folder that the process has open. */
const openFiles = () =>
  readdirSync('/proc/self/fd').filter(fd => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(dir)
    } catch {
      return false
    }
  })
const withoutProc = process.platform !== 'linux' && '/proc is not here'

async function collect(stream: ByteStream): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) {
    parts.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(parts)
}

/** The error that ends a stream. */
async function endOf(stream: ByteStream): Promise<unknown> {
  try {
    for await (const chunk of stream) stream.recycle(chunk)
  } catch (error) {
    return error
  }
  return 'the end'
}

t.test('a dump is the NAR of the tree', async t => {
  t.ok((await collect(pool.dump(root))).equals(nar), 'as the writer makes it')
  for (const path of [
    'sizes/of-0',
    'sizes/of-9',
    'sizes/of-3000001',
    'bin/run',
    'links/absolute',
    'void',
  ]) {
    const bytes = await collect(pool.dump(join(root, path)))
    const reader = createNarReader({})
    reader.write(bytes)
    reader.end()
    t.pass(`${path} alone`)
  }
})

t.test('a dump is what nix-store --dump gives', { skip: withoutNix }, async t => {
  for (const path of [
    '.',
    'sizes',
    'sizes/of-3000001',
    'bin/run',
    'links/odd',
    'names',
    'void',
    'deep',
  ]) {
    const of = join(root, path)
    const expected = execFileSync('nix-store', ['--dump', of], { maxBuffer: 2 ** 30 })
    t.ok((await collect(pool.dump(of))).equals(expected), path)
    const { narHash, narSize } = await pool.digestTree(of)
    t.ok(narHash.equals(sha256(expected)) && narSize === expected.length, `${path}: digest`)
  }
})

t.test('ranges are parts of it', async t => {
  const random = seededRandom(11)
  const below = (limit: number) => Math.floor(random() * limit)
  const ranges: (readonly [offset: number, end: number | undefined])[] = [
    [0, 0],
    [0, 1],
    [5, 5],
    [nar.length - 1, undefined],
    [nar.length, undefined],
    [nar.length + 10, undefined],
    [0, nar.length + 10],
    [10, 5],
  ]
  for (let count = 0; count < 60; count++) {
    const offset = below(nar.length)
    ranges.push([
      offset,
      count % 3 === 0 ? undefined : offset + below(count % 2 === 0 ? 100 : 2_000_000),
    ])
  }
  for (const [offset, end] of ranges) {
    const wanted = nar.subarray(offset, Math.max(offset, end ?? nar.length))
    t.ok((await collect(pool.dump(root, { offset, end }))).equals(wanted), `${offset} to ${end}`)
  }
})

t.test('zstd frames are the same each time, in parts too', async t => {
  const packed = await collect(pool.dumpZstd(root))
  const file = join(dir, 'own.zst')
  writeFileSync(file, packed)
  t.ok((await collect(pool.decompress(file, 'zstd'))).equals(nar))
  if (isThere('zstd'))
    t.ok(execFileSync('zstd', ['-dc', file], { maxBuffer: 2 ** 30 }).equals(nar), 'the real tool')
  for (const [offset, end] of [
    [0, undefined],
    [1, 100],
    [1_000_001, undefined],
    [packed.length - 3, packed.length],
  ] as const) {
    t.ok(
      (await collect(pool.dumpZstd(root, { offset, end }))).equals(packed.subarray(offset, end)),
      `from ${offset}`,
    )
  }
})

t.test('a tree is hashed and listed', async t => {
  const { narHash, narSize } = await pool.digestTree(root)
  t.ok(narHash.equals(sha256(nar)))
  t.equal(narSize, nar.length)
  const { handler, json } = createListing()
  const reader = createNarReader(handler)
  reader.write(nar)
  t.ok((await pool.listTree(root)).equals(json()), 'listing of the tree')
  t.ok((await pool.listFile(narFile, 'none')).equals(json()), 'listing of the file')
})

const PACKERS: Record<Compression, readonly [command: string, ...args: string[]]> = {
  none: ['cat'],
  xz: ['xz', '-c', '-0'],
  zstd: ['zstd', '-c'],
  bzip2: ['bzip2', '-c'],
  gzip: ['gzip', '-c', '-1'],
  br: ['brotli', '-c', '-q', '1'],
}

for (const [compression, [command, ...args]] of Object.entries(PACKERS) as [
  Compression,
  [string],
][]) {
  t.test(
    `a NAR file in ${compression}`,
    { skip: !isThere(command) && `${command} is not here` },
    async t => {
      const write = (name: string, bytes: Buffer) => {
        const file = join(dir, `${compression}-${name}`)
        writeFileSync(file, bytes)
        return file
      }
      const pack = (input: Buffer) => execFileSync(command, args, { input, maxBuffer: 2 ** 30 })
      const packed = pack(nar)
      const good = write('good', packed)
      t.strictSame(await pool.digestFile(good, compression), {
        narHash: sha256(nar),
        narSize: nar.length,
        fileHash: sha256(packed),
        fileSize: packed.length,
      })
      t.ok((await collect(pool.decompress(good, compression))).equals(nar))
      const part = { offset: 1_234_567, end: 1_999_999 }
      t.ok(
        (await collect(pool.decompress(good, compression, part))).equals(
          nar.subarray(part.offset, part.end),
        ),
      )
      t.equal(JSON.parse((await pool.listFile(good, compression)).toString()).version, 1)

      const small = encodeNar({ type: 'regular', contents: noise(100_000, 1) })
      const bad: Record<string, readonly [Buffer, string]> = {
        'a NAR and a byte more': [pack(Buffer.concat([small, Buffer.alloc(1)])), 'NAR_INVALID'],
        'a cut NAR': [pack(small.subarray(0, -8)), 'NAR_INVALID'],
        'a page': [pack(Buffer.from('<html>')), 'NAR_INVALID'],
        'a cut file': [
          pack(small).subarray(0, -1),
          compression === 'none' ? 'NAR_INVALID' : 'COMPRESSED_DATA_INVALID',
        ],
        nothing: [
          Buffer.alloc(0),
          compression === 'none' ? 'NAR_INVALID' : 'COMPRESSED_DATA_INVALID',
        ],
      }
      for (const [name, [bytes, code]] of Object.entries(bad)) {
        const file = write('bad', bytes)
        await t.rejects(pool.digestFile(file, compression), { code }, name)
        await t.rejects(pool.listFile(file, compression), { code }, name)
      }
    },
  )
}

t.test('what is not there, or is no file, is said to be so', async t => {
  const fifo = join(dir, 'fifo')
  execFileSync('mkfifo', [fifo])
  const strange = join(dir, 'strange')
  mkdirSync(strange)
  execFileSync('mkfifo', [join(strange, 'fifo')])
  symlinkSync(narFile, join(dir, 'link.nar'))
  const missing = join(dir, 'missing')
  const gone = { code: 'HOLDING_GONE' }
  t.match(await endOf(pool.dump(missing)), gone)
  t.match(await endOf(pool.dumpZstd(missing)), gone)
  t.match(await endOf(pool.decompress(missing, 'xz')), gone)
  await t.rejects(pool.digestTree(missing), gone)
  await t.rejects(pool.listTree(missing), gone)
  await t.rejects(pool.digestFile(missing, 'none'), gone)
  await t.rejects(pool.digestFile(join(dir, 'link.nar'), 'none'), gone, 'symlinks are not followed')
  await t.rejects(
    pool.digestFile(fifo, 'none'),
    { code: 'HOLDER_UNREADABLE' },
    'a FIFO does not hang',
  )
  await t.rejects(pool.digestFile(root, 'none'), { code: 'HOLDER_UNREADABLE' })
  t.match(await endOf(pool.dump(strange)), { code: 'NAR_INVALID', message: /fifo is neither/ })
  await t.rejects(pool.listTree(strange), { code: 'NAR_INVALID' })
})

t.test('a large file that changes on its way is noticed', async t => {
  const large = join(dir, 'large')
  const size = 8_000_000
  for (const [name, change, code] of [
    ['shrinks', () => truncateSync(large, size / 2), 'NAR_MISMATCH'],
    ['grows', () => writeFileSync(large, 'more', { flag: 'a' }), 'NAR_MISMATCH'],
    ['stays', () => undefined, undefined],
  ] as const) {
    writeFileSync(large, noise(size, 1))
    const stream = pool.dump(large)
    let found: unknown
    let changed = false
    try {
      for await (const chunk of stream) {
        // The second chunk: by then the file is open and its size promised.
        if (!changed && chunk.length > 1000) {
          change()
          changed = true
        }
        stream.recycle(chunk)
      }
    } catch (error) {
      found = error
    }
    t.equal((found as { code?: string } | undefined)?.code, code, name)
  }
})

t.test('streams that are left let go of everything', { skip: withoutProc }, async t => {
  const files = ['sizes/of-3000001', 'sizes', '.', 'many']
  const busy = pool.dump(join(root, 'sizes/of-3000001'))[Symbol.asyncIterator]()
  await busy.next()
  await busy.next()
  t.ok(openFiles().length > 0, 'an open file is seen')
  await busy.return?.()
  for (const leave of ['break', 'destroy', 'destroy before the first chunk'] as const) {
    for (let round = 0; round < 4; round++) {
      const streams = files.flatMap(name => [
        pool.dump(join(root, name)),
        pool.dumpZstd(join(root, name)),
        pool.decompress(narFile, 'none'),
      ])
      await Promise.all(
        streams.map(async stream => {
          if (leave === 'destroy before the first chunk') stream.destroy()
          for await (const chunk of stream) {
            t.ok(chunk.length > 0)
            if (leave === 'break') break
            stream.destroy()
            stream.destroy()
          }
          stream.recycle(Buffer.alloc(1))
        }),
      )
    }
    // One answer of each thread: by then it has seen what was said before.
    await Promise.all([pool.listTree(join(root, 'void')), pool.listTree(join(root, 'void'))])
    t.strictSame(openFiles(), [], leave)
  }
})

/** A terabyte of zeros, and a NAR file of them that has begun: holes, so that the disk is not filled. */
const SPARSE_BYTES = 2 ** 40
const sparse = join(dir, 'sparse')
const sparseNar = join(dir, 'sparse.nar')
for (const [file, start] of [
  [sparse, Buffer.alloc(0)],
  [sparseNar, nodeStart(SPARSE_BYTES)],
] as const) {
  const fd = openSync(file, 'w')
  writeSync(fd, start)
  ftruncateSync(fd, SPARSE_BYTES)
  closeSync(fd)
}

function nodeStart(size: number): Buffer {
  const bytes = Buffer.alloc(MAX_NODE_BYTES)
  return bytes.subarray(0, putRegular(bytes, putNodeStart(bytes, 0, undefined), size, false))
}

t.test('a task that is given up stops', async t => {
  for (const begin of [
    (signal: AbortSignal) => pool.digestTree(sparse, signal),
    (signal: AbortSignal) => pool.digestFile(sparseNar, 'none', signal),
  ]) {
    const abort = new AbortController()
    const ended = t.rejects(begin(abort.signal), { name: 'AbortError' })
    await pool.listTree(join(root, 'void'))
    abort.abort()
    await ended
    await t.rejects(begin(abort.signal), { name: 'AbortError' }, 'given up before')
  }
})

t.test('small work is done while large work goes on', async t => {
  const abort = new AbortController()
  // More than there are threads.
  const large = Array.from({ length: 5 }, () => pool.digestTree(sparse, abort.signal))
  const settled = Promise.allSettled(large)
  for (let count = 0; count < 20; count++) {
    t.ok((await collect(pool.dump(join(root, 'names')))).length > 1000)
  }
  abort.abort()
  for (const { status } of await settled) t.equal(status, 'rejected')
})

t.test('sixteen slow readers cost a bounded amount of memory', async t => {
  const before = process.memoryUsage().arrayBuffers
  const streams = Array.from({ length: 16 }, (_, n) =>
    n % 2 === 0 ? pool.dump(join(root, 'sizes')) : pool.decompress(narFile, 'none'),
  )
  const iterators = streams.map(stream => stream[Symbol.asyncIterator]())
  await Promise.all(iterators.map(iterator => iterator.next()))
  await pool.listTree(join(root, 'void'))
  const used = process.memoryUsage().arrayBuffers - before
  t.ok(used < 32 * 2 ** 20, `${(used / 2 ** 20).toFixed(1)} MiB`)
  for (const stream of streams) stream.destroy()
})

t.test('a thread that dies fails what it did, and another takes its place', async t => {
  const before = threads.length
  const stream = pool.dump(join(root, 'many'))
  const iterator = stream[Symbol.asyncIterator]()
  t.equal((await iterator.next()).done, false)
  const abort = new AbortController()
  const tasks = [1, 2, 3].map(() => pool.digestTree(sparse, abort.signal))
  const settled = Promise.allSettled(tasks)
  await Promise.all(threads.map(thread => thread.terminate('it was killed by a test')))
  const lost = { code: 'NAR_WORKER_LOST', message: /killed by a test/ }
  await t.rejects(iterator.next(), lost)
  for (const result of await settled) {
    t.match(result.status === 'rejected' ? result.reason : undefined, lost)
  }
  t.ok((await collect(pool.dump(root))).equals(nar), 'the next request is served')
  t.equal(threads.length, before + 1)
})

t.test('a closed pool refuses, and opens again', async t => {
  const other = createNarPool({ threads: 1 })
  await t.rejects(other.digestTree(root), { code: 'NAR_WORKER_LOST' })
  await other.open()
  await other.open()
  const running = other.digestTree(sparse)
  const ended = t.rejects(running, { code: 'NAR_WORKER_LOST' })
  await other.close()
  await ended
  await other.open()
  t.equal((await other.digestTree(root)).narSize, nar.length)
  await other.close()
})

/** A thread that finds the same in every tree, at once. */
function quickThread(listing: string): WorkerThread {
  const listeners = new Map<number, Listener>()
  return {
    busy: 0,
    alive: true,
    listen: (id, listener) => void listeners.set(id, listener),
    forget: id => void listeners.delete(id),
    send(message) {
      const result = { kind: 'list-tree', listing: Buffer.from(listing) } as const
      listeners.get(message.id)?.take({ op: 'result', id: message.id, result })
    },
    terminate: async () => {},
  }
}

t.test('a start waits for no thread, and the first request finds one', async t => {
  let started = 0
  const startThread = () => quickThread(`thread ${++started}`)
  const later = createNarPool({ startThread, warmMs: 60_000 })
  await later.open()
  t.equal(started, 0)
  t.equal(String(await later.listTree(root)), 'thread 1', 'asked for at once')
  await later.close()

  const soon = createNarPool({ startThread, warmMs: 1 })
  await soon.open()
  while (started < 2) await new Promise(resolve => setImmediate(resolve))
  t.equal(String(await soon.listTree(root)), 'thread 2', 'the one that was ready')
  await soon.close()
})
