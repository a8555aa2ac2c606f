import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { Test } from 'tap'
import { createEventBus } from '../../daemon/events.ts'
import { SYSTEM_CLOCK } from '../../daemon/holders/clock.ts'
import type { Holding } from '../../daemon/holders/holder.ts'
import { createUpstreamHolder, type UpstreamOptions } from '../../daemon/holders/upstream.ts'
import { createDownloads } from '../../daemon/holders/upstream-downloads.ts'
import type { ByteStream } from '../../daemon/workers/byte-stream.ts'
import { createNarPool } from '../../daemon/workers/create-nar-pool.ts'
import type { NarPool } from '../../daemon/workers/nar-pool.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { hashPartOf, type HashPart } from '../../protocol/store-path.ts'
import { startCacheServer, type CacheServer } from './cache-server.ts'
import { makeTempDir, narOf, pathOf } from './nix-store.ts'

export const part = (name: string): HashPart => hashPartOf(pathOf(name))
export const sha256 = (bytes: Buffer) => encodeNix32(createHash('sha256').update(bytes).digest())

/** Facts that a narinfo may get wrong. */
export interface Lies {
  readonly fileHash?: string
  readonly narSize?: number
  readonly withoutFileFacts?: true
  readonly nar?: Buffer
}

/** Puts a path into a cache directory; gives its NAR and the URL of its file. */
export function put(dir: string, name: string, content: Buffer | string, lies: Lies = {}) {
  mkdirSync(join(dir, 'nar'), { recursive: true })
  writeFileSync(join(dir, 'nix-cache-info'), 'StoreDir: /nix/store\n')
  const nar = narOf(content)
  const file = gzipSync(lies.nar ?? nar, { level: 1 })
  const url = `nar/${sha256(file)}.nar.gz`
  writeFileSync(join(dir, url), file)
  const facts = [`FileHash: sha256:${lies.fileHash ?? sha256(file)}`, `FileSize: ${file.length}`]
  writeFileSync(
    join(dir, `${part(name)}.narinfo`),
    [
      `StorePath: ${pathOf(name)}`,
      `URL: ${url}`,
      'Compression: gzip',
      ...(lies.withoutFileFacts === true ? [] : facts),
      `NarHash: sha256:${sha256(nar)}`,
      `NarSize: ${lies.narSize ?? nar.length}`,
      'References: ',
      '',
    ].join('\n'),
  )
  return { nar, file, url }
}

export async function read(stream: ByteStream): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of stream) {
    parts.push(Buffer.from(chunk))
    stream.recycle(chunk)
  }
  return Buffer.concat(parts)
}

/** Makes what each test sets up; the worker pool is one for all tests of the file. */
export async function openUpstreamRig(root: Test) {
  const pool = createNarPool()
  await pool.open()
  // Waiting for an upstream keeps no process alive by itself.
  const alive = setInterval(() => undefined, 1000)
  root.teardown(() => {
    clearInterval(alive)
    return pool.close()
  })
  return { pool, setUp: (t: Test) => setUp(t, pool) }
}

/** A server over an empty cache and what makes holders of it. */
async function setUp(t: Test, pool: NarPool) {
  const dir = makeTempDir(t, 'cache')
  const stateDir = join(makeTempDir(t, 'state'), 'upstream')
  const server = await startCacheServer(t, dir)
  const events = createEventBus()
  const bad: string[] = []
  events.on('holding:bad', ({ problem }) => bad.push(problem))
  const downloadsOf = () => {
    const downloads = createDownloads({ dir: stateDir, clock: SYSTEM_CLOCK, retryMs: [1, 1, 1] })
    downloads.open()
    t.teardown(() => downloads.close())
    return downloads
  }
  const holderOf = async (options: Partial<UpstreamOptions> = {}) => {
    const holder = createUpstreamHolder({
      url: server.url,
      pool,
      downloads: downloadsOf(),
      events,
      expectedStoreDir: '/nix/store',
      times: { silenceMs: 150, smallMs: 600, stallMs: 300 },
      backoffMs: [20],
      ...options,
    })
    await holder.open()
    t.teardown(() => holder.close())
    const find = async (name: string): Promise<Holding> => {
      const holding = await holder.find(part(name))
      if (holding === undefined) throw new Error(`${name} is not found`)
      return holding
    }
    return { ...holder, find, holder }
  }
  return { dir, stateDir, server, events, bad, holderOf, downloadsOf }
}

export const narinfoCount = (server: CacheServer, name: string) =>
  server.count(`${part(name)}.narinfo`)
