import { createHash } from 'node:crypto'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createCacheDirHolder } from '../../../daemon/holders/cache-dir.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import { encodeHaveDigest } from '../../../protocol/have-digest.ts'
import { parseShipment } from '../../../protocol/shipment.ts'
import { readShipmentIndex, type ShipmentEntry } from '../../../protocol/shipment-index.ts'
import { keyring } from '../../../protocol/signature.ts'
import { signerOf, verifySigned } from '../../../protocol/signed-json.ts'
import { hashPartOf, nameOf } from '../../../protocol/store-path.ts'
import { formatWantList } from '../../../protocol/want-list.ts'
import { inflate } from '../../helpers/index-paths.ts'
import { pathOf } from '../../helpers/nix-store.ts'
import { tempDir } from '../../helpers/scope.ts'
import { DEPOT_KEY, makeDepot, sampleClosure, writeCache } from '../../helpers/ship-rig.ts'

const pool = createNarPool()
await pool.open()
t.teardown(() => pool.close())

const NAMES = Object.keys(sampleClosure(1))

/** Every file below a directory with the hash of its bytes. */
function filesOf(dir: string, below = ''): Record<string, string> {
  const found: Record<string, string> = {}
  for (const entry of readdirSync(join(dir, below), { withFileTypes: true })) {
    const name = below === '' ? entry.name : `${below}/${entry.name}`
    if (entry.isDirectory()) Object.assign(found, filesOf(dir, name))
    else
      found[name] = createHash('sha256')
        .update(readFileSync(join(dir, name)))
        .digest('hex')
  }
  return found
}

async function readIndex(dir: string): Promise<ShipmentEntry[]> {
  const { manifest } = parseShipment(readFileSync(join(dir, 'narwharf/shipment.json')))
  const entries: ShipmentEntry[] = []
  for (const { kind, file, sha256, size } of manifest.sections) {
    if (kind !== 'index') continue
    const bytes = readFileSync(join(dir, file))
    if (bytes.length !== size || createHash('sha256').update(bytes).digest('hex') !== sha256) {
      throw new Error(`${file} is not what the manifest says`)
    }
    for await (const some of readShipmentIndex([bytes], inflate)) entries.push(...some)
  }
  return entries
}

/** Names that lie there, each read whole. */
async function rightNames(dir: string): Promise<string[]> {
  const holder = createCacheDirHolder({ dir, pool, expectedStoreDir: '/nix/store' })
  const names: string[] = []
  for await (const paths of holder.paths()) {
    for (const path of paths) {
      const holding = await holder.find(hashPartOf(path))
      if (holding === undefined) throw new Error(`${path} is not found`)
      const { problem } = await holder.verify(holding)
      if (problem !== undefined) throw problem
      names.push(nameOf(path))
    }
  }
  return names.sort()
}

const unfinished = (dir: string) =>
  Object.keys(filesOf(dir)).filter(name => name.includes('unfinished'))

t.test('a closure, packed', async t => {
  const cache = join(tempDir(t, 'ship'), 'cache')
  await writeCache(cache, sampleClosure())
  const depot = await makeDepot(t, [cache])
  const dir = join(tempDir(t, 'ship'), 'drive')
  const result = await depot.ship({ dir, roots: [pathOf('top')] })
  t.match(result, { state: 'done', wanted: 6, had: 0, leftPaths: 0, missingPaths: 0 })
  t.match(result.parts, [{ part: 1, paths: 6, there: 0, written: 6 }])
  t.same(await rightNames(dir), [...NAMES].sort(), 'a cache of it')
  const read = parseShipment(readFileSync(join(dir, 'narwharf/shipment.json')))
  t.equal(verifySigned(read, keyring([DEPOT_KEY.publicKey])), 'depot-1', 'signed')
  t.match(read.manifest, {
    depot: 'depot',
    name: 'drive',
    ...{ part: 1, parts: 1, paths: 6 },
    createdAt: '2026-01-02T03:04:05Z',
    roots: [pathOf('top')],
    splits: [],
  })
  const entries = await readIndex(dir)
  const seen = new Set<string>()
  for (const { info } of entries) {
    for (const reference of info.references) {
      if (!info.storePath.endsWith(reference) && !seen.has(reference)) t.fail('out of order')
    }
    seen.add(info.storePath.slice(11))
    t.same(
      readFileSync(join(dir, `${hashPartOf(info.storePath)}.narinfo`), 'latin1').match(
        /^Sig: \S+$/m,
      )?.[0],
      `Sig: ${info.signatures[0]}`,
    )
  }
  t.same(entries.length, 6)

  await t.test(
    'the same again elsewhere, to the byte, from another holder that has it',
    async t => {
      const other = join(tempDir(t, 'ship'), 'drive')
      await depot.ship({ dir: other, roots: [pathOf('top')] })
      t.same(filesOf(other), filesOf(dir))
    },
  )
  await t.test('a second run writes nothing', async t => {
    const before = statSync(join(dir, 'narwharf/shipment.json')).mtimeMs
    const again = await depot.ship({
      dir,
      roots: [pathOf('top')],
      createdAt: '2027-01-02T03:04:05Z',
    })
    t.match(again, { state: 'done', parts: [{ paths: 6, there: 6, written: 0, writtenBytes: 0 }] })
    t.equal(statSync(join(dir, 'narwharf/shipment.json')).mtimeMs, before, 'nor another manifest')
  })
  await t.test('topped up', async t => {
    const more = join(tempDir(t, 'ship'), 'more')
    await writeCache(more, { extra: { tree: 'extra\n' } })
    const result = await depot.ship({ dir, roots: [pathOf('extra')], from: more })
    t.match(result, { state: 'done', parts: [{ paths: 1, written: 1 }] })
    const { manifest } = parseShipment(readFileSync(join(dir, 'narwharf/shipment.json')))
    t.equal(manifest.paths, 7, 'the manifest counts all that lies there')
    t.same(manifest.roots, [pathOf('extra'), pathOf('top')].sort())
    t.not(manifest.id, read.manifest.id)
    t.equal((await readIndex(dir)).length, 7)
    t.equal(readdirSync(join(dir, 'narwharf/index')).length, 1, 'the old index is gone')
  })
  await t.test('replaced', async t => {
    const result = await depot.ship({ dir, roots: [pathOf('bash')], replace: true })
    t.match(result, { state: 'done', parts: [{ paths: 2, there: 2, written: 0 }] })
    t.same(await rightNames(dir), ['bash', 'glibc'])
    t.equal(readdirSync(join(dir, 'nar')).length, 2)
    t.equal((await readIndex(dir)).length, 2)
  })
})

t.test('uncompressed NARs are packed, the same whoever gives them', async t => {
  const [plain, packed] = [join(tempDir(t, 'ship'), 'plain'), join(tempDir(t, 'ship'), 'packed')]
  const closure = sampleClosure()
  await writeCache(plain, closure, 'none')
  const drives = await Promise.all(
    [1, 2].map(async () => {
      const depot = await makeDepot(t, [plain])
      const dir = join(tempDir(t, 'ship'), 'drive')
      await depot.ship({ dir, roots: [pathOf('top')] })
      return dir
    }),
  )
  t.same(filesOf(drives[0] ?? ''), filesOf(drives[1] ?? ''))
  t.same(await rightNames(drives[0] ?? ''), [...NAMES].sort())
  t.ok(
    readdirSync(join(drives[0] ?? '', 'nar')).every(name => name.endsWith('.zst')),
    'all are zstd',
  )
  await writeCache(packed, closure)
  const depot = await makeDepot(t, [plain, packed])
  const dir = join(tempDir(t, 'ship'), 'drive')
  await depot.ship({ dir, roots: [pathOf('gtk')] })
  const [name] = readdirSync(join(packed, 'nar')).filter(one => existsSync(join(dir, 'nar', one)))
  t.ok(name, 'where there is a packed one, that is taken as it is')
})

t.test('less what they have, and what they want first', async t => {
  const cache = join(tempDir(t, 'ship'), 'cache')
  await writeCache(cache, sampleClosure())
  const depot = await makeDepot(t, [cache])
  const files = tempDir(t, 'ship')
  const sign = signerOf(DEPOT_KEY)
  const have = join(files, 'site.have')
  writeFileSync(
    have,
    encodeHaveDigest(
      ['glibc', 'gtk'].map(name => hashPartOf(pathOf(name))),
      {
        site: 'island',
        createdAt: '2026-01-01T00:00:00Z',
        shipments: [],
        salt: Buffer.alloc(16, 1),
      },
      sign,
    ),
  )
  const wantOf = (name: string, priority: number, paths = [pathOf(name)]) => ({
    ...{ id: name, kind: 'path' as const, text: pathOf(name), paths, priority },
    ...{ by: 'ada', since: '2026-01-01T00:00:00Z' },
  })
  const want = join(files, 'site.want')
  const storeDir = '/nix/store'
  writeFileSync(
    want,
    formatWantList(
      {
        ...{ site: 'island', createdAt: '2026-01-01T00:00:00Z', storeDir },
        wants: [wantOf('firefox', 5), wantOf('bash', 1), wantOf('lost', 1)],
      },
      sign,
    ),
  )
  const dir = join(files, 'drive')
  const result = await depot.ship({ dir, have: [have], want: [want] })
  t.match(result, { state: 'partly', wanted: 3, had: 2, missingPaths: 1 })
  t.same(result.missing, [{ storePath: pathOf('lost'), problem: 'nobody within reach offers it' }])
  const names = (await readIndex(dir)).map(({ info }) => nameOf(info.storePath))
  t.same(names, ['bash', 'firefox'], 'in the order of urgency, and nothing that is had')
  const { manifest } = parseShipment(readFileSync(join(dir, 'narwharf/shipment.json')))
  t.match(manifest.against, { site: 'island' })

  await t.test('a drive too small takes the most wanted', async t => {
    const small = join(files, 'small')
    const limited = await depot.ship({ dir: small, have: [have], want: [want], sizeLimit: 100_000 })
    t.match(limited, { state: 'partly', leftPaths: 1, left: [pathOf('firefox')] })
    t.same(await rightNames(small), ['bash'])
  })
  await t.test('a plan writes nothing', async t => {
    const none = join(files, 'none')
    const planned = await depot.ship({ dir: none, have: [have], want: [want], dryRun: true })
    t.match(planned, { dryRun: true, parts: [{ paths: 2, written: 0 }] })
    t.notOk(existsSync(none))
  })
})

t.test('several drives', async t => {
  const cache = join(tempDir(t, 'ship'), 'cache')
  await writeCache(cache, sampleClosure())
  const depot = await makeDepot(t, [cache])
  const base = tempDir(t, 'ship')
  const all = join(base, 'all')
  const result = await depot.ship({ dir: all, roots: [pathOf('top')], split: 2 })
  t.match(result, { state: 'done', of: 2, parts: [{ part: 1 }, { part: 2 }] })
  const names = await Promise.all([1, 2].map(part => rightNames(join(all, `part-${part}`))))
  t.same(names.flat().sort(), [...NAMES].sort(), 'everything is on one of them')
  t.ok(names.every(some => some.length > 0))
  const manifests = [1, 2].map(
    part => parseShipment(readFileSync(join(all, `part-${part}/narwharf/shipment.json`))).manifest,
  )
  t.equal(manifests[0]?.id, manifests[1]?.id, 'one shipment')
  t.same(
    manifests.map(({ part, parts }) => [part, parts]),
    [
      [1, 2],
      [2, 2],
    ],
  )
  await t.test('one after the other comes to the same', async t => {
    for (const part of [1, 2]) {
      const dir = join(base, `stick-${part}`)
      await depot.ship({ dir, roots: [pathOf('top')], split: 2, part, name: 'all' })
      t.same(filesOf(dir), filesOf(join(all, `part-${part}`)))
    }
  })
})

t.test('a NAR too large for the file system lies in several files', async t => {
  const cache = join(tempDir(t, 'ship'), 'cache')
  await writeCache(cache, sampleClosure(300_000))
  const depot = await makeDepot(t, [cache])
  const dir = join(tempDir(t, 'ship'), 'fat')
  const wish = { dir, roots: [pathOf('top')], maxFileSize: 250_000 }
  t.match(await depot.ship(wish), { state: 'done', parts: [{ written: 6 }] })
  const { manifest } = parseShipment(readFileSync(join(dir, 'narwharf/shipment.json')))
  t.equal(manifest.splits.length, 2)
  for (const { url, parts } of manifest.splits) {
    t.notOk(existsSync(join(dir, url)))
    const [, hash] = /nar\/(\w+)\.nar/.exec(url) ?? []
    const bytes = Buffer.concat(
      Array.from({ length: parts }, (_, part) =>
        readFileSync(join(dir, `${url}.${String(part).padStart(3, '0')}`)),
      ),
    )
    const source = readFileSync(join(cache, 'nar', `${hash}.nar.zst`))
    t.ok(bytes.equals(source), 'together they are the file')
  }
  t.same((await readIndex(dir)).filter(({ parts }) => parts !== undefined).length, 2)
  t.match(await depot.ship(wish), { state: 'done', parts: [{ there: 6, written: 0 }] })
})

t.test('damaged copies', async t => {
  const [bad, good] = [join(tempDir(t, 'ship'), 'bad'), join(tempDir(t, 'ship'), 'good')]
  const closure = sampleClosure()
  await writeCache(bad, closure)
  const depot = await makeDepot(t, [bad])
  const damage = (dir: string, name: string) => {
    const text = readFileSync(join(dir, `${hashPartOf(pathOf(name))}.narinfo`), 'latin1')
    const file = join(dir, /^URL: (.*)$/m.exec(text)?.[1] ?? '')
    const bytes = readFileSync(file)
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
    writeFileSync(file, bytes)
    return file
  }
  damage(bad, 'gtk')
  await t.test('are not packed, nor what refers to them', async t => {
    const dir = join(tempDir(t, 'ship'), 'drive')
    const result = await depot.ship({ dir, roots: [pathOf('top')] })
    t.match(result, { state: 'partly', missingPaths: 3, parts: [{ written: 3 }] })
    t.same(await rightNames(dir), ['bash', 'empty', 'glibc'])
    t.same(unfinished(dir), [])
    t.equal(readdirSync(join(dir, 'nar')).length, 3)
    t.same(parseShipment(readFileSync(join(dir, 'narwharf/shipment.json'))).manifest.roots, [])
  })
  await t.test('another holder stands in', async t => {
    await writeCache(good, closure)
    const both = await makeDepot(t, [bad, good])
    const dir = join(tempDir(t, 'ship'), 'drive')
    t.match(await both.ship({ dir, roots: [pathOf('top')] }), { state: 'done' })
    t.same(await rightNames(dir), [...NAMES].sort())

    await t.test('what was damaged on the drive is written anew when it is read', async t => {
      damage(dir, 'firefox')
      t.match(await both.ship({ dir, roots: [pathOf('top')], verify: true }), {
        state: 'done',
        parts: [{ there: 5, written: 1 }],
      })
      t.same(await rightNames(dir), [...NAMES].sort())
    })
    await t.test('a forged path with a true narinfo never gets into the index', async t => {
      const other = join(tempDir(t, 'ship'), 'forged')
      await depot.ship({ dir: other, roots: [pathOf('glibc')] })
      const file = damage(other, 'glibc')
      rmSync(join(other, 'narwharf'), { recursive: true })
      const hash = createHash('sha256').update(readFileSync(file)).digest()
      const narinfo = join(other, `${hashPartOf(pathOf('glibc'))}.narinfo`)
      const text = readFileSync(narinfo, 'latin1')
      writeFileSync(
        narinfo,
        text.replace(/^FileHash: .*$/m, `FileHash: sha256:${hash.toString('hex')}`),
      )
      const result = await depot.ship({ dir: other, roots: [pathOf('empty')] })
      t.match(result, { state: 'done', parts: [{ written: 1 }] })
      t.same(
        (await readIndex(other)).map(({ info }) => nameOf(info.storePath)),
        ['empty'],
      )
    })
  })
})

t.test('an empty nix-cache-info, as a kill leaves it, is written anew', async t => {
  const cache = join(tempDir(t, 'ship'), 'cache')
  await writeCache(cache, sampleClosure(1000))
  const depot = await makeDepot(t, [cache])
  const dir = tempDir(t, 'ship')
  writeFileSync(join(dir, 'nix-cache-info'), '')
  t.match(await depot.ship({ dir, roots: [pathOf('top')] }), { state: 'done' })
  t.match(readFileSync(join(dir, 'nix-cache-info'), 'utf8'), /^StoreDir: \/nix\/store$/m)
})

t.test('what cannot take a shipment', async t => {
  const base = tempDir(t, 'ship')
  const cache = join(base, 'cache')
  await writeCache(cache, sampleClosure(1000))
  const depot = await makeDepot(t, [cache])
  const roots = [pathOf('top')]
  const refused = (dir: string, what: string) =>
    t.rejects(depot.ship({ dir, roots }), { code: 'SHIP_TARGET_UNFIT' }, what)
  await refused(cache, 'the cache itself')
  mkdirSync(join(cache, 'below'))
  await refused(join(cache, 'below'), 'below the cache')
  symlinkSync(cache, join(base, 'link'))
  await refused(join(base, 'link'), 'a link to it')
  writeFileSync(join(base, 'file'), '')
  await refused(join(base, 'file'), 'a file')
  await refused(join(base, 'no/such/way'), 'a way that is not there')
  mkdirSync(join(base, 'other'))
  writeFileSync(join(base, 'other/nix-cache-info'), 'StoreDir: /gnu/store\n')
  await refused(join(base, 'other'), 'a cache of another store')
  mkdirSync(join(base, 'leads'))
  symlinkSync(tempDir(t, 'ship'), join(base, 'leads/nar'))
  await refused(join(base, 'leads'), 'a directory that leads elsewhere')
  await t.rejects(depot.ship({ dir: join(base, 'd') }), { code: 'SHIP_NOTHING' })
  await t.rejects(depot.ship({ dir: join(base, 'd'), roots, have: [join(base, 'none')] }), {
    code: 'SHIP_FILE_UNREADABLE',
  })
})

t.test('channels go along', async t => {
  const cache = join(tempDir(t, 'ship'), 'cache')
  await writeCache(cache, sampleClosure(1000))
  for (const [file, text] of [
    ['channels/nixos-20.09/git-revision', 'abc'],
    ['channels/nixos-20.09/nixexprs.tar.xz', 'tar'.repeat(1000)],
    ['channels/nixos-21.05/git-revision', 'def'],
    ['flakes/nixpkgs.json', '{}'],
  ] as const) {
    mkdirSync(join(cache, 'narwharf', file, '..'), { recursive: true })
    writeFileSync(join(cache, 'narwharf', file), text)
  }
  symlinkSync('/etc/passwd', join(cache, 'narwharf/channels/nixos-20.09/link'))
  const depot = await makeDepot(t, [cache])
  const dir = join(tempDir(t, 'ship'), 'drive')
  await depot.ship({ dir, channels: ['nixos-20.09', 'no-such', '../..'] })
  const manifest = () => parseShipment(readFileSync(join(dir, 'narwharf/shipment.json'))).manifest
  const files = () => manifest().sections.map(({ file }) => file)
  t.same(files(), [
    'narwharf/channels/nixos-20.09/git-revision',
    'narwharf/channels/nixos-20.09/nixexprs.tar.xz',
  ])
  t.match(
    depot.notes.filter(note => note.includes('there is no channel')).length,
    2,
    'what is not there is said',
  )
  appendFileSync(join(cache, 'narwharf/channels/nixos-20.09/git-revision'), 'newer')
  await depot.ship({ dir, allChannels: true, roots: [pathOf('empty')] })
  t.equal(files().length, 5, 'with the index')
  for (const { file, sha256, size } of manifest().sections) {
    const bytes = readFileSync(join(dir, file))
    t.equal(bytes.length, size)
    t.equal(createHash('sha256').update(bytes).digest('hex'), sha256, file)
  }
})
