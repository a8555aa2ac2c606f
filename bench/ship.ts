import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { nixEnvironment, pathOf } from '../test/helpers/nix-store.ts'
import { createScope, tempDir, type Scope } from '../test/helpers/scope.ts'
import { makeDepot, writeCache, type ShipPath } from '../test/helpers/ship-rig.ts'
import { benchOptions, inRounds, report } from './lib/rounds.ts'

// Packing a drive from a cache directory, hashes of every NAR checked and everything on the disk at the end, against copying the
// same files (`cp -r`, then `sync -f`), and against `nix copy` between two file:// caches.

const { rounds, quick } = benchOptions(3)
const SETS = {
  'small paths': { paths: quick ? 300 : 2000, bytes: 8_000 },
  'big paths': { paths: quick ? 4 : 20, bytes: 16_000_000 },
}

/** Half of what a path has can be packed, half cannot. */
const treeOf = (bytes: number): ShipPath['tree'] => ({
  dir: { text: 'a line of text\n'.repeat(Math.ceil(bytes / 30)), noise: randomBytes(bytes / 2) },
})

function run(command: string, args: readonly string[], env?: NodeJS.ProcessEnv): void {
  const { status, stderr } = spawnSync(command, args, { env: env ?? process.env })
  if (status !== 0) throw new Error(`${command} failed: ${String(stderr)}`)
}

async function measure(
  scope: Scope,
  what: string,
  set: (typeof SETS)['small paths'],
): Promise<void> {
  const base = tempDir(scope, 'bench-ship')
  const cache = join(base, 'cache')
  const names = Array.from({ length: set.paths }, (_, at) => `path-${at}`)
  const paths: Record<string, ShipPath> = {}
  for (const [at, name] of names.entries()) {
    const before = names[at - 1]
    paths[name] = { tree: treeOf(set.bytes), references: before === undefined ? [] : [before] }
  }
  await writeCache(cache, paths)
  const top = pathOf(names.at(-1) ?? '')
  const home = join(base, 'home')
  mkdirSync(home)
  const timed = async (work: (dir: string) => Promise<void> | void): Promise<number> => {
    const dir = join(base, 'drive')
    rmSync(dir, { recursive: true, force: true })
    run('sync', ['-f', base])
    const start = performance.now()
    await work(dir)
    run('sync', ['-f', base])
    return (performance.now() - start) / 1000
  }
  const result = await inRounds(
    {
      'cp -r': () => timed(dir => run('cp', ['-r', cache, dir])),
      'nix copy': () =>
        timed(dir =>
          run(
            'nix',
            [
              ...['copy', '--no-check-sigs', '--from', `file://${cache}`],
              ...['--to', `file://${dir}?compression=zstd`, top],
            ],
            nixEnvironment(home),
          ),
        ),
      ship: () =>
        timed(async dir => {
          // What was read in the round before must not count: every NAR is unpacked and hashed.
          const depot = await makeDepot(scope, [cache])
          const shipped = await depot.ship({ dir, roots: [top] })
          if (shipped.parts[0]?.written !== set.paths) throw new Error('not all was packed')
        }),
    },
    rounds,
  )
  report(`pack ${set.paths} ${what}`, 's', result)
}

const scope = createScope()
try {
  for (const [what, set] of Object.entries(SETS)) await measure(scope, what, set)
} finally {
  await scope.close()
}
process.exit()
