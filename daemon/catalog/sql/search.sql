-- name: byHashPart
SELECT p.id, p.hash, n.name, p.nar_size AS narSize
FROM paths p JOIN names n ON n.id = p.name
WHERE p.key = :key AND p.hash = :hash AND (EXISTS (SELECT 1 FROM holdings h WHERE h.path = p.id)
  OR EXISTS (SELECT 1 FROM claims c CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
    CROSS JOIN holders r ON r.number = l.holder AND r.kind IS NOT NULL
    WHERE c.info BETWEEN p.id * 256 AND p.id * 256 + 255))
ORDER BY n.name LIMIT :limit

-- name: lastName
SELECT coalesce(max(id), 0) AS id FROM names

-- name: namesLike
-- LIKE narrows by the trigram index (and takes _ for any character), GLOB over lower case decides.
SELECT rowid AS id, name FROM names_by_trigram
WHERE name LIKE :like AND lower(name) GLOB :glob AND rowid <= :upTo

-- name: namesBetween
-- For patterns without three literal characters in a row, which the index cannot narrow, and names it does not have yet.
SELECT id, name FROM names WHERE id > :after AND id <= :upTo AND lower(name) GLOB :glob

-- name: pathsOfName
SELECT p.id, p.hash, p.nar_size AS narSize
FROM paths p WHERE p.name = :name AND (EXISTS (SELECT 1 FROM holdings h WHERE h.path = p.id)
  OR EXISTS (SELECT 1 FROM claims c CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
    CROSS JOIN holders r ON r.number = l.holder AND r.kind IS NOT NULL
    WHERE c.info BETWEEN p.id * 256 AND p.id * 256 + 255))

-- name: countOfNames
SELECT count(*) FROM json_each(?) wanted CROSS JOIN paths p ON p.name = wanted.value
WHERE (EXISTS (SELECT 1 FROM holdings h WHERE h.path = p.id)
  OR EXISTS (SELECT 1 FROM claims c CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
    CROSS JOIN holders r ON r.number = l.holder AND r.kind IS NOT NULL
    WHERE c.info BETWEEN p.id * 256 AND p.id * 256 + 255))

-- name: holdersOfPath
-- A path has at most 256 infos, numbered from 256 times its own id.
SELECT r.number, r.id, r.kind, r.store_dir AS storeDir, r.host, r.up, r.last_seen AS lastSeen, NULL AS narSize
FROM holdings h JOIN holders r ON r.number = h.holder
WHERE h.path = :path AND r.kind IS NOT NULL
UNION ALL
SELECT r.number, r.id, r.kind, l.store_dir, r.host, r.up, r.last_seen, i.nar_size
FROM claims c
CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
CROSS JOIN holders r ON r.number = l.holder AND r.kind IS NOT NULL
CROSS JOIN infos i ON i.id = c.info
WHERE c.info BETWEEN :path * 256 AND :path * 256 + 255
ORDER BY 1

-- name: fits
SELECT lower(?) GLOB ?

-- name: namesUpto
SELECT upto FROM name_index
