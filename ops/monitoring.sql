-- What to ask the database when something is slow, late or full. Each query stands alone: paste it into psql as the
-- role atlas_monitor (search_path is the database's own). None takes a lock that a writer could wait for, none
-- shows a value that a tenant stored. See ops/README.md.

-- name: staging
-- Per lane: what waits in staging, since when nothing was flushed, and why. reason is '' when all is well.
-- Act when oldest_seconds grows: the reason names what to end, to free or to start.
SELECT
    s.lane, s.owned, s.staged_points, s.staged_bytes, s.flushed_at, s.sequence,
    CASE
        WHEN s.staged_points > 0 THEN extract(EPOCH FROM clock_timestamp() - s.flushed_at) ELSE 0
    END::double precision AS oldest_seconds,
    f.seconds AS flushing_seconds,
    CASE
        WHEN s.staged_points > 0 AND NOT s.owned THEN 'no process owns the lane: is any ingest alive?'
        WHEN f.waits_for <> '' THEN f.waits_for
        WHEN f.seconds > 5 THEN 'the flush itself is slow: look at wal_pressure and table_sizes'
        ELSE ''
    END AS reason
FROM staging_status() AS s
LEFT JOIN flushing_lanes() AS f ON f.lane = s.lane
ORDER BY oldest_seconds DESC, s.lane

-- name: flush_backlog
-- All lanes in one row. flushes_under_way counts sessions inside a flush now.
SELECT
    count(*) FILTER (WHERE s.owned) AS owned_lanes,
    coalesce(sum(s.staged_points), 0) AS staged_points,
    coalesce(sum(s.staged_bytes), 0) AS staged_bytes,
    max(clock_timestamp() - s.flushed_at) FILTER (WHERE s.staged_points > 0) AS oldest_age,
    (SELECT count(*) FROM flushing_lanes()) AS flushes_under_way
FROM staging_status() AS s

-- name: blocked_flushes
-- Flushes that wait for another session, and for whom. To end it: SELECT pg_terminate_backend(pid) as an
-- administrator, of the pid in waits_for.
SELECT lane, pid, seconds, waits_for
FROM flushing_lanes()
WHERE waits_for <> ''
ORDER BY seconds DESC

-- name: blocked_sessions
-- Everybody who waits for a lock, and one session each waits for. Statements are shown without their values.
SELECT
    pid, application, waiting_seconds, wait_event, statement, blocker_pid, blocker_application,
    blocker_state, blocker_transaction_seconds, blocker_statement
FROM blocked_sessions()

-- name: default_rows
-- Rows of entity_values_ts that found no partition: should be 0. Ingest moves them by itself within a minute after
-- their span is over; if they stay, its log says why ("rows without a partition").
SELECT row_count, oldest, clock_timestamp() - oldest AS oldest_age, byte_count
FROM default_rows()

-- name: partitions_ahead
-- How far ahead partitions exist, and how many there are. Less than a day ahead: ingest's log says who is in the way
-- ("partitions postponed").
SELECT
    root.name AS root,
    count(*) FILTER (WHERE NOT p.is_default) AS partitions,
    min(p.lower_bound) FILTER (WHERE NOT p.is_default) AS oldest,
    max(p.upper_bound) FILTER (WHERE NOT p.is_default) AS made_until,
    max(p.upper_bound) FILTER (WHERE NOT p.is_default) - clock_timestamp() AS ahead,
    bool_or(
        NOT p.is_default AND p.lower_bound <= clock_timestamp() AND p.upper_bound > clock_timestamp()
    ) AS covers_now
FROM (VALUES ('entity_values_ts'), ('write_requests')) AS root (name)
CROSS JOIN LATERAL partitions_of(root.name::regclass) AS p
GROUP BY root.name

-- name: retention_overdue
-- What retention should have done, and since when it could. Steps older than a few hours: is the job running
-- (python -m atlas_ingest.maintenance), is maintenance.archive_directory set, does it fit on its disk?
SELECT
    p.step, p.partition_name, p.relation, p.retention_class, cardinality(p.tenant_ids) AS tenants,
    p.needs_archive, p.upper_bound, clock_timestamp() - p.upper_bound AS age
FROM retention_plan() AS p

-- name: retired_partitions
-- Detached and not dropped yet: space that is still used.
SELECT
    r.name, r.retired_at, cardinality(r.archive_tenants) AS archive_tenants,
    pg_total_relation_size(to_regclass(format('retired.%I', r.name))) AS byte_count
FROM retired_partitions AS r
WHERE r.dropped_at IS NULL
ORDER BY r.retired_at

-- name: archives
-- What was archived in the last week.
SELECT
    a.partition_name, a.retention_class, a.part, cardinality(a.tenant_ids) AS tenants, a.row_count,
    a.byte_count, a.deleted_count, a.path, a.archived_at
FROM partition_archives AS a
WHERE a.archived_at > clock_timestamp() - interval '7 days'
ORDER BY a.archived_at DESC

-- name: projection_jobs
-- Work on the projection that is not over, the longest in its step first; message says what it waits for. None moves:
-- is any hotcache alive? See services/hotcache/README.md.
SELECT
    t.key AS tenant, j.job_id, j.kind, j.step, clock_timestamp() - j.step_since AS in_step_for,
    j.entities_done, j.entities_total, j.message, clock_timestamp() - j.updated_at AS silent_for
FROM projection_jobs AS j
INNER JOIN tenants AS t ON t.tenant_id = j.tenant_id
WHERE j.state = 'running'
ORDER BY in_step_for DESC
LIMIT 100

-- name: attribute_indexes
-- Indexes of cold attributes that are not ready, the longest silent first; message says what one waits for. None moves:
-- does any process build? See services/hotcache/README.md. One that failed slows writing until it is dropped.
SELECT
    t.key AS tenant, x.attribute_id, x.state, x.partitions_done, x.partitions_total, x.message,
    clock_timestamp() - x.updated_at AS silent_for
FROM attribute_indexes AS x
INNER JOIN tenants AS t ON t.tenant_id = x.tenant_id
WHERE x.state <> 'ready'
ORDER BY silent_for DESC
LIMIT 100

-- name: dead_letters
-- What ingest's sources could not store, by reason. They stay until a person has looked at them.
SELECT
    d.source, d.topic, d.reason, count(*) AS letters, count(DISTINCT d.tenant_id) AS tenants,
    min(d.stored_at) AS first_stored, max(d.stored_at) AS last_stored
FROM ingest_dead_letters AS d
GROUP BY d.source, d.topic, d.reason
ORDER BY letters DESC
LIMIT 100

-- name: producers_lagging
-- Producers that have not stored anything for the longest time: finished, or stuck.
SELECT
    t.key AS tenant, p.producer_id, p.sequence, p.stored_at, clock_timestamp() - p.stored_at AS silent_for
FROM producer_positions AS p
INNER JOIN tenants AS t ON t.tenant_id = p.tenant_id
WHERE p.stored_at < clock_timestamp() - interval '5 minutes'
ORDER BY p.stored_at
LIMIT 100

-- name: source_offsets
-- How far topics are stored. Compare next_offset with the end of the partition, as the broker tells it.
SELECT s.topic, s.partition, s.next_offset, s.stored_at, clock_timestamp() - s.stored_at AS silent_for
FROM source_offsets AS s
ORDER BY s.stored_at
LIMIT 1000

-- name: heartbeat
-- By this clock every lag is measured: an age of more than some seconds makes all lags unknown.
SELECT beat_id, beaten_at, clock_timestamp() - beaten_at AS age
FROM replication_heartbeat

-- name: seal
-- Up to when windows are sealed, and which day the ledger writes to.
SELECT
    nullif(sealed_before, '-infinity') AS sealed_before,
    clock_timestamp() - nullif(sealed_before, '-infinity') AS behind, ledger_bucket
FROM flush_control

-- name: long_transactions
-- Transactions older than a minute: they hold back vacuum and the maintenance of partitions.
SELECT
    a.pid, a.usename, a.application_name, a.state, clock_timestamp() - a.xact_start AS age,
    a.wait_event_type, a.wait_event, age(a.backend_xmin) AS xmin_age
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.xact_start < clock_timestamp() - interval '1 minute'
    AND a.backend_type = 'client backend'
ORDER BY a.xact_start

-- name: replication_slots
-- Slots keep WAL for their reader. wal_status 'unreserved' or 'lost', or an inactive slot whose kept_bytes grows:
-- start its reader, or drop it before max_slot_wal_keep_size does. used_share 1: lost with the next byte; NULL: no bound.
-- failover and why it was invalidated: PostgreSQL 17 and later.
SELECT
    s.slot_name, s.slot_type, s.active, s.wal_status,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) END AS kept_bytes,
    s.safe_wal_size,
    CASE
        WHEN NOT pg_is_in_recovery() AND s.safe_wal_size IS NOT NULL THEN round(
            pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)
            / greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) + greatest(s.safe_wal_size, 0), 1), 3)
    END AS used_share,
    to_jsonb(s) ->> 'failover' AS failover, to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason
FROM pg_replication_slots AS s
ORDER BY kept_bytes DESC NULLS LAST

-- name: replication_lag
-- Streaming readers: replicas and the reconciler.
SELECT
    r.application_name, r.state, r.sync_state,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn) END AS behind_bytes,
    r.write_lag, r.flush_lag, r.replay_lag
FROM pg_stat_replication AS r
ORDER BY behind_bytes DESC NULLS LAST

-- name: wal_pressure
-- WAL since the statistics were reset. buffers_full that grows: wal_buffers is too small.
SELECT w.wal_records, w.wal_fpi, w.wal_bytes, w.wal_buffers_full, w.stats_reset
FROM pg_stat_wal AS w

-- name: log_archive
-- What the loss of this server with its disk would cost now. A failure that is newer than the last success, or files that
-- wait: archive_command fails, the server's log says why, and the disk fills. mode off: nothing can be restored to a point
-- in time (docs/disaster-recovery.md).
SELECT
    current_setting('archive_mode') AS mode, a.last_archived_wal, a.last_archived_time,
    clock_timestamp() - a.last_archived_time AS last_archived_age,
    a.last_failed_wal, a.last_failed_time, a.failed_count,
    (SELECT count(*) FROM pg_ls_archive_statusdir() AS f WHERE right(f.name, 6) = '.ready') AS waiting_files
FROM pg_stat_archiver AS a

-- name: checkpoint_settings
-- Checkpoints should come by time, not by volume: if the log says "checkpoints are occurring too frequently", raise
-- max_wal_size. The counters moved in PostgreSQL 17: pg_stat_bgwriter before, pg_stat_checkpointer since.
SELECT
    (SELECT sum(size) FROM pg_ls_waldir()) AS wal_directory_bytes,
    current_setting('max_wal_size') AS max_wal_size,
    current_setting('checkpoint_timeout') AS checkpoint_timeout,
    (SELECT c.checkpoint_time FROM pg_control_checkpoint() AS c) AS last_checkpoint

-- name: table_sizes
-- The largest tables with their indexes; partitions are listed by themselves.
SELECT
    c.oid::regclass::text AS relation, c.relpersistence = 'u' AS unlogged,
    pg_relation_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes,
    pg_total_relation_size(c.oid) AS total_bytes, greatest(c.reltuples, 0)::bigint AS estimated_rows
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('atlas', 'staging', 'retired') AND c.relkind IN ('r', 'm')
ORDER BY total_bytes DESC
LIMIT 50

-- name: index_sizes
-- The largest indexes, and whether anybody uses them.
SELECT
    i.indexrelid::regclass::text AS index, i.indrelid::regclass::text AS relation,
    pg_relation_size(i.indexrelid) AS index_bytes, am.amname AS method, u.idx_scan AS scans
FROM pg_index AS i
INNER JOIN pg_class AS c ON c.oid = i.indexrelid
INNER JOIN pg_am AS am ON am.oid = c.relam
INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_indexes AS u ON u.indexrelid = i.indexrelid
WHERE n.nspname IN ('atlas', 'retired') AND c.relkind = 'i'
ORDER BY index_bytes DESC
LIMIT 50

-- name: bloat
-- Dead rows and when they were last cleared. entity_jsonb is updated all the time: dead_share above 0.2 for long
-- means that autovacuum cannot keep up, or that a long transaction holds it back.
SELECT
    t.relname AS relation, t.n_live_tup AS live_rows, t.n_dead_tup AS dead_rows,
    round(t.n_dead_tup::numeric / greatest(t.n_live_tup + t.n_dead_tup, 1), 3) AS dead_share,
    t.n_tup_upd AS updates, t.n_tup_hot_upd AS hot_updates, t.last_autovacuum, t.last_autoanalyze
FROM pg_stat_user_tables AS t
WHERE t.schemaname IN ('atlas', 'retired')
ORDER BY t.n_dead_tup DESC
LIMIT 30

-- name: gin_pending
-- The pending list of the projection's GIN index: while it is long, filters read it from end to end. It is emptied by
-- vacuum, and by writers once it reaches gin_pending_list_limit.
SELECT
    c.oid::regclass::text AS index,
    coalesce(substring(array_to_string(c.reloptions, ',') FROM 'fastupdate=(\w+)'), 'on') AS fastupdate,
    current_setting('gin_pending_list_limit') AS pending_limit,
    pg_relation_size(c.oid) AS index_bytes,
    (SELECT t.last_autovacuum FROM pg_stat_user_tables AS t WHERE t.relid = i.indrelid) AS last_emptied
FROM pg_class AS c
INNER JOIN pg_index AS i ON i.indexrelid = c.oid
INNER JOIN pg_am AS am ON am.oid = c.relam
WHERE am.amname = 'gin' AND c.relnamespace = 'atlas'::regnamespace

-- name: administrative_acts
-- Who administered what last; tenant_id 0: what is of all tenants. outcome '': under way, or cut off. What was asked for is
-- not shown here, but by ListAdministrativeActs and ListPlatformActs.
SELECT
    b.recorded_at, b.tenant_id, b.actor, b.actor_tenant, b.method, b.request_id, coalesce(e.outcome, '') AS outcome
FROM audit_log AS b
LEFT JOIN audit_log AS e ON e.tenant_id = b.tenant_id AND e.act = b.act AND e.event = 'ended'
WHERE b.event = 'begun'
ORDER BY b.recorded_at DESC
LIMIT 50

-- name: policies
-- What the platform does by itself, the latest first, and what came of it last. late and nobody as runner: the service
-- whose job it is is down. failed: summary says why.
SELECT
    p.policy_id, p.job, p.tenant_ids, coalesce(p.schedule_interval, p.default_interval) AS every, p.is_scheduled,
    CASE WHEN p.is_scheduled THEN greatest(clock_timestamp() - p.next_start, interval '0') END AS late,
    CASE WHEN p.leased_until > clock_timestamp() THEN p.runner ELSE '' END AS runner,
    r.status, r.started_at, r.ended_at, r.run_count, r.failure_count, r.summary
FROM maintenance_policies AS p
LEFT JOIN maintenance_runs AS r ON r.policy_id = p.policy_id AND NOT r.is_dry_run
ORDER BY late DESC NULLS LAST, p.policy_id
LIMIT 100

-- name: connections
-- Who is connected, and how near the bound that is.
SELECT
    coalesce(a.usename, a.backend_type) AS who, a.application_name, count(*) AS sessions,
    count(*) FILTER (WHERE a.state = 'active') AS active,
    count(*) FILTER (WHERE a.state LIKE 'idle in transaction%') AS idle_in_transaction,
    current_setting('max_connections')::integer AS max_connections
FROM pg_stat_activity AS a
GROUP BY 1, 2
ORDER BY sessions DESC

-- name: vacuum_age
-- How far transaction ids are from running out: above 0.5 of autovacuum_freeze_max_age's double, act.
SELECT
    d.datname, age(d.datfrozenxid) AS xid_age,
    current_setting('autovacuum_freeze_max_age')::integer AS freeze_max_age
FROM pg_database AS d
WHERE d.datname = current_database()
