-- The site: what peers' indexes say. Who holds what is found again by the next inventory, so paths and names begin anew in a
-- shape that takes a million of them in seconds; proofs and decisions stay.
DROP TABLE holdings;
DROP TABLE paths;
DROP TABLE names_by_trigram;
DROP TABLE names;
UPDATE holders SET paths = NULL, nar_bytes = NULL, inventory_at = NULL;

CREATE TABLE names (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

CREATE VIRTUAL TABLE names_by_trigram USING fts5(
  name, content = 'names', content_rowid = 'id', tokenize = 'trigram', detail = 'none'
);

-- The trigram index costs more than all the rest and follows later, in slices: it has the names up to this id, searches look
-- through the others one by one. One row.
CREATE TABLE name_index (upto INTEGER NOT NULL) STRICT;
INSERT INTO name_index VALUES (0);
CREATE TRIGGER names_removed AFTER DELETE ON names
WHEN old.id <= (SELECT upto FROM name_index) BEGIN
  INSERT INTO names_by_trigram(names_by_trigram, rowid, name) VALUES ('delete', old.id, old.name);
END;

-- Store paths, each once for all holders and references. Found by the first six bytes of the hash as a number, since an index
-- of small numbers stays in memory (14 MB a million) where one of texts (45 MB) does not.
-- Not unique by hash alone: a forged name must not shut out the real one.
CREATE TABLE paths (
  id       INTEGER PRIMARY KEY,
  key      INTEGER NOT NULL,
  hash     BLOB NOT NULL,       -- 20 bytes
  name     INTEGER NOT NULL,    -- names.id
  nar_size INTEGER              -- as a holder on this machine says
) STRICT;
CREATE INDEX paths_by_key ON paths(key);
CREATE INDEX paths_by_name ON paths(name);

CREATE TABLE holdings (
  holder INTEGER NOT NULL REFERENCES holders(number),
  path   INTEGER NOT NULL REFERENCES paths(id),
  PRIMARY KEY (holder, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX holdings_by_path ON holdings(path);

-- Paths that nobody has any more, or never had but as a reference: they go when no info refers to them.
CREATE TABLE loose_paths (path INTEGER PRIMARY KEY) STRICT;

-- The index logs of hosts, this one's own included. At most one of a host is in force; another may be arriving.
CREATE TABLE index_logs (
  number    INTEGER PRIMARY KEY,
  holder    INTEGER NOT NULL,    -- holders.number of 'peer:<key>'
  epoch     INTEGER NOT NULL,
  core      TEXT NOT NULL,       -- the log's public key
  state     INTEGER NOT NULL,    -- 0 arriving, 1 in force, 2 leaving
  store_dir TEXT,                -- of its first entry
  blocks    INTEGER NOT NULL DEFAULT 0,   -- applied
  entries   INTEGER NOT NULL DEFAULT 0,   -- positions given, the removed ones included
  paths     INTEGER NOT NULL DEFAULT 0,
  nar_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What logs say of a path; the same said by several stands here once. id = path * 256 + a small number, so that a path's
-- infos lie together and need no index of their own.
CREATE TABLE infos (
  id       INTEGER PRIMARY KEY,
  nar_hash BLOB NOT NULL,
  nar_size INTEGER NOT NULL,
  rest     BLOB NOT NULL         -- references, deriver, content address, signatures: index-info.ts
) STRICT;

CREATE TABLE claims (
  info       INTEGER NOT NULL,   -- infos.id
  log        INTEGER NOT NULL,   -- index_logs.number
  position   INTEGER NOT NULL,
  built_here INTEGER NOT NULL,
  PRIMARY KEY (info, log)
) STRICT, WITHOUT ROWID;

-- The other way round, 512 positions a page: the infos' ids as 8-byte floating point numbers, 0 where removed.
CREATE TABLE index_pages (
  log   INTEGER NOT NULL,
  page  INTEGER NOT NULL,
  infos BLOB NOT NULL,
  PRIMARY KEY (log, page)
) STRICT, WITHOUT ROWID;
