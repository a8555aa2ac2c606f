import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { HolderStatus, Problem, StatusReply } from '../protocol/api.ts'
import { formatCacheInfo } from '../protocol/cache-info.ts'
import { nixConfEssentials, nixConfLines } from '../protocol/nix-conf.ts'
import { parseStorePath } from '../protocol/store-path.ts'
import { createCatalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { diagnose } from './doctor.ts'
import { openDriveRooms, type DriveRooms } from './drive-rooms.ts'
import { createEventBus } from './events.ts'
import { createCacheDirWriter } from './holders/cache-dir-writer.ts'
import { createCacheDirHolder } from './holders/cache-dir.ts'
import type { Holder } from './holders/holder.ts'
import { createIntakeThreads } from './holders/intake-start.ts'
import { createHolderList } from './holders/holder-list.ts'
import { createNixStoreHolder } from './holders/nix-store.ts'
import { isLoopback } from './http/audience.ts'
import { createCounters } from './http/counters.ts'
import { openGathering } from './gather-rooms.ts'
import { createHttp } from './http/server.ts'
import { createInventory } from './inventory/inventory.ts'
import { createJobs } from './jobs/jobs.ts'
import { createLog } from './log.ts'
import { openMerging } from './merge-rooms.ts'
import { clearSocket, shareSocket, takeStateDir } from './state-dir.ts'
import { createPublications } from './publications/publications.ts'
import { createArchives } from './shipments/archives.ts'
import { openCacheSpace } from './shipments/merge-space.ts'
import { openShipping } from './shipment-rooms.ts'
import { openSite } from './site-rooms.ts'
import { createFetch } from './substitution/fetch.ts'
import { createSubstitution } from './substitution/substitution.ts'
import { createTee } from './substitution/tee.ts'
import { drivesAway, explainWhyNot } from './substitution/why-not.ts'
import { openWants } from './want-rooms.ts'
import { createTrust } from './trust/trust-room.ts'
import { createNarPool } from './workers/create-nar-pool.ts'

// The only file that knows all rooms: opens them in order, closes them in reverse.

/** A running daemon. */
export interface Daemon {
  /** Where Nix on this machine finds it. */
  readonly url: string
  readonly publicKey: string
  /** The two lines that nix.conf needs at least. */
  readonly nixConfLines: readonly string[]
  readonly log: Logger
  close(): Promise<void>
}

/** The version this build says it is, from the package beside it. */
export const VERSION = (
  JSON.parse(readFileSync(findPackage(), 'utf8')) as { readonly version: string }
).version

/** package.json lies one level up in the source and two in dist. */
function findPackage(): URL {
  const here = import.meta.url
  return new URL(here.endsWith('.ts') ? '../package.json' : '../../package.json', here)
}

/** Rooms in the order they were opened; closing goes the other way and closes all, whatever one of them does. */
function createClosers(log: Logger) {
  const closers: (readonly [string, () => unknown])[] = []
  let closing: Promise<void> | undefined
  const closeAll = async () => {
    for (const [room, close] of closers.reverse()) {
      try {
        await close()
      } catch (error) {
        log.error({ err: error }, `closing ${room} failed`)
      }
    }
  }
  return {
    push: (room: string, close: () => unknown) => void closers.push([room, close]),
    close: () => (closing ??= closeAll()),
  }
}

/** Makes the host's own cache directory one that stock Nix can use as well. */
function prepareCacheDir(dir: string, storeDir: string): void {
  mkdirSync(dir, { recursive: true })
  const file = join(dir, 'nix-cache-info')
  if (existsSync(file)) return
  writeFileSync(file, formatCacheInfo({ storeDir, wantMassQuery: true, priority: undefined }))
}

/** The address Nix on this machine uses: a wildcard address is reached by loopback. */
function localUrl(host: string, port: number): string {
  const name = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  return `http://${isIP(name) === 6 ? `[${name}]` : name}:${port}`
}

/** Opens every room and listens. Throws NarwharfError when one cannot (and closes what was open). */
export async function runDaemon(config: Config): Promise<Daemon> {
  const log = createLog(config.log.level)
  const rooms = createClosers(log)
  // One failed answer must not end the service to everybody else; what is behind it is in the log.
  const onRejection = (error: unknown) => log.error({ err: error }, 'something failed unseen')
  process.on('unhandledRejection', onRejection)
  rooms.push('the last net', () => process.off('unhandledRejection', onRejection))
  try {
    return await openRooms(config, log, rooms)
  } catch (error) {
    await rooms.close()
    throw error
  }
}

async function openRooms(
  config: Config,
  log: Logger,
  rooms: ReturnType<typeof createClosers>,
): Promise<Daemon> {
  const startedAt = new Date().toISOString()
  const state = takeStateDir(config.stateDir)
  rooms.push('the state directory', () => state.release())
  const events = createEventBus()
  events.on('holder:up', id => log.info({ holder: id }, `${id} can be read`))
  events.on('holder:down', (id, problem) => log.warn({ holder: id }, `${id}: ${problem}`))
  events.on('holding:bad', ({ holderId, storePath, problem }) =>
    log.warn({ holder: holderId, storePath }, `not offered: ${problem}`),
  )

  const catalog = createCatalog({ file: join(config.stateDir, 'catalog.sqlite') })
  await catalog.open()
  rooms.push('the catalog', () => catalog.close())
  const pool = createNarPool()
  await pool.open()
  rooms.push('the worker pool', () => pool.close())

  const storeDir = config.store.dir
  const staying: Holder[] = []
  if (config.store.enable) {
    staying.push(
      createNixStoreHolder({
        root: config.store.root,
        storeDir,
        db: config.store.db,
        pool,
        events,
      }),
    )
  }
  prepareCacheDir(config.cache.dir, storeDir)
  for (const dir of [config.cache.dir, ...config.cache.extraDirs]) {
    staying.push(createCacheDirHolder({ dir, pool, expectedStoreDir: storeDir, events }))
  }
  for (const holder of staying) {
    await holder.open()
    rooms.push(holder.id, () => holder.close())
  }
  const holders = createHolderList(staying)

  const trust = createTrust({
    secretKeyFile: config.trust.secretKeyFile,
    hostName: config.hostName,
    publicKeys: config.trust.publicKeys,
    deny: config.share.deny,
    store: config.trust.store,
    members: config.trust.members,
    storeDir,
    catalog,
  })
  await trust.open()
  rooms.push('trust', () => trust.close())

  const site = await openSite({
    ...{ config, version: VERSION, events, log, catalog, pool, trust },
    push: rooms.push,
  })

  let driveRooms: DriveRooms | undefined
  const inventory = createInventory({
    ...{ holders, catalog, events, hostName: config.hostName },
    presence: site.presence,
    driveOf: holderId => driveRooms?.drives.factsOf(holderId),
  })
  await inventory.open()
  rooms.push('the inventory', () => inventory.close())

  const keys = () => [...config.trust.publicKeys, trust.publicKey, ...site.membership.nixKeys()]
  driveRooms = await openDriveRooms({
    ...{ config, events, log, catalog, pool, holders, push: rooms.push },
    keys,
  })
  const { drives } = driveRooms

  const { peerHolders, upstreams } = site
  const cacheWriter = createCacheDirWriter({ dir: config.cache.dir })
  await cacheWriter.open()
  const teeing = config.cache.tee || config.cache.keepShipments
  const tee = teeing
    ? createTee({
        target: cacheWriter,
        space: () => openCacheSpace({ dir: config.cache.dir, maxSize: config.cache.maxSize }),
        holders: () => holders.current(),
        warn: (storePath, problem) => log.warn({ storePath }, `not kept in the cache: ${problem}`),
      })
    : undefined
  rooms.push('the tee', () => tee?.close())

  const substitution = createSubstitution({
    holders,
    peers: peerHolders,
    upstreams: { able: upstreams.able, claiming: upstreams.holders },
    trust,
    verdictStore: catalog.verifications,
    narinfoStore: catalog.narinfos,
    narinfoEpoch: createHash('sha256')
      .update(JSON.stringify([VERSION, trust.publicKey, config.trust, config.share.deny]))
      .digest('base64')
      .slice(0, 16),
    events,
    storeDir,
    withLan: config.share.withLan,
    withPeers: config.share.withPeers,
    trustMembers: config.trust.members,
    delivered: candidate => tee?.delivered(candidate),
    liveCompression: config.http.compression === 'none' ? 'none' : 'zstd',
  })
  rooms.push('substitution', () => substitution.close())

  const threads = createIntakeThreads()
  rooms.push('the copying threads', () => threads.close())

  // Opened late, so that closing stops work before the rooms it works with.
  const jobs = createJobs({ rows: catalog.jobs })
  await jobs.open()
  rooms.push('the jobs', () => jobs.close())

  const fetch = createFetch({ substitution, target: cacheWriter, storeDir })

  const wants = await openWants({
    ...{ config, events, log, catalog, pool, trust, holders, substitution, drives },
    ...{ members: site.membership, notes: site.notes, presence: site.presence, upstreams },
    push: rooms.push,
  })

  const shipping = openShipping({
    ...{ config, catalog, pool, trust, holders, substitution, inventory, jobs, drives, fetch },
    ...{ downloads: upstreams.downloads, keys, threads },
  })

  const merges = await openMerging({
    ...{ config, events, catalog, trust, holders, substitution, jobs, drives, threads },
    ...{ writer: cacheWriter, push: rooms.push, siteName: () => site.membership.siteName },
    ...{ share: wants.share, wanted: wants.wanted, wantsMissing: wants.wantsMissing },
    travel: wants.travel,
  })

  openGathering({
    ...{ config, events, catalog, substitution, jobs, drives, merges, wants },
    ...{ writer: cacheWriter, push: rooms.push },
  })

  const archives = createArchives({
    ...{ holders: staying, trust, substitution, pool, jobs, storeDir },
    ...{ cacheDir: config.cache.dir, writer: cacheWriter },
  })

  const counters = createCounters()
  const openToLan = !isLoopback(config.http.host) && config.http.host !== 'localhost'
  let url = localUrl(config.http.host, config.http.port)
  const nixFacts = () => ({ url, publicKey: trust.publicKey })

  const holderStatus = (): HolderStatus[] => inventory.status()
  const problems = (): Problem[] => [
    ...catalog.problems(),
    ...trust.problems(),
    ...site.problems(),
    ...(driveRooms?.problems() ?? []),
    ...wants.problems(),
    ...holderStatus()
      .filter(({ up }) => !up)
      .map(({ id, problem }) => ({
        what: `${id} cannot be read: ${problem ?? 'unknown reason'}`,
        hint: 'narwharf doctor',
      })),
  ]
  const status = (): StatusReply => ({
    version: VERSION,
    hostName: config.hostName,
    startedAt,
    pid: process.pid,
    stateDir: config.stateDir,
    http: { url, openToLan },
    publicKey: trust.publicKey,
    memoryBytes: process.memoryUsage.rss(),
    holders: holderStatus(),
    served: {
      narinfos: counters.narinfos,
      misses: counters.misses,
      nars: counters.nars,
      narBytes: counters.narBytes,
    },
    problems: problems(),
  })

  const http = createHttp({
    substitution,
    counters,
    storeDir,
    priority: config.http.priority,
    log,
    publications: {
      publications: createPublications({ dir: join(config.cache.dir, 'narwharf') }),
      openToLan: config.share.withLan !== 'none',
      url: () => url,
    },
    api: {
      status,
      whoHas: async queries => ({
        results: wants.withDrives(await Promise.all(queries.map(query => inventory.whoHas(query)))),
      }),
      whyNot: async path => {
        const storePath = parseStorePath(path, storeDir)
        return explainWhyNot(substitution, storePath, drivesAway(await inventory.whoHas(path)))
      },
      nixConf: () => ({ lines: nixConfLines(nixFacts()) }),
      fetch: (paths, signal) =>
        fetch(
          paths.map(path => parseStorePath(path, storeDir)),
          signal,
        ),
      drives,
      jobs,
      shipping,
      archives,
      merging: { merges, jobs },
      wants,
      site: site.sources,
      peers: site.peers,
      doctor: () => diagnose({ config, holders: holderStatus(), openToLan, now: new Date() }),
    },
  })
  rooms.push('http', () => http.close())
  await clearSocket(config.controlSocket)
  await http.listenControl(config.controlSocket)
  shareSocket(config.controlSocket)
  const port = await http.listen(config.http.host, config.http.port)
  url = localUrl(config.http.host, port)
  await site.start({
    ...{ substitution, counters, inventory, holders },
    lanHttpPort: openToLan ? port : undefined,
  })
  log.info({ url, holders: staying.map(({ id }) => id) }, `serving at ${url}`)
  return {
    url,
    publicKey: trust.publicKey,
    nixConfLines: nixConfEssentials(nixFacts()),
    log,
    close: () => rooms.close(),
  }
}
