-- Named queries of the warehouse (DuckDB). Times leave it as microseconds since the epoch.

-- name: position
SELECT source_id, log_offset, lsn FROM cdc_position;

-- name: begin_position
INSERT INTO cdc_position (source_id, log_offset, lsn) VALUES ($source_id, $log_offset, $lsn);

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
SELECT start_us, end_us, source_rows, source_high, source_low,
    warehouse_rows, warehouse_high, warehouse_low
FROM cdc_windows
WHERE tenant_id = $tenant_id AND NOT is_matched AND start_us >= $start AND start_us < $stop
ORDER BY start_us LIMIT $windows_max;

-- name: doubts
-- Rises whenever a row of these windows changes.
SELECT coalesce(sum(doubts), 0) FROM cdc_windows
WHERE tenant_id = $tenant_id AND start_us >= $start AND start_us < $stop;

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

-- name: keep_windows
-- As lists: one statement for hundreds of windows. Sums are texts, since lists of numbers are cut to 64 bits.
INSERT INTO cdc_windows (tenant_id, start_us, end_us, source_rows, source_high, source_low,
    warehouse_rows, warehouse_high, warehouse_low, is_matched, checked_at, doubts)
SELECT $tenant_id, unnest($starts::BIGINT[]), unnest($ends::BIGINT[]),
    unnest($source_rows::BIGINT[]), unnest($source_highs::HUGEINT[]), unnest($source_lows::HUGEINT[]),
    unnest($warehouse_rows::BIGINT[]), unnest($warehouse_highs::HUGEINT[]),
    unnest($warehouse_lows::HUGEINT[]), unnest($matched::BOOLEAN[]), $checked_at, 0;

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

-- name: next_report
SELECT coalesce(max(report_id), 0) + 1 FROM cdc_reports;

-- name: keep_report
INSERT INTO cdc_reports (report_id, tenant_id, cause, made_at, through_us, windows_compared,
    windows_mismatched, is_complete)
VALUES ($report_id, $tenant_id, $cause, current_timestamp, $through, $windows_compared,
    $windows_mismatched, $is_complete);

-- name: keep_differences
INSERT INTO cdc_differences (report_id, number, tenant_id, kind, entity_id, attribute_id, event_us,
    ingested_us, source_quality, source_value, warehouse_quality, warehouse_value, copies)
SELECT $report_id, unnest($numbers::BIGINT[]), $tenant_id, unnest($kinds::VARCHAR[]),
    unnest($entity_ids::BIGINT[]), unnest($attribute_ids::INTEGER[]),
    unnest($event_times::BIGINT[]), unnest($ingest_times::BIGINT[]),
    unnest($source_qualities::SMALLINT[]), unnest($source_values::VARCHAR[]),
    unnest($warehouse_qualities::SMALLINT[]), unnest($warehouse_values::VARCHAR[]),
    unnest($copies::BIGINT[]);

-- name: expire_reports
-- By number and by age; and then the differences of reports that are gone.
DELETE FROM cdc_reports WHERE tenant_id = $tenant_id AND (
    made_at < current_timestamp - to_seconds($seconds_max)
    OR report_id NOT IN (
        SELECT report_id FROM cdc_reports WHERE tenant_id = $tenant_id
        ORDER BY report_id DESC LIMIT $reports_max));

-- name: expire_differences
DELETE FROM cdc_differences
WHERE tenant_id = $tenant_id AND report_id NOT IN (SELECT report_id FROM cdc_reports);

-- name: report
-- The newest one where no number is given.
SELECT r.report_id, r.cause, epoch_us(r.made_at), r.through_us, r.windows_compared,
    r.windows_mismatched, r.is_complete,
    (SELECT count(*) FROM cdc_differences AS d WHERE d.report_id = r.report_id)
FROM cdc_reports AS r
WHERE r.tenant_id = $tenant_id AND ($report_id = 0 OR r.report_id = $report_id)
ORDER BY r.report_id DESC LIMIT 1;

-- name: differences
SELECT kind, entity_id, attribute_id, event_us, ingested_us, source_quality, source_value,
    warehouse_quality, warehouse_value, copies
FROM cdc_differences
WHERE tenant_id = $tenant_id AND report_id = $report_id AND number > $after
ORDER BY number LIMIT $differences_max;

-- name: audit
-- Added to, and never changed.
INSERT INTO cdc_audit (acted_at, actor, action, tenant_id, request_id, detail)
VALUES (current_timestamp, $actor, $action, $tenant_id, $request_id, $detail);

-- name: delete_span
DELETE FROM entity_values_ts
WHERE tenant_id = $tenant_id
    AND ingested_at >= make_timestamptz($start) AND ingested_at < make_timestamptz($stop);
