import t from 'tap'
import { createDriveUses } from '../../../daemon/drives/drive-uses.ts'
import { runProgram, unmount } from '../../../daemon/drives/unmount.ts'

/** Timers of the daemon keep no process alive. */
const alive = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(alive))

t.test('uses', async t => {
  const uses = createDriveUses(20)
  const one = uses.add('a', 'a merge')
  const other = uses.add('b', 'a ship')
  t.same(await uses.finish(['a']), ['a merge'], 'who does not end it in time is named')
  t.equal(one?.signal.aborted, true)
  t.equal(other?.signal.aborted, false, 'another drive')
  one?.done()
  one?.done()
  t.same(await uses.finish(['a']), [])
  const late = uses.add('a', 'a verify')
  late?.signal.addEventListener('abort', () => setImmediate(() => late.done()))
  t.same(await uses.finish(['a', 'b']), ['a ship'])
  uses.end('b')
  t.equal(other?.signal.aborted, true)
})

t.test('a file system that is busy for a moment', async t => {
  let tries = 0
  const problem = await unmount({ mountPoint: '/mnt/x', source: '/dev/sdb1' }, async program => {
    tries++
    return program === 'umount' && tries < 3 ? 'umount: /mnt/x: target is busy.' : undefined
  })
  t.equal(problem, undefined)
  t.equal(tries, 3)
})

t.test('whichever way is allowed', async t => {
  const ran: string[] = []
  const refusing = async (program: string) => {
    ran.push(program)
    return program === 'umount' ? 'must be superuser' : undefined
  }
  t.equal(await unmount({ mountPoint: '/mnt/x', source: '/dev/sdb1' }, refusing), undefined)
  t.same(ran, ['umount', 'udisksctl'])
  t.equal(await unmount({ mountPoint: '/mnt/x', source: 'nas:/x' }, refusing), 'must be superuser')
})

t.test('programs', async t => {
  t.equal(await runProgram('true', [], 10_000), undefined)
  t.equal(
    await runProgram('sh', ['-c', 'echo first >&2; echo no right >&2; exit 1'], 10_000),
    'no right',
  )
  t.match(await runProgram('sh', ['-c', 'exit 3'], 10_000), /exit 3|Command failed/)
  t.match(await runProgram('/nowhere/at/all', [], 10_000), /ENOENT/)
  t.match(await runProgram('sleep', ['60'], 50), /sleep/)
})
