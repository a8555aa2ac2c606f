-- name: put
INSERT OR REPLACE INTO jobs (id, kind, subject, state, started_at, value)
VALUES (:id, :kind, :subject, :state, :startedAt, :value)

-- name: list
SELECT id, kind, subject, state, started_at AS startedAt, value FROM jobs ORDER BY id DESC LIMIT ?

-- name: last
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0)

-- name: prune
-- What can still go on is kept whatever its age.
DELETE FROM jobs WHERE state NOT IN ('running', 'interrupted') AND id <= (SELECT max(id) FROM jobs) - :window
