import { fork, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { PeerKey } from '../../../daemon/site.ts'
import type { MergeResult } from '../../../protocol/api-jobs.ts'
import type { MergeShare } from '../../../daemon/shipments/merge-share.ts'
import {
  flawsOf,
  mergeRig,
  namesIn,
  narTimes,
  writeSampleCache,
  type SamplePath,
} from '../../helpers/merge-rig.ts'
import { compileSources } from '../../helpers/compiled.ts'
import { tempDir } from '../../helpers/scope.ts'

const KILLS = 20

// Each kill is a process that is started anew.
t.setTimeout(600_000)

/** Many small ones and some of more than a chunk, each referring to two before it. */
const paths = (count: number): SamplePath[] =>
  Array.from({ length: count }, (_, n) => ({
    name: `n${n}`,
    size: n % 25 === 7 ? 3_000_000 : 500 + ((n * 977) % 30_000),
    references: n < 3 ? [] : [`n${n - 1}`, `n${n >> 1}`],
  }))

interface Ended {
  readonly came: number
  readonly left: number
}

const compiled = compileSources(t)

/** Starts a merge in a process of its own; `at`: the number of paths at which it is killed. */
async function mergeIn(
  driveDir: string,
  cacheDir: string,
  at?: number,
): Promise<Ended | undefined> {
  const child: ChildProcess = fork(
    join(compiled, 'test/helpers/merge-child.js'),
    [driveDir, cacheDir],
    {
      // Without tap's hooks, which would be loaded by each.
      env: { PATH: process.env.PATH },
      execArgv: [],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    },
  )
  let ended: Ended | undefined
  child.on('message', (message: number | Ended) => {
    if (typeof message === 'object') ended = message
    else if (at !== undefined && message >= at) child.kill('SIGKILL')
  })
  await once(child, 'exit')
  return ended
}

t.test(`killed at ${KILLS} moments, a merge leaves a whole cache and comes to its end`, async t => {
  t.setTimeout(600_000)
  const total = 400
  const driveDir = tempDir(t, 'chaos-drive')
  const cacheDir = join(tempDir(t, 'chaos-cache'), 'cache')
  writeSampleCache(driveDir, paths(total))
  let standing = new Map<string, number>()
  let ended: Ended | undefined
  for (let kill = 0; kill < KILLS && ended === undefined; kill++) {
    // Spread over what is still to do: some die before the first name is given, some in the middle of giving them.
    const left = total - (kill === 0 ? 0 : namesIn(cacheDir).length)
    ended = await mergeIn(driveDir, cacheDir, Math.floor(Math.random() * left * 0.6))
    t.same(flawsOf(cacheDir, { killed: true }), [], `kill ${kill + 1}`)
    const now = narTimes(cacheDir)
    for (const [name, time] of standing) {
      if (now.get(name) !== time) t.fail(`${name} was copied again`)
    }
    standing = new Map([...now].filter(([name]) => !name.startsWith('.')))
  }
  ended ??= await mergeIn(driveDir, cacheDir)
  t.equal(ended?.left, 0)
  t.same(flawsOf(cacheDir), [], 'and nothing unfinished is left')
  t.equal(namesIn(cacheDir).length, total)
})

t.test(
  'a disk that is full: what fits stands, a rerun with room completes',
  { skip: process.getuid?.() !== 0 && 'needs root to mount a tmpfs' },
  async t => {
    const mount = tempDir(t, 'tmpfs')
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', mount])
    if (mounted.status !== 0) return t.pass('# no tmpfs can be mounted here')
    t.teardown(() => spawnSync('umount', ['-l', mount]))
    const driveDir = tempDir(t, 'full-drive')
    writeSampleCache(driveDir, paths(200))
    const cacheDir = join(mount, 'cache')
    mkdirSync(cacheDir)
    // Nothing is looked at beforehand: the disk itself says that it is full.
    const cache = { dir: cacheDir, maxSize: 1e15, reserve: -1e15 }
    const rig = await mergeRig(t, { cacheDir, cache })
    rig.drives.plug(await rig.drive(driveDir, { id: 'k', readOnly: true }))
    const first = await (await rig.merges.merge({ drive: 'k' })).ended
    t.equal(first.state, 'partly')
    const { came, noRoom, damaged, left } = first.result as MergeResult
    t.ok(came > 0 && noRoom > 0, `${came} came, ${noRoom} did not`)
    t.same([damaged, left, came + noRoom], [0, 0, 200])
    t.same(flawsOf(cacheDir), [])
    const times = narTimes(cacheDir)
    spawnSync('mount', ['-o', 'remount,size=200m', mount])
    const second = await (await rig.merges.merge({ drive: 'k' })).ended
    t.match(second, { state: 'done', result: { came: noRoom, wasThere: came } })
    t.same(flawsOf(cacheDir), [])
    for (const [name, time] of times) t.equal(narTimes(cacheDir).get(name), time)
    await rig.close()
  },
)

/** Two keepers with the same shipment, who hear of each other what notes would tell. */
function twoKeepers() {
  const keys = ['a'.repeat(64), 'b'.repeat(64)] as PeerKey[]
  const up = new Set(keys)
  const done = new Set<PeerKey>()
  const caches = new Map<PeerKey, string>()
  const waiting: (() => void)[] = []
  const wake = () => {
    for (const one of waiting.splice(0)) one()
  }
  const share = (self: PeerKey): MergeShare => {
    const others = () => keys.filter(key => key !== self && up.has(key))
    return {
      self,
      sharers: () => keys.filter(key => up.has(key)),
      kept: part =>
        others().some(key => {
          const dir = caches.get(key)
          return done.has(key) && dir !== undefined && readdirSync(dir).includes(`${part}.narinfo`)
        }),
      shareDone() {
        done.add(self)
        wake()
      },
      async othersDone(signal) {
        while (!signal.aborted && others().some(key => !done.has(key))) {
          await new Promise<void>(resolve => waiting.push(resolve))
        }
      },
      end() {
        done.add(self)
        wake()
      },
    }
  }
  const die = (key: PeerKey) => {
    up.delete(key)
    wake()
  }
  return { keys, caches, share, die }
}

t.test('two keepers with one shipment share it: each path is copied once', async t => {
  const driveDir = tempDir(t, 'shared-drive')
  writeSampleCache(driveDir, paths(60))
  const { keys, caches, share } = twoKeepers()
  const merges = await Promise.all(
    keys.map(async key => {
      const cacheDir = join(tempDir(t, 'keeper'), 'cache')
      caches.set(key, cacheDir)
      const rig = await mergeRig(t, { cacheDir, keeper: true, share: () => share(key) })
      rig.drives.plug(await rig.drive(driveDir, { id: 'k', readOnly: true }))
      return rig
    }),
  )
  const ended = await Promise.all(
    merges.map(async rig => (await rig.merges.merge({ drive: 'k' })).ended),
  )
  const results = ended.map(({ result }) => result as MergeResult)
  t.equal(results[0]?.came === 0 || results[1]?.came === 0, false, 'both had their share')
  t.equal((results[0]?.came ?? 0) + (results[1]?.came ?? 0), 60)
  for (const { came, elsewhere } of results) t.equal(came + elsewhere, 60)
  for (const dir of caches.values()) t.same(flawsOf(dir, { partial: true }), [])
})

t.test('a keeper that dies in the middle loses nothing: the other takes its share', async t => {
  const driveDir = tempDir(t, 'shared-drive')
  writeSampleCache(driveDir, paths(60))
  const { keys, caches, share, die } = twoKeepers()
  const [alive, dying] = keys as [PeerKey, PeerKey]
  const cacheDir = join(tempDir(t, 'keeper'), 'cache')
  caches.set(alive, cacheDir)
  const sharing = share(alive)
  const rig = await mergeRig(t, {
    cacheDir,
    share: () => ({
      ...sharing,
      shareDone() {
        sharing.shareDone()
        t.ok(namesIn(cacheDir).length < 60, 'only its own share has come')
        die(dying)
      },
    }),
  })
  rig.drives.plug(await rig.drive(driveDir, { id: 'k', readOnly: true }))
  const { state, result } = await (await rig.merges.merge({ drive: 'k' })).ended
  t.equal(state, 'done')
  t.match(result, { came: 60, elsewhere: 0 })
  t.same(flawsOf(cacheDir), [])
})
