-- Finding entities by their hot attributes, a page at a time.
--
-- A filter comes as jsonpaths over entity_jsonb.attrs, which the query service makes:
--   narrowing   what follows from the filter and the GIN index can look up; NULL: nothing does.
--   condition   the whole filter; NULL: narrowing is the whole, and if that is NULL too, every entity matches.
--               Documents, which jsonpath cannot compare, it asks for as `$."=n"`: whether the n-th pair of
--               `documents`, [[attribute_id, document], ...], is equal.
--
-- Few matches are found by the index, many by walking along the primary key until the page is full. How many there
-- are, the planner cannot know of jsonpaths. So find_entities() tries both in turns, each turn with a larger bound, and
-- each statement is left one way to go: what is read is at most a few times what the better of the two ways reads.

-- {"=1": whether the first attribute equals the first document, ...}
CREATE OR REPLACE FUNCTION document_equalities(attrs jsonb, documents jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT jsonb_object_agg('=' || d.ordinality, coalesce(attrs -> (d.value ->> 0) = d.value -> 1, false))
    FROM jsonb_array_elements(documents) WITH ORDINALITY AS d
$$;

-- Whether attributes match. Inlined, as long as it has no subquery.
CREATE OR REPLACE FUNCTION filter_matches(attrs jsonb, condition jsonpath, documents jsonb) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT jsonb_path_match(
        CASE WHEN documents IS NULL THEN attrs ELSE attrs || document_equalities(attrs, documents) END, condition)
$$;

-- The entities that match, in order, those with ids above `after`; NULL if the index knows more than `rows_max` rows.
-- As atlas_finder, whom row-level security lets see all rows: for anyone else Postgres does not ask the index, since
-- `@@` might tell of the rows that it is called with. So the tenant is compared here with the transaction's.
CREATE OR REPLACE FUNCTION find_by_index(
    p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, after bigint, rows_max bigint
) RETURNS bigint[] LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = on SET jit = off AS $$
DECLARE
    row_count bigint;
    matching bigint[];
BEGIN
    IF (p_tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::integer) IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is not the transaction''s';
    END IF;
    SELECT count(*), array_agg(c.entity_id ORDER BY c.entity_id) FILTER (WHERE c.is_match)
    INTO row_count, matching
    FROM (
        SELECT r.entity_id, r.tenant_id = p_tenant_id AND r.entity_id > after
            AND (condition IS NULL OR filter_matches(r.attrs, condition, documents)) AS is_match
        FROM (
            -- Alone, behind its LIMIT: so the tenant's primary key is no way to these rows.
            SELECT e.tenant_id, e.entity_id, e.attrs FROM entity_jsonb AS e WHERE e.attrs @@ narrowing LIMIT rows_max + 1
        ) AS r
        OFFSET 0 -- Attributes are done with before the ids are sorted.
    ) AS c;
    RETURN CASE WHEN row_count <= rows_max THEN coalesce(matching, '{}') END;
END
$$;

-- The first `page_size` entities that match and have ids above `after`. `matches_empty`: an entity without any hot
-- value matches; such entities may have no row in entity_jsonb.
CREATE OR REPLACE FUNCTION find_entities(
    p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, matches_empty boolean,
    after bigint, page_size integer
) RETURNS SETOF bigint LANGUAGE plpgsql STABLE ROWS 100 SET search_path = atlas, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    whole jsonpath := coalesce(condition, narrowing);
    indexed_max bigint := 1000;
    -- Most of what is asked matches little or nearly all: a short walk first, which fills a page of the latter.
    walked_max bigint := 2 * page_size;
    walked bigint := after;
    walked_count bigint := 0;
    -- A plain variable in the statements: anything more, a coalesce() say, is not leakproof, and then no index condition.
    window_end bigint := 9223372036854775807;
    missing integer := page_size;
    row_count integer;
    matching bigint[];
BEGIN
    IF matches_empty THEN
        RETURN QUERY
        SELECT k.entity_id
        FROM entities AS k
        LEFT JOIN LATERAL (
            -- LIMIT: looked up one by one, by the key, until the page is full.
            SELECT e.attrs FROM entity_jsonb AS e WHERE e.tenant_id = k.tenant_id AND e.entity_id = k.entity_id LIMIT 1
        ) AS e ON true
        WHERE k.tenant_id = p_tenant_id AND k.entity_id > after
            AND (whole IS NULL OR filter_matches(coalesce(e.attrs, '{}'), whole, documents))
        ORDER BY k.entity_id LIMIT page_size;
        RETURN;
    END IF;
    LOOP
        IF narrowing IS NOT NULL THEN
            SELECT e.entity_id INTO window_end FROM entity_jsonb AS e
            WHERE e.tenant_id = p_tenant_id AND e.entity_id > walked
            ORDER BY e.entity_id OFFSET walked_max - 1 LIMIT 1;
            window_end := coalesce(window_end, 9223372036854775807);
        END IF;
        RETURN QUERY
        SELECT e.entity_id FROM entity_jsonb AS e
        WHERE e.tenant_id = p_tenant_id AND e.entity_id > walked
            AND e.entity_id <= window_end AND filter_matches(e.attrs, whole, documents)
        ORDER BY e.entity_id LIMIT missing;
        GET DIAGNOSTICS row_count = ROW_COUNT;
        missing := missing - row_count;
        EXIT WHEN missing <= 0 OR window_end = 9223372036854775807;
        walked := window_end;
        walked_count := walked_count + walked_max;
        walked_max := 2 * indexed_max;
        -- If matches go on as they came, the next walk fills the page, for less than the index would cost.
        CONTINUE WHEN missing * walked_count <= walked_max * (page_size - missing);
        matching := find_by_index(p_tenant_id, condition, narrowing, documents, walked, indexed_max);
        IF matching IS NOT NULL THEN
            RETURN QUERY SELECT unnest(matching[:missing]);
            RETURN;
        END IF;
        indexed_max := 4 * indexed_max;
    END LOOP;
END
$$;
