-- name: look
SELECT p.id, p.nar_size AS narSize,
  EXISTS (SELECT 1 FROM holdings h WHERE h.holder = :holder AND h.path = p.id) AS held
FROM paths p CROSS JOIN names n ON n.id = p.name
WHERE p.key = :key AND p.hash = :hash AND n.name = :name

-- name: setSize
UPDATE paths SET nar_size = :narSize WHERE id = :id

-- name: hold
INSERT OR IGNORE INTO holdings (holder, path) VALUES (:holder, :path)

-- name: drop
DELETE FROM holdings WHERE holder = :holder AND path = :path

-- name: held
SELECT path FROM holdings WHERE holder = :holder AND path > :after ORDER BY path LIMIT :limit

-- name: ofPart
SELECT p.id, n.name, p.nar_size AS narSize FROM paths p JOIN names n ON n.id = p.name
WHERE p.key = :key AND p.hash = :hash
  AND EXISTS (SELECT 1 FROM holdings h WHERE h.holder = :holder AND h.path = p.id)

-- name: grown
-- Null stays null: no whole inventory has counted them yet.
UPDATE holders SET paths = paths + :paths, nar_bytes = nar_bytes + :narBytes WHERE number = :holder
