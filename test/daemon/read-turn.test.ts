import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import Database from 'better-sqlite3'
import t from 'tap'
import { createReadTurn } from '../../daemon/read-turn.ts'

/** A database with one number in it, and how it is read and written by two connections. */
function setUp(dir: string) {
  const file = join(dir, 'db.sqlite')
  const writer = new Database(file)
  writer.pragma('journal_mode = wal')
  writer.exec('create table numbers (n integer); insert into numbers values (1)')
  const reader = new Database(file, { readonly: true })
  const select = reader.prepare('select n from numbers').pluck()
  const update = writer.prepare('update numbers set n = ?')
  return {
    writer,
    reader,
    shared: createReadTurn(reader),
    read: () => select.get() as number,
    write: (n: number) => update.run(n),
  }
}

t.test('what is read in one turn is of one moment, in the next of another', async t => {
  const { reader, shared, read, write } = setUp(t.testdir())
  shared.share()
  t.equal(read(), 1)
  write(2)
  shared.share()
  t.equal(read(), 1, 'in the same turn')
  await turn()
  t.notOk(reader.inTransaction, 'no snapshot is held')
  shared.share()
  t.equal(read(), 2, 'in the next one')
  write(3)
  shared.end()
  t.equal(read(), 3, 'who wants to know what is there now ends it')
  shared.end()
  await turn()
})

t.test('the log of a writer can be folded in once the turn is over', async t => {
  const { writer, shared, read, write } = setUp(t.testdir())
  shared.share()
  read()
  write(2)
  await turn()
  const [checkpoint] = writer.pragma('wal_checkpoint(TRUNCATE)') as { readonly busy: number }[]
  t.equal(checkpoint?.busy, 0)
})

t.test(
  'a connection that is closed, or whose transaction an error has ended, is left alone',
  async t => {
    const { reader, shared, read } = setUp(t.testdir())
    shared.share()
    read()
    reader.exec('rollback')
    await turn()
    shared.share()
    t.equal(read(), 1)
    shared.end()
    reader.close()
    await turn()
  },
)
