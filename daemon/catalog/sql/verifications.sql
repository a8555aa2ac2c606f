-- name: get
SELECT verified_at AS verifiedAt, problem, day FROM verifications WHERE identity = ? AND holder = ?

-- name: put
INSERT OR REPLACE INTO verifications (identity, holder, day, verified_at, problem)
VALUES (:identity, :holder, :day, :verifiedAt, :problem)

-- name: prune
DELETE FROM verifications WHERE id <= (SELECT max(id) FROM verifications) - :window
