import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
  closeSync,
  statSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import type { Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import { createNixStoreHolder } from '../../../daemon/holders/nix-store.ts'
import { hashPartOf, parseBaseName, parseHashPart } from '../../../protocol/store-path.ts'
import type { HashPart } from '../../../protocol/store-path.ts'
import { makeChrootStore, noNix, pathOf } from '../../helpers/nix-store.ts'
import type { ChrootStore } from '../../helpers/nix-store.ts'
import { createNarPool, noUnpackers } from './child-pool.ts'
import { testHolder } from './conformance.ts'
import type { HolderFixture } from './conformance.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

const holderOf = (store: ChrootStore) =>
  createNixStoreHolder({ root: store.root, storeDir: store.storeDir, db: store.db, pool })

/** Changes a byte in the middle of a file, whatever its rights. */
function flip(file: string): void {
  chmodSync(file, 0o644)
  const bytes = readFileSync(file)
  const at = Math.floor(bytes.length / 2)
  const fd = openSync(file, 'r+')
  writeSync(fd, Buffer.from([(bytes[at] ?? 0) ^ 1]), 0, 1, at)
  closeSync(fd)
}

const HOSTILE_ROWS: Readonly<
  Record<string, readonly [column: string, value: string | number | null]>
> = {
  'a hash of another algorithm': ['hash', `sha1:${'0'.repeat(40)}`],
  'a hash that is none': ['hash', 'sha256:xyz'],
  'no size': ['narSize', null],
  'size 0': ['narSize', 0],
  'a negative size': ['narSize', -5],
  'a size beyond all bounds': ['narSize', 2 ** 60],
  'a size that is text': ['narSize', 'many'],
}

function fixture(t: Test): HolderFixture {
  const store = makeChrootStore(t)
  const away = `${dirname(store.db)}-away`
  return {
    holder: holderOf(store),
    put: store.add,
    nar: store.nar,
    remove: store.delete,
    damage: name => flip(store.physical(pathOf(name))),
    putHostile() {
      const parts: Record<string, HashPart> = {}
      let count = 0
      const add = (what: string): string => {
        const name = `hostile-${++count}`
        store.add({ [name]: { tree: what } })
        parts[what] = hashPartOf(pathOf(name))
        return name
      }
      for (const [what, [column, value]] of Object.entries(HOSTILE_ROWS)) {
        const path = pathOf(add(what))
        store.sql(`update ValidPaths set ${column} = ? where path = ?`, value, path)
      }
      rmSync(store.physical(pathOf(add('a row without files'))), { recursive: true })
      const rename = (what: string, path: (old: string) => string) => {
        const old = pathOf(add(what))
        store.sql('update ValidPaths set path = ? where path = ?', path(old), old)
      }
      rename('a path inside a path', old => `${old}/inside`)
      rename('a name with an odd character', old => `${old} x`)
      rename('a name that climbs', old => `${old}/../../etc`)
      const referrer = add('a reference that is no store path')
      store.add({ target: { tree: 'x' } })
      store.sql('update ValidPaths set path = ? where path = ?', '/etc/passwd', pathOf('target'))
      store.sql(
        `insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ? and b.path = ?`,
        pathOf(referrer),
        '/etc/passwd',
      )
      return parts
    },
    takeAway: () => renameSync(dirname(store.db), away),
    bringBack: () => renameSync(away, dirname(store.db)),
  }
}

testHolder(t, 'nix-store', fixture, noNix)

t.test('fields of a row', { skip: noNix }, async t => {
  const store = makeChrootStore(t, {
    a: { tree: 'a' },
    b: { tree: 'b', deriver: '00000000000000000000000000000000-b.drv' },
  })
  const added = store.addContent('source', { dir: { x: 'y' } })
  const holder = holderOf(store)
  await holder.open()
  t.teardown(() => holder.close())
  const find = (name: string) => holder.find(hashPartOf(pathOf(name))) as { builtHere: boolean }

  t.match(await holder.find(hashPartOf(added)), { info: { ca: /^fixed:r:sha256:/ } })
  t.match(find('a'), {
    builtHere: false,
    compression: 'none',
    info: { ca: undefined, signatures: [] },
  })
  const holding = await holder.find(hashPartOf(pathOf('a')))
  store.sql('update ValidPaths set ultimate = 1 where path = ?', pathOf('a'))
  t.equal(find('a').builtHere, true)
  t.notOk(holding && holder.isCurrent(holding), 'what trust rests on has changed')

  const signature = `key-1:${Buffer.alloc(64, 7).toString('base64')}`
  store.sql(
    'update ValidPaths set sigs = ? where path = ?',
    `${signature} key-2:bad x`,
    pathOf('b'),
  )
  store.sql('update ValidPaths set deriver = ? where path = ?', '/etc/passwd', pathOf('a'))
  t.match(find('b'), { info: { signatures: [signature] } }, 'malformed signatures are left out')
  t.match(find('a'), { info: { deriver: undefined } }, 'a malformed deriver is left out')
})

t.test('beside a busy Nix', { skip: noNix }, async t => {
  const store = makeChrootStore(t, { kept: { tree: { dir: { a: 'kept' } } } })
  const events = createEventBus()
  const holder = createNixStoreHolder({ ...store, pool, events })
  const changes: string[] = []
  events.on('holder:changed', id => changes.push(id))
  await holder.open()
  t.teardown(() => holder.close())
  const kept = await holder.find(hashPartOf(pathOf('kept')))

  // A walk and a NAR stay open over everything Nix does meanwhile.
  const walk = holder.paths()[Symbol.asyncIterator]()
  await walk.next()
  for (let round = 0; round < 3; round++) {
    const name = `round-${round}`
    t.equal(await holder.find(hashPartOf(pathOf(name))), undefined)
    store.add({ [name]: { tree: name } })
    t.ok(await holder.find(hashPartOf(pathOf(name))), `${name}: added while we read`)
    t.ok(kept && holder.isCurrent(kept))
    store.delete(name)
    t.equal(await holder.find(hashPartOf(pathOf(name))), undefined, `${name}: deleted`)
    t.ok(kept && holder.isCurrent(kept))
  }
  t.ok(changes.length >= 6, 'each change was told')
  store.nix('nix-store', ['--gc'])
  t.notOk(kept && holder.isCurrent(kept), 'collected')
  t.notOk(existsSync(store.physical(pathOf('kept'))), 'the collector was not held up')
  await walk.return?.()

  t.test('another database in its place', async t => {
    store.add({ kept: { tree: 'again' } })
    const found = await holder.find(hashPartOf(pathOf('kept')))
    const copy = `${store.db}-copy`
    new Database(store.db).exec(`vacuum into '${copy}'`).close()
    new Database(copy).exec('delete from ValidPaths').close()
    renameSync(copy, store.db)
    for (const ending of ['-wal', '-shm']) rmSync(store.db + ending, { force: true })
    t.notOk(found && holder.isCurrent(found))
    t.equal(await holder.find(hashPartOf(pathOf('kept'))), undefined)
  })

  t.test('what is no database', async t => {
    writeFileSync(`${store.db}-junk`, 'no database at all'.repeat(100))
    renameSync(`${store.db}-junk`, store.db)
    t.throws(() => holder.find(hashPartOf(pathOf('kept'))), { code: 'HOLDER_UNREADABLE' })
    t.match(holder.problem?.(), /not a database/)
  })
})

t.test('followed over what Nix does', { skip: noNix }, async t => {
  const store = makeChrootStore(t, { a: { tree: 'a' }, b: { tree: 'b' }, c: { tree: 'c' } })
  const holder = holderOf(store)
  await holder.open()
  t.teardown(() => holder.close())
  const follower = createNixStoreHolder({ ...store, pool }).follow?.()
  if (follower === undefined) throw new Error('a live store is followed')
  const walk = async () => {
    let count = 0
    for await (const batch of follower.all()) count += batch.length
    return count
  }
  const told = async (until: (added: readonly string[], removed: readonly string[]) => boolean) => {
    const added: string[] = []
    const removed: string[] = []
    for (let n = 0; n < 300 && !until(added, removed); n++) {
      const steps = follower.changes()
      if (steps === 'lost') throw new Error('lost')
      for await (const step of steps ?? []) {
        added.push(...step.added.map(({ storePath }) => storePath))
        removed.push(...step.removed)
      }
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    return { added, removed }
  }
  t.equal(await walk(), 3)

  await t.test('registered anew under the same path', async t => {
    store.delete('b')
    store.add({ b: { tree: 'another b' } })
    const { added } = await told(paths => paths.length > 0)
    t.same(added, [pathOf('b')], 'another id: its path info may differ')
  })

  await t.test('what comes while everything is still being walked', async t => {
    const walking = follower.all()[Symbol.asyncIterator]()
    await walking.next()
    store.add({ late: { tree: 'late' } })
    t.match(await told(paths => paths.length > 0), { added: [pathOf('late')], removed: [] })
    t.same((await walking.next()).done, true)
  })

  await t.test('a collection', async t => {
    store.nix('nix-store', ['--gc'])
    const { removed } = await told((_, parts) => parts.length === 4)
    t.same(removed.sort(), ['a', 'b', 'c', 'late'].map(name => hashPartOf(pathOf(name))).sort())
  })

  await t.test('a database put back to what it was', async t => {
    store.add({ d: { tree: 'd' } })
    await told(paths => paths.length > 0)
    const copy = `${store.db}-copy`
    new Database(store.db).exec(`vacuum into '${copy}'`).close()
    renameSync(copy, store.db)
    for (const ending of ['-wal', '-shm']) rmSync(store.db + ending, { force: true })
    t.equal(follower.changes(), 'lost', 'another file')
    t.equal(await walk(), 1)
    store.sql(`update sqlite_sequence set seq = 1 where name = 'ValidPaths'`)
    t.equal(follower.changes(), 'lost', 'an older state in the same file')
  })
})

const LOG_DRV = parseBaseName('0123456789abcdfghijklmnpqrsvwxyz-thing-1.0.drv')

t.test('logs, debug files, realisations', { skip: noNix || noUnpackers }, async t => {
  const buildId = 'ab'.repeat(20)
  const debugFile = (content: string) => ({
    dir: {
      lib: {
        dir: {
          debug: {
            dir: {
              '.build-id': { dir: { ab: { dir: { [`${'ab'.repeat(19)}.debug`]: content } } } },
            },
          },
        },
      },
    },
  })
  const store = makeChrootStore(t, {
    'thing-debug': { tree: debugFile('symbols') },
    'thing-out': { tree: debugFile('not looked at: not a debug output') },
    'link-debug': { tree: { dir: { lib: { link: '/lib' } } } },
  })
  const holder = holderOf(store)
  await holder.open()
  t.teardown(() => holder.close())

  await t.test('log', async t => {
    const shelf = join(store.logDir, 'drvs', '01')
    mkdirSync(shelf, { recursive: true })
    const file = join(shelf, LOG_DRV.slice(2))
    writeFileSync(file, 'building\n\xff')
    t.equal(String(await holder.log(LOG_DRV)).slice(0, 8), 'building', 'plain, not all UTF-8')
    rmSync(file)
    writeFileSync(`${file}.bz2`, spawnSync('bzip2', ['-c'], { input: 'packed log\n' }).stdout)
    t.equal(String(await holder.log(LOG_DRV)), 'packed log\n')
    writeFileSync(`${file}.bz2`, 'BZh9 broken')
    t.equal(await holder.log(LOG_DRV), undefined, 'a damaged log is none')
    rmSync(`${file}.bz2`)
    spawnSync('mkfifo', [file])
    t.equal(await holder.log(LOG_DRV), undefined, 'a FIFO does not hang')
  })

  await t.test('debug info', async t => {
    const member = `lib/debug/.build-id/ab/${'ab'.repeat(19)}.debug`
    t.same(await holder.debugInfo(buildId), { storePath: pathOf('thing-debug'), member })
    t.equal(await holder.debugInfo('cd'.repeat(20)), undefined)
    store.add({ 'newer-debug': { tree: debugFile('newer') } })
    t.match(await holder.debugInfo(buildId), { storePath: pathOf('newer-debug') }, 'seen at once')
    store.delete('newer-debug', 'thing-debug')
    t.equal(await holder.debugInfo(buildId), undefined, 'gone at once')
  })

  await t.test('realisations', async t => {
    const id = (digit: string) => `sha256:${digit.repeat(64)}!out`
    t.equal(await holder.realisation(id('1')), undefined)
    // The tables of ca-derivations, made by Nix itself in this store: the feature is on in the helper.
    const signature = `key-1:${Buffer.alloc(64, 7).toString('base64')}`
    for (const digit of ['1', '2']) {
      store.sql(
        `insert into Realisations (drvPath, outputName, outputPath, signatures)
         select ?, 'out', id, ? from ValidPaths where path = ?`,
        `sha256:${digit.repeat(64)}`,
        signature,
        pathOf('thing-out'),
      )
    }
    store.sql('insert into RealisationsRefs values (1, 2)')
    const outPath = pathOf('thing-out').slice(11)
    t.same(JSON.parse(String(await holder.realisation(id('1')))), {
      id: id('1'),
      outPath,
      signatures: [signature],
      dependentRealisations: { [id('2')]: outPath },
    })
    t.same(await holder.buildTrace(LOG_DRV, 'out'), undefined, 'no such table in Nix 2.8')
    store.sql(`create table BuildTraceV3 (id integer primary key, drvPath text, outputName text,
      outputPath text, signatures text)`)
    store.sql(
      `insert into BuildTraceV3 values (1, ?, 'out', ?, ?)`,
      LOG_DRV,
      pathOf('thing-out'),
      signature,
    )
    t.same(JSON.parse(String(await holder.buildTrace(LOG_DRV, 'out'))), {
      outPath,
      signatures: [{ keyName: 'key-1', sig: Buffer.alloc(64, 7).toString('base64') }],
    })
    store.sql('update BuildTraceV3 set outputPath = ?', '/etc/passwd')
    t.equal(await holder.buildTrace(LOG_DRV, 'out'), undefined)
  })
})

const notRoot = process.getuid?.() !== 0 && 'needs root, to become another user'

t.test('as a user who may not write beside the database', { skip: noNix || notRoot }, async t => {
  const store = makeChrootStore(t, { text: { tree: 'hello\n' } })
  // mkdtemp's own folder and the test's are closed to others.
  for (const dir of [dirname(store.root), store.root]) chmodSync(dir, 0o755)
  t.same(
    readdirSync(dirname(store.db)).filter(name => /-(?:wal|shm)$/.test(name)),
    [],
    'Nix 2.8 leaves no log at rest',
  )
  const child = spawn(
    process.execPath,
    [
      ...process.execArgv,
      join('test', 'helpers', 'find-as-nobody.ts'),
      store.root,
      store.db,
      hashPartOf(pathOf('text')),
      hashPartOf(pathOf('late')),
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  t.teardown(() => child.kill())
  const lines = child.stdout.setEncoding('utf8')[Symbol.asyncIterator]() as AsyncIterator<string>
  /** Both paths looked for by the child: y found, n absent, or the error's code. */
  const ask = async (): Promise<string> => {
    child.stdin.write('\n')
    return String((await lines.next()).value).trim()
  }
  t.equal(await ask(), 'y n')
  t.equal(await ask(), 'y n', 'again')
  store.add({ late: { tree: 'late' } })
  t.equal(await ask(), 'y y', 'a path added at rest')
  // A writer that stays: its log has what the main file has not.
  const writer = new Database(store.db)
  writer.pragma('journal_mode = wal')
  writer.pragma('wal_autocheckpoint = 0')
  writer.prepare('delete from ValidPaths where path = ?').run(pathOf('text'))
  t.ok(statSync(`${store.db}-wal`).size > 0)
  t.equal(await ask(), 'n y', 'a path taken away in the log')
  writer.close()
  t.equal(await ask(), 'n y', 'after the writer')
  store.add({ text: { tree: 'hello\n' } })
  t.equal(await ask(), 'y y')
  child.stdin.end()
  t.same(await once(child, 'exit'), [0, null])
})

t.test('a hash part never asked', { skip: noNix }, async t => {
  const holder = createNixStoreHolder({
    root: '/nonexistent',
    storeDir: '/nix/store',
    db: '/nonexistent/nix/var/nix/db/db.sqlite',
    pool,
  })
  await holder.open()
  t.throws(() => holder.find(parseHashPart('0'.repeat(32))), { code: 'HOLDER_UNREADABLE' })
  t.match(holder.problem?.(), /does not exist/)
  t.equal(holder.id, 'nix-store:/nonexistent/nix/store')
  await holder.close()
})
