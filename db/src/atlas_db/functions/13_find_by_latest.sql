-- Finding entities by cold attributes that are indexed, mixed with hot ones, a page at a time.
--
-- The whole filter is one jsonpath, as in 09_find.sql, asked of the entity's hot attributes and of what the points say of
-- the cold ones, put together: so it means of a cold attribute what it means of a hot one. Where to look, `ways` says,
-- which the query service makes, the best first: [{"is_ordered": false, "hot": null, "cold": [...]}, ...]. An entity that
-- matches has, of each way, `hot`, a jsonpath that its entity_jsonb.attrs match and the GIN index can look up, or at least
-- one of `cold`:
--   {"attribute": 7, "type": "int", "in": ["1", "2"]}       cold attribute 7 has, or once had, such a value
--   {"attribute": 7, "type": "int", "from": "1", "to": "9"} likewise; an end may be missing, or both
-- What a way finds are candidates: an index of points knows every value there ever was, and texts by their beginning.
-- Whether the latest is one that the filter wants, is looked up.

-- A value as it stands in an index of its type; texts cut, documents as their hash. Raises for what is no type.
CREATE OR REPLACE FUNCTION cold_literal(p_data_type text, value text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = atlas, pg_temp AS $$
BEGIN
    CASE p_data_type
        WHEN 'text' THEN RETURN quote_literal(left(value, 64));
        WHEN 'json' THEN RETURN jsonb_hash(value::jsonb);
        WHEN 'bool' THEN RETURN format('%L::boolean', value);
        WHEN 'int' THEN RETURN format('%L::bigint', value);
        WHEN 'double' THEN RETURN format('%L::double precision', value);
        WHEN 'decimal' THEN RETURN format('%L::numeric', value);
        WHEN 'time' THEN RETURN format('%L::timestamptz', value);
    END CASE;
END
$$;

-- One of `cold` as a condition on entity_values_ts, in the form of its partial indexes.
CREATE OR REPLACE FUNCTION cold_condition(p_tenant integer, alternative jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT cold_index_predicate(p_tenant, (alternative ->> 'attribute')::integer)
        || coalesce(' AND ' || k.key || ' IN (' || (
            SELECT string_agg(cold_literal(k.data_type, w.value), ', ')
            FROM jsonb_array_elements_text(alternative -> 'in') AS w
        ) || ')', '')
        || coalesce(' AND ' || k.key || ' >= ' || cold_literal(k.data_type, alternative ->> 'from'), '')
        || coalesce(' AND ' || k.key || ' <= ' || cold_literal(k.data_type, alternative ->> 'to'), '')
    FROM (SELECT alternative ->> 'type' AS data_type, cold_index_key(alternative ->> 'type') AS key) AS k
$$;

-- The entities with ids above `after` that have or had one of these values, in order; NULL if the indexes know more than
-- `rows_max` points. As atlas_finder, as find_by_index and for the same reason: here it is left(), jsonb_hash() and the
-- operators of numeric. Not one plan for all: the tenant and the attribute must be constants for the partial indexes to be
-- seen. No bitmaps: they would be made of all points before the LIMIT is looked at. And what lies before `after` is counted,
-- too: left out in the scan, it would be read without any bound.
CREATE OR REPLACE FUNCTION cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, rows_max bigint)
RETURNS bigint[] LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp SET timezone = 'UTC'
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    parts text;
    row_count bigint;
    candidates bigint[];
BEGIN
    IF (p_tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::integer) IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is not the transaction''s';
    END IF;
    IF alternatives = '[]' THEN
        RETURN '{}';
    END IF;
    SELECT string_agg(format(
        '(SELECT v.entity_id FROM entity_values_ts AS v WHERE %s LIMIT %s)',
        cold_condition(p_tenant_id, a.value), rows_max + 1), ' UNION ALL ')
    INTO parts FROM jsonb_array_elements(alternatives) AS a;
    EXECUTE format('SELECT count(*), array_agg(DISTINCT c.entity_id ORDER BY c.entity_id) FILTER (WHERE c.entity_id > %s)
        FROM (%s) AS c', after, parts)
    INTO row_count, candidates;
    RETURN CASE WHEN row_count <= rows_max THEN coalesce(candidates, '{}') END;
END
$$;

-- The next `ids_max` of such entities, of nothing but a few equalities: from one entity to the next, however many points of
-- one value each of them has.
CREATE OR REPLACE FUNCTION next_cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, ids_max integer)
RETURNS bigint[] LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp SET timezone = 'UTC'
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    next text;
    candidates bigint[];
BEGIN
    IF (p_tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::integer) IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is not the transaction''s';
    END IF;
    SELECT format('least(%s)', string_agg(format(
        '(SELECT v.entity_id FROM entity_values_ts AS v WHERE %1$s AND %2$s = %3$s AND v.entity_id > s.entity_id'
        ' ORDER BY v.entity_id LIMIT 1)',
        cold_index_predicate(p_tenant_id, (a.value ->> 'attribute')::integer), cold_index_key(a.value ->> 'type'),
        cold_literal(a.value ->> 'type', w.value)), ', '))
    INTO next
    FROM jsonb_array_elements(alternatives) AS a CROSS JOIN LATERAL jsonb_array_elements_text(a.value -> 'in') AS w;
    EXECUTE format('WITH RECURSIVE step (entity_id, place) AS (
            SELECT %s::bigint, 0
            UNION ALL
            SELECT %s, s.place + 1 FROM step AS s WHERE s.entity_id IS NOT NULL AND s.place < %s
        )
        SELECT array_agg(s.entity_id ORDER BY s.place) FROM step AS s WHERE s.place > 0 AND s.entity_id IS NOT NULL',
        after, next, ids_max)
    INTO candidates;
    RETURN coalesce(candidates, '{}');
END
$$;

-- Both, in order, each once; NULL if one is.
CREATE OR REPLACE FUNCTION united(one bigint[], other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN one IS NOT NULL AND other IS NOT NULL
        THEN (SELECT coalesce(array_agg(DISTINCT u.id ORDER BY u.id), '{}') FROM unnest(one || other) AS u (id)) END
$$;

-- The first `page_size` entities that match and have ids above `after`. condition: the whole filter, NULL: every entity
-- matches. hot_condition: what follows from it for hot attributes alone, NULL: nothing. cold: the cold attributes.
--
-- First the few that an index has, if they are few. Else, where a way is of equalities, from candidate to candidate.
-- Else along the entities, in windows; and as long as those do not fill the page, more and more is taken from the indexes.
-- Each statement is bounded but the last window, which a filter without a way has alone: whoever asks sets a
-- statement_timeout.
CREATE OR REPLACE FUNCTION find_by_latest(
    p_tenant_id integer, condition jsonpath, hot_condition jsonpath, documents jsonb, cold integer[], ways jsonb,
    after bigint, page_size integer
) RETURNS SETOF bigint LANGUAGE plpgsql STABLE ROWS 100 SET search_path = atlas, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_memoize = off SET jit = off AS $$
DECLARE
    cold_keys text[] := (SELECT coalesce(array_agg(c::text), '{}') FROM unnest(cold) AS c);
    indexed_max bigint := 4000;
    walked bigint := after;
    walked_max bigint := 2 * page_size;
    window_end bigint := 9223372036854775807;
    missing integer := page_size;
    row_count integer;
    ordered jsonb := (SELECT w.value FROM jsonb_array_elements(ways) AS w WHERE (w.value ->> 'is_ordered')::boolean LIMIT 1);
    way jsonb;
    candidates bigint[];
    is_complete boolean;
BEGIN
    LOOP
        candidates := NULL;
        FOR way IN SELECT w.value FROM jsonb_array_elements(ways) AS w LOOP
            candidates := cold_candidates(p_tenant_id, way -> 'cold', walked, indexed_max);
            IF candidates IS NOT NULL AND way ->> 'hot' IS NOT NULL THEN
                candidates := united(candidates,
                    find_by_index(p_tenant_id, NULL, (way ->> 'hot')::jsonpath, NULL, walked, indexed_max));
            END IF;
            EXIT WHEN candidates IS NOT NULL;
        END LOOP;
        is_complete := candidates IS NOT NULL;
        IF candidates IS NULL AND ordered IS NOT NULL THEN
            candidates := next_cold_candidates(p_tenant_id, ordered -> 'cold', walked, 2 * page_size);
        END IF;
        IF candidates IS NULL AND ways <> '[]' THEN
            SELECT k.entity_id INTO window_end FROM entities AS k
            WHERE k.tenant_id = p_tenant_id AND k.entity_id > walked
            ORDER BY k.entity_id OFFSET walked_max - 1 LIMIT 1;
            window_end := coalesce(window_end, 9223372036854775807);
        END IF;
        -- The same twice, but for where the entities come from: one statement would have one plan for both.
        IF candidates IS NOT NULL THEN
            RETURN QUERY
            SELECT m.entity_id FROM (
                SELECT c.entity_id, h.attrs
                FROM unnest(candidates) WITH ORDINALITY AS c (entity_id, place)
                LEFT JOIN LATERAL (
                    SELECT e.attrs FROM entity_jsonb AS e
                    WHERE e.tenant_id = p_tenant_id AND e.entity_id = c.entity_id LIMIT 1
                ) AS h ON true
                WHERE hot_condition IS NULL OR filter_matches(coalesce(h.attrs, '{}'), hot_condition, documents)
                ORDER BY c.place OFFSET 0
            ) AS m
            CROSS JOIN LATERAL (
                SELECT coalesce(jsonb_object_agg(c.attribute_id, p.value), '{}') AS attrs
                FROM unnest(cold) AS c (attribute_id)
                CROSS JOIN LATERAL latest_point(p_tenant_id, m.entity_id, c.attribute_id) AS p
            ) AS l
            WHERE condition IS NULL
                OR filter_matches((coalesce(m.attrs, '{}') - cold_keys) || l.attrs, condition, documents)
            LIMIT missing;
        ELSE
            RETURN QUERY
            SELECT m.entity_id FROM (
                SELECT k.entity_id, h.attrs
                FROM entities AS k
                LEFT JOIN LATERAL (
                    SELECT e.attrs FROM entity_jsonb AS e
                    WHERE e.tenant_id = k.tenant_id AND e.entity_id = k.entity_id LIMIT 1
                ) AS h ON true
                WHERE k.tenant_id = p_tenant_id AND k.entity_id > walked AND k.entity_id <= window_end
                    AND (hot_condition IS NULL OR filter_matches(coalesce(h.attrs, '{}'), hot_condition, documents))
                ORDER BY k.entity_id OFFSET 0
            ) AS m
            CROSS JOIN LATERAL (
                SELECT coalesce(jsonb_object_agg(c.attribute_id, p.value), '{}') AS attrs
                FROM unnest(cold) AS c (attribute_id)
                CROSS JOIN LATERAL latest_point(p_tenant_id, m.entity_id, c.attribute_id) AS p
            ) AS l
            WHERE condition IS NULL
                OR filter_matches((coalesce(m.attrs, '{}') - cold_keys) || l.attrs, condition, documents)
            LIMIT missing;
        END IF;
        GET DIAGNOSTICS row_count = ROW_COUNT;
        missing := missing - row_count;
        EXIT WHEN missing <= 0;
        IF candidates IS NULL THEN
            EXIT WHEN window_end = 9223372036854775807;
            walked := window_end;
            walked_max := 2 * walked_max;
            indexed_max := 2 * indexed_max;
        ELSE
            EXIT WHEN is_complete OR cardinality(candidates) < 2 * page_size;
            walked := candidates[cardinality(candidates)];
        END IF;
    END LOOP;
END
$$;
