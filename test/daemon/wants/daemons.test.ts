import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { MissingReply, WantsReply } from '../../../protocol/api-wants.ts'
import { decodeHaveDigest } from '../../../protocol/have-digest.ts'
import { formatNarinfo } from '../../../protocol/narinfo.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import {
  fingerprint,
  formatPublicKey,
  generateKeyPair,
  signText,
} from '../../../protocol/signature.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import { parseWantList } from '../../../protocol/want-list.ts'
import { runCli } from '../../helpers/control-server.ts'
import { daemonSkip, startDaemon, type RunningDaemon } from '../../helpers/daemon.ts'
import { fakePath } from '../../helpers/fake-holder.ts'
import { freePort, tempDir } from '../../helpers/scope.ts'

const key = generateKeyPair('depot-1')

const info = (name: string, ...references: PathInfo[]): PathInfo =>
  fakePath(
    name,
    Buffer.from(name),
    references.map(({ storePath }) => storePath.slice(11)),
  )
const zlib = info('zlib-1.2')
const tool = info('tool-2', zlib)
const app = info('app-3', tool, zlib)

/** A cache directory that has those paths, signed. */
function cacheOf(t: Test, infos: readonly PathInfo[]): string {
  const dir = tempDir(t, 'cache')
  mkdirSync(join(dir, 'nar'))
  writeFileSync(join(dir, 'nix-cache-info'), 'StoreDir: /nix/store\n')
  for (const one of infos) {
    const hashPart = hashPartOf(one.storePath)
    writeFileSync(join(dir, `nar/${hashPart}.nar`), 'x'.repeat(one.narSize))
    const text = formatNarinfo({
      ...one,
      ...{ url: `nar/${hashPart}.nar`, compression: 'none', fileSize: one.narSize },
      ...{ fileHash: undefined, signatures: [signText(fingerprint(one), key)] },
    })
    writeFileSync(join(dir, `${hashPart}.narinfo`), text)
  }
  return dir
}

const say = async (t: Test, daemon: RunningDaemon, ...words: readonly string[]) => {
  const ran = await runCli(t, ['--config', daemon.configFile, ...words], { columns: 'no terminal' })
  return { ...ran, json: () => JSON.parse(ran.stdout) as unknown }
}

/** Asks until it is so; fails with the last answer. */
async function until<T>(ask: () => Promise<T>, holds: (answer: T) => boolean): Promise<T> {
  const deadline = performance.now() + 20_000
  for (;;) {
    const answer = await ask()
    if (holds(answer)) return answer
    if (performance.now() > deadline) throw new Error(`not so: ${JSON.stringify(answer)}`)
    await wait(50)
  }
}

const trust = { publicKeys: [formatPublicKey(key.publicKey)] }

t.test('two hosts of a site', { skip: daemonSkip }, async t => {
  const cache = cacheOf(t, [app, tool])
  const a = await startDaemon(t, { hostName: 'alpha', trust, cache: { extraDirs: [cache] } })
  const port = await freePort()
  const b = await startDaemon(t, {
    ...{ hostName: 'beta', trust, network: { port, mdns: false } },
    cache: { keepShipments: true },
  })
  await say(t, a, 'site', 'init', 'lab')
  const invite = await say(t, a, 'invite', '--json')
  const { code } = invite.json() as { readonly code: string }
  const aPort = (JSON.parse(readFileSync(a.configFile, 'utf8')) as { network: { port: number } })
    .network.port
  const joined = await say(t, b, 'join', code, '--address', `127.0.0.1:${aPort}`)
  t.equal(joined.status, 0, joined.stderr)

  const added = await say(
    t,
    b,
    ...['want', 'add', 'firefox-*', zlib.storePath, '--priority', '2', '--by', 'anna', '--json'],
  )
  t.equal(added.status, 0, added.stderr)
  t.match(added.json(), {
    wants: [
      { kind: 'pattern', text: 'firefox-*', fulfilled: false, priority: 2, by: 'anna' },
      { kind: 'path', paths: 1, have: 0, missing: 1, host: 'beta', own: true },
    ],
  })
  const listed = await until(
    async () => (await say(t, a, 'want', 'list', '--json')).json() as WantsReply,
    ({ wants }) => wants.length === 2,
  )
  t.match(listed.wants[0], { host: 'beta', own: false, by: 'anna' })
  const exported = await say(t, a, 'want', 'export')
  t.match(parseWantList(Buffer.from(exported.stdout)).list, { site: 'lab', wants: [{}, {}] })
  t.match((await say(t, a, 'want', 'list')).stdout, /firefox-\* +nothing yet +anna +beta/)

  const missing = async (on: RunningDaemon, ...words: readonly string[]) => {
    const ran = await say(t, on, 'missing', '--json', ...words)
    t.equal(ran.stderr, '')
    return { status: ran.status, ...(ran.json() as MissingReply) }
  }
  const reasons = ({ missing: paths }: MissingReply) =>
    paths.map(({ storePath, reason }) => [storePath.slice(44), reason])
  const atB = await until(
    async () => missing(b, app.storePath),
    ({ missing: paths }) => paths.length === 1,
  )
  t.match(atB, { status: 3, place: 'site lab', closure: 3, there: 2 })
  t.same(reasons(atB), [['zlib-1.2', 'unknown']])
  t.same(reasons(await missing(b, '--here', app.storePath)), [
    ['app-3', 'elsewhere'],
    ['tool-2', 'elsewhere'],
    ['zlib-1.2', 'unknown'],
  ])
  t.same(reasons(await missing(a, '--wants')), [['zlib-1.2', 'unknown']])
  t.match(await missing(b, '--cache', cache, tool.storePath), { status: 3, there: 1 })

  const file = join(tempDir(t, 'have'), 'lab.have')
  const had = await say(t, b, 'have', '-o', file, '--json')
  t.match(had.json(), { site: 'lab', paths: 2, file })
  t.ok(decodeHaveDigest(readFileSync(file)).has(hashPartOf(app.storePath)))
  t.same(reasons(await missing(b, '--have', file, app.storePath)), [['zlib-1.2', 'unknown']])

  await a.stop()
  const away = await until(
    async () => missing(b, app.storePath),
    ({ missing: paths }) => paths.length === 3,
  )
  t.same(reasons(away), [
    ['app-3', 'away'],
    ['tool-2', 'away'],
    ['zlib-1.2', 'unknown'],
  ])
  t.match(away.missing[0]?.where, [{ host: 'alpha', up: false }])
  t.match((await say(t, b, 'missing', app.storePath)).stdout, /alpha, off, last seen on 2/)
  t.equal((await say(t, b, 'missing', app.storePath, '--paths')).stdout.split('\n').length, 4)

  const again = await b.restart()
  const after = (await say(t, again, 'want', 'list', '--json')).json() as WantsReply
  t.equal(after.wants.length, 2, 'wants are kept')
  const removed = await say(t, again, 'want', 'remove', 'firefox-*')
  t.match(removed.stdout, /no longer wanted: firefox-\*/)
  t.match((await say(t, again, 'want', 'remove', 'firefox-*')).stderr, /has no want firefox-\*/)
  t.match((await say(t, again, 'want', 'add', 'firefox')).stderr, /write firefox-\*/)
  t.match(
    (await say(t, again, 'missing', info('x.drv').storePath)).stderr,
    /nobody here has that derivation/,
  )
})
