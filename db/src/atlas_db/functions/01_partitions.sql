-- Partitions: days of entity_values_ts, days of the ledger.

-- Makes the partitions from yesterday to days_ahead and the default ones, moves the ledger to today's
-- bucket and drops ledger buckets older than 48 h. Safe to repeat and to race; returns what it did.
CREATE OR REPLACE FUNCTION maintain_partitions(days_ahead integer DEFAULT 3) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    done text[] := '{}';
    first_day date;
    expired text;
BEGIN
    IF days_ahead NOT BETWEEN 1 AND 31 THEN
        RAISE EXCEPTION 'days_ahead is %, want 1 to 31', days_ahead USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('atlas.maintain_partitions'));

    done := done || make_partition('entity_values_ts', 'entity_values_ts_default', NULL, NULL);
    done := done || make_partition('write_requests', 'write_requests_default', NULL, NULL);
    FOR offset_days IN -1 .. days_ahead LOOP
        first_day := today + offset_days;
        done := done || make_partition('entity_values_ts', 'entity_values_ts_' || to_char(first_day, 'YYYYMMDD'),
            to_char(first_day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(first_day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
        done := done || make_partition('write_requests', 'write_requests_' || to_char(first_day, 'YYYYMMDD'),
            to_char(first_day, 'YYYY-MM-DD'), to_char(first_day + 1, 'YYYY-MM-DD'));
    END LOOP;

    IF (SELECT ledger_bucket FROM flush_control) < today THEN
        -- Flushes hold this lock shared: no flush of the old bucket is under way when the new one begins,
        -- so each flush sees every earlier request, whatever its bucket.
        PERFORM pg_advisory_xact_lock(flush_lock());
        UPDATE flush_control SET ledger_bucket = today;
        done := done || format('ledger bucket is %s', today);
    END IF;

    FOR expired IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'write_requests'::regclass AND relname ~ '^write_requests_[0-9]{8}$'
          AND to_date(right(relname, 8), 'YYYYMMDD') < today - 3
    LOOP
        EXECUTE format('DROP TABLE %I', expired);
        done := done || ('dropped ' || expired);
    END LOOP;
    RETURN done;
END
$$;

-- Makes one partition if it is missing; without bounds, the default one. Rows are reached through the
-- root only: a partition has row-level security and no policy, so naming it directly shows nothing.
CREATE OR REPLACE FUNCTION make_partition(root text, name text, bound_from text, bound_to text) RETURNS text[]
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
BEGIN
    IF to_regclass(format('atlas.%I', name)) IS NOT NULL THEN
        RETURN '{}';
    END IF;
    IF bound_from IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', name, root);
    ELSE
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', name, root, bound_from, bound_to);
    END IF;
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    IF root = 'entity_values_ts' THEN
        -- There is no key that a corrected or deleted row could be named by in the change stream.
        EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', name);
    END IF;
    RETURN ARRAY['made ' || name];
END
$$;
