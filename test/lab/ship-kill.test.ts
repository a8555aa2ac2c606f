import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import type { JobEvent } from '../../protocol/api-jobs.ts'
import { parseShipment } from '../../protocol/shipment.ts'
import { formatHash } from '../../protocol/hash.ts'
import { parseNarinfo } from '../../protocol/narinfo.ts'
import { hashPartOf } from '../../protocol/store-path.ts'
import { makeClosure } from '../helpers/closure.ts'
import { daemonSkip, startDaemon } from '../helpers/daemon.ts'
import { labSkip } from '../helpers/nix-host.ts'
import { tempDir } from '../helpers/scope.ts'

// A daemon that packs is killed at random moments: what lies on the drive is a valid cache each time, and a later run completes
// it without copying anything twice.

const KILLS = Number(process.env.SHIP_KILLS ?? 6)
const LAB_LIMIT_MS = 900_000
/** The moments differ from run to run; a failure names its seed. */
const SEED = Number(process.env.SHIP_SEED ?? Date.now() % 1_000_000)

/** Asks for a shipment; gives the state it ended in, undefined where the daemon went. */
function ship(socketPath: string, dir: string, root: string): Promise<string | undefined> {
  return new Promise(resolve => {
    let text = ''
    const sent = request(
      {
        ...{ socketPath, path: '/api/v1/ship', method: 'POST' },
        headers: { 'content-type': 'application/json' },
      },
      reply => {
        reply.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        reply.on('error', () => resolve(undefined))
        reply.on('close', () => {
          const events = text
            .split('\n')
            .filter(line => line !== '' && line.endsWith('}'))
            .map(line => JSON.parse(line) as JobEvent)
          const end = events.find(({ event }) => event === 'end')
          resolve(end?.event === 'end' ? end.job.state : undefined)
        })
      },
    )
    sent.on('error', () => resolve(undefined))
    sent.end(JSON.stringify({ dir, roots: [root] }))
  })
}

/** Files of NARs that have their narinfos, by URL: what a run must leave alone. Throws where the cache is not valid. */
function readCache(dir: string): Map<string, string> {
  const files = new Map<string, string>()
  const names = existsSync(dir) ? readdirSync(dir).filter(name => name.endsWith('.narinfo')) : []
  for (const name of names) {
    const info = parseNarinfo(readFileSync(join(dir, name)))
    const bytes = readFileSync(join(dir, info.url))
    const hash = createHash('sha256').update(bytes).digest()
    if (info.fileHash === undefined || !hash.equals(info.fileHash.bytes)) {
      throw new Error(
        `${info.url} is not what ${name} says (${info.fileHash && formatHash(info.fileHash, 'nix32')})`,
      )
    }
    for (const reference of info.references) {
      if (!names.includes(`${hashPartOf(reference)}.narinfo`)) {
        throw new Error(`${name} is there before ${reference}`)
      }
    }
    const { ino, mtimeMs } = statSync(join(dir, info.url))
    files.set(info.url, `${ino} ${mtimeMs}`)
  }
  return files
}

const bytesIn = (dir: string): number => {
  if (!existsSync(join(dir, 'nar'))) return 0
  return readdirSync(join(dir, 'nar')).reduce(
    (sum, name) => sum + (statSync(join(dir, 'nar', name), { throwIfNoEntry: false })?.size ?? 0),
    0,
  )
}

const unfinished = (dir: string): string[] =>
  ['', 'nar', 'narwharf', 'narwharf/index'].flatMap(place =>
    readdirSync(join(dir, place)).filter(name => name.includes('unfinished')),
  )

t.setTimeout(LAB_LIMIT_MS)
t.test('killed while it packs', { skip: labSkip || daemonSkip }, async t => {
  let state = SEED
  const random = (): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 4) / 2 ** 28
  }
  const { host, top, paths, upstreamKey } = await makeClosure(t)
  const base = tempDir(t, 'kill')
  let daemon = await startDaemon(t, {
    store: { enable: true, root: host.root },
    trust: { publicKeys: [upstreamKey] },
    controlSocket: join(base, 'control'),
    log: { level: 'warn' },
  })
  const whole = join(base, 'whole')
  t.equal(await ship(join(base, 'control'), whole, top), 'done')
  const total = bytesIn(whole)
  const early: number[] = []
  let drives = 0
  let dir = ''
  let kept = new Map<string, string>()
  for (let kill = 1; kill <= KILLS; kill++) {
    // Every fourth time a new drive, so that beginnings are hit as well as ends.
    if (kill % 4 === 1) {
      dir = join(base, `drive-${++drives}`)
      mkdirSync(dir)
      kept = new Map()
    }
    const before = bytesIn(dir)
    const target = before + random() * (total - before) * 0.9
    const ended = ship(join(base, 'control'), dir, top)
    let over = false
    void ended.then(() => (over = true))
    // The moment: so many bytes, and a few milliseconds more.
    while (!over && bytesIn(dir) < target) await wait(2)
    await wait(random() * 30)
    if (over) early.push(kill)
    await daemon.kill()
    await ended
    const found = readCache(dir)
    for (const [url, stamp] of kept) {
      if (found.get(url) !== stamp) t.fail(`kill ${kill} (seed ${SEED}): ${url} was copied again`)
    }
    kept = found
    daemon = await daemon.restart()
    if (kill % 4 !== 0) continue
    t.equal(await ship(join(base, 'control'), dir, top), 'done', `drive ${drives} is completed`)
    const done = readCache(dir)
    t.equal(
      readdirSync(dir).filter(name => name.endsWith('.narinfo')).length,
      paths.length,
      `all paths after ${kill} kills`,
    )
    for (const [url, stamp] of kept) {
      if (done.get(url) !== stamp) t.fail(`seed ${SEED}: ${url} was copied again at the end`)
    }
    t.same(unfinished(dir), [], 'nothing unfinished is left')
    t.same(
      readdirSync(join(dir, 'nar')).sort(),
      readdirSync(join(whole, 'nar')).sort(),
      'the same files as without kills',
    )
    const id = (place: string) =>
      parseShipment(readFileSync(join(place, 'narwharf/shipment.json'))).manifest.id
    t.equal(id(dir), id(whole), 'the same shipment')
  }
  t.comment(`seed ${SEED}, ${KILLS - early.length} of ${KILLS} kills while it packed`)
  t.ok(early.length < KILLS / 2, 'most kills were in the middle')
})
