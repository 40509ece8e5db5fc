-- The projection of hot attributes into entity_jsonb.

-- The JSON form of a point's value. A double that JSON cannot hold is its name as a string: the attribute's
-- type says how to read it back. A time is its microseconds since the epoch. STABLE, as what it calls: then it is
-- inlined, which a function called for every hot point had better be.
CREATE OR REPLACE FUNCTION hot_value(
    value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric,
    value_text text, value_time timestamptz, value_json jsonb
) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN value_double IN ('NaN', 'Infinity', '-Infinity') THEN to_jsonb(value_double::text)
        WHEN value_double IS NOT NULL THEN to_jsonb(value_double)
        WHEN value_int IS NOT NULL THEN to_jsonb(value_int)
        WHEN value_bool IS NOT NULL THEN to_jsonb(value_bool)
        WHEN value_text IS NOT NULL THEN to_jsonb(value_text)
        WHEN value_decimal IS NOT NULL THEN to_jsonb(trim_scale(value_decimal))
        WHEN value_time IS NOT NULL THEN to_jsonb((extract(epoch FROM value_time) * 1000000)::bigint)
        ELSE value_json
    END
$$;

-- Takes a half lane's points of hot attributes into entity_jsonb; answers the rows it changed. Attributes that are on
-- their way into the projection or out of it are taken as well: see projected_attributes. One statement reads both
-- tables, so an attribute that moves from one to the other in one transaction is never missed.
-- Per attribute the newest event time wins; of equal ones, the one that came last. Rows are locked in the
-- order of the primary key, so flushes of several lanes cannot deadlock on them.
CREATE OR REPLACE FUNCTION upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamptz)
RETURNS TABLE (tenant_id integer, entity_id bigint, version bigint)
LANGUAGE plpgsql SET search_path = atlas, pg_temp
-- Staging has no statistics. The few hot attributes are hashed, and only their points sorted.
SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY EXECUTE format($sql$
        WITH used AS MATERIALIZED (
            SELECT DISTINCT p.tenant_id, p.attribute_id FROM %1$s AS p
        ), hot AS MATERIALIZED (
            -- LIMIT: looked up one by one, by the key. A join might read the catalog of all tenants.
            SELECT u.tenant_id, u.attribute_id FROM used AS u CROSS JOIN LATERAL (
                SELECT a.is_hot FROM attributes AS a
                WHERE a.tenant_id = u.tenant_id AND a.attribute_id = u.attribute_id LIMIT 1
            ) AS a
            WHERE a.is_hot
            UNION
            -- A few rows at most, of all tenants.
            SELECT u.tenant_id, u.attribute_id FROM used AS u
            JOIN projected_attributes AS t ON t.tenant_id = u.tenant_id AND t.attribute_id = u.attribute_id
        ), latest AS (
            -- ctid is the order of arrival: a half is filled from empty by one COPY after another.
            SELECT DISTINCT ON (p.tenant_id, p.entity_id, p.attribute_id)
                p.tenant_id, p.entity_id, p.attribute_id,
                (extract(epoch FROM p.event_time) * 1000000)::bigint AS event_us,
                hot_value(p.value_bool, p.value_int, p.value_double, p.value_decimal,
                          p.value_text, p.value_time, p.value_json) AS value
            FROM %1$s AS p
            JOIN hot AS h ON h.tenant_id = p.tenant_id AND h.attribute_id = p.attribute_id
            WHERE p.batch_no <> ALL ($1)
            ORDER BY p.tenant_id, p.entity_id, p.attribute_id, p.event_time DESC, p.ctid DESC
        )
        INSERT INTO entity_jsonb AS e (tenant_id, entity_id, version, attrs, attr_times)
        SELECT l.tenant_id, l.entity_id, $2,
            jsonb_object_agg(l.attribute_id, l.value), jsonb_object_agg(l.attribute_id, l.event_us)
        FROM latest AS l
        GROUP BY l.tenant_id, l.entity_id
        ORDER BY l.tenant_id, l.entity_id
        ON CONFLICT (tenant_id, entity_id) DO UPDATE SET
            version = greatest(e.version + 1, excluded.version),
            (attrs, attr_times) = (
                -- Nearly always everything is newer: then nothing has to be taken apart.
                SELECT
                    CASE WHEN late.some THEN (
                        SELECT e.attrs || jsonb_object_agg(n.key, excluded.attrs -> n.key)
                        FROM jsonb_each(excluded.attr_times) AS n
                        WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
                    ) ELSE e.attrs || excluded.attrs END,
                    CASE WHEN late.some THEN (
                        SELECT e.attr_times || jsonb_object_agg(n.key, n.value)
                        FROM jsonb_each(excluded.attr_times) AS n
                        WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
                    ) ELSE e.attr_times || excluded.attr_times END
                FROM (
                    SELECT EXISTS (
                        SELECT FROM jsonb_each(excluded.attr_times) AS n
                        WHERE n.value::bigint < (e.attr_times ->> n.key)::bigint
                    ) AS some OFFSET 0
                ) AS late
            )
        WHERE EXISTS (
            SELECT FROM jsonb_each(excluded.attr_times) AS n
            WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
        )
        RETURNING e.tenant_id, e.entity_id, e.version
        $sql$, points)
    USING skip_batches, (extract(epoch FROM flushed_at) * 1000000)::bigint;
END
$$;
