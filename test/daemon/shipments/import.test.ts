import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { ImportStep } from '../../../daemon/shipments/import-run.ts'
import { formatExportSignatures } from '../../../protocol/export-signatures.ts'
import { parseNarinfo } from '../../../protocol/narinfo.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { generateKeyPair, sign } from '../../../protocol/signature.ts'
import { hashPartOf, parseBaseName, parseStorePath } from '../../../protocol/store-path.ts'
import { hashOf } from '../../../protocol/hash.ts'
import { fakeHolder } from '../../helpers/fake-holder.ts'
import {
  archiveOf,
  bookOf,
  exportFixture,
  inChunks,
  makeImportRig,
} from '../../helpers/import-rig.ts'
import { narOf } from '../../helpers/nix-store.ts'
import { infoOf } from '../../helpers/ship-rig.ts'
import { tempDir } from '../../helpers/scope.ts'

const HOSTILE = join(process.cwd(), '../shared/data/bad/export')

const nameOf = (step: ImportStep) => ('storePath' in step ? step.storePath.slice(44) : step.event)

/** What came of each path, in a word each. */
const outcome = (steps: readonly ImportStep[]): Record<string, string> =>
  Object.fromEntries(
    steps.flatMap(step =>
      step.event === 'end' || step.event === 'progress'
        ? []
        : [[nameOf(step), step.event === 'accepted' ? step.proof.how : step.event]],
    ),
  )

const closure = exportFixture('closure.export')
const sideFile = bookOf(exportFixture('closure.path-info.json'))

t.test('content proves itself, signatures prove the rest', async t => {
  const { run, cache, unfinished, narinfos, dir } = await makeImportRig(t)
  const alone = await run(closure)
  t.strictSame(outcome(alone.steps), {
    'none.txt': 'content-addressed',
    'text.txt': 'content-addressed',
    'fixed.txt': 'content-addressed',
    tree: 'content-addressed',
    'lib-1.0': 'refused',
    'app-1.0': 'refused',
  })
  t.match(alone.steps.at(-1), { event: 'end', accepted: 4, there: 0, refused: 2 })
  const again = await run(closure, { signatures: sideFile })
  t.match(again.steps.at(-1), { event: 'end', accepted: 2, there: 4, refused: 0 })
  t.match(
    again.steps.find(step => nameOf(step) === 'app-1.0'),
    { event: 'accepted', proof: { how: 'signed', key: 'golden-1' } },
  )
  t.equal(narinfos(), 6)
  t.strictSame(unfinished(), [])
  for (const step of [...alone.steps, ...again.steps]) {
    if (step.event !== 'accepted') continue
    const holding = await cache.find(hashPartOf(parseStorePath(step.storePath)))
    t.equal(holding && (await cache.verify(holding)).problem, undefined, step.storePath)
    const file = join(dir, `${hashPartOf(parseStorePath(step.storePath))}.narinfo`)
    t.ok(parseNarinfo(readFileSync(file)).signatures.length > 0)
  }
  const third = await run(closure, { signatures: sideFile })
  t.match(third.steps.at(-1), { event: 'end', accepted: 0, there: 6, refused: 0 })
})

t.test('an archive in any pieces', async t => {
  for (const size of [1, 13, 1000]) {
    const { run } = await makeImportRig(t)
    const { steps } = await run(inChunks(closure, size) as never, { signatures: sideFile })
    t.match(steps.at(-1), { accepted: 6, refused: 0 })
  }
})

t.test('references must be there', async t => {
  const { run, unfinished } = await makeImportRig(t)
  const { steps } = await run(exportFixture('app-alone.export'), { signatures: sideFile })
  t.match(steps, [
    { event: 'refused', problem: /refers to .*text\.txt, which is neither/ },
    { refused: 1 },
  ])
  const lib = infoOf('lib', narOf('lib'))
  const app = infoOf('app', narOf('app'), ['lib', 'app'])
  const both = archiveOf([lib, narOf('lib')], [app, narOf('app')])
  const onlyApp = await run(both, { trust: ['app'] })
  t.match(onlyApp.steps, [
    { event: 'refused', storePath: lib.storePath },
    { event: 'refused', storePath: app.storePath, problem: /lib, which was refused/ },
    { event: 'end' },
  ])
  const wrongOrder = await run(archiveOf([app, narOf('app')], [lib, narOf('lib')]), {
    trust: ['*'],
  })
  t.strictSame(outcome(wrongOrder.steps), { app: 'refused', lib: 'trusted' })
  t.strictSame(unfinished(), [])
})

t.test('the operator vouches by name', async t => {
  const { run, trust, cache } = await makeImportRig(t, { trust: { deny: ['*-secrets-*'] } })
  const names = ['tool-1.0', 'tool-2.0', 'other', 'my-secrets-1', 'exact']
  const archive = archiveOf(...names.map(name => [infoOf(name, narOf(name)), narOf(name)] as const))
  const exact = infoOf('exact', narOf('exact')).storePath
  const { steps } = await run(archive, { trust: ['tool-*', exact, 'my-*'] })
  t.strictSame(outcome(steps), {
    'tool-1.0': 'trusted',
    'tool-2.0': 'trusted',
    other: 'refused',
    'my-secrets-1': 'refused',
    exact: 'trusted',
  })
  t.match(
    steps.find(step => nameOf(step) === 'my-secrets-1'),
    { problem: /share\.deny/ },
  )
  const holding = await cache.find(hashPartOf(exact))
  t.ok(holding)
  if (holding === undefined) return
  const decision = await trust.decide(cache, holding)
  t.match(decision, { offered: true, reason: 'signed', key: 'lab-3-1', public: false })
})

t.test('what the same content elsewhere proves', async t => {
  const lib = infoOf('lib', narOf('lib'))
  const twin = infoOf('twin', narOf('twin'))
  const own = fakeHolder('nix-store:/nix/store', 'nix-store')
  own.put(lib, narOf('lib'))
  own.put({ ...twin, narHash: hashOf('sha256', 'another build') }, narOf('twin'))
  const { run } = await makeImportRig(t, { others: [own], trust: { store: 'all' } })
  const { steps } = await run(archiveOf([lib, narOf('lib')], [twin, narOf('twin')]))
  t.match(steps, [
    { event: 'refused', storePath: twin.storePath },
    { event: 'accepted', storePath: lib.storePath, proof: { how: 'known', holder: own.id } },
    { event: 'end' },
  ])
})

t.test('signatures that are not what they say', async t => {
  const { run } = await makeImportRig(t)
  const key = generateKeyPair('golden-1')
  const info = infoOf('lib', narOf('lib'))
  const stranger = generateKeyPair('stranger-1')
  const cases: readonly (readonly [PathInfo, RegExp])[] = [
    [{ ...info, signatures: [sign(info, key)] }, /only by golden-1/],
    [{ ...info, signatures: [sign(info, stranger)] }, /only by stranger-1/],
    [{ ...info, narHash: hashOf('sha256', 'x') }, /speaks of another content/],
    [{ ...info, ca: `fixed:r:sha256:${'0'.repeat(52)}` }, /content address/],
  ]
  for (const [said, problem] of cases) {
    const signatures = bookOf(formatExportSignatures(said))
    const { steps } = await run(archiveOf([info, narOf('lib')]), { signatures })
    t.match(steps[0], { event: 'refused', problem })
  }
  const otherName = { ...info, storePath: parseStorePath(`${info.storePath}-x`) }
  const { steps } = await run(archiveOf([info, narOf('lib')]), {
    signatures: bookOf(formatExportSignatures(otherName)),
  })
  t.match(steps[0], { event: 'refused', problem: /has no signature/ })
})

t.test('a fixed output is held to its derivation, even where it is vouched for', async t => {
  const { run } = await makeImportRig(t)
  const nar = narOf('forged\n')
  const fixed = closureInfo('fixed.txt')
  const forged = archiveOf([fixed, nar])
  const before = await run(forged)
  t.match(before.steps[0], { event: 'refused', problem: /does not prove it/ })
  const drv = exportFixture('derivation.export')
  const both = Buffer.concat([drv.subarray(0, -8), forged])
  const { steps } = await run(both, { trust: ['*'] })
  t.strictSame(outcome(steps), { 'fixed.txt.drv': 'content-addressed', 'fixed.txt': 'refused' })
  t.match(
    steps.find(step => step.event === 'refused'),
    { problem: /derivation .* fixes it to/ },
  )
  const right = Buffer.concat([drv.subarray(0, -8), archiveOf([fixed, narOf('fixed\n')])])
  t.match((await run(right)).steps.at(-1), { accepted: 1, there: 1, refused: 0 })
})

/** What the golden archive says of a path. */
function closureInfo(name: string): PathInfo {
  const said = [...sideFile.values()].find(({ storePath }) => storePath.endsWith(`-${name}`))
  if (said === undefined) throw new Error(name)
  const deriver = parseBaseName('19injd05fi89g0w5rlxadd9kzmj1crcp-fixed.txt.drv')
  return { ...said, narSize: 120, references: [], deriver }
}

t.test('a broken archive: what stood before it stays', async t => {
  const { run, unfinished, narinfos } = await makeImportRig(t)
  const cut = await run(closure.subarray(0, -20), { signatures: sideFile })
  t.match(cut.error, { code: 'EXPORT_INVALID', message: /ends early/ })
  t.equal(narinfos(), cut.steps.length)
  t.ok(narinfos() >= 4)
  t.strictSame(unfinished(), [])
  const junk = await run(Buffer.concat([closure, Buffer.from('junk')]), { signatures: sideFile })
  t.match(junk.error, { code: 'EXPORT_INVALID', message: /bytes follow/ })
  t.equal(narinfos(), 6)
})

t.test('stopped, or cut off, at any moment', async t => {
  const { run, unfinished } = await makeImportRig(t)
  const big = narOf({ dir: { noise: randomBytes(3_000_000), text: 'line\n'.repeat(100_000) } })
  const archive = archiveOf([infoOf('big', big), big])
  for (const after of [0, 1, 20, 40, 53]) {
    const abort = new AbortController()
    const stopping = async function* () {
      let count = 0
      for await (const chunk of inChunks(archive)) {
        if (count++ === after) abort.abort(new Error('told to stop'))
        yield chunk
      }
    }
    t.match((await run(stopping(), { trust: ['*'] }, abort.signal)).error, {
      message: 'told to stop',
    })
    const cut = async function* () {
      let count = 0
      for await (const chunk of inChunks(archive)) {
        if (count++ === after) throw new Error('the drive was pulled')
        yield chunk
      }
    }
    t.match((await run(cut(), { trust: ['*'] })).error, { message: 'the drive was pulled' })
    t.strictSame(unfinished(), [], `after ${after} chunks`)
  }
  const hanging = async function* () {
    yield archive.subarray(0, 100)
    await new Promise(() => {})
  }
  const abort = new AbortController()
  const waiting = run(hanging(), {}, abort.signal)
  setImmediate(() => abort.abort(new Error('enough')))
  t.match((await waiting).error, { message: 'enough' }, 'a sender that says nothing')
  t.match((await run(archive, { trust: ['*'] })).steps.at(-1), { accepted: 1 })
})

t.test('another content under a path that is there', async t => {
  const { run } = await makeImportRig(t)
  const info = infoOf('x', narOf('one'))
  await run(archiveOf([info, narOf('one')]), { trust: ['*'] })
  const { steps } = await run(archiveOf([info, narOf('two')], [info, narOf('one')]), {
    trust: ['*'],
  })
  t.match(steps, [
    { event: 'there', differs: true },
    { event: 'there', differs: false },
    { event: 'end', there: 2 },
  ])
  const fresh = infoOf('twice', narOf('one'))
  const twice = await run(archiveOf([fresh, narOf('one')], [fresh, narOf('two')]), { trust: ['*'] })
  t.match(twice.steps, [
    { event: 'there', differs: true },
    { event: 'accepted' },
    { event: 'end', accepted: 1, there: 1 },
  ])
})

const canMount = (): false | string =>
  process.getuid?.() === 0 && process.platform === 'linux' ? false : 'needs root on Linux'

/** A file system of that size, unmounted with the test. */
function smallDisk(t: Test, bytes: number): string {
  const dir = join(tempDir(t, 'small'), 'disk')
  mkdirSync(dir)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', dir])
  if (mounted.status !== 0) throw new Error(String(mounted.stderr))
  t.teardown(() => spawnSync('umount', ['-l', dir]))
  return dir
}

t.test('a full disk', { skip: canMount() }, async t => {
  const dir = smallDisk(t, 1024 * 1024)
  const { run, unfinished, cache } = await makeImportRig(t, { dir })
  const small = narOf(randomBytes(200_000))
  const big = narOf(randomBytes(2_000_000))
  const archive = archiveOf([infoOf('small', small), small], [infoOf('big', big), big])
  const { steps, error } = await run(archive, { trust: ['*'] })
  t.match(error, { code: 'CACHE_UNWRITABLE', message: /no space|ENOSPC/ })
  t.strictSame(outcome(steps), { small: 'trusted' }, 'what fitted stands')
  t.strictSame(unfinished(), [])
  const holding = await cache.find(hashPartOf(infoOf('small', small).storePath))
  t.equal(holding && (await cache.verify(holding)).problem, undefined)
})

t.test('many small paths and one large among them, by a thread', async t => {
  const { run, narinfos } = await makeImportRig(t, { thread: true })
  const paths = Array.from({ length: 400 }, (_, index) => {
    const nar = index === 200 ? narOf(randomBytes(2_500_000)) : narOf(`path ${index}\n`)
    const references = index === 0 ? [] : [`p${index - 1}`]
    return [infoOf(`p${index}`, nar, references), nar] as const
  })
  const { steps } = await run(archiveOf(...paths), { trust: ['*'] })
  t.match(steps.at(-1), { event: 'end', accepted: 400, refused: 0 })
  t.strictSame(
    steps.slice(0, -1).map(nameOf),
    paths.map((_, index) => `p${index}`),
    'in their order',
  )
  t.equal(narinfos(), 400)
})

/** The careful reaction to each: how many paths are there afterwards, without a word and where the operator vouches for all. */
const REACTIONS: Readonly<
  Record<string, readonly [alone: number, vouched: number, problem?: RegExp]>
> = {
  // First: its references come with others.
  'e1-app-only.export': [0, 0],
  'b01-truncated.export': [0, 0, /ends early/],
  'b02-no-end-marker.export': [0, 3, /ends early/],
  'b04-bad-magic.export': [0, 0, /no end of one/],
  'b05-path-outside-store.export': [0, 0, /not below/],
  'b07-bad-name.export': [0, 0, /character/],
  'b08-ref-missing.export': [0, 0],
  'b10-arbitrary-input-addressed.export': [0, 1],
  // These two have the hash part of b10's path, which is there by then.
  'b11-with-legacy-signature.export': [0, 0],
  'b13-just-end.export': [0, 0],
  'b14-nar-tampered.export': [0, 1],
  'b16-deriver-bad.export': [0, 0, /not below/],
  'b17-self-ref.export': [0, 0],
  'e2-closure.export': [0, 3],
  'e4-drvclosure.export': [3, 3],
}

for (const trust of [[], ['*']]) {
  t.test(
    `hostile archives, vouched for: ${trust.join('') || 'none'}`,
    { skip: existsSync(HOSTILE) ? false : 'needs ../shared/data/bad/export' },
    async t => {
      t.strictSame(readdirSync(HOSTILE).sort(), Object.keys(REACTIONS).sort())
      const { run, unfinished, narinfos } = await makeImportRig(t)
      const standing = new Set<string>()
      for (const [name, [alone, vouched, problem]] of Object.entries(REACTIONS)) {
        const { steps, error } = await run(readFileSync(join(HOSTILE, name)), { trust })
        const kept = steps.filter(({ event }) => event === 'accepted' || event === 'there')
        t.equal(kept.length, trust.length === 0 ? alone : vouched, `${name}: kept`)
        for (const step of kept) standing.add('storePath' in step ? step.storePath : '')
        t.equal(narinfos(), standing.size, `${name}: nothing else`)
        if (problem === undefined) t.equal(error, undefined, name)
        else t.match(error, { code: 'EXPORT_INVALID', message: problem }, name)
        t.strictSame(unfinished(), [], `${name}: nothing half-done`)
      }
    },
  )
}
