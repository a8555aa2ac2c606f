import { mkdir, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import SqliteDatabase from 'better-sqlite3'
import { decodeNix32, encodeNix32 } from '../../protocol/nix32.ts'
import { parseNarinfo } from '../../protocol/narinfo.ts'
import type { ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { ShipmentManifest } from '../../protocol/shipment.ts'
import { joinStorePath } from '../../protocol/store-path.ts'
import type { BaseName, HashPart, StorePath } from '../../protocol/store-path.ts'
import type { FromDriveIndex } from './drive-index-thread.ts'
import { createHashPartFilter } from './hash-part-filter.ts'

/** V8 heap of the thread that reads an index, MiB: its entries come in records of 512, base names of one file take 25 MB. */
const LOADER_HEAP_MIB = 96
const LOADER_YOUNG_MIB = 8

/** Page cache of the reading connection, KiB: the file is on this host's own disk, and in the kernel's memory. */
const CACHE_KIB = 2048

const PART_BYTES = 20

/** Entries of one step of a walk. */
const ENTRIES_PER_STEP = 500

/** Hash parts taken into the filter before others have their turn. */
const PARTS_PER_TURN = 5000

/** A path and where its NAR lies. */
export interface IndexedPath {
  readonly storePath: StorePath
  readonly narSize: number
  readonly url: string
}

/** The index of a shipment whose manifest is believed: what its narinfos say, found without the drive. */
export interface DriveIndex {
  readonly paths: number
  /** Changes with what is found. */
  readonly id: string
  mayHave(part: HashPart): boolean
  has(part: HashPart): boolean
  find(part: HashPart): ShipmentEntry | undefined
  /** All, in the order in which they were packed. */
  entries(): AsyncIterable<readonly ShipmentEntry[]>
  /** The same, as a walk wants it. */
  held(): AsyncIterable<readonly IndexedPath[]>
  close(): void
}

export interface DriveIndexOptions {
  readonly dir: string
  readonly manifest: ShipmentManifest
  /** Of this host: where the database is made. It is taken away again by `close`. */
  readonly file: string
  readonly signal: AbortSignal
}

/** Reads the index files in a thread; rejects with the reason when they cannot be believed, or when the signal says so. */
function load({ dir, manifest, file, signal }: DriveIndexOptions): Promise<number> {
  // The same folder holds .ts in the source and .js in dist.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(`./drive-index-thread.${extension}`, import.meta.url), {
      workerData: { dir, sections: manifest.sections, storeDir: manifest.storeDir, file },
      resourceLimits: {
        maxOldGenerationSizeMb: LOADER_HEAP_MIB,
        maxYoungGenerationSizeMb: LOADER_YOUNG_MIB,
      },
    })
    worker.unref()
    // A thread that a dead drive holds fast ends when the drive lets go of it; nobody waits for that.
    const stop = (): void => {
      void worker.terminate()
      reject(new Error('it is gone'))
    }
    signal.addEventListener('abort', stop, { once: true })
    if (signal.aborted) stop()
    worker.once('message', (message: FromDriveIndex) => {
      if ('paths' in message) resolve(message.paths)
      else reject(new Error(message.problem))
    })
    worker.once('error', reject)
    worker.once('exit', () => {
      signal.removeEventListener('abort', stop)
      reject(new Error('the thread that read the index has ended'))
    })
  })
}

interface Row {
  readonly position: number
  readonly built: number
  readonly parts: number | null
  readonly narinfo: Buffer
}

interface HeldRow {
  readonly position: number
  readonly name: BaseName
  readonly size: number
  readonly url: string
}

/** The index of a shipment, read and checked against its manifest. Rejects with the reason when it cannot be believed. */
export async function openDriveIndex(options: DriveIndexOptions): Promise<DriveIndex> {
  const { manifest, file, signal } = options
  const clear = () => rm(file, { force: true })
  await mkdir(dirname(file), { recursive: true })
  await clear()
  let paths: number
  try {
    paths = await load(options)
  } catch (error) {
    await clear()
    throw error
  }
  const database = new SqliteDatabase(file, { readonly: true })
  // Nobody else opens it: the file goes with whoever has it open, however this process ends.
  await clear()
  database.pragma(`cache_size = -${CACHE_KIB}`)
  const columns = 'position, built, parts, narinfo'
  const byPart = database.prepare(`SELECT ${columns} FROM entries WHERE part = ? LIMIT 1`)
  const after = database.prepare(
    `SELECT ${columns} FROM entries WHERE position > ? ORDER BY position LIMIT ?`,
  )
  const isThere = database.prepare('SELECT 1 FROM entries WHERE part = ? LIMIT 1')
  const heldAfter = database.prepare(
    'SELECT position, name, size, url FROM entries WHERE position > ? ORDER BY position LIMIT ?',
  )
  const partsAfter = database
    .prepare('SELECT part FROM entries WHERE position > ? ORDER BY position LIMIT ?')
    .pluck()
  const entryOf = ({ built, parts, narinfo }: Row): ShipmentEntry => ({
    info: parseNarinfo(narinfo, { storeDir: manifest.storeDir }),
    builtHere: built === 1,
    ...(parts === null ? {} : { parts }),
  })
  const filter = createHashPartFilter(paths)
  for (let at = 0; at < paths; at += PARTS_PER_TURN) {
    for (const part of partsAfter.all(at, PARTS_PER_TURN) as Buffer[]) filter.put(encodeNix32(part))
    await turn()
    if (signal.aborted) break
  }
  let closed = false
  return {
    paths,
    id: `${manifest.id}.${manifest.part}`,
    mayHave: part => filter.mayHave(part),
    has: part =>
      !closed && filter.mayHave(part) && isThere.get(decodeNix32(part, PART_BYTES)) !== undefined,
    find(part) {
      if (closed || !filter.mayHave(part)) return undefined
      const row = byPart.get(decodeNix32(part, PART_BYTES)) as Row | undefined
      return row && entryOf(row)
    },
    async *held() {
      for (let last = 0; !closed;) {
        const rows = heldAfter.all(last, ENTRIES_PER_STEP) as HeldRow[]
        const newest = rows.at(-1)
        if (newest === undefined) return
        yield rows.map(({ name, size, url }) => ({
          storePath: joinStorePath(manifest.storeDir, name),
          ...{ narSize: size, url },
        }))
        last = newest.position
        await turn()
      }
    },
    async *entries() {
      for (let last = 0; !closed;) {
        const rows = after.all(last, ENTRIES_PER_STEP) as Row[]
        const newest = rows.at(-1)
        if (newest === undefined) return
        yield rows.map(entryOf)
        last = newest.position
        await turn()
      }
    },
    close() {
      if (closed) return
      closed = true
      database.close()
    },
  }
}
