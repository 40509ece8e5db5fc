-- The query service's SQL. Values come as seven columns in the order of atlas_common.values.DataType; a time
-- is its microseconds since the epoch, a JSON value its text.

-- name: held_positions
-- How far each lane is flushed in this snapshot; and the transaction's beginning by the server's clock.
SELECT
    transaction_timestamp() AS begun_at,
    coalesce(array_agg(f.lane ORDER BY f.lane), '{}') AS lanes,
    coalesce(array_agg(f.epoch ORDER BY f.lane), '{}') AS epochs,
    coalesce(array_agg(f.sequence ORDER BY f.lane), '{}') AS sequences
FROM flush_positions AS f;

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

-- name: history
-- The points of one entity in a half-open range of event time, oldest first; of one event time by
-- attribute, then as they came. attribute_ids NULL: all.
SELECT
    p.attribute_id,
    (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us, p.quality,
    p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text,
    (extract(epoch FROM p.value_time) * 1000000)::bigint AS value_time_us, p.value_json::text
FROM entity_values_ts AS p
WHERE p.tenant_id = %(tenant_id)s
    AND p.entity_id = %(entity_id)s
    AND (%(attribute_ids)s::integer[] IS NULL OR p.attribute_id = ANY(%(attribute_ids)s))
    AND p.event_time >= %(start_time)s
    AND p.event_time < %(end_time)s
ORDER BY p.event_time, p.attribute_id, p.ingested_at, p.ctid
LIMIT %(rows_max)s;
