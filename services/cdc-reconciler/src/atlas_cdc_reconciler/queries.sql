-- Named queries on the primary, as role atlas_reconciler. Those of the warehouse are in warehouse.sql.

-- name: slot
-- What the server knows of our slot. No row: there is none. Through jsonb what older releases do not have: why it was
-- invalidated, whether a promoted standby has it too (PostgreSQL 17).
SELECT
    s.plugin, s.database = current_database() AS is_here, s.active, coalesce(s.wal_status, '') AS wal_status,
    (s.confirmed_flush_lsn - '0/0'::pg_lsn)::bigint AS confirmed_position,
    coalesce((pg_current_wal_lsn() - s.restart_lsn)::bigint, 0) AS retained_bytes,
    s.safe_wal_size,
    coalesce(to_jsonb(s) ->> 'invalidation_reason', '') AS invalidation_reason,
    coalesce((to_jsonb(s) ->> 'failover')::boolean, false) AS failover
FROM pg_replication_slots AS s
WHERE s.slot_name = %(slot)s;

-- name: drop_slot
-- Only ever a slot that no warehouse stands on.
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %(slot)s;

-- name: list_tenants
SELECT tenant_id, key FROM tenants ORDER BY tenant_id;

-- name: announce_seal
-- Answers the moment before which no flush that begins from now on stores anything.
SELECT announce_seal(coalesce(%(until)s::timestamptz, 'infinity'));

-- name: flushes_in_flight
SELECT flushes_in_flight();

-- name: beat_now
-- Beats whatever the age of the newest beat.
SELECT beat_heart('0 seconds');

-- name: newest_beat
SELECT beat_id FROM replication_heartbeat WHERE id = 1;

-- name: has_rows
SELECT EXISTS (
    SELECT FROM entity_values_ts
    WHERE tenant_id = %(tenant_id)s AND ingested_at >= %(start)s AND ingested_at < %(stop)s
);
-- name: window_row_counts
-- Rows of a tenant's history by window of ingested_at, by the window's number since 1970.
SELECT (extract(EPOCH FROM ingested_at) * 1000000)::bigint / %(width_us)s::bigint AS number, count(*)
FROM entity_values_ts
WHERE tenant_id = %(tenant_id)s AND ingested_at >= %(start)s AND ingested_at < %(stop)s
GROUP BY number;

-- name: try_to_lead
-- Whether this session has the lock now, and whose it is otherwise: the name of the session that holds it.
SELECT
    pg_try_advisory_lock(%(key)s) AS is_ours,
    (
        SELECT substring(a.application_name FROM 'cdc-leader (.*)')
        FROM pg_locks AS l
        INNER JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
            AND (l.classid::bigint << 32 | l.objid::bigint) = %(key)s
        LIMIT 1
    ) AS leader;

-- name: retention_floor
-- The lower bound of the oldest partition: what is older was dropped by retention, or lies in DEFAULT.
SELECT min(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([^'']+)''\)')::timestamptz)
FROM pg_inherits AS i
INNER JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'entity_values_ts'::regclass;
