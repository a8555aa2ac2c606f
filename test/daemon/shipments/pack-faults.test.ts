import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { pathOf } from '../../helpers/nix-store.ts'
import { tempDir } from '../../helpers/scope.ts'
import { makeDepot, sampleClosure, writeCache, type Depot } from '../../helpers/ship-rig.ts'

// Drives that fill up or go away while they are packed: real file systems of a few MiB, in memory.

const mount = (...args: readonly string[]): boolean => spawnSync('mount', args).status === 0
const skip = process.getuid?.() === 0 ? false : 'needs root (mount)'

/** A small file system; unmounted with the test. */
function makeDrive(t: Test, size: string): string {
  const dir = join(tempDir(t, 'fault'), 'drive')
  mkdirSync(dir)
  if (!mount('-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', dir)) throw new Error('cannot mount')
  t.teardown(() => void spawnSync('umount', ['-l', dir]))
  return dir
}

/** A depot that does something once it is asked for a path for the second time: when that is about to be written. */
async function depotThat(t: Test, name: string, act: () => void): Promise<Depot> {
  const cache = join(tempDir(t, 'fault'), 'cache')
  await writeCache(cache, sampleClosure(400_000))
  const depot = await makeDepot(t, [cache])
  const { candidates } = depot.host.substitution
  let asked = 0
  Object.assign(depot.host.substitution, {
    async candidates(...args: Parameters<typeof candidates>) {
      if (pathOf(name).includes(args[0]) && ++asked === 2) act()
      return candidates(...args)
    },
  })
  return depot
}

const narinfos = (dir: string) => readdirSync(dir).filter(name => name.endsWith('.narinfo')).length
const unfinished = (dir: string) =>
  [...readdirSync(dir), ...readdirSync(join(dir, 'nar'))].filter(name =>
    name.includes('unfinished'),
  )

t.test('a drive that something else fills', { skip }, async t => {
  const dir = makeDrive(t, '4m')
  const hog = join(dir, 'hog')
  const depot = await depotThat(t, 'glibc', () => {
    // All but some 700 kB: the manifest still fits, firefox does not.
    writeFileSync(hog, Buffer.alloc(3_300_000))
  })
  const result = await depot.ship({ dir, roots: [pathOf('top')] })
  t.equal(result.state, 'partly')
  t.ok(result.leftPaths > 0, 'what found no room is counted')
  t.same(unfinished(dir), [])
  const before = narinfos(dir)
  t.ok(before < 6)
  rmSync(hog)
  const again = await depot.ship({ dir, roots: [pathOf('top')] })
  t.match(again, { state: 'done', parts: [{ paths: 6, there: before, written: 6 - before }] })
})

t.test('a drive that is unmounted', { skip }, async t => {
  const dir = makeDrive(t, '8m')
  const depot = await depotThat(t, 'firefox', () => void spawnSync('umount', ['-l', dir]))
  await t.rejects(depot.ship({ dir, roots: [pathOf('top')] }), { code: 'SHIP_TARGET_GONE' })
  t.same(readdirSync(dir), [], 'nothing is written to the disk below')
})

t.test('a job that is cancelled', async t => {
  const dir = join(tempDir(t, 'fault'), 'drive')
  const abort = new AbortController()
  const depot = await depotThat(t, 'firefox', () => abort.abort(new Error('enough')))
  await t.rejects(depot.ship({ dir, roots: [pathOf('top')] }, abort.signal), /enough/)
  t.same(unfinished(dir), [])
  t.match(await depot.ship({ dir, roots: [pathOf('top')] }), { state: 'done' })
})
