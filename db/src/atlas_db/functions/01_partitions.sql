-- Partitions: spans of entity_values_ts, days of the ledger. Made ahead of time; the ledger's old ones dropped.

-- The partitions of a table with their bounds; a bound that is open is infinite.
CREATE OR REPLACE FUNCTION partitions_of(root regclass)
RETURNS TABLE (partition regclass, name text, lower_bound timestamptz, upper_bound timestamptz, is_default boolean)
LANGUAGE sql STABLE SET search_path = atlas, pg_temp SET datestyle = 'ISO' SET timezone = 'UTC' AS $$
    SELECT c.oid::regclass, c.relname::text,
        coalesce((regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1], '-infinity')::timestamptz,
        coalesce((regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1], 'infinity')::timestamptz,
        b.bound = 'DEFAULT'
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (VALUES (pg_get_expr(c.relpartbound, c.oid))) AS b (bound)
    WHERE i.inhparent = root
$$;

-- The parts of [from_time, to_time), cut at the marks of the policy's span, that no partition of entity_values_ts
-- covers. Where the span was changed, or rows were moved out of the default partition, a part is not a whole span.
CREATE OR REPLACE FUNCTION uncovered_spans(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE sql STABLE SET search_path = atlas, pg_temp SET timezone = 'UTC' AS $$
    WITH taken AS (
        SELECT coalesce(range_agg(tstzrange(p.lower_bound, p.upper_bound)), '{}'::tstzmultirange) AS ranges
        FROM partitions_of('entity_values_ts') AS p WHERE NOT p.is_default
    )
    SELECT lower(free.part), upper(free.part)
    FROM partition_policy, taken,
        generate_series(date_bin(span, from_time, '2000-01-01'), to_time - interval '1 microsecond', span) AS mark,
        unnest(tstzmultirange(tstzrange(mark, mark + span)) - taken.ranges) AS free (part)
    ORDER BY 1
$$;

-- What a partition of entity_values_ts is called: its lower bound, as short as tells it.
CREATE OR REPLACE FUNCTION partition_name(from_time timestamptz, to_time timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = atlas, pg_temp SET timezone = 'UTC' AS $$
    SELECT 'entity_values_ts_' || CASE
        WHEN from_time = date_trunc('day', from_time) AND to_time = from_time + interval '1 day'
            THEN to_char(from_time, 'YYYYMMDD')
        WHEN from_time = date_trunc('hour', from_time) THEN to_char(from_time, 'YYYYMMDD_HH24')
        ELSE to_char(from_time, 'YYYYMMDD_HH24MISSUS')
    END
$$;

-- Makes one partition if it is missing; without bounds, the default one.
--
-- Made apart and then attached: ATTACH lets writers go on (SHARE UPDATE EXCLUSIVE on the root), PARTITION OF
-- would stop them. It does lock the default partition, which only readers of all time and rows that have no
-- partition touch.
CREATE OR REPLACE FUNCTION make_partition(root text, name text, bound_from text, bound_to text) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
BEGIN
    IF to_regclass(format('atlas.%I', name)) IS NOT NULL THEN
        RETURN '{}';
    END IF;
    IF root = 'entity_values_ts' AND make_by_partman(bound_from::timestamptz, bound_to::timestamptz) THEN
        RETURN dress_partitions();
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, root);
    PERFORM dress_partition(format('atlas.%I', name)::regclass, root);
    IF root = 'entity_values_ts' THEN
        PERFORM index_new_partition(name);
    END IF;
    IF bound_from IS NULL THEN
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I DEFAULT', root, name);
    ELSE
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            root, name, bound_from, bound_to);
    END IF;
    RETURN ARRAY['made ' || name];
END
$$;

-- Lets pg_partman make a whole span, where it is installed and told of the table (access/extensions.sql); false: it
-- is not, or the span is a part of one, which it does not know how to make.
CREATE OR REPLACE FUNCTION make_by_partman(from_time timestamptz, to_time timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = atlas, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    partman record;
    configured text;
BEGIN
    SELECT n.nspname, e.extversion INTO partman
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman';
    IF NOT FOUND OR from_time IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT partition_interval FROM %I.part_config WHERE parent_table = $1', partman.nspname)
    INTO configured USING 'atlas.entity_values_ts';
    IF configured IS NULL OR from_time + configured::interval <> to_time
        OR from_time <> date_trunc(CASE WHEN configured::interval = '1 day' THEN 'day' ELSE 'hour' END, from_time)
    THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT %I.create_partition_time(''atlas.entity_values_ts'', ARRAY[$1]%s)', partman.nspname,
        CASE WHEN partman.extversion LIKE '4.%' THEN ', p_analyze := false' ELSE '' END)
    USING from_time;
    RETURN true;
END
$$;

-- Dresses partitions that somebody else made.
CREATE OR REPLACE FUNCTION dress_partitions() RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
DECLARE
    bare record;
    done text[] := '{}';
BEGIN
    FOR bare IN
        SELECT p.partition, p.name FROM partitions_of('entity_values_ts') AS p JOIN pg_class AS c ON c.oid = p.partition
        WHERE NOT (c.relrowsecurity AND c.relforcerowsecurity AND c.relreplident = 'f')
    LOOP
        PERFORM dress_partition(bare.partition, 'entity_values_ts');
        PERFORM index_new_partition(bare.name);
        done := done || ('made ' || bare.name);
    END LOOP;
    RETURN done;
END
$$;

-- Rows are reached through the root only: a partition has row-level security and no policy, so naming it
-- directly shows nothing.
CREATE OR REPLACE FUNCTION dress_partition(partition regclass, root text) RETURNS void
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', partition);
    IF root = 'entity_values_ts' THEN
        -- There is no key that a corrected or deleted row could be named by in the change stream.
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', partition);
    END IF;
END
$$;

-- As make_partition, but what cannot be now is told instead of raised: somebody holds a lock for too long, or
-- the default partition holds rows of the span. Whoever was waited for is let go at once.
CREATE OR REPLACE FUNCTION try_partition(root text, name text, bound_from text, bound_to text) RETURNS text[]
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
BEGIN
    RETURN make_partition(root, name, bound_from, bound_to);
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN ARRAY[format('postponed %s: a transaction holds %s or its default partition', name, root)];
    WHEN check_violation THEN
        RETURN ARRAY[format('postponed %s: its rows are in the default partition', name)];
END
$$;

-- Makes the partitions from yesterday to days_ahead and the default ones, and moves the ledger to today's bucket.
-- Safe to repeat and to race; returns what it did and what it postponed. Never stops writers for longer than
-- lock_timeout, and them only while the ledger's bucket changes.
CREATE OR REPLACE FUNCTION maintain_partitions(days_ahead integer DEFAULT 3) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET timezone = 'UTC' SET lock_timeout = '1s' AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    done text[] := '{}';
    made text[];
    first_day date;
BEGIN
    IF days_ahead NOT BETWEEN 1 AND 31 THEN
        RAISE EXCEPTION 'days_ahead is %, want 1 to 31', days_ahead USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('atlas.maintain_partitions'));

    done := done || try_partition('entity_values_ts', 'entity_values_ts_default', NULL, NULL);
    done := done || try_partition('write_requests', 'write_requests_default', NULL, NULL);
    done := done || dress_partitions();
    done := done || make_spans_ahead(today - 1, today + days_ahead + 1);
    FOR first_day IN SELECT today + n FROM generate_series(-1, days_ahead) AS n LOOP
        made := try_partition('write_requests', 'write_requests_' || to_char(first_day, 'YYYYMMDD'),
            to_char(first_day, 'YYYY-MM-DD'), to_char(first_day + 1, 'YYYY-MM-DD'));
        done := done || made;
        EXIT WHEN made[1] LIKE 'postponed%'; -- Each further one would wait as long.
    END LOOP;

    IF (SELECT ledger_bucket FROM flush_control) < today THEN
        -- Flushes hold this lock shared: no flush of the old bucket is under way when the new one begins,
        -- so each flush sees every earlier request, whatever its bucket.
        BEGIN
            PERFORM pg_advisory_xact_lock(flush_lock());
            UPDATE flush_control SET ledger_bucket = today;
            done := done || format('ledger bucket is %s', today);
        EXCEPTION WHEN lock_not_available THEN
            done := done || format('postponed ledger bucket %s: a flush takes long', today);
        END;
    END IF;
    RETURN done;
END
$$;

-- The part of maintain_partitions for entity_values_ts.
CREATE OR REPLACE FUNCTION make_spans_ahead(from_day date, to_day date) RETURNS text[]
LANGUAGE plpgsql SET search_path = atlas, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    done text[] := '{}';
    made text[];
    free record;
    -- Later than whatever the default partition can get before the new partition is there.
    cut timestamptz := date_trunc('second', clock_timestamp()) + interval '3 seconds';
BEGIN
    FOR free IN SELECT u.lower_bound, u.upper_bound FROM uncovered_spans(from_day, to_day) AS u LOOP
        made := try_partition('entity_values_ts', partition_name(free.lower_bound, free.upper_bound),
            free.lower_bound::text, free.upper_bound::text);
        IF made[1] LIKE '%rows are in the default partition' AND cut > free.lower_bound AND cut < free.upper_bound THEN
            -- The span is under way without a partition. Its rest gets one, so that the default partition gets
            -- no more; what it holds is move_default_rows' to move.
            made := made || try_partition('entity_values_ts', partition_name(cut, free.upper_bound),
                cut::text, free.upper_bound::text);
        END IF;
        done := done || made;
        EXIT WHEN made[1] LIKE 'postponed%holds%'; -- Each further one would wait as long.
    END LOOP;
    RETURN done;
END
$$;

-- Drops one ledger partition older than 48 h, if there is one; answers which. A transaction of its own for each:
-- dropping stops writers for as long as it waits for its lock.
CREATE OR REPLACE FUNCTION drop_expired_ledger() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
DECLARE
    expired text;
BEGIN
    SELECT p.name INTO expired FROM partitions_of('write_requests') AS p
    WHERE NOT p.is_default AND p.upper_bound < date_trunc('day', clock_timestamp()) - interval '2 days'
    ORDER BY p.upper_bound LIMIT 1;
    IF expired IS NOT NULL THEN
        EXECUTE format('DROP TABLE %I', expired);
    END IF;
    RETURN expired;
END
$$;
