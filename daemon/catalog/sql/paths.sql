-- name: find
SELECT p.id FROM paths p CROSS JOIN names n ON n.id = p.name WHERE p.key = ? AND p.hash = ? AND n.name = ?

-- name: lastId
SELECT coalesce(max(id), 0) FROM paths

-- name: add
INSERT INTO paths (id, key, hash, name, nar_size) VALUES (?, ?, ?, ?, ?)

-- name: nameId
SELECT id FROM names WHERE name = ?

-- name: addName
INSERT INTO names (name) VALUES (?)

-- name: loosen
INSERT OR IGNORE INTO loose_paths (path) VALUES (?)

-- name: isHeld
SELECT 1 FROM infos WHERE id BETWEEN :path * 256 AND :path * 256 + 255
UNION ALL SELECT 1 FROM holdings WHERE path = :path LIMIT 1

-- name: drop
DELETE FROM paths WHERE id = ? RETURNING name

-- name: dropName
DELETE FROM names WHERE id = :name AND NOT EXISTS (SELECT 1 FROM paths WHERE name = :name)

-- name: countLoose
SELECT count(*) FROM loose_paths

-- name: loose
-- Any: those that are still referred to must not stand in the way of the rest for ever.
SELECT path FROM loose_paths ORDER BY random() LIMIT ?

-- name: tighten
DELETE FROM loose_paths WHERE path = ?

-- name: anyInfo
SELECT 1 FROM infos LIMIT 1

-- name: rests
SELECT id, rest FROM infos WHERE id > ? ORDER BY id LIMIT ?

-- name: namesUpto
SELECT upto FROM name_index

-- name: setNamesUpto
UPDATE name_index SET upto = ?

-- name: lastNameOf
SELECT max(id) FROM (SELECT id FROM names WHERE id > ? ORDER BY id LIMIT ?)

-- name: indexNames
INSERT INTO names_by_trigram (rowid, name) SELECT id, name FROM names WHERE id > ? AND id <= ? ORDER BY id
