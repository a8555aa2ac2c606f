-- name: byHashPart
SELECT p.id, p.hash_part AS hashPart, n.name, p.nar_size AS narSize
FROM paths p JOIN names n ON n.id = p.name
WHERE p.hash_part = :hashPart
  AND EXISTS (SELECT 1 FROM holdings h WHERE h.path = p.id)
ORDER BY n.name LIMIT :limit

-- name: lastName
SELECT coalesce(max(id), 0) AS id FROM names

-- name: namesLike
-- LIKE narrows by the trigram index (and takes _ for any character), GLOB over lower case decides.
SELECT rowid AS id, name FROM names_by_trigram WHERE name LIKE :like AND lower(name) GLOB :glob

-- name: namesBetween
-- For patterns without three literal characters in a row, which the index cannot narrow.
SELECT id, name FROM names WHERE id > :after AND id <= :upTo AND lower(name) GLOB :glob

-- name: pathsOfName
SELECT p.id, p.hash_part AS hashPart, p.nar_size AS narSize
FROM paths p WHERE p.name = :name AND EXISTS (SELECT 1 FROM holdings h WHERE h.path = p.id)
ORDER BY p.hash_part

-- name: countOfNames
SELECT count(*) FROM json_each(?) wanted CROSS JOIN paths p ON p.name = wanted.value
WHERE EXISTS (SELECT 1 FROM holdings h WHERE h.path = p.id)

-- name: holdersOfPath
SELECT r.id, r.kind, r.store_dir AS storeDir, r.host, r.up, r.last_seen AS lastSeen
FROM holdings h JOIN holders r ON r.number = h.holder
WHERE h.path = ? AND r.kind IS NOT NULL ORDER BY r.number

-- name: fits
SELECT lower(?) GLOB ?
