-- name: list
SELECT id, name, first_seen AS firstSeen, last_seen AS lastSeen, value FROM drives ORDER BY last_seen DESC, name LIMIT ?

-- name: put
INSERT INTO drives (id, name, first_seen, last_seen, value) VALUES (:id, :name, :firstSeen, :lastSeen, :value)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, last_seen = excluded.last_seen, value = excluded.value

-- name: prune
-- Who plugs a new stick every day for years does not fill the book.
DELETE FROM drives WHERE id IN (SELECT id FROM drives ORDER BY last_seen DESC LIMIT -1 OFFSET :kept)
