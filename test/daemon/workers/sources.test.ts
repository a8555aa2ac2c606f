import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { createFileSource } from '../../../daemon/workers/file-source.ts'
import { createFileStream } from '../../../daemon/workers/file-stream.ts'
import type { FromWorker } from '../../../daemon/workers/messages.ts'
import type { PullSource } from '../../../daemon/workers/pull-source.ts'
import { createStreamWork } from '../../../daemon/workers/stream-work.ts'
import { createTaskWork } from '../../../daemon/workers/task-work.ts'
import { createTreeNar } from '../../../daemon/workers/tree-nar.ts'
import { createZstdNar } from '../../../daemon/workers/zstd-nar.ts'
import { MAX_DEPTH } from '../../../protocol/nar/wire.ts'
import { encodeNar } from '../../../protocol/nar/writer.ts'
import { noise, sampleTree, writeTree } from '../../helpers/sample-tree.ts'

// What runs inside the worker threads, here in the test's own, where slices can be taken one at a time.

const dir = mkdtempSync(join(tmpdir(), 'narwharf-sources-'))
t.teardown(() => rmSync(dir, { recursive: true }))
const root = join(dir, 'tree')
writeTree(root, sampleTree())
const nar = encodeNar(sampleTree())

/** All bytes of a source, `room` at a time. */
async function drain(source: PullSource, room: number): Promise<Buffer> {
  const parts: Buffer[] = []
  const out = Buffer.alloc(room)
  while (!source.finished) parts.push(Buffer.from(out.subarray(0, await source.fill(out))))
  source.close()
  source.close()
  return Buffer.concat(parts)
}

t.test('a tree in buffers of any size', async t => {
  for (const room of [1000, 4096, 65_537, 10_000_000]) {
    t.ok((await drain(createTreeNar(root), room)).equals(nar), `${room} bytes`)
  }
  const small = join(root, 'names')
  const whole = await drain(createTreeNar(small), 100_000)
  t.ok((await drain(createTreeNar(small), 1)).equals(whole), 'byte by byte')
  for (let offset = 0; offset <= whole.length; offset++) {
    if (!(await drain(createTreeNar(small, { offset }), 4096)).equals(whole.subarray(offset))) {
      t.fail(`from ${offset}`)
    }
  }
  t.ok((await drain(createZstdNar(small), 100)).length > 100)
})

/** A folder `name` with files a (1000 bytes), b and c (100,000 each). */
function folderOf(name: string): string {
  const folder = join(dir, name)
  mkdirSync(folder)
  writeFileSync(join(folder, 'a'), noise(1000, 1))
  writeFileSync(join(folder, 'b'), noise(100_000, 2))
  writeFileSync(join(folder, 'c'), noise(100_000, 3))
  return folder
}

const CHANGES: Record<string, readonly [change: (folder: string) => void, code: string]> = {
  'a file shrinks while it is read': [
    folder => truncateSync(join(folder, 'b'), 50_000),
    'NAR_MISMATCH',
  ],
  'a file grows while it is read': [
    folder => appendFileSync(join(folder, 'b'), 'x'),
    'NAR_MISMATCH',
  ],
  'the next file goes away': [folder => unlinkSync(join(folder, 'c')), 'HOLDING_GONE'],
  'the next file becomes a symlink': [
    folder => {
      unlinkSync(join(folder, 'c'))
      symlinkSync('/etc/hostname', join(folder, 'c'))
    },
    'HOLDING_GONE',
  ],
  'the next file becomes a folder': [
    folder => {
      unlinkSync(join(folder, 'c'))
      mkdirSync(join(folder, 'c'))
    },
    'HOLDING_GONE',
  ],
}

t.test('a tree that changes on its way is noticed', async t => {
  for (const [name, [change, code]] of Object.entries(CHANGES)) {
    for (const room of [20_000, 30_001]) {
      const folder = folderOf('changing')
      const source = createTreeNar(folder)
      const out = Buffer.alloc(room)
      // Now the reader stands in b.
      source.fill(out)
      source.fill(out)
      change(folder)
      await t.rejects(drain(source, room), { code }, `${name}, ${room} bytes at a time`)
      rmSync(folder, { recursive: true })
    }
  }
  // The end of the buffer is the end of the file: growth is looked for all the same.
  const file = join(dir, 'grown')
  writeFileSync(file, noise(1000, 1))
  const source = createTreeNar(file)
  source.fill(Buffer.alloc(500))
  appendFileSync(file, 'x')
  t.throws(() => source.fill(Buffer.alloc(96 + 1000 - 500)), { code: 'NAR_MISMATCH' })
  source.close()
})

t.test('what no NAR can hold is refused', async t => {
  const strange = join(dir, 'strange')
  mkdirSync(strange)
  const server = createServer()
  await new Promise<void>(resolve => server.listen(join(strange, 'socket'), resolve))
  await t.rejects(drain(createTreeNar(strange), 1000), {
    code: 'NAR_INVALID',
    message: /socket is neither/,
  })
  await new Promise(resolve => server.close(resolve))
  const deep = join(dir, ...Array.from({ length: MAX_DEPTH }, () => 'd'))
  mkdirSync(join(deep, 'd'), { recursive: true })
  await t.rejects(drain(createTreeNar(join(dir, 'd')), 1000), {
    code: 'NAR_INVALID',
    message: /deeper/,
  })
  await t.rejects(drain(createTreeNar('/dev/null'), 1000), { code: 'NAR_INVALID' })
  await t.rejects(drain(createTreeNar(join(dir, 'n'.repeat(300))), 1000), {
    code: 'HOLDER_UNREADABLE',
  })
})

t.test('segments stand where the bytes would', async t => {
  const source = createTreeNar(root, { offset: 5000, segmentBytes: 200_000 })
  const parts: Buffer[] = []
  const out = Buffer.alloc(100_000)
  let segments = 0
  while (!source.finished) {
    parts.push(Buffer.from(out.subarray(0, await source.fill(out))))
    const segment = source.takeSegment?.()
    if (segment === undefined) continue
    segments++
    const stream = createFileStream(async () => openSync(Buffer.from(segment.path), 'r'), segment)
    for await (const chunk of stream) {
      parts.push(Buffer.from(chunk))
      stream.recycle(chunk)
      stream.recycle(chunk)
    }
  }
  t.ok(segments >= 6, `${segments} segments`)
  t.ok(Buffer.concat(parts).equals(nar.subarray(5000)))
})

t.test('a file is streamed in parts', async t => {
  const file = join(dir, 'streamed')
  const content = noise(1_500_000, 5)
  writeFileSync(file, content)
  const read = async (offset: number, end: number) => {
    const parts: Buffer[] = []
    for await (const chunk of createFileStream(async () => openSync(file, 'r'), { offset, end }))
      parts.push(chunk)
    return Buffer.concat(parts)
  }
  for (const [offset, end] of [
    [0, content.length],
    [1, 2],
    [262_143, 700_001],
    [0, 0],
    [1_400_000, 9_000_000],
  ] as const) {
    t.ok((await read(offset, end)).equals(content.subarray(offset, end)), `${offset} to ${end}`)
  }
  const missing = createFileStream(async () => openSync(join(dir, 'nothing'), 'r'), {
    offset: 0,
    end: 10,
  })
  await t.rejects(missing[Symbol.asyncIterator]().next(), { code: 'ENOENT' })
  const closed = createFileStream(
    async () => {
      const fd = openSync(file, 'r')
      closeSync(fd)
      return fd
    },
    { offset: 0, end: 10 },
  )
  await t.rejects(closed[Symbol.asyncIterator]().next(), { code: 'EBADF' })
  const left = createFileStream(async () => openSync(file, 'r'), { offset: 0, end: content.length })
  left.destroy()
  for await (const chunk of left) t.fail(`${chunk.length} bytes after destroy`)
})

t.test('a stream waits for buffers, and gives back what it did not use', async t => {
  const sent: FromWorker[] = []
  const begin = (source: PullSource, buffers: ArrayBuffer[], length = Infinity) =>
    createStreamWork(7, source, length, buffers, message => sent.push(message))
  const small = join(root, 'bin')
  const expected = await drain(createTreeNar(small), 100_000)

  const one = begin(createTreeNar(small), [new ArrayBuffer(10_000), new ArrayBuffer(10_000)])
  t.equal(await one.slice(), 'done')
  t.match(sent, [{ op: 'end', id: 7, length: expected.length, unused: [{ byteLength: 10_000 }] }])

  sent.length = 0
  const starved = begin(createTreeNar(small), [])
  t.equal(await starved.slice(), 'waiting')
  starved.give?.([new ArrayBuffer(100)])
  t.equal(await starved.slice(), 'more')
  t.equal(await starved.slice(), 'waiting')
  starved.give?.([new ArrayBuffer(100), new ArrayBuffer(200)])
  t.equal(starved.close().length, 2)
  t.match(sent, [{ op: 'chunk', length: 100 }])

  sent.length = 0
  const none = begin(createTreeNar(small), [new ArrayBuffer(8)], 0)
  t.equal(await none.slice(), 'done')
  t.match(sent, [{ op: 'end', unused: [{ byteLength: 8 }] }])
})

t.test('tasks slice by slice', async t => {
  const file = join(dir, 'task.nar')
  writeFileSync(file, nar)
  for (const request of [
    { kind: 'digest-tree', root },
    { kind: 'list-tree', root },
    { kind: 'digest-file', file, compression: 'none' },
    { kind: 'list-file', file, compression: 'none' },
  ] as const) {
    const sent: FromWorker[] = []
    const work = createTaskWork(3, request, message => sent.push(message))
    let slices = 1
    while ((await work.slice()) === 'more') slices++
    t.strictSame(work.close(), [])
    t.ok(slices > 5, `${request.kind} took ${slices} slices`)
    t.match(sent, [{ op: 'result', id: 3 }])
  }
  const seeking = createFileSource(file, 'none', { offset: 1_000_000 })
  t.ok((await drain(seeking, 100_000)).equals(nar.subarray(1_000_000)))
})
