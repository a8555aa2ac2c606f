import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { EXPORT_END, EXPORT_PATH_BEGIN, encodeExportedPath } from '../protocol/export-archive.ts'
import { encodeStrings } from '../protocol/nar/wire.ts'
import { PROGRAM, startDaemon, type RunningDaemon } from '../test/helpers/daemon.ts'
import { narOf, nixEnvironment, pathOf } from '../test/helpers/nix-store.ts'
import { createScope, removeTree, tempDir, type Scope } from '../test/helpers/scope.ts'
import { memory, resetPeak, untilIdle } from './lib/http-load.ts'
import { benchOptions, inRounds, report, reportValue } from './lib/rounds.ts'

// Archives of nix-store --export: the time that narwharf takes for one, the command line and the control socket included, against
// the real nix-store on the same disk in the same run, and the memory that either needs for one large NAR.

const { rounds, quick } = benchOptions(3)
const MEGABYTE = 1_000_000
/** One file of so many bytes: for the speed, and for the memory. */
const LARGE_BYTES = quick ? 200 * MEGABYTE : 1000 * MEGABYTE
const HUGE_BYTES = quick ? 500 * MEGABYTE : 4300 * MEGABYTE
const SMALL_PATHS = quick ? 300 : 2000

/** Half noise, half text: it packs to some half, as programs do. */
const BLOCK = Buffer.concat([randomBytes(500_000), Buffer.alloc(500_000, 'a line of text\n')])

/** An archive of one path, a folder with one file of that many bytes (whole megabytes): a file alone would be read again, as its content may prove it. */
function writeLarge(file: string, name: string, bytes: number): void {
  const out = openSync(file, 'w')
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(bytes))
  writeSync(out, EXPORT_PATH_BEGIN)
  const entry = ['entry', '(', 'name', 'file', 'node', '(', 'type', 'regular', 'contents']
  writeSync(out, encodeStrings('nix-archive-1', '(', 'type', 'directory', ...entry))
  writeSync(out, length)
  for (let written = 0; written < bytes; written += BLOCK.length) writeSync(out, BLOCK)
  writeSync(out, encodeStrings(')', ')', ')'))
  writeSync(out, encodeExportedPath({ storePath: pathOf(name), references: [] }))
  writeSync(out, EXPORT_END)
  closeSync(out)
}

function writeSmall(file: string, count: number): void {
  const out = openSync(file, 'w')
  for (let index = 0; index < count; index++) {
    writeSync(out, EXPORT_PATH_BEGIN)
    writeSync(out, narOf({ dir: { text: BLOCK.subarray(0, 3000 + (index % 20) * 500) } }))
    writeSync(out, encodeExportedPath({ storePath: pathOf(`small-${index}`), references: [] }))
  }
  writeSync(out, EXPORT_END)
  closeSync(out)
}

/** What a process took: seconds, and the most memory that it had, bytes. */
interface Cost {
  readonly seconds: number
  readonly peak: number
}

/** How often a process's memory is looked at: the kernel keeps its peak, which goes with the process. */
const LOOK_MS = 20

async function cost(
  command: string,
  args: readonly string[],
  { input, output, env }: { input?: string; output?: string; env?: NodeJS.ProcessEnv },
): Promise<Cost> {
  const stdin = input === undefined ? 'ignore' : openSync(input, 'r')
  const stdout = output === undefined ? 'ignore' : openSync(output, 'w')
  const start = performance.now()
  const child = spawn(command, [...args], { stdio: [stdin, stdout, 'pipe'], env })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (said += text))
  let peak = 0
  const look = setInterval(() => {
    try {
      const now = memory(child.pid ?? 0).peak
      if (now > peak) peak = now
    } catch {
      // It has just ended.
    }
  }, LOOK_MS)
  await once(child, 'close')
  clearInterval(look)
  for (const file of [stdin, stdout]) if (typeof file === 'number') closeSync(file)
  if (child.exitCode !== 0) throw new Error(`${command} ${args.join(' ')}: ${said}`)
  return { seconds: (performance.now() - start) / 1000, peak }
}

/** `nix-store --import` into a store of its own; what it wrote is on the disk at the end, as narwharf's is. */
async function nixImport(scope: Scope, file: string): Promise<Cost> {
  const dir = tempDir(scope, 'nix')
  mkdirSync(join(dir, 'home'))
  const root = join(dir, 'root')
  const args = ['--store', root, '--import']
  try {
    const env = nixEnvironment(join(dir, 'home'))
    const imported = await cost('nix-store', args, { input: file, env })
    const synced = await cost('sync', ['-f', root], {})
    return { ...imported, seconds: imported.seconds + synced.seconds }
  } finally {
    await removeTree(dir)
  }
}

/** A daemon with an empty cache, for one measurement. */
async function withDaemon<T>(use: (daemon: RunningDaemon) => Promise<T>): Promise<T> {
  const scope = createScope()
  try {
    const daemon = await startDaemon(scope, { log: { level: 'warn' } })
    await untilIdle(daemon.pid)
    resetPeak(daemon.pid)
    return await use(daemon)
  } finally {
    await scope.close()
  }
}

const ours = (daemon: RunningDaemon, args: readonly string[]): Promise<Cost> =>
  cost(process.execPath, [PROGRAM, ...args, '--quiet', '--config', daemon.configFile], {})

/** `narwharf import`; the daemon's memory is what counts. */
const ownImport = (file: string): Promise<Cost & { readonly client: number }> =>
  withDaemon(async daemon => {
    const { seconds, peak } = await ours(daemon, ['import', file, '--trust'])
    return { seconds, client: peak, peak: memory(daemon.pid).peak }
  })

async function compareImports(scope: Scope, what: string, file: string): Promise<void> {
  const result = await inRounds(
    {
      'nix-store --import, synced': async () => (await nixImport(scope, file)).seconds,
      'narwharf import': async () => (await ownImport(file)).seconds,
    },
    rounds,
  )
  report(`import, ${what}`, 's', result)
}

/** Out of the cache that an import made, and by nix-store out of the store that its import made. */
async function compareExports(scope: Scope, file: string, name: string): Promise<void> {
  const dir = tempDir(scope, 'export')
  mkdirSync(join(dir, 'home'))
  const env = nixEnvironment(join(dir, 'home'))
  const store = ['--store', join(dir, 'root')]
  await cost('nix-store', [...store, '--import'], { input: file, env })
  await withDaemon(async daemon => {
    await ours(daemon, ['import', file, '--trust'])
    const output = join(dir, 'out.export')
    const result = await inRounds(
      {
        'nix-store --export, synced': async () => {
          const args = [...store, '--export', pathOf(name)]
          const exported = await cost('nix-store', args, { output, env })
          return exported.seconds + (await cost('sync', ['-d', output], {})).seconds
        },
        'narwharf export': async () =>
          (await ours(daemon, ['export', pathOf(name), '-o', output])).seconds,
      },
      rounds,
    )
    report('export, one large path out of a packed cache', 's', result)
  })
}

async function main(scope: Scope): Promise<void> {
  const dir = tempDir(scope, 'archives')
  const [large, small, huge] = ['large', 'small', 'huge'].map(name => join(dir, `${name}.export`))
  if (large === undefined || small === undefined || huge === undefined) return
  writeSmall(small, SMALL_PATHS)
  await compareImports(scope, `${SMALL_PATHS} small paths`, small)
  writeLarge(large, 'large', LARGE_BYTES)
  await compareImports(scope, `one path of ${LARGE_BYTES / MEGABYTE} MB`, large)
  await compareExports(scope, large, 'large')
  writeLarge(huge, 'huge', HUGE_BYTES)
  const mine = await ownImport(huge)
  const theirs = await nixImport(scope, huge)
  const what = `import, one path of ${HUGE_BYTES / MEGABYTE} MB, peak memory`
  reportValue(`${what} | daemon`, 'MB', mine.peak / MEGABYTE, { atMost: 300 })
  reportValue(`${what} | command line`, 'MB', mine.client / MEGABYTE, { atMost: 150 })
  reportValue(`${what} | nix-store`, 'MB', theirs.peak / MEGABYTE)
}

const scope = createScope()
try {
  await main(scope)
} finally {
  await scope.close()
}
