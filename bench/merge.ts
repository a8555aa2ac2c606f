import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { MergeResult } from '../protocol/api-jobs.ts'
import type { Drive } from '../daemon/drives/drive.ts'
import { mergeRig, writeSampleCache, type SamplePath } from '../test/helpers/merge-rig.ts'
import { createScope, tempDir, type Scope } from '../test/helpers/scope.ts'
import { benchOptions, inRounds, report, reportValue } from './lib/rounds.ts'

// A merge against `cp -r` of the same files to the same disk, both until everything is on the disk (`sync -f`): what hashing,
// unpacking, deciding and naming cost on top of copying. "index" is a shipment whose manifest a trusted key signed: the file
// hash is looked at; "narinfos" is a plain cache: every NAR is unpacked and hashed as well.

const { rounds, quick } = benchOptions(5)

/** Half random, half text: zstd makes about half of it, as of programs. */
function content(size: number, seed: number): Buffer {
  const bytes = Buffer.alloc(size)
  for (let at = 0, n = 0; at < size; at += 8192, n++) {
    const piece = randomBytes(Math.min(4096, size - at))
    piece.copy(bytes, at)
    const word = createHash('sha1')
      .update(`${seed} ${n % 7}`)
      .digest()
    bytes.fill(word, Math.min(size, at + 4096), Math.min(size, at + 8192))
  }
  return bytes
}

/** Sizes of paths as in a system: most of some kilobytes, some of a few hundred. */
const SMALL = Array.from({ length: quick ? 200 : 2000 }, (_, n): SamplePath => ({
  name: `small-${n}`,
  content: content(n % 20 === 0 ? 400_000 : 2000 + ((n * 7919) % 40_000), n),
  references: n > 3 ? [`small-${n >> 1}`, `small-${n - 1}`] : [],
}))
const BIG = Array.from({ length: quick ? 3 : 20 }, (_, n): SamplePath => ({
  name: `big-${n}`,
  content: content(48_000_000, n),
}))

function bytesIn(dir: string): number {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0)
}

const SETS = { small: SMALL, big: BIG } as const

/** Made in a process of its own, so that the memory it takes is not counted. */
function make(set: keyof typeof SETS, dir: string): void {
  const file = fileURLToPath(import.meta.url)
  const options = quick ? ['--quick'] : []
  const made = spawnSync(process.execPath, [file, 'make', set, dir, ...options], {
    stdio: 'inherit',
  })
  if (made.status !== 0) throw new Error('the drive could not be made')
}

let peak = 0

async function measure(scope: Scope, set: keyof typeof SETS): Promise<void> {
  const paths = SETS[set]
  const source = tempDir(scope, 'bench-drive', process.cwd())
  make(set, source)
  const megabytes = bytesIn(source) / 1e6
  const place = tempDir(scope, 'bench-target', process.cwd())
  const cacheDir = join(place, 'cache')
  const rig = await mergeRig(scope, { cacheDir })
  const plain = await rig.drive(source, { id: 'plain', readOnly: true })
  const manifest = { id: '0'.repeat(32), depot: 'd', part: 1, parts: 1, sections: [] }
  const shipment = { manifest, signedBy: 'depot-1' }
  const indexed = {
    ...plain,
    id: 'indexed',
    contents: { ...plain.contents, shipment },
    holder: { ...plain.holder, indexedPaths: paths.length },
  } as unknown as Drive
  rig.drives.plug(plain)
  rig.drives.plug(indexed)

  const timed = async (work: () => unknown): Promise<number> => {
    rmSync(cacheDir, { recursive: true, force: true })
    spawnSync('sync', ['-f', place])
    const start = performance.now()
    await work()
    const seconds = (performance.now() - start) / 1000
    return megabytes / seconds
  }
  const copy = () => void spawnSync('cp', ['-r', source, cacheDir])
  const merge = (drive: string) => async () => {
    const job = await rig.merges.merge({ drive })
    const { state, result, error } = await job.ended
    const { came } = (result ?? {}) as Partial<MergeResult>
    if (came !== paths.length) throw new Error(`${state}: ${came} came ${error?.message ?? ''}`)
    spawnSync('sync', ['-f', place])
  }
  const result = await inRounds(
    {
      'cp -r, on the disk': () =>
        timed(() => {
          copy()
          spawnSync('sync', ['-f', place])
        }),
      'cp -r, in memory': () => timed(copy),
      'merge, index': () => timed(merge('indexed')),
      'merge, narinfos': () => timed(merge('plain')),
    },
    rounds,
  )
  report(`${paths.length} ${set} paths, ${Math.round(megabytes)} MB`, 'MB/s', result, {
    'merge, index': { atLeast: 0.8 },
    'merge, narinfos': { atLeast: 0.8 },
  })
  await rig.close()
}

async function main(scope: Scope): Promise<void> {
  const sample = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 50)
  try {
    await measure(scope, 'small')
    await measure(scope, 'big')
    reportValue('memory of the process at most', 'MB', peak / 1e6, { atMost: 250 })
  } finally {
    clearInterval(sample)
  }
}

const [command, set, dir] = process.argv.slice(2)
if (command === 'make' && dir !== undefined) {
  writeSampleCache(dir, SETS[set as keyof typeof SETS])
} else {
  const scope = createScope()
  try {
    await main(scope)
  } finally {
    await scope.close()
  }
}
