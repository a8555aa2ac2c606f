import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { ByteStream } from '../daemon/workers/byte-stream.ts'
import { createNarPool } from '../daemon/workers/create-nar-pool.ts'
import { createScope, type Scope } from '../test/helpers/scope.ts'
import { startDumpServer } from './lib/dump-server.ts'
import { throughput } from './lib/http-load.ts'
import { startNginx } from './lib/nginx.ts'
import { benchOptions, inRounds, report } from './lib/rounds.ts'
import { makeTreeStore, type TreeName } from './lib/trees.ts'

// The worker pool alone, behind the least HTTP server there can be: what the NARs themselves cost, without the daemon around
// them. nginx sends ready NARs by sendfile; nix-store --dump is piped into a socket. Verification is held against hashing alone.

const { rounds } = benchOptions()

/** Chunks that a socket holds at once, as in the daemon. */
const CHUNKS_IN_FLIGHT = 3

async function send(response: ServerResponse, stream: ByteStream): Promise<void> {
  let inFlight = 0
  let wake: (() => void) | undefined
  response.once('close', () => {
    stream.destroy()
    wake?.()
  })
  for await (const chunk of stream) {
    inFlight++
    response.write(chunk, () => {
      inFlight--
      stream.recycle(chunk)
      wake?.()
    })
    while (inFlight >= CHUNKS_IN_FLIGHT && !response.destroyed) {
      await new Promise<void>(resolve => (wake = resolve))
    }
  }
  response.end()
}

async function main(scope: Scope): Promise<void> {
  const store = await makeTreeStore(scope)
  const rootOf = (name: TreeName) => store.host.physical(store.paths[name])
  const nginx = await startNginx(scope, store.nars)
  const dump = await startDumpServer(scope)
  const pool = createNarPool()
  await pool.open()
  scope.teardown(() => pool.close())
  const server = createServer((request, response) => {
    const name = (request.url ?? '').slice(1) as TreeName
    response.setHeader('Content-Length', statSync(join(store.nars, `${name}.nar`)).size)
    send(response, pool.dump(rootOf(name))).catch((error: unknown) =>
      response.destroy(error as Error),
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  scope.teardown(() => server.close())
  const { port } = server.address() as AddressInfo

  for (const [name, baseline, goal] of [
    ['file-256m', 'nginx, ready NAR', 0.9],
    ['tree-2400', 'nix-store --dump', 1.5],
    ['tree-20000', 'nix-store --dump', 1.15],
  ] as const) {
    const contenders = {
      'nginx, ready NAR': `${nginx.url}/${name}.nar`,
      'nix-store --dump': dump.urlOf(rootOf(name)),
      pool: `http://127.0.0.1:${port}/${name}`,
    }
    for (const clients of [1, 4]) {
      const measures = Object.entries({ [baseline]: '', ...contenders }).map(
        ([contender, url]) => [contender, () => throughput(url, clients)] as const,
      )
      const { values, ratios } = await inRounds(Object.fromEntries(measures), rounds)
      const inMegabytes = Object.entries(values).map(
        ([contender, all]) => [contender, all.map(value => value / 1e6)] as const,
      )
      report(
        `NAR of ${name} by the pool, ${clients} client(s)`,
        'MB/s',
        { ratios, values: Object.fromEntries(inMegabytes) },
        { pool: { atLeast: goal } },
      )
    }
  }
  await verification(name => pool.digestTree(rootOf(name)))
}

/** CPU seconds of this process, worker threads included. */
const cpuNow = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Megabytes hashed per CPU second: of a tree from disk, against memory alone. */
async function verification(
  digest: (name: TreeName) => Promise<{ readonly narSize: number }>,
): Promise<void> {
  const block = Buffer.alloc(1024 * 1024, 1)
  const perCpuSecond = async (work: () => Promise<number>) => {
    const before = cpuNow()
    return (await work()) / 1e6 / (cpuNow() - before)
  }
  const result = await inRounds(
    {
      'SHA-256 of memory': () =>
        perCpuSecond(async () => {
          const hash = createHash('sha256')
          for (let count = 0; count < 256; count++) hash.update(block)
          hash.digest()
          return 256 * block.length
        }),
      'file-256m': () => perCpuSecond(async () => (await digest('file-256m')).narSize),
      'tree-2400': () => perCpuSecond(async () => (await digest('tree-2400')).narSize),
    },
    rounds,
  )
  report('verification of a live path', 'MB per CPU second', result, {
    'file-256m': { atLeast: 0.75 },
  })
}

const scope = createScope()
try {
  await main(scope)
} finally {
  await scope.close()
}
