-- Named queries of the warehouse (DuckDB). Times leave it as microseconds since the epoch.

-- name: position
SELECT source_id, log_offset, lsn, timeline FROM cdc_position;

-- name: begin_position
INSERT INTO cdc_position (source_id, log_offset, lsn, timeline)
VALUES ($source_id, $log_offset, $lsn, $timeline);

-- name: forget_position
DELETE FROM cdc_position;

-- name: set_timeline
UPDATE cdc_position SET timeline = $timeline;

-- name: set_position
UPDATE cdc_position SET log_offset = $log_offset, lsn = $lsn;

-- name: newest_beat
SELECT beat_id, epoch_us(beaten_at) FROM replication_heartbeat WHERE id = 1;

-- name: count_changes
UPDATE cdc_counters SET
    read_count = read_count + $read,
    applied_count = applied_count + $applied,
    dead_lettered_count = dead_lettered_count + $dead_lettered,
    skipped_count = skipped_count + $skipped
WHERE table_name = $table_name;

-- name: counts
SELECT table_name, read_count, applied_count, dead_lettered_count, skipped_count FROM cdc_counters;

-- name: bury
-- A dead letter: enough to replay it, even after the table has changed its columns.
INSERT INTO cdc_dead_letters (
    log_offset, commit_lsn, table_name, kind, codec, source_columns, raw, reason, buried_at)
VALUES ($log_offset, $lsn, $table_name, $kind, $codec, $source_columns, $raw, $reason,
    current_timestamp);

-- name: row_count
SELECT count(*) FROM entity_values_ts;

-- name: unsorted
-- Up to where rows are sorted (NULL: none is), the first row, and the newest moment that is known.
SELECT
    (SELECT through_us FROM cdc_compaction),
    (SELECT epoch_us(min(ingested_at)) FROM entity_values_ts),
    (SELECT epoch_us(beaten_at) FROM replication_heartbeat WHERE id = 1);

-- name: rows_per_second
SELECT epoch_us(ingested_at) // 1000000 AS second, count(*) FROM entity_values_ts
WHERE ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop)
GROUP BY second ORDER BY second;

-- name: sort_rows
CREATE OR REPLACE TEMP TABLE sorted_rows AS
SELECT * FROM entity_values_ts
WHERE ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop)
ORDER BY tenant_id, attribute_id, event_time;

-- name: drop_unsorted
DELETE FROM entity_values_ts
WHERE ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop);

-- name: store_sorted
INSERT INTO entity_values_ts SELECT * FROM sorted_rows;

-- name: forget_sorting
DROP TABLE sorted_rows;

-- name: forget_sorted_through
DELETE FROM cdc_compaction;

-- name: set_sorted_through
INSERT INTO cdc_compaction (through_us) VALUES ($through);

-- name: lanes
SELECT lane, epoch, sequence FROM flush_positions;

-- name: claims
SELECT lane, epoch, first_sequence FROM lane_epochs;

-- name: attribute_types
SELECT attribute_id, data_type FROM attributes
WHERE tenant_id = $tenant_id AND list_contains($attribute_ids, attribute_id);

-- name: occupied
-- Which pieces of a span of ingested_at have rows of the tenant, by number since 1970.
SELECT DISTINCT epoch_us(ingested_at) // $piece_us::BIGINT
FROM entity_values_ts
WHERE tenant_id = $tenant_id
    AND ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop);

-- name: verification
-- A mismatch ends the verified run; without one it reaches as far as was compared.
SELECT
    v.compared_through, v.checked_at,
    (SELECT min(start_us) FROM cdc_windows AS w
     WHERE w.tenant_id = v.tenant_id AND NOT w.is_matched) AS first_mismatch,
    (SELECT count(*) FROM cdc_windows AS w
     WHERE w.tenant_id = v.tenant_id AND NOT w.is_matched) AS mismatched
FROM cdc_verifications AS v WHERE v.tenant_id = $tenant_id;

-- name: set_verification
INSERT OR REPLACE INTO cdc_verifications (tenant_id, compared_through, checked_at)
VALUES ($tenant_id, $compared_through, $checked_at);

-- name: mismatched_windows
SELECT start_us FROM cdc_windows
WHERE tenant_id = $tenant_id AND NOT is_matched AND start_us < $before
ORDER BY start_us LIMIT $windows_max;

-- name: window_totals
-- Sums of the digests of whole windows.
SELECT
    coalesce(sum(source_rows), 0), coalesce(sum(source_high), 0), coalesce(sum(source_low), 0),
    coalesce(sum(warehouse_rows), 0), coalesce(sum(warehouse_high), 0), coalesce(sum(warehouse_low), 0)
FROM cdc_windows
WHERE tenant_id = $tenant_id AND start_us < $before;

-- name: drop_windows
DELETE FROM cdc_windows
WHERE tenant_id = $tenant_id AND start_us >= $start AND start_us < $stop;

-- name: keep_window
INSERT INTO cdc_windows (tenant_id, start_us, end_us, source_rows, source_high, source_low,
    warehouse_rows, warehouse_high, warehouse_low, is_matched, checked_at)
VALUES ($tenant_id, $start, $end, $source_rows, $source_high, $source_low,
    $warehouse_rows, $warehouse_high, $warehouse_low, $is_matched, $checked_at);

-- name: compared_days
-- Days that are over, with the sum of their windows, unless a window is known to differ.
SELECT start_us // $day_us::BIGINT AS day, sum(warehouse_rows), sum(warehouse_high), sum(warehouse_low)
FROM cdc_windows
WHERE start_us < (SELECT epoch_us(beaten_at) FROM replication_heartbeat WHERE id = 1)
    // $day_us::BIGINT * $day_us::BIGINT
GROUP BY day HAVING bool_and(is_matched) AND sum(warehouse_rows) > 0
ORDER BY day;

-- name: day_tenants
SELECT DISTINCT tenant_id FROM entity_values_ts
WHERE ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop)
ORDER BY tenant_id;

-- name: day_rows
-- Tenant by tenant, so that little is to be sorted at a time.
SELECT * FROM entity_values_ts
WHERE tenant_id = $tenant_id
    AND ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop)
ORDER BY attribute_id, event_time;

-- name: window_width
SELECT window_us FROM cdc_window_width;

-- name: set_window_width
INSERT INTO cdc_window_width (window_us) VALUES ($window_us);

-- name: forget_verifications
-- Windows of another width cannot be continued.
DELETE FROM cdc_verifications;

-- name: forget_windows
DELETE FROM cdc_windows;

-- name: forget_window_width
DELETE FROM cdc_window_width;

-- name: levelling
-- One row while the warehouse may be neither the old state nor the new one.
SELECT reason FROM cdc_levelling;

-- name: begin_levelling
INSERT INTO cdc_levelling (reason, begun_at)
SELECT $reason, current_timestamp WHERE NOT EXISTS (SELECT 1 FROM cdc_levelling);

-- name: end_levelling
DELETE FROM cdc_levelling;

-- name: pause
SELECT actor, reason, epoch_us(paused_at) FROM cdc_pause;

-- name: set_pause
INSERT INTO cdc_pause (actor, reason, paused_at)
SELECT $actor, $reason, current_timestamp WHERE NOT EXISTS (SELECT 1 FROM cdc_pause);

-- name: end_pause
DELETE FROM cdc_pause;

-- name: audit
INSERT INTO cdc_audit (acted_at, actor, action, tenant_id, request_id, detail)
VALUES (current_timestamp, $actor, $action, $tenant_id, $request_id, $detail);

-- name: recent_recoveries
-- Those that nobody asked for, within an hour.
SELECT count(*) FROM cdc_audit
WHERE action = 'recover' AND actor = $actor AND acted_at > current_timestamp - INTERVAL 1 HOUR;

-- name: window_row_counts
SELECT epoch_us(ingested_at) // $width_us::BIGINT AS number, count(*)
FROM entity_values_ts
WHERE tenant_id = $tenant_id
    AND ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop)
GROUP BY number;

-- name: span_rows
-- What is about to be replaced, to say which windows it changes.
CREATE OR REPLACE TEMP TABLE replaced_rows AS
SELECT DISTINCT tenant_id, ingested_at FROM entity_values_ts
WHERE tenant_id = $tenant_id
    AND ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop);

-- name: drop_span
DELETE FROM entity_values_ts
WHERE tenant_id = $tenant_id
    AND ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop);

-- name: buried_copies
-- Rows of the source that the warehouse could not hold at an earlier copy.
SELECT raw FROM cdc_dead_letters WHERE kind = 'COPY' AND table_name = $table_name;
