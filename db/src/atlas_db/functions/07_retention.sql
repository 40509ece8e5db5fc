-- Retention: what happens to partitions whose time has passed, by the tenants' retention classes.
--
--   every class in use has passed:  retire_partition -> archives of the classes that want one -> drop_retired
--   some classes have passed:       their archives, if they want one -> expire_rows, in chunks
--
-- Each step is one transaction and tells by what it left where to go on. A partition is plainly detached, not
-- CONCURRENTLY: Postgres does not do that where there is a default partition (docs/adr/0011). So the one lock that stops
-- writers is asked for only when no old transaction is in its way, and for a moment only.

-- After its end a partition may still get the rows of flushes that began before it, which take two minutes at most.
CREATE OR REPLACE FUNCTION retention_grace() RETURNS interval LANGUAGE sql IMMUTABLE AS $$SELECT interval '10 minutes'$$;

-- The classes that tenants are in, and whether their time has passed for rows ingested before upper_bound.
CREATE OR REPLACE FUNCTION classes_passed(upper_bound timestamptz)
RETURNS TABLE (retention_class text, action text, passed boolean)
LANGUAGE sql STABLE SET search_path = atlas, pg_temp SET timezone = 'UTC' AS $$
    SELECT c.retention_class, c.action, coalesce(
        classes_passed.upper_bound < 'infinity'
        AND classes_passed.upper_bound + c.keep + retention_grace() <= clock_timestamp(), false)
    FROM retention_classes AS c
    WHERE EXISTS (SELECT FROM tenants AS t WHERE t.retention_class = c.retention_class)
$$;

-- The tenants of a class that have rows in a span of entity_values_ts and are not among `except`.
CREATE OR REPLACE FUNCTION tenants_with_rows(
    p_class text, from_time timestamptz, to_time timestamptz, except_tenants integer[]
) RETURNS integer[] LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT coalesce(array_agg(t.tenant_id ORDER BY t.tenant_id), '{}') FROM tenants AS t
    WHERE t.retention_class = p_class AND t.tenant_id <> ALL (except_tenants) AND EXISTS (
        SELECT FROM entity_values_ts AS v
        WHERE v.tenant_id = t.tenant_id AND v.ingested_at >= from_time AND v.ingested_at < to_time)
$$;

-- The tenants that have an archive of a partition.
CREATE OR REPLACE FUNCTION archived_tenants(p_name text) RETURNS integer[]
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT u.tenant_id), '{}')
    FROM partition_archives AS a, unnest(a.tenant_ids) AS u (tenant_id) WHERE a.partition_name = p_name
$$;

-- What retention has to do now, oldest first. step: 'retire', 'archive', 'expire' or 'drop'; relation: where the
-- rows are. tenant_ids: whom an archive or expiry is of. needs_archive:
-- the step writes archives, or removes what only they hold then. `only_name`: one partition; NULL: all.
CREATE OR REPLACE FUNCTION retention_plan(only_name text DEFAULT NULL)
RETURNS TABLE (step text, partition_name text, relation text, lower_bound timestamptz, upper_bound timestamptz,
               retention_class text, tenant_ids integer[], needs_archive boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
DECLARE
    class record;
    is_retired boolean;
    archived integer[];
    passed integer;
    in_use integer;
BEGIN
    FOR partition_name, lower_bound, upper_bound, is_retired IN
        SELECT r.name, r.lower_bound, r.upper_bound, true FROM retired_partitions AS r
        WHERE r.dropped_at IS NULL AND r.name = coalesce(only_name, r.name)
        UNION ALL
        SELECT p.name, p.lower_bound, p.upper_bound, false FROM partitions_of('entity_values_ts') AS p
        WHERE NOT p.is_default AND p.upper_bound < 'infinity' AND p.name = coalesce(only_name, p.name)
          AND p.upper_bound + retention_grace() <= clock_timestamp()
        ORDER BY 3, 1
    LOOP
        archived := archived_tenants(partition_name);
        retention_class := NULL;
        tenant_ids := NULL;
        IF is_retired THEN
            relation := format('retired.%I', partition_name);
            RETURN QUERY SELECT * FROM retired_plan(partition_name, relation, lower_bound, upper_bound, archived);
            CONTINUE;
        END IF;
        relation := 'atlas.entity_values_ts';
        SELECT count(*) FILTER (WHERE c.passed), count(*), coalesce(bool_or(c.action = 'archive'), false)
        INTO passed, in_use, needs_archive FROM classes_passed(upper_bound) AS c;
        CONTINUE WHEN passed = 0;
        IF passed = in_use OR NOT EXISTS (
            SELECT FROM entity_values_ts AS v
            WHERE v.ingested_at >= retention_plan.lower_bound AND v.ingested_at < retention_plan.upper_bound)
        THEN
            step := 'retire';
            RETURN NEXT;
            CONTINUE;
        END IF;
        FOR class IN SELECT c.retention_class, c.action FROM classes_passed(upper_bound) AS c WHERE c.passed LOOP
            retention_class := class.retention_class;
            needs_archive := class.action = 'archive';
            IF class.action = 'archive' THEN
                step := 'archive';
                tenant_ids := tenants_with_rows(class.retention_class, lower_bound, upper_bound, archived);
                IF tenant_ids <> '{}' THEN
                    RETURN NEXT;
                END IF;
                tenant_ids := (
                    SELECT array_agg(u.tenant_id) FROM partition_archives AS a, unnest(a.tenant_ids) AS u (tenant_id)
                    WHERE a.partition_name = retention_plan.partition_name
                      AND a.retention_class = class.retention_class AND a.deleted_count < a.row_count);
            ELSE
                tenant_ids := tenants_with_rows(class.retention_class, lower_bound, upper_bound, '{}');
            END IF;
            IF tenant_ids <> '{}' THEN
                step := 'expire';
                RETURN NEXT;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- The part of retention_plan for one retired table.
CREATE OR REPLACE FUNCTION retired_plan(
    p_name text, p_relation text, p_lower timestamptz, p_upper timestamptz, archived integer[]
) RETURNS TABLE (step text, partition_name text, relation text, lower_bound timestamptz, upper_bound timestamptz,
                 retention_class text, tenant_ids integer[], needs_archive boolean)
LANGUAGE plpgsql STABLE SET search_path = atlas, pg_temp AS $$
BEGIN
    RETURN QUERY EXECUTE format($sql$
        SELECT 'archive', $1, $2, $3, $4, t.retention_class,
            array_agg(t.tenant_id ORDER BY t.tenant_id), true
        FROM retired_partitions AS r
        JOIN tenants AS t ON t.tenant_id = ANY (r.archive_tenants)
        WHERE r.name = $1 AND t.tenant_id <> ALL ($5)
          AND EXISTS (SELECT FROM %s AS v WHERE v.tenant_id = t.tenant_id)
        GROUP BY t.retention_class
        $sql$, p_relation)
    USING p_name, p_relation, p_lower, p_upper, archived;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'drop', p_name, p_relation, p_lower, p_upper, NULL::text, NULL::integer[],
            EXISTS (SELECT FROM partition_archives AS a WHERE a.partition_name = p_name);
    END IF;
END
$$;

-- Takes a partition out of entity_values_ts and into the schema `retired`, at once or not at all; answers NULL, or
-- why not now. Raises when the plan does not say so.
CREATE OR REPLACE FUNCTION retire_partition(p_name text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '300ms' AS $$
DECLARE
    planned record;
    holder text;
    keeps boolean;
    has_rows boolean;
BEGIN
    SELECT p.lower_bound, p.upper_bound INTO planned FROM retention_plan(p_name) AS p
    WHERE p.step = 'retire';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'it is not the time of partition % to be retired', p_name USING ERRCODE = 'AT004';
    END IF;
    -- Behind the lock that we ask for every writer would wait, so we do not ask while it cannot be had.
    holder := old_lock_holder(format('atlas.%I', p_name)::regclass, interval '2 seconds');
    IF holder IS NOT NULL THEN
        RETURN holder;
    END IF;
    PERFORM detach_partition(p_name);
    SELECT bool_or(NOT c.passed) INTO keeps FROM classes_passed(planned.upper_bound) AS c;
    EXECUTE format('SELECT EXISTS (SELECT FROM retired.%I)', p_name) INTO has_rows;
    IF keeps AND has_rows THEN
        RAISE EXCEPTION 'partition % got rows that must be kept', p_name;
    END IF;
    INSERT INTO retired_partitions (name, lower_bound, upper_bound, archive_tenants, retired_at)
    SELECT p_name, planned.lower_bound, planned.upper_bound, coalesce(array_agg(t.tenant_id), '{}'), clock_timestamp()
    FROM tenants AS t JOIN retention_classes AS c USING (retention_class) WHERE c.action = 'archive';
    RETURN NULL;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN 'entity_values_ts was locked for longer than lock_timeout';
END
$$;

-- The definition part of retire_partition.
CREATE OR REPLACE FUNCTION detach_partition(p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE entity_values_ts DETACH PARTITION %I', p_name);
    EXECUTE format('ALTER TABLE %I SET SCHEMA retired', p_name);
    -- Its tenants' policies went with the root. Only maintenance may enter the schema.
    EXECUTE format('ALTER TABLE retired.%I DISABLE ROW LEVEL SECURITY', p_name);
    EXECUTE format('GRANT SELECT ON retired.%I TO atlas_keeper, atlas_maintenance', p_name);
END
$$;

-- Who holds a table in a transaction older than that, and so would make us wait; NULL: nobody.
CREATE OR REPLACE FUNCTION old_lock_holder(relation regclass, older interval) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    SELECT format('process %s (%s) holds it in a transaction of %s s',
        a.pid, coalesce(nullif(a.application_name, ''), a.usename),
        round(extract(epoch FROM clock_timestamp() - a.xact_start)))
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.granted AND a.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation IN (old_lock_holder.relation, 'entity_values_ts'::regclass, 'entity_values_ts_default'::regclass)
      AND a.xact_start < clock_timestamp() - older
    ORDER BY a.xact_start LIMIT 1
$$;

-- Enters an archive that was written and read back. Counts the rows once more: an archive that does not hold all of
-- them must not count as one.
CREATE OR REPLACE FUNCTION record_archive(
    p_name text, p_class text, p_tenants integer[], p_path text, p_rows bigint, p_bytes bigint, p_checksum text
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
DECLARE
    planned record;
    counted bigint;
BEGIN
    SELECT p.relation, p.lower_bound, p.upper_bound INTO planned FROM retention_plan(p_name) AS p
    WHERE p.step = 'archive' AND p.retention_class = p_class
      AND p.tenant_ids = p_tenants;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no archive of class % is due of partition % and these tenants', p_class, p_name
            USING ERRCODE = 'AT004';
    END IF;
    EXECUTE format('SELECT count(*) FROM %s WHERE tenant_id = ANY ($1) AND ingested_at >= $2 AND ingested_at < $3',
        planned.relation)
    INTO counted USING p_tenants, planned.lower_bound, planned.upper_bound;
    IF counted <> p_rows THEN
        RAISE EXCEPTION 'the archive of % has % rows, the partition %', p_name, p_rows, counted
            USING ERRCODE = 'AT004';
    END IF;
    INSERT INTO partition_archives (partition_name, retention_class, part, lower_bound, upper_bound, tenant_ids,
        path, row_count, byte_count, checksum, archived_at)
    SELECT p_name, p_class, coalesce(max(a.part), 0) + 1, planned.lower_bound, planned.upper_bound, p_tenants,
        p_path, p_rows, p_bytes, p_checksum, clock_timestamp()
    FROM partition_archives AS a WHERE a.partition_name = p_name AND a.retention_class = p_class;
END
$$;

-- Deletes rows_max rows of a class whose time has passed from a partition that others still need; answers how many,
-- 0 when none are left. Of a class that wants archives, only rows that are in one.
CREATE OR REPLACE FUNCTION expire_rows(p_name text, p_class text, rows_max integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    span record;
    archive record;
    tenants integer[];
    deleted bigint;
BEGIN
    IF rows_max NOT BETWEEN 1 AND 1000000 THEN
        RAISE EXCEPTION 'rows_max is %, want 1 to 1000000', rows_max USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.lower_bound, p.upper_bound, c.action INTO span FROM partitions_of('entity_values_ts') AS p
    JOIN classes_passed(p.upper_bound) AS c ON c.retention_class = p_class AND c.passed
    WHERE p.name = p_name AND NOT p.is_default;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'it is not the time of class % to leave partition %', p_class, p_name USING ERRCODE = 'AT004';
    END IF;
    IF span.action = 'archive' THEN
        SELECT a.part, a.tenant_ids, a.row_count - a.deleted_count AS left_count INTO archive
        FROM partition_archives AS a
        WHERE a.partition_name = p_name AND a.retention_class = p_class AND a.deleted_count < a.row_count
        ORDER BY a.part LIMIT 1 FOR UPDATE;
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
        tenants := archive.tenant_ids;
    ELSE
        tenants := tenants_with_rows(p_class, span.lower_bound, span.upper_bound, '{}');
    END IF;
    DELETE FROM entity_values_ts AS v
    WHERE v.ingested_at >= span.lower_bound AND v.ingested_at < span.upper_bound AND v.ctid = ANY (ARRAY(
        SELECT x.ctid FROM entity_values_ts AS x
        WHERE x.ingested_at >= span.lower_bound AND x.ingested_at < span.upper_bound AND x.tenant_id = ANY (tenants)
        LIMIT rows_max));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF span.action = 'archive' THEN
        IF deleted = 0 OR deleted > archive.left_count THEN
            RAISE EXCEPTION 'archive % of % has % rows left to delete, the partition %',
                archive.part, p_name, archive.left_count, deleted USING ERRCODE = 'AT004';
        END IF;
        UPDATE partition_archives AS a SET deleted_count = a.deleted_count + deleted
        WHERE a.partition_name = p_name AND a.retention_class = p_class AND a.part = archive.part;
    END IF;
    RETURN deleted;
END
$$;

-- Drops a retired table, after counting that all that must be in archives is.
CREATE OR REPLACE FUNCTION drop_retired(p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    retired record;
    here bigint;
    archived bigint;
BEGIN
    SELECT r.archive_tenants INTO retired FROM retired_partitions AS r
    WHERE r.name = p_name AND r.dropped_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no retired partition %', p_name USING ERRCODE = 'AT004';
    END IF;
    EXECUTE format('SELECT count(*) FROM retired.%I WHERE tenant_id = ANY ($1)', p_name)
    INTO here USING retired.archive_tenants;
    SELECT coalesce(sum(a.row_count - a.deleted_count), 0) INTO archived
    FROM partition_archives AS a WHERE a.partition_name = p_name;
    IF archived < here THEN
        RAISE EXCEPTION 'retired partition % has % rows to archive, % are', p_name, here, archived
            USING ERRCODE = 'AT004';
    END IF;
    PERFORM drop_retired_table(p_name);
    UPDATE retired_partitions AS r SET dropped_at = clock_timestamp() WHERE r.name = p_name;
END
$$;

-- The definition part of drop_retired.
CREATE OR REPLACE FUNCTION drop_retired_table(p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
BEGIN
    EXECUTE format('DROP TABLE retired.%I', p_name);
END
$$;

-- Does what is due and needs no archive, step by step, each in a transaction of its own: for pg_cron, or for a person
-- in psql. It runs with the rights of who calls it, and has no SET clause: either would forbid it to commit.
CREATE OR REPLACE PROCEDURE run_retention() LANGUAGE plpgsql AS $$
DECLARE
    due record;
    outcome text;
    deleted bigint;
BEGIN
    IF NOT pg_try_advisory_lock(hashtext('atlas.retention')) THEN
        RAISE NOTICE 'another session is at it';
        RETURN;
    END IF;
    FOR round IN 1 .. 2 LOOP -- What the first retires, the second drops.
        FOR due IN
            SELECT p.step, p.partition_name, p.retention_class FROM atlas.retention_plan() AS p
            WHERE NOT p.needs_archive
        LOOP
            CASE due.step
                WHEN 'retire' THEN
                    outcome := atlas.retire_partition(due.partition_name);
                WHEN 'expire' THEN
                    LOOP
                        deleted := atlas.expire_rows(due.partition_name, due.retention_class, 20000);
                        COMMIT;
                        EXIT WHEN deleted = 0;
                    END LOOP;
                WHEN 'drop' THEN
                    PERFORM atlas.drop_retired(due.partition_name);
            END CASE;
            COMMIT;
            RAISE NOTICE '% %: %', due.step, due.partition_name, coalesce(outcome, 'done');
            outcome := NULL;
        END LOOP;
    END LOOP;
    PERFORM pg_advisory_unlock(hashtext('atlas.retention'));
END
$$;
