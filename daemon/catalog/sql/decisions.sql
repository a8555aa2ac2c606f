-- name: get
SELECT value, day FROM decisions WHERE hash_part = ? AND holder = ? AND identity = ? AND epoch = ?

-- name: put
INSERT OR REPLACE INTO decisions (hash_part, holder, identity, epoch, day, value)
VALUES (:hashPart, :holder, :identity, :epoch, :day, :value)

-- name: prune
-- The ids are in order of last use: what fell out of the window goes.
DELETE FROM decisions WHERE id <= (SELECT max(id) FROM decisions) - :window
