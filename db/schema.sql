CREATE SCHEMA atlas;

ALTER SCHEMA atlas OWNER TO atlas_owner;

CREATE SCHEMA staging;

ALTER SCHEMA staging OWNER TO atlas_flusher;

CREATE FUNCTION atlas.announce_seal(until timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    UPDATE flush_control
    SET sealed_before = greatest(sealed_before, least(until, clock_timestamp()))
    WHERE id = 1
    RETURNING sealed_before
$$;

ALTER FUNCTION atlas.announce_seal(until timestamp with time zone) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.beat_heart(min_interval interval) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    WITH beat AS (
        UPDATE replication_heartbeat
        -- Never back, even if the clock steps: lag is a difference of beats.
        SET beat_id = beat_id + 1, beaten_at = greatest(beaten_at + interval '1 microsecond', clock_timestamp())
        WHERE id = 1 AND beaten_at <= clock_timestamp() - min_interval
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM beat)
$$;

ALTER FUNCTION atlas.beat_heart(min_interval interval) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    claim_time timestamptz := clock_timestamp();

BEGIN
    PERFORM prepare_lane(p_lane);

    INSERT INTO flush_positions AS f (lane, epoch, sequence, flushed_at)
    VALUES (p_lane, (extract(epoch FROM claim_time) * 1000000)::bigint, 0, claim_time)
    ON CONFLICT (lane) DO UPDATE SET epoch = greatest(f.epoch + 1, excluded.epoch)
    RETURNING f.epoch, f.sequence INTO epoch, sequence;

    INSERT INTO lane_epochs (lane, epoch, first_sequence, claimed_at)
    VALUES (p_lane, claim_lane.epoch, claim_lane.sequence + 1, claim_time);

    DELETE FROM lane_epochs AS old WHERE old.lane = p_lane AND old.claimed_at < now() - interval '90 days';

END
$$;

ALTER FUNCTION atlas.claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.empty_lane(p_lane smallint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('TRUNCATE staging.%I, staging.%I, staging.%I, staging.%I',
        format('lane_%s_a_points', p_lane), format('lane_%s_a_batches', p_lane),
        format('lane_%s_b_points', p_lane), format('lane_%s_b_batches', p_lane));

END
$$;

ALTER FUNCTION atlas.empty_lane(p_lane smallint) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.flush_lock() RETURNS bigint
    LANGUAGE sql IMMUTABLE
    AS $$SELECT 7310579681::bigint$$;

ALTER FUNCTION atlas.flush_lock() OWNER TO atlas_owner;

CREATE FUNCTION atlas.flushes_in_flight() RETURNS text[]
    LANGUAGE sql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(virtualtransaction), '{}')
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) + objid::bigint = flush_lock()
$$;

ALTER FUNCTION atlas.flushes_in_flight() OWNER TO atlas_owner;

CREATE FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    AS $$
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

ALTER FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) OWNER TO atlas_owner;

CREATE FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
DECLARE
    known jsonb;

BEGIN
    EXECUTE format($sql$
        INSERT INTO source_offsets (topic, partition, next_offset, stored_at)
        SELECT DISTINCT b.topic, b.partition, 0, $1 FROM %s AS b WHERE b.source_offset IS NOT NULL
        ORDER BY b.topic, b.partition
        ON CONFLICT DO NOTHING
        $sql$, batches)
    USING flushed_at;

    EXECUTE format($sql$
        SELECT FROM source_offsets AS o
        WHERE (o.topic, o.partition) IN (
            SELECT b.topic, b.partition FROM %s AS b WHERE b.source_offset IS NOT NULL)
        ORDER BY o.topic, o.partition FOR NO KEY UPDATE
        $sql$, batches);

    EXECUTE format($sql$
        WITH moved AS (
            UPDATE source_offsets AS o SET next_offset = n.next_offset, stored_at = $4
            FROM (
                SELECT b.topic, b.partition, max(b.source_offset) + 1 AS next_offset
                FROM %1$s AS b WHERE b.source_offset IS NOT NULL GROUP BY b.topic, b.partition
            ) AS n
            WHERE o.topic = n.topic AND o.partition = n.partition AND o.next_offset < n.next_offset
        )
        SELECT coalesce(jsonb_agg(jsonb_build_object('batch_no', b.batch_no, 'reason', 'duplicate',
            'lane', $1, 'epoch', $2, 'sequence', $3, 'body_hash', '', 'answer', '')), '[]')
        FROM (
            SELECT d.*, row_number() OVER (PARTITION BY d.topic, d.partition, d.source_offset ORDER BY d.batch_no) AS n
            FROM %1$s AS d WHERE d.source_offset IS NOT NULL
        ) AS b
        JOIN source_offsets AS o ON o.topic = b.topic AND o.partition = b.partition
        WHERE b.source_offset < o.next_offset OR b.n > 1
        $sql$, batches)
    INTO known USING p_lane, p_epoch, p_sequence, flushed_at;

    RETURN known;

END
$_$;

ALTER FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
DECLARE
    known jsonb;

BEGIN
    EXECUTE format($sql$
        INSERT INTO write_requests
            (tenant_id, request_id, bucket, lane, epoch, sequence, batch_no, body_hash, answer, stored_at)
        SELECT DISTINCT ON (b.tenant_id, b.request_id)
            b.tenant_id, b.request_id, $1, $2, $3, $4, b.batch_no, b.body_hash, b.answer, $5
        FROM %s AS b
        WHERE b.request_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM write_requests AS w WHERE w.tenant_id = b.tenant_id AND w.request_id = b.request_id)
        ORDER BY b.tenant_id, b.request_id, b.batch_no
        ON CONFLICT DO NOTHING
        $sql$, batches)
    USING ledger_bucket, p_lane, p_epoch, p_sequence, flushed_at;

    EXECUTE format($sql$
        SELECT coalesce(jsonb_agg(jsonb_build_object('batch_no', b.batch_no, 'reason', 'duplicate',
            'lane', w.lane, 'epoch', w.epoch, 'sequence', w.sequence,
            'body_hash', encode(w.body_hash, 'hex'), 'answer', encode(w.answer, 'hex'))), '[]')
        FROM %s AS b
        JOIN write_requests AS w ON w.tenant_id = b.tenant_id AND w.request_id = b.request_id
        WHERE (w.lane, w.epoch, w.sequence, w.batch_no) <> ($1, $2, $3, b.batch_no)
        $sql$, batches)
    INTO known USING p_lane, p_epoch, p_sequence;

    RETURN known;

END
$_$;

ALTER FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
DECLARE
    known jsonb;

BEGIN
    EXECUTE format($sql$
        INSERT INTO producer_positions
            (tenant_id, producer_id, sequence, lane, epoch, flush_sequence, stored_at)
        SELECT DISTINCT b.tenant_id, b.producer_id, 0, $1, $2, $3, $4
        FROM %s AS b WHERE b.producer_id IS NOT NULL
        ORDER BY b.tenant_id, b.producer_id
        ON CONFLICT DO NOTHING
        $sql$, batches)
    USING p_lane, p_epoch, p_sequence, flushed_at;

    EXECUTE format($sql$
        SELECT FROM producer_positions AS p
        WHERE (p.tenant_id, p.producer_id) IN (
            SELECT b.tenant_id, b.producer_id FROM %s AS b WHERE b.producer_id IS NOT NULL)
        ORDER BY p.tenant_id, p.producer_id FOR NO KEY UPDATE
        $sql$, batches);

    EXECUTE format($sql$
        WITH fresh AS (
            SELECT DISTINCT ON (b.tenant_id, b.producer_id, b.producer_sequence)
                b.tenant_id, b.producer_id, b.producer_sequence, b.batch_no, p.sequence AS stored
            FROM %1$s AS b
            JOIN producer_positions AS p ON p.tenant_id = b.tenant_id AND p.producer_id = b.producer_id
            WHERE b.producer_sequence > p.sequence
            ORDER BY b.tenant_id, b.producer_id, b.producer_sequence, b.batch_no
        ), numbered AS (
            SELECT f.*, row_number() OVER (PARTITION BY f.tenant_id, f.producer_id ORDER BY f.producer_sequence) AS n
            FROM fresh AS f
        ), next AS (
            SELECT * FROM numbered WHERE producer_sequence = stored + n
        ), reached AS (
            SELECT tenant_id, producer_id, max(producer_sequence) AS sequence FROM next GROUP BY tenant_id, producer_id
        ), moved AS (
            UPDATE producer_positions AS p
            SET sequence = r.sequence, lane = $1, epoch = $2, flush_sequence = $3, stored_at = $4
            FROM reached AS r WHERE p.tenant_id = r.tenant_id AND p.producer_id = r.producer_id
        )
        SELECT coalesce(jsonb_agg(jsonb_build_object('batch_no', b.batch_no,
            'reason', CASE WHEN b.producer_sequence <= coalesce(r.sequence, p.sequence) THEN 'duplicate' ELSE 'gap' END,
            'lane', p.lane, 'epoch', p.epoch, 'sequence', p.flush_sequence, 'body_hash', '', 'answer', '',
            'expected', coalesce(r.sequence, p.sequence) + 1)), '[]')
        FROM %1$s AS b
        JOIN producer_positions AS p ON p.tenant_id = b.tenant_id AND p.producer_id = b.producer_id
        LEFT JOIN reached AS r ON r.tenant_id = b.tenant_id AND r.producer_id = b.producer_id
        WHERE NOT EXISTS (SELECT FROM next AS n WHERE n.batch_no = b.batch_no)
        $sql$, batches)
    INTO known USING p_lane, p_epoch, p_sequence, flushed_at;

    RETURN known;

END
$_$;

ALTER FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.lane_is_owned(p_lane smallint) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND classid = lane_lock_class() AND objid = p_lane)
$$;

ALTER FUNCTION atlas.lane_is_owned(p_lane smallint) OWNER TO atlas_owner;

CREATE FUNCTION atlas.lane_leftovers(p_lane smallint) RETURNS TABLE(half text, sequence bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
BEGIN
    RETURN QUERY EXECUTE format($sql$
        SELECT h.half, h.sequence FROM (
            SELECT 'a', (SELECT min(sequence) FROM staging.%1$I),
                EXISTS (SELECT FROM staging.%1$I) OR EXISTS (SELECT FROM staging.%2$I)
            UNION ALL
            SELECT 'b', (SELECT min(sequence) FROM staging.%3$I),
                EXISTS (SELECT FROM staging.%3$I) OR EXISTS (SELECT FROM staging.%4$I)
        ) AS h (half, sequence, filled)
        WHERE h.filled ORDER BY h.sequence NULLS FIRST, h.half
        $sql$, format('lane_%s_a_batches', p_lane), format('lane_%s_a_points', p_lane),
        format('lane_%s_b_batches', p_lane), format('lane_%s_b_points', p_lane));

END
$_$;

ALTER FUNCTION atlas.lane_leftovers(p_lane smallint) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.lane_lock_class() RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$SELECT 727105796$$;

ALTER FUNCTION atlas.lane_lock_class() OWNER TO atlas_owner;

CREATE FUNCTION atlas.maintain_partitions(days_ahead integer DEFAULT 3) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.maintain_partitions(days_ahead integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.orphaned_lanes() RETURNS SETOF smallint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $$
DECLARE
    candidate smallint;

BEGIN
    FOR candidate IN
        SELECT f.lane FROM flush_positions AS f
        WHERE to_regclass(format('staging.%I', format('lane_%s_b_batches', f.lane))) IS NOT NULL
          AND NOT lane_is_owned(f.lane)
        ORDER BY f.lane
    LOOP
        BEGIN
            IF EXISTS (SELECT FROM lane_leftovers(candidate)) THEN
                RETURN NEXT candidate;

            END IF;

        EXCEPTION WHEN lock_not_available THEN
            NULL; -- Somebody has just begun to flush it.
        END;

    END LOOP;

END
$$;

ALTER FUNCTION atlas.orphaned_lanes() OWNER TO atlas_flusher;

CREATE FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT CASE
        WHEN f.epoch = p_epoch AND f.sequence >= p_sequence THEN 'reached'
        WHEN later.first_sequence > p_sequence THEN 'reached'
        WHEN later.first_sequence IS NOT NULL THEN 'lost'
        ELSE 'pending'
    END
    FROM (VALUES (1)) AS one
    LEFT JOIN flush_positions AS f ON f.lane = p_lane
    LEFT JOIN LATERAL (
        SELECT first_sequence FROM lane_epochs
        WHERE lane = p_lane AND epoch > p_epoch
        ORDER BY epoch LIMIT 1
    ) AS later ON true
$$;

ALTER FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) OWNER TO atlas_owner;

CREATE FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
DECLARE
    half text;

    points text;

    batches text;

BEGIN
    FOREACH half IN ARRAY ARRAY['a', 'b'] LOOP
        points := format('staging.%I', format('lane_%s_%s_points', p_lane, half));

        batches := format('staging.%I', format('lane_%s_%s_batches', p_lane, half));

        CONTINUE WHEN to_regclass(points) IS NOT NULL AND to_regclass(batches) IS NOT NULL;

        EXECUTE format($sql$
            CREATE UNLOGGED TABLE IF NOT EXISTS %s (
                batch_no integer NOT NULL,
                tenant_id integer NOT NULL,
                entity_id bigint NOT NULL,
                attribute_id integer NOT NULL,
                event_time timestamptz NOT NULL,
                quality smallint NOT NULL,
                value_bool boolean,
                value_int bigint,
                value_double double precision,
                value_decimal numeric,
                value_text text,
                value_time timestamptz,
                value_json jsonb
            ) WITH (autovacuum_enabled = false)
            $sql$, points);

        -- sequence: of the flush that the half is meant for. Of request_id, producer_* and topic/partition/
        -- source_offset at most one is set: by which of them a repetition is known. dead_*: its dead letter.
        EXECUTE format($sql$
            CREATE UNLOGGED TABLE IF NOT EXISTS %s (
                batch_no integer NOT NULL,
                tenant_id integer NOT NULL,
                request_id text,
                body_hash bytea NOT NULL,
                answer bytea NOT NULL,
                sequence bigint,
                producer_id text,
                producer_sequence bigint,
                topic text,
                partition integer,
                source_offset bigint,
                dead_source text,
                dead_reason text,
                dead_message text,
                dead_raw bytea
            ) WITH (autovacuum_enabled = false)
            $sql$, batches);

        -- INSERT only: what waits in staging belongs to many tenants and is nobody's to read.
        EXECUTE format('GRANT INSERT ON %s, %s TO atlas_ingest', points, batches);

    END LOOP;

    SELECT f.epoch, f.sequence INTO epoch, sequence FROM flush_positions AS f WHERE f.lane = p_lane;

END
$_$;

ALTER FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    state text;

BEGIN
    SELECT h.beat_id, h.beaten_at INTO beat_id, beaten_at FROM replication_heartbeat AS h WHERE h.id = 1;

    IF not_before IS NOT NULL AND (beaten_at IS NULL OR beaten_at < not_before) THEN
        RAISE EXCEPTION 'newest heartbeat here is of %, want %', beaten_at, not_before USING ERRCODE = 'AT001';

    END IF;

    FOR i IN 1 .. coalesce(cardinality(lanes), 0) LOOP
        state := position_state(lanes[i], epochs[i], sequences[i]);

        IF state = 'lost' THEN
            RAISE EXCEPTION 'position (%, %, %) is lost', lanes[i], epochs[i], sequences[i] USING ERRCODE = 'AT002';

        ELSIF state = 'pending' THEN
            RAISE EXCEPTION 'position (%, %, %) is not here yet', lanes[i], epochs[i], sequences[i]
                USING ERRCODE = 'AT001';

        END IF;

    END LOOP;

END
$$;

ALTER FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.stage_flush(p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint, OUT flushed_at timestamp with time zone, OUT point_count bigint, OUT duplicates jsonb, OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET work_mem TO '64MB'
    AS $_$
DECLARE
    points text := format('staging.%I', format('lane_%s_%s_points', p_lane, p_half));

    batches text := format('staging.%I', format('lane_%s_%s_batches', p_lane, p_half));

    ledger_bucket date;

    skip_batches integer[];

BEGIN
    IF p_half NOT IN ('a', 'b') THEN
        RAISE EXCEPTION 'half is %, want a or b', p_half USING ERRCODE = 'invalid_parameter_value';

    END IF;

    -- First the lock, then the clock: a seal announced after this moment waits for us, one announced
    -- before it is visible in flush_control now.
    PERFORM pg_advisory_xact_lock_shared(flush_lock());

    SELECT greatest(clock_timestamp(), c.sealed_before), c.ledger_bucket
    INTO flushed_at, ledger_bucket FROM flush_control AS c WHERE c.id = 1;

    UPDATE flush_positions AS f SET sequence = p_sequence, flushed_at = stage_flush.flushed_at
    WHERE f.lane = p_lane AND f.epoch = p_epoch AND f.sequence = p_sequence - 1;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'lane % is not at epoch %, sequence %', p_lane, p_epoch, p_sequence - 1
            USING ERRCODE = 'AT003';

    END IF;

    duplicates := known_requests(batches::regclass, p_lane, p_epoch, p_sequence, ledger_bucket, flushed_at)
        || known_sequences(batches::regclass, p_lane, p_epoch, p_sequence, flushed_at)
        || known_offsets(batches::regclass, p_lane, p_epoch, p_sequence, flushed_at);

    SELECT coalesce(array_agg((d ->> 'batch_no')::integer), '{}') INTO skip_batches
    FROM jsonb_array_elements(duplicates) AS d;

    EXECUTE format($sql$
        INSERT INTO ingest_dead_letters
            (tenant_id, source, topic, partition, source_offset, request_id, reason, message, raw, stored_at)
        SELECT b.tenant_id, b.dead_source, b.topic, b.partition, b.source_offset, b.request_id,
            b.dead_reason, b.dead_message, b.dead_raw, $2
        FROM %s AS b WHERE b.dead_reason IS NOT NULL AND b.batch_no <> ALL ($1)
        ORDER BY b.batch_no
        $sql$, batches)
    USING skip_batches, flushed_at;

    -- In index order: the b-tree's leaf pages are then touched one after another. Then in order of arrival:
    -- of two points of one event time the later one lies behind.
    EXECUTE format($sql$
        INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time, ingested_at, value_int,
            value_double, value_time, quality, value_bool, value_decimal, value_text, value_json)
        SELECT tenant_id, attribute_id, entity_id, event_time, $2, value_int,
            value_double, value_time, quality, value_bool, value_decimal, value_text, value_json
        FROM %s WHERE batch_no <> ALL ($1)
        ORDER BY tenant_id, entity_id, attribute_id, event_time, ctid
        $sql$, points)
    USING skip_batches, flushed_at;

    GET DIAGNOSTICS point_count = ROW_COUNT;

    SELECT array_agg(u.tenant_id), array_agg(u.entity_id), array_agg(u.version)
    INTO changed_tenants, changed_entities, changed_versions
    FROM upsert_hot_attrs(points::regclass, skip_batches, flushed_at) AS u;

    EXECUTE format('TRUNCATE %s, %s', points, batches);

END
$_$;

ALTER FUNCTION atlas.stage_flush(p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint, OUT flushed_at timestamp with time zone, OUT point_count bigint, OUT duplicates jsonb, OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.staging_status() RETURNS TABLE(lane smallint, owned boolean, epoch bigint, sequence bigint, flushed_at timestamp with time zone, staged_points bigint, staged_bytes bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $$
DECLARE
    half_points bigint;

    half text;

BEGIN
    FOR lane, epoch, sequence, flushed_at IN
        SELECT f.lane, f.epoch, f.sequence, f.flushed_at FROM flush_positions AS f ORDER BY f.lane
    LOOP
        owned := lane_is_owned(lane);

        staged_points := 0;

        staged_bytes := 0;

        FOREACH half IN ARRAY ARRAY['a', 'b'] LOOP
            BEGIN
                EXECUTE format('SELECT count(*) FROM staging.%I', format('lane_%s_%s_points', lane, half))
                INTO half_points;

                staged_points := staged_points + half_points;

                staged_bytes := staged_bytes
                    + pg_relation_size(to_regclass(format('staging.%I', format('lane_%s_%s_points', lane, half))));

            EXCEPTION WHEN undefined_table OR lock_not_available THEN
                NULL; -- Never used, or being emptied right now.
            END;

        END LOOP;

        RETURN NEXT;

    END LOOP;

END
$$;

ALTER FUNCTION atlas.staging_status() OWNER TO atlas_flusher;

CREATE FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) RETURNS TABLE(tenant_id integer, entity_id bigint, version bigint)
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
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
                SELECT e.attrs || jsonb_object_agg(n.key, excluded.attrs -> n.key),
                    e.attr_times || jsonb_object_agg(n.key, n.value)
                FROM jsonb_each(excluded.attr_times) AS n
                WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
            )
        WHERE EXISTS (
            SELECT FROM jsonb_each(excluded.attr_times) AS n
            WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
        )
        RETURNING e.tenant_id, e.entity_id, e.version
        $sql$, points)
    USING skip_batches, (extract(epoch FROM flushed_at) * 1000000)::bigint;

END
$_$;

ALTER FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) OWNER TO atlas_owner;

CREATE TABLE atlas.attribute_access (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    hour timestamp with time zone NOT NULL,
    read_count bigint DEFAULT 0 NOT NULL,
    filter_count bigint DEFAULT 0 NOT NULL
);

ALTER TABLE ONLY atlas.attribute_access FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.attribute_access OWNER TO atlas_owner;

CREATE TABLE atlas.attributes (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    name text NOT NULL,
    data_type text NOT NULL,
    unit text DEFAULT ''::text NOT NULL,
    validation_regex text DEFAULT ''::text NOT NULL,
    min_value numeric,
    max_value numeric,
    allowed_values text[] DEFAULT '{}'::text[] NOT NULL,
    is_hot boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT attributes_data_type_check CHECK ((data_type = ANY (ARRAY['bool'::text, 'int'::text, 'double'::text, 'decimal'::text, 'text'::text, 'time'::text, 'json'::text]))),
    CONSTRAINT attributes_name_check CHECK (((octet_length(name) >= 1) AND (octet_length(name) <= 128)))
);

ALTER TABLE ONLY atlas.attributes FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.attributes OWNER TO atlas_owner;

ALTER TABLE atlas.attributes ALTER COLUMN attribute_id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME atlas.attributes_attribute_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.entities (
    tenant_id integer NOT NULL,
    entity_id bigint NOT NULL,
    key text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT entities_key_check CHECK (((octet_length(key) >= 1) AND (octet_length(key) <= 256)))
);

ALTER TABLE ONLY atlas.entities FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.entities OWNER TO atlas_owner;

ALTER TABLE atlas.entities ALTER COLUMN entity_id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME atlas.entities_entity_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.entity_jsonb (
    tenant_id integer NOT NULL,
    entity_id bigint NOT NULL,
    version bigint NOT NULL,
    attrs jsonb NOT NULL,
    attr_times jsonb NOT NULL
)
WITH (fillfactor='80');

ALTER TABLE ONLY atlas.entity_jsonb FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_jsonb OWNER TO atlas_owner;

CREATE TABLE atlas.entity_values_ts (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    entity_id bigint NOT NULL,
    event_time timestamp with time zone NOT NULL,
    ingested_at timestamp with time zone NOT NULL,
    value_int bigint,
    value_double double precision,
    value_time timestamp with time zone,
    quality smallint DEFAULT 0 NOT NULL,
    value_bool boolean,
    value_decimal numeric(38,18),
    value_text text,
    value_json jsonb,
    CONSTRAINT entity_values_ts_one_value CHECK ((num_nonnulls(value_bool, value_int, value_double, value_decimal, value_text, value_time, value_json) = 1))
)
PARTITION BY RANGE (ingested_at);

ALTER TABLE ONLY atlas.entity_values_ts FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_values_ts OWNER TO atlas_owner;

CREATE TABLE atlas.entity_values_ts_default (
    tenant_id integer CONSTRAINT entity_values_ts_tenant_id_not_null NOT NULL,
    attribute_id integer CONSTRAINT entity_values_ts_attribute_id_not_null NOT NULL,
    entity_id bigint CONSTRAINT entity_values_ts_entity_id_not_null NOT NULL,
    event_time timestamp with time zone CONSTRAINT entity_values_ts_event_time_not_null NOT NULL,
    ingested_at timestamp with time zone CONSTRAINT entity_values_ts_ingested_at_not_null NOT NULL,
    value_int bigint,
    value_double double precision,
    value_time timestamp with time zone,
    quality smallint DEFAULT 0 CONSTRAINT entity_values_ts_quality_not_null NOT NULL,
    value_bool boolean,
    value_decimal numeric(38,18),
    value_text text,
    value_json jsonb,
    CONSTRAINT entity_values_ts_one_value CHECK ((num_nonnulls(value_bool, value_int, value_double, value_decimal, value_text, value_time, value_json) = 1))
);

ALTER TABLE ONLY atlas.entity_values_ts_default REPLICA IDENTITY FULL;

ALTER TABLE ONLY atlas.entity_values_ts_default FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_values_ts_default OWNER TO atlas_owner;

CREATE TABLE atlas.flush_control (
    id smallint DEFAULT 1 NOT NULL,
    sealed_before timestamp with time zone NOT NULL,
    ledger_bucket date NOT NULL,
    CONSTRAINT flush_control_id_check CHECK ((id = 1))
);

ALTER TABLE atlas.flush_control OWNER TO atlas_owner;

CREATE TABLE atlas.flush_positions (
    lane smallint NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    flushed_at timestamp with time zone NOT NULL,
    CONSTRAINT flush_positions_lane_check CHECK (((lane >= 0) AND (lane <= 255)))
);

ALTER TABLE atlas.flush_positions OWNER TO atlas_owner;

CREATE TABLE atlas.ingest_dead_letters (
    tenant_id integer NOT NULL,
    dead_letter_id bigint NOT NULL,
    source text NOT NULL,
    topic text,
    partition integer,
    source_offset bigint,
    request_id text,
    reason text NOT NULL,
    message text NOT NULL,
    raw bytea NOT NULL,
    stored_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY atlas.ingest_dead_letters FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.ingest_dead_letters OWNER TO atlas_owner;

ALTER TABLE atlas.ingest_dead_letters ALTER COLUMN dead_letter_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME atlas.ingest_dead_letters_dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.lane_epochs (
    lane smallint NOT NULL,
    epoch bigint NOT NULL,
    first_sequence bigint NOT NULL,
    claimed_at timestamp with time zone NOT NULL
);

ALTER TABLE atlas.lane_epochs OWNER TO atlas_owner;

CREATE TABLE atlas.producer_positions (
    tenant_id integer NOT NULL,
    producer_id text NOT NULL,
    sequence bigint NOT NULL,
    lane smallint NOT NULL,
    epoch bigint NOT NULL,
    flush_sequence bigint NOT NULL,
    stored_at timestamp with time zone NOT NULL,
    CONSTRAINT producer_positions_producer_id_check CHECK (((octet_length(producer_id) >= 1) AND (octet_length(producer_id) <= 128)))
);

ALTER TABLE ONLY atlas.producer_positions FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.producer_positions OWNER TO atlas_owner;

CREATE TABLE atlas.replication_heartbeat (
    id smallint DEFAULT 1 NOT NULL,
    beat_id bigint NOT NULL,
    beaten_at timestamp with time zone NOT NULL,
    CONSTRAINT replication_heartbeat_id_check CHECK ((id = 1))
)
WITH (fillfactor='50');

ALTER TABLE atlas.replication_heartbeat OWNER TO atlas_owner;

CREATE TABLE atlas.retention_classes (
    retention_class text NOT NULL,
    keep interval,
    action text DEFAULT 'drop'::text NOT NULL,
    CONSTRAINT retention_classes_action_check CHECK ((action = ANY (ARRAY['drop'::text, 'archive'::text]))),
    CONSTRAINT retention_classes_keep_check CHECK ((keep > '00:00:00'::interval)),
    CONSTRAINT retention_classes_retention_class_check CHECK ((retention_class ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'::text))
);

ALTER TABLE atlas.retention_classes OWNER TO atlas_owner;

CREATE TABLE atlas.source_offsets (
    topic text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    stored_at timestamp with time zone NOT NULL
);

ALTER TABLE atlas.source_offsets OWNER TO atlas_owner;

CREATE TABLE atlas.tenants (
    tenant_id integer NOT NULL,
    key text NOT NULL,
    display_name text DEFAULT ''::text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    unknown_attribute_policy text DEFAULT 'reject'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retention_class text DEFAULT 'standard'::text NOT NULL,
    late_data_window interval,
    CONSTRAINT tenants_key_check CHECK ((key ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
    CONSTRAINT tenants_late_data_window_check CHECK ((late_data_window > '00:00:00'::interval)),
    CONSTRAINT tenants_status_check CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text]))),
    CONSTRAINT tenants_unknown_attribute_policy_check CHECK ((unknown_attribute_policy = ANY (ARRAY['reject'::text, 'register'::text])))
);

ALTER TABLE ONLY atlas.tenants FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.tenants OWNER TO atlas_owner;

ALTER TABLE atlas.tenants ALTER COLUMN tenant_id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME atlas.tenants_tenant_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.write_requests (
    tenant_id integer NOT NULL,
    request_id text NOT NULL,
    bucket date NOT NULL,
    lane smallint NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    batch_no integer NOT NULL,
    body_hash bytea NOT NULL,
    answer bytea NOT NULL,
    stored_at timestamp with time zone NOT NULL
)
PARTITION BY RANGE (bucket);

ALTER TABLE ONLY atlas.write_requests FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.write_requests OWNER TO atlas_owner;

CREATE TABLE atlas.write_requests_default (
    tenant_id integer CONSTRAINT write_requests_tenant_id_not_null NOT NULL,
    request_id text CONSTRAINT write_requests_request_id_not_null NOT NULL,
    bucket date CONSTRAINT write_requests_bucket_not_null NOT NULL,
    lane smallint CONSTRAINT write_requests_lane_not_null NOT NULL,
    epoch bigint CONSTRAINT write_requests_epoch_not_null NOT NULL,
    sequence bigint CONSTRAINT write_requests_sequence_not_null NOT NULL,
    batch_no integer CONSTRAINT write_requests_batch_no_not_null NOT NULL,
    body_hash bytea CONSTRAINT write_requests_body_hash_not_null NOT NULL,
    answer bytea CONSTRAINT write_requests_answer_not_null NOT NULL,
    stored_at timestamp with time zone CONSTRAINT write_requests_stored_at_not_null NOT NULL
);

ALTER TABLE ONLY atlas.write_requests_default FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.write_requests_default OWNER TO atlas_owner;

CREATE TABLE public.atlas_revision (
    version_num character varying(32) NOT NULL
);

ALTER TABLE public.atlas_revision OWNER TO postgres;

ALTER TABLE ONLY atlas.entity_values_ts ATTACH PARTITION atlas.entity_values_ts_default DEFAULT;

ALTER TABLE ONLY atlas.write_requests ATTACH PARTITION atlas.write_requests_default DEFAULT;

ALTER TABLE ONLY atlas.attribute_access
    ADD CONSTRAINT attribute_access_pkey PRIMARY KEY (tenant_id, attribute_id, hour);

ALTER TABLE ONLY atlas.attributes
    ADD CONSTRAINT attributes_name_unique UNIQUE (tenant_id, name);

ALTER TABLE ONLY atlas.attributes
    ADD CONSTRAINT attributes_pkey PRIMARY KEY (tenant_id, attribute_id);

ALTER TABLE ONLY atlas.entities
    ADD CONSTRAINT entities_key_unique UNIQUE (tenant_id, key);

ALTER TABLE ONLY atlas.entities
    ADD CONSTRAINT entities_pkey PRIMARY KEY (tenant_id, entity_id);

ALTER TABLE ONLY atlas.entity_jsonb
    ADD CONSTRAINT entity_jsonb_pkey PRIMARY KEY (tenant_id, entity_id);

ALTER TABLE ONLY atlas.flush_control
    ADD CONSTRAINT flush_control_pkey PRIMARY KEY (id);

ALTER TABLE ONLY atlas.flush_positions
    ADD CONSTRAINT flush_positions_pkey PRIMARY KEY (lane);

ALTER TABLE ONLY atlas.ingest_dead_letters
    ADD CONSTRAINT ingest_dead_letters_pkey PRIMARY KEY (tenant_id, dead_letter_id);

ALTER TABLE ONLY atlas.lane_epochs
    ADD CONSTRAINT lane_epochs_pkey PRIMARY KEY (lane, epoch);

ALTER TABLE ONLY atlas.producer_positions
    ADD CONSTRAINT producer_positions_pkey PRIMARY KEY (tenant_id, producer_id);

ALTER TABLE ONLY atlas.replication_heartbeat
    ADD CONSTRAINT replication_heartbeat_pkey PRIMARY KEY (id);

ALTER TABLE ONLY atlas.retention_classes
    ADD CONSTRAINT retention_classes_pkey PRIMARY KEY (retention_class);

ALTER TABLE ONLY atlas.source_offsets
    ADD CONSTRAINT source_offsets_pkey PRIMARY KEY (topic, partition);

ALTER TABLE ONLY atlas.tenants
    ADD CONSTRAINT tenants_key_unique UNIQUE (key);

ALTER TABLE ONLY atlas.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY atlas.write_requests
    ADD CONSTRAINT write_requests_pkey PRIMARY KEY (tenant_id, request_id, bucket);

ALTER TABLE ONLY atlas.write_requests_default
    ADD CONSTRAINT write_requests_default_pkey PRIMARY KEY (tenant_id, request_id, bucket);

ALTER TABLE ONLY public.atlas_revision
    ADD CONSTRAINT atlas_revision_pkc PRIMARY KEY (version_num);

CREATE INDEX entity_jsonb_attrs ON atlas.entity_jsonb USING gin (attrs jsonb_path_ops);

CREATE INDEX entity_values_ts_ingested ON ONLY atlas.entity_values_ts USING brin (ingested_at);

CREATE INDEX entity_values_ts_default_ingested_at_idx ON atlas.entity_values_ts_default USING brin (ingested_at);

CREATE INDEX entity_values_ts_latest ON ONLY atlas.entity_values_ts USING btree (tenant_id, entity_id, attribute_id, event_time DESC);

CREATE INDEX entity_values_ts_default_tenant_id_entity_id_attribute_id_e_idx ON atlas.entity_values_ts_default USING btree (tenant_id, entity_id, attribute_id, event_time DESC);

ALTER INDEX atlas.entity_values_ts_ingested ATTACH PARTITION atlas.entity_values_ts_default_ingested_at_idx;

ALTER INDEX atlas.entity_values_ts_latest ATTACH PARTITION atlas.entity_values_ts_default_tenant_id_entity_id_attribute_id_e_idx;

ALTER INDEX atlas.write_requests_pkey ATTACH PARTITION atlas.write_requests_default_pkey;

ALTER TABLE ONLY atlas.tenants
    ADD CONSTRAINT tenants_retention_class_known FOREIGN KEY (retention_class) REFERENCES atlas.retention_classes(retention_class);

ALTER TABLE atlas.attribute_access ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.attributes ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entities ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_jsonb ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_values_ts ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_values_ts_default ENABLE ROW LEVEL SECURITY;

CREATE POLICY flush ON atlas.attributes TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.entity_jsonb TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.entity_values_ts TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.ingest_dead_letters TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.producer_positions TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.write_requests TO atlas_flusher USING (true) WITH CHECK (true);

ALTER TABLE atlas.ingest_dead_letters ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.producer_positions ENABLE ROW LEVEL SECURITY;

CREATE POLICY registry_read ON atlas.tenants FOR SELECT TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING (true);

CREATE POLICY registry_write ON atlas.tenants FOR INSERT TO atlas_ingest WITH CHECK (true);

CREATE POLICY tenant_only ON atlas.attribute_access TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.attributes TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.entities TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.entity_jsonb TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.entity_values_ts TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.ingest_dead_letters TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.producer_positions TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.write_requests TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

ALTER TABLE atlas.tenants ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.write_requests ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.write_requests_default ENABLE ROW LEVEL SECURITY;

CREATE PUBLICATION atlas_warehouse WITH (publish = 'insert, update, delete', publish_via_partition_root = true);

ALTER PUBLICATION atlas_warehouse OWNER TO atlas_owner;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.attributes;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.entities;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.entity_values_ts;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.flush_positions;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.lane_epochs;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.replication_heartbeat;

ALTER PUBLICATION atlas_warehouse ADD TABLE ONLY atlas.tenants;

GRANT USAGE ON SCHEMA atlas TO atlas_flusher;

GRANT USAGE ON SCHEMA atlas TO atlas_ingest;

GRANT USAGE ON SCHEMA atlas TO atlas_hotcache;

GRANT USAGE ON SCHEMA atlas TO atlas_query;

GRANT USAGE ON SCHEMA atlas TO atlas_reconciler;

GRANT USAGE ON SCHEMA staging TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.announce_seal(until timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.announce_seal(until timestamp with time zone) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.beat_heart(min_interval interval) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.beat_heart(min_interval interval) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.beat_heart(min_interval interval) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.empty_lane(p_lane smallint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.empty_lane(p_lane smallint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.flush_lock() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.flushes_in_flight() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.flushes_in_flight() TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.lane_leftovers(p_lane smallint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_leftovers(p_lane smallint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.lane_lock_class() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_lock_class() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.lane_lock_class() TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.maintain_partitions(days_ahead integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.maintain_partitions(days_ahead integer) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.orphaned_lanes() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.orphaned_lanes() TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_query;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_query;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.stage_flush(p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint, OUT flushed_at timestamp with time zone, OUT point_count bigint, OUT duplicates jsonb, OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.stage_flush(p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint, OUT flushed_at timestamp with time zone, OUT point_count bigint, OUT duplicates jsonb, OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.staging_status() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.staging_status() TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) TO atlas_flusher;

GRANT SELECT ON TABLE atlas.attributes TO atlas_flusher;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.attributes TO atlas_ingest;

GRANT SELECT ON TABLE atlas.attributes TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.attributes TO atlas_query;

GRANT SELECT ON TABLE atlas.attributes TO atlas_reconciler;

GRANT SELECT,INSERT ON TABLE atlas.entities TO atlas_ingest;

GRANT SELECT ON TABLE atlas.entities TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.entities TO atlas_query;

GRANT SELECT ON TABLE atlas.entities TO atlas_reconciler;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.entity_jsonb TO atlas_flusher;

GRANT SELECT ON TABLE atlas.entity_jsonb TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.entity_jsonb TO atlas_query;

GRANT INSERT ON TABLE atlas.entity_values_ts TO atlas_flusher;

GRANT SELECT ON TABLE atlas.entity_values_ts TO atlas_query;

GRANT SELECT ON TABLE atlas.entity_values_ts TO atlas_reconciler;

GRANT SELECT,UPDATE ON TABLE atlas.flush_control TO atlas_flusher;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.flush_positions TO atlas_flusher;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_ingest;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_query;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_reconciler;

GRANT INSERT ON TABLE atlas.ingest_dead_letters TO atlas_flusher;

GRANT SELECT ON TABLE atlas.ingest_dead_letters TO atlas_ingest;

GRANT SELECT,INSERT,DELETE ON TABLE atlas.lane_epochs TO atlas_flusher;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_ingest;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_query;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_reconciler;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.producer_positions TO atlas_flusher;

GRANT SELECT ON TABLE atlas.producer_positions TO atlas_ingest;

GRANT SELECT,UPDATE ON TABLE atlas.replication_heartbeat TO atlas_flusher;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_ingest;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_query;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.retention_classes TO atlas_ingest;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.source_offsets TO atlas_flusher;

GRANT SELECT ON TABLE atlas.source_offsets TO atlas_ingest;

GRANT SELECT,INSERT ON TABLE atlas.tenants TO atlas_ingest;

GRANT SELECT ON TABLE atlas.tenants TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.tenants TO atlas_query;

GRANT SELECT ON TABLE atlas.tenants TO atlas_reconciler;

GRANT SELECT,INSERT ON TABLE atlas.write_requests TO atlas_flusher;

GRANT SELECT ON TABLE atlas.write_requests TO atlas_ingest;

