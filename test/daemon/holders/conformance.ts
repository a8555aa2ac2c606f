import { createCipheriv, createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Holder, Holding } from '../../../daemon/holders/holder.ts'
import type { ByteStream } from '../../../daemon/workers/byte-stream.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { hashPartOf, parseHashPart } from '../../../protocol/store-path.ts'
import type { BaseName, HashPart, StorePath } from '../../../protocol/store-path.ts'
import { pathOf } from '../../helpers/nix-store.ts'
import type { PathSpec } from '../../helpers/nix-store.ts'

// What daemon/holders/holder.ts promises, asked of every holder. A fixture puts paths where the holder looks and takes
// them away behind its back.

/** A holder under test and hands on the place it reads. */
export interface HolderFixture {
  readonly holder: Holder
  /** Puts those paths there; under these names they have the paths of {@link pathOf}. */
  put(spec: Readonly<Record<string, PathSpec>>): void
  /** The NAR that the path should have. */
  nar(name: string): Buffer
  remove(name: string): void
  /** Changes one byte of a file's content inside the path, so that nothing but reading it tells. */
  damage(name: string): void
  /** Puts in entries that are no holdings; gives what to ask for, by what is wrong with it. */
  putHostile(): Readonly<Record<string, HashPart>>
  /** Takes the whole place away, and brings it back. */
  takeAway(): void | Promise<void>
  bringBack(): void | Promise<void>
  /** The holder cannot be walked: its `paths()` are those found before. */
  readonly listsFound?: true
}

const ABSENT = parseHashPart('0'.repeat(32))

// Not periodic: in a packed file of repeated text a flipped bit may point at another, equal, repetition.
const big = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16)).update(
  Buffer.alloc(700_000),
)

/** The paths every fixture starts with: each kind of node, deep, odd names, self reference. */
const PATHS: Readonly<Record<string, PathSpec>> = {
  text: { tree: 'hello\n' },
  empty: { tree: '' },
  big: { tree: big },
  dir: {
    tree: {
      dir: {
        bin: { dir: { run: { executable: '#!/bin/sh\n' }, 'a b': 'odd', Ünï: 'utf-8' } },
        empty: { dir: {} },
        file: 'content of a file',
        link: { link: 'file' },
        out: { link: '/etc/passwd' },
        up: { link: '..' },
      },
    },
    references: ['text', 'dir', 'empty'],
    deriver: '00000000000000000000000000000000-dir.drv',
  },
}

async function read(stream: ByteStream): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) {
    parts.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(parts)
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

async function allPaths(holder: Holder): Promise<StorePath[]> {
  const found: StorePath[] = []
  for await (const batch of holder.paths()) found.push(...batch)
  return found.sort()
}

/** Runs the suite; `make` gives a fresh place with a holder not yet open. */
export function testHolder(
  t: Test,
  title: string,
  make: (t: Test) => HolderFixture,
  skip: string | false = false,
): void {
  const withPaths = async (t: Test, names: readonly string[] = Object.keys(PATHS)) => {
    const fixture = make(t)
    fixture.put(Object.fromEntries(names.map(name => [name, PATHS[name] as PathSpec])))
    await fixture.holder.open()
    t.teardown(() => fixture.holder.close())
    const find = async (name: string): Promise<Holding> => {
      const holding = await fixture.holder.find(hashPartOf(pathOf(name)))
      if (holding === undefined) throw new Error(`${name} is not found`)
      return holding
    }
    return { ...fixture, find }
  }

  t.test(`${title}: holdings`, { skip }, async t => {
    const { holder, find, nar, put, remove, listsFound } = await withPaths(t)

    t.test('what is known of a path', async t => {
      for (const [name, spec] of Object.entries(PATHS)) {
        const { info, identity } = await find(name)
        t.equal(info.storePath, pathOf(name), name)
        t.equal(Buffer.from(info.narHash.bytes).toString('hex'), sha256(nar(name)), `${name}: hash`)
        t.equal(info.narSize, nar(name).length, `${name}: size`)
        const references = (spec.references ?? []).map(pathOf)
        t.same(
          info.references,
          references.map(path => path.slice(11)).sort(),
          `${name}: references`,
        )
        t.equal(info.deriver, spec.deriver, `${name}: deriver`)
        t.ok(identity.length > 0 && identity.length < 200, `${name}: identity`)
      }
    })

    t.test('a path that is not there', async t => {
      t.equal(await holder.find(ABSENT), undefined)
      t.equal(holder.problem?.(), undefined)
    })

    t.test('the same bytes have the same identity, and only they', async t => {
      const holding = await find('text')
      t.equal((await find('text')).identity, holding.identity)
      t.not((await find('dir')).identity, holding.identity)
      remove('big')
      put({ big: { tree: 'another content of the same name' } })
      t.equal((await find('big')).info.narSize, nar('big').length)
    })

    t.test('a path is seen as soon as it is there, and no longer than it is', async t => {
      t.equal(await holder.find(hashPartOf(pathOf('late'))), undefined, 'not yet')
      put({ late: { tree: 'late' } })
      const holding = await find('late')
      t.ok(holder.isCurrent(holding), 'at once')
      t.ok(holder.isCurrent({ ...holding }), 'a copy of a holding is one too')
      const other = await find('text')
      remove('late')
      t.notOk(holder.isCurrent(holding), 'gone')
      t.ok(holder.isCurrent(other), 'another path still stands')
      t.equal(await holder.find(hashPartOf(pathOf('late'))), undefined, 'not found any more')
    })

    t.test('all paths, and that they have changed', async t => {
      const names = Object.keys(PATHS)
      if (listsFound) for (const name of names) await find(name)
      const before = holder.generation()
      t.same(await allPaths(holder), names.map(pathOf).sort())
      put({ more: { tree: 'more' } })
      if (listsFound) await find('more')
      t.not(holder.generation(), before, 'another generation')
      t.same(await allPaths(holder), [...names, 'more'].map(pathOf).sort())
    })
  })

  t.test(`${title}: NARs`, { skip }, async t => {
    const { holder, find, nar, put, remove, damage } = await withPaths(t)

    t.test('whole', async t => {
      for (const name of Object.keys(PATHS)) {
        const bytes = await read(holder.openNar(await find(name)))
        t.ok(bytes.equals(nar(name)), name)
      }
    })

    t.test('in part', async t => {
      for (const name of ['dir', 'big']) {
        const holding = await find(name)
        const whole = nar(name)
        const n = whole.length
        const ranges: readonly (readonly [number | undefined, number | undefined])[] = [
          [0, 1],
          [1, 2],
          [undefined, 8],
          [7, undefined],
          [n - 1, n],
          [n, undefined],
          [n + 100, undefined],
          [96, n + 100],
          [Math.floor(n / 2), Math.floor(n / 2) + 10],
          [5, 5],
        ]
        for (const [offset, end] of ranges) {
          const bytes = await read(holder.openNar(holding, { offset, end }))
          t.ok(bytes.equals(whole.subarray(offset ?? 0, end)), `${name} ${offset}..${end}`)
        }
      }
    })

    t.test('a reader that leaves early', async t => {
      const holding = await find('big')
      for await (const chunk of holder.openNar(holding)) {
        t.ok(nar('big').subarray(0, chunk.length).equals(chunk))
        break
      }
      const stream = holder.openNar(holding)
      stream.destroy()
      stream.destroy()
      t.ok((await read(holder.openNar(holding))).equals(nar('big')), 'the next one is whole')
    })

    t.test('the file as it lies there', async t => {
      const holding = await find('dir')
      if (holder.openFile === undefined) {
        t.equal(holding.fileSize, undefined)
        return
      }
      const whole = await read(holder.openFile(holding))
      t.equal(whole.length, holding.fileSize)
      const part = await read(holder.openFile(holding, { offset: 3, end: 20 }))
      t.ok(part.equals(whole.subarray(3, 20)))
    })

    t.test('verified', async t => {
      for (const name of Object.keys(PATHS)) {
        t.equal((await holder.verify(await find(name))).problem, undefined, name)
      }
      await t.rejects(holder.verify(await find('big'), AbortSignal.abort()), { name: 'AbortError' })
    })

    t.test('kept, where it came from afar', async t => {
      const holding = await find('big')
      if (holder.kept === undefined) return
      t.equal((await holder.verify(holding)).problem, undefined)
      const kept = holder.kept(await find('big'))
      t.ok(kept, 'what was verified is here')
      const to = join(t.testdir(), 'second-name')
      if ((await kept?.link(to)) !== true) return
      const file = readFileSync(to)
      t.equal(file.length, kept?.fileSize)
      t.equal(sha256(file), Buffer.from(kept?.fileHash?.bytes ?? []).toString('hex'))
      t.equal(await kept?.link(to), false, 'a name that is taken is no second name')
    })

    t.test('damaged', async t => {
      damage('big')
      const { problem } = await holder.verify(await find('big'))
      t.ok(problem, 'a flipped byte is found')
      t.notOk(isNarwharfError(problem, 'HOLDING_GONE'), `as damage: ${problem?.message}`)
    })

    t.test('gone between finding and reading', async t => {
      put({ soon: { tree: 'soon gone' } })
      const holding = await find('soon')
      remove('soon')
      await t.rejects(read(holder.openNar(holding)), { code: 'HOLDING_GONE' })
      if (holder.openFile) {
        await t.rejects(read(holder.openFile(holding)), { code: 'HOLDING_GONE' })
      }
      t.match((await holder.verify(holding)).problem, { code: 'HOLDING_GONE' })
      t.equal(await holder.listing(holding), undefined)
      t.equal(await holder.readFile(holding, '', 100), undefined)
    })
  })

  t.test(`${title}: what is inside`, { skip }, async t => {
    const { holder, find, nar } = await withPaths(t)

    t.test('a listing whose offsets are right', async t => {
      const bytes = await holder.listing(await find('dir'))
      const listing = JSON.parse(String(bytes)) as { version: number; root: Listed }
      t.equal(listing.version, 1)
      const file = listing.root.entries?.['file']
      const offset = file?.narOffset ?? 0
      t.equal(
        nar('dir')
          .subarray(offset, offset + (file?.size ?? 0))
          .toString(),
        'content of a file',
      )
      t.equal(listing.root.entries?.['bin']?.entries?.['run']?.executable, true)
      t.equal(listing.root.entries?.['link']?.target, 'file')
      t.same(listing.root.entries?.['empty']?.entries, {})
      const text = JSON.parse(String(await holder.listing(await find('text')))) as { root: Listed }
      t.match(text.root, { type: 'regular', size: 6 })
    })

    t.test('files', async t => {
      const text = await find('text')
      const dir = await find('dir')
      const cases: readonly (readonly [Holding, string, number, string | undefined])[] = [
        [text, '', 6, 'hello\n'],
        [text, '', 5, undefined],
        [text, 'hello', 100, undefined],
        [await find('empty'), '', 0, ''],
        [dir, 'file', 100, 'content of a file'],
        [dir, 'bin/run', 100, '#!/bin/sh\n'],
        [dir, 'bin', 100, undefined],
        [dir, '', 100, undefined],
        [dir, 'link', 100, undefined],
        [dir, 'out', 100_000, undefined],
        [dir, 'up/dir', 100, undefined],
        [dir, '../text', 100, undefined],
        [dir, 'bin/../file', 100, undefined],
        [dir, './file', 100, undefined],
        [dir, 'bin//run', 100, undefined],
        [dir, '/etc/passwd', 100_000, undefined],
        [dir, 'file\0', 100, undefined],
        [dir, 'absent', 100, undefined],
        [dir, '__proto__', 100, undefined],
      ]
      for (const [holding, inside, limit, expected] of cases) {
        const found = await holder.readFile(holding, inside, limit)
        t.equal(found?.toString(), expected, `${JSON.stringify(inside)} of at most ${limit} bytes`)
      }
    })

    t.test('nothing else', async t => {
      t.equal(await holder.log('00000000000000000000000000000000-x.drv' as BaseName), undefined)
      t.equal(await holder.realisation(`sha256:${'0'.repeat(64)}!out`), undefined)
      t.equal(await holder.realisation('../../etc/passwd'), undefined)
      const derivation = '00000000000000000000000000000000-x.drv' as BaseName
      t.equal(await holder.buildTrace(derivation, 'out'), undefined)
      t.equal(await holder.buildTrace(derivation, '../../x'), undefined)
      t.equal(await holder.debugInfo('0'.repeat(40)), undefined)
      t.equal(await holder.debugInfo('../../../etc/passwd'), undefined)
    })
  })

  t.test(`${title}: hostile entries`, { skip }, async t => {
    const { holder, find, putHostile, listsFound } = await withPaths(t, ['text', 'empty'])
    if (listsFound) await find('text')
    for (const [what, hashPart] of Object.entries(putHostile())) {
      t.equal(await holder.find(hashPart), undefined, what)
    }
    t.same(await allPaths(holder).then(found => found.filter(path => path === pathOf('text'))), [
      pathOf('text'),
    ])
    t.ok(await find('text'), 'the others are still there')
    t.equal(holder.problem?.(), undefined, 'the holder is up')
  })

  t.test(`${title}: what comes and goes`, { skip }, async t => {
    const { holder, put, remove, putHostile, takeAway, bringBack } = await withPaths(t)
    const follower = holder.follow?.()
    if (follower === undefined) return
    const names = Object.keys(PATHS)
    const walked = async (): Promise<StorePath[]> => {
      const found: StorePath[] = []
      for await (const batch of follower.all()) {
        for (const { storePath, narSize } of batch) {
          t.type(narSize, 'number')
          found.push(storePath)
        }
      }
      return found.sort()
    }
    /** Every change until what is expected has been told; what is told besides it counts too. */
    const changes = async (came: readonly string[], went: readonly string[]): Promise<void> => {
      const added: string[] = []
      const removed: string[] = []
      for (
        let n = 0;
        n < 200 && (added.length < came.length || removed.length < went.length);
        n++
      ) {
        const steps = follower.changes()
        if (steps === 'lost') throw new Error('nothing is known to go on from')
        for await (const step of steps ?? []) {
          added.push(...step.added.map(({ storePath }) => storePath))
          removed.push(...step.removed)
        }
        await new Promise(resolve => setTimeout(resolve, 10))
      }
      t.same(added.sort(), came.map(pathOf).sort(), `came: ${came.join(', ')}`)
      t.same(
        removed.sort(),
        went.map(name => hashPartOf(pathOf(name))).sort(),
        `went: ${went.join(', ')}`,
      )
    }
    t.equal(follower.changes(), 'lost', 'nothing was walked yet')
    t.same(await walked(), names.map(pathOf).sort())
    await changes([], [])
    put({ one: { tree: '1' }, two: { tree: '2', references: ['one'] } })
    await changes(['one', 'two'], [])
    remove('two')
    await changes([], ['two'])
    put({ three: { tree: '3' } })
    remove('one')
    await changes(['three'], ['one'])
    put({ one: { tree: 'again' } })
    await changes(['one'], [])
    putHostile()
    put({ last: { tree: 'last' } })
    const seen: string[] = []
    for (let n = 0; n < 200 && !seen.includes(pathOf('last')); n++) {
      const steps = follower.changes()
      if (steps === 'lost') throw new Error('nothing is known to go on from')
      for await (const step of steps ?? [])
        seen.push(...step.added.map(({ storePath }) => storePath))
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    t.ok(seen.includes(pathOf('last')), 'hostile entries keep nothing else back')
    takeAway()
    t.equal(follower.changes(), undefined, 'out of reach: nothing is known to have gone')
    await t.rejects(walked(), { code: 'HOLDER_UNREADABLE' })
    t.equal(follower.changes(), 'lost')
    bringBack()
    t.ok((await walked()).includes(pathOf('last')))
  })

  t.test(`${title}: out of reach`, { skip }, async t => {
    const { holder, find, takeAway, bringBack } = await withPaths(t, ['text', 'empty'])
    const holding = await find('text')
    const before = holder.generation()
    await takeAway()
    await t.rejects(async () => holder.find(ABSENT), { code: 'HOLDER_UNREADABLE' })
    const text = hashPartOf(pathOf('text'))
    await t.rejects(async () => holder.find(text), { code: 'HOLDER_UNREADABLE' })
    t.notOk(holder.isCurrent(holding))
    t.not(holder.generation(), before)
    t.type(holder.problem?.(), 'string')
    await t.rejects(allPaths(holder), { code: 'HOLDER_UNREADABLE' })
    await t.rejects(read(holder.openNar(holding)), { code: 'HOLDING_GONE' })
    t.equal(await holder.listing(holding), undefined)
    await bringBack()
    t.ok(await find('text'), 'comes up by itself')
    t.equal(holder.problem?.(), undefined)
  })

  t.test(`${title}: opened before there is anything`, { skip }, async t => {
    const { holder, put, takeAway, bringBack } = make(t)
    put({ text: { tree: 'hello\n' } })
    await takeAway()
    await holder.open()
    await t.rejects(async () => holder.find(ABSENT), { code: 'HOLDER_UNREADABLE' })
    await bringBack()
    t.ok(await holder.find(hashPartOf(pathOf('text'))))
    await holder.open()
    await holder.close()
    await holder.close()
  })
}

interface Listed {
  readonly type: string
  readonly size?: number
  readonly narOffset?: number
  readonly executable?: boolean
  readonly target?: string
  readonly entries?: Readonly<Record<string, Listed>>
}
