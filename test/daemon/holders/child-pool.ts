import { createHash } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawn, spawnSync } from 'node:child_process'
import type { ByteRange, ByteStream } from '../../../daemon/workers/byte-stream.ts'
import type { NarPool } from '../../../daemon/workers/nar-pool.ts'
import { NarwharfError } from '../../../protocol/errors.ts'
import type { Compression } from '../../../protocol/path-info.ts'

// A NarPool of child processes: `nix-store --dump`, the unpackers, `nix nar ls`. Slow, and nothing of narwharf's own.

const UNPACKERS: Readonly<Record<Exclude<Compression, 'br'>, readonly string[]>> = {
  none: ['cat'],
  xz: ['xz', '-dc'],
  zstd: ['zstd', '-dc'],
  bzip2: ['bzip2', '-dc'],
  gzip: ['gzip', '-dc'],
}
/** Why tests over packed files are skipped here, or false. */
export const noUnpackers: string | false = (() => {
  const missing = ['xz', 'zstd', 'bzip2', 'gzip', 'brotli'].filter(
    program => spawnSync(program, ['--help'], { stdio: 'ignore' }).error !== undefined,
  )
  return missing.length > 0 && `not installed: ${missing.join(', ')}`
})()

const unpacker = (compression: Compression): readonly string[] =>
  compression === 'br' ? ['brotli', '-dc'] : UNPACKERS[compression]

function childStream(command: readonly string[], file: string, range: ByteRange = {}): ByteStream {
  const [program = '', ...args] = command
  const child = spawn(program, [...args, file], { stdio: ['ignore', 'pipe', 'ignore'] })
  const exited = new Promise<number | null>(resolve => child.on('close', resolve))
  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    let position = 0
    const { offset = 0, end = Infinity } = range
    for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
      const from = Math.max(0, offset - position)
      const to = Math.min(chunk.length, end - position)
      position += chunk.length
      if (from < to) yield chunk.subarray(from, to)
    }
    if ((await exited) !== 0)
      throw new NarwharfError('NAR_INVALID', { problem: 'child failed', offset: position })
  }
  return { recycle() {}, destroy: () => void child.kill(), [Symbol.asyncIterator]: chunks }
}

async function digest(stream: ByteStream, signal?: AbortSignal) {
  const hash = createHash('sha256')
  let narSize = 0
  for await (const chunk of stream) {
    signal?.throwIfAborted()
    hash.update(chunk)
    narSize += chunk.length
  }
  signal?.throwIfAborted()
  return { narHash: hash.digest(), narSize }
}

const DUMP = ['nix-store', '--dump']

const narOfStream = async (stream: ByteStream) => {
  const parts: Buffer[] = []
  for await (const chunk of stream) parts.push(chunk)
  return Buffer.concat(parts)
}
let count = 0
const list = async (stream: ByteStream) => {
  const file = join(tmpdir(), `narwharf-list-${process.pid}-${++count}`)
  writeFileSync(file, await narOfStream(stream))
  const done = spawnSync('nix', [
    '--extra-experimental-features',
    'nix-command',
    'nar',
    'ls',
    '--json',
    '--recursive',
    file,
    '/',
  ])
  rmSync(file)
  return Buffer.from(JSON.stringify({ version: 1, root: JSON.parse(done.stdout.toString()) }))
}

export function createNarPool(): NarPool {
  return {
    async open() {},
    async close() {},
    dump: (root, range) => childStream(DUMP, root, range),
    dumpZstd: (root, range) => childStream(DUMP, root, range),
    decompress: (file, compression, range) => childStream(unpacker(compression), file, range),
    digestTree: (root, signal) => digest(childStream(DUMP, root), signal),
    async digestFile(file, compression, signal) {
      const bytes = readFileSync(file)
      return {
        ...(await digest(childStream(unpacker(compression), file), signal)),
        fileHash: createHash('sha256').update(bytes).digest(),
        fileSize: bytes.length,
      }
    },
    listTree: root => list(childStream(DUMP, root)),
    listFile: (file, compression) => list(childStream(unpacker(compression), file)),
  }
}
