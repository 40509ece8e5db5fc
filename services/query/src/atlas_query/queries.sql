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
-- The projection of entities, values as JSON texts; attribute_ids NULL: all of it.
SELECT
    e.entity_id,
    a.key::integer AS attribute_id,
    a.value::text AS value,
    (e.attr_times ->> a.key)::bigint AS event_us
FROM entity_jsonb AS e
CROSS JOIN LATERAL jsonb_each(e.attrs) AS a
WHERE e.tenant_id = %(tenant_id)s
    AND e.entity_id = ANY(%(entity_ids)s)
    AND (%(attribute_ids)s::integer[] IS NULL OR a.key::integer = ANY(%(attribute_ids)s))
LIMIT %(rows_max)s;

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
-- One page of the entities whose projection matches, by entity id. `exact` holds what must be equal and
-- not only contained: a JSON document contains more than itself.
SELECT e.entity_id, k.key
FROM entity_jsonb AS e
INNER JOIN entities AS k ON k.tenant_id = e.tenant_id AND k.entity_id = e.entity_id
WHERE e.tenant_id = %(tenant_id)s
    AND e.entity_id > %(after)s
    AND e.attrs @> %(containment)s::jsonb
    AND NOT EXISTS (
        SELECT FROM jsonb_each(%(exact)s::jsonb) AS x WHERE e.attrs -> x.key IS DISTINCT FROM x.value
    )
ORDER BY e.entity_id
LIMIT %(page_size)s;

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

-- Histories in slices -----------------------------------------------------------------------------

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

-- name: next_event
-- The first event time of these attributes from start_time on: one index descent for each, and partition.
SELECT (extract(epoch FROM min(v.event_time)) * 1000000)::bigint AS event_us
FROM unnest(%(attribute_ids)s::integer[]) AS a (attribute_id)
CROSS JOIN LATERAL (
    SELECT p.event_time
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = %(entity_id)s AND p.attribute_id = a.attribute_id
        AND p.event_time >= %(start_time)s
    ORDER BY p.event_time
    LIMIT 1
) AS v;

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
