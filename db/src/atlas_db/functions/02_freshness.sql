-- Heartbeat, positions, seals: what freshness and reconciliation are decided by.

-- The timeline of the log that this server writes; NULL if it is in recovery, and writes none.
CREATE OR REPLACE FUNCTION written_timeline() RETURNS bigint
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT CASE
        WHEN NOT pg_is_in_recovery()
            THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
    END
$$;

-- Beats the heart unless it was beaten within min_interval; answers whether it beat. A beat's number is the log's
-- timeline, times 2^32, plus a count. So a copy's newest beat says of which history the copy is, and beats of a tail
-- that a failover lost are lower than all that came after it, however many they were.
CREATE OR REPLACE FUNCTION beat_heart(min_interval interval) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    WITH beat AS (
        UPDATE replication_heartbeat
        -- Never back, even if the clock steps: lag is a difference of beats.
        SET beat_id = greatest(beat_id + 1, written_timeline() << 32),
            beaten_at = greatest(beaten_at + interval '1 microsecond', clock_timestamp())
        WHERE id = 1 AND beaten_at <= clock_timestamp() - min_interval
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM beat)
$$;

-- reached, pending or lost: where this server stands to one position. See "positions" in docs/consistency.md.
CREATE OR REPLACE FUNCTION position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) RETURNS text
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
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

-- The guard of a read: the first statement of its REPEATABLE READ transaction, so that it judges the very
-- snapshot that is read. Raises AT001 when this server has not seen enough (another may, or later),
-- AT002 when a position can never be seen; else answers the newest beat it has seen.
CREATE OR REPLACE FUNCTION require_fresh(
    not_before timestamptz, lanes smallint[], epochs bigint[], sequences bigint[],
    OUT beat_id bigint, OUT beaten_at timestamptz
) LANGUAGE plpgsql STABLE SET search_path = atlas, pg_temp AS $$
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

-- The guard, and what the snapshot it has judged holds: when the transaction began by the server's clock, and how far each
-- lane is flushed. One trip with BEGIN for all that a read has to know and to prove.
CREATE OR REPLACE FUNCTION fresh_view(
    not_before timestamptz, lanes smallint[], epochs bigint[], sequences bigint[],
    OUT beat_id bigint, OUT beaten_at timestamptz, OUT begun_at timestamptz,
    OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]
) LANGUAGE plpgsql STABLE SET search_path = atlas, pg_temp AS $$
BEGIN
    SELECT g.beat_id, g.beaten_at INTO beat_id, beaten_at FROM require_fresh(not_before, lanes, epochs, sequences) AS g;
    SELECT coalesce(array_agg(f.lane ORDER BY f.lane), '{}'), coalesce(array_agg(f.epoch ORDER BY f.lane), '{}'),
        coalesce(array_agg(f.sequence ORDER BY f.lane), '{}')
    INTO held_lanes, held_epochs, held_sequences FROM flush_positions AS f;
    begun_at := transaction_timestamp();
END
$$;

-- The advisory lock that every flush holds shared from before it reads flush_control until it ends.
CREATE OR REPLACE FUNCTION flush_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 7310579681::bigint';

-- Announces that no flush from now on may store rows ingested before `until` (never in the future).
-- Flushes that began before may still be under way: commit, then wait until none of flushes_in_flight()
-- as of after that commit remains. Then the past is sealed. Writers never wait for this.
CREATE OR REPLACE FUNCTION announce_seal(until timestamptz) RETURNS timestamptz
LANGUAGE sql SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    UPDATE flush_control
    SET sealed_before = greatest(sealed_before, least(until, clock_timestamp()))
    WHERE id = 1
    RETURNING sealed_before
$$;

-- The transactions that hold the flush lock now.
CREATE OR REPLACE FUNCTION flushes_in_flight() RETURNS text[]
LANGUAGE sql VOLATILE SET search_path = atlas, pg_temp AS $$
    SELECT coalesce(array_agg(virtualtransaction), '{}')
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) + objid::bigint = flush_lock()
$$;
