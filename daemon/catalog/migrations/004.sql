-- The drives this host has seen. What lies on one is in `holdings`, under the holder 'drive:<id>', whether it is plugged or not.
CREATE TABLE drives (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,   -- as people are told; stays, whatever the label becomes
  first_seen INTEGER NOT NULL,       -- ms since 1970
  last_seen  INTEGER NOT NULL,
  value      TEXT NOT NULL           -- the rest as JSON: label, file system, place, contents
) STRICT, WITHOUT ROWID;
