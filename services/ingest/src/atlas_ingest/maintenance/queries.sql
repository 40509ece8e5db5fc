-- What maintenance says to the database, but for the COPY of an archive (see archive.py).

-- name: maintain_partitions
SELECT maintain_partitions()

-- name: drop_expired_ledger
SELECT drop_expired_ledger()

-- name: default_rows
-- What found no partition.
SELECT row_count, oldest
FROM default_rows()

-- name: move_default_rows
SELECT moved, outcome
FROM move_default_rows()

-- name: lock_retention
-- Held by the session that retires: one at a time.
SELECT pg_try_advisory_lock(hashtext('atlas.retention'))

-- name: retention_plan
SELECT
    step, partition_name, relation, lower_bound, upper_bound, retention_class, tenant_ids,
    needs_archive
FROM retention_plan()

-- name: retire_partition
-- Null, or who is in the way.
SELECT retire_partition(%(name)s)

-- name: next_archive_part
SELECT coalesce(max(part), 0) + 1 AS part
FROM partition_archives
WHERE partition_name = %(name)s AND retention_class = %(retention_class)s

-- name: archives_of
-- The files that hold a partition.
SELECT path, byte_count
FROM partition_archives
WHERE partition_name = %(name)s
ORDER BY retention_class, part

-- name: archives
-- All files, and what is in them.
SELECT path, row_count, checksum
FROM partition_archives
ORDER BY path

-- name: record_archive
SELECT record_archive(
    %(name)s, %(retention_class)s, %(tenant_ids)s::integer [], %(path)s, %(row_count)s, %(byte_count)s,
    %(checksum)s
)

-- name: expire_rows
SELECT expire_rows(%(name)s, %(retention_class)s, %(rows_max)s)

-- name: drop_retired
SELECT drop_retired(%(name)s)
