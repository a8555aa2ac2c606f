import { createHash } from 'node:crypto'
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync } from 'node:fs'
import { inflateRawSync } from 'node:zlib'
import SqliteDatabase, { type Database } from 'better-sqlite3'
import { fail } from '../../protocol/errors.ts'
import { decodeNix32 } from '../../protocol/nix32.ts'
import { formatNarinfo } from '../../protocol/narinfo.ts'
import { createShipmentIndexReader, type ShipmentEntry } from '../../protocol/shipment-index.ts'
import type { ShipmentSection } from '../../protocol/shipment.ts'
import { baseNameOf, hashPartOf } from '../../protocol/store-path.ts'

// Reads the index files of a shipment whose manifest is believed into a database of this host, where a path is found in
// microseconds and without the drive. It runs in a thread of its own (drive-index-thread.ts): 100,000 paths cost seconds.

/** Bytes of one read. */
const READ_BYTES = 256 * 1024

/** Bytes of a hash part. */
const PART_BYTES = 20

/** Most paths of one drive that are taken in: some 5 GB of database; beyond, narinfos are read as they are asked for. */
export const DRIVE_INDEX_PATHS_MAX = 5_000_000

const SCHEMA = `
CREATE TABLE entries (
  position INTEGER PRIMARY KEY,   -- in the order in which they were packed
  part     BLOB NOT NULL,         -- hash part
  built    INTEGER NOT NULL,
  parts    INTEGER,               -- files that the NAR is split into
  name     TEXT NOT NULL,         -- what a walk wants, so that it need not read the narinfo: base name,
  size     INTEGER NOT NULL,      -- bytes of the NAR,
  url      TEXT NOT NULL,
  narinfo  BLOB NOT NULL
) STRICT`

export interface LoadOptions {
  /** The shipment's folder. */
  readonly dir: string
  readonly sections: readonly ShipmentSection[]
  readonly storeDir: string
  /** Where the database is made; what is there is gone. */
  readonly file: string
}

const inflate = (bytes: Uint8Array, maxBytes: number): Buffer =>
  inflateRawSync(bytes, { maxOutputLength: Math.max(1, maxBytes) })

/** The bytes of a file that the manifest tells of, in pieces; throws SHIPMENT_INVALID when they are others than it tells. */
function* readSection(dir: string, section: ShipmentSection): Generator<Buffer> {
  const { file, size, sha256 } = section
  const invalid = (problem: string): never =>
    fail('SHIPMENT_INVALID', { problem: `${file} ${problem}` })
  const folders = file.split('/').slice(0, -1)
  for (const at of folders.keys()) {
    const folder = `${dir}/${folders.slice(0, at + 1).join('/')}`
    if (!lstatSync(folder).isDirectory()) invalid('lies behind a link')
  }
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
  const fd = openSync(`${dir}/${file}`, flags)
  try {
    const stats = fstatSync(fd)
    if (!stats.isFile()) invalid('is not a regular file')
    if (stats.size !== size) invalid(`has ${stats.size} bytes, not ${size}`)
    const hash = createHash('sha256')
    for (let at = 0; at < size;) {
      const bytes = Buffer.allocUnsafe(Math.min(READ_BYTES, size - at))
      const count = readSync(fd, bytes, 0, bytes.length, at)
      if (count === 0) invalid('was cut while it was read')
      at += count
      hash.update(bytes.subarray(0, count))
      yield bytes.subarray(0, count)
    }
    if (hash.digest('hex') !== sha256) invalid('is not what the manifest says')
  } finally {
    closeSync(fd)
  }
}

function createInserter(database: Database, storeDir: string) {
  const insert = database.prepare(
    'INSERT INTO entries (position, part, built, parts, name, size, url, narinfo) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
  )
  let position = 0
  const one = ({ info, builtHere, parts }: ShipmentEntry): void => {
    if (!info.storePath.startsWith(`${storeDir}/`)) {
      fail('SHIPMENT_INVALID', { problem: `${info.storePath} is not below ${storeDir}` })
    }
    if (++position > DRIVE_INDEX_PATHS_MAX) {
      fail('SHIPMENT_INVALID', { problem: `more than ${DRIVE_INDEX_PATHS_MAX} paths` })
    }
    const part = decodeNix32(hashPartOf(info.storePath), PART_BYTES)
    const narinfo = Buffer.from(formatNarinfo(info))
    const walked = [baseNameOf(info.storePath), info.narSize, info.url]
    insert.run(position, part, builtHere ? 1 : 0, parts ?? null, ...walked, narinfo)
  }
  return {
    add: database.transaction((entries: readonly ShipmentEntry[]) => entries.forEach(one)),
    count: () => position,
  }
}

/**
 * Makes the database; gives the number of paths. Throws SHIPMENT_INVALID when a file is not what the manifest tells or no
 * index, and what the file system throws; the database is then of no use.
 */
export function loadDriveIndex({ dir, sections, storeDir, file }: LoadOptions): number {
  const database = new SqliteDatabase(file)
  try {
    // It is made anew at every plugging, so nothing is lost with it.
    database.pragma('journal_mode = OFF')
    database.pragma('synchronous = OFF')
    database.exec(SCHEMA)
    const inserter = createInserter(database, storeDir)
    for (const section of sections) {
      if (section.kind !== 'index') continue
      const reader = createShipmentIndexReader(inflate)
      for (const bytes of readSection(dir, section)) inserter.add(reader.write(bytes))
      reader.end()
    }
    database.exec('CREATE INDEX entries_by_part ON entries (part)')
    return inserter.count()
  } finally {
    database.close()
  }
}
