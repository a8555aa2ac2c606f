-- name: numberOf
SELECT number FROM holders WHERE id = ?

-- name: mint
INSERT INTO holders (id) VALUES (?) RETURNING number

-- name: upsert
INSERT INTO holders (id, kind, store_dir, host, up, last_seen, problem)
VALUES (:id, :kind, :storeDir, :host, :up, :lastSeen, :problem)
ON CONFLICT (id) DO UPDATE SET
  kind = excluded.kind, store_dir = excluded.store_dir, host = excluded.host, up = excluded.up,
  last_seen = coalesce(excluded.last_seen, last_seen), problem = excluded.problem

-- name: counted
UPDATE holders SET paths = :paths, nar_bytes = :narBytes, inventory_at = :inventoryAt WHERE id = :id

-- name: list
SELECT id, kind, store_dir, host, up, last_seen, paths, nar_bytes, inventory_at, problem
FROM holders WHERE kind IS NOT NULL ORDER BY number

-- name: forget
-- The number stays taken: proofs under it must not become another holder's.
UPDATE holders SET kind = NULL, paths = NULL, nar_bytes = NULL, inventory_at = NULL WHERE id = ?
