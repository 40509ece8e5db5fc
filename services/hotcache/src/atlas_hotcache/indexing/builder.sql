-- What the one who builds indexes says to the database, as atlas_indexer; the statements that build are answers.

-- name: lock
-- For as long as the session lives: one process builds at a time, and a dead one's build has ended before.
SELECT pg_try_advisory_lock(hashtext('atlas.indexer'))

-- name: become_owner
SET ROLE atlas_owner

-- name: become_oneself
RESET ROLE

-- name: steps
SELECT tenant_id, attribute_id, step, index_name, statement, partitions_total, partitions_done
FROM attribute_index_steps()

-- name: note
SELECT note_attribute_index(
    %(tenant_id)s, %(attribute_id)s, %(partitions_total)s, %(partitions_done)s, %(message)s, %(failed)s
)

-- name: finish
SELECT finish_attribute_index(%(tenant_id)s, %(attribute_id)s)
