import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { createCatalog, type Catalog } from '../../../daemon/catalog/catalog.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import type { IndexPath } from '../../../protocol/index-block.ts'
import { encodeIndexAdds, encodeIndexRemoves } from '../../../protocol/index-block-encode.ts'
import { baseNameOf, hashPartOf, nameOf, parseStorePath } from '../../../protocol/store-path.ts'
import type { BaseName } from '../../../protocol/store-path.ts'
import { deflate, syntheticPaths } from '../../helpers/index-paths.ts'
import { tempDir } from '../../helpers/scope.ts'

const A = 'aa'.repeat(32) as PeerKey
const B = 'bb'.repeat(32) as PeerKey
const OWN = 'cc'.repeat(32) as PeerKey
const core = (n: number) => String(n).padStart(64, '0')
const nowhere = { firstPosition: 0, positionOf: () => undefined }

async function opened(
  t: Test,
  file = join(tempDir(t, 'indexes'), 'catalog.sqlite'),
  sweepAt?: number,
) {
  const catalog = createCatalog({ file, writerThread: false, sweepAt, clock: () => 5 })
  await catalog.open()
  t.teardown(() => catalog.close())
  return { catalog, indexes: catalog.indexes, file }
}

const blocksOf = (paths: readonly IndexPath[]) => encodeIndexAdds(paths, nowhere, deflate)

/** A log begun, applied and in force. */
async function give(catalog: Catalog, key: PeerKey, paths: readonly IndexPath[], epoch = 1) {
  const { indexes } = catalog
  const host = key === OWN ? undefined : `host-${key.slice(0, 1)}`
  await indexes.begin(key, { epoch, core: core(epoch), host })
  await indexes.apply(key, epoch, 0, blocksOf(paths))
  await indexes.finish(key, epoch)
}

const partOf = ({ info }: IndexPath) => hashPartOf(info.storePath)
const namesFound = async (catalog: Catalog, pattern: string) => {
  const { matches, more } = await catalog.search({ kind: 'glob', pattern }, 1000)
  return { more, names: matches.map(({ baseName }) => baseName), matches }
}

async function collect<T>(all: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const one of all) list.push(one)
  return list
}

/** Whatever SQLite finds wrong, and rows that nothing needs. */
function flaws(file: string): unknown[] {
  const database = new Database(file)
  try {
    const one = (sql: string) => database.prepare(sql).pluck().get()
    database.exec(
      "INSERT INTO names_by_trigram(names_by_trigram, rank) VALUES ('integrity-check', 1)",
    )
    return [
      one('PRAGMA integrity_check') === 'ok' ? undefined : 'integrity',
      one(
        'SELECT count(*) FROM infos i WHERE NOT EXISTS (SELECT 1 FROM claims WHERE info = i.id)',
      ) && 'infos',
      one(
        'SELECT count(*) FROM claims c WHERE NOT EXISTS (SELECT 1 FROM infos WHERE id = c.info)',
      ) && 'claims',
      one(
        'SELECT count(*) FROM infos i WHERE NOT EXISTS (SELECT 1 FROM paths WHERE id = i.id / 256)',
      ) && 'paths',
      one(
        'SELECT count(*) FROM paths p WHERE NOT EXISTS (SELECT 1 FROM names WHERE id = p.name)',
      ) && 'names',
    ].filter(Boolean)
  } finally {
    database.close()
  }
}

const count = (file: string, table: string): number => {
  const database = new Database(file, { readonly: true })
  try {
    return database.prepare(`SELECT count(*) FROM ${table}`).pluck().get() as number
  } finally {
    database.close()
  }
}

t.test('a peer says what it holds', async t => {
  const { catalog, indexes, file } = await opened(t)
  const paths = [...syntheticPaths(1300, { signatures: 1 })]
  const deriver = ('z'.repeat(32) + '-one.drv') as BaseName
  const [first] = paths as [IndexPath]
  const ca = 'text:sha256:' + '0'.repeat(52)
  paths[0] = { ...first, builtHere: true, info: { ...first.info, deriver, ca } }
  const before = indexes.version
  t.same(indexes.find(partOf(first)), [], 'nothing yet')
  t.equal(indexes.position(A), undefined)
  await indexes.begin(A, { epoch: 4, core: core(4), host: 'alpha' })
  t.strictSame(indexes.position(A), {
    epoch: 4,
    core: core(4),
    blocks: 0,
    entries: 0,
    inForce: true,
  })
  const blocks = blocksOf(paths)
  t.strictSame(await indexes.apply(A, 4, 0, blocks), { entries: 1300, removed: 0 })
  t.ok(indexes.version > before, 'whoever keeps answers is told')
  t.match(indexes.position(A), { blocks: 3, entries: 1300 })
  for (const path of paths) {
    t.match(indexes.find(partOf(path)), [{ ...path, peer: A }], path.info.storePath)
    t.equal(indexes.find(partOf(path)).length, 1)
  }
  const narBytes = paths.reduce((sum, { info }) => sum + info.narSize, 0)
  t.match(indexes.list(), [
    { key: A, host: 'alpha', epoch: 4, inForce: true, blocks: 3, paths: 1300, narBytes },
  ])
  t.match(catalog.holders.list(), [
    { id: `peer:${A}`, kind: 'peer', host: 'alpha', storeDir: '/nix/store', paths: 1300, narBytes },
  ])

  await t.test('searches show it, before and after the name index has caught up', async t => {
    const name = nameOf(first.info.storePath)
    await catalog.holders.upsert({
      id: `peer:${A}`,
      kind: 'peer',
      storeDir: '/nix/store',
      host: 'alpha',
      up: true,
      lastSeen: 77,
    })
    const expected = {
      narSize: first.info.narSize,
      holders: [{ id: `peer:${A}`, kind: 'peer', host: 'alpha', up: true, lastSeen: 77 }],
    }
    const early = await namesFound(catalog, name)
    await indexes.tidied()
    const late = await namesFound(catalog, name)
    t.strictSame(early, late)
    t.match(
      late.matches.find(({ baseName }) => baseName === baseNameOf(first.info.storePath)),
      expected,
    )
    t.match(await catalog.search({ kind: 'path', hashPart: partOf(first) }, 9), {
      matches: [expected],
    })
    const all = new Set((await namesFound(catalog, '*')).names)
    t.equal(all.size, 1000)
    t.same(
      await catalog.search({ kind: 'path', hashPart: hashPartOf(deriver) }, 9),
      { matches: [], more: 0 },
      'a path only spoken of is no holding',
    )
  })

  await t.test('blocks again, blocks missing, epochs unknown', async t => {
    t.strictSame(await indexes.apply(A, 4, 0, blocks), { entries: 0, removed: 0 })
    t.strictSame(await indexes.apply(A, 4, 2, [blocks[2] as Buffer]), { entries: 0, removed: 0 })
    await t.rejects(indexes.apply(A, 4, 4, blocks), {
      code: 'INDEX_OUT_OF_ORDER',
      message: /block 4 came, 3 is the next/,
    })
    await t.rejects(indexes.apply(A, 5, 0, blocks), {
      code: 'INDEX_OUT_OF_ORDER',
      message: /epoch 5 was not begun/,
    })
    await t.rejects(indexes.finish(B, 1), { code: 'INDEX_OUT_OF_ORDER' })
    const [removal] = encodeIndexRemoves([0])
    t.strictSame(
      await indexes.apply(A, 4, 1, [...blocks.slice(1), removal as Buffer]),
      { entries: 0, removed: 1 },
      'only what is new',
    )
    t.same(indexes.find(partOf(first)), [])
  })

  await t.test('what no honest host writes is refused whole', async t => {
    const [extra] = blocksOf([...syntheticPaths(1, { seed: 9 })])
    const gnu = [...syntheticPaths(1, { seed: 8 })].map(({ builtHere, info }) => ({
      builtHere,
      info: {
        ...info,
        storePath: parseStorePath(info.storePath.replace('nix', 'gnu'), '/gnu/store'),
      },
    }))
    const stray = encodeIndexAdds(
      [...syntheticPaths(40, { seed: 7 })].slice(20),
      { firstPosition: 1e6, positionOf: () => 1 },
      deflate,
    )
    const self = [...syntheticPaths(1, { seed: 6 })].map(({ builtHere, info }) => ({
      builtHere,
      info: {
        ...info,
        references: [
          baseNameOf(paths[5]?.info.storePath as never),
          baseNameOf(paths[6]?.info.storePath as never),
        ],
      },
    }))
    const twice = encodeIndexAdds(self, { firstPosition: 1301, positionOf: () => 7 }, deflate)
    const position = indexes.position(A)
    for (const [name, bad, problem] of [
      ['garbage', Buffer.from('garbage'), /unknown kind/],
      ['a removal of nothing', encodeIndexRemoves([0])[0], /nothing stands at position 0/],
      [
        'a removal beyond the end',
        encodeIndexRemoves([5e6])[0],
        /nothing stands at position 5000000/,
      ],
      ['another store directory', blocksOf(gnu)[0], /store directory \/gnu\/store/],
      ['a reference before the beginning', stray[0], /nothing stands at position -/],
      ['one reference by two distances', twice[0], /refers to one path twice/],
    ] as const) {
      await t.rejects(
        indexes.apply(A, 4, 4, [extra as Buffer, bad as Buffer]),
        { code: 'INDEX_INVALID', message: problem, data: { peer: A, block: 5 } },
        name,
      )
      t.strictSame(indexes.position(A), position, `${name}: nothing of it stays`)
    }
    t.strictSame(
      await indexes.apply(A, 4, 4, [extra as Buffer]),
      { entries: 1, removed: 0 },
      'and a good one comes after',
    )
  })
  await indexes.tidied()
  await catalog.close()
  t.strictSame(indexes.find(partOf(first)), [], 'closed: nothing is known')
  t.same(flaws(file), [])
})

t.test('several hosts', async t => {
  const { catalog, indexes, file } = await opened(t)
  const paths = [...syntheticPaths(700)]
  const [one, two] = paths as [IndexPath, IndexPath]
  const lie = {
    ...two,
    info: { ...two.info, narHash: { algorithm: 'sha256', bytes: Buffer.alloc(32) }, narSize: 1 },
  } as const
  await give(catalog, A, paths)
  await give(catalog, B, [{ ...one, builtHere: true }, lie])
  await give(catalog, OWN, paths)
  await indexes.tidied()
  t.match(indexes.find(partOf(one)), [
    { peer: A, builtHere: one.builtHere },
    { peer: B, builtHere: true },
  ])
  t.equal(indexes.find(partOf(one)).length, 2, "this host's own log is no peer's")
  t.match(indexes.find(partOf(two)), [
    { peer: A, info: { narSize: two.info.narSize } },
    { peer: B, info: { narSize: 1 } },
  ])
  t.equal(count(file, 'infos'), 701, 'what several say is stored once')
  t.equal(count(file, 'claims'), 1402)
  t.equal(catalog.holders.list().length, 2)
  t.match(indexes.list(), [{ key: A }, { key: B }, { key: OWN, host: '', paths: 700 }])
  const search = await catalog.search({ kind: 'path', hashPart: partOf(one) }, 9)
  t.strictSame(
    search.matches[0]?.holders.map(({ host }) => host),
    ['host-a', 'host-b'],
  )

  await t.test('the own log tells where paths stand', async t => {
    const asked = [
      paths[699]?.info.storePath,
      baseNameOf(one.info.storePath),
      'z'.repeat(32) + '-no',
    ] as never[]
    t.strictSame(indexes.positionsOf(OWN, asked), [699, 0, undefined])
    t.strictSame(indexes.positionsOf('dd'.repeat(32) as PeerKey, asked), [
      undefined,
      undefined,
      undefined,
    ])
    await indexes.apply(OWN, 1, 2, encodeIndexRemoves([0, 5]))
    t.strictSame(indexes.positionsOf(OWN, asked), [699, undefined, undefined])
    const all = (await collect(indexes.entries(OWN))).flat()
    t.equal(all.length, 698)
    t.match(all[0], { position: 1, storePath: two.info.storePath, narHash: two.info.narHash.bytes })
    t.match(all.at(-1), { position: 699 })
    const whole = (await collect(indexes.whole(OWN))).flat()
    t.match(
      whole,
      paths.filter((_, at) => at !== 0 && at !== 5),
    )
    t.same(await collect(indexes.entries('dd'.repeat(32) as PeerKey)), [])
  })

  await t.test('a path said anew takes the place of what was said', async t => {
    const again = { ...two, info: { ...two.info, narSize: 4242 } }
    const narBytes = (key: PeerKey) => indexes.list().find(one => one.key === key)?.narBytes ?? 0
    const before = narBytes(B)
    await indexes.apply(B, 1, 1, blocksOf([again]))
    t.match(indexes.find(partOf(two)), [{ peer: A }, { peer: B, info: { narSize: 4242 } }])
    t.equal(narBytes(B), before + 4242 - 1)
    t.match(indexes.list()[1], { paths: 2 })
    await t.rejects(
      indexes.apply(B, 1, 2, encodeIndexRemoves([1])),
      { code: 'INDEX_INVALID' },
      'where it stood before, nothing stands',
    )
    t.equal(count(file, 'infos'), 701, 'what nobody says any more is gone')
    await indexes.apply(B, 1, 2, blocksOf([again]))
    t.equal(count(file, 'infos'), 701, 'and the same again changes nothing')
  })

  await t.test('forgotten: nothing is found at once, and nothing stays', async t => {
    await indexes.forget(A)
    t.match(indexes.find(partOf(one)), [{ peer: B }])
    t.equal(indexes.find(partOf(one)).length, 1)
    t.equal(indexes.position(A), undefined)
    t.notOk(catalog.holders.list().some(({ host }) => host === 'host-a'))
    await indexes.tidied()
    t.equal(count(file, 'claims'), 700)
    await give(catalog, A, paths.slice(0, 10))
    t.equal(indexes.find(partOf(one)).length, 2, 'and it may come back')
  })
  await indexes.tidied()
  await catalog.close()
  t.same(flaws(file), [])
})

t.test('a new epoch', async t => {
  const { catalog, indexes, file } = await opened(t)
  const old = [...syntheticPaths(1200)]
  const fresh = [...old.slice(0, 600), ...syntheticPaths(100, { seed: 2 })]
  await give(catalog, A, old)
  const [gone] = old.slice(-1) as [IndexPath]
  const [come] = fresh.slice(-1) as [IndexPath]
  await indexes.begin(A, { epoch: 1, core: core(1), host: 'host-a' })
  t.match(indexes.position(A), { epoch: 1, entries: 1200 }, 'begun again: it goes on')

  await indexes.begin(A, { epoch: 2, core: core(2), host: 'host-a' })
  const blocks = blocksOf(fresh)
  await indexes.apply(A, 2, 0, blocks.slice(0, 1))
  await indexes.begin(A, { epoch: 3, core: core(3), host: 'host-a' })
  t.match(indexes.position(A), { epoch: 3, blocks: 0, inForce: false }, 'epoch 2 is given up')
  t.match(indexes.position(A, 'in-force'), { epoch: 1, entries: 1200, inForce: true })
  await t.rejects(indexes.apply(A, 2, 1, blocks.slice(1)), { code: 'INDEX_OUT_OF_ORDER' })
  await indexes.apply(A, 3, 0, blocks)
  t.match(indexes.find(partOf(gone)), [{ peer: A }], 'the old one is in force')
  t.same(indexes.find(partOf(come)), [])
  t.strictSame(indexes.positionsOf(A, [come.info.storePath]), [undefined])
  t.strictSame(indexes.positionsOf(A, [come.info.storePath], 3), [699])
  t.same(
    indexes.list().map(({ epoch, inForce }) => [epoch, inForce]),
    [
      [1, true],
      [3, false],
    ],
  )
  const version = indexes.version
  await indexes.finish(A, 3)
  t.ok(indexes.version > version)
  t.same(indexes.find(partOf(gone)), [])
  t.match(indexes.find(partOf(come)), [{ ...come, peer: A }])
  t.match(catalog.holders.list(), [{ paths: 700 }])
  await indexes.finish(A, 3)
  await indexes.tidied()
  t.equal(count(file, 'claims'), 700)
  t.equal(count(file, 'index_logs'), 1)
  t.equal(count(file, 'infos'), 700)

  await indexes.begin(A, { epoch: 3, core: core(4), host: 'host-a' })
  t.match(
    indexes.position(A),
    { core: core(4), blocks: 0, inForce: false },
    'one epoch, another log',
  )
  await indexes.apply(A, 3, 0, blocksOf(old.slice(0, 3)))
  await indexes.finish(A, 3)
  t.match(indexes.position(A), { core: core(4), entries: 3, inForce: true })
  await catalog.close()

  const again = await opened(t, file)
  await again.indexes.tidied()
  t.equal(count(file, 'claims'), 3, 'what was left to do is done after a restart')
  t.match(again.indexes.find(partOf(old[0] as IndexPath)), [{ peer: A }])
  await again.catalog.close()
  t.same(flaws(file), [])
})

t.test('paths that nobody has go when nothing refers to them', async t => {
  const { catalog, indexes, file } = await opened(t, undefined, 50)
  const paths = [...syntheticPaths(400)]
  const outside = encodeIndexAdds(paths.slice(200), nowhere, deflate)
  await indexes.begin(A, { epoch: 1, core: core(1), host: 'a' })
  await indexes.apply(A, 1, 0, outside)
  await indexes.tidied()
  const stay = new Set(
    paths.slice(200).flatMap(({ info }) => [baseNameOf(info.storePath), ...info.references]),
  )
  t.equal(count(file, 'paths'), stay.size, 'those spoken of stay')
  t.match(indexes.find(partOf(paths[399] as IndexPath)), [paths[399]])
  await indexes.apply(A, 1, 1, encodeIndexRemoves(Array.from({ length: 199 }, (_, at) => at)))
  await indexes.tidied()
  const left = paths[399] as IndexPath
  t.equal(
    count(file, 'paths'),
    new Set([baseNameOf(left.info.storePath), ...left.info.references]).size,
  )
  t.match(indexes.find(partOf(left)), [left])
  t.equal(count(file, 'infos'), 1)

  await catalog.holders.upsert({
    id: 'local',
    kind: 'cache-dir',
    storeDir: '/nix/store',
    host: 'here',
    up: true,
  })
  const [reference] = left.info.references as [BaseName]
  const held = parseStorePath(`/nix/store/${reference}`)
  await catalog.holdings.add('local', [{ storePath: held, narSize: 12 }])
  t.match(await catalog.search({ kind: 'path', hashPart: hashPartOf(held) }, 9), {
    matches: [{ narSize: 12 }],
  })
  await catalog.holdings.remove('local', [held])
  t.match(indexes.find(partOf(left)), [left], 'a reference keeps its name')
  await indexes.forget(A)
  await indexes.tidied()
  await catalog.close()
  t.same(flaws(file), [])
})

t.test('in a thread of its own, errors keep their code', async t => {
  const catalog = createCatalog({ file: join(tempDir(t, 'indexes'), 'catalog.sqlite') })
  await catalog.open()
  t.teardown(() => catalog.close())
  const paths = [...syntheticPaths(600)]
  await give(catalog, A, paths)
  t.match(catalog.indexes.find(partOf(paths[3] as IndexPath)), [{ peer: A }])
  await t.rejects(catalog.indexes.apply(A, 1, 2, [Buffer.from('x')]), {
    code: 'INDEX_INVALID',
    data: { peer: A },
    message: /block 2 of aaaa.*unknown kind/,
  })
})

t.test('killed while applying, it goes on where it was', async t => {
  const file = join(tempDir(t, 'indexes'), 'catalog.sqlite')
  const script = new URL('../../helpers/index-applier.ts', import.meta.url)
  const blocks = blocksOf([...syntheticPaths(6000)])
  let before = 0
  for (let round = 1; round <= 3; round++) {
    const child = spawn(process.execPath, [...process.execArgv, script.pathname, file], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    child.stdout.setEncoding('utf8')
    let said = ''
    for await (const chunk of child.stdout) {
      said += chunk
      if (said.split('\n').length > round) break
    }
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    const { catalog, indexes } = await opened(t, file)
    t.same(catalog.problems(), [])
    const position = indexes.position(A)
    const told = Number(said.trim().split('\n').at(-1))
    t.ok(
      position !== undefined && position.blocks >= told && told > before,
      `${told} blocks were said to be applied`,
    )
    t.equal(position?.entries, Math.min(6000, 500 * (position?.blocks ?? 0)))
    t.equal((await collect(indexes.entries(A))).flat().length, position?.entries)
    before = told
    await catalog.close()
  }
  const { catalog, indexes } = await opened(t, file)
  await indexes.apply(A, 1, 0, blocks)
  t.match(indexes.position(A), { blocks: 12, entries: 6000 })
  await indexes.tidied()
  await catalog.close()
  t.same(flaws(file), [])
})
