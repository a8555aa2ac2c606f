-- name: page
-- Where a path is: `near` in a store or cache of this host, `told` in this host's own index, `drive` on a drive it has seen,
-- `peer` by the word of a peer, `suspect` by that of a peer in the list (JSON, numbers of holders) only.
SELECT p.id, p.hash,
  EXISTS (SELECT 1 FROM holdings h CROSS JOIN holders r ON r.number = h.holder
    WHERE h.path = p.id AND r.kind IN ('nix-store', 'cache-dir')) AS near,
  EXISTS (SELECT 1 FROM claims c CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
    CROSS JOIN holders r ON r.number = l.holder AND r.kind IS NULL
    WHERE c.info BETWEEN p.id * 256 AND p.id * 256 + 255) AS told,
  EXISTS (SELECT 1 FROM holdings h CROSS JOIN holders r ON r.number = h.holder
    WHERE h.path = p.id AND r.kind = 'drive') AS drive,
  EXISTS (SELECT 1 FROM claims c CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
    CROSS JOIN holders r ON r.number = l.holder AND r.kind = 'peer'
    WHERE c.info BETWEEN p.id * 256 AND p.id * 256 + 255
      AND r.number NOT IN (SELECT value FROM json_each(:suspects))) AS peer,
  EXISTS (SELECT 1 FROM claims c CROSS JOIN index_logs l ON l.number = c.log AND l.state = 1
    WHERE c.info BETWEEN p.id * 256 AND p.id * 256 + 255
      AND l.holder IN (SELECT value FROM json_each(:suspects))) AS suspect
FROM paths p WHERE p.id > :after ORDER BY p.id LIMIT :limit

-- name: ofHolder
SELECT p.id, p.hash FROM holdings h CROSS JOIN paths p ON p.id = h.path
WHERE h.holder = :holder AND h.path > :after ORDER BY h.path LIMIT :limit
