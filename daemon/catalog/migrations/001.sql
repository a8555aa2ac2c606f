-- The first shape. A migration is numbered by the user_version it produces and runs in one transaction.
-- Everything here is a cache of facts that can be found again: holders, path infos, proofs.

-- Whoever can give a NAR. `kind` is null while only a number is needed (a decision came before the inventory).
CREATE TABLE holders (
  number       INTEGER PRIMARY KEY,
  id           TEXT NOT NULL UNIQUE,     -- 'nix-store:/nix/store'
  kind         TEXT,
  store_dir    TEXT NOT NULL DEFAULT '',
  host         TEXT NOT NULL DEFAULT '',
  up           INTEGER NOT NULL DEFAULT 0,
  last_seen    INTEGER,                  -- ms since 1970, as every time here
  paths        INTEGER,                  -- counted by the newest whole inventory
  nar_bytes    INTEGER,
  inventory_at INTEGER,
  problem      TEXT
) STRICT;

-- Names are stored once: rebuilds of one package share theirs, and a pattern is searched among names only.
CREATE TABLE names (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

-- detail=none keeps the index small; LIKE still uses it. External content: the text lies in `names` alone.
CREATE VIRTUAL TABLE names_by_trigram USING fts5(
  name, content = 'names', content_rowid = 'id', tokenize = 'trigram', detail = 'none'
);
CREATE TRIGGER names_added AFTER INSERT ON names BEGIN
  INSERT INTO names_by_trigram(rowid, name) VALUES (new.id, new.name);
END;
CREATE TRIGGER names_removed AFTER DELETE ON names BEGIN
  INSERT INTO names_by_trigram(names_by_trigram, rowid, name) VALUES ('delete', old.id, old.name);
END;

-- Store paths, each once for all holders. Not unique by hash part alone: a forged name must not shut out the real one.
CREATE TABLE paths (
  id        INTEGER PRIMARY KEY,
  hash_part TEXT NOT NULL,
  name      INTEGER NOT NULL REFERENCES names(id),
  nar_size  INTEGER
) STRICT;
CREATE INDEX paths_by_hash_part ON paths(hash_part);
CREATE INDEX paths_by_name ON paths(name);

CREATE TABLE holdings (
  holder INTEGER NOT NULL REFERENCES holders(number),
  path   INTEGER NOT NULL REFERENCES paths(id),
  PRIMARY KEY (holder, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX holdings_by_path ON holdings(path);

-- What trust decided, and what a full read of a NAR found: one row per holder and path, or per holder and identity.
-- Rows are replaced when used on a new day, so ids stand in order of last use and the oldest go by id.
CREATE TABLE decisions (
  id        INTEGER PRIMARY KEY,
  hash_part TEXT NOT NULL,
  holder    INTEGER NOT NULL,
  identity  TEXT NOT NULL,
  epoch     TEXT NOT NULL,   -- digest of the trust configuration that decided
  day       INTEGER NOT NULL,
  value     TEXT NOT NULL,
  UNIQUE (hash_part, holder)
) STRICT;

CREATE TABLE verifications (
  id          INTEGER PRIMARY KEY,
  identity    TEXT NOT NULL,
  holder      INTEGER NOT NULL,
  day         INTEGER NOT NULL,
  verified_at INTEGER NOT NULL,
  problem     TEXT,          -- null: the NAR was what it should be
  UNIQUE (identity, holder)
) STRICT;
