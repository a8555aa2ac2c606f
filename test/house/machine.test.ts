import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import {
  othersShare,
  parseMachineStat,
  parseProcessStat,
  ticksBelow,
  watchMachine,
} from '../lab/site/machine.ts'

// What decides whether a missed aim of the lab is a failure or somebody else's doing.

t.test('the kernel’s figures', async t => {
  t.same(
    parseMachineStat('cpu  100 10 50 700 30 5 5 100 40 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n'),
    { all: 1000, busy: 270 },
    'idle and waiting for disks is free, what the machine’s own host takes is not',
  )
  const fields = 'S 4 7 7 0 -1 4194560 1 2 3 4 30 12 5 3 20 0 1 0 100 1 1'
  t.same(parseProcessStat(`77 (a) b (c)) ${fields}`), { pid: 77, parent: 4, ticks: 50 })
})

t.test('a tree of processes', async t => {
  const all = [
    { pid: 1, parent: 0, ticks: 1000 },
    { pid: 10, parent: 1, ticks: 1 },
    { pid: 11, parent: 10, ticks: 2 },
    { pid: 12, parent: 11, ticks: 4 },
    { pid: 20, parent: 1, ticks: 500 },
  ]
  t.equal(ticksBelow(10, all), 7)
})

t.test('what counts as others’ work', async t => {
  const look = (at: number, busy: number, own: number) => ({ at, all: at / 5, busy, own })
  const looks = [look(0, 0, 0), look(1000, 200, 195), look(2000, 300, 195), look(3000, 500, 395)]
  t.equal(othersShare(looks, 2500), 0, 'this test took all of it')
  t.equal(othersShare(looks, 1500), 0.5, 'half the machine for one second')
  t.equal(othersShare(looks, 500), 0.5)
  t.equal(othersShare([look(0, 0, 0), look(1000, 100, 0), look(2000, 190, 90)], 500), 0.5)
  t.equal(othersShare([look(0, 50, 50), look(1000, 150, 20)], 0), 0.5, 'a child was lost')
})

const skip = process.platform !== 'linux' && 'only Linux has /proc'

t.test('work of this test’s own children is its own', { skip }, async t => {
  const machine = watchMachine()
  const child = spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child, 'spawn')
  const { own } = machine.look()
  await sleep(300)
  t.ok(machine.look().own - own >= 5, 'a loop of 300 ms takes ticks of 10 ms')
})
