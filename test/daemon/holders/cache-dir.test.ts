import { spawnSync } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import {
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync } from 'node:zlib'
import t from 'tap'
import type { Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import type { Events } from '../../../daemon/events.ts'
import { createCacheDirHolder } from '../../../daemon/holders/cache-dir.ts'
import type { CacheDirOptions } from '../../../daemon/holders/cache-dir.ts'
import type { Holder, Holding } from '../../../daemon/holders/holder.ts'
import { hashPartOf, parseBaseName } from '../../../protocol/store-path.ts'
import type { HashPart } from '../../../protocol/store-path.ts'
import {
  copyToCache,
  makeChrootStore,
  makeTempDir,
  noNix,
  pathOf,
} from '../../helpers/nix-store.ts'
import type { CacheCompression, PathSpec } from '../../helpers/nix-store.ts'
import { edit, flip, narFileOf, narinfoOf, putHostile } from '../../helpers/cache-places.ts'
import { createNarPool, noUnpackers } from './child-pool.ts'
import { testHolder } from './conformance.ts'
import type { HolderFixture } from './conformance.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

const skip = noNix || noUnpackers

/** A fixture whose NARs are packed that way. */
const fixture =
  (compression: CacheCompression) =>
  (t: Test): HolderFixture => {
    const store = makeChrootStore(t)
    const dir = join(makeTempDir(t, 'cache'), 'cache')
    return {
      holder: createCacheDirHolder({ dir, pool, expectedStoreDir: '/nix/store' }),
      put(spec) {
        store.add(spec)
        copyToCache(store, dir, Object.keys(spec), { compression })
      },
      nar: store.nar,
      remove(name) {
        rmSync(narFileOf(dir, name))
        rmSync(narinfoOf(dir, name))
        store.delete(name)
      },
      damage: name => flip(narFileOf(dir, name)),
      putHostile: () => putHostile(dir),
      takeAway: () => renameSync(dir, `${dir}-away`),
      bringBack: () => renameSync(`${dir}-away`, dir),
    }
  }

testHolder(t, 'cache-dir, plain', fixture('none'), skip)
testHolder(t, 'cache-dir, xz', fixture('xz'), skip)

interface Made {
  readonly dir: string
  readonly holder: Holder
  readonly told: readonly string[]
  find(name: string): Holding | undefined
  nar(name: string): Buffer
}

// Not periodic: in a packed file of repeated text a flipped bit may point at another, equal, repetition.
const big = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16)).update(
  Buffer.alloc(3_000_000),
)

/** A cache of a few paths, its holder, and what the holder told. */
async function make(
  t: Test,
  spec: Readonly<Record<string, PathSpec>> = { text: { tree: 'hello\n' } },
  settings: Readonly<Record<string, string>> = {},
  options: Partial<CacheDirOptions> = {},
): Promise<Made> {
  const store = makeChrootStore(t, spec)
  const dir = join(makeTempDir(t, 'cache'), 'cache')
  copyToCache(store, dir, Object.keys(spec), { compression: 'none', ...settings })
  const events = createEventBus()
  const told: string[] = []
  const hear = (event: keyof Events) =>
    events.on(event, (...facts: unknown[]) => told.push(`${event} ${JSON.stringify(facts)}`))
  for (const event of ['holder:up', 'holder:down', 'holding:bad'] as const) hear(event)
  const holder = createCacheDirHolder({ dir, pool, events, ...options })
  await holder.open()
  t.teardown(() => holder.close())
  const find = (name: string) => holder.find(hashPartOf(pathOf(name))) as Holding | undefined
  return { dir, holder, told, find, nar: store.nar }
}

async function read(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}

const found = (holding: Holding | undefined): Holding => {
  if (holding === undefined) throw new Error('not found')
  return holding
}

t.test('every compression', { skip }, async t => {
  const spec = { dir: { tree: { dir: { big, small: 'small' } } } }
  for (const compression of ['none', 'xz', 'zstd', 'bzip2', 'gzip', 'br'] as const) {
    const { dir, holder, find, nar } = await make(t, spec, { compression })
    const holding = found(find('dir'))
    t.equal(holding.compression, compression)
    t.equal((await holder.verify(holding)).problem, undefined, `${compression}: verified`)
    t.ok((await read(holder.openNar(holding))).equals(nar('dir')), `${compression}: whole`)
    const part = await read(holder.openNar(holding, { offset: 2_000_000, end: 2_500_000 }))
    t.ok(part.equals(nar('dir').subarray(2_000_000, 2_500_000)), `${compression}: in part`)
    const file = holder.openFile && (await read(holder.openFile(holding)))
    t.ok(file?.equals(readFileSync(narFileOf(dir, 'dir'))), `${compression}: the file`)
    const fileHash = createHash('sha256')
      .update(file ?? '')
      .digest()
    t.ok(fileHash.equals(holding.fileHash?.bytes ?? Buffer.alloc(0)), `${compression}: its hash`)
    flip(narFileOf(dir, 'dir'))
    t.ok((await holder.verify(found(find('dir')))).problem, `${compression}: damage found`)
  }
})

t.test('what happens behind its back', { skip }, async t => {
  const { dir, holder, told, find } = await make(t, {
    text: { tree: 'hello\n' },
    big: { tree: big },
  })
  const bad = () => told.filter(line => line.startsWith('holding:bad')).length

  t.test('narinfo rewritten', async t => {
    const before = found(find('text'))
    const signature = `key-1:${Buffer.alloc(64, 7).toString('base64')}`
    edit(dir, 'text', 'References', `\nSig: ${signature}`)
    t.notOk(holder.isCurrent(before))
    t.same(find('text')?.info.signatures, [signature])
  })

  t.test('narinfo damaged and mended', async t => {
    const file = narinfoOf(dir, 'text')
    const text = readFileSync(file)
    writeFileSync(file, text.subarray(0, 100))
    t.equal(find('text'), undefined)
    const said = bad()
    t.ok(said > 0, 'told')
    t.equal(find('text'), undefined)
    t.equal(bad(), said, 'told once')
    writeFileSync(file, text)
    t.ok(find('text'))
  })

  t.test('NAR changed in place', async t => {
    const before = found(find('big'))
    flip(narFileOf(dir, 'big'))
    t.notOk(holder.isCurrent(before))
    await t.rejects(read(holder.openNar(before)), { code: 'HOLDING_GONE' })
    const now = found(find('big'))
    t.not(now.identity, before.identity)
    t.match((await holder.verify(now)).problem, { code: 'NAR_MISMATCH', data: { field: 'hash' } })
    flip(narFileOf(dir, 'big'))
    t.equal((await holder.verify(found(find('big')))).problem, undefined, 'and back')
  })

  t.test('NAR replaced while it is read', async t => {
    const file = narFileOf(dir, 'big')
    writeFileSync(`${file}.new`, readFileSync(file))
    const holding = found(find('big'))
    let read = 0
    await t.rejects(
      async () => {
        for await (const chunk of holder.openNar(holding)) {
          if (read === 0) renameSync(`${file}.new`, file)
          read += chunk.length
        }
      },
      { code: 'HOLDING_GONE' },
    )
    t.ok(read < holding.info.narSize, 'the last chunk never comes')
  })

  t.test('NAR cut and grown', async t => {
    const file = narFileOf(dir, 'big')
    const whole = readFileSync(file)
    truncateSync(file, whole.length - 8)
    const short = found(find('big'))
    await t.rejects(read(holder.openNar(short)), { code: 'NAR_MISMATCH' })
    t.ok((await holder.verify(short)).problem)
    writeFileSync(file, Buffer.concat([whole, Buffer.alloc(8)]))
    const long = found(find('big'))
    await t.rejects(read(holder.openNar(long)), { code: 'NAR_MISMATCH' })
    t.ok((await holder.verify(long)).problem)
    writeFileSync(file, whole)
  })

  t.test('NAR taken away', async t => {
    const holding = found(find('big'))
    rmSync(narFileOf(dir, 'big'))
    t.notOk(holder.isCurrent(holding))
    t.equal(find('big'), undefined)
  })

  t.test('a link that stays inside is followed', async t => {
    const file = narFileOf(dir, 'text')
    renameSync(file, `${file}.real`)
    symlinkSync(`${file}.real`, file)
    const holding = found(find('text'))
    t.ok((await read(holder.openNar(holding))).length > 0)
    rmSync(file)
    symlinkSync('/etc/passwd', file)
    t.notOk(holder.isCurrent(holding))
    t.equal(find('text'), undefined, 'until it leads out')
    await t.rejects(read(holder.openNar(holding)), { code: 'HOLDING_GONE' })
  })
})

t.test('hashes that the narinfo claims', { skip }, async t => {
  const { dir, holder, find } = await make(t, undefined, { compression: 'xz' })
  const other = `sha256:${'0'.repeat(52)}`
  edit(dir, 'text', 'FileHash', other)
  t.equal((await holder.verify(found(find('text')))).problem, undefined, 'the NAR is right')
  // A state younger than the clock's tick is read anew at each question, and so is its file hash.
  await t.resolves(settled(narinfoOf(dir, 'text')))
  await holder.verify(found(find('text')))
  t.equal(find('text')?.fileHash, undefined, 'a wrong file hash is not told further')
  edit(dir, 'text', 'FileSize', '5')
  t.match(find('text'), {
    fileHash: undefined,
    fileSize: readFileSync(narFileOf(dir, 'text')).length,
  })
  edit(dir, 'text', 'NarHash', other)
  t.match((await holder.verify(found(find('text')))).problem, { data: { field: 'hash' } })
  edit(dir, 'text', 'NarSize', '8')
  t.match((await holder.verify(found(find('text')))).problem, { data: { field: 'size' } })
})

/** Until a file is old enough for its state to be remembered. */
async function settled(file: string): Promise<void> {
  const { stampOf } = await import('../../../daemon/holders/file-stamp.ts')
  while (stampOf(file)?.fresh) await new Promise(resolve => setImmediate(resolve))
}

t.test('what it asks twice, it reads once', { skip }, async t => {
  const { dir, find } = await make(t)
  await settled(narFileOf(dir, 'text'))
  await settled(narinfoOf(dir, 'text'))
  t.equal(find('text'), find('text'), 'the very same holding')
})

t.test('nix-cache-info', { skip }, async t => {
  const { dir, holder, told, find } = await make(
    t,
    undefined,
    {},
    { expectedStoreDir: '/nix/store' },
  )
  const file = join(dir, 'nix-cache-info')
  const down = { code: 'HOLDER_UNREADABLE' }
  t.ok(find('text'))
  rmSync(file)
  t.ok(find('text'), 'missing: the default store directory')
  for (const [what, text] of [
    ['empty', ''],
    ['no store directory', 'Priority: 3\n'],
    ['a relative one', 'StoreDir: nix/store\n'],
    ['another one', 'StoreDir: /gnu/store\n'],
    ['too large', `StoreDir: /nix/store\n${'X: y\n'.repeat(10_000)}`],
  ] as const) {
    writeFileSync(file, text)
    t.throws(() => find('text'), down, what)
    t.type(holder.problem?.(), 'string', what)
  }
  rmSync(file)
  mkdirSync(file)
  t.throws(() => find('text'), down, 'a folder')
  rmSync(file, { recursive: true })
  writeFileSync(file, 'StoreDir: /nix/store\n')
  t.ok(find('text'), 'mended')
  t.equal(told.filter(line => line.startsWith('holder:up')).length, 2)

  const any = createCacheDirHolder({ dir, pool })
  writeFileSync(file, 'StoreDir: /gnu/store\n')
  await any.open()
  t.equal(any.storeDir, '/gnu/store', 'its own, where none is expected')
  t.equal(any.find(hashPartOf(pathOf('text'))), undefined, 'a narinfo of another one is none')
  await any.close()
})

t.test('a drive that is pulled out', { skip }, async t => {
  const { dir, find } = await make(t)
  const copy = `${dir}-copy`
  renameSync(dir, copy)
  mkdirSync(dir)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', 'tmpfs', dir])
  if (mounted.status !== 0) {
    t.pass('pulled out', { skip: 'no right to mount here' })
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', dir]))
  spawnSync('cp', ['-a', `${copy}/.`, dir])
  t.ok(find('text'))
  spawnSync('umount', [dir])
  t.throws(() => find('text'), { code: 'HOLDER_UNREADABLE', message: /not mounted/ })
})

t.test('small files', { skip }, async t => {
  const buildId = 'ab'.repeat(20)
  const member = `lib/debug/.build-id/ab/${'ab'.repeat(19)}.debug`
  const symbols = { dir: { [`${'ab'.repeat(19)}.debug`]: 'symbols' } }
  const spec = {
    text: { tree: 'hello\n' },
    'x-debug': {
      tree: {
        dir: { lib: { dir: { debug: { dir: { '.build-id': { dir: { ab: symbols } } } } } } },
      },
    },
  }
  const { dir, holder, find } = await make(t, spec, {
    'write-nar-listing': 'true',
    'index-debug-info': 'true',
  })

  await t.test('listing', async t => {
    const file = join(dir, `${hashPartOf(pathOf('text'))}.ls`)
    const text = found(find('text'))
    const stored = readFileSync(file, 'utf8')
    const root = { type: 'regular', size: 6 }
    t.equal(String(await holder.listing(text)), stored, 'the stored one')
    const packed = spawnSync('xz', ['-c'], { input: stored }).stdout
    for (const [what, bytes] of [
      ['brotli', brotliCompressSync(stored)],
      ['xz', packed],
    ] as const) {
      writeFileSync(file, bytes)
      t.equal(String(await holder.listing(text)), stored, `packed with ${what}`)
    }
    const deep = `${'{"type":"directory","entries":{"a":'.repeat(100)}1${'}}'.repeat(100)}`
    for (const hostile of [
      '',
      'null',
      '[]',
      '{"version":2,"root":{"type":"regular","size":6,"narOffset":96}}',
      '{"version":1,"root":{"type":"regular","size":6}}',
      '{"version":1,"root":{"type":"regular","size":6,"narOffset":-1}}',
      '{"version":1,"root":{"type":"regular","size":1e300,"narOffset":96}}',
      '{"version":1,"root":{"type":"regular","size":600,"narOffset":96}}',
      '{"version":1,"root":{"type":"socket"}}',
      '{"version":1,"root":{"type":"symlink"}}',
      '{"version":1,"root":{"type":"directory","entries":[]}}',
      '{"version":1,"root":{"type":"directory","entries":{"..":{"type":"symlink","target":""}}}}',
      '{"version":1,"root":{"type":"directory","entries":{"a/b":{"type":"symlink","target":""}}}}',
      `{"version":1,"root":${deep}}`,
    ]) {
      writeFileSync(file, hostile)
      t.match(
        JSON.parse(String(await holder.listing(text))),
        { version: 1, root },
        hostile.slice(0, 80),
      )
    }
  })

  await t.test('log', async t => {
    const derivation = parseBaseName('0123456789abcdfghijklmnpqrsvwxyz-thing.drv')
    const file = join(dir, 'log', derivation)
    mkdirSync(join(dir, 'log'), { recursive: true })
    const log = 'building\nünï\n'
    for (const [what, bytes] of [
      ['plain', Buffer.from(log)],
      ['xz', spawnSync('xz', ['-c'], { input: log }).stdout],
      ['bzip2', spawnSync('bzip2', ['-c'], { input: log }).stdout],
      ['gzip', spawnSync('gzip', ['-c'], { input: log }).stdout],
      ['zstd', spawnSync('zstd', ['-c'], { input: log }).stdout],
      ['brotli', brotliCompressSync(log)],
    ] as const) {
      writeFileSync(file, bytes)
      t.equal(String(await holder.log(derivation)), log, what)
    }
    const odd = Buffer.from('x\xff\xfe', 'latin1')
    writeFileSync(file, odd)
    t.same(await holder.log(derivation), odd, 'not UTF-8 and not brotli')
    rmSync(file)
    symlinkSync('/etc/passwd', file)
    t.equal(await holder.log(derivation), undefined, 'a link out of the cache')
    rmSync(file)
    spawnSync('mkfifo', [file])
    t.equal(await holder.log(derivation), undefined, 'a FIFO')
    rmSync(file)
    writeFileSync(file, '')
    truncateSync(file, 2 ** 31)
    t.equal(await holder.log(derivation), undefined, 'too large')
    truncateSync(file, 0)
    writeFileSync(file, brotliCompressSync(Buffer.alloc(100 * 1024 * 1024)))
    t.ok(
      ((await holder.log(derivation)) ?? Buffer.alloc(0)).length < 1024,
      'a bomb is not unpacked',
    )
  })

  await t.test('realisations and build traces', async t => {
    const id = `sha256:${'1'.repeat(64)}!out`
    const outPath = pathOf('text').slice(11)
    const realisation = { dependentRealisations: {}, id, outPath, signatures: [] }
    mkdirSync(join(dir, 'realisations'), { recursive: true })
    const file = join(dir, 'realisations', `${id}.doi`)
    writeFileSync(file, JSON.stringify(realisation))
    t.same(JSON.parse(String(await holder.realisation(id))), realisation)
    for (const hostile of [
      '{',
      'null',
      JSON.stringify({ ...realisation, id: `sha256:${'2'.repeat(64)}!out` }),
      JSON.stringify({ ...realisation, outPath: '../../etc/passwd' }),
    ]) {
      writeFileSync(file, hostile)
      t.equal(await holder.realisation(id), undefined, hostile)
    }
    const derivation = parseBaseName('0123456789abcdfghijklmnpqrsvwxyz-thing.drv')
    mkdirSync(join(dir, 'build-trace-v2', derivation), { recursive: true })
    const trace = join(dir, 'build-trace-v2', derivation, 'out.doi')
    writeFileSync(trace, JSON.stringify({ outPath, signatures: [] }))
    t.same(JSON.parse(String(await holder.buildTrace(derivation, 'out'))), {
      outPath,
      signatures: [],
    })
    writeFileSync(trace, '{"outPath":3}')
    t.equal(await holder.buildTrace(derivation, 'out'), undefined)
  })

  await t.test('debug info', async t => {
    t.same(readdirSync(join(dir, 'debuginfo')), [`${buildId}.debug`], 'as Nix writes it')
    t.same(await holder.debugInfo(buildId), { storePath: pathOf('x-debug'), member })
    const file = join(dir, 'debuginfo', `${buildId}.debug`)
    for (const hostile of [
      '',
      '[]',
      '{"archive":"../nar/absent.nar","member":"x"}',
      '{"archive":"../../../etc/passwd","member":"x"}',
      JSON.stringify({
        archive: `../${narFileOf(dir, 'x-debug').slice(dir.length + 1)}`,
        member: '../x',
      }),
    ]) {
      writeFileSync(file, hostile)
      t.equal(await holder.debugInfo(buildId), undefined, hostile)
    }
  })
})

const SHARED = join('..', 'shared', 'data', 'bad', 'narinfo')
const noShared = (() => {
  try {
    readdirSync(SHARED)
    return false
  } catch {
    return 'the shared data is not here'
  }
})()

t.test('hostile narinfos', { skip: noShared }, async t => {
  const dir = join(makeTempDir(t, 'cache'), 'cache')
  const storePath = '/nix/store/dhksn3bxlnbhp31cd0r5d9p666b4pawr-lib-1.0'
  mkdirSync(join(dir, 'nar'), { recursive: true })
  const holder = createCacheDirHolder({ dir, pool })
  await holder.open()
  for (const name of readdirSync(SHARED).filter(name => name.endsWith('.narinfo'))) {
    writeFileSync(join(dir, `${storePath.slice(11, 43)}.narinfo`), readFileSync(join(SHARED, name)))
    t.doesNotThrow(() => holder.find(storePath.slice(11, 43) as HashPart), name)
  }
  await holder.close()
})
