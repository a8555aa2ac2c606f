import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { createCatalog } from '../daemon/catalog/catalog.ts'
import { parseQuery, type CatalogQuery } from '../daemon/catalog/query.ts'
import type { PeerKey } from '../daemon/site.ts'
import { decodeIndexBlock, indexPathsOf, type IndexPath } from '../protocol/index-block.ts'
import { encodeIndexAdd } from '../protocol/index-block-encode.ts'
import { baseNameOf, hashPartOf, type BaseName } from '../protocol/store-path.ts'
import { deflate, inflate, syntheticPaths } from '../test/helpers/index-paths.ts'
import { createScope, tempDir, type Scope } from '../test/helpers/scope.ts'
import { benchOptions, median, percentile, reportValue } from './lib/rounds.ts'

// A peer's index of a million paths: bytes on the wire, encode and decode, time until it is searchable, and look-ups.

const { quick } = benchOptions()
const PATHS = quick ? 50_000 : 1_000_000
const BLOCK_PATHS = 500
/** Blocks applied at once, as gossip does: about 3 MB. */
const BATCH_BLOCKS = 64
const PEER = 'aa'.repeat(32) as PeerKey
const LOOKUPS = 5000

const cpuMs = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}
const megabytes = (bytes: number): number => Math.round(bytes / 1e5) / 10
const rss = (): number => process.memoryUsage.rss()

/** Blocks and what stands at each position, without keeping a million path infos. */
function encodeAll(count: number, signatures: number) {
  const blocks: Buffer[] = []
  const baseNames: BaseName[] = []
  const positions = new Map<BaseName, number>()
  let encodeMs = 0
  let some: IndexPath[] = []
  const flush = () => {
    const firstPosition = baseNames.length
    const start = cpuMs()
    blocks.push(
      encodeIndexAdd(some, { firstPosition, positionOf: name => positions.get(name) }, deflate),
    )
    encodeMs += cpuMs() - start
    for (const { info } of some) {
      positions.set(baseNameOf(info.storePath), baseNames.length)
      baseNames.push(baseNameOf(info.storePath))
    }
    some = []
  }
  for (const path of syntheticPaths(count, { signatures })) {
    some.push(path)
    if (some.length === BLOCK_PATHS) flush()
  }
  if (some.length > 0) flush()
  return { blocks, baseNames, encodeMs }
}

function codec(): { readonly blocks: readonly Buffer[]; readonly baseNames: readonly BaseName[] } {
  const { blocks, baseNames, encodeMs } = encodeAll(PATHS, 0)
  const bytes = blocks.reduce((sum, block) => sum + block.length, 0)
  reportValue(`index of ${PATHS} paths, no signatures`, 'bytes a path', bytes / PATHS, {
    atMost: 95,
  })
  reportValue('encode', 'ms CPU a block of 500', encodeMs / blocks.length)
  let start = cpuMs()
  for (const block of blocks) decodeIndexBlock(block, inflate)
  reportValue('decode to columns', 'ms CPU a block of 500', (cpuMs() - start) / blocks.length, {
    atMost: 1,
  })
  start = cpuMs()
  blocks.slice(0, 200).forEach((bytes, at) => {
    const block = decodeIndexBlock(bytes, inflate)
    if (block.kind === 'add') {
      indexPathsOf(block, at * BLOCK_PATHS, position => baseNames[position])
    }
  })
  reportValue(
    'decode to path infos',
    'ms CPU a block of 500',
    (cpuMs() - start) / Math.min(200, blocks.length),
  )
  const signed = encodeAll(Math.min(PATHS, 20_000), 1)
  const signedBytes = signed.blocks.reduce((sum, block) => sum + block.length, 0)
  reportValue('the same with one signature', 'bytes a path', signedBytes / signed.baseNames.length)
  return { blocks, baseNames }
}

/** What the same rows cost SQLite in the plainest shape: a text key, a JSON of references, a name index made at the end. */
function plainInsert(
  scope: Scope,
  blocks: readonly Buffer[],
  baseNames: readonly BaseName[],
): number {
  const database = new Database(join(tempDir(scope, 'plain'), 'plain.sqlite'))
  database.pragma('journal_mode = WAL')
  database.pragma('synchronous = NORMAL')
  database.exec(`CREATE TABLE paths (path TEXT PRIMARY KEY, name TEXT, nar_hash BLOB, nar_size INTEGER, refs TEXT);
    CREATE VIRTUAL TABLE names USING fts5(name, tokenize = 'trigram', detail = 'none')`)
  const insert = database.prepare('INSERT INTO paths VALUES (?, ?, ?, ?, ?)')
  const name = database.prepare('INSERT INTO names (name) VALUES (?)')
  const start = performance.now()
  for (let at = 0; at < blocks.length; at += BATCH_BLOCKS) {
    database.transaction(() => {
      blocks.slice(at, at + BATCH_BLOCKS).forEach((bytes, n) => {
        const block = decodeIndexBlock(bytes, inflate)
        if (block.kind !== 'add') return
        for (const { info } of indexPathsOf(
          block,
          (at + n) * BLOCK_PATHS,
          position => baseNames[position],
        )) {
          const baseName = baseNameOf(info.storePath)
          insert.run(
            baseName,
            baseName.slice(33),
            info.narHash.bytes,
            info.narSize,
            JSON.stringify(info.references),
          )
          name.run(baseName.slice(33))
        }
      })
    })()
  }
  const took = performance.now() - start
  database.close()
  return took
}

async function searchable(scope: Scope, blocks: readonly Buffer[], baseNames: readonly BaseName[]) {
  const file = join(tempDir(scope, 'index'), 'catalog.sqlite')
  const catalog = createCatalog({ file })
  await catalog.open()
  const before = rss()
  const { indexes } = catalog
  await indexes.begin(PEER, { epoch: 1, core: 'bb'.repeat(32), host: 'far' })
  let peak = 0
  const start = performance.now()
  const cpu = cpuMs()
  for (let at = 0; at < blocks.length; at += BATCH_BLOCKS) {
    await indexes.apply(PEER, 1, at, blocks.slice(at, at + BATCH_BLOCKS))
    peak = Math.max(peak, rss())
  }
  const arrived = performance.now() - start
  reportValue(`${PATHS} paths found by hash and name after`, 's', arrived / 1000, { atMost: 20 })
  reportValue('  of CPU', 's', (cpuMs() - cpu) / 1000)
  const slow = await nameQuery(catalog, 'firefox-*', 1)
  reportValue('name query before the name index has caught up', 'ms', median(slow))
  await indexes.tidied()
  const tidied = performance.now() - start
  peak = Math.max(peak, rss())
  reportValue('name index caught up after', 's', tidied / 1000, { atMost: 20 })
  reportValue('memory grown by at most', 'MB', megabytes(peak - before))
  reportValue(
    'memory of the process at most (half of it is what this benchmark keeps itself)',
    'MB',
    megabytes(peak),
  )
  reportValue('catalog file', 'MB', megabytes(statSync(file).size + walSize(file)))
  await lookUps(catalog, baseNames)
  await catalog.close()
  return tidied
}

const walSize = (file: string): number =>
  existsSync(`${file}-wal`) ? statSync(`${file}-wal`).size : 0

type OpenCatalog = ReturnType<typeof createCatalog>

async function nameQuery(catalog: OpenCatalog, text: string, times: number): Promise<number[]> {
  const query = parseQuery(text)
  const took: number[] = []
  for (let n = 0; n < times; n++) {
    const start = performance.now()
    await catalog.search(query as CatalogQuery, 100)
    took.push(performance.now() - start)
  }
  return took
}

async function lookUps(catalog: OpenCatalog, baseNames: readonly BaseName[]): Promise<void> {
  const step = Math.floor(baseNames.length / LOOKUPS)
  const held = Array.from({ length: LOOKUPS }, (_, n) =>
    hashPartOf(baseNames[n * step] as BaseName),
  )
  const absent = held.map(part => (part.slice(16) + part.slice(0, 16)) as typeof part)
  for (const [what, parts, most] of [
    ['find, absent', absent, 20],
    ['find, held (with its references)', held, undefined],
  ] as const) {
    const took = parts.map(part => {
      const start = performance.now()
      catalog.indexes.find(part)
      return (performance.now() - start) * 1000
    })
    reportValue(
      `${what}, p50`,
      'us',
      median(took),
      most === undefined ? undefined : { atMost: most },
    )
    reportValue(`${what}, p99`, 'us', percentile(took, 0.99))
  }
  for (const text of ['firefox-*', 'perl', '*-unwrapped*', 'glibc-2.31', 'zz-nobody']) {
    const took = await nameQuery(catalog, text, 9)
    reportValue(`name query ${text}, p50`, 'ms', median(took))
  }
}

const scope = createScope()
try {
  const { blocks, baseNames } = codec()
  const took = await searchable(scope, blocks, baseNames)
  const plain = plainInsert(scope, blocks, baseNames)
  reportValue('plain SQLite, one table with a text key and a name index', 's', plain / 1000)
  reportValue('catalog against plain SQLite', 'times', took / plain)
} finally {
  await scope.close()
}
