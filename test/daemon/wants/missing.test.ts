import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readDerivation, walkDerivations } from '../../../daemon/wants/derivations.ts'
import type { Known } from '../../../daemon/wants/knowledge.ts'
import { findMissing, type MissingParts } from '../../../daemon/wants/missing.ts'
import { openPlace, type Place, type PlaceParts } from '../../../daemon/wants/places.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import type { StorePath } from '../../../protocol/store-path.ts'
import {
  drvClosure,
  drvClosureSkip,
  fixedOutputsOf,
  holderOfDerivations,
} from '../../helpers/drv-closures.ts'
import { fakePath } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'
import { createNarPool } from '../holders/child-pool.ts'

const NOWHERE: Known = {
  ...{ info: undefined, fileSize: undefined, reach: undefined },
  ...{ here: false, untrusted: false, hosts: [] },
}

const nobody: MissingParts = {
  look: async () => NOWHERE,
  read: async () => undefined,
  upstream: async () => undefined,
  drives: async () => [],
}

/** A place with those paths. */
const placeWith = (infos: readonly PathInfo[]): Place => {
  const has = new Map(infos.map(info => [info.storePath, info]))
  return {
    name: 'there',
    ask: async path => ({ there: has.has(path), info: has.get(path) }),
    close: async () => {},
  }
}

const info = (name: string, ...references: PathInfo[]): PathInfo =>
  fakePath(
    name,
    Buffer.from(name),
    references.map(({ storePath }) => storePath.slice(11)),
  )

const glibc = info('glibc')
const zlib = info('zlib', glibc)
const tool = info('tool', zlib, glibc)
const app = info('app', tool, zlib)
const roots = (...paths: PathInfo[]) => ({
  paths: paths.map(({ storePath }) => storePath),
  derivations: [],
})

t.test('a closure walked over whoever knows it, each lack with its reason', async t => {
  const of = (one: PathInfo, more: Partial<Known> = {}) =>
    [one.storePath, { ...NOWHERE, info: one, ...more }] as const
  const off = { host: 'lab-2', up: false, lastSeen: '2026-07-25T10:00:00Z' }
  const known = new Map<StorePath, Known>([
    of(app, { reach: 'peer' }),
    of(tool, { untrusted: true }),
    of(zlib, { hosts: [off] }),
  ])
  const drawer = { host: 'lab-3', up: false, drive: 'KERGUELEN-2', plugged: false }
  const parts: MissingParts = {
    ...nobody,
    look: async path => known.get(path) ?? NOWHERE,
    upstream: async path =>
      path === glibc.storePath ? { info: glibc, fileSize: 3, name: 'cache' } : undefined,
  }
  const find = (place: Place, more: Partial<MissingParts> = {}) =>
    findMissing(roots(app), place, { ...parts, ...more }, { build: false })

  const all = await find(placeWith([app]))
  t.match(all, { closure: 4, there: 1, unsure: 0, sourcesToBuild: [] })
  t.same(
    all.missing.map(({ storePath, reason }) => [storePath.slice(44), reason]),
    [
      ['glibc', 'upstream'],
      ['zlib', 'away'],
      ['tool', 'untrusted'],
    ],
  )
  t.match(all.missing[0], { narSize: 5, fileSize: 3, where: [{ host: 'cache' }] })
  t.match(all.missing[1]?.where, [off])
  t.match(all.groups[0], { reason: 'upstream', paths: 1, narBytes: 5, fileBytes: 3, unsized: 0 })

  const drives = async () => [drawer]
  const away = await find(placeWith([app, tool, zlib]), { drives, upstream: async () => undefined })
  t.match(away.missing, [{ reason: 'away', where: [drawer] }], 'on a drive, by its name')
  const elsewhere = await find(placeWith([]), {})
  t.equal(elsewhere.missing[0]?.reason, 'elsewhere', 'the site has it, the place has not')
  t.same((await find(placeWith([app, tool, zlib, glibc]))).missing, [])
  const unknown = await findMissing(roots(info('never')), placeWith([]), parts, { build: false })
  t.match(
    unknown.missing,
    [{ reason: 'unknown' }],
    'nobody knows what it refers to: missing itself',
  )
})

/** A derivation as Nix writes it, with what it says of itself. */
const drv = (options: {
  readonly out: string
  readonly inputs?: Readonly<Record<string, readonly string[]>>
  readonly sources?: readonly string[]
}) => {
  const inputs = Object.entries(options.inputs ?? {}).map(
    ([path, names]) => `("${path}",[${names.map(name => `"${name}"`).join(',')}])`,
  )
  const sources = (options.sources ?? []).map(path => `"${path}"`)
  return Buffer.from(
    `Derive([("out","${options.out}","","")],[${inputs.join(',')}],[${sources.join(',')}],` +
      `"x86_64-linux","/bin/sh",[],[("out","${options.out}")])`,
  )
}

const path = (name: string) => info(name).storePath

t.test('what could be built, and what for that would have to come', async t => {
  const drvs = new Map<StorePath, Buffer>([
    [path('app.drv'), drv({ out: path('app'), inputs: { [path('lib.drv')]: ['out'] } })],
    [
      path('lib.drv'),
      drv({ out: path('lib'), inputs: { [path('sh.drv')]: ['out'] }, sources: [path('patch')] }),
    ],
    [path('sh.drv'), drv({ out: path('sh') })],
  ])
  const holder = holderOfDerivations(drvs)
  const parts: MissingParts = { ...nobody, read: one => readDerivation(one, [holder]) }
  const find = (has: readonly string[], build = false) =>
    findMissing(
      { paths: [], derivations: [{ path: path('app.drv'), names: undefined }] },
      placeWith(has.map(name => info(name))),
      parts,
      { build },
    )
  const told = ({ missing }: Awaited<ReturnType<typeof find>>) =>
    missing.map(({ storePath, reason }) => [storePath.slice(44), reason])

  t.same(told(await find(['sh', 'patch'])), [['app', 'buildable']])
  t.same(told(await find(['patch'])), [['app', 'buildable']], 'sh too')
  const lacking = await find(['sh'])
  t.same(told(lacking), [['app', 'unknown']])
  t.match(lacking.sourcesToBuild, [{ storePath: path('patch'), reason: 'source' }])
  t.match(lacking.missing[0], { derivation: path('app.drv') })
  t.same(told(await find(['app'])), [])
  t.same(
    told(await find(['app', 'sh'], true)),
    [
      ['lib', 'unknown'],
      ['patch', 'unknown'],
    ],
    'with what it is built from',
  )
  await t.rejects(
    findMissing(
      { paths: [], derivations: [{ path: path('other.drv'), names: undefined }] },
      placeWith([]),
      parts,
      { build: false },
    ),
    { code: 'ROOT_UNKNOWN' },
  )
})

t.test('a circle of derivations ends', async t => {
  const circle = new Map<StorePath, Buffer>([
    [path('a.drv'), drv({ out: path('a'), inputs: { [path('b.drv')]: ['out'] } })],
    [path('b.drv'), drv({ out: path('b'), inputs: { [path('a.drv')]: ['out'] } })],
  ])
  const holder = holderOfDerivations(circle)
  const found = await findMissing(
    { paths: [], derivations: [{ path: path('a.drv'), names: ['out'] }] },
    placeWith([]),
    { ...nobody, read: one => readDerivation(one, [holder]) },
    { build: true },
  )
  t.same(
    found.missing.map(({ reason }) => reason),
    ['unknown', 'unknown'],
  )
})

/** A cache directory that has those paths: narinfos as Nix writes them, over one small NAR file. */
function cacheOf(t: Test, paths: Iterable<StorePath>): string {
  const dir = tempDir(t, 'cache')
  mkdirSync(join(dir, 'nar'))
  writeFileSync(join(dir, 'nar/one.nar'), 'x'.repeat(120))
  writeFileSync(join(dir, 'nix-cache-info'), 'StoreDir: /nix/store\n')
  for (const storePath of paths) {
    const lines = [
      ...[`StorePath: ${storePath}`, 'URL: nar/one.nar', 'Compression: none'],
      ...[`NarHash: sha256:${'0'.repeat(52)}`, 'NarSize: 120', 'References: '],
    ]
    writeFileSync(join(dir, `${storePath.slice(11, 43)}.narinfo`), `${lines.join('\n')}\n`)
  }
  return dir
}

async function openCache(t: Test, cache: string): Promise<Place> {
  const pool = createNarPool()
  await pool.open()
  const place = await openPlace({ kind: 'cache', cache }, {
    ...{ pool, storeDir: '/nix/store', hostName: 'lab', siteName: () => undefined },
    look: nobody.look,
    drive: async () => undefined,
  } satisfies PlaceParts)
  t.teardown(async () => {
    await place.close()
    await pool.close()
  })
  return place
}

for (const name of ['hello', 'nixos-minimal'] as const) {
  t.test(`a cache that lacks a known set: ${name}`, { skip: drvClosureSkip(name) }, async t => {
    const drvs = drvClosure(t, name)
    const holder = holderOfDerivations(drvs)
    const read = (one: StorePath) => readDerivation(one, [holder])
    const graph = await walkDerivations(drvs.keys(), { read })
    const used = new Set([...graph.known.values()].flatMap(one => [...one.inputs.keys()]))
    const tops = [...graph.known.keys()].filter(one => !used.has(one))
    const needed = new Set(
      [...graph.known.values()].flatMap(one => [
        ...one.sources,
        ...[...one.inputs].flatMap(([input, names]) =>
          names.flatMap(output => graph.known.get(input)?.outputs.get(output) ?? []),
        ),
        ...(tops.includes(one.path) ? [...one.outputs.values()].flatMap(out => out ?? []) : []),
      ]),
    )
    t.equal(graph.absent.size, 0, 'the closure is whole')
    const lacking = [...needed].sort().filter((_, index) => index % 17 === 3)
    const has = [...needed].filter(one => !lacking.includes(one))
    const place = await openCache(t, cacheOf(t, has))
    const at = performance.now()
    const found = await findMissing(
      { paths: [], derivations: tops.map(top => ({ path: top, names: undefined })) },
      place,
      { ...nobody, read },
      { build: true },
    )
    t.comment(`${graph.known.size} derivations, ${(performance.now() - at).toFixed(0)} ms`)
    t.same(found.missing.map(({ storePath }) => storePath).sort(), lacking, 'exactly that set')
    t.match(found, { closure: needed.size, there: has.length, derivationsAbsent: [] })
    const sources = found.missing.filter(({ reason }) => reason === 'source')
    const fixed = [...graph.known.values()].filter(one => one.fixed !== undefined)
    const fixedPaths = new Set(fixed.map(one => one.outputs.get('out')))
    t.same(
      sources.map(({ storePath }) => storePath).sort(),
      lacking.filter(one => fixedPaths.has(one)),
      'those of fixed output as sources',
    )
    if (name === 'hello') {
      const hashes = new Map(fixedOutputsOf('hello'))
      t.equal(fixed.length, 85)
      for (const { storePath, hash } of sources) t.equal(hash, hashes.get(storePath))
    }
  })
}

t.test('a cache behind HTTP', async t => {
  const texts = new Map<string, string>()
  let broken = 0
  const server = createServer((request, reply) => {
    if (broken-- > 0) return void reply.writeHead(503).end()
    const text = texts.get(request.url ?? '')
    reply.writeHead(text === undefined ? 404 : 200).end(text)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const narinfo = (one: PathInfo) =>
    [
      ...[`StorePath: ${one.storePath}`, 'URL: nar/one.nar', 'Compression: none'],
      ...[`NarHash: sha256:${'0'.repeat(52)}`, 'NarSize: 120'],
      `References: ${one.references.join(' ')}\n`,
    ].join('\n')
  for (const one of [app, tool, glibc]) {
    texts.set(`/${one.storePath.slice(11, 43)}.narinfo`, narinfo(one))
  }
  broken = 1
  const place = await openCache(t, url)
  const found = await findMissing(roots(app), place, nobody, { build: false })
  t.same(
    found.missing.map(({ storePath }) => storePath),
    [zlib.storePath],
  )
  broken = 100
  await t.rejects(
    findMissing(roots(app), place, nobody, { build: false }),
    { code: 'HOLDER_UNREADABLE' },
    'a cache that does not answer lacks nothing that is known',
  )
})

t.test('places that are none', async t => {
  await t.rejects(openCache(t, 'relative/path'), { code: 'HOLDER_UNREADABLE' })
  await t.rejects(openCache(t, join(tempDir(t, 'none'), 'x')), { code: 'HOLDER_UNREADABLE' })
})
