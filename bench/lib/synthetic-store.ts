import Database from 'better-sqlite3'
import { createHash } from 'node:crypto'
import { closeSync, mkdirSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { tempDir, type Scope } from '../../test/helpers/scope.ts'

// A Nix store of many paths that costs seconds: a database as Nix writes it (schema 10), and an empty file for every path,
// because a path whose root is gone is not offered. Its NARs are never asked for.

/** src/libstore/schema.sql of Nix 2.8. */
const SCHEMA = `
create table ValidPaths (id integer primary key autoincrement not null, path text unique not null, hash text not null,
  registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create table DerivationOutputs (drv integer not null, id text not null, path text not null, primary key (drv, id),
  foreign key (drv) references ValidPaths(id) on delete cascade);
create index IndexDerivationOutputs on DerivationOutputs(path);`

/** What paths of nixpkgs have on average, and what the prototypes were measured with. */
const REFERENCES = 6

/** Names of the usual lengths; a version makes each name common to about ten paths, as rebuilds of one package are. */
const NAMES = ['glibc', 'perl5.40-XML-Parser', 'firefox-unwrapped', 'python3.12-numpy', 'a']
const PATHS_PER_NAME = 10

export interface SyntheticStore {
  /** For `store.root`. */
  readonly root: string
  readonly count: number
  /** The n-th path's hash part. */
  hashPart(index: number): string
}

const sha256 = (text: string) => createHash('sha256').update(text).digest()
const hashPartAt = (index: number) => encodeNix32(sha256(`path ${index}`).subarray(0, 20))
const packageAt = (index: number) => {
  const version = Math.floor(index / NAMES.length / PATHS_PER_NAME)
  return `${NAMES[index % NAMES.length]}-1.${version}`
}
const nameAt = (index: number) => `${hashPartAt(index)}-${packageAt(index)}`

/** Makes it, in memory file systems where there are (a million inodes take 1 GB there). */
export function makeSyntheticStore(scope: Scope, count: number, baseDir?: string): SyntheticStore {
  const root = tempDir(scope, `store-${count}`, baseDir)
  const store = join(root, 'nix/store')
  mkdirSync(store, { recursive: true })
  mkdirSync(join(root, 'nix/var/nix/db'), { recursive: true })
  writeFileSync(join(root, 'nix/var/nix/db/schema'), '10')
  const db = new Database(join(root, 'nix/var/nix/db/db.sqlite'))
  db.pragma('journal_mode = wal')
  db.pragma('synchronous = off')
  db.pragma('foreign_keys = off')
  db.exec(SCHEMA)
  const path = db.prepare(
    `insert into ValidPaths (id, path, hash, registrationTime, deriver, narSize, ultimate) values (?, ?, ?, ?, ?, ?, 1)`,
  )
  const reference = db.prepare('insert or ignore into Refs values (?, ?)')
  db.transaction(() => {
    for (let i = 0; i < count; i++) {
      const name = nameAt(i)
      const hash = sha256(`nar ${i}`)
      path.run(
        i + 1,
        `/nix/store/${name}`,
        `sha256:${hash.toString('hex')}`,
        1_700_000_000 + i,
        `/nix/store/${hashPartAt(-i - 1)}-${packageAt(i)}.drv`,
        1000 + (hash.readUInt32LE(0) % 1_000_000),
      )
      closeSync(openSync(join(store, name), 'w'))
    }
    for (let i = 0; i < count; i++) {
      const hash = sha256(`references ${i}`)
      for (let r = 0; r < REFERENCES; r++)
        reference.run(i + 1, (hash.readUInt32LE(r * 4) % count) + 1)
    }
  })()
  db.close()
  return { root, count, hashPart: hashPartAt }
}
