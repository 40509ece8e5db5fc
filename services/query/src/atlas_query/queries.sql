-- The query service's SQL. Values come as seven columns in the order of atlas_common.values.DataType; a time
-- is its microseconds since the epoch, a JSON value its text.

-- name: server_look
-- Who a server is (its cluster, the timeline that it writes, if it does, and since when it runs), its clock, and as
-- tier_progress.
SELECT
    c.system_identifier, written_timeline() AS timeline,
    pg_postmaster_start_time() AS started_at, clock_timestamp() AS now,
    h.beat_id, h.beaten_at, p.lanes, p.epochs, p.sequences
FROM pg_control_system() AS c
LEFT JOIN replication_heartbeat AS h ON h.id = 1
CROSS JOIN (
    SELECT
        coalesce(array_agg(f.lane ORDER BY f.lane), '{}') AS lanes,
        coalesce(array_agg(f.epoch ORDER BY f.lane), '{}') AS epochs,
        coalesce(array_agg(f.sequence ORDER BY f.lane), '{}') AS sequences
    FROM flush_positions AS f
) AS p;

-- name: tier_progress
-- The newest heartbeat a replica has replayed, and how far each lane is flushed there.
SELECT
    h.beat_id, h.beaten_at,
    coalesce(array_agg(f.lane ORDER BY f.lane) FILTER (WHERE f.lane IS NOT NULL), '{}') AS lanes,
    coalesce(array_agg(f.epoch ORDER BY f.lane) FILTER (WHERE f.lane IS NOT NULL), '{}') AS epochs,
    coalesce(array_agg(f.sequence ORDER BY f.lane) FILTER (WHERE f.lane IS NOT NULL), '{}') AS sequences
FROM replication_heartbeat AS h
LEFT JOIN flush_positions AS f ON true
WHERE h.id = 1
GROUP BY h.beat_id, h.beaten_at;

-- name: hot_values
-- The projection of entities, values as JSON texts; attribute_ids NULL: of all that is hot. What is hot, this
-- snapshot says: a catalog that is remembered, or was read elsewhere, may be ahead of it (a replica that lacks the
-- last of what a promotion filled in) or behind (an attribute that was demoted). Rows without an entity name
-- the attributes asked for that are not hot here.
(
    SELECT
        NULL::bigint AS entity_id,
        w.attribute_id,
        NULL AS value,
        NULL::bigint AS event_us
    FROM unnest(%(attribute_ids)s::integer[]) AS w (attribute_id)
    WHERE NOT EXISTS (
        SELECT FROM attributes AS d
        WHERE d.tenant_id = %(tenant_id)s AND d.attribute_id = w.attribute_id AND d.is_hot
    )
)
UNION ALL
(
    SELECT
        e.entity_id,
        a.key::integer AS attribute_id,
        a.value::text AS value,
        (e.attr_times ->> a.key)::bigint AS event_us
    FROM entity_jsonb AS e
    CROSS JOIN LATERAL jsonb_each(e.attrs) AS a
    INNER JOIN attributes AS d
        ON d.tenant_id = e.tenant_id AND d.attribute_id = a.key::integer AND d.is_hot
    WHERE e.tenant_id = %(tenant_id)s
        AND e.entity_id = ANY(%(entity_ids)s)
        AND (%(attribute_ids)s::integer[] IS NULL OR a.key::integer = ANY(%(attribute_ids)s))
    LIMIT %(rows_max)s
);

-- name: latest_values
-- The newest point of each of these attributes of each of these entities: one index descent per pair and
-- partition. Of points of one event time the one that came last.
SELECT
    e.entity_id, a.attribute_id,
    v.event_us, v.quality,
    v.value_bool, v.value_int, v.value_double, v.value_decimal, v.value_text, v.value_time_us, v.value_json
FROM unnest(%(entity_ids)s::bigint[]) AS e (entity_id)
CROSS JOIN unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
CROSS JOIN LATERAL (
    SELECT
        (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us, p.quality,
        p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text,
        (extract(epoch FROM p.value_time) * 1000000)::bigint AS value_time_us, p.value_json::text
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = e.entity_id AND p.attribute_id = a.attribute_id
    ORDER BY p.event_time DESC, p.ingested_at DESC, p.ctid DESC
    LIMIT 1
) AS v
LIMIT %(rows_max)s;

-- name: latest_of_all
-- The newest point of every attribute that these entities have. Which they have is found by hopping
-- through the index from one attribute to the next, not by asking for each of the tenant's attributes.
WITH RECURSIVE held AS (
    SELECT e.entity_id, (
        SELECT min(p.attribute_id) FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = e.entity_id
    ) AS attribute_id
    FROM unnest(%(entity_ids)s::bigint[]) AS e (entity_id)
    UNION ALL
    SELECT h.entity_id, (
        SELECT min(p.attribute_id) FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = h.entity_id AND p.attribute_id > h.attribute_id
    ) AS attribute_id
    FROM held AS h
    WHERE h.attribute_id IS NOT NULL
)
SELECT
    h.entity_id, h.attribute_id,
    v.event_us, v.quality,
    v.value_bool, v.value_int, v.value_double, v.value_decimal, v.value_text, v.value_time_us, v.value_json
FROM held AS h
CROSS JOIN LATERAL (
    SELECT
        (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us, p.quality,
        p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text,
        (extract(epoch FROM p.value_time) * 1000000)::bigint AS value_time_us, p.value_json::text
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = h.entity_id AND p.attribute_id = h.attribute_id
    ORDER BY p.event_time DESC, p.ingested_at DESC, p.ctid DESC
    LIMIT 1
) AS v
WHERE h.attribute_id IS NOT NULL
LIMIT %(rows_max)s;

-- name: find_entities
-- One page of the entities that match, by entity id; how the filter is told, see 09_find.sql in db. Rows without an
-- entity: an attribute of the filter that is not hot in this snapshot (see hot_values), by id.
WITH found AS MATERIALIZED (
    SELECT f.entity_id
    FROM find_entities(
        %(tenant_id)s, %(condition)s::jsonpath, %(narrowing)s::jsonpath, %(documents)s::jsonb,
        %(matches_empty)s, %(after)s, %(page_size)s
    ) AS f (entity_id)
)
SELECT f.entity_id, k.key
FROM found AS f
CROSS JOIN LATERAL (
    -- LIMIT: looked up one by one, by the key. A join might read all entities.
    SELECT e.key FROM entities AS e WHERE e.tenant_id = %(tenant_id)s AND e.entity_id = f.entity_id LIMIT 1
) AS k
UNION ALL
SELECT NULL::bigint AS entity_id, w.attribute_id::text AS key
FROM unnest(%(attribute_ids)s::integer[]) AS w (attribute_id)
WHERE NOT EXISTS (
    SELECT FROM attributes AS d
    WHERE d.tenant_id = %(tenant_id)s AND d.attribute_id = w.attribute_id AND d.is_hot
);

-- name: find_by_latest
-- The same for a filter over cold attributes that are indexed, and hot ones; see 13_find_by_latest.sql in db. Rows without an
-- entity: an attribute that is not hot in this snapshot, or one whose index is not ready there.
WITH found AS MATERIALIZED (
    SELECT f.entity_id
    FROM find_by_latest(
        %(tenant_id)s, %(condition)s::jsonpath, %(hot_condition)s::jsonpath, %(documents)s::jsonb,
        %(cold_ids)s::integer[], %(ways)s::jsonb, %(after)s, %(page_size)s
    ) AS f (entity_id)
    WHERE NOT EXISTS ( -- Without its index, an attribute would be looked for everywhere.
        SELECT FROM unnest(%(cold_ids)s::integer[]) AS w (attribute_id)
        WHERE NOT EXISTS (
            SELECT FROM attribute_indexes AS x
            WHERE x.tenant_id = %(tenant_id)s AND x.attribute_id = w.attribute_id AND x.state = 'ready'
        )
    )
)
SELECT f.entity_id, k.key
FROM found AS f
CROSS JOIN LATERAL (
    SELECT e.key FROM entities AS e WHERE e.tenant_id = %(tenant_id)s AND e.entity_id = f.entity_id LIMIT 1
) AS k
UNION ALL
SELECT NULL::bigint AS entity_id, w.attribute_id::text AS key
FROM unnest(%(attribute_ids)s::integer[]) AS w (attribute_id)
WHERE NOT EXISTS (
    SELECT FROM attributes AS d
    WHERE d.tenant_id = %(tenant_id)s AND d.attribute_id = w.attribute_id AND d.is_hot
) AND w.attribute_id <> ALL(%(cold_ids)s::integer[])
UNION ALL
SELECT NULL::bigint AS entity_id, w.attribute_id::text AS key
FROM unnest(%(cold_ids)s::integer[]) AS w (attribute_id)
WHERE NOT EXISTS (
    SELECT FROM attribute_indexes AS x
    WHERE x.tenant_id = %(tenant_id)s AND x.attribute_id = w.attribute_id AND x.state = 'ready'
);

-- name: history
-- A slice of the points of one entity, oldest first; of one event time by attribute, then as they came. Asked for by
-- attribute, since the index has them in order of time within an attribute only, and a slice at a time: of a long
-- range in one statement, all is read and sorted before the first row comes. OFFSET 0 keeps the join a look-up.
SELECT v.attribute_id, v.event_us, v.quality,
    v.value_bool, v.value_int, v.value_double, v.value_decimal, v.value_text, v.value_time_us, v.value_json
FROM unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
CROSS JOIN LATERAL (
    SELECT
        p.attribute_id, p.event_time, p.ingested_at, p.ctid AS place,
        (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us, p.quality,
        p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text,
        (extract(epoch FROM p.value_time) * 1000000)::bigint AS value_time_us, p.value_json::text AS value_json
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id = a.attribute_id
        AND p.event_time >= %(start_time)s AND p.event_time < %(end_time)s
    OFFSET 0
) AS v
ORDER BY v.event_time, v.attribute_id, v.ingested_at, v.place
LIMIT %(rows_max)s;

-- Downsampled history ---------------------------------------------------------------------------

-- name: held_attributes
-- The attributes that an entity has points of, by hopping through the index.
WITH RECURSIVE held AS (
    SELECT (
        SELECT min(p.attribute_id) FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s
    ) AS attribute_id
    UNION ALL
    SELECT (
        SELECT min(p.attribute_id) FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id > h.attribute_id
    ) AS attribute_id
    FROM held AS h
    WHERE h.attribute_id IS NOT NULL
)
SELECT h.attribute_id FROM held AS h WHERE h.attribute_id IS NOT NULL;

-- name: next_points
-- The first event time of these attributes in a range, and the one at which the first of them has had so many points
-- (NULL: none has so many). As many index entries are read of each, and one descent for each partition.
SELECT
    (extract(epoch FROM min(v.first_time)) * 1000000)::bigint AS first_us,
    (extract(epoch FROM min(v.full_time)) * 1000000)::bigint AS full_us
FROM unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
CROSS JOIN LATERAL (
    SELECT
        min(n.event_time) AS first_time,
        CASE WHEN count(*) = %(points)s THEN max(n.event_time) END AS full_time
    FROM (
        SELECT p.event_time
        FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id = a.attribute_id
            AND p.event_time >= %(start_time)s AND p.event_time < %(end_time)s
        ORDER BY p.event_time
        LIMIT %(points)s
    ) AS n
) AS v;

-- name: bucket_stats
-- Counts, extremes and sums of buckets, oldest first. The origin is the beginning of a bucket, not after start_time:
-- date_bin() of some releases is wrong before its origin. avg() is not asked: of doubles beyond 1e154 it raises, since
-- it keeps squares; their sum would overflow, too, so great ones are scaled down. OFFSET 0 keeps the join a look-up.
SELECT
    b.attribute_id,
    (extract(epoch FROM b.bucket_time) * 1000000)::bigint AS bucket_us,
    b.points, b.min_int, b.max_int, b.sum_int, b.min_double, b.max_double, b.sum_double,
    b.min_decimal, b.max_decimal, b.sum_decimal, b.big_double
FROM (
    SELECT
        v.attribute_id, v.bucket_time, count(*) AS points,
        min(v.value_int) AS min_int, max(v.value_int) AS max_int, sum(v.value_int) AS sum_int,
        min(v.value_double) AS min_double, max(v.value_double) AS max_double,
        sum(v.value_double) FILTER (WHERE NOT v.is_big) AS sum_double,
        min(v.value_decimal) AS min_decimal, max(v.value_decimal) AS max_decimal,
        sum(v.value_decimal) AS sum_decimal,
        sum(v.value_double * 5.9604644775390625e-08) FILTER (WHERE v.is_big) AS big_double
    FROM unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
    CROSS JOIN LATERAL (
        SELECT
            p.attribute_id, date_bin(%(bucket)s::interval, p.event_time, %(origin)s::timestamptz) AS bucket_time,
            p.value_int, p.value_double, p.value_decimal,
            abs(p.value_double) BETWEEN 1e284::float8 AND 1.7976931348623157e308::float8 AS is_big
        FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id = a.attribute_id
            AND p.event_time >= %(start_time)s AND p.event_time < %(end_time)s
        OFFSET 0
    ) AS v
    GROUP BY v.attribute_id, v.bucket_time
    ORDER BY v.bucket_time, v.attribute_id
    LIMIT %(rows_max)s
) AS b
ORDER BY b.bucket_time, b.attribute_id;

-- name: bucket_firsts
-- The first point of each bucket, in the order of bucket_stats.
SELECT
    b.attribute_id, (extract(epoch FROM b.bucket_time) * 1000000)::bigint AS bucket_us, b.quality,
    b.value_bool, b.value_int, b.value_double, b.value_decimal, b.value_text,
    (extract(epoch FROM b.value_time) * 1000000)::bigint AS value_time_us, b.value_json::text
FROM (
    SELECT DISTINCT ON (v.bucket_time, v.attribute_id) v.*
    FROM unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
    CROSS JOIN LATERAL (
        SELECT
            date_bin(%(bucket)s::interval, p.event_time, %(origin)s::timestamptz) AS bucket_time,
            p.attribute_id, p.event_time, p.ingested_at, p.ctid AS place, p.quality,
            p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text, p.value_time, p.value_json
        FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id = a.attribute_id
            AND p.event_time >= %(start_time)s AND p.event_time < %(end_time)s
        OFFSET 0
    ) AS v
    ORDER BY v.bucket_time, v.attribute_id, v.event_time, v.ingested_at, v.place
    LIMIT %(rows_max)s
) AS b
ORDER BY b.bucket_time, b.attribute_id;

-- name: bucket_lasts
-- The last point of each bucket, in the order of bucket_stats.
SELECT
    b.attribute_id, (extract(epoch FROM b.bucket_time) * 1000000)::bigint AS bucket_us, b.quality,
    b.value_bool, b.value_int, b.value_double, b.value_decimal, b.value_text,
    (extract(epoch FROM b.value_time) * 1000000)::bigint AS value_time_us, b.value_json::text
FROM (
    SELECT DISTINCT ON (v.bucket_time, v.attribute_id) v.*
    FROM unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
    CROSS JOIN LATERAL (
        SELECT
            date_bin(%(bucket)s::interval, p.event_time, %(origin)s::timestamptz) AS bucket_time,
            p.attribute_id, p.event_time, p.ingested_at, p.ctid AS place, p.quality,
            p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text, p.value_time, p.value_json
        FROM entity_values_ts AS p
        WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id = a.attribute_id
            AND p.event_time >= %(start_time)s AND p.event_time < %(end_time)s
        OFFSET 0
    ) AS v
    ORDER BY v.bucket_time, v.attribute_id, v.event_time DESC, v.ingested_at DESC, v.place DESC
    LIMIT %(rows_max)s
) AS b
ORDER BY b.bucket_time, b.attribute_id;

-- Where the tiers stand ---------------------------------------------------------------------------

-- name: flushes_under_way
-- The clock, then who holds the flush lock. In a statement before primary_positions: see standings.py.
SELECT c.now, flushes_in_flight() AS flights FROM (SELECT clock_timestamp() AS now OFFSET 0) AS c;

-- name: primary_positions
-- How far each lane is flushed.
SELECT f.lane, f.epoch, f.sequence FROM flush_positions AS f ORDER BY f.lane;

-- name: worst_position_state
-- Where this server stands to positions: lost if one is, else pending if one is, else reached.
SELECT coalesce(min(s.state), 'reached') AS state
FROM unnest(%(lanes)s::smallint[], %(epochs)s::bigint[], %(sequences)s::bigint[]) AS w (lane, epoch, sequence)
CROSS JOIN LATERAL (SELECT position_state(w.lane, w.epoch, w.sequence) AS state) AS s;

-- Watching --------------------------------------------------------------------------------------

-- name: watch_changes
-- The points that outrank what is known of each attribute of an entity, stamped at the floor or later: one index
-- descent per pair and partition that the floor leaves. OFFSET 0 keeps the join a look-up.
SELECT v.entity_id, v.attribute_id, v.event_us, v.stamped_us, v.place, v.quality,
    v.value_bool, v.value_int, v.value_double, v.value_decimal, v.value_text, v.value_time_us, v.value_json
FROM unnest(
    %(entity_ids)s::bigint[], %(attribute_ids)s::integer[],
    %(event_times)s::timestamptz[], %(stamps)s::timestamptz[], %(places)s::tid[]
) AS k (entity_id, attribute_id, event_time, stamp, place)
CROSS JOIN LATERAL (
    SELECT
        p.entity_id, p.attribute_id,
        (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us,
        (extract(epoch FROM p.ingested_at) * 1000000)::bigint AS stamped_us, p.ctid::text AS place, p.quality,
        p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text,
        (extract(epoch FROM p.value_time) * 1000000)::bigint AS value_time_us, p.value_json::text AS value_json
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = k.entity_id AND p.attribute_id = k.attribute_id
        AND p.event_time >= k.event_time
        AND (p.event_time, p.ingested_at, p.ctid) > (k.event_time, k.stamp, k.place)
        AND p.ingested_at >= %(floor)s
    OFFSET 0
) AS v
LIMIT %(rows_max)s;

-- name: watch_latest
-- The newest point of each attribute of an entity, as in latest_values, with its rank.
SELECT v.entity_id, v.attribute_id, v.event_us, v.stamped_us, v.place, v.quality,
    v.value_bool, v.value_int, v.value_double, v.value_decimal, v.value_text, v.value_time_us, v.value_json
FROM unnest(%(entity_ids)s::bigint[], %(attribute_ids)s::integer[]) AS k (entity_id, attribute_id)
CROSS JOIN LATERAL (
    SELECT
        p.entity_id, p.attribute_id,
        (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us,
        (extract(epoch FROM p.ingested_at) * 1000000)::bigint AS stamped_us, p.ctid::text AS place, p.quality,
        p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text,
        (extract(epoch FROM p.value_time) * 1000000)::bigint AS value_time_us, p.value_json::text AS value_json
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = k.entity_id AND p.attribute_id = k.attribute_id
    ORDER BY p.event_time DESC, p.ingested_at DESC, p.ctid DESC
    LIMIT 1
) AS v;

-- name: watch_ranks_before
-- The rank of what was the newest point of each, by those that were stamped before the floor.
SELECT k.entity_id, k.attribute_id, v.event_us, v.stamped_us, v.place
FROM unnest(%(entity_ids)s::bigint[], %(attribute_ids)s::integer[]) AS k (entity_id, attribute_id)
CROSS JOIN LATERAL (
    SELECT
        (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us,
        (extract(epoch FROM p.ingested_at) * 1000000)::bigint AS stamped_us, p.ctid::text AS place
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = k.entity_id AND p.attribute_id = k.attribute_id
        AND p.ingested_at < %(floor)s
    ORDER BY p.event_time DESC, p.ingested_at DESC, p.ctid DESC
    LIMIT 1
) AS v;

-- name: record_access
-- Adds what was asked for, of all tenants at once: the function runs as one who may, and answers nothing.
SELECT record_attribute_access(
    %(tenant_ids)s::integer [], %(names)s::text [], %(reads)s::bigint [], %(filters)s::bigint []
)
