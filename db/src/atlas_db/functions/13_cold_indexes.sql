-- Indexes of cold attributes: which partial index belongs to which partition, what is to be done, who has asked for what.
--
-- attribute_indexes says what there shall be, pg_index what there is. Whoever builds (atlas_indexer) compares the two and
-- takes the next step, so it may die anywhere: half an index is one that is not valid, and the step then is to drop
-- it. CREATE INDEX CONCURRENTLY cannot run in a function; so the statements are made here, and said by the builder.

-- The expression by which values of a type are indexed. Not the whole text: an entry of a b-tree has 2,700 bytes at
-- most, and a longer one would make the flush fail. Cut texts keep the order of whole ones, byte by byte. Raises
-- for what is no type: what is answered goes into statements.
CREATE OR REPLACE FUNCTION cold_index_key(p_data_type text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    CASE p_data_type
        WHEN 'bool' THEN RETURN 'value_bool';
        WHEN 'int' THEN RETURN 'value_int';
        WHEN 'double' THEN RETURN 'value_double';
        WHEN 'decimal' THEN RETURN 'value_decimal';
        WHEN 'text' THEN RETURN 'left(value_text, 64) COLLATE "C"';
        WHEN 'time' THEN RETURN 'value_time';
        WHEN 'json' THEN RETURN 'jsonb_hash(value_json)';
    END CASE;
END
$$;

CREATE OR REPLACE FUNCTION cold_index_name(p_tenant integer, p_attribute integer, p_partition text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('cold_%s_%s_%s', p_tenant, p_attribute, regexp_replace(p_partition, '^entity_values_ts_', ''))
$$;

-- Which points the index of an attribute has; who asks it says the same. `+ 0` keeps every other index from being taken: of
-- a partition that was not analyzed yet the planner believes that hardly any row is of this tenant and this attribute,
-- and that to read all of those by entity_values_ts_latest is as good.
CREATE OR REPLACE FUNCTION cold_index_predicate(p_tenant integer, p_attribute integer) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('(tenant_id + 0) = %s AND (attribute_id + 0) = %s', p_tenant, p_attribute)
$$;

-- What makes one index. The entity stands in it too: those with one value are found in their order.
CREATE OR REPLACE FUNCTION cold_index_statement(
    p_tenant integer, p_attribute integer, p_data_type text, p_partition text, p_concurrently boolean
) RETURNS text LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT format('CREATE INDEX %s %I ON atlas.%I ((%s), entity_id) WHERE %s',
        CASE WHEN p_concurrently THEN 'CONCURRENTLY' END, cold_index_name(p_tenant, p_attribute, p_partition), p_partition,
        cold_index_key(p_data_type), cold_index_predicate(p_tenant, p_attribute))
$$;

-- The partitions of entity_values_ts with what they have of an attribute's index; is_valid NULL: nothing.
CREATE OR REPLACE FUNCTION cold_index_parts(p_tenant integer, p_attribute integer)
RETURNS TABLE (partition_name text, index_name text, is_valid boolean, byte_count bigint, row_estimate bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    SELECT p.name, cold_index_name(p_tenant, p_attribute, p.name), x.indisvalid AND x.indisready,
        CASE WHEN x.indexrelid IS NULL THEN 0 ELSE pg_relation_size(x.indexrelid) END,
        greatest(c.reltuples, 0)::bigint
    FROM partitions_of('entity_values_ts') AS p
    JOIN pg_class AS c ON c.oid = p.partition
    LEFT JOIN (pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid)
        ON x.indrelid = p.partition AND i.relname = cold_index_name(p_tenant, p_attribute, p.name)
    ORDER BY p.upper_bound DESC, p.name
$$;

-- Gives a partition that nobody writes to yet the indexes that the others have. It waits for nobody who builds, and whoever
-- says that an index is complete waits for us: see finish_attribute_index.
CREATE OR REPLACE FUNCTION index_new_partition(p_partition text) RETURNS void
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
DECLARE
    wanted record;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('atlas.attribute_indexes'));
    FOR wanted IN
        SELECT x.tenant_id, x.attribute_id, x.data_type FROM attribute_indexes AS x
        WHERE x.state IN ('building', 'ready')
          AND to_regclass(format('atlas.%I', cold_index_name(x.tenant_id, x.attribute_id, p_partition))) IS NULL
    LOOP
        EXECUTE cold_index_statement(wanted.tenant_id, wanted.attribute_id, wanted.data_type, p_partition, false);
    END LOOP;
END
$$;

-- For callers ------------------------------------------------------------------------------------

-- What an index of an attribute would cost: the points that building it reads, and those it would hold, both as the planner
-- believes; and the partitions.
CREATE OR REPLACE FUNCTION estimate_attribute_index(
    p_tenant integer, p_attribute integer,
    OUT partition_count integer, OUT scanned_points bigint, OUT indexed_points bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
DECLARE
    plan json; -- EXPLAIN is why this is not STABLE.
BEGIN
    PERFORM require_tenant(p_tenant);
    SELECT count(*), sum(c.row_estimate) INTO partition_count, scanned_points
    FROM cold_index_parts(p_tenant, p_attribute) AS c;
    -- The tenant's alone, by policy.
    EXECUTE format('EXPLAIN (FORMAT json) SELECT FROM entity_values_ts WHERE attribute_id = %s', p_attribute) INTO plan;
    indexed_points := least((plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint, scanned_points);
END
$$;

-- Asks for an index, or again for one that failed or is being dropped; answers what became of it: begun, known (it is
-- there or on its way), hot (filters need none), tenant_full, full (there are as many as may be).
CREATE OR REPLACE FUNCTION start_attribute_index(
    p_tenant integer, p_attribute integer, p_tenant_max integer, p_max integer
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    known text;
    counts record;
BEGIN
    PERFORM require_tenant(p_tenant);
    -- One after another, of all tenants: so they are counted right.
    PERFORM pg_advisory_xact_lock(hashtext('atlas.attribute_index_count'));
    SELECT x.state INTO known FROM attribute_indexes AS x
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute FOR UPDATE;
    IF known IN ('building', 'ready') THEN
        RETURN 'known';
    ELSIF known IS NOT NULL THEN
        UPDATE attribute_indexes AS x SET state = 'building', message = '', updated_at = clock_timestamp()
        WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;
        RETURN 'begun';
    ELSIF (SELECT a.is_hot FROM attributes AS a WHERE a.tenant_id = p_tenant AND a.attribute_id = p_attribute) THEN
        RETURN 'hot';
    END IF;
    SELECT count(*) AS every, count(*) FILTER (WHERE x.tenant_id = p_tenant) AS own INTO counts FROM attribute_indexes AS x;
    IF counts.own >= p_tenant_max THEN
        RETURN 'tenant_full';
    ELSIF counts.every >= p_max THEN
        RETURN 'full';
    END IF;
    INSERT INTO attribute_indexes (tenant_id, attribute_id, data_type, state, message, created_at, updated_at)
    SELECT a.tenant_id, a.attribute_id, a.data_type, 'building', 'waits for its turn, or for a process that builds indexes',
        clock_timestamp(), clock_timestamp()
    FROM attributes AS a WHERE a.tenant_id = p_tenant AND a.attribute_id = p_attribute;
    RETURN 'begun';
END
$$;

-- Asks for an index to be dropped, whatever state it is in; false: there is none.
CREATE OR REPLACE FUNCTION drop_attribute_index(p_tenant integer, p_attribute integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    PERFORM require_tenant(p_tenant);
    UPDATE attribute_indexes AS x SET state = 'dropping', message = '', updated_at = clock_timestamp()
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute AND x.state <> 'dropping';
    RETURN EXISTS (SELECT FROM attribute_indexes AS x WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute);
END
$$;

-- For who builds ---------------------------------------------------------------------------------

-- What is to be done, the next first: what goes before what comes, one attribute after another, the newest partition
-- first. step: create, drop (also of half an index), finish (all is as it shall be, and attribute_indexes does not say so).
CREATE OR REPLACE FUNCTION attribute_index_steps()
RETURNS TABLE (tenant_id integer, attribute_id integer, step text, index_name text, statement text,
               partitions_total integer, partitions_done integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    WITH wanted AS MATERIALIZED (
        SELECT x.*, p.partition, p.name AS partition_name, p.upper_bound,
            cold_index_name(x.tenant_id, x.attribute_id, p.name) AS index_name
        FROM attribute_indexes AS x CROSS JOIN partitions_of('entity_values_ts') AS p
        WHERE x.state <> 'failed'
    ), parts AS (
        SELECT p.*, row_number() OVER (
                PARTITION BY p.tenant_id, p.attribute_id ORDER BY p.upper_bound DESC, p.partition_name) AS place, count(*) OVER of_one AS every,
            -- Its work is over.
            count(*) FILTER (WHERE CASE WHEN p.state = 'dropping' THEN p.is_valid IS NULL ELSE p.is_valid END)
                OVER of_one AS done
        FROM (
            SELECT w.*, x.indisvalid AND x.indisready AS is_valid
            FROM wanted AS w
            LEFT JOIN (pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid)
                ON x.indrelid = w.partition AND i.relname = w.index_name
        ) AS p
        WINDOW of_one AS (PARTITION BY p.tenant_id, p.attribute_id)
    ), steps AS (
        SELECT p.*, CASE
            WHEN p.place = 1 AND p.done = p.every AND p.state IN ('building', 'dropping') THEN 'finish'
            WHEN p.state = 'dropping' AND p.is_valid IS NOT NULL OR NOT p.is_valid THEN 'drop'
            WHEN p.state IN ('building', 'ready') AND p.is_valid IS NULL THEN 'create' END AS step
        FROM parts AS p
    )
    SELECT s.tenant_id, s.attribute_id, s.step, s.index_name,
        CASE s.step
            WHEN 'create' THEN cold_index_statement(s.tenant_id, s.attribute_id, s.data_type, s.partition_name, true)
            WHEN 'drop' THEN format('DROP INDEX CONCURRENTLY IF EXISTS atlas.%I', s.index_name)
        END, s.every::integer, s.done::integer
    FROM steps AS s WHERE s.step IS NOT NULL
    ORDER BY s.state = 'dropping' DESC, s.created_at, s.tenant_id, s.attribute_id, s.place
$$;

-- How far it is, for people; p_failed: give it up, as long as it is being built.
CREATE OR REPLACE FUNCTION note_attribute_index(
    p_tenant integer, p_attribute integer, p_total integer, p_done integer, p_message text, p_failed boolean
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    PERFORM require_tenant(p_tenant);
    UPDATE attribute_indexes AS x SET partitions_total = p_total, partitions_done = p_done, message = left(p_message, 500),
        state = CASE WHEN p_failed AND x.state = 'building' THEN 'failed' ELSE x.state END, updated_at = clock_timestamp()
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;
END
$$;

-- Says that an index is ready, or forgets one that is gone; false: something is left to do after all.
--
-- Who makes a partition holds the lock until it commits, and reads attribute_indexes after it has it. So either we see its
-- partition, or it sees what we have written. Without the lock: it reads that there is no index to make, we see no
-- partition without one and say "ready", it commits a partition that the index lacks.
CREATE OR REPLACE FUNCTION finish_attribute_index(p_tenant integer, p_attribute integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    known text;
    counts record;
BEGIN
    PERFORM require_tenant(p_tenant);
    PERFORM pg_advisory_xact_lock(hashtext('atlas.attribute_indexes'));
    SELECT x.state INTO known FROM attribute_indexes AS x
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute FOR UPDATE;
    SELECT count(*) AS every, count(*) FILTER (WHERE c.is_valid) AS valid, count(c.is_valid) AS some
    INTO counts FROM cold_index_parts(p_tenant, p_attribute) AS c;
    IF known = 'building' AND counts.valid = counts.every THEN
        UPDATE attribute_indexes AS x SET state = 'ready', message = '', partitions_total = counts.every,
            partitions_done = counts.every, updated_at = clock_timestamp()
        WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;
    ELSIF known = 'dropping' AND counts.some = 0 THEN
        DELETE FROM attribute_indexes AS x WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;
    ELSE
        RETURN false;
    END IF;
    PERFORM pg_notify('atlas_catalog', p_tenant::text);
    RETURN true;
END
$$;
