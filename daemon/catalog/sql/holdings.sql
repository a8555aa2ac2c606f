-- name: look
SELECT p.id, p.nar_size AS narSize,
  EXISTS (SELECT 1 FROM holdings h WHERE h.holder = :holder AND h.path = p.id) AS held
FROM paths p JOIN names n ON n.id = +p.name
WHERE p.hash_part = :hashPart AND n.name = :name

-- name: nameId
SELECT id FROM names WHERE name = ?

-- name: addName
INSERT INTO names (name) VALUES (?) RETURNING id

-- name: addPath
INSERT INTO paths (hash_part, name, nar_size) VALUES (:hashPart, :name, :narSize) RETURNING id

-- name: setSize
UPDATE paths SET nar_size = :narSize WHERE id = :id

-- name: hold
INSERT OR IGNORE INTO holdings (holder, path) VALUES (:holder, :path)

-- name: drop
DELETE FROM holdings WHERE holder = :holder AND path = :path

-- name: dropPath
-- A table that comes to refer to paths (pins, wants) joins this condition.
DELETE FROM paths WHERE id = :path AND NOT EXISTS (SELECT 1 FROM holdings WHERE path = :path) RETURNING name

-- name: dropName
DELETE FROM names WHERE id = :name AND NOT EXISTS (SELECT 1 FROM paths WHERE name = :name)

-- name: held
SELECT path FROM holdings WHERE holder = :holder AND path > :after ORDER BY path LIMIT :limit

-- name: ofPart
SELECT p.id, n.name, p.nar_size AS narSize FROM paths p JOIN names n ON n.id = p.name
WHERE p.hash_part = :hashPart
  AND EXISTS (SELECT 1 FROM holdings h WHERE h.holder = :holder AND h.path = p.id)

-- name: grown
-- Null stays null: no whole inventory has counted them yet.
UPDATE holders SET paths = paths + :paths, nar_bytes = nar_bytes + :narBytes WHERE number = :holder
