import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import { SYSTEM_CLOCK } from '../../../daemon/holders/clock.ts'
import { createUpstreamHolder } from '../../../daemon/holders/upstream.ts'
import { createDownloads } from '../../../daemon/holders/upstream-downloads.ts'
import type { Transport } from '../../../daemon/holders/upstream-transport.ts'
import {
  createFileTransport,
  createHttpTransport,
} from '../../../daemon/holders/upstream-transport.ts'
import { createNarPool } from '../../../daemon/workers/create-nar-pool.ts'
import { hashPartOf, type HashPart } from '../../../protocol/store-path.ts'
import { startCacheServer } from '../../helpers/cache-server.ts'
import {
  copyToCache,
  makeChrootStore,
  makeTempDir,
  noNix,
  pathOf,
  type CacheCompression,
} from '../../helpers/nix-store.ts'
import { testHolder, type HolderFixture } from './conformance.ts'

const pool = createNarPool()
await pool.open()
// Waiting for an upstream keeps no process alive by itself.
const alive = setInterval(() => undefined, 1000)
t.teardown(() => {
  clearInterval(alive)
  return pool.close()
})

const part = (name: string): HashPart => hashPartOf(pathOf(name))
const narinfoOf = (dir: string, name: string) => join(dir, `${part(name)}.narinfo`)
const urlOf = (dir: string, name: string): string =>
  /^URL: (.*)$/m.exec(readFileSync(narinfoOf(dir, name), 'utf8'))?.[1] ?? ''

/** What an upstream may answer in place of a narinfo. */
function putHostile(dir: string): Record<string, HashPart> {
  const good = readFileSync(narinfoOf(dir, 'text'), 'utf8')
  const parts: Record<string, HashPart> = {}
  const put = (what: string, text: (storePath: string) => string | Buffer) => {
    const storePath = pathOf(`hostile-${Object.keys(parts).length}`)
    parts[what] = hashPartOf(storePath)
    writeFileSync(join(dir, `${hashPartOf(storePath)}.narinfo`), text(storePath))
  }
  const changed = (what: string, change: (text: string) => string) =>
    put(what, storePath => change(good.replace(/^StorePath: .*$/m, `StorePath: ${storePath}`)))
  put('an empty file', () => '')
  put('a page of HTML', () => '<html>please log in</html>\n')
  put('random bytes', () => Buffer.alloc(500, 0xe7))
  put('larger than any narinfo', () => Buffer.alloc(3_000_000, 'x'))
  put('of another path', () => good)
  changed('of another store directory', text => text.replace('/nix/store', '/gnu/store'))
  changed('cut off', text => text.slice(0, -5))
  changed('size 0', text => text.replace(/^NarSize: .*$/m, 'NarSize: 0'))
  changed('URL that climbs', text => text.replace(/^URL: .*$/m, 'URL: ../../../etc/passwd'))
  changed('URL to elsewhere', text => text.replace(/^URL: .*$/m, 'URL: http://localhost/x.nar'))
  return parts
}

/** The holder over a cache directory whose files come by `transport`. */
function fixtureOver(
  t: Test,
  compression: CacheCompression,
  connect: (dir: string) => { readonly url: string; readonly transport: Transport },
): HolderFixture {
  const store = makeChrootStore(t)
  const dir = join(makeTempDir(t, 'cache'), 'cache')
  const downloads = createDownloads({
    dir: join(makeTempDir(t, 'state'), 'upstream'),
    clock: SYSTEM_CLOCK,
    retryMs: [1],
  })
  downloads.open()
  t.teardown(() => downloads.close())
  const events = createEventBus()
  const { url, transport } = connect(dir)
  const holder = createUpstreamHolder({
    url,
    transport,
    pool,
    downloads,
    events,
    expectedStoreDir: '/nix/store',
    backoffMs: [5],
  })
  const forget = (names: readonly string[]) => names.forEach(name => holder.forget(part(name)))
  return {
    holder,
    listsFound: true,
    put(spec) {
      store.add(spec)
      copyToCache(store, dir, Object.keys(spec), { compression })
      forget(Object.keys(spec))
    },
    nar: store.nar,
    remove(name) {
      rmSync(join(dir, urlOf(dir, name)))
      rmSync(narinfoOf(dir, name))
      store.delete(name)
      forget([name])
    },
    damage(name) {
      const file = join(dir, urlOf(dir, name))
      const bytes = readFileSync(file)
      const at = Math.floor(bytes.length / 2)
      bytes[at] = (bytes[at] ?? 0) ^ 1
      writeFileSync(file, bytes)
      forget([name])
    },
    putHostile: () => putHostile(dir),
    takeAway: () => renameSync(dir, `${dir}-away`),
    async bringBack() {
      const up = new Promise<void>(resolve => events.once('holder:up', () => resolve()))
      renameSync(`${dir}-away`, dir)
      await up
    },
  }
}

for (const compression of ['zstd', 'none'] as const) {
  testHolder(
    t,
    `a directory of ${compression} behind a file URL`,
    t =>
      fixtureOver(t, compression, dir => {
        const url = pathToFileURL(dir)
        return { url: url.href, transport: createFileTransport(url) }
      }),
    noNix,
  )
}

/** An HTTP server that is started when the first request comes, and is away while its directory is. */
function lazyHttp(t: Test, dir: string): { readonly url: string; readonly transport: Transport } {
  const started = startCacheServer(t, dir)
  let inner: Transport | undefined
  t.teardown(() => inner?.close())
  return {
    url: 'http://cache.example',
    transport: {
      async get(request) {
        const server = await started
        server.fault = () => {
          try {
            readFileSync(join(dir, 'nix-cache-info'))
            return undefined
          } catch {
            return { kind: 'cut', after: 0 }
          }
        }
        inner ??= createHttpTransport(new URL(server.url), 'anywhere')
        return inner.get(request)
      },
      close: () => inner?.close(),
    },
  }
}

testHolder(t, 'a cache behind HTTP', t => fixtureOver(t, 'xz', dir => lazyHttp(t, dir)), noNix)
