import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { createCatalog, type Catalog } from '../../../daemon/catalog/catalog.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import { encodeNix32 } from '../../../protocol/nix32.ts'
import { parseStorePath, type StorePath } from '../../../protocol/store-path.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const HOLDER = 'cache-dir:/srv/cache'

function scratch(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'narwharf-catalog-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return join(dir, 'state', 'catalog.sqlite')
}

async function opened(t: Test, file = scratch(t), clock?: () => number): Promise<Catalog> {
  const catalog = createCatalog({ file, clock, writerThread: false })
  await catalog.open()
  t.teardown(() => catalog.close())
  return catalog
}

/** A store path whose hash part follows from its name and a number. */
const path = (name: string, seed: number | string = 0): StorePath =>
  parseStorePath(
    `/nix/store/${encodeNix32(createHash('sha1').update(`${name} ${seed}`).digest())}-${name}`,
  )

const holder = { id: HOLDER, kind: 'cache-dir', storeDir: '/nix/store', host: 'here' } as const
const key = (n: number, identity = 'a') => ({
  holderId: HOLDER,
  hashPart: encodeNix32(createHash('sha1').update(String(n)).digest()),
  identity,
  epoch: 'e1',
})

/** Everything SQLite and the foreign keys can find wrong with a closed catalog. */
function flaws(file: string): unknown[] {
  const database = new Database(file)
  try {
    const check = database.pragma('integrity_check', { simple: true })
    const keys = database.pragma('foreign_key_check') as unknown[]
    database.exec("INSERT INTO names_by_trigram(names_by_trigram) VALUES ('integrity-check')")
    return check === 'ok' ? keys : [check, ...keys]
  } finally {
    database.close()
  }
}

t.test('a new catalog is created with its directory, and opened twice, closed twice', async t => {
  const file = scratch(t)
  const catalog = createCatalog({ file })
  t.same(catalog.holders.list(), [], 'a closed catalog knows nothing')
  t.equal(catalog.decisions.get(key(1)), undefined)
  await catalog.open()
  await catalog.open()
  await catalog.holders.upsert({ ...holder, up: true, lastSeen: 5 })
  await Promise.all([catalog.close(), catalog.close()])
  await catalog.close()
  t.notOk(existsSync(`${file}-wal`), 'the write-ahead log is folded in')
  await catalog.open()
  t.match(catalog.holders.list(), [{ ...holder, up: true, lastSeen: 5 }])
  t.same(catalog.problems(), [])
  await catalog.close()
  t.same(flaws(file), [])
})

t.test('versions', async t => {
  t.test('a newer schema is refused and left alone', async t => {
    const file = scratch(t)
    await (await opened(t, file)).close()
    const database = new Database(file)
    database.pragma('user_version = 99')
    database.close()
    const catalog = createCatalog({ file, writerThread: false })
    const error: unknown = await catalog.open().catch((problem: unknown) => problem)
    t.ok(isNarwharfError(error, 'CATALOG_TOO_NEW'), String(error))
    t.match(String(error), /has schema 99/)
    t.notOk(existsSync(`${file}.damaged-1`))
  })
  t.test('every migration carries the number it produces, without gaps', t => {
    const names = readdirSync(new URL('../../../daemon/catalog/migrations/', import.meta.url))
    const numbers = names.sort().map(name => Number.parseInt(name, 10))
    t.same(
      numbers,
      numbers.map((_, index) => index + 1),
    )
    t.end()
  })
  t.test('a directory that cannot hold it is said so', async t => {
    const file = scratch(t)
    const blocked = join(file, '..')
    writeFileSync(blocked, 'a file where a directory should be')
    const error: unknown = await createCatalog({ file, writerThread: false })
      .open()
      .catch((problem: unknown) => problem)
    t.ok(isNarwharfError(error, 'CATALOG_UNUSABLE'), String(error))
  })
})

t.test('damage', async t => {
  for (const [name, spoil] of [
    ['no database at all', () => Buffer.from('garbage'.repeat(1000))],
    ['a header without the rest', (bytes: Buffer) => bytes.subarray(0, 600)],
    ['the schema overwritten', (bytes: Buffer) => Buffer.from(bytes).fill(0xaa, 100, 4096)],
  ] as const) {
    t.test(`${name}: moved aside and begun anew`, async t => {
      const file = scratch(t)
      const first = await opened(t, file)
      await first.holders.upsert({ ...holder, up: true })
      await first.close()
      const spoilt = spoil(readFileSync(file))
      writeFileSync(file, spoilt)
      const catalog = await opened(t, file)
      t.match(catalog.problems(), [{ what: /begun anew/, hint: /found again/ }])
      t.same(readFileSync(`${file}.damaged-1`), spoilt)
      t.same(catalog.holders.list(), [])
      catalog.decisions.put(key(1), 'works')
      await catalog.close()
      t.same(flaws(file), [])
    })
  }

  t.test('met while running: reads find nothing, the next start begins anew', async t => {
    const file = scratch(t)
    const first = await opened(t, file)
    for (let n = 0; n < 400; n++) first.decisions.put(key(n), 'x'.repeat(300))
    await first.close()
    const bytes = readFileSync(file)
    for (let page = 0; page < bytes.length; page += 4096) {
      if (bytes.subarray(page, page + 4096).includes('x'.repeat(100))) {
        bytes.fill(0x5a, page, page + 4096)
      }
    }
    writeFileSync(file, bytes)
    const catalog = await opened(t, file)
    t.same(catalog.problems(), [], 'an orderly end is trusted')
    for (let n = 0; n < 400; n++) t.equal(catalog.decisions.get(key(n)), undefined)
    t.match(catalog.problems(), [{ what: /is damaged/, hint: /restart/ }])
    await catalog.close()
    const again = await opened(t, file)
    t.match(again.problems(), [{ what: /begun anew/ }])
    again.decisions.put(key(1), 'works')
    await again.flush()
    t.equal(again.decisions.get(key(1)), 'works')
  })

  t.test('only a few damaged files are kept', async t => {
    const file = scratch(t)
    for (let n = 0; n < 5; n++) {
      const catalog = await opened(t, file)
      await catalog.close()
      writeFileSync(file, 'garbage'.repeat(1000))
    }
    const kept = readdirSync(join(file, '..')).filter(name => name.includes('damaged'))
    t.equal(kept.length, 3)
  })
})

t.test('decisions and verifications', async t => {
  const file = scratch(t)
  let now = 100 * DAY_MS
  const catalog = await opened(t, file, () => now)
  const { decisions, verifications } = catalog

  decisions.put(key(1), 'one')
  verifications.put(HOLDER, 'good')
  verifications.put(HOLDER, 'bad', 'NAR has a wrong hash')
  t.equal(decisions.get(key(1)), 'one', 'seen before it is written')
  t.same(verifications.get(HOLDER, 'good'), { verifiedAt: now, problem: undefined })
  await catalog.flush()
  const check = (label: string, at: Catalog) => {
    t.equal(at.decisions.get(key(1)), 'one', `${label}: the decision`)
    t.equal(at.decisions.get(key(1, 'b')), undefined, `${label}: another identity`)
    t.equal(at.decisions.get({ ...key(1), epoch: 'e2' }), undefined, `${label}: other rules`)
    t.equal(at.decisions.get({ ...key(1), holderId: 'x' }), undefined, `${label}: another holder`)
    t.equal(at.decisions.get(key(2)), undefined, `${label}: another path`)
    t.match(at.verifications.get(HOLDER, 'bad'), { problem: 'NAR has a wrong hash' })
    t.equal(at.verifications.get(HOLDER, 'never'), undefined)
    t.equal(at.verifications.get('x', 'good'), undefined)
  }
  check('written', catalog)

  decisions.put(key(1, 'b'), 'changed')
  t.equal(decisions.get(key(1)), undefined, 'a new identity takes the place of the old one')
  t.equal(decisions.get(key(1, 'b')), 'changed')
  decisions.put(key(1), 'one')
  for (let n = 10; n < 2000; n++) decisions.put(key(n), String(n))
  await catalog.close()
  t.same(flaws(file), [])

  const again = await opened(t, file, () => now)
  check('after a restart', again)
  t.equal(again.decisions.get(key(1999)), '1999')

  await t.test('what is used stays longest', async t => {
    const idOf = () => {
      const database = new Database(file, { readonly: true })
      const id = database
        .prepare('SELECT id FROM decisions WHERE hash_part = ?')
        .pluck()
        .get(key(1).hashPart) as number
      database.close()
      return id
    }
    const before = idOf()
    again.decisions.get(key(1))
    await again.flush()
    t.equal(idOf(), before, 'the same day: nothing is written')
    now += DAY_MS
    again.decisions.get(key(1))
    again.verifications.get(HOLDER, 'bad')
    await again.flush()
    t.ok(idOf() > before, 'another day: it moves to the young end')
  })
})

t.test('holdings', async t => {
  const file = scratch(t)
  const catalog = await opened(t, file, () => 7)
  const { holdings } = catalog
  await catalog.holders.upsert({ ...holder, up: true })
  const many = Array.from({ length: 2500 }, (_, n) => path(`pkg-${n % 700}`, n))
  const batches = function* (paths: readonly StorePath[]) {
    for (let at = 0; at < paths.length; at += 300) yield paths.slice(at, at + 300)
  }
  const asked: string[] = []
  const sizeOf = (storePath: StorePath) => {
    asked.push(storePath)
    return storePath === many[3] ? undefined : 100
  }

  const first = await holdings.replaceAll(HOLDER, batches([...many, ...many]), { sizeOf })
  t.same(first, { paths: 2500, narBytes: 249_900, added: 2500, removed: 0 }, 'doubles count once')
  t.match(catalog.holders.list(), [{ paths: 2500, narBytes: 249_900, inventoryAt: 7 }])
  t.equal(asked.length, 2500)

  asked.length = 0
  const same = await holdings.replaceAll(HOLDER, batches(many), { sizeOf: () => undefined })
  t.same(same, { paths: 2500, narBytes: 249_900, added: 0, removed: 0 })

  const next = [...many.slice(0, 2000), path('new')]
  t.match(await holdings.replaceAll(HOLDER, batches(next), { sizeOf }), {
    paths: 2001,
    added: 1,
    removed: 500,
  })
  t.same(asked, [many[3], path('new')], 'sizes are asked only where unknown')

  await t.test('another holder shares the paths and keeps them', async t => {
    const other = 'nix-store:/nix/store'
    await catalog.holders.upsert({ ...holder, id: other, kind: 'nix-store', up: false })
    await holdings.add(other, [{ storePath: path('new') }, { storePath: path('own'), narSize: 5 }])
    const query = { kind: 'glob', pattern: 'new' } as const
    const both = await catalog.search(query, 10)
    t.match(both.matches, [
      {
        narSize: 100,
        holders: [
          { id: HOLDER, up: true },
          { id: other, up: false },
        ],
      },
    ])
    await holdings.replaceAll(HOLDER, [])
    const one = await catalog.search(query, 10)
    t.match(one.matches, [{ narSize: 100, holders: [{ id: other }] }])
    t.equal(one.matches[0]?.holders.length, 1)
    await holdings.remove(other, [path('new'), path('never')])
    t.same(await catalog.search(query, 10), { matches: [], more: 0 })
    t.match(await catalog.search({ kind: 'glob', pattern: '*' }, 10), {
      matches: [{ baseName: path('own').slice(11), narSize: 5 }],
      more: 0,
    })
  })

  await t.test('an aborted scan takes nothing away', async t => {
    await holdings.replaceAll(HOLDER, [many.slice(0, 10)])
    const abort = new AbortController()
    const broken = (async function* () {
      yield many.slice(0, 1)
      abort.abort()
      yield many.slice(1, 2)
    })()
    await t.rejects(holdings.replaceAll(HOLDER, broken, { signal: abort.signal }), {
      name: 'AbortError',
    })
    const failing = (async function* () {
      yield many.slice(0, 1)
      throw new Error('holder gone')
    })()
    await t.rejects(holdings.replaceAll(HOLDER, failing), { message: 'holder gone' })
    const left = await catalog.search({ kind: 'substring', text: 'pkg' }, 100)
    t.equal(left.matches.length, 10)
  })
  await catalog.close()
  t.same(flaws(file), [], 'no orphan, and the name index agrees with the names')
})

t.test('a writer killed in the middle leaves nothing torn', async t => {
  const file = scratch(t)
  const script = new URL('../../helpers/catalog-writer.ts', import.meta.url)
  for (let round = 0; round < 2; round++) {
    const child = spawn(process.execPath, [...process.execArgv, script.pathname, file], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    child.stdout.setEncoding('utf8')
    let said = ''
    for await (const chunk of child.stdout) {
      said += chunk
      if (said.split('\n').length > 4 + round) break
    }
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    t.equal(child.signalCode, 'SIGKILL')
    const catalog = await opened(t, file)
    t.same(catalog.problems(), [])
    const written = Number(said.trim().split('\n').at(-2))
    t.ok(written > 0, `${written} decisions were said to be written`)
    for (let n = 0; n < written; n++) {
      if (catalog.decisions.get(key(n)) !== `value ${n}`) t.fail(`decision ${n} is lost`)
    }
    await catalog.holdings.replaceAll(HOLDER, [[path('after', round)]])
    t.equal((await catalog.search({ kind: 'glob', pattern: '*' }, 10)).matches.length, 1)
    await catalog.close()
    t.same(flaws(file), [])
  }
})
