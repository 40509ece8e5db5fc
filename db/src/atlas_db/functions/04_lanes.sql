-- Lanes: one writer's private pair of staging halves, and the flush that moves a half onward.

-- Takes over a lane: makes its tables if they are missing and begins a new epoch. The caller holds the
-- session advisory lock of the lane; whatever an earlier owner left in the halves is the caller's to flush.
CREATE OR REPLACE FUNCTION claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
DECLARE
    half text;
    claim_time timestamptz := clock_timestamp();
BEGIN
    FOREACH half IN ARRAY ARRAY['a', 'b'] LOOP
        EXECUTE format($sql$
            CREATE UNLOGGED TABLE IF NOT EXISTS staging.%I (
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
            $sql$, format('lane_%s_%s_points', p_lane, half));
        EXECUTE format($sql$
            CREATE UNLOGGED TABLE IF NOT EXISTS staging.%I (
                batch_no integer NOT NULL,
                tenant_id integer NOT NULL,
                request_id text,
                body_hash bytea NOT NULL,
                answer bytea NOT NULL
            ) WITH (autovacuum_enabled = false)
            $sql$, format('lane_%s_%s_batches', p_lane, half));
        -- INSERT only: what waits in staging belongs to many tenants and is nobody's to read.
        EXECUTE format('GRANT INSERT ON staging.%I, staging.%I TO atlas_ingest',
            format('lane_%s_%s_points', p_lane, half), format('lane_%s_%s_batches', p_lane, half));
    END LOOP;

    INSERT INTO flush_positions AS f (lane, epoch, sequence, flushed_at)
    VALUES (p_lane, (extract(epoch FROM claim_time) * 1000000)::bigint, 0, claim_time)
    ON CONFLICT (lane) DO UPDATE SET epoch = greatest(f.epoch + 1, excluded.epoch)
    RETURNING f.epoch, f.sequence INTO epoch, sequence;

    INSERT INTO lane_epochs (lane, epoch, first_sequence, claimed_at)
    VALUES (p_lane, claim_lane.epoch, claim_lane.sequence + 1, claim_time);
    DELETE FROM lane_epochs AS old WHERE old.lane = p_lane AND old.claimed_at < now() - interval '90 days';
END
$$;

-- Moves one half of a lane into entity_values_ts and entity_jsonb, once. One transaction: the ledger, the
-- rows, the projection, the position, and the emptied half commit together or not at all.
--
-- p_sequence is the position the caller expects to make: an owner that lost the lane is told so
-- (AT003) before it changes anything. Duplicates come back as JSON objects {batch_no, lane, epoch,
-- sequence, body_hash, answer} of the request stored first (hex bytes); their points are dropped.
CREATE OR REPLACE FUNCTION stage_flush(
    p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint,
    OUT flushed_at timestamptz, OUT point_count bigint, OUT duplicates jsonb,
    OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
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

    -- Ordered, so that two lanes with the same requests wait for each other in one direction only.
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
        SELECT coalesce(array_agg(b.batch_no), '{}'), coalesce(jsonb_agg(jsonb_build_object(
            'batch_no', b.batch_no, 'lane', w.lane, 'epoch', w.epoch, 'sequence', w.sequence,
            'body_hash', encode(w.body_hash, 'hex'), 'answer', encode(w.answer, 'hex'))), '[]')
        FROM %s AS b
        JOIN write_requests AS w ON w.tenant_id = b.tenant_id AND w.request_id = b.request_id
        WHERE (w.lane, w.epoch, w.sequence, w.batch_no) <> ($1, $2, $3, b.batch_no)
        $sql$, batches)
    INTO skip_batches, duplicates USING p_lane, p_epoch, p_sequence;

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
$$;

-- What waits in staging, per lane; owned says whether some session holds the lane's advisory lock.
CREATE OR REPLACE FUNCTION staging_status()
RETURNS TABLE (lane smallint, owned boolean, epoch bigint, sequence bigint, flushed_at timestamptz,
               staged_points bigint, staged_bytes bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    half_points bigint;
    half text;
BEGIN
    FOR lane, epoch, sequence, flushed_at IN
        SELECT f.lane, f.epoch, f.sequence, f.flushed_at FROM flush_positions AS f ORDER BY f.lane
    LOOP
        owned := EXISTS (
            SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
            AND classid = lane_lock_class() AND objid = staging_status.lane);
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

-- First key of pg_try_advisory_lock(lane_lock_class(), lane), the session lock of a lane's owner.
CREATE OR REPLACE FUNCTION lane_lock_class() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 727105796';
