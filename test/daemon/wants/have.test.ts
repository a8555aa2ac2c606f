import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import t, { type Test } from 'tap'
import { createCatalog, type Catalog } from '../../../daemon/catalog/catalog.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import { createHave, type HaveOptions } from '../../../daemon/wants/have.ts'
import { decodeHaveDigest, encodeHaveDigest } from '../../../protocol/have-digest.ts'
import { encodeIndexAdds } from '../../../protocol/index-block-encode.ts'
import type { IndexPath } from '../../../protocol/index-block.ts'
import { generateKeyPair, keyring } from '../../../protocol/signature.ts'
import { signerOf, verifySigned } from '../../../protocol/signed-json.ts'
import { hashPartOf } from '../../../protocol/store-path.ts'
import { deflate, syntheticPaths } from '../../helpers/index-paths.ts'
import { tempDir } from '../../helpers/scope.ts'

const OWN = 'aa'.repeat(32) as PeerKey
const PEER = 'bb'.repeat(32) as PeerKey
const OTHER = 'cc'.repeat(32) as PeerKey
const key = generateKeyPair('lab-1')
const sign = signerOf(key)

async function begin(t: Test) {
  const file = join(tempDir(t, 'have'), 'catalog.sqlite')
  const catalog = createCatalog({ file, writerThread: false })
  await catalog.open()
  t.teardown(() => catalog.close())
  const have = (options: Partial<HaveOptions> = {}) =>
    createHave({
      ...{ catalogFile: file, site: () => 'lab', sign, toldOnly: true },
      ...{ shipments: () => [], suspects: () => [], thread: false },
      ...options,
    })
  return { catalog, file, have }
}

async function index(catalog: Catalog, of: PeerKey, paths: readonly IndexPath[]) {
  const host = of === OWN ? undefined : 'peer'
  await catalog.indexes.begin(of, { epoch: 1, core: '0'.repeat(64), host })
  const blocks = encodeIndexAdds(paths, { firstPosition: 0, positionOf: () => undefined }, deflate)
  await catalog.indexes.apply(of, 1, 0, blocks)
  await catalog.indexes.finish(of, 1)
}

async function hold(
  catalog: Catalog,
  id: string,
  kind: 'cache-dir' | 'drive',
  paths: readonly IndexPath[],
) {
  await catalog.holders.upsert({ id, kind, storeDir: '/nix/store', host: 'lab', up: true })
  await catalog.holdings.add(
    id,
    paths.map(({ info }) => ({ storePath: info.storePath })),
  )
}

const alone = (paths: IndexPath[]) =>
  paths.map(one => ({ ...one, info: { ...one.info, references: [], deriver: undefined } }))
const parts = (paths: readonly IndexPath[]) => paths.map(({ info }) => hashPartOf(info.storePath))

t.test('what is in stores and caches of the site, and nothing else', async t => {
  const { catalog, have } = await begin(t)
  const all = alone([...syntheticPaths(600)])
  const cut = (n: number) => all.slice(n * 100, n * 100 + 100)
  await hold(catalog, 'cache-dir:/cache', 'cache-dir', [...cut(0), ...cut(1)])
  await index(catalog, OWN, cut(0))
  await index(catalog, PEER, [...cut(2), ...cut(3)])
  await hold(catalog, 'drive:d', 'drive', cut(4))
  const shipments = [{ id: 'ab'.repeat(16), parts: [1], of: 2 }]
  const onDrive = encodeHaveDigest(
    parts(cut(3)),
    { site: 'x', createdAt: '2026-07-25T10:00:00Z', shipments: [], salt: Buffer.alloc(16) },
    sign,
  )
  const suspects = () => [{ key: PEER, digests: [onDrive, Buffer.from('damaged')] }]
  const holds = (bytes: Buffer) => {
    const digest = decodeHaveDigest(bytes)
    return [0, 1, 2, 3, 4, 5].map(n => parts(cut(n)).filter(part => digest.has(part)).length)
  }

  const made = await have({ shipments: () => shipments }).make()
  const digest = decodeHaveDigest(made.bytes)
  t.same(holds(made.bytes), [100, 0, 100, 100, 0, 0], 'own told ones, and the peer’s')
  t.match(made, { site: 'lab', count: 300, root: digest.root })
  t.same(digest.shipments, shipments)
  t.equal(verifySigned(digest, keyring([key.publicKey])), 'lab-1')

  const again = await have().make()
  t.equal(again.root, made.root)
  t.notSame(again.bytes, made.bytes, 'another salt each time')
  t.same(holds((await have({ toldOnly: false }).make()).bytes), [100, 100, 100, 100, 0, 0])
  t.same(
    holds((await have({ suspects }).make()).bytes),
    [100, 0, 100, 0, 0, 0],
    'what a peer has only on a drive leaves again',
  )
  t.same(
    holds((await have({ suspects }).make({ drives: true })).bytes),
    [100, 0, 100, 100, 100, 0],
    'drives too, when asked for',
  )
  await index(catalog, OTHER, cut(3))
  t.same(holds((await have({ suspects }).make()).bytes), [100, 0, 100, 100, 0, 0])
})

t.test('as it travels on a drive', async t => {
  const { catalog, have } = await begin(t)
  await index(catalog, PEER, alone([...syntheticPaths(10)]))
  const { file, bytes } = await have({
    clock: () => new Date('2026-07-25T10:00:00Z'),
  }).travelFile()
  t.equal(file, 'narwharf/have/lab-2026-07-25T10-00-00Z.have')
  t.equal(decodeHaveDigest(bytes).count, 10)
})

t.test('a catalog that is not there is said', async t => {
  const { have } = await begin(t)
  const lost = have({ catalogFile: join(tempDir(t, 'none'), 'catalog.sqlite') })
  await t.rejects(lost.make(), { code: 'CATALOG_UNUSABLE' })
})

t.test('a hundred thousand paths, while the main thread serves', async t => {
  const { catalog, have } = await begin(t)
  await index(catalog, PEER, alone([...syntheticPaths(100_000)]))
  await catalog.indexes.tidied()
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const at = performance.now()
  const { bytes, count } = await have({ thread: true }).make()
  const tookMs = performance.now() - at
  delay.disable()
  t.equal(count, 100_000)
  t.ok(bytes.length < 430_000, `${bytes.length} bytes`)
  t.comment(`${tookMs.toFixed(0)} ms, longest wait ${(delay.max / 1e6).toFixed(0)} ms`)
})
