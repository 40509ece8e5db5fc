-- Named queries of the warehouse in Redshift. Times leave it as microseconds since the epoch.
-- What is made per table is in sink/redshift/statements.py.

-- name: lock_owner
-- Before anything is read: what is read behind it is what the transaction before ours left.
LOCK TABLE cdc_owner;

-- name: first_owner
INSERT INTO cdc_owner (epoch, owner)
SELECT 0, '' WHERE NOT EXISTS (SELECT 1 FROM cdc_owner);

-- name: claim
UPDATE cdc_owner SET epoch = epoch + 1, owner = %(owner)s;

-- name: stay_owner
-- Changes nothing. It is a write: whoever claimed meanwhile and we cannot both commit (error 1023).
UPDATE cdc_owner SET epoch = epoch WHERE epoch = %(epoch)s;

-- name: owner
SELECT epoch, owner FROM cdc_owner;

-- name: position
SELECT source_id, log_offset, lsn FROM cdc_position;

-- name: begin_position
INSERT INTO cdc_position (source_id, log_offset, lsn)
VALUES (%(source_id)s, %(log_offset)s, %(lsn)s);

-- name: set_position
UPDATE cdc_position SET log_offset = %(log_offset)s, lsn = %(lsn)s;

-- name: newest_beat
SELECT
    beat_id,
    DATEDIFF(microsecond, TIMESTAMP '1970-01-01 00:00:00', beaten_at AT TIME ZONE 'UTC')
FROM replication_heartbeat WHERE id = 1;

-- name: begin_counting
INSERT INTO cdc_counters
    (table_name, read_count, applied_count, dead_lettered_count, skipped_count)
SELECT CAST(%(table_name)s AS VARCHAR(128)), 0, 0, 0, 0
WHERE NOT EXISTS
    (SELECT 1 FROM cdc_counters WHERE table_name = CAST(%(table_name)s AS VARCHAR(128)));

-- name: count_changes
UPDATE cdc_counters SET
    read_count = read_count + %(read)s,
    applied_count = applied_count + %(applied)s,
    dead_lettered_count = dead_lettered_count + %(dead_lettered)s,
    skipped_count = skipped_count + %(skipped)s
WHERE table_name = %(table_name)s;

-- name: counts
SELECT table_name, read_count, applied_count, dead_lettered_count, skipped_count
FROM cdc_counters ORDER BY table_name;

-- name: row_count
SELECT COUNT(*) FROM entity_values_ts;

-- name: newest_letter
SELECT COALESCE(MAX(letter_id), 0) FROM cdc_dead_letters;
