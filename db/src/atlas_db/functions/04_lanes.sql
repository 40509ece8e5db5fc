-- Lanes: one writer's private pair of staging halves, who owns them, what waits in them.
-- A lane is taken over like this, by whoever holds its session advisory lock: prepare_lane, then either
--   the former owner itself, if nobody claimed the lane meanwhile: empty_lane, and on with the epoch, or
--   anybody: stage_flush for each of lane_leftovers under the old epoch, then claim_lane.

-- First key of pg_try_advisory_lock(lane_lock_class(), lane), the session lock of a lane's owner.
CREATE OR REPLACE FUNCTION lane_lock_class() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 727105796';

-- First key of the lock that a flush of the lane holds, shared, until it ends.
CREATE OR REPLACE FUNCTION lane_flush_class() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 727105797';

-- Makes the lane's tables if they are missing; answers where the lane stands (NULLs: never used).
CREATE OR REPLACE FUNCTION prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
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
        -- sequence: of the flush that the half is meant for. request_id, producer_* or topic/partition/source_offset:
        -- by which of them a repetition is known; a topic's message can have a request_id too. dead_*: its dead letter.
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
                source_follows bigint,
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
$$;

-- Begins a new epoch of a lane, after whatever lay in its halves has been flushed under the old one.
CREATE OR REPLACE FUNCTION claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
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

-- The halves that hold something, in the order in which they were filled, with the sequence each is meant for
-- (NULL: filled by a release that did not say).
CREATE OR REPLACE FUNCTION lane_leftovers(p_lane smallint) RETURNS TABLE (half text, sequence bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
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
$$;

-- Throws away what lies in both halves: for an owner that still has all of it in memory.
CREATE OR REPLACE FUNCTION empty_lane(p_lane smallint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
BEGIN
    EXECUTE format('TRUNCATE staging.%I, staging.%I, staging.%I, staging.%I',
        format('lane_%s_a_points', p_lane), format('lane_%s_a_batches', p_lane),
        format('lane_%s_b_points', p_lane), format('lane_%s_b_batches', p_lane));
END
$$;

-- Puts a half that cannot be flushed aside as dead letters, batch by batch, its points as JSON; answers how many.
-- What the batches are known by is not entered: they are not stored.
CREATE OR REPLACE FUNCTION discard_half(p_lane smallint, p_half text, p_reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
DECLARE
    points text := format('staging.%I', format('lane_%s_%s_points', p_lane, p_half));
    batches text := format('staging.%I', format('lane_%s_%s_batches', p_lane, p_half));
    discarded bigint;
BEGIN
    EXECUTE format($sql$
        INSERT INTO ingest_dead_letters (tenant_id, source, topic, partition, source_offset, request_id,
            reason, message, raw, stored_at)
        SELECT p.tenant_id, 'lane ' || $1, min(b.topic), min(b.partition), min(b.source_offset),
            coalesce(min(b.request_id), min(format('%%s %%s', b.producer_id, b.producer_sequence))),
            'INTERNAL', $2, convert_to(json_agg(p ORDER BY p.ctid)::text, 'UTF8'), clock_timestamp()
        FROM %s AS p LEFT JOIN %s AS b ON b.batch_no = p.batch_no
        GROUP BY p.tenant_id, p.batch_no
        $sql$, points, batches)
    USING p_lane, p_reason;
    GET DIAGNOSTICS discarded = ROW_COUNT;
    EXECUTE format('TRUNCATE %s, %s', points, batches);
    RETURN discarded;
END
$$;

-- Lanes that hold something and have no owner: somebody's who died.
CREATE OR REPLACE FUNCTION orphaned_lanes() RETURNS SETOF smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '200ms' AS $$
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

-- Whether some session holds the lane's advisory lock.
CREATE OR REPLACE FUNCTION lane_is_owned(p_lane smallint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND classid = lane_lock_class() AND objid = p_lane)
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
        SELECT f.lane, f.epoch, f.sequence, f.flushed_at FROM flush_positions AS f
        WHERE f.lane <> projection_lane() -- Nothing is ever staged there.
        ORDER BY f.lane
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
