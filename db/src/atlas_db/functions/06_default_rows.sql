-- Rows that found no partition: seen, and moved to where they belong.

-- What the default partition of entity_values_ts holds: nothing, if all is well. Counts a million at most.
CREATE OR REPLACE FUNCTION default_rows(OUT row_count bigint, OUT oldest timestamptz, OUT byte_count bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '500ms' AS $$
    SELECT count(*), min(d.ingested_at), pg_total_relation_size('entity_values_ts_default')
    FROM (SELECT ingested_at FROM entity_values_ts_default LIMIT 1000000) AS d
$$;

-- Moves the oldest rows of the default partition into a partition of their own, rows_max of them or so; answers
-- how many, and a word about it. Call again until it answers 0.
--
-- Rows leave and come back within one transaction and through the root, so that the change stream tells both: an
-- INSERT into a table that is not attached yet would not be published, and a copy would lose the rows. Only spans
-- that are over are moved, since maintain_partitions gave their future a partition: writers never wait for this.
-- A flush that is still under way there holds the default partition; ATTACH waits for it, finds its rows, and
-- this function postpones all. Readers of all time wait while rows are put back, which is what bounds rows_max.
CREATE OR REPLACE FUNCTION move_default_rows(
    rows_max integer DEFAULT 200000, OUT moved bigint, OUT outcome text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET timezone = 'UTC' SET lock_timeout = '1s' AS $$
DECLARE
    first timestamptz;
    edge timestamptz;
    span record;
BEGIN
    moved := 0;
    IF rows_max NOT BETWEEN 1 AND 5000000 THEN
        RAISE EXCEPTION 'rows_max is %, want 1 to 5000000', rows_max USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('atlas.maintain_partitions'));
    SELECT min(ingested_at) INTO first FROM entity_values_ts_default;
    IF first IS NULL THEN
        outcome := 'the default partition is empty';
        RETURN;
    END IF;
    SELECT u.lower_bound, u.upper_bound INTO STRICT span
    FROM uncovered_spans(first, first + interval '1 day') AS u
    WHERE u.lower_bound <= first AND u.upper_bound > first;
    -- All rows of one flush have one ingested_at: a cut can lie between flushes only.
    SELECT d.ingested_at INTO edge FROM entity_values_ts_default AS d
    WHERE d.ingested_at < span.upper_bound ORDER BY d.ingested_at OFFSET rows_max LIMIT 1;
    IF edge IS NULL THEN
        edge := span.upper_bound;
    ELSIF edge = first THEN
        edge := first + interval '1 microsecond';
    END IF;
    IF edge > clock_timestamp() THEN
        outcome := format('rows of %s may still arrive in the default partition, until %s', first, edge);
        RETURN;
    END IF;
    moved := move_rows(span.lower_bound, edge);
    outcome := format('moved to %s', partition_name(span.lower_bound, edge));
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        moved := 0;
        outcome := 'postponed: a transaction holds entity_values_ts or its default partition';
    WHEN check_violation THEN
        moved := 0;
        outcome := 'postponed: a flush into the default partition was under way';
END
$$;

-- The transaction of move_default_rows. Raises check_violation when rows of the span came meanwhile.
CREATE OR REPLACE FUNCTION move_rows(from_time timestamptz, to_time timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = atlas, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    moved bigint;
    stored bigint;
BEGIN
    DROP TABLE IF EXISTS pg_temp.moved_rows;
    EXECUTE 'CREATE TEMP TABLE moved_rows (LIKE entity_values_ts) ON COMMIT DROP';
    -- In the order of their places, which is that of their arrival.
    EXECUTE 'WITH gone AS (DELETE FROM entity_values_ts WHERE ingested_at >= $1 AND ingested_at < $2 RETURNING *)
        INSERT INTO pg_temp.moved_rows SELECT * FROM gone' USING from_time, to_time;
    GET DIAGNOSTICS moved = ROW_COUNT;
    PERFORM make_partition('entity_values_ts', partition_name(from_time, to_time), from_time::text, to_time::text);
    EXECUTE 'INSERT INTO entity_values_ts SELECT * FROM pg_temp.moved_rows AS m
        ORDER BY m.tenant_id, m.entity_id, m.attribute_id, m.event_time, m.ingested_at, m.ctid';
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF stored <> moved THEN
        RAISE EXCEPTION 'took % rows out, put % back', moved, stored;
    END IF;
    RETURN moved;
END
$$;
