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

-- name: epoch
SELECT coalesce(max(epoch), 0) FROM cdc_owner;

-- name: leave
DELETE FROM cdc_owner;

-- name: claim
INSERT INTO cdc_owner VALUES ($epoch, $owner, current_timestamp);

-- name: touch_owner
-- Two transactions that change the same row cannot both commit.
UPDATE cdc_owner SET owner = owner;

-- name: post
-- Entries (cdc_entries) of the books; no tenant is a tenant too.
MERGE INTO cdc_counters AS c USING cdc_entries AS e
ON c.table_name = e.table_name AND c.tenant_id IS NOT DISTINCT FROM e.tenant_id
WHEN MATCHED THEN UPDATE SET
    read_count = c.read_count + e.read_count,
    applied_count = c.applied_count + e.applied_count,
    dead_lettered_count = c.dead_lettered_count + e.dead_lettered_count,
    skipped_count = c.skipped_count + e.skipped_count,
    stored_rows = c.stored_rows + e.stored_rows
WHEN NOT MATCHED THEN INSERT VALUES (e.table_name, e.tenant_id, e.read_count, e.applied_count,
    e.dead_lettered_count, e.skipped_count, e.stored_rows);

-- name: counts
SELECT table_name, sum(read_count)::BIGINT, sum(applied_count)::BIGINT,
    sum(dead_lettered_count)::BIGINT, sum(skipped_count)::BIGINT
FROM cdc_counters GROUP BY table_name;

-- name: books
SELECT c.table_name, coalesce(t.key, c.tenant_id::VARCHAR, '') AS tenant, c.read_count,
    c.applied_count, c.dead_lettered_count, c.skipped_count
FROM cdc_counters AS c LEFT JOIN tenants AS t ON t.tenant_id = c.tenant_id
ORDER BY c.table_name, c.tenant_id NULLS FIRST;

-- name: unbalanced
-- Where the law of conservation is broken.
SELECT table_name, tenant_id, read_count,
    applied_count + dead_lettered_count + skipped_count AS accounted
FROM cdc_counters WHERE read_count <> applied_count + dead_lettered_count + skipped_count;

-- name: letters_miscounted
-- Where there are other letters than the books say.
SELECT coalesce(c.table_name, l.table_name), coalesce(c.tenant_id, l.tenant_id),
    coalesce(c.dead_lettered_count, 0), coalesce(l.letters, 0)
FROM cdc_counters AS c
FULL JOIN (
    SELECT table_name, tenant_id, count(*) AS letters FROM cdc_dead_letters GROUP BY ALL) AS l
ON c.table_name = l.table_name AND c.tenant_id IS NOT DISTINCT FROM l.tenant_id
WHERE coalesce(c.dead_lettered_count, 0) <> coalesce(l.letters, 0);

-- name: rows_miscounted
-- Where the history has other rows than the books say.
SELECT coalesce(c.tenant_id, h.tenant_id), coalesce(c.stored_rows, 0), coalesce(h.row_count, 0)
FROM (SELECT * FROM cdc_counters WHERE table_name = 'entity_values_ts' AND tenant_id IS NOT NULL) AS c
FULL JOIN (
    SELECT tenant_id, count(*) AS row_count FROM entity_values_ts GROUP BY tenant_id) AS h
ON c.tenant_id = h.tenant_id
WHERE coalesce(c.stored_rows, 0) <> coalesce(h.row_count, 0);

-- name: recount_rows
-- After a copy that was compared with the source: whatever the books said, these are the rows.
-- Of one tenant, or of all.
UPDATE cdc_counters SET stored_rows = coalesce((
    SELECT count(*) FROM entity_values_ts AS h WHERE h.tenant_id = cdc_counters.tenant_id), 0)
WHERE table_name = 'entity_values_ts' AND tenant_id IS NOT NULL
    AND ($tenant_id::INTEGER IS NULL OR tenant_id = $tenant_id::INTEGER);

-- name: letter_number
SELECT next_id FROM cdc_letter_number;

-- name: set_letter_number
UPDATE cdc_letter_number SET next_id = $next_id;

-- name: bury
-- Dead letters (cdc_buried): enough to replay them, even after the table has changed its columns.
INSERT INTO cdc_dead_letters
SELECT letter_id, chain_id, letter_class, reason, table_name, kind, tenant_id, row_keys,
    log_offset, commit_lsn, codec, source_columns, raw, 1, current_timestamp, current_timestamp
FROM cdc_buried;

-- name: join_chains
UPDATE cdc_dead_letters SET chain_id = $into_chain WHERE chain_id = $chain;

-- name: held_tables
SELECT table_name, arg_min(reason, letter_id), count(*), epoch_us(min(first_attempt_at))
FROM cdc_dead_letters WHERE letter_class = 'SCHEMA' GROUP BY table_name ORDER BY table_name;

-- name: open_letters
SELECT letter_class, count(*) FROM cdc_dead_letters GROUP BY letter_class;

-- name: tenant_by_key
SELECT tenant_id FROM tenants WHERE key = $key;

-- name: matching_letters
-- Letters that a filter names. What is not set matches everything.
CREATE OR REPLACE TEMP TABLE cdc_matching AS
SELECT letter_id FROM cdc_dead_letters
WHERE ($tenant_id::INTEGER IS NULL OR tenant_id = $tenant_id)
    AND ($table_name = '' OR table_name = $table_name)
    AND ($letter_class = '' OR letter_class = $letter_class)
    AND ($reason = '' OR contains(lower(reason), lower($reason)))
    AND (len($letter_ids::BIGINT[]) = 0 OR list_contains($letter_ids, letter_id));

-- name: letters_page
SELECT l.letter_id, l.letter_class, l.reason, l.table_name, l.kind, l.tenant_id,
    coalesce(t.key, l.tenant_id::VARCHAR, ''), l.row_keys, l.chain_id, l.log_offset, l.commit_lsn,
    l.codec, l.source_columns, octet_length(l.raw), l.attempts, epoch_us(l.first_attempt_at),
    epoch_us(l.last_attempt_at), CASE WHEN $with_raw THEN l.raw END
FROM cdc_dead_letters AS l LEFT JOIN tenants AS t ON t.tenant_id = l.tenant_id
WHERE ($tenant_id::INTEGER IS NULL OR l.tenant_id = $tenant_id)
    AND ($table_name = '' OR l.table_name = $table_name)
    AND ($letter_class = '' OR l.letter_class = $letter_class)
    AND ($reason = '' OR contains(lower(l.reason), lower($reason)))
    AND (len($letter_ids::BIGINT[]) = 0 OR list_contains($letter_ids, l.letter_id))
    AND l.letter_id > $after
ORDER BY l.letter_id LIMIT $limit;

-- name: letters_count
SELECT count(*) FROM cdc_dead_letters AS l
WHERE ($tenant_id::INTEGER IS NULL OR l.tenant_id = $tenant_id)
    AND ($table_name = '' OR l.table_name = $table_name)
    AND ($letter_class = '' OR l.letter_class = $letter_class)
    AND ($reason = '' OR contains(lower(l.reason), lower($reason)))
    AND (len($letter_ids::BIGINT[]) = 0 OR list_contains($letter_ids, l.letter_id));

-- name: chosen_letters
-- The letters that match and all of their chains. Of a table that is held they are one chain.
CREATE OR REPLACE TEMP TABLE cdc_chosen AS
WITH matching AS (
    SELECT l.table_name, l.chain_id
    FROM cdc_dead_letters AS l JOIN cdc_matching AS m ON m.letter_id = l.letter_id),
held AS (
    SELECT DISTINCT table_name FROM cdc_dead_letters
    WHERE letter_class = 'SCHEMA'
        OR (len(row_keys) = 0 AND table_name <> 'entity_values_ts'))
SELECT letter_id FROM cdc_dead_letters
WHERE (table_name, chain_id) IN (SELECT table_name, chain_id FROM matching)
    OR table_name IN (SELECT table_name FROM matching WHERE table_name IN (SELECT * FROM held));

-- name: chosen_count
SELECT count(*) FROM cdc_chosen;

-- name: chosen_schemas
-- In their order: of two descriptions of a table the later one is the newer.
SELECT l.table_name, l.codec, l.source_columns
FROM cdc_dead_letters AS l JOIN cdc_chosen AS c ON c.letter_id = l.letter_id
GROUP BY ALL ORDER BY min(l.letter_id);

-- name: chosen_page
SELECT l.letter_id, l.table_name, l.kind, l.tenant_id, l.log_offset, l.commit_lsn, l.codec,
    l.source_columns, l.raw
FROM cdc_dead_letters AS l JOIN cdc_chosen AS c ON c.letter_id = l.letter_id
WHERE l.letter_id > $after
ORDER BY l.letter_id LIMIT $limit;

-- name: drop_replayed
-- Letters (cdc_done) that are applied now.
DELETE FROM cdc_dead_letters WHERE letter_id IN (SELECT letter_id FROM cdc_done);

-- name: rewrite_letters
-- Letters (cdc_failed) that still cannot be applied: only what was tried and failed was attempted.
UPDATE cdc_dead_letters AS l SET
    letter_class = f.letter_class, reason = f.reason, tenant_id = f.tenant_id,
    row_keys = CASE WHEN len(f.row_keys) = 0 THEN l.row_keys ELSE f.row_keys END,
    attempts = l.attempts + f.attempts,
    last_attempt_at = CASE WHEN f.attempts = 0 THEN l.last_attempt_at ELSE current_timestamp END
FROM cdc_failed AS f WHERE l.letter_id = f.letter_id;

-- name: matching_by_tenant
SELECT l.table_name, l.tenant_id, count(*)
FROM cdc_dead_letters AS l JOIN cdc_matching AS m ON m.letter_id = l.letter_id GROUP BY ALL;

-- name: drop_matching
DELETE FROM cdc_dead_letters WHERE letter_id IN (SELECT letter_id FROM cdc_matching);

-- name: letter_action_of_request
SELECT action, detail FROM cdc_audit
WHERE request_id = $request_id AND contains(action, 'dead letters') ORDER BY acted_at LIMIT 1;

-- name: letter_actions
-- Nothing is ever removed from the audit: its rows keep their numbers.
SELECT rowid + 1, epoch_us(acted_at), actor, action, request_id, detail FROM cdc_audit
WHERE contains(action, 'dead letters') AND ($before = 0 OR rowid + 1 < $before)
ORDER BY rowid DESC LIMIT $limit;

-- name: superseded_letters
-- Letters that a copy of what they change has made void.
CREATE OR REPLACE TEMP TABLE cdc_matching AS
SELECT letter_id FROM cdc_dead_letters
WHERE ($with_copies OR letter_class <> 'COPY')
    AND ($table_name = '' OR table_name = $table_name)
    AND ($tenant_ids::INTEGER[] IS NULL OR list_contains($tenant_ids, tenant_id))
    AND ($start::BIGINT IS NULL OR (len(row_keys) > 0
        AND json_extract(row_keys[1], '$[4]')::BIGINT >= $start
        AND json_extract(row_keys[1], '$[4]')::BIGINT < $stop));

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

-- name: verifications
-- Of all tenants; those furthest behind first, and before them those of which nothing is known.
SELECT
    t.key, v.compared_through, v.checked_at, w.first_mismatch, coalesce(w.mismatched, 0) AS mismatched,
    r.report_id, epoch_us(r.made_at) AS made_at_us,
    (SELECT count(*) FROM cdc_differences AS d
     WHERE d.tenant_id = r.tenant_id AND d.report_id = r.report_id) AS differences,
    count(*) OVER () AS tenant_count
FROM tenants AS t
LEFT JOIN cdc_verifications AS v ON v.tenant_id = t.tenant_id
LEFT JOIN (
    SELECT tenant_id, min(start_us) AS first_mismatch, count(*) AS mismatched
    FROM cdc_windows WHERE NOT is_matched GROUP BY tenant_id
) AS w ON w.tenant_id = t.tenant_id
LEFT JOIN (
    SELECT DISTINCT ON (tenant_id) tenant_id, report_id, made_at
    FROM cdc_reports ORDER BY tenant_id, report_id DESC
) AS r ON r.tenant_id = t.tenant_id
ORDER BY least(v.compared_through, w.first_mismatch) NULLS FIRST, t.key
LIMIT $row_limit;

-- name: set_verification
INSERT OR REPLACE INTO cdc_verifications (tenant_id, compared_through, checked_at)
VALUES ($tenant_id, $compared_through, $checked_at);

-- name: mismatched_windows
SELECT start_us, end_us, source_rows, source_high, source_low,
    warehouse_rows, warehouse_high, warehouse_low
FROM cdc_windows
WHERE tenant_id = $tenant_id AND NOT is_matched AND start_us >= $start AND start_us < $stop
ORDER BY start_us LIMIT $windows_max;

-- name: begun_window
-- The window that starts then, if it agrees.
SELECT start_us, end_us, source_rows, source_high, source_low,
    warehouse_rows, warehouse_high, warehouse_low
FROM cdc_windows
WHERE tenant_id = $tenant_id AND is_matched AND start_us = $start;

-- name: extend_window
-- Adds what agrees as well; a doubt that has come in the meantime stays.
UPDATE cdc_windows SET end_us = $end, checked_at = $checked_at,
    source_rows = source_rows + $rows, source_high = source_high + $high::HUGEINT,
    source_low = source_low + $low::HUGEINT, warehouse_rows = warehouse_rows + $rows,
    warehouse_high = warehouse_high + $high::HUGEINT, warehouse_low = warehouse_low + $low::HUGEINT
WHERE tenant_id = $tenant_id AND start_us = $start;

-- name: changes
-- What differs after any change of a row of these windows, applied or not.
SELECT
    (SELECT coalesce(sum(doubts), 0) FROM cdc_windows
     WHERE tenant_id = $tenant_id AND start_us >= $start AND start_us < $stop) AS doubts,
    (SELECT coalesce(max(letter_id), 0) FROM cdc_dead_letters
     WHERE tenant_id = $tenant_id AND table_name = 'entity_values_ts'
        AND json_extract(row_keys[1], '$[4]')::BIGINT >= $start
        AND json_extract(row_keys[1], '$[4]')::BIGINT < $stop) AS newest_letter;

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

-- name: keep_table
INSERT INTO cdc_table_differences (report_id, tenant_id, table_name, source, warehouse, is_complete,
    differences)
VALUES ($report_id, $tenant_id, $table_name, $source::HUGEINT[], $warehouse::HUGEINT[], $is_complete,
    $differences);

-- name: expire_reports
-- By number and by age; and then the differences of reports that are gone.
DELETE FROM cdc_reports WHERE tenant_id = $tenant_id AND (
    made_at < current_timestamp - to_seconds($seconds_max)
    OR report_id NOT IN (
        SELECT report_id FROM cdc_reports WHERE tenant_id = $tenant_id
        ORDER BY report_id DESC LIMIT $reports_max));

-- name: expire_differences
DELETE FROM cdc_differences
WHERE tenant_id = $tenant_id
    AND report_id NOT IN (SELECT report_id FROM cdc_reports WHERE tenant_id = $tenant_id);

-- name: expire_tables
DELETE FROM cdc_table_differences
WHERE tenant_id = $tenant_id
    AND report_id NOT IN (SELECT report_id FROM cdc_reports WHERE tenant_id = $tenant_id);

-- name: report
-- The newest one where no number is given.
SELECT r.report_id, r.cause, epoch_us(r.made_at), r.through_us, r.windows_compared,
    r.windows_mismatched, r.is_complete,
    (SELECT count(*) FROM cdc_differences AS d
     WHERE d.tenant_id = r.tenant_id AND d.report_id = r.report_id)
FROM cdc_reports AS r
WHERE r.tenant_id = $tenant_id AND ($report_id = 0 OR r.report_id = $report_id)
ORDER BY r.report_id DESC LIMIT 1;

-- name: differences
SELECT kind, entity_id, attribute_id, event_us, ingested_us, source_quality, source_value,
    warehouse_quality, warehouse_value, copies
FROM cdc_differences
WHERE tenant_id = $tenant_id AND report_id = $report_id AND number > $after
ORDER BY number LIMIT $differences_max;

-- name: tables
SELECT table_name, source, warehouse, is_complete, differences FROM cdc_table_differences
WHERE tenant_id = $tenant_id AND report_id = $report_id
ORDER BY table_name;

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
SELECT raw FROM cdc_dead_letters WHERE letter_class = 'COPY' AND table_name = $table_name;
