import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createNarSpool } from '../../../daemon/holders/nar-spool.ts'
import { createPaceWatch, type Advice, type Pace } from '../../../daemon/holders/spool-helpers.ts'
import { createPieces, type Piece } from '../../../daemon/holders/spool-pieces.ts'
import type { SpoolSource } from '../../../daemon/holders/spool-transfer.ts'
import { fakePath } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

// A large NAR from several sources at a time.

const KIB = 1024
const MIB = 1024 * KIB
const nar = randomBytes(16 * MIB)
const info = fakePath('large-1.0', nar)

interface FakeSource extends SpoolSource {
  /** What it was asked for: from, up to, and how many bytes it gave. */
  readonly asked: { readonly offset: number; readonly end: number; given: number }[]
  readonly lies: string[]
  readonly given: number
}

interface SourceOptions {
  readonly bytes?: Buffer
  /** It breaks off when it has given so many. */
  readonly breakAfter?: number
  /** Resolves when it may give the next 64 KiB. */
  readonly turn?: () => Promise<unknown>
}

function makeSource(id: string, all: FakeSource[], options: SourceOptions = {}): FakeSource {
  const { bytes = nar, breakAfter = Infinity, turn = () => sleep(2) } = options
  const source: FakeSource = {
    id,
    name: id,
    asked: [],
    lies: [],
    get given() {
      return source.asked.reduce((sum, { given }) => sum + given, 0)
    },
    others: () => all.filter(one => one !== source),
    lied: (_nar, problem) => void source.lies.push(problem),
    async *open(offset, signal, end) {
      const request = { offset, end, given: 0 }
      source.asked.push(request)
      for (let at = offset; at < end; at += 64 * KIB) {
        await turn()
        if (signal.aborted) return
        if (source.given >= breakAfter) throw new Error('the cable was pulled')
        const chunk = bytes.subarray(at, Math.min(end, at + 64 * KIB))
        request.given += chunk.length
        yield Buffer.from(chunk)
      }
    },
  }
  all.push(source)
  return source
}

async function makeSpool(t: Test) {
  const spool = createNarSpool({
    dir: tempDir(t, 'spool'),
    reserveBytes: 0,
    partLeastBytes: MIB,
    lookMs: 25,
  })
  await spool.open()
  t.teardown(() => spool.close())
  const read = async (source: SpoolSource): Promise<Buffer> => {
    const stream = spool.read(info, source)
    const parts: Buffer[] = []
    for await (const chunk of stream) {
      parts.push(Buffer.from(chunk))
      stream.recycle(chunk)
    }
    return Buffer.concat(parts)
  }
  return { spool, read }
}

t.test('two give a part each', async t => {
  const { read } = await makeSpool(t)
  const all: FakeSource[] = []
  const [a, b] = [makeSource('a', all), makeSource('b', all)]
  t.ok((await read(a)).equals(nar), 'in order, and right')
  t.ok(b.given > 0, `a gave ${a.given}, b ${b.given} bytes`)
  t.ok((b.asked[0]?.offset ?? 0) > 0, 'from the middle on')
  t.ok(a.given + b.given < nar.length + 4 * 64 * KIB, 'hardly a byte came twice')
  t.same([...a.lies, ...b.lies], [])
})

t.test('who waits by the word of either gets it', async t => {
  const { spool, read } = await makeSpool(t)
  const all: FakeSource[] = []
  const [a, b] = [makeSource('a', all), makeSource('b', all)]
  const [first, , second] = await Promise.all([read(a), spool.whole(info, b), read(b)])
  t.ok(first.equals(nar) && second.equals(nar))
  t.ok(a.given + b.given < nar.length + 4 * 64 * KIB, 'once for all')
})

for (const broken of ['a', 'b']) {
  t.test(`${broken} breaks off, and nobody notices`, async t => {
    const { read } = await makeSpool(t)
    const all: FakeSource[] = []
    const optionsOf = (id: string) => (id === broken ? { breakAfter: 5 * MIB } : {})
    const [a, b] = [makeSource('a', all, optionsOf('a')), makeSource('b', all, optionsOf('b'))]
    // The one that goes on is no help as long as the other had not begun.
    if (broken === 'b') t.ok((await read(a)).equals(nar))
    else {
      const bytes = await read(a).catch((error: Error) => error)
      if (bytes instanceof Error) t.equal(b.given, 0, 'or b had not begun')
      else t.ok(bytes.equals(nar))
    }
    t.ok(a.given + b.given < nar.length + 4 * 64 * KIB, 'what came was kept')
  })
}

t.test('another that makes nothing faster is let go', async t => {
  const { read } = await makeSpool(t)
  const all: FakeSource[] = []
  // One way for all of them: a turn for each 64 KiB, whoever has it.
  let way: Promise<unknown> = Promise.resolve()
  const turn = () => (way = way.then(() => sleep(3)))
  const [a, b] = [makeSource('a', all, { turn }), makeSource('b', all, { turn })]
  t.ok((await read(a)).equals(nar))
  t.ok(a.given > b.given, `a gave ${a.given}, b ${b.given} bytes`)
  t.ok(b.asked.length < 3, 'and not asked again and again')
})

t.test('one of two lies: it is found out which', async t => {
  for (const liar of ['a', 'b']) {
    const { spool, read } = await makeSpool(t)
    const all: FakeSource[] = []
    const forged = Buffer.from(nar)
    // Of the first and the last byte either gives one, whoever has which part.
    for (const at of [0, MIB, forged.length - 1]) forged[at] = (forged[at] ?? 0) ^ 1
    const optionsOf = (id: string) => (id === liar ? { bytes: forged } : {})
    const sources = ['a', 'b'].map(id => makeSource(id, all, optionsOf(id)))
    const [a, b] = sources as [FakeSource, FakeSource]
    const [honest, lying] = liar === 'a' ? [b, a] : [a, b]
    await t.rejects(read(a), { code: 'PEER_LIED' }, 'the last byte is not given')
    while (lying.lies.length === 0) await sleep(5)
    t.same(honest.lies, [], `${liar} is named, and nobody else`)
    await spool.whole(info, honest)
    t.ok((await read(honest)).equals(nar), 'the other gives it by itself')
  }
})

t.test('what came can be given a second name', async t => {
  const dir = tempDir(t, 'spool')
  const spool = createNarSpool({ dir, reserveBytes: 0, named: true })
  await spool.open()
  const source = makeSource('a', [], { turn: async () => undefined })
  t.equal(spool.kept(info), undefined, 'not before it is there')
  await spool.whole(info, source)
  const to = join(tempDir(t, 'cache'), 'kept')
  t.equal(await spool.kept(info)?.link(join(dir, 'no', 'such')), false, 'where it cannot be')
  t.equal(await spool.kept(info)?.link(to), true)
  await spool.close()
  t.ok(readFileSync(to).equals(nar))
  while (readdirSync(dir).length > 0) await sleep(5)
  t.pass('its own name goes')
})

t.test('pieces', async t => {
  const pieces = createPieces(1000, 100)
  const first = pieces.take(true) as Piece
  t.match(first, { start: 0, end: 1000, at: 0 })
  t.equal(pieces.take(false), undefined, 'nothing is divided for whom it may not be')
  first.at = 200
  const second = pieces.take(true) as Piece
  t.match(second, { start: 600, end: 1000 })
  t.equal(first.end, 600, 'the further half of what was left')
  t.equal(pieces.storedUpTo(0), 200)
  second.at = 1000
  pieces.release(second)
  t.equal(pieces.storedUpTo(200), 200, 'not over the gap')
  const third = pieces.take(true) as Piece
  t.match([third, first], [{ start: 400, end: 600 }, { end: 400 }])
  third.at = 450
  pieces.release(third)
  t.equal(pieces.take(true), third, 'what was left by one is given to the next')
  t.equal(pieces.mayDivide(), true)
  first.at = 300
  t.equal(pieces.mayDivide(), false)
  t.equal(pieces.take(true), undefined, 'halves that are too small')
  first.at = 400
  t.equal(pieces.storedUpTo(0), 450)
  third.at = 600
  t.equal(pieces.storedUpTo(0), 1000)
})

t.test('the pace decides', async t => {
  const run = (paces: readonly (readonly [bytes: number, sources: number, mayAdd?: boolean])[]) => {
    const watch = createPaceWatch()
    let total = 0
    return paces.map(([bytes, sources, mayAdd = true]): Advice => {
      const pace: Pace = { bytes: (total += bytes), sources, mayAdd }
      return watch(pace)
    })
  }
  const one = [[10, 1], [10, 1], [10, 1]] as const // prettier-ignore
  t.same(run([...one, [10, 1, false]]), ['stay', 'stay', 'add', 'stay'])
  t.same(
    run([...one, [15, 2], [20, 2], [20, 2], [25, 3], [30, 3], [30, 3]]),
    ['stay', 'stay', 'add', 'stay', 'stay', 'add', 'stay', 'stay', 'add'],
    'another while it helps',
  )
  t.same(
    run([...one, [9, 2], [11, 2], [11, 2], [10, 1], [10, 1], [10, 1]]),
    ['stay', 'stay', 'add', 'stay', 'stay', 'drop', 'stay', 'stay', 'stay'],
    'no further one when it did not',
  )
  t.same(
    run([...one, [10, 1], [10, 1]]),
    ['stay', 'stay', 'add', 'stay', 'add'],
    'one that broke off at once proves nothing',
  )
  t.same(
    run([...one, [15, 2], [20, 2], [20, 1], [20, 1], [20, 1]]),
    ['stay', 'stay', 'add', 'stay', 'stay', 'stay', 'stay', 'add'],
    'nor one that went before it was judged',
  )
  t.same(run([[1, 1, false], [1, 1, false], [1, 1, false]]), ['stay', 'stay', 'stay']) // prettier-ignore
})
