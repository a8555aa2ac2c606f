-- Work that takes long, so that a restart still knows of it. Numbers are never given twice: a person may ask for one later.
CREATE TABLE jobs (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  kind       TEXT NOT NULL,
  subject    TEXT NOT NULL,     -- one job of a kind and subject runs at a time
  state      TEXT NOT NULL,     -- 'running', 'done', 'partly', 'failed', 'cancelled', 'interrupted'
  started_at INTEGER NOT NULL,  -- ms since 1970
  value      TEXT NOT NULL      -- the rest as JSON: title, progress, notes, result, what it goes on from
) STRICT;
