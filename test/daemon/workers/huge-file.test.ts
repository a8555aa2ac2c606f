import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import { createTreeNar } from '../../../daemon/workers/tree-nar.ts'
import { encodeStrings } from '../../../protocol/nar/wire.ts'

const withoutNix = spawnSync('nix-store', ['--version']).status !== 0 && 'Nix is not here'

t.test('a file over 4 GiB', { skip: withoutNix }, async t => {
  const dir = mkdtempSync(join(tmpdir(), 'narwharf-huge-'))
  const pool = createNarPool({ threads: 1 })
  t.teardown(async () => {
    await pool.close()
    rmSync(dir, { recursive: true })
  })
  await pool.open()
  const huge = join(dir, 'huge')
  const size = 2 ** 32 + 5
  const fd = openSync(huge, 'w')
  ftruncateSync(fd, size)
  // Not only zeros: bytes on both sides of 4 GiB. The rest stays a hole, so that the disk is not filled.
  writeSync(fd, 'below', 2 ** 32 - 3)
  closeSync(fd)

  const child = spawn('nix-store', ['--dump', huge], { stdio: ['ignore', 'pipe', 'inherit'] })
  const theirs = createHash('sha256')
  const hashing = (async () => {
    for await (const chunk of child.stdout) theirs.update(chunk as Buffer)
    return theirs.digest('hex')
  })()
  const ours = createHash('sha256')
  let narSize = 0
  const stream = pool.dump(huge)
  for await (const chunk of stream) {
    ours.update(chunk)
    narSize += chunk.length
    stream.recycle(chunk)
  }
  t.equal(ours.digest('hex'), await hashing, 'the NAR is that of nix-store --dump')
  t.equal(narSize, size + 3 + 112)

  const tail: Buffer[] = []
  for await (const chunk of pool.dump(huge, { offset: 96 + 2 ** 32 - 5, end: 96 + 2 ** 32 + 4 }))
    tail.push(chunk)
  t.equal(Buffer.concat(tail).toString('latin1'), '\0\0below\0\0', 'a range beyond 4 GiB')
  const source = createTreeNar(huge, { offset: narSize - 24 })
  const end = Buffer.alloc(100)
  t.equal(source.fill(end), 24, 'and one read by a worker')
  t.ok(
    end
      .subarray(0, 24)
      .equals(Buffer.concat([Buffer.from('ow'), Buffer.alloc(6), encodeStrings(')')])),
  )
})
