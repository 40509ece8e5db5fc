-- The flush: one half of a lane becomes telemetry, projection, positions and dead letters.

-- Moves one half of a lane into entity_values_ts and entity_jsonb, once. One transaction: what was stored
-- before, the rows, the projection, the positions, and the emptied half commit together or not at all.
--
-- p_sequence is the position the caller expects to make: an owner that lost the lane is told so
-- (AT003) before it changes anything. Batches that are not stored come back in `duplicates`, as JSON objects
-- {batch_no, reason, lane, epoch, sequence, body_hash, answer, expected}: reason is duplicate, with the place,
-- the hash and the answer of what was stored first (hex bytes), or gap, with the sequence that is expected of
-- the producer, or the offset that is of the topic. Their points are dropped.
--
-- Everything that can be waited for is locked in one order, step after step and key after key: flushes of several
-- lanes wait for each other in one direction only.
CREATE OR REPLACE FUNCTION stage_flush(
    p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint,
    OUT flushed_at timestamptz, OUT point_count bigint, OUT duplicates jsonb,
    OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]
) LANGUAGE plpgsql SECURITY DEFINER
-- A flush sorts its rows by the index; enough for the largest half that is worth flushing at once.
SET search_path = atlas, pg_temp SET work_mem = '64MB' AS $$
DECLARE
    points text := format('staging.%I', format('lane_%s_%s_points', p_lane, p_half));
    batches text := format('staging.%I', format('lane_%s_%s_batches', p_lane, p_half));
    ledger_bucket date;
    skip_batches integer[];
BEGIN
    IF p_half NOT IN ('a', 'b') THEN
        RAISE EXCEPTION 'half is %, want a or b', p_half USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Nobody is kept out by this: it tells whose flush this session is, also while it waits (see flushing_lanes).
    PERFORM pg_advisory_xact_lock_shared(lane_flush_class(), p_lane);
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

    -- The ledger last: what does not follow must not enter it.
    duplicates := known_sequences(batches::regclass, p_lane, p_epoch, p_sequence, flushed_at)
        || known_offsets(batches::regclass, p_lane, p_epoch, p_sequence, flushed_at);
    SELECT coalesce(array_agg((d ->> 'batch_no')::integer), '{}') INTO skip_batches
    FROM jsonb_array_elements(duplicates) AS d;
    duplicates := duplicates
        || known_requests(batches::regclass, p_lane, p_epoch, p_sequence, ledger_bucket, flushed_at, skip_batches);
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

    -- Entity by entity, as the index has them: its leaf pages are then touched one after another. An entity is of one
    -- tenant, and a first key with many values sorts much faster than one with few. Then in order of arrival: of
    -- two points of one event time the later one lies behind.
    EXECUTE format($sql$
        INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time, ingested_at, value_int,
            value_double, value_time, quality, value_bool, value_decimal, value_text, value_json)
        SELECT tenant_id, attribute_id, entity_id, event_time, $2, value_int,
            value_double, value_time, quality, value_bool, value_decimal, value_text, value_json
        FROM %s WHERE batch_no <> ALL ($1)
        ORDER BY entity_id, attribute_id, event_time, ctid
        $sql$, points)
    USING skip_batches, flushed_at;
    GET DIAGNOSTICS point_count = ROW_COUNT;

    SELECT array_agg(u.tenant_id), array_agg(u.entity_id), array_agg(u.version)
    INTO changed_tenants, changed_entities, changed_versions
    FROM upsert_hot_attrs(points::regclass, skip_batches, flushed_at) AS u;

    PERFORM remember_flush(p_lane, p_epoch, p_sequence, changed_tenants, changed_entities, changed_versions);
    PERFORM empty_half(points::regclass, batches::regclass);
END
$$;

-- Keeps what the lane's latest 64 flushes changed, for a cache that was not told: not of one that changed so much
-- that a cache had better begin anew.
CREATE OR REPLACE FUNCTION remember_flush(
    p_lane smallint, p_epoch bigint, p_sequence bigint,
    tenants integer[], entities bigint[], versions bigint[]
) RETURNS void LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
DECLARE
    changed integer := coalesce(cardinality(entities), 0);
    is_kept boolean := changed <= 10000;
BEGIN
    INSERT INTO recent_flushes AS r
        (lane, slot, epoch, sequence, entity_count, changed_tenants, changed_entities, changed_versions)
    VALUES (p_lane, p_sequence % 64, p_epoch, p_sequence, changed,
        CASE WHEN is_kept THEN coalesce(tenants, '{}') END,
        CASE WHEN is_kept THEN coalesce(entities, '{}') END,
        CASE WHEN is_kept THEN coalesce(versions, '{}') END)
    ON CONFLICT (lane, slot) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence,
        entity_count = excluded.entity_count, changed_tenants = excluded.changed_tenants,
        changed_entities = excluded.changed_entities, changed_versions = excluded.changed_versions;
END
$$;

-- TRUNCATE makes new files, which takes longer than to delete a few rows. Deleted ones are read over by every later
-- flush until the files are made anew, so only while those are small.
CREATE OR REPLACE FUNCTION empty_half(points regclass, batches regclass) RETURNS void
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
BEGIN
    IF pg_table_size(points) + pg_table_size(batches) < 1024 * 1024 THEN
        EXECUTE format('DELETE FROM %s', points);
        EXECUTE format('DELETE FROM %s', batches);
    ELSE
        EXECUTE format('TRUNCATE %s, %s', points, batches);
    END IF;
END
$$;

-- The three functions below look each batch up by its key, whatever the planner thinks of tables that grow from nothing
-- to millions of rows between two looks at them: hence their settings.

-- Enters the half's request ids into the ledger, but for those of skip_batches; answers those that an earlier batch
-- has entered.
CREATE OR REPLACE FUNCTION known_requests(
    batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamptz,
    skip_batches integer[]
) RETURNS jsonb LANGUAGE plpgsql SET search_path = atlas, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    known jsonb;
    passed_on boolean;
BEGIN
    EXECUTE format($sql$
        INSERT INTO write_requests
            (tenant_id, request_id, bucket, lane, epoch, sequence, batch_no, body_hash, answer, stored_at)
        SELECT DISTINCT ON (b.tenant_id, b.request_id)
            b.tenant_id, b.request_id, $1, $2, $3, $4, b.batch_no, b.body_hash, b.answer, $5
        FROM %s AS b
        WHERE b.request_id IS NOT NULL AND b.batch_no <> ALL ($6) AND NOT EXISTS (
            SELECT FROM write_requests AS w WHERE w.tenant_id = b.tenant_id AND w.request_id = b.request_id)
        ORDER BY b.tenant_id, b.request_id, b.batch_no
        ON CONFLICT DO NOTHING
        $sql$, batches)
    USING ledger_bucket, p_lane, p_epoch, p_sequence, flushed_at, skip_batches;

    EXECUTE format($sql$
        SELECT coalesce(jsonb_agg(jsonb_build_object('batch_no', b.batch_no, 'reason', 'duplicate',
            'lane', w.lane, 'epoch', w.epoch, 'sequence', w.sequence,
            'body_hash', encode(w.body_hash, 'hex'), 'answer', encode(w.answer, 'hex'))), '[]'),
            coalesce(bool_or(b.source_offset IS NOT NULL AND b.body_hash <> w.body_hash), false)
        FROM %s AS b
        JOIN write_requests AS w ON w.tenant_id = b.tenant_id AND w.request_id = b.request_id
        WHERE b.batch_no <> ALL ($4) AND (w.lane, w.epoch, w.sequence, w.batch_no) <> ($1, $2, $3, b.batch_no)
        $sql$, batches)
    INTO known, passed_on USING p_lane, p_epoch, p_sequence, skip_batches;
    IF passed_on THEN
        -- Another lane has just stored a message's request id with another body, after known_offsets had looked and
        -- moved the offset past it. Once more: now it will be seen in time.
        RAISE EXCEPTION 'a request id was stored meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN known;
END
$$;

-- Moves producers on by the half's batches; answers the batches that do not follow: those at or before the stored
-- sequence are duplicates, those beyond the next one leave a gap.
CREATE OR REPLACE FUNCTION known_sequences(
    batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamptz
) RETURNS jsonb LANGUAGE plpgsql SET search_path = atlas, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
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
$$;

-- Moves the offsets of topics on by the half's batches; answers the batches that are not stored. Those before the
-- stored offset are duplicates. The others are stored in the order of their offsets as long as each follows the one
-- before: a reader says after which offset a message comes (source_follows), since topics have gaps of their own. So
-- nothing is ever skipped: whatever is lost on the way stops all that come after it, and its reader goes back.
-- A message whose request id the ledger has with another body stops them as well (as a duplicate with that body's
-- hash): its reader has it stored as a dead letter instead.
CREATE OR REPLACE FUNCTION known_offsets(
    batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamptz
) RETURNS jsonb LANGUAGE plpgsql SET search_path = atlas, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    has_messages boolean;
    known jsonb;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE source_offset IS NOT NULL)', batches) INTO has_messages;
    IF NOT has_messages THEN
        RETURN '[]';
    END IF;

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
        WITH messages AS (
            SELECT b.batch_no, b.topic, b.partition, b.source_offset, b.source_follows, b.body_hash, b.answer,
                o.next_offset AS stored, w.lane, w.epoch, w.sequence, w.body_hash AS first_hash,
                w.answer AS first_answer, coalesce(w.body_hash <> b.body_hash, false) AS is_reused,
                -- Which of them comes first is open until one is stored.
                EXISTS (SELECT FROM %1$s AS c WHERE c.tenant_id = b.tenant_id AND c.request_id = b.request_id
                    AND c.batch_no < b.batch_no AND c.body_hash <> b.body_hash) AS is_contested
            FROM %1$s AS b
            JOIN source_offsets AS o ON o.topic = b.topic AND o.partition = b.partition
            LEFT JOIN write_requests AS w ON w.tenant_id = b.tenant_id AND w.request_id = b.request_id
        ), fresh AS (
            SELECT DISTINCT ON (topic, partition, source_offset) *
            FROM messages WHERE source_offset >= stored
            ORDER BY topic, partition, source_offset, batch_no
        ), chained AS (
            SELECT f.*, coalesce(lag(f.source_offset) OVER (
                PARTITION BY f.topic, f.partition ORDER BY f.source_offset) + 1, f.stored) AS reached
            FROM fresh AS f
        ), judged AS (
            SELECT c.*, bool_and(
                coalesce(c.source_follows <= c.reached, true) AND NOT c.is_reused AND NOT c.is_contested
            ) OVER (PARTITION BY c.topic, c.partition ORDER BY c.source_offset) AS is_next
            FROM chained AS c
        ), moved AS (
            UPDATE source_offsets AS o SET next_offset = n.next_offset, stored_at = $4
            FROM (
                SELECT topic, partition, max(source_offset) + 1 AS next_offset
                FROM judged WHERE is_next GROUP BY topic, partition
            ) AS n
            WHERE o.topic = n.topic AND o.partition = n.partition
            RETURNING o.topic, o.partition, o.next_offset
        ), reported AS (
            SELECT m.*, m.source_offset < m.stored OR j.is_next AS is_stored,
                coalesce(n.next_offset, m.stored) AS expected
            FROM messages AS m
            LEFT JOIN judged AS j
                ON j.topic = m.topic AND j.partition = m.partition AND j.source_offset = m.source_offset
            LEFT JOIN moved AS n ON n.topic = m.topic AND n.partition = m.partition
            WHERE m.source_offset < m.stored OR NOT j.is_next OR j.batch_no <> m.batch_no
        )
        SELECT coalesce(jsonb_agg(CASE
            WHEN is_stored THEN jsonb_build_object('batch_no', batch_no, 'reason', 'duplicate',
                'lane', $1, 'epoch', $2, 'sequence', $3,
                'body_hash', encode(body_hash, 'hex'), 'answer', encode(answer, 'hex'))
            WHEN is_reused THEN jsonb_build_object('batch_no', batch_no, 'reason', 'duplicate',
                'lane', lane, 'epoch', epoch, 'sequence', sequence,
                'body_hash', encode(first_hash, 'hex'), 'answer', encode(first_answer, 'hex'))
            ELSE jsonb_build_object('batch_no', batch_no, 'reason', 'gap', 'lane', $1, 'epoch', $2, 'sequence', $3,
                'body_hash', '', 'answer', '', 'expected', expected)
        END), '[]')
        FROM reported
        $sql$, batches)
    INTO known USING p_lane, p_epoch, p_sequence, flushed_at;
    RETURN known;
END
$$;
