-- name: logs
SELECT l.number, l.epoch, l.core, l.state, l.store_dir AS storeDir, l.blocks, l.entries, l.paths, l.nar_bytes AS narBytes
FROM index_logs l JOIN holders r ON r.number = l.holder WHERE r.id = ? ORDER BY l.number

-- name: logsOfHolder
SELECT number, epoch, core, state FROM index_logs WHERE holder = ?

-- name: list
SELECT r.id, r.host, r.kind, l.epoch, l.state, l.blocks, l.entries, l.paths, l.nar_bytes AS narBytes
FROM index_logs l JOIN holders r ON r.number = l.holder WHERE l.state < 2 ORDER BY r.number, l.state DESC

-- name: addLog
INSERT INTO index_logs (holder, epoch, core, state) VALUES (:holder, :epoch, :core, :state)

-- name: setState
UPDATE index_logs SET state = :state WHERE number = :log

-- name: leaveAll
UPDATE index_logs SET state = 2 WHERE holder = ?

-- name: leaving
SELECT number FROM index_logs WHERE state = 2 ORDER BY number LIMIT 1

-- name: progress
UPDATE index_logs SET store_dir = :storeDir, blocks = :blocks, entries = :entries, paths = :paths, nar_bytes = :narBytes
WHERE number = :number

-- name: dropLog
DELETE FROM index_logs WHERE number = ?

-- name: peer
INSERT INTO holders (id, kind, store_dir, host) VALUES (:id, 'peer', '', :host)
ON CONFLICT (id) DO UPDATE SET kind = 'peer', host = excluded.host

-- name: count
UPDATE holders SET paths = :paths, nar_bytes = :narBytes, store_dir = coalesce(:storeDir, store_dir), inventory_at = :at
WHERE number = (SELECT holder FROM index_logs WHERE number = :number) AND kind IS NOT NULL

-- name: page
SELECT infos FROM index_pages WHERE log = ? AND page = ?

-- name: putPage
INSERT OR REPLACE INTO index_pages (log, page, infos) VALUES (?, ?, ?)

-- name: pageFrom
SELECT page, infos FROM index_pages WHERE log = ? AND page >= ? ORDER BY page LIMIT 1

-- name: dropPage
DELETE FROM index_pages WHERE log = ? AND page = ?

-- name: infosOf
SELECT id, nar_hash AS narHash, nar_size AS narSize, rest FROM infos WHERE id BETWEEN ? AND ?

-- name: addInfo
INSERT INTO infos (id, nar_hash, nar_size, rest) VALUES (?, ?, ?, ?)

-- name: info
SELECT nar_size FROM infos WHERE id = ?

-- name: dropInfo
DELETE FROM infos WHERE id = ?

-- name: claimOf
SELECT info, position FROM claims WHERE info BETWEEN ? AND ? AND log = ?

-- name: addClaim
INSERT INTO claims (info, log, position, built_here) VALUES (?, ?, ?, ?)

-- name: dropClaim
DELETE FROM claims WHERE info = ? AND log = ?

-- name: isClaimed
SELECT 1 FROM claims WHERE info = ? LIMIT 1

-- name: find
SELECT i.id, i.nar_hash AS narHash, i.nar_size AS narSize, i.rest, c.built_here AS builtHere, l.store_dir AS storeDir,
  r.id AS holder, n.name
FROM paths p
CROSS JOIN infos i ON i.id BETWEEN p.id * 256 AND p.id * 256 + 255
CROSS JOIN claims c ON c.info = i.id
CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
CROSS JOIN holders r ON r.number = l.holder AND r.kind = 'peer'
CROSS JOIN names n ON n.id = p.name
WHERE p.key = ? AND p.hash = ?
ORDER BY r.number

-- name: anyPeer
SELECT 1 FROM index_logs l JOIN holders r ON r.number = l.holder WHERE l.state = 1 AND r.kind = 'peer' LIMIT 1

-- name: baseName
SELECT p.hash, n.name FROM paths p CROSS JOIN names n ON n.id = p.name WHERE p.id = ?

-- name: positionOf
SELECT c.position FROM paths p
CROSS JOIN names n ON n.id = p.name AND n.name = :name
CROSS JOIN claims c ON c.info BETWEEN p.id * 256 AND p.id * 256 + 255 AND c.log = :log
WHERE p.key = :key AND p.hash = :hash

-- name: entry
SELECT p.hash, n.name, i.nar_hash AS narHash, i.nar_size AS narSize, i.rest, c.built_here AS builtHere
FROM claims c CROSS JOIN infos i ON i.id = c.info
CROSS JOIN paths p ON p.id = i.id / 256 CROSS JOIN names n ON n.id = p.name
WHERE c.info = ? AND c.log = ?

-- name: told
SELECT i.nar_hash AS narHash, i.nar_size AS narSize, i.rest, c.built_here AS builtHere, n.name
FROM paths p
CROSS JOIN names n ON n.id = p.name AND n.name = :name
CROSS JOIN infos i ON i.id BETWEEN p.id * 256 AND p.id * 256 + 255
CROSS JOIN claims c ON c.info = i.id AND c.log = :log
WHERE p.key = :key AND p.hash = :hash
