import Database from 'better-sqlite3'
import { createHash } from 'node:crypto'
import { renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createNixDb } from '../../../daemon/holders/nix-db.ts'
import { createNixPresence } from '../../../daemon/holders/nix-presence.ts'
import { createReachability } from '../../../daemon/holders/reachability.ts'
import { encodeNix32 } from '../../../protocol/nix32.ts'
import type { HashPart } from '../../../protocol/store-path.ts'

const partAt = (index: number): HashPart =>
  encodeNix32(createHash('sha256').update(`path ${index}`).digest().subarray(0, 20)) as HashPart

const parts = (from: number, count: number) =>
  Array.from({ length: count }, (_, index) => partAt(from + index))

/** A database with so many paths, a presence over it, and a way to change it. */
function setUp(dir: string, count: number) {
  const file = join(dir, 'db.sqlite')
  const writer = new Database(file)
  writer.pragma('journal_mode = wal')
  writer.exec(`create table ValidPaths (id integer primary key autoincrement not null, path text unique not null);
    create table Refs (referrer integer, reference integer)`)
  const insert = writer.prepare('insert into ValidPaths (path) values (?)')
  const add = writer.transaction((all: readonly HashPart[]) => {
    for (const part of all) insert.run(`/nix/store/${part}-hello`)
  })
  add(parts(0, count))
  const db = createNixDb(file, createReachability('test', undefined))
  let asked = 0
  const presence = createNixPresence(
    {
      ...db,
      read: query =>
        db.read(queries => query({ ...queries, all: (...a) => (asked++, queries.all(...a)) })),
    },
    '/nix/store',
    () => db.read(queries => queries.version()),
  )
  const walk = (all: readonly HashPart[], lastId: number) => {
    const id = db.read(queries => queries.file)
    presence.begin(id, all.length)
    for (const part of all) presence.add(part)
    presence.complete(id, lastId)
  }
  return { file, writer, add, db, presence, walk, asked: () => asked }
}

t.test('who is there is never denied, who is not hardly ever looked for', async t => {
  const { writer, db, presence, walk, asked } = setUp(t.testdir(), 3000)
  t.ok(presence.mayHave(partAt(7777)), 'before a walk nothing is known')
  walk(parts(0, 3000), 3000)
  t.ok(parts(0, 3000).every(part => presence.mayHave(part)))
  const wrong = parts(10_000, 20_000).filter(part => presence.mayHave(part)).length
  t.ok(wrong < 200, `${wrong} of 20,000 absent paths looked for in vain`)
  t.equal(asked(), 1, 'one look at what came since the walk')
  db.close()
  writer.close()
})

t.test('what comes is there at once, a burst too', async t => {
  const { writer, add, db, presence, walk } = setUp(t.testdir(), 100)
  walk(parts(0, 100), 100)
  t.notOk(presence.mayHave(partAt(500)))
  add([partAt(500)])
  t.ok(presence.mayHave(partAt(500)))
  add(parts(1000, 2000))
  t.ok(parts(1000, 2000).every(part => presence.mayHave(part)))
  t.notOk(presence.mayHave(partAt(9000)), 'and it speaks again')
  db.close()
  writer.close()
})

t.test('another history ends what it knew', async t => {
  const rolledBack = setUp(t.testdir(), 100)
  rolledBack.walk(parts(0, 100), 100)
  t.notOk(rolledBack.presence.mayHave(partAt(500)))
  rolledBack.writer.exec(`delete from ValidPaths; update sqlite_sequence set seq = 3`)
  rolledBack.add([partAt(500)])
  t.ok(rolledBack.presence.mayHave(partAt(500)), 'ids given again')
  rolledBack.db.close()
  rolledBack.writer.close()

  const dir = t.testdir({ other: {} })
  const replaced = setUp(dir, 100)
  replaced.walk(parts(0, 100), 100)
  t.notOk(replaced.presence.mayHave(partAt(9500)))
  const other = setUp(join(dir, 'other'), 100)
  other.add([partAt(9500)])
  other.writer.close()
  other.db.close()
  replaced.writer.close()
  for (const suffix of ['-wal', '-shm']) rmSync(`${replaced.file}${suffix}`, { force: true })
  renameSync(other.file, replaced.file)
  t.ok(replaced.presence.mayHave(partAt(9500)), 'another file in its place')
  replaced.db.close()
})

t.test('more than there is room for', async t => {
  const { writer, add, db, presence, walk } = setUp(t.testdir(), 10)
  walk(parts(0, 10), 10)
  add(parts(100, 66_000))
  t.ok(parts(100, 66_000).every(part => presence.mayHave(part)))
  t.ok(presence.mayHave(partAt(200_000)), 'it is given up rather than wrong')
  db.close()
  writer.close()
})
