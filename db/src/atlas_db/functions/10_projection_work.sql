-- Work on the projection in batches: what the points say is put into entity_jsonb, or compared with it.

-- The latest point of an entity's attribute, as entity_jsonb has it; no row if there is none. Of equal event times the
-- last to arrive. STABLE and one statement, so that it is inlined.
CREATE OR REPLACE FUNCTION latest_point(p_tenant integer, p_entity bigint, p_attribute integer)
RETURNS TABLE (value jsonb, event_us bigint) LANGUAGE sql STABLE AS $$
    SELECT hot_value(p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text, p.value_time, p.value_json),
        (extract(epoch FROM p.event_time) * 1000000)::bigint
    FROM entity_values_ts AS p
    WHERE p.tenant_id = p_tenant AND p.entity_id = p_entity AND p.attribute_id = p_attribute
    ORDER BY p.event_time DESC, p.ingested_at DESC, p.ctid DESC
    LIMIT 1
$$;

-- The attributes that the projection has, or shall have.
CREATE OR REPLACE FUNCTION followed_attributes(p_tenant integer) RETURNS integer[]
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT coalesce(array_agg(f.attribute_id ORDER BY f.attribute_id), '{}') FROM (
        SELECT a.attribute_id FROM attributes AS a WHERE a.tenant_id = p_tenant AND a.is_hot
        UNION
        SELECT t.attribute_id FROM projected_attributes AS t WHERE t.tenant_id = p_tenant
    ) AS f
$$;

-- The next entities of a job, at most p_limit, those of its list or all: also what only the projection knows.
CREATE OR REPLACE FUNCTION next_projection_entities(job projection_jobs, p_limit integer) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = atlas, pg_temp AS $$
    SELECT coalesce(array_agg(n.entity_id ORDER BY n.entity_id), '{}') FROM (
        SELECT u.entity_id FROM (
            (SELECT x.entity_id FROM unnest(job.entity_ids) AS x (entity_id)
             WHERE x.entity_id > job.cursor_entity)
            UNION
            (SELECT e.entity_id FROM entities AS e
             WHERE job.entity_ids IS NULL AND e.tenant_id = job.tenant_id AND e.entity_id > job.cursor_entity
             ORDER BY e.entity_id LIMIT p_limit)
            UNION
            (SELECT e.entity_id FROM entity_jsonb AS e
             WHERE job.entity_ids IS NULL AND e.tenant_id = job.tenant_id AND e.entity_id > job.cursor_entity
             ORDER BY e.entity_id LIMIT p_limit)
        ) AS u ORDER BY u.entity_id LIMIT p_limit
    ) AS n
$$;

-- Makes the projection of these entities say of the attributes p_set what the points say, and nothing of p_remove (NULL: of all
-- others); answers the rows it changed, with p_touch all there are. In READ COMMITTED only.
--
-- First the rows are locked, in the order of the primary key, as flushes do, so that neither waits for the other in a
-- circle; rows that will be needed are made in the same pass, empty. Then, in a statement with a snapshot of its
-- own, the points are read. Thus nothing has to be compared with what flushes wrote meanwhile: a flush that had a row
-- before us has committed, so its points are seen; one that comes after us waits, and then applies its rule to
-- what we wrote. Read first and locked later, it would fail like this: we read the point of 10:00, a flush stores
-- and projects another of 10:00, we replace the last to arrive by the one before it.
CREATE OR REPLACE FUNCTION project_entities(
    p_tenant integer, p_entities bigint[], p_set integer[], p_remove integer[], p_touch boolean
) RETURNS TABLE (changed_entity bigint, changed_version bigint)
LANGUAGE plpgsql SET search_path = atlas, pg_temp
-- Each point is looked up by the index, whatever is known of tables that are new today.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    now_us bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    keys text[] := (SELECT coalesce(array_agg(k::text), '{}') FROM unnest(p_set || p_remove) AS k);
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the points must be read after the rows are locked: in READ COMMITTED';
    END IF;
    INSERT INTO entity_jsonb AS e (tenant_id, entity_id, version, attrs, attr_times)
    SELECT p_tenant, w.entity_id, now_us, '{}', '{}'
    FROM unnest(p_entities) AS w (entity_id)
    WHERE EXISTS (SELECT FROM entity_jsonb AS h WHERE h.tenant_id = p_tenant AND h.entity_id = w.entity_id)
       OR EXISTS (
            SELECT FROM unnest(p_set) AS s (attribute_id)
            CROSS JOIN LATERAL latest_point(p_tenant, w.entity_id, s.attribute_id) AS p)
    ORDER BY w.entity_id
    ON CONFLICT (tenant_id, entity_id) DO UPDATE SET version = e.version WHERE false; -- Locked, and left alone.

    RETURN QUERY
    WITH truth AS MATERIALIZED (
        SELECT w.entity_id, jsonb_object_agg(s.attribute_id, p.value) AS attrs,
            jsonb_object_agg(s.attribute_id, p.event_us) AS attr_times
        FROM unnest(p_entities) AS w (entity_id)
        CROSS JOIN unnest(p_set) AS s (attribute_id)
        CROSS JOIN LATERAL latest_point(p_tenant, w.entity_id, s.attribute_id) AS p
        GROUP BY w.entity_id
    ), wanted AS MATERIALIZED (
        SELECT e.entity_id,
            CASE WHEN p_remove IS NULL THEN '{}' ELSE e.attrs - keys END || coalesce(t.attrs, '{}') AS attrs,
            CASE WHEN p_remove IS NULL THEN '{}' ELSE e.attr_times - keys END || coalesce(t.attr_times, '{}')
                AS attr_times
        FROM unnest(p_entities) AS w (entity_id)
        JOIN entity_jsonb AS e ON e.tenant_id = p_tenant AND e.entity_id = w.entity_id
        LEFT JOIN truth AS t ON t.entity_id = w.entity_id
    )
    UPDATE entity_jsonb AS e
    SET attrs = w.attrs, attr_times = w.attr_times, version = greatest(e.version + 1, now_us)
    FROM wanted AS w
    WHERE e.tenant_id = p_tenant AND e.entity_id = w.entity_id
      AND (p_touch OR e.attrs <> w.attrs OR e.attr_times <> w.attr_times)
    RETURNING e.entity_id, e.version;
END
$$;

-- Where projection and points differ, of these entities and attributes; p_whole: and whatever else the projection
-- holds. One snapshot: a flush commits its points with its projection.
CREATE OR REPLACE FUNCTION compare_projection(p_tenant integer, p_entities bigint[], p_attributes integer[], p_whole boolean)
RETURNS TABLE (entity_id bigint, attribute_id integer, kind text, expected jsonb, expected_us bigint,
               found jsonb, found_us bigint)
LANGUAGE sql STABLE SET search_path = atlas, pg_temp SET enable_seqscan = off AS $$
    WITH points AS MATERIALIZED (
        SELECT w.entity_id, s.attribute_id, p.value, p.event_us
        FROM unnest(p_entities) AS w (entity_id)
        CROSS JOIN unnest(p_attributes) AS s (attribute_id)
        CROSS JOIN LATERAL latest_point(p_tenant, w.entity_id, s.attribute_id) AS p
    ), held AS MATERIALIZED (
        SELECT e.entity_id, v.key::integer AS attribute_id, v.value, (e.attr_times ->> v.key)::bigint AS event_us
        FROM unnest(p_entities) AS w (entity_id)
        JOIN entity_jsonb AS e ON e.tenant_id = p_tenant AND e.entity_id = w.entity_id
        CROSS JOIN LATERAL jsonb_each(e.attrs) AS v
        WHERE p_whole OR v.key::integer = ANY (p_attributes)
    )
    SELECT coalesce(p.entity_id, h.entity_id), coalesce(p.attribute_id, h.attribute_id),
        CASE WHEN h.entity_id IS NULL THEN 'missing' WHEN p.entity_id IS NULL THEN 'extra'
            WHEN h.event_us < p.event_us THEN 'older' WHEN h.event_us > p.event_us THEN 'newer' ELSE 'wrong' END,
        p.value, p.event_us, h.value, h.event_us
    FROM points AS p
    FULL JOIN held AS h ON h.entity_id = p.entity_id AND h.attribute_id = p.attribute_id
    WHERE (p.value, p.event_us) IS DISTINCT FROM (h.value, h.event_us)
$$;

-- A position of the projection's lane, for a change that is made in this transaction.
CREATE OR REPLACE FUNCTION next_projection_position(p_epoch bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
DECLARE
    made bigint;
BEGIN
    UPDATE flush_positions AS f SET sequence = f.sequence + 1, flushed_at = clock_timestamp()
    WHERE f.lane = projection_lane() AND f.epoch = p_epoch RETURNING f.sequence INTO made;
    IF made IS NULL THEN
        RAISE EXCEPTION 'the projection''s lane is not at epoch %', p_epoch USING ERRCODE = 'AT003';
    END IF;
    RETURN made;
END
$$;

-- Does the next entities of a job in one of the steps that write: fill, rebuild, clean. p_again: does these once more,
-- whatever they hold, and leaves the cursor where it is. scanned 0: there are no more. sequence NULL: nothing changed; else its
-- position, to be told to the cache with what changed.
CREATE OR REPLACE FUNCTION write_projection_batch(
    p_owner text, p_epoch bigint, p_tenant integer, p_job bigint, p_step text, p_limit integer, p_again bigint[],
    OUT scanned integer, OUT sequence bigint, OUT changed_entities bigint[], OUT changed_versions bigint[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    job projection_jobs := held_projection_job(p_owner, p_tenant, p_job, p_step);
    batch bigint[] := coalesce(p_again, next_projection_entities(job, p_limit));
    own integer[] := coalesce(ARRAY[job.attribute_id], '{}');
BEGIN
    scanned := cardinality(batch);
    IF scanned = 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(c.changed_entity), array_agg(c.changed_version) INTO changed_entities, changed_versions
    FROM project_entities(
        p_tenant, batch,
        CASE WHEN p_step = 'clean' THEN '{}' WHEN job.attribute_id IS NULL THEN followed_attributes(p_tenant) ELSE own END,
        CASE WHEN p_step = 'clean' THEN own WHEN job.attribute_id IS NOT NULL THEN '{}' END,
        -- A promotion makes the cache forget each entity that it has: no entry of before stays.
        p_step = 'fill' OR p_again IS NOT NULL) AS c;
    IF changed_entities IS NOT NULL THEN
        sequence := next_projection_position(p_epoch);
        PERFORM remember_flush(projection_lane(), p_epoch, sequence,
            array_fill(p_tenant, ARRAY[cardinality(changed_entities)]), changed_entities, changed_versions);
    END IF;
    UPDATE projection_jobs AS j SET updated_at = clock_timestamp(), message = '',
        cursor_entity = CASE WHEN p_again IS NULL THEN batch[scanned] ELSE j.cursor_entity END,
        entities_done = j.entities_done + CASE WHEN p_again IS NULL THEN scanned ELSE 0 END,
        entities_changed = j.entities_changed + coalesce(cardinality(changed_entities), 0),
        last_sequence = coalesce(write_projection_batch.sequence, j.last_sequence)
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;
END
$$;

-- Compares the next entities of a job with their points, and counts what differs. batch: those that were compared;
-- differing: those that differ, each once. Nothing but the job is written.
CREATE OR REPLACE FUNCTION compare_projection_batch(
    p_owner text, p_tenant integer, p_job bigint, p_step text, p_limit integer,
    OUT scanned integer, OUT batch bigint[], OUT differing bigint[], OUT difference_count bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    job projection_jobs := held_projection_job(p_owner, p_tenant, p_job, p_step);
    counts record;
BEGIN
    batch := next_projection_entities(job, p_limit);
    scanned := cardinality(batch);
    differing := '{}';
    difference_count := 0;
    IF scanned = 0 THEN
        RETURN;
    END IF;
    job.cursor_entity := batch[scanned];
    batch := (SELECT coalesce(array_agg(e ORDER BY e), '{}') FROM unnest(batch) AS e
              WHERE (hashint8(e)::bigint & 2147483647) % 100 < job.sample_percent);
    SELECT coalesce(array_agg(DISTINCT d.entity_id), '{}') AS differing, count(*) AS every,
        count(*) FILTER (WHERE d.kind = 'missing') AS missing, count(*) FILTER (WHERE d.kind = 'extra') AS extra,
        coalesce(jsonb_agg(jsonb_build_object('place', 'projection', 'kind', d.kind, 'entity_id', d.entity_id,
            'attribute_id', d.attribute_id, 'expected', left(d.expected::text, 200), 'expected_us', d.expected_us,
            'found', left(d.found::text, 200), 'found_us', d.found_us) ORDER BY d.entity_id, d.attribute_id)
            FILTER (WHERE d.rank <= 100), '[]') AS shown
    INTO counts
    FROM (
        SELECT c.*, row_number() OVER (ORDER BY c.entity_id, c.attribute_id) AS rank
        FROM compare_projection(p_tenant, batch,
            CASE WHEN job.attribute_id IS NULL THEN followed_attributes(p_tenant) ELSE ARRAY[job.attribute_id] END,
            job.attribute_id IS NULL) AS c
        WHERE NOT (job.dry_run AND job.kind = 'demote') AND (job.attribute_id IS NOT NULL OR NOT EXISTS (
            -- Half in or half out is no mistake while its job is at work.
            SELECT FROM projection_jobs AS o
            WHERE o.tenant_id = p_tenant AND o.attribute_id = c.attribute_id AND o.state = 'running' AND NOT o.dry_run))
    ) AS d;
    differing := counts.differing;
    difference_count := counts.every;
    PERFORM count_projection_batch(job, batch, scanned, counts.shown);
    UPDATE projection_jobs AS j SET missing_count = j.missing_count + counts.missing,
        extra_count = j.extra_count + counts.extra,
        different_count = j.different_count + counts.every - counts.missing - counts.extra,
        entities_changed = j.entities_changed + CASE WHEN job.kind = 'rebuild' THEN cardinality(differing) ELSE 0 END
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;
END
$$;

-- The part of compare_projection_batch for the cursor, the list, and what a dry run would touch: of a promotion the entities
-- with points, the points there are (at most 10,000 of an entity are counted) and the bytes of the values to be projected; of
-- a demotion the entities and bytes to be removed.
CREATE OR REPLACE FUNCTION count_projection_batch(
    job projection_jobs, batch bigint[], scanned integer, shown jsonb
) RETURNS void LANGUAGE plpgsql SET search_path = atlas, pg_temp SET enable_seqscan = off AS $$
DECLARE
    -- Not a record: a session remembers the types that its fields had the first time.
    touched_entities bigint := 0;
    touched_bytes bigint := 0;
    touched_points bigint := 0;
BEGIN
    IF job.dry_run AND job.kind = 'promote' THEN
        SELECT count(*), coalesce(sum(pg_column_size(p.value)), 0),
            coalesce(sum((SELECT count(*) FROM (
                SELECT FROM entity_values_ts AS v
                WHERE v.tenant_id = job.tenant_id AND v.entity_id = w.entity_id AND v.attribute_id = job.attribute_id
                LIMIT 10000) AS v)), 0)
        INTO touched_entities, touched_bytes, touched_points
        FROM unnest(batch) AS w (entity_id)
        CROSS JOIN LATERAL latest_point(job.tenant_id, w.entity_id, job.attribute_id) AS p;
    ELSIF job.dry_run AND job.kind = 'demote' THEN
        SELECT count(*), coalesce(sum(pg_column_size(e.attrs -> job.attribute_id::text)), 0), count(*)
        INTO touched_entities, touched_bytes, touched_points
        FROM unnest(batch) AS w (entity_id)
        JOIN entity_jsonb AS e ON e.tenant_id = job.tenant_id AND e.entity_id = w.entity_id
        WHERE e.attrs ? job.attribute_id::text;
    END IF;
    UPDATE projection_jobs AS j SET updated_at = clock_timestamp(), message = '', cursor_entity = job.cursor_entity,
        entities_done = j.entities_done + scanned, entities_changed = j.entities_changed + touched_entities,
        point_count = j.point_count + touched_points, byte_count = j.byte_count + touched_bytes,
        differences = CASE WHEN shown = '[]' OR jsonb_array_length(j.differences) >= 100 THEN j.differences
            ELSE jsonb_path_query_array(j.differences || shown, '$[0 to 99]') END
    WHERE j.tenant_id = job.tenant_id AND j.job_id = job.job_id;
END
$$;

-- Looks again at entities that were put right; answers how many differences are left of p_count.
CREATE OR REPLACE FUNCTION recheck_projection(
    p_owner text, p_tenant integer, p_job bigint, p_step text, p_entities bigint[], p_count bigint
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    job projection_jobs := held_projection_job(p_owner, p_tenant, p_job, p_step);
    left_over bigint := (SELECT count(*) FROM compare_projection(p_tenant, p_entities,
        CASE WHEN job.attribute_id IS NULL THEN followed_attributes(p_tenant) ELSE ARRAY[job.attribute_id] END,
        job.attribute_id IS NULL));
BEGIN
    UPDATE projection_jobs AS j SET repaired_count = j.repaired_count + greatest(0, p_count - left_over)
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;
    RETURN left_over;
END
$$;

-- Enters what the cache was found to hold: p_found differences (p_shown, the first of them), p_uncompared entries that could not
-- be judged, p_repaired that were put right.
CREATE OR REPLACE FUNCTION note_cache_differences(
    p_owner text, p_tenant integer, p_job bigint, p_step text, p_shown jsonb, p_found bigint, p_uncompared bigint,
    p_repaired bigint
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    PERFORM held_projection_job(p_owner, p_tenant, p_job, p_step);
    UPDATE projection_jobs AS j SET updated_at = clock_timestamp(), cache_count = j.cache_count + p_found,
        uncompared_count = j.uncompared_count + p_uncompared, repaired_count = j.repaired_count + p_repaired,
        differences = jsonb_path_query_array(j.differences || p_shown, '$[0 to 99]')
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;
END
$$;
