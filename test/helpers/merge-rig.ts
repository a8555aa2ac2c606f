import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { compress as zstdCompressSync } from 'zstd-napi'
import { createCatalog } from '../../daemon/catalog/catalog.ts'
import type { Drive, Drives, DriveShipment } from '../../daemon/drives/drive.ts'
import { createEventBus } from '../../daemon/events.ts'
import { createCacheDirWriter } from '../../daemon/holders/cache-dir-writer.ts'
import { createDriveHolder } from '../../daemon/holders/drive.ts'
import { createIntakeThreads, type IntakeThreads } from '../../daemon/holders/intake-start.ts'
import { createJobs } from '../../daemon/jobs/jobs.ts'
import { createMerges, type MergesOptions } from '../../daemon/shipments/merge.ts'
import { createTrust } from '../../daemon/trust/trust-room.ts'
import { createNarPool } from '../../daemon/workers/create-nar-pool.ts'
import { formatCacheInfo } from '../../protocol/cache-info.ts'
import { parseNarinfo, formatNarinfo } from '../../protocol/narinfo.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import { formatPublicKey, parseSecretKey, publicKeyOf, sign } from '../../protocol/signature.ts'
import {
  baseNameOf,
  hashPartOf,
  parseStorePath,
  type StorePath,
} from '../../protocol/store-path.ts'
import { tempDir, type Scope } from './scope.ts'
import { fileNar } from './trust-rig.ts'

/** One for all processes of a test; it guards nothing. */
export const depotKey = parseSecretKey(
  'depot-1:xFtQXep5kqU9z2O/sDUkflqKhHkQqTh1aCPjSzLFzorW95Dvs0zI6krzURUyWxg6cV5lz1pCzVWom5KGQEaRmA==',
)
export const depotPublicKey = formatPublicKey(publicKeyOf(depotKey))

/** A store path by its name alone. */
export const pathNamed = (name: string): StorePath =>
  parseStorePath(`/nix/store/${encodeNix32(createHash('sha1').update(name).digest())}-${name}`)
export const partNamed = (name: string) => hashPartOf(pathNamed(name))

export interface SamplePath {
  readonly name: string
  readonly references?: readonly string[]
  /** Bytes of its file's content; default 100. */
  readonly size?: number
  readonly signed?: boolean
  readonly compression?: 'zstd' | 'none'
  readonly content?: Buffer
}

/** Writes a flat cache with those paths; gives the narinfos as written. */
export function writeSampleCache(dir: string, paths: readonly SamplePath[]): NarInfo[] {
  mkdirSync(join(dir, 'nar'), { recursive: true })
  const cacheInfo = { storeDir: '/nix/store', wantMassQuery: true, priority: undefined }
  writeFileSync(join(dir, 'nix-cache-info'), formatCacheInfo(cacheInfo))
  return paths.map(path => {
    const { name, references = [], size = 100, signed = true, compression = 'zstd' } = path
    const nar = fileNar(path.content ?? randomBytes(size))
    const file = compression === 'zstd' ? zstdCompressSync(nar) : nar
    const fileHash = createHash('sha256').update(file).digest()
    const url = `nar/${encodeNix32(fileHash)}.nar${compression === 'zstd' ? '.zst' : ''}`
    writeFileSync(join(dir, url), file)
    const plain: NarInfo = {
      storePath: pathNamed(name),
      narHash: { algorithm: 'sha256', bytes: createHash('sha256').update(nar).digest() },
      narSize: nar.length,
      references: references.map(one => baseNameOf(pathNamed(one))).sort(),
      signatures: [],
      ...{ url, compression, fileSize: file.length },
      fileHash: { algorithm: 'sha256', bytes: fileHash },
    }
    const info = signed ? { ...plain, signatures: [sign(plain, depotKey)] } : plain
    writeFileSync(join(dir, `${partNamed(name)}.narinfo`), formatNarinfo(info))
    return info
  })
}

/** The entries of such a cache as its narinfos tell, in no order. */
export async function* sampleEntries(dir: string): AsyncGenerator<readonly ShipmentEntry[]> {
  for (const name of readdirSync(dir)) {
    if (!name.endsWith('.narinfo')) continue
    yield [{ info: parseNarinfo(readFileSync(join(dir, name))), builtHere: false }]
  }
}

/** What is wrong with a cache directory: unfinished files, narinfos without what they name, NARs that are not right. */
export function flawsOf(
  dir: string,
  options: { readonly partial?: boolean; readonly killed?: boolean } = {},
): string[] {
  const flaws: string[] = []
  for (const place of ['', 'nar']) {
    for (const name of readdirSync(join(dir, place))) {
      if (options.killed !== true && name.startsWith('.narwharf'))
        flaws.push(`${place}/${name} is left`)
    }
  }
  for (const name of readdirSync(dir)) {
    if (!name.endsWith('.narinfo')) continue
    const info = parseNarinfo(readFileSync(join(dir, name)))
    const file = join(dir, info.url)
    if (!existsSync(file)) {
      flaws.push(`${name}: no NAR`)
      continue
    }
    const hash = createHash('sha256').update(readFileSync(file)).digest()
    if (info.fileHash !== undefined && !hash.equals(info.fileHash.bytes)) {
      flaws.push(`${name}: its file is not right`)
    }
    for (const reference of info.references) {
      if (options.partial === true) continue
      if (!existsSync(join(dir, `${reference.slice(0, 32)}.narinfo`))) {
        flaws.push(`${name}: lacks ${reference}`)
      }
    }
  }
  return flaws
}

/** Names of the paths in a cache. */
export const namesIn = (dir: string): string[] =>
  readdirSync(dir)
    .filter(name => name.endsWith('.narinfo'))
    .map(name => parseNarinfo(readFileSync(join(dir, name))).storePath.slice(44))
    .sort()

/** Modification times of the NAR files: what was copied again has another. */
export const narTimes = (dir: string): Map<string, number> =>
  new Map(
    readdirSync(join(dir, 'nar')).map(name => [name, statSync(join(dir, 'nar', name)).mtimeMs]),
  )

/** Drives that a test plugs and pulls. */
export function fakeDrives(
  events: ReturnType<typeof createEventBus>,
  openHolder: (dir: string) => Promise<Drive>,
) {
  const plugged = new Map<string, Drive>()
  const uses = new Map<string, Set<AbortController>>()
  const drives: Drives & {
    plug(drive: Drive): void
    pull(id: string): void
    readonly inUse: number
  } = {
    open: async () => {},
    close: async () => {},
    plugged: () => [...plugged.values()],
    list: () => [],
    find: text => [...plugged.values()].find(({ id, name, dir }) => [id, name, dir].includes(text)),
    async adopt(dir) {
      const drive = { ...(await openHolder(dir)), adopted: true }
      plugged.set(drive.id, drive)
      return drive
    },
    release: async () => {},
    use(id) {
      if (!plugged.has(id)) return undefined
      const abort = new AbortController()
      const all = uses.get(id) ?? new Set()
      uses.set(id, all.add(abort))
      return { signal: abort.signal, done: () => void all.delete(abort) }
    },
    look: async () => {},
    eject: () => Promise.reject(new Error('not here')),
    idle: async () => {},
    plug(drive) {
      plugged.set(drive.id, drive)
      events.emit('drive:plugged', drive.id)
    },
    pull(id) {
      plugged.delete(id)
      for (const abort of uses.get(id) ?? []) abort.abort()
      events.emit('drive:gone', id, 'it was pulled')
    },
    get inUse() {
      return [...uses.values()].reduce((sum, all) => sum + all.size, 0)
    },
  }
  return drives
}

// One set for all rigs of a test file: each takes a second to start from TypeScript.
let shared: IntakeThreads | undefined

export interface MergeRigOptions extends Partial<MergesOptions> {
  readonly cacheDir?: string
  readonly stateDir?: string
  readonly publicKeys?: readonly string[]
}

/** The rooms of a host that merges, over real files, trust, jobs and threads, with drives that a test plugs. */
export async function mergeRig(t: Scope, options: MergeRigOptions = {}) {
  const { stateDir = tempDir(t, 'merge-state'), publicKeys = [depotPublicKey], ...more } = options
  const cacheDir = options.cacheDir ?? join(tempDir(t, 'merge-cache'), 'cache')
  const events = createEventBus()
  const catalog = createCatalog({ file: join(stateDir, 'catalog.sqlite'), writerThread: false })
  await catalog.open()
  const pool = createNarPool()
  await pool.open()
  const trust = createTrust({
    ...{ secretKeyFile: join(stateDir, 'key.secret'), hostName: 'lab-3', publicKeys },
    ...{ deny: ['*-secrets-*'], store: 'ultimate', storeDir: '/nix/store', catalog },
  })
  await trust.open()
  const jobs = createJobs({ rows: catalog.jobs })
  await jobs.open()
  const writer = createCacheDirWriter({ dir: cacheDir })
  await writer.open()
  const closing: (() => Promise<void>)[] = []
  const threads = (shared ??= createIntakeThreads())
  const drive = async (
    dir: string,
    facts: Partial<Drive> & { readonly shipment?: DriveShipment } = {},
  ): Promise<Drive> => {
    const { shipment, ...rest } = facts
    const id = rest.id ?? basename(dir)
    const holder = createDriveHolder({
      ...{ driveId: id, name: id, dir, pool, events, expectedStoreDir: '/nix/store' },
      ...(shipment?.signedBy !== undefined && {
        index: { manifest: shipment.manifest, file: join(stateDir, `${id}.index`) },
      }),
    })
    await holder.open()
    await holder.ready()
    closing.push(() => holder.close())
    return {
      ...{ id, name: id.toUpperCase(), mountPoint: dir, fsType: 'ext4', readOnly: false, dir },
      ...{ adopted: false, contents: { shipment, cache: true, archives: [] }, holder },
      problems: [],
      ...rest,
    }
  }
  const drives = fakeDrives(events, dir => drive(dir))
  const merges = createMerges({
    ...{ drives, jobs, events, storeDir: '/nix/store', hostName: 'lab-3', keeper: false },
    ...{ policy: 'signed', threads, trust, writer, siteName: () => 'lab', siteHas: () => false },
    cache: { dir: cacheDir, maxSize: 1e12, reserve: 0 },
    substitution: {
      candidates: async () => [],
      nar: async () => undefined,
      verdicts: { condemn() {} } as unknown as MergesOptions['substitution']['verdicts'],
    },
    ...more,
  })
  let closed: Promise<void> | undefined
  const close = () =>
    (closed ??= (async () => {
      await merges.close()
      await jobs.close()
      for (const one of closing) await one()
      await trust.close()
      await pool.close()
      await catalog.close()
    })())
  t.teardown(close)
  return {
    cacheDir,
    stateDir,
    events,
    catalog,
    pool,
    trust,
    jobs,
    writer,
    drive,
    drives,
    merges,
    close,
  }
}
