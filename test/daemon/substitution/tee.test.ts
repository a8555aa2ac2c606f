import { randomBytes } from 'node:crypto'
import { existsSync, linkSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCacheDirWriter } from '../../../daemon/holders/cache-dir-writer.ts'
import type { Candidate } from '../../../daemon/substitution/candidates.ts'
import { createTee } from '../../../daemon/substitution/tee.ts'
import { parseNarinfo } from '../../../protocol/narinfo.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { baseNameOf, hashPartOf } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, offerAll } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

/** A host whose cache takes what clients get from a peer. */
async function makeHost(t: Test, room = Infinity) {
  const dir = tempDir(t, 'cache')
  const from = tempDir(t, 'kept')
  const target = createCacheDirWriter({ dir })
  await target.open()
  const own = fakeHolder('nix-store:/nix/store', 'nix-store')
  const peer = fakeHolder('peer:a', 'peer')
  const warned: string[] = []
  let left = room
  const tee = createTee({
    target,
    space: async () => ({ room: async () => left, took: bytes => void (left -= bytes) }),
    holders: () => [own],
    lookAgainMs: 10,
    warn: (_path, problem) => void warned.push(problem),
  })
  t.teardown(() => tee.close())
  const give = (info: PathInfo, nar: Buffer, hasFile = true): string => {
    const file = join(from, baseNameOf(info.storePath))
    writeFileSync(file, nar, { mode: 0o600 })
    peer.put(info, nar)
    peer.kept = () => ({
      compression: 'none',
      fileHash: info.narHash,
      fileSize: nar.length,
      async link(to) {
        if (hasFile) linkSync(file, to)
        return hasFile
      },
    })
    const decision = offerAll() as Candidate['decision']
    tee.delivered({
      holder: peer,
      holding: peer.find(hashPartOf(info.storePath)) as never,
      decision,
    })
    return file
  }
  const narinfo = (info: PathInfo) => {
    const file = join(dir, `${hashPartOf(info.storePath)}.narinfo`)
    return existsSync(file) ? parseNarinfo(readFileSync(file)) : undefined
  }
  const unfinished = () => readdirSync(join(dir, 'nar')).filter(name => name.startsWith('.'))
  return { dir, own, tee, give, narinfo, warned, unfinished }
}

const nar = randomBytes(100_000)

t.test('the file that came is the cache’s, without a copy', async t => {
  const { dir, tee, give, narinfo, unfinished } = await makeHost(t)
  const info = fakePath('tool-1.0', nar)
  const file = give(info, nar)
  await tee.idle()
  const written = narinfo(info)
  t.match(written, { storePath: info.storePath, compression: 'none', fileSize: nar.length })
  const there = statSync(join(dir, written?.url ?? ''))
  t.equal(there.ino, statSync(file).ino, 'the very file')
  t.equal(there.mode & 0o777, 0o644)
  t.same(unfinished(), [])
  give(info, nar)
  await tee.idle()
  t.same(unfinished(), [], 'what is there is there')
})

t.test('what lies in memory is packed', async t => {
  const { dir, tee, give, narinfo } = await makeHost(t)
  const info = fakePath('tool-1.0', nar)
  give(info, nar, false)
  await tee.idle()
  t.match(narinfo(info), { compression: 'zstd', narSize: nar.length })
  t.ok(existsSync(join(dir, narinfo(info)?.url ?? 'nothing')))
})

t.test('a path stands only beside what it refers to', async t => {
  const { own, tee, give, narinfo, unfinished } = await makeHost(t)
  const [libc, lib] = [fakePath('libc-2', nar), fakePath('lib-1', nar)]
  const tool = fakePath(
    'tool-1.0',
    nar,
    [lib, libc].map(({ storePath }) => baseNameOf(storePath)),
  )
  give(tool, nar)
  give(lib, nar)
  await tee.idle()
  t.ok(narinfo(lib))
  t.equal(narinfo(tool), undefined, 'the other one is missing')
  t.equal(unfinished().length, 1, 'its bytes are kept for it')
  own.put(libc, nar)
  while (narinfo(tool) === undefined) await new Promise(resolve => setTimeout(resolve, 5))
  t.same(unfinished(), [], 'in the host’s store it will do')
})

t.test('the quota stands', async t => {
  const { tee, give, narinfo, unfinished, warned } = await makeHost(t, 250_000)
  const paths = ['a', 'b', 'c'].map(name => fakePath(name, nar))
  for (const info of paths) give(info, nar)
  await tee.idle()
  t.same(
    paths.map(info => narinfo(info) !== undefined),
    [true, true, false],
  )
  t.same([unfinished(), warned], [[], []])
})

t.test('a close leaves nothing half-done', async t => {
  const { tee, give, unfinished, narinfo } = await makeHost(t)
  const missing = baseNameOf(fakePath('missing', nar).storePath)
  const waiting = fakePath('waiting', nar, [missing])
  give(waiting, nar)
  await tee.idle()
  t.equal(unfinished().length, 1)
  await tee.close()
  t.same(unfinished(), [])
  give(fakePath('late', nar), nar)
  t.equal(narinfo(waiting), undefined)

  const other = await makeHost(t)
  const info = fakePath('tool', nar)
  other.own.broken = true
  const target = fakePath('with-reference', nar, [missing])
  other.give(target, nar)
  other.give(info, nar)
  await other.tee.idle()
  t.ok(other.narinfo(info), 'a holder that is out of reach stops nothing')
})
