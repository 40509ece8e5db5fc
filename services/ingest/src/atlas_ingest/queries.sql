-- What ingest says to the database, but for COPY into its lane, whose tables have the lane's number in
-- their names (see lane.py).

-- name: make_entities
-- Finds the entities of these keys (distinct, one per line) and makes those that are missing. Answers one
-- row of lists: thousands of rows would take longer to fetch than to find. Each key is looked up by
-- itself, so that nobody's estimates lead to reading all of a tenant's entities; and looked up first,
-- since a conflict would use up a number of the identity sequence. Made in the order of their keys: two
-- calls with the same new keys wait for each other in one direction only. One that another call makes
-- meanwhile is in neither list: DO NOTHING waited for its commit, and the next statement sees it. Those beyond
-- the room that the tenant's quota leaves are in neither list either.
WITH wanted AS MATERIALIZED (
    SELECT wanted.key
    FROM string_to_table(%(keys)s::text, E'\n') AS wanted (key)
),

found AS MATERIALIZED (
    SELECT
        wanted.key,
        known.entity_id,
        known.created_at
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT
            entities.entity_id,
            entities.created_at
        FROM entities
        WHERE entities.tenant_id = %(tenant_id)s AND entities.key = wanted.key
        LIMIT 1
    ) AS known
),

made AS (
    INSERT INTO entities (tenant_id, key)
    SELECT
        %(tenant_id)s,
        wanted.key
    FROM wanted
    WHERE NOT EXISTS (SELECT FROM found WHERE found.key = wanted.key)
    ORDER BY wanted.key
    LIMIT %(room)s
    ON CONFLICT (tenant_id, key) DO NOTHING
    RETURNING key, entity_id, created_at
),

every AS (
    SELECT
        key,
        entity_id,
        created_at
    FROM found
    UNION ALL
    SELECT
        key,
        entity_id,
        created_at
    FROM made
)

SELECT
    string_agg(key, E'\n') AS keys,
    string_agg(entity_id::text, ',') AS entity_ids,
    string_agg((extract(EPOCH FROM created_at) * 1000000)::bigint::text, ',') AS created_us,
    (SELECT count(*) FROM made) AS created_count
FROM every

-- name: count_entities
SELECT count(*) AS entity_count
FROM entities
WHERE tenant_id = %(tenant_id)s

-- name: entities_by_key
-- As make_entities answers, of those that exist.
SELECT
    string_agg(key, E'\n') AS keys,
    string_agg(entity_id::text, ',') AS entity_ids,
    string_agg((extract(EPOCH FROM created_at) * 1000000)::bigint::text, ',') AS created_us,
    0 AS created_count
FROM entities
WHERE tenant_id = %(tenant_id)s AND key = ANY(string_to_array(%(keys)s::text, E'\n'))

-- name: list_entities
-- A page of the tenant's entities in the order they were made.
SELECT entity_id, key, created_at
FROM entities
WHERE tenant_id = %(tenant_id)s AND entity_id > %(after)s
ORDER BY entity_id
LIMIT %(row_limit)s

-- name: register_attributes
-- Makes attributes that points brought, cold; one that exists already stays as it is.
INSERT INTO attributes (tenant_id, name, data_type)
SELECT %(tenant_id)s, wanted.name, wanted.data_type
FROM unnest(%(names)s::text [], %(data_types)s::text []) AS wanted (name, data_type)
ORDER BY wanted.name
ON CONFLICT (tenant_id, name) DO NOTHING

-- name: upsert_attributes
-- Makes or redefines attributes. One that exists with another type or heat is left alone and not
-- returned. The definitions come as JSON because lists of lists of allowed values are no SQL array.
INSERT INTO attributes AS a
(tenant_id, name, data_type, unit, validation_regex, min_value, max_value, allowed_values, is_hot)
SELECT
    %(tenant_id)s, d.name, d.data_type, d.unit, d.validation_regex, d.min_value, d.max_value,
    d.allowed_values, d.is_hot
FROM jsonb_to_recordset(%(definitions)s::jsonb) AS d (
    name text, data_type text, unit text, validation_regex text,
    min_value numeric, max_value numeric, allowed_values text [], is_hot boolean
)
ORDER BY d.name
ON CONFLICT (tenant_id, name) DO UPDATE SET
    unit = excluded.unit, validation_regex = excluded.validation_regex,
    min_value = excluded.min_value, max_value = excluded.max_value,
    allowed_values = excluded.allowed_values, updated_at = excluded.updated_at
WHERE a.data_type = excluded.data_type AND a.is_hot = excluded.is_hot
RETURNING
    attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value,
    allowed_values, created_at, xmax = 0 AS created

-- name: attributes_by_name
SELECT
    attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value,
    allowed_values, created_at, false AS created
FROM attributes
WHERE tenant_id = %(tenant_id)s AND name = ANY(%(names)s)

-- name: list_attributes
-- A page of the tenant's attributes in the order they were made.
SELECT
    attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value,
    allowed_values, created_at, false AS created
FROM attributes
WHERE tenant_id = %(tenant_id)s AND attribute_id > %(after)s
ORDER BY attribute_id
LIMIT %(row_limit)s

-- name: lock_attributes
-- Changes of one tenant's attributes come one after another: so they stay within their bound, and
-- two that change the same ones cannot deadlock.
SELECT pg_advisory_xact_lock(hashtext('atlas.attributes'), %(tenant_id)s)

-- name: notify_catalog
-- Tells every ingest process, once this transaction commits.
SELECT pg_notify('atlas_catalog', %(tenant_id)s::text)

-- name: count_attributes
SELECT count(*) AS attribute_count
FROM attributes
WHERE tenant_id = %(tenant_id)s

-- name: size_attributes
-- Bytes of what the tenant's definitions say in words.
SELECT
    coalesce(sum(
        octet_length(name) + octet_length(unit) + octet_length(validation_regex)
        + octet_length(array_to_string(allowed_values, ''))
    ), 0)::bigint AS size_bytes
FROM attributes
WHERE tenant_id = %(tenant_id)s

-- name: count_hot_attributes
-- Those that are hot, and those on the way to it.
SELECT a.data_type, count(*) AS attribute_count
FROM attributes AS a
WHERE
    a.tenant_id = %(tenant_id)s AND (a.is_hot OR EXISTS (
        SELECT FROM projected_attributes AS t
        WHERE t.tenant_id = a.tenant_id AND t.attribute_id = a.attribute_id
    ))
GROUP BY a.data_type

-- name: create_tenant
-- Returns nothing if the tenant exists.
INSERT INTO tenants (key, display_name, unknown_attribute_policy, retention_class, late_data_window, quotas)
VALUES (%(key)s, %(display_name)s, %(policy)s, %(retention_class)s, %(late_data_window)s, %(quotas)s::jsonb)
ON CONFLICT (key) DO NOTHING
RETURNING
    tenant_id, key, display_name, unknown_attribute_policy, created_at, retention_class, late_data_window,
    quotas AS stored_quotas

-- name: update_tenant
-- Changes the columns that are named; returns nothing if there is no such tenant.
UPDATE tenants SET
    display_name = CASE WHEN 'display_name' = ANY(%(fields)s) THEN %(display_name)s ELSE display_name END,
    unknown_attribute_policy = CASE
        WHEN 'unknown_attribute_policy' = ANY(%(fields)s) THEN %(policy)s ELSE unknown_attribute_policy
    END,
    retention_class = CASE
        WHEN 'retention_class' = ANY(%(fields)s) THEN %(retention_class)s ELSE retention_class
    END,
    late_data_window = CASE
        WHEN 'late_data_window' = ANY(%(fields)s) THEN %(late_data_window)s::interval ELSE late_data_window
    END,
    quotas = CASE WHEN 'quotas' = ANY(%(fields)s) THEN %(quotas)s::jsonb ELSE quotas END
WHERE key = %(key)s
RETURNING
    tenant_id, key, display_name, unknown_attribute_policy, created_at, retention_class, late_data_window,
    quotas AS stored_quotas

-- name: tenant_by_key
SELECT
    tenant_id, key, display_name, unknown_attribute_policy, created_at, retention_class, late_data_window,
    quotas AS stored_quotas
FROM tenants
WHERE key = %(key)s

-- name: list_tenants
-- A page of the tenants in the order they were made.
SELECT
    tenant_id, key, display_name, unknown_attribute_policy, created_at, retention_class, late_data_window,
    quotas AS stored_quotas
FROM tenants
WHERE tenant_id > %(after)s
ORDER BY tenant_id
LIMIT %(row_limit)s

-- name: retention_classes
SELECT retention_class
FROM retention_classes
ORDER BY retention_class

-- name: tenant_settings
-- What of a tenant decides about its writes.
SELECT
    unknown_attribute_policy,
    (extract(EPOCH FROM late_data_window) * 1000000)::bigint AS late_data_window_us
FROM tenants
WHERE tenant_id = %(tenant_id)s

-- name: stored_request
-- What an earlier call with this request_id was answered, and where it was stored.
SELECT lane, epoch, sequence, body_hash, answer
FROM write_requests
WHERE tenant_id = %(tenant_id)s AND request_id = %(request_id)s

-- name: lock_lane
-- The session lock of a lane's owner.
SELECT pg_try_advisory_lock(lane_lock_class(), %(lane)s)

-- name: evict_lane_owner
-- Ends a session that this process lost sight of, if it still holds the lane.
SELECT pg_terminate_backend(pid)
FROM pg_locks
WHERE
    locktype = 'advisory' AND objsubid = 2 AND granted AND pid = %(pid)s
    AND classid = lane_lock_class() AND objid = %(lane)s

-- name: prepare_lane
-- The first eight digits of the log's current file name its timeline.
SELECT
    epoch, sequence, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline
FROM prepare_lane(%(lane)s::smallint)

-- name: lane_leftovers
SELECT half, sequence
FROM lane_leftovers(%(lane)s::smallint)

-- name: claim_lane
SELECT epoch, sequence
FROM claim_lane(%(lane)s::smallint)

-- name: empty_lane
SELECT empty_lane(%(lane)s::smallint)

-- name: discard_half
SELECT discard_half(%(lane)s::smallint, %(half)s, %(reason)s)

-- name: orphaned_lanes
SELECT lane
FROM orphaned_lanes() AS lane

-- name: position_state
SELECT position_state(%(lane)s::smallint, %(epoch)s, %(sequence)s)

-- name: stage_flush
-- The point of the write path: one half of the lane becomes telemetry, projection and position.
SELECT point_count, duplicates, changed_tenants, changed_entities, changed_versions
FROM stage_flush(%(lane)s::smallint, %(half)s, %(epoch)s, %(sequence)s)

-- name: wal_proof
-- What is in the log by now, and how far the disk has it; in bytes.
SELECT
    pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS written,
    pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint AS flushed

-- name: stored_requests
-- Which of the tenant's requests are stored, with what they were answered.
SELECT request_id, lane, epoch, sequence, body_hash, answer
FROM write_requests
WHERE tenant_id = %(tenant_id)s AND request_id = ANY(%(request_ids)s)

-- name: producer_position
-- How far a producer is stored, and which flush did it.
SELECT sequence, lane, epoch, flush_sequence, stored_at
FROM producer_positions
WHERE tenant_id = %(tenant_id)s AND producer_id = %(producer_id)s

-- name: stored_sequences
-- How far each of the tenant's producers is stored.
SELECT producer_id, sequence, lane, epoch, flush_sequence
FROM producer_positions
WHERE tenant_id = %(tenant_id)s AND producer_id = ANY(%(producer_ids)s)

-- name: stored_offsets
-- How far the partitions of these topics are stored.
SELECT topic, partition, next_offset
FROM source_offsets
WHERE topic = ANY(%(topics)s)

-- name: source_offset
SELECT next_offset
FROM source_offsets
WHERE topic = %(topic)s AND partition = %(partition)s

-- name: staging_status
-- age_seconds: since the lane's last flush, by the database's clock. waits_for: whom its flush waits for.
SELECT
    s.lane, s.owned, s.epoch, s.sequence, s.flushed_at, s.staged_points, s.staged_bytes,
    extract(EPOCH FROM clock_timestamp() - s.flushed_at)::double precision AS age_seconds,
    coalesce(f.waits_for, '') AS waits_for
FROM staging_status() AS s
LEFT JOIN (
    SELECT lane, max(waits_for) AS waits_for
    FROM flushing_lanes()
    GROUP BY lane
) AS f ON s.lane = f.lane

-- name: list_acts
-- A page of the audit log, the newest first: each act with its end, where that was entered. tenant_id 0: the platform's.
SELECT
    b.entry_id AS act_id, b.recorded_at AS begun_at, e.recorded_at AS ended_at, b.actor, b.actor_tenant, b.method,
    b.request_id, b.request, coalesce(e.outcome, '') AS outcome
FROM audit_log AS b
LEFT JOIN audit_log AS e ON e.tenant_id = b.tenant_id AND e.act = b.act AND e.event = 'ended'
WHERE b.tenant_id = %(tenant_id)s AND b.event = 'begun' AND (%(before)s = 0 OR b.entry_id < %(before)s)
ORDER BY b.entry_id DESC
LIMIT %(row_limit)s
