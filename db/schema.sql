CREATE SCHEMA atlas;

ALTER SCHEMA atlas OWNER TO atlas_owner;

CREATE SCHEMA retired;

ALTER SCHEMA retired OWNER TO atlas_owner;

CREATE SCHEMA staging;

ALTER SCHEMA staging OWNER TO atlas_flusher;

CREATE FUNCTION atlas.access_retention() RETURNS interval
    LANGUAGE sql IMMUTABLE
    AS $$SELECT interval '16 days'$$;

ALTER FUNCTION atlas.access_retention() OWNER TO atlas_owner;

CREATE FUNCTION atlas.advance_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_next text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    job projection_jobs := held_projection_job(p_owner, p_tenant, p_job, p_step);

BEGIN
    IF p_step = 'withdraw' THEN
        DELETE FROM projected_attributes AS t WHERE t.tenant_id = p_tenant AND t.attribute_id = job.attribute_id;

    END IF;

    UPDATE projection_jobs AS j SET step = p_next, step_since = clock_timestamp(), updated_at = clock_timestamp(),
        cursor_entity = 0, entities_done = 0, message = '',
        round = j.round + CASE WHEN p_next = 'fill' THEN 1 ELSE 0 END
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;

    IF p_next = 'compare' THEN
        UPDATE projection_jobs AS j SET missing_count = 0, extra_count = 0, different_count = 0, cache_count = 0,
            repaired_count = 0, uncompared_count = 0, differences = '[]'
        WHERE j.tenant_id = p_tenant AND j.job_id = p_job;

    END IF;

END
$$;

ALTER FUNCTION atlas.advance_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_next text) OWNER TO atlas_projector;

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

CREATE FUNCTION atlas.archived_tenants(p_name text) RETURNS integer[]
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(DISTINCT u.tenant_id), '{}')
    FROM partition_archives AS a, unnest(a.tenant_ids) AS u (tenant_id) WHERE a.partition_name = p_name
$$;

ALTER FUNCTION atlas.archived_tenants(p_name text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.attribute_index_steps() RETURNS TABLE(tenant_id integer, attribute_id integer, step text, index_name text, statement text, partitions_total integer, partitions_done integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    WITH wanted AS MATERIALIZED (
        SELECT x.*, p.partition, p.name AS partition_name, p.upper_bound,
            cold_index_name(x.tenant_id, x.attribute_id, p.name) AS index_name
        FROM attribute_indexes AS x CROSS JOIN partitions_of('entity_values_ts') AS p
        WHERE x.state <> 'failed'
    ), parts AS (
        SELECT p.*, row_number() OVER (
                PARTITION BY p.tenant_id, p.attribute_id ORDER BY p.upper_bound DESC, p.partition_name) AS place, count(*) OVER of_one AS every,
            -- Its work is over.
            count(*) FILTER (WHERE CASE WHEN p.state = 'dropping' THEN p.is_valid IS NULL ELSE p.is_valid END)
                OVER of_one AS done
        FROM (
            SELECT w.*, x.indisvalid AND x.indisready AS is_valid
            FROM wanted AS w
            LEFT JOIN (pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid)
                ON x.indrelid = w.partition AND i.relname = w.index_name
        ) AS p
        WINDOW of_one AS (PARTITION BY p.tenant_id, p.attribute_id)
    ), steps AS (
        SELECT p.*, CASE
            WHEN p.place = 1 AND p.done = p.every AND p.state IN ('building', 'dropping') THEN 'finish'
            WHEN p.state = 'dropping' AND p.is_valid IS NOT NULL OR NOT p.is_valid THEN 'drop'
            WHEN p.state IN ('building', 'ready') AND p.is_valid IS NULL THEN 'create' END AS step
        FROM parts AS p
    )
    SELECT s.tenant_id, s.attribute_id, s.step, s.index_name,
        CASE s.step
            WHEN 'create' THEN cold_index_statement(s.tenant_id, s.attribute_id, s.data_type, s.partition_name, true)
            WHEN 'drop' THEN format('DROP INDEX CONCURRENTLY IF EXISTS atlas.%I', s.index_name)
        END, s.every::integer, s.done::integer
    FROM steps AS s WHERE s.step IS NOT NULL
    ORDER BY s.state = 'dropping' DESC, s.created_at, s.tenant_id, s.attribute_id, s.place
$$;

ALTER FUNCTION atlas.attribute_index_steps() OWNER TO atlas_projector;

CREATE FUNCTION atlas.beat_heart(min_interval interval) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    WITH beat AS (
        UPDATE replication_heartbeat
        -- A clock that was set back is followed: a heart that waited until it is as late again as it was would
        -- be still, perhaps for an hour. Who measures lag distrusts the stamps of before (PrimaryClock).
        SET beat_id = greatest(beat_id + 1, written_timeline() << 32), beaten_at = clock_timestamp()
        WHERE id = 1 AND (beaten_at <= clock_timestamp() - min_interval OR beaten_at > clock_timestamp())
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM beat)
$$;

ALTER FUNCTION atlas.beat_heart(min_interval interval) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.begin_promotion_evaluation(p_owner text, p_lease_seconds double precision, p_interval_seconds double precision) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    begun timestamptz := clock_timestamp();

    was_due boolean;

BEGIN
    SELECT r.leased_until < begun AND r.evaluated_at <= begun - make_interval(secs => p_interval_seconds) INTO was_due
    FROM promotion_runner AS r WHERE r.id = 1;

    IF NOT was_due THEN
        RETURN false; -- Mostly so: without a write.
    END IF;

    UPDATE promotion_runner AS r
    SET owner = p_owner, leased_until = begun + make_interval(secs => p_lease_seconds), evaluated_at = begun
    WHERE r.id = 1 AND r.leased_until < begun AND r.evaluated_at <= begun - make_interval(secs => p_interval_seconds);

    IF NOT FOUND THEN
        RETURN false;

    END IF;

    DELETE FROM promotion_decisions AS d WHERE d.decided_at < begun - interval '90 days';

    RETURN true;

END
$$;

ALTER FUNCTION atlas.begin_promotion_evaluation(p_owner text, p_lease_seconds double precision, p_interval_seconds double precision) OWNER TO atlas_meter;

CREATE FUNCTION atlas.blocked_sessions() RETURNS TABLE(pid integer, application text, waiting_seconds double precision, wait_event text, statement text, blocker_pid integer, blocker_application text, blocker_state text, blocker_transaction_seconds double precision, blocker_statement text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT a.pid, a.application_name,
        extract(epoch FROM clock_timestamp() - coalesce(l.since, a.query_start))::double precision,
        a.wait_event, statement_shape(a.query),
        b.pid, b.application_name, b.state,
        extract(epoch FROM clock_timestamp() - b.xact_start)::double precision, statement_shape(b.query)
    FROM pg_stat_activity AS a
    CROSS JOIN LATERAL (SELECT min(w.waitstart) AS since FROM pg_locks AS w WHERE w.pid = a.pid AND NOT w.granted) AS l
    LEFT JOIN LATERAL (
        SELECT x.pid, x.application_name, x.state, x.xact_start, x.query
        FROM pg_stat_activity AS x WHERE x.pid = ANY (pg_blocking_pids(a.pid))
        ORDER BY x.xact_start LIMIT 1) AS b ON true
    WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
    ORDER BY 3 DESC
$$;

ALTER FUNCTION atlas.blocked_sessions() OWNER TO atlas_keeper;

CREATE FUNCTION atlas.cancel_projection_job(p_tenant integer, p_job bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    job projection_jobs;

BEGIN
    PERFORM require_tenant(p_tenant);

    PERFORM pg_advisory_xact_lock(hashtext('atlas.attributes'), p_tenant);

    SELECT j.* INTO job FROM projection_jobs AS j WHERE j.tenant_id = p_tenant AND j.job_id = p_job FOR UPDATE;

    IF job.kind = 'promote' AND NOT job.dry_run THEN
        IF job.state = 'done' OR job.state = 'cancelled' OR job.is_cancelled THEN
            RETURN job.state;

        END IF;

        IF job.state = 'failed' AND EXISTS (SELECT FROM projection_jobs AS j
            WHERE j.tenant_id = p_tenant AND j.attribute_id = job.attribute_id AND j.job_id > p_job AND NOT j.dry_run)
        THEN
            RETURN job.state; -- A later one has taken over what it left.
        END IF;

        UPDATE projection_jobs AS j SET state = 'running', is_cancelled = true, step = 'withdraw', cursor_entity = 0,
            entities_done = 0, step_since = clock_timestamp(), updated_at = clock_timestamp(), finished_at = NULL
        WHERE j.tenant_id = p_tenant AND j.job_id = p_job;

        RETURN 'running';

    END IF;

    IF job.state <> 'running' THEN
        RETURN job.state;

    ELSIF job.kind = 'demote' AND NOT job.dry_run THEN
        RETURN NULL;

    END IF;

    UPDATE projection_jobs AS j SET state = 'cancelled', step = 'end', is_cancelled = true,
        updated_at = clock_timestamp(), finished_at = clock_timestamp()
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;

    RETURN 'cancelled';

END
$$;

ALTER FUNCTION atlas.cancel_projection_job(p_tenant integer, p_job bigint) OWNER TO atlas_projector;

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

CREATE FUNCTION atlas.claim_projection_lane(claim_time timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    claimed record;

BEGIN
    INSERT INTO flush_positions AS f (lane, epoch, sequence, flushed_at)
    VALUES (projection_lane(), (extract(epoch FROM claim_time) * 1000000)::bigint, 0, claim_time)
    ON CONFLICT (lane) DO UPDATE SET epoch = greatest(f.epoch + 1, excluded.epoch)
    RETURNING f.epoch, f.sequence INTO claimed;

    INSERT INTO lane_epochs (lane, epoch, first_sequence, claimed_at)
    VALUES (projection_lane(), claimed.epoch, claimed.sequence + 1, claim_time);

    DELETE FROM lane_epochs AS old
    WHERE old.lane = projection_lane() AND old.claimed_at < claim_time - interval '90 days';

END
$$;

ALTER FUNCTION atlas.claim_projection_lane(claim_time timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.classes_passed(upper_bound timestamp with time zone) RETURNS TABLE(retention_class text, action text, passed boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
    SELECT c.retention_class, c.action, coalesce(
        classes_passed.upper_bound < 'infinity'
        AND classes_passed.upper_bound + c.keep + retention_grace() <= clock_timestamp(), false)
    FROM retention_classes AS c
    WHERE EXISTS (SELECT FROM tenants AS t WHERE t.retention_class = c.retention_class)
$$;

ALTER FUNCTION atlas.classes_passed(upper_bound timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, rows_max bigint) RETURNS bigint[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    parts text;

    row_count bigint;

    candidates bigint[];

BEGIN
    IF (p_tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::integer) IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is not the transaction''s';

    END IF;

    IF alternatives = '[]' THEN
        RETURN '{}';

    END IF;

    SELECT string_agg(format(
        '(SELECT v.entity_id FROM entity_values_ts AS v WHERE %s LIMIT %s)',
        cold_condition(p_tenant_id, a.value), rows_max + 1), ' UNION ALL ')
    INTO parts FROM jsonb_array_elements(alternatives) AS a;

    EXECUTE format('SELECT count(*), array_agg(DISTINCT c.entity_id ORDER BY c.entity_id) FILTER (WHERE c.entity_id > %s)
        FROM (%s) AS c', after, parts)
    INTO row_count, candidates;

    RETURN CASE WHEN row_count <= rows_max THEN coalesce(candidates, '{}') END;

END
$$;

ALTER FUNCTION atlas.cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, rows_max bigint) OWNER TO atlas_finder;

CREATE FUNCTION atlas.cold_condition(p_tenant integer, alternative jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT cold_index_predicate(p_tenant, (alternative ->> 'attribute')::integer)
        || coalesce(' AND ' || k.key || ' IN (' || (
            SELECT string_agg(cold_literal(k.data_type, w.value), ', ')
            FROM jsonb_array_elements_text(alternative -> 'in') AS w
        ) || ')', '')
        || coalesce(' AND ' || k.key || ' >= ' || cold_literal(k.data_type, alternative ->> 'from'), '')
        || coalesce(' AND ' || k.key || ' <= ' || cold_literal(k.data_type, alternative ->> 'to'), '')
    FROM (SELECT alternative ->> 'type' AS data_type, cold_index_key(alternative ->> 'type') AS key) AS k
$$;

ALTER FUNCTION atlas.cold_condition(p_tenant integer, alternative jsonb) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_index_key(p_data_type text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS $$
BEGIN
    CASE p_data_type
        WHEN 'bool' THEN RETURN 'value_bool';

        WHEN 'int' THEN RETURN 'value_int';

        WHEN 'double' THEN RETURN 'value_double';

        WHEN 'decimal' THEN RETURN 'value_decimal';

        WHEN 'text' THEN RETURN 'left(value_text, 64) COLLATE "C"';

        WHEN 'time' THEN RETURN 'value_time';

        WHEN 'json' THEN RETURN 'jsonb_hash(value_json)';

    END CASE;

END
$$;

ALTER FUNCTION atlas.cold_index_key(p_data_type text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_index_name(p_tenant integer, p_attribute integer, p_partition text) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT format('cold_%s_%s_%s', p_tenant, p_attribute, regexp_replace(p_partition, '^entity_values_ts_', ''))
$$;

ALTER FUNCTION atlas.cold_index_name(p_tenant integer, p_attribute integer, p_partition text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_index_parts(p_tenant integer, p_attribute integer) RETURNS TABLE(partition_name text, index_name text, is_valid boolean, byte_count bigint, row_estimate bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT p.name, cold_index_name(p_tenant, p_attribute, p.name), x.indisvalid AND x.indisready,
        CASE WHEN x.indexrelid IS NULL THEN 0 ELSE pg_relation_size(x.indexrelid) END,
        greatest(c.reltuples, 0)::bigint
    FROM partitions_of('entity_values_ts') AS p
    JOIN pg_class AS c ON c.oid = p.partition
    LEFT JOIN (pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid)
        ON x.indrelid = p.partition AND i.relname = cold_index_name(p_tenant, p_attribute, p.name)
    ORDER BY p.upper_bound DESC, p.name
$$;

ALTER FUNCTION atlas.cold_index_parts(p_tenant integer, p_attribute integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_index_predicate(p_tenant integer, p_attribute integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT format('(tenant_id + 0) = %s AND (attribute_id + 0) = %s', p_tenant, p_attribute)
$$;

ALTER FUNCTION atlas.cold_index_predicate(p_tenant integer, p_attribute integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_index_statement(p_tenant integer, p_attribute integer, p_data_type text, p_partition text, p_concurrently boolean) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT format('CREATE INDEX %s %I ON atlas.%I ((%s), entity_id) WHERE %s',
        CASE WHEN p_concurrently THEN 'CONCURRENTLY' END, cold_index_name(p_tenant, p_attribute, p_partition), p_partition,
        cold_index_key(p_data_type), cold_index_predicate(p_tenant, p_attribute))
$$;

ALTER FUNCTION atlas.cold_index_statement(p_tenant integer, p_attribute integer, p_data_type text, p_partition text, p_concurrently boolean) OWNER TO atlas_owner;

CREATE FUNCTION atlas.cold_literal(p_data_type text, value text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    CASE p_data_type
        WHEN 'text' THEN RETURN quote_literal(left(value, 64));

        WHEN 'json' THEN RETURN jsonb_hash(value::jsonb);

        WHEN 'bool' THEN RETURN format('%L::boolean', value);

        WHEN 'int' THEN RETURN format('%L::bigint', value);

        WHEN 'double' THEN RETURN format('%L::double precision', value);

        WHEN 'decimal' THEN RETURN format('%L::numeric', value);

        WHEN 'time' THEN RETURN format('%L::timestamptz', value);

    END CASE;

END
$$;

ALTER FUNCTION atlas.cold_literal(p_data_type text, value text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.compare_projection(p_tenant integer, p_entities bigint[], p_attributes integer[], p_whole boolean) RETURNS TABLE(entity_id bigint, attribute_id integer, kind text, expected jsonb, expected_us bigint, found jsonb, found_us bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
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

ALTER FUNCTION atlas.compare_projection(p_tenant integer, p_entities bigint[], p_attributes integer[], p_whole boolean) OWNER TO atlas_owner;

CREATE FUNCTION atlas.compare_projection_batch(p_owner text, p_tenant integer, p_job bigint, p_step text, p_limit integer, OUT scanned integer, OUT batch bigint[], OUT differing bigint[], OUT difference_count bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
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

ALTER FUNCTION atlas.compare_projection_batch(p_owner text, p_tenant integer, p_job bigint, p_step text, p_limit integer, OUT scanned integer, OUT batch bigint[], OUT differing bigint[], OUT difference_count bigint) OWNER TO atlas_projector;

CREATE TABLE atlas.projection_jobs (
    tenant_id integer NOT NULL,
    job_id bigint NOT NULL,
    request_id text,
    kind text NOT NULL,
    attribute_id integer,
    entity_ids bigint[],
    sample_percent smallint DEFAULT 100 NOT NULL,
    dry_run boolean DEFAULT false NOT NULL,
    repair boolean DEFAULT false NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    step text NOT NULL,
    step_since timestamp with time zone NOT NULL,
    is_cancelled boolean DEFAULT false NOT NULL,
    round smallint DEFAULT 0 NOT NULL,
    cursor_entity bigint DEFAULT 0 NOT NULL,
    entities_total bigint DEFAULT 0 NOT NULL,
    entities_done bigint DEFAULT 0 NOT NULL,
    entities_changed bigint DEFAULT 0 NOT NULL,
    point_count bigint DEFAULT 0 NOT NULL,
    byte_count bigint DEFAULT 0 NOT NULL,
    missing_count bigint DEFAULT 0 NOT NULL,
    extra_count bigint DEFAULT 0 NOT NULL,
    different_count bigint DEFAULT 0 NOT NULL,
    cache_count bigint DEFAULT 0 NOT NULL,
    repaired_count bigint DEFAULT 0 NOT NULL,
    uncompared_count bigint DEFAULT 0 NOT NULL,
    differences jsonb DEFAULT '[]'::jsonb NOT NULL,
    last_sequence bigint DEFAULT 0 NOT NULL,
    message text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT projection_jobs_check CHECK (((kind = ANY (ARRAY['promote'::text, 'demote'::text])) = (attribute_id IS NOT NULL))),
    CONSTRAINT projection_jobs_entity_ids_check CHECK ((cardinality(entity_ids) <= 10000)),
    CONSTRAINT projection_jobs_kind_check CHECK ((kind = ANY (ARRAY['promote'::text, 'demote'::text, 'rebuild'::text, 'verify'::text]))),
    CONSTRAINT projection_jobs_request_id_check CHECK (((octet_length(request_id) >= 1) AND (octet_length(request_id) <= 128))),
    CONSTRAINT projection_jobs_sample_percent_check CHECK (((sample_percent >= 1) AND (sample_percent <= 100))),
    CONSTRAINT projection_jobs_state_check CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'failed'::text, 'cancelled'::text])))
);

ALTER TABLE ONLY atlas.projection_jobs FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.projection_jobs OWNER TO atlas_owner;

CREATE FUNCTION atlas.count_projection_batch(job atlas.projection_jobs, batch bigint[], scanned integer, shown jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.count_projection_batch(job atlas.projection_jobs, batch bigint[], scanned integer, shown jsonb) OWNER TO atlas_owner;

CREATE FUNCTION atlas.default_rows(OUT row_count bigint, OUT oldest timestamp with time zone, OUT byte_count bigint) RETURNS record
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '500ms'
    AS $$
    SELECT count(*), min(d.ingested_at), pg_total_relation_size('entity_values_ts_default')
    FROM (SELECT ingested_at FROM entity_values_ts_default LIMIT 1000000) AS d
$$;

ALTER FUNCTION atlas.default_rows(OUT row_count bigint, OUT oldest timestamp with time zone, OUT byte_count bigint) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.detach_partition(p_name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE entity_values_ts DETACH PARTITION %I', p_name);

    EXECUTE format('ALTER TABLE %I SET SCHEMA retired', p_name);

    -- Its tenants' policies went with the root. Only maintenance may enter the schema.
    EXECUTE format('ALTER TABLE retired.%I DISABLE ROW LEVEL SECURITY', p_name);

    EXECUTE format('GRANT SELECT ON retired.%I TO atlas_keeper, atlas_maintenance', p_name);

END
$$;

ALTER FUNCTION atlas.detach_partition(p_name text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.discard_half(p_lane smallint, p_half text, p_reason text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.discard_half(p_lane smallint, p_half text, p_reason text) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.document_equalities(attrs jsonb, documents jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT jsonb_object_agg('=' || d.ordinality, coalesce(attrs -> (d.value ->> 0) = d.value -> 1, false))
    FROM jsonb_array_elements(documents) WITH ORDINALITY AS d
$$;

ALTER FUNCTION atlas.document_equalities(attrs jsonb, documents jsonb) OWNER TO atlas_owner;

CREATE FUNCTION atlas.dress_partition(partition regclass, root text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', partition);

    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', partition);

    IF root = 'entity_values_ts' THEN
        -- There is no key that a corrected or deleted row could be named by in the change stream.
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', partition);

    END IF;

END
$$;

ALTER FUNCTION atlas.dress_partition(partition regclass, root text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.dress_partitions() RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.dress_partitions() OWNER TO atlas_owner;

CREATE FUNCTION atlas.drop_attribute_index(p_tenant integer, p_attribute integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
BEGIN
    PERFORM require_tenant(p_tenant);

    UPDATE attribute_indexes AS x SET state = 'dropping', message = '', updated_at = clock_timestamp()
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute AND x.state <> 'dropping';

    RETURN EXISTS (SELECT FROM attribute_indexes AS x WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute);

END
$$;

ALTER FUNCTION atlas.drop_attribute_index(p_tenant integer, p_attribute integer) OWNER TO atlas_projector;

CREATE FUNCTION atlas.drop_expired_ledger() RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET lock_timeout TO '300ms'
    AS $$
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

ALTER FUNCTION atlas.drop_expired_ledger() OWNER TO atlas_owner;

CREATE FUNCTION atlas.drop_retired(p_name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.drop_retired(p_name text) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.drop_retired_table(p_name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    EXECUTE format('DROP TABLE retired.%I', p_name);

END
$$;

ALTER FUNCTION atlas.drop_retired_table(p_name text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.empty_half(points regclass, batches regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    IF pg_table_size(points) + pg_table_size(batches) < 1024 * 1024 THEN
        EXECUTE format('DELETE FROM %s', points);

        EXECUTE format('DELETE FROM %s', batches);

    ELSE
        EXECUTE format('TRUNCATE %s, %s', points, batches);

    END IF;

END
$$;

ALTER FUNCTION atlas.empty_half(points regclass, batches regclass) OWNER TO atlas_owner;

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

CREATE FUNCTION atlas.end_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_state text, p_message text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    job projection_jobs;

BEGIN
    PERFORM FROM projection_runner AS r WHERE r.id = 1 AND r.owner = p_owner FOR UPDATE; -- The order of locks.
    PERFORM pg_advisory_xact_lock(hashtext('atlas.attributes'), p_tenant);

    job := held_projection_job(p_owner, p_tenant, p_job, p_step);

    IF job.kind = 'promote' AND NOT job.dry_run AND p_state = 'done' THEN
        IF p_step <> 'settle' THEN
            RAISE EXCEPTION 'a promotion is done in step settle, not in %', p_step;

        END IF;

        UPDATE attributes AS a SET is_hot = true, updated_at = clock_timestamp()
        WHERE a.tenant_id = p_tenant AND a.attribute_id = job.attribute_id;

        DELETE FROM projected_attributes AS t WHERE t.tenant_id = p_tenant AND t.attribute_id = job.attribute_id;

        PERFORM pg_notify('atlas_catalog', p_tenant::text);

    END IF;

    UPDATE projection_jobs AS j SET state = p_state, step = 'end', message = left(p_message, 500),
        updated_at = clock_timestamp(), finished_at = clock_timestamp()
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;

END
$$;

ALTER FUNCTION atlas.end_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_state text, p_message text) OWNER TO atlas_projector;

CREATE FUNCTION atlas.estimate_attribute_index(p_tenant integer, p_attribute integer, OUT partition_count integer, OUT scanned_points bigint, OUT indexed_points bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    plan json; -- EXPLAIN is why this is not STABLE.
BEGIN
    PERFORM require_tenant(p_tenant);

    SELECT count(*), sum(c.row_estimate) INTO partition_count, scanned_points
    FROM cold_index_parts(p_tenant, p_attribute) AS c;

    -- The tenant's alone, by policy.
    EXECUTE format('EXPLAIN (FORMAT json) SELECT FROM entity_values_ts WHERE attribute_id = %s', p_attribute) INTO plan;

    indexed_points := least((plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint, scanned_points);

END
$$;

ALTER FUNCTION atlas.estimate_attribute_index(p_tenant integer, p_attribute integer, OUT partition_count integer, OUT scanned_points bigint, OUT indexed_points bigint) OWNER TO atlas_projector;

CREATE FUNCTION atlas.expire_rows(p_name text, p_class text, rows_max integer DEFAULT 10000) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
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

ALTER FUNCTION atlas.expire_rows(p_name text, p_class text, rows_max integer) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.filter_matches(attrs jsonb, condition jsonpath, documents jsonb) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
    SELECT jsonb_path_match(
        CASE WHEN documents IS NULL THEN attrs ELSE attrs || document_equalities(attrs, documents) END, condition)
$$;

ALTER FUNCTION atlas.filter_matches(attrs jsonb, condition jsonpath, documents jsonb) OWNER TO atlas_owner;

CREATE FUNCTION atlas.find_by_index(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, after bigint, rows_max bigint) RETURNS bigint[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'on'
    SET jit TO 'off'
    AS $$
DECLARE
    row_count bigint;

    matching bigint[];

BEGIN
    IF (p_tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::integer) IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is not the transaction''s';

    END IF;

    SELECT count(*), array_agg(c.entity_id ORDER BY c.entity_id) FILTER (WHERE c.is_match)
    INTO row_count, matching
    FROM (
        SELECT r.entity_id, r.tenant_id = p_tenant_id AND r.entity_id > after
            AND (condition IS NULL OR filter_matches(r.attrs, condition, documents)) AS is_match
        FROM (
            -- Alone, behind its LIMIT: so the tenant's primary key is no way to these rows.
            SELECT e.tenant_id, e.entity_id, e.attrs FROM entity_jsonb AS e WHERE e.attrs @@ narrowing LIMIT rows_max + 1
        ) AS r
        OFFSET 0 -- Attributes are done with before the ids are sorted.
    ) AS c;

    RETURN CASE WHEN row_count <= rows_max THEN coalesce(matching, '{}') END;

END
$$;

ALTER FUNCTION atlas.find_by_index(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, after bigint, rows_max bigint) OWNER TO atlas_finder;

CREATE FUNCTION atlas.find_by_latest(p_tenant_id integer, condition jsonpath, hot_condition jsonpath, documents jsonb, cold integer[], ways jsonb, after bigint, page_size integer) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE ROWS 100
    SET search_path TO 'atlas', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_memoize TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    cold_keys text[] := (SELECT coalesce(array_agg(c::text), '{}') FROM unnest(cold) AS c);

    indexed_max bigint := 4000;

    walked bigint := after;

    walked_max bigint := 2 * page_size;

    window_end bigint := 9223372036854775807;

    missing integer := page_size;

    row_count integer;

    ordered jsonb := (SELECT w.value FROM jsonb_array_elements(ways) AS w WHERE (w.value ->> 'is_ordered')::boolean LIMIT 1);

    way jsonb;

    candidates bigint[];

    is_complete boolean;

BEGIN
    LOOP
        candidates := NULL;

        FOR way IN SELECT w.value FROM jsonb_array_elements(ways) AS w LOOP
            candidates := cold_candidates(p_tenant_id, way -> 'cold', walked, indexed_max);

            IF candidates IS NOT NULL AND way ->> 'hot' IS NOT NULL THEN
                candidates := united(candidates,
                    find_by_index(p_tenant_id, NULL, (way ->> 'hot')::jsonpath, NULL, walked, indexed_max));

            END IF;

            EXIT WHEN candidates IS NOT NULL;

        END LOOP;

        is_complete := candidates IS NOT NULL;

        IF candidates IS NULL AND ordered IS NOT NULL THEN
            candidates := next_cold_candidates(p_tenant_id, ordered -> 'cold', walked, 2 * page_size);

        END IF;

        IF candidates IS NULL AND ways <> '[]' THEN
            SELECT k.entity_id INTO window_end FROM entities AS k
            WHERE k.tenant_id = p_tenant_id AND k.entity_id > walked
            ORDER BY k.entity_id OFFSET walked_max - 1 LIMIT 1;

            window_end := coalesce(window_end, 9223372036854775807);

        END IF;

        -- The same twice, but for where the entities come from: one statement would have one plan for both.
        IF candidates IS NOT NULL THEN
            RETURN QUERY
            SELECT m.entity_id FROM (
                SELECT c.entity_id, h.attrs
                FROM unnest(candidates) WITH ORDINALITY AS c (entity_id, place)
                LEFT JOIN LATERAL (
                    SELECT e.attrs FROM entity_jsonb AS e
                    WHERE e.tenant_id = p_tenant_id AND e.entity_id = c.entity_id LIMIT 1
                ) AS h ON true
                WHERE hot_condition IS NULL OR filter_matches(coalesce(h.attrs, '{}'), hot_condition, documents)
                ORDER BY c.place OFFSET 0
            ) AS m
            CROSS JOIN LATERAL (
                SELECT coalesce(jsonb_object_agg(c.attribute_id, p.value), '{}') AS attrs
                FROM unnest(cold) AS c (attribute_id)
                CROSS JOIN LATERAL latest_point(p_tenant_id, m.entity_id, c.attribute_id) AS p
            ) AS l
            WHERE condition IS NULL
                OR filter_matches((coalesce(m.attrs, '{}') - cold_keys) || l.attrs, condition, documents)
            LIMIT missing;

        ELSE
            RETURN QUERY
            SELECT m.entity_id FROM (
                SELECT k.entity_id, h.attrs
                FROM entities AS k
                LEFT JOIN LATERAL (
                    SELECT e.attrs FROM entity_jsonb AS e
                    WHERE e.tenant_id = k.tenant_id AND e.entity_id = k.entity_id LIMIT 1
                ) AS h ON true
                WHERE k.tenant_id = p_tenant_id AND k.entity_id > walked AND k.entity_id <= window_end
                    AND (hot_condition IS NULL OR filter_matches(coalesce(h.attrs, '{}'), hot_condition, documents))
                ORDER BY k.entity_id OFFSET 0
            ) AS m
            CROSS JOIN LATERAL (
                SELECT coalesce(jsonb_object_agg(c.attribute_id, p.value), '{}') AS attrs
                FROM unnest(cold) AS c (attribute_id)
                CROSS JOIN LATERAL latest_point(p_tenant_id, m.entity_id, c.attribute_id) AS p
            ) AS l
            WHERE condition IS NULL
                OR filter_matches((coalesce(m.attrs, '{}') - cold_keys) || l.attrs, condition, documents)
            LIMIT missing;

        END IF;

        GET DIAGNOSTICS row_count = ROW_COUNT;

        missing := missing - row_count;

        EXIT WHEN missing <= 0;

        IF candidates IS NULL THEN
            EXIT WHEN window_end = 9223372036854775807;

            walked := window_end;

            walked_max := 2 * walked_max;

            indexed_max := 2 * indexed_max;

        ELSE
            EXIT WHEN is_complete OR cardinality(candidates) < 2 * page_size;

            walked := candidates[cardinality(candidates)];

        END IF;

    END LOOP;

END
$$;

ALTER FUNCTION atlas.find_by_latest(p_tenant_id integer, condition jsonpath, hot_condition jsonpath, documents jsonb, cold integer[], ways jsonb, after bigint, page_size integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.find_entities(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, matches_empty boolean, after bigint, page_size integer) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE ROWS 100
    SET search_path TO 'atlas', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $$
DECLARE
    whole jsonpath := coalesce(condition, narrowing);

    indexed_max bigint := 1000;

    -- Most of what is asked matches little or nearly all: a short walk first, which fills a page of the latter.
    walked_max bigint := 2 * page_size;

    walked bigint := after;

    walked_count bigint := 0;

    -- A plain variable in the statements: anything more, a coalesce() say, is not leakproof, and then no index condition.
    window_end bigint := 9223372036854775807;

    missing integer := page_size;

    row_count integer;

    matching bigint[];

BEGIN
    IF matches_empty THEN
        RETURN QUERY
        SELECT k.entity_id
        FROM entities AS k
        LEFT JOIN LATERAL (
            -- LIMIT: looked up one by one, by the key, until the page is full.
            SELECT e.attrs FROM entity_jsonb AS e WHERE e.tenant_id = k.tenant_id AND e.entity_id = k.entity_id LIMIT 1
        ) AS e ON true
        WHERE k.tenant_id = p_tenant_id AND k.entity_id > after
            AND (whole IS NULL OR filter_matches(coalesce(e.attrs, '{}'), whole, documents))
        ORDER BY k.entity_id LIMIT page_size;

        RETURN;

    END IF;

    LOOP
        IF narrowing IS NOT NULL THEN
            SELECT e.entity_id INTO window_end FROM entity_jsonb AS e
            WHERE e.tenant_id = p_tenant_id AND e.entity_id > walked
            ORDER BY e.entity_id OFFSET walked_max - 1 LIMIT 1;

            window_end := coalesce(window_end, 9223372036854775807);

        END IF;

        RETURN QUERY
        SELECT e.entity_id FROM entity_jsonb AS e
        WHERE e.tenant_id = p_tenant_id AND e.entity_id > walked
            AND e.entity_id <= window_end AND filter_matches(e.attrs, whole, documents)
        ORDER BY e.entity_id LIMIT missing;

        GET DIAGNOSTICS row_count = ROW_COUNT;

        missing := missing - row_count;

        EXIT WHEN missing <= 0 OR window_end = 9223372036854775807;

        walked := window_end;

        walked_count := walked_count + walked_max;

        walked_max := 2 * indexed_max;

        -- If matches go on as they came, the next walk fills the page, for less than the index would cost.
        CONTINUE WHEN missing * walked_count <= walked_max * (page_size - missing);

        matching := find_by_index(p_tenant_id, condition, narrowing, documents, walked, indexed_max);

        IF matching IS NOT NULL THEN
            RETURN QUERY SELECT unnest(matching[:missing]);

            RETURN;

        END IF;

        indexed_max := 4 * indexed_max;

    END LOOP;

END
$$;

ALTER FUNCTION atlas.find_entities(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, matches_empty boolean, after bigint, page_size integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.finish_attribute_index(p_tenant integer, p_attribute integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
DECLARE
    known text;

    counts record;

BEGIN
    PERFORM require_tenant(p_tenant);

    PERFORM pg_advisory_xact_lock(hashtext('atlas.attribute_indexes'));

    SELECT x.state INTO known FROM attribute_indexes AS x
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute FOR UPDATE;

    SELECT count(*) AS every, count(*) FILTER (WHERE c.is_valid) AS valid, count(c.is_valid) AS some
    INTO counts FROM cold_index_parts(p_tenant, p_attribute) AS c;

    IF known = 'building' AND counts.valid = counts.every THEN
        UPDATE attribute_indexes AS x SET state = 'ready', message = '', partitions_total = counts.every,
            partitions_done = counts.every, updated_at = clock_timestamp()
        WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;

    ELSIF known = 'dropping' AND counts.some = 0 THEN
        DELETE FROM attribute_indexes AS x WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;

    ELSE
        RETURN false;

    END IF;

    PERFORM pg_notify('atlas_catalog', p_tenant::text);

    RETURN true;

END
$$;

ALTER FUNCTION atlas.finish_attribute_index(p_tenant integer, p_attribute integer) OWNER TO atlas_projector;

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

CREATE FUNCTION atlas.flushing_lanes() RETURNS TABLE(lane smallint, pid integer, seconds double precision, waits_for text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT l.objid::bigint::smallint, a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::double precision,
        CASE
            WHEN b.pid IS NOT NULL THEN format(
                'waiting for a lock held by process %s (%s, %s, in a transaction of %s s): %s', b.blocker_pid,
                coalesce(nullif(b.blocker_application, ''), 'no name'), b.blocker_state,
                round(b.blocker_transaction_seconds), b.blocker_statement)
            WHEN a.wait_event_type = 'IO' THEN format('waiting for the disk (%s)', a.wait_event)
            ELSE ''
        END
    FROM pg_locks AS l
    JOIN pg_stat_activity AS a ON a.pid = l.pid
    LEFT JOIN blocked_sessions() AS b ON b.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid = lane_flush_class()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;

ALTER FUNCTION atlas.flushing_lanes() OWNER TO atlas_keeper;

CREATE FUNCTION atlas.followed_attributes(p_tenant integer) RETURNS integer[]
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(f.attribute_id ORDER BY f.attribute_id), '{}') FROM (
        SELECT a.attribute_id FROM attributes AS a WHERE a.tenant_id = p_tenant AND a.is_hot
        UNION
        SELECT t.attribute_id FROM projected_attributes AS t WHERE t.tenant_id = p_tenant
    ) AS f
$$;

ALTER FUNCTION atlas.followed_attributes(p_tenant integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    SELECT g.beat_id, g.beaten_at INTO beat_id, beaten_at FROM require_fresh(not_before, lanes, epochs, sequences) AS g;

    SELECT coalesce(array_agg(f.lane ORDER BY f.lane), '{}'), coalesce(array_agg(f.epoch ORDER BY f.lane), '{}'),
        coalesce(array_agg(f.sequence ORDER BY f.lane), '{}')
    INTO held_lanes, held_epochs, held_sequences FROM flush_positions AS f;

    begun_at := transaction_timestamp();

END
$$;

ALTER FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) OWNER TO atlas_owner;

CREATE FUNCTION atlas.held_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text) RETURNS atlas.projection_jobs
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    job projection_jobs;

BEGIN
    PERFORM require_tenant(p_tenant);

    PERFORM FROM projection_runner AS r
    WHERE r.id = 1 AND r.owner = p_owner AND r.leased_until >= clock_timestamp() FOR UPDATE;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'the projection is worked on by another process' USING ERRCODE = 'AT003';

    END IF;

    SELECT j.* INTO job FROM projection_jobs AS j WHERE j.tenant_id = p_tenant AND j.job_id = p_job FOR UPDATE;

    IF job.state IS DISTINCT FROM 'running' OR job.step <> p_step THEN
        RAISE EXCEPTION 'job % is not in step %', p_job, p_step USING ERRCODE = 'AT004';

    END IF;

    RETURN job;

END
$$;

ALTER FUNCTION atlas.held_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
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

CREATE FUNCTION atlas.index_new_partition(p_partition text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    wanted record;

BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('atlas.attribute_indexes'));

    FOR wanted IN
        SELECT x.tenant_id, x.attribute_id, x.data_type FROM attribute_indexes AS x
        WHERE x.state IN ('building', 'ready')
          AND to_regclass(format('atlas.%I', cold_index_name(x.tenant_id, x.attribute_id, p_partition))) IS NULL
    LOOP
        EXECUTE cold_index_statement(wanted.tenant_id, wanted.attribute_id, wanted.data_type, p_partition, false);

    END LOOP;

END
$$;

ALTER FUNCTION atlas.index_new_partition(p_partition text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.keep_projection_lease(p_owner text, p_seconds double precision) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '500ms'
    AS $$
BEGIN
    UPDATE projection_runner AS r SET leased_until = clock_timestamp() + make_interval(secs => p_seconds)
    WHERE r.id = 1 AND r.owner = p_owner AND r.leased_until >= clock_timestamp();

    IF NOT FOUND THEN
        RAISE EXCEPTION 'the projection is worked on by another process' USING ERRCODE = 'AT003';

    END IF;

END
$$;

ALTER FUNCTION atlas.keep_projection_lease(p_owner text, p_seconds double precision) OWNER TO atlas_projector;

CREATE FUNCTION atlas.keep_promotion_lease(p_owner text, p_seconds double precision) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
BEGIN
    UPDATE promotion_runner AS r SET leased_until = clock_timestamp() + make_interval(secs => p_seconds)
    WHERE r.id = 1 AND r.owner = p_owner AND r.leased_until >= clock_timestamp();

    IF NOT FOUND THEN
        RAISE EXCEPTION 'another process evaluates' USING ERRCODE = 'AT003';

    END IF;

END
$$;

ALTER FUNCTION atlas.keep_promotion_lease(p_owner text, p_seconds double precision) OWNER TO atlas_meter;

CREATE FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone, skip_batches integer[]) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone, skip_batches integer[]) OWNER TO atlas_owner;

CREATE FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
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

CREATE FUNCTION atlas.lane_flush_class() RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$SELECT 727105797$$;

ALTER FUNCTION atlas.lane_flush_class() OWNER TO atlas_owner;

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

CREATE FUNCTION atlas.latest_point(p_tenant integer, p_entity bigint, p_attribute integer) RETURNS TABLE(value jsonb, event_us bigint)
    LANGUAGE sql STABLE
    AS $$
    SELECT hot_value(p.value_bool, p.value_int, p.value_double, p.value_decimal, p.value_text, p.value_time, p.value_json),
        (extract(epoch FROM p.event_time) * 1000000)::bigint
    FROM entity_values_ts AS p
    WHERE p.tenant_id = p_tenant AND p.entity_id = p_entity AND p.attribute_id = p_attribute
    ORDER BY p.event_time DESC, p.ingested_at DESC, p.ctid DESC
    LIMIT 1
$$;

ALTER FUNCTION atlas.latest_point(p_tenant integer, p_entity bigint, p_attribute integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.lease_projection(p_owner text, p_seconds double precision) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '500ms'
    AS $$
DECLARE
    begun timestamptz := clock_timestamp();

    timeline_now text := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);

    timeline_then text;

BEGIN
    SELECT r.timeline INTO timeline_then FROM projection_runner AS r WHERE r.id = 1 FOR UPDATE;

    UPDATE projection_runner AS r
    SET owner = p_owner, leased_until = begun + make_interval(secs => p_seconds), timeline = timeline_now
    WHERE r.id = 1 AND r.leased_until < begun;

    IF NOT FOUND THEN
        RETURN NULL;

    ELSIF timeline_then <> timeline_now THEN
        PERFORM claim_projection_lane(begun);

    END IF;

    RETURN (SELECT f.epoch FROM flush_positions AS f WHERE f.lane = projection_lane());

END
$$;

ALTER FUNCTION atlas.lease_projection(p_owner text, p_seconds double precision) OWNER TO atlas_projector;

CREATE FUNCTION atlas.maintain_partitions(days_ahead integer DEFAULT 3) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET lock_timeout TO '1s'
    AS $$
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

ALTER FUNCTION atlas.maintain_partitions(days_ahead integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.make_by_partman(from_time timestamp with time zone, to_time timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.make_by_partman(from_time timestamp with time zone, to_time timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.make_spans_ahead(from_day date, to_day date) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
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

ALTER FUNCTION atlas.make_spans_ahead(from_day date, to_day date) OWNER TO atlas_owner;

CREATE FUNCTION atlas.measure_attribute_writes(p_hours integer, p_pages bigint, p_older_seconds double precision) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    begun timestamptz := clock_timestamp();

    since timestamptz := begun - make_interval(hours => p_hours);

    page_count bigint;

    sampled_percent real;

BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('atlas.attribute_writes'), 0) OR EXISTS (
        SELECT FROM promotion_runner AS r WHERE r.measured_at > begun - make_interval(secs => p_older_seconds)
    ) THEN
        RETURN false;

    END IF;

    SELECT sum(pg_relation_size(p.partition)) / current_setting('block_size')::bigint INTO page_count
    FROM partitions_of('entity_values_ts') AS p WHERE p.upper_bound > since;

    sampled_percent := least(100.0, 100.0 * p_pages / greatest(page_count, 1));

    INSERT INTO attribute_promotion AS p (tenant_id, attribute_id, points_per_hour)
    WITH sampled AS MATERIALIZED (
        SELECT v.tenant_id, v.attribute_id, count(*) AS points, min(v.ingested_at) AS oldest
        FROM entity_values_ts AS v TABLESAMPLE SYSTEM (sampled_percent)
        WHERE v.ingested_at >= since
        GROUP BY v.tenant_id, v.attribute_id
    ), span AS (
        -- A platform that is younger than the window has not had all its hours.
        SELECT greatest(1, extract(EPOCH FROM begun - min(s.oldest)) / 3600) AS hours FROM sampled AS s
    ), asked AS (
        SELECT a.tenant_id, a.attribute_id FROM attributes AS a WHERE a.is_hot
        UNION
        SELECT x.tenant_id, x.attribute_id FROM attribute_access AS x WHERE x.hour >= since AND x.attribute_id > 0
    )
    SELECT k.tenant_id, k.attribute_id, coalesce(s.points * 100.0 / sampled_percent / span.hours, 0)
    FROM asked AS k CROSS JOIN span LEFT JOIN sampled AS s USING (tenant_id, attribute_id)
    ORDER BY 1, 2
    ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET points_per_hour = excluded.points_per_hour
    WHERE p.points_per_hour <> excluded.points_per_hour;

    UPDATE promotion_runner AS r SET measured_at = begun WHERE r.id = 1;

    RETURN true;

END
$$;

ALTER FUNCTION atlas.measure_attribute_writes(p_hours integer, p_pages bigint, p_older_seconds double precision) OWNER TO atlas_meter;

CREATE FUNCTION atlas.move_attribute(p_tenant integer, p_attribute integer, p_kind text, begun timestamp with time zone) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
DECLARE
    was_hot boolean;

    was_broken_off boolean;

BEGIN
    SELECT a.is_hot INTO was_hot FROM attributes AS a
    WHERE a.tenant_id = p_tenant AND a.attribute_id = p_attribute FOR NO KEY UPDATE;

    SELECT j.state = 'failed' INTO was_broken_off FROM projection_jobs AS j
    WHERE j.tenant_id = p_tenant AND j.attribute_id = p_attribute AND NOT j.dry_run ORDER BY j.job_id DESC LIMIT 1;

    IF p_kind = 'promote' THEN
        IF was_hot THEN
            RETURN 'end';

        END IF;

        INSERT INTO projected_attributes AS t (tenant_id, attribute_id, phase, since)
        VALUES (p_tenant, p_attribute, 'promoting', begun)
        ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET phase = excluded.phase, since = excluded.since;

        RETURN 'drain';

    END IF;

    IF NOT was_hot AND NOT coalesce(was_broken_off, false) THEN
        RETURN 'end';

    END IF;

    INSERT INTO projected_attributes AS t (tenant_id, attribute_id, phase, since)
    VALUES (p_tenant, p_attribute, 'demoting', begun)
    ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET phase = excluded.phase, since = excluded.since;

    UPDATE attributes AS a SET is_hot = false, updated_at = begun
    WHERE a.tenant_id = p_tenant AND a.attribute_id = p_attribute AND a.is_hot;

    PERFORM pg_notify('atlas_catalog', p_tenant::text);

    RETURN 'expire';

END
$$;

ALTER FUNCTION atlas.move_attribute(p_tenant integer, p_attribute integer, p_kind text, begun timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.move_default_rows(rows_max integer DEFAULT 200000, OUT moved bigint, OUT outcome text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET lock_timeout TO '1s'
    AS $$
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

ALTER FUNCTION atlas.move_default_rows(rows_max integer, OUT moved bigint, OUT outcome text) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.move_rows(from_time timestamp with time zone, to_time timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.move_rows(from_time timestamp with time zone, to_time timestamp with time zone) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.next_cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, ids_max integer) RETURNS bigint[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $_$
DECLARE
    next text;

    candidates bigint[];

BEGIN
    IF (p_tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::integer) IS NOT TRUE THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is not the transaction''s';

    END IF;

    SELECT format('least(%s)', string_agg(format(
        '(SELECT v.entity_id FROM entity_values_ts AS v WHERE %1$s AND %2$s = %3$s AND v.entity_id > s.entity_id'
        ' ORDER BY v.entity_id LIMIT 1)',
        cold_index_predicate(p_tenant_id, (a.value ->> 'attribute')::integer), cold_index_key(a.value ->> 'type'),
        cold_literal(a.value ->> 'type', w.value)), ', '))
    INTO next
    FROM jsonb_array_elements(alternatives) AS a CROSS JOIN LATERAL jsonb_array_elements_text(a.value -> 'in') AS w;

    EXECUTE format('WITH RECURSIVE step (entity_id, place) AS (
            SELECT %s::bigint, 0
            UNION ALL
            SELECT %s, s.place + 1 FROM step AS s WHERE s.entity_id IS NOT NULL AND s.place < %s
        )
        SELECT array_agg(s.entity_id ORDER BY s.place) FROM step AS s WHERE s.place > 0 AND s.entity_id IS NOT NULL',
        after, next, ids_max)
    INTO candidates;

    RETURN coalesce(candidates, '{}');

END
$_$;

ALTER FUNCTION atlas.next_cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, ids_max integer) OWNER TO atlas_finder;

CREATE FUNCTION atlas.next_projection_entities(job atlas.projection_jobs, p_limit integer) RETURNS bigint[]
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.next_projection_entities(job atlas.projection_jobs, p_limit integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.next_projection_position(p_epoch bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.next_projection_position(p_epoch bigint) OWNER TO atlas_owner;

CREATE FUNCTION atlas.note_attribute_index(p_tenant integer, p_attribute integer, p_total integer, p_done integer, p_message text, p_failed boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
BEGIN
    PERFORM require_tenant(p_tenant);

    UPDATE attribute_indexes AS x SET partitions_total = p_total, partitions_done = p_done, message = left(p_message, 500),
        state = CASE WHEN p_failed AND x.state = 'building' THEN 'failed' ELSE x.state END, updated_at = clock_timestamp()
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;

END
$$;

ALTER FUNCTION atlas.note_attribute_index(p_tenant integer, p_attribute integer, p_total integer, p_done integer, p_message text, p_failed boolean) OWNER TO atlas_projector;

CREATE FUNCTION atlas.note_cache_differences(p_owner text, p_tenant integer, p_job bigint, p_step text, p_shown jsonb, p_found bigint, p_uncompared bigint, p_repaired bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $_$
BEGIN
    PERFORM held_projection_job(p_owner, p_tenant, p_job, p_step);

    UPDATE projection_jobs AS j SET updated_at = clock_timestamp(), cache_count = j.cache_count + p_found,
        uncompared_count = j.uncompared_count + p_uncompared, repaired_count = j.repaired_count + p_repaired,
        differences = jsonb_path_query_array(j.differences || p_shown, '$[0 to 99]')
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job;

END
$_$;

ALTER FUNCTION atlas.note_cache_differences(p_owner text, p_tenant integer, p_job bigint, p_step text, p_shown jsonb, p_found bigint, p_uncompared bigint, p_repaired bigint) OWNER TO atlas_projector;

CREATE FUNCTION atlas.note_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_message text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
BEGIN
    PERFORM held_projection_job(p_owner, p_tenant, p_job, p_step);

    UPDATE projection_jobs AS j SET message = left(p_message, 500), updated_at = clock_timestamp()
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job AND j.message <> left(p_message, 500);

END
$$;

ALTER FUNCTION atlas.note_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_message text) OWNER TO atlas_projector;

CREATE FUNCTION atlas.old_lock_holder(relation regclass, older interval) RETURNS text
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.old_lock_holder(relation regclass, older interval) OWNER TO atlas_keeper;

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

CREATE FUNCTION atlas.partition_name(from_time timestamp with time zone, to_time timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
    SELECT 'entity_values_ts_' || CASE
        WHEN from_time = date_trunc('day', from_time) AND to_time = from_time + interval '1 day'
            THEN to_char(from_time, 'YYYYMMDD')
        WHEN from_time = date_trunc('hour', from_time) THEN to_char(from_time, 'YYYYMMDD_HH24')
        ELSE to_char(from_time, 'YYYYMMDD_HH24MISSUS')
    END
$$;

ALTER FUNCTION atlas.partition_name(from_time timestamp with time zone, to_time timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.partitions_of(root regclass) RETURNS TABLE(partition regclass, name text, lower_bound timestamp with time zone, upper_bound timestamp with time zone, is_default boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    SET "DateStyle" TO 'ISO'
    SET "TimeZone" TO 'UTC'
    AS $$
    SELECT c.oid::regclass, c.relname::text,
        coalesce((regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1], '-infinity')::timestamptz,
        coalesce((regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1], 'infinity')::timestamptz,
        b.bound = 'DEFAULT'
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (VALUES (pg_get_expr(c.relpartbound, c.oid))) AS b (bound)
    WHERE i.inhparent = root
$$;

ALTER FUNCTION atlas.partitions_of(root regclass) OWNER TO atlas_owner;

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
$_$;

ALTER FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) OWNER TO atlas_flusher;

CREATE FUNCTION atlas.project_entities(p_tenant integer, p_entities bigint[], p_set integer[], p_remove integer[], p_touch boolean) RETURNS TABLE(changed_entity bigint, changed_version bigint)
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
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

ALTER FUNCTION atlas.project_entities(p_tenant integer, p_entities bigint[], p_set integer[], p_remove integer[], p_touch boolean) OWNER TO atlas_owner;

CREATE FUNCTION atlas.projection_lane() RETURNS smallint
    LANGUAGE sql IMMUTABLE
    AS $$SELECT 255::smallint$$;

ALTER FUNCTION atlas.projection_lane() OWNER TO atlas_owner;

CREATE FUNCTION atlas.promotion_tenants(p_after integer, p_limit integer) RETURNS TABLE(tenant_id integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT DISTINCT p.tenant_id FROM attribute_promotion AS p WHERE p.tenant_id > p_after ORDER BY p.tenant_id LIMIT p_limit
$$;

ALTER FUNCTION atlas.promotion_tenants(p_after integer, p_limit integer) OWNER TO atlas_meter;

CREATE FUNCTION atlas.recheck_projection(p_owner text, p_tenant integer, p_job bigint, p_step text, p_entities bigint[], p_count bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
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

ALTER FUNCTION atlas.recheck_projection(p_owner text, p_tenant integer, p_job bigint, p_step text, p_entities bigint[], p_count bigint) OWNER TO atlas_projector;

CREATE FUNCTION atlas.record_archive(p_name text, p_class text, p_tenants integer[], p_path text, p_rows bigint, p_bytes bigint, p_checksum text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.record_archive(p_name text, p_class text, p_tenants integer[], p_path text, p_rows bigint, p_bytes bigint, p_checksum text) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.record_attribute_access(p_tenants integer[], p_names text[], p_reads bigint[], p_filters bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    this_hour timestamptz := date_trunc('hour', clock_timestamp(), 'UTC');

BEGIN
    IF cardinality(p_tenants) > 100000 THEN
        RAISE EXCEPTION 'too many counts at once' USING ERRCODE = 'program_limit_exceeded';

    END IF;

    INSERT INTO access_hours AS h (hour, flush_count) VALUES (this_hour, 1)
    ON CONFLICT (hour) DO UPDATE SET flush_count = h.flush_count + 1;

    INSERT INTO attribute_access AS x (tenant_id, attribute_id, hour, read_count, hot_count, filter_count, refused_count)
    SELECT t.tenant_id, coalesce(a.attribute_id, 0), this_hour, sum(t.reads),
        coalesce(sum(t.reads) FILTER (WHERE coalesce(a.is_hot, true)), 0), sum(t.filters),
        coalesce(sum(t.filters) FILTER (WHERE NOT a.is_hot AND i.attribute_id IS NULL), 0)
    FROM unnest(p_tenants, p_names, p_reads, p_filters) AS t (tenant_id, name, reads, filters)
    LEFT JOIN attributes AS a ON a.tenant_id = t.tenant_id AND a.name = t.name
    LEFT JOIN attribute_indexes AS i
        ON i.tenant_id = a.tenant_id AND i.attribute_id = a.attribute_id AND i.state = 'ready'
    WHERE (a.attribute_id IS NOT NULL OR t.name = '') AND t.reads >= 0 AND t.filters >= 0
    GROUP BY 1, 2
    ON CONFLICT (tenant_id, attribute_id, hour) DO UPDATE SET
        read_count = x.read_count + excluded.read_count, hot_count = x.hot_count + excluded.hot_count,
        filter_count = x.filter_count + excluded.filter_count, refused_count = x.refused_count + excluded.refused_count;

    DELETE FROM attribute_access AS x WHERE x.ctid = ANY (ARRAY(
        SELECT o.ctid FROM attribute_access AS o WHERE o.hour < this_hour - access_retention()
        LIMIT 10000 FOR UPDATE SKIP LOCKED));

    DELETE FROM access_hours AS h WHERE h.hour < this_hour - access_retention();

END
$$;

ALTER FUNCTION atlas.record_attribute_access(p_tenants integer[], p_names text[], p_reads bigint[], p_filters bigint[]) OWNER TO atlas_meter;

CREATE FUNCTION atlas.remember_flush(p_lane smallint, p_epoch bigint, p_sequence bigint, tenants integer[], entities bigint[], versions bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.remember_flush(p_lane smallint, p_epoch bigint, p_sequence bigint, tenants integer[], entities bigint[], versions bigint[]) OWNER TO atlas_owner;

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

CREATE FUNCTION atlas.require_tenant(p_tenant integer) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    IF p_tenant IS DISTINCT FROM nullif(current_setting('atlas.tenant_id', true), '')::integer THEN
        RAISE EXCEPTION 'the transaction is not of tenant %', p_tenant USING ERRCODE = 'insufficient_privilege';

    END IF;

END
$$;

ALTER FUNCTION atlas.require_tenant(p_tenant integer) OWNER TO atlas_owner;

CREATE FUNCTION atlas.retention_grace() RETURNS interval
    LANGUAGE sql IMMUTABLE
    AS $$SELECT interval '10 minutes'$$;

ALTER FUNCTION atlas.retention_grace() OWNER TO atlas_owner;

CREATE FUNCTION atlas.retention_plan(only_name text DEFAULT NULL::text) RETURNS TABLE(step text, partition_name text, relation text, lower_bound timestamp with time zone, upper_bound timestamp with time zone, retention_class text, tenant_ids integer[], needs_archive boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
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

ALTER FUNCTION atlas.retention_plan(only_name text) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.retire_partition(p_name text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '300ms'
    AS $$
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

ALTER FUNCTION atlas.retire_partition(p_name text) OWNER TO atlas_keeper;

CREATE FUNCTION atlas.retired_plan(p_name text, p_relation text, p_lower timestamp with time zone, p_upper timestamp with time zone, archived integer[]) RETURNS TABLE(step text, partition_name text, relation text, lower_bound timestamp with time zone, upper_bound timestamp with time zone, retention_class text, tenant_ids integer[], needs_archive boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
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
$_$;

ALTER FUNCTION atlas.retired_plan(p_name text, p_relation text, p_lower timestamp with time zone, p_upper timestamp with time zone, archived integer[]) OWNER TO atlas_owner;

CREATE PROCEDURE atlas.run_retention()
    LANGUAGE plpgsql
    AS $$
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

ALTER PROCEDURE atlas.run_retention() OWNER TO atlas_owner;

CREATE FUNCTION atlas.running_projection_jobs(p_limit integer) RETURNS TABLE(tenant_id integer, job_id bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT j.tenant_id, j.job_id FROM projection_jobs AS j WHERE j.state = 'running' ORDER BY j.job_id LIMIT p_limit
$$;

ALTER FUNCTION atlas.running_projection_jobs(p_limit integer) OWNER TO atlas_projector;

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

ALTER FUNCTION atlas.staging_status() OWNER TO atlas_flusher;

CREATE FUNCTION atlas.start_attribute_index(p_tenant integer, p_attribute integer, p_tenant_max integer, p_max integer) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
DECLARE
    known text;

    counts record;

BEGIN
    PERFORM require_tenant(p_tenant);

    -- One after another, of all tenants: so they are counted right.
    PERFORM pg_advisory_xact_lock(hashtext('atlas.attribute_index_count'));

    SELECT x.state INTO known FROM attribute_indexes AS x
    WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute FOR UPDATE;

    IF known IN ('building', 'ready') THEN
        RETURN 'known';

    ELSIF known IS NOT NULL THEN
        UPDATE attribute_indexes AS x SET state = 'building', message = '', updated_at = clock_timestamp()
        WHERE x.tenant_id = p_tenant AND x.attribute_id = p_attribute;

        RETURN 'begun';

    ELSIF (SELECT a.is_hot FROM attributes AS a WHERE a.tenant_id = p_tenant AND a.attribute_id = p_attribute) THEN
        RETURN 'hot';

    END IF;

    SELECT count(*) AS every, count(*) FILTER (WHERE x.tenant_id = p_tenant) AS own INTO counts FROM attribute_indexes AS x;

    IF counts.own >= p_tenant_max THEN
        RETURN 'tenant_full';

    ELSIF counts.every >= p_max THEN
        RETURN 'full';

    END IF;

    INSERT INTO attribute_indexes (tenant_id, attribute_id, data_type, state, message, created_at, updated_at)
    SELECT a.tenant_id, a.attribute_id, a.data_type, 'building', 'waits for its turn, or for a process that builds indexes',
        clock_timestamp(), clock_timestamp()
    FROM attributes AS a WHERE a.tenant_id = p_tenant AND a.attribute_id = p_attribute;

    RETURN 'begun';

END
$$;

ALTER FUNCTION atlas.start_attribute_index(p_tenant integer, p_attribute integer, p_tenant_max integer, p_max integer) OWNER TO atlas_projector;

CREATE FUNCTION atlas.start_projection_job(p_tenant integer, p_kind text, p_attribute integer, p_entities bigint[], p_sample smallint, p_dry_run boolean, p_repair boolean, p_request text, OUT job_id bigint, OUT other_job bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
DECLARE
    begun timestamptz := clock_timestamp();

    first_step text;

BEGIN
    PERFORM require_tenant(p_tenant);

    PERFORM pg_advisory_xact_lock(hashtext('atlas.attributes'), p_tenant);

    SELECT j.job_id INTO job_id FROM projection_jobs AS j
    WHERE j.tenant_id = p_tenant AND (j.request_id = p_request OR (
        j.state = 'running' AND j.kind = p_kind AND j.attribute_id = p_attribute AND j.dry_run = p_dry_run))
    ORDER BY j.job_id DESC LIMIT 1;

    IF FOUND THEN
        RETURN;

    END IF;

    SELECT j.job_id INTO other_job FROM projection_jobs AS j
    WHERE j.tenant_id = p_tenant AND j.state = 'running' AND j.attribute_id = p_attribute
      AND NOT j.dry_run AND NOT p_dry_run;

    IF FOUND THEN
        RETURN;

    END IF;

    first_step := CASE WHEN p_dry_run OR p_kind = 'verify' THEN 'compare'
        WHEN p_kind = 'rebuild' THEN 'rebuild'
        ELSE move_attribute(p_tenant, p_attribute, p_kind, begun) END;

    INSERT INTO projection_jobs AS j (tenant_id, request_id, kind, attribute_id, entity_ids, sample_percent, dry_run,
        repair, state, step, step_since, entities_total, created_at, updated_at, finished_at, message)
    SELECT p_tenant, p_request, p_kind, p_attribute, p_entities, p_sample, p_dry_run, p_repair,
        CASE WHEN first_step = 'end' THEN 'done' ELSE 'running' END, first_step, begun,
        coalesce(cardinality(p_entities), (SELECT count(*) FROM entities AS n WHERE n.tenant_id = p_tenant)),
        begun, begun, CASE WHEN first_step = 'end' THEN begun END,
        CASE WHEN first_step = 'end' THEN 'nothing to do: the attribute is so already' ELSE '' END
    RETURNING j.job_id INTO job_id;

    DELETE FROM projection_jobs AS j
    WHERE j.tenant_id = p_tenant AND j.state <> 'running' AND j.job_id IN (
        SELECT o.job_id FROM projection_jobs AS o WHERE o.tenant_id = p_tenant ORDER BY o.job_id DESC OFFSET 200);

END
$$;

ALTER FUNCTION atlas.start_projection_job(p_tenant integer, p_kind text, p_attribute integer, p_entities bigint[], p_sample smallint, p_dry_run boolean, p_repair boolean, p_request text, OUT job_id bigint, OUT other_job bigint) OWNER TO atlas_projector;

CREATE FUNCTION atlas.statement_shape(query text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $_$
    SELECT left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
        replace(left(query, 1000), '\''', ''),
        '\$(\w*)\$.*?(\$\1\$|$)', '?', 'g'), '''[^'']*(''|$)', '?', 'g'), '\y[0-9][0-9.]*\y', '?', 'g'),
        '\s+', ' ', 'g'), 120)
$_$;

ALTER FUNCTION atlas.statement_shape(query text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.tenants_with_rows(p_class text, from_time timestamp with time zone, to_time timestamp with time zone, except_tenants integer[]) RETURNS integer[]
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(t.tenant_id ORDER BY t.tenant_id), '{}') FROM tenants AS t
    WHERE t.retention_class = p_class AND t.tenant_id <> ALL (except_tenants) AND EXISTS (
        SELECT FROM entity_values_ts AS v
        WHERE v.tenant_id = t.tenant_id AND v.ingested_at >= from_time AND v.ingested_at < to_time)
$$;

ALTER FUNCTION atlas.tenants_with_rows(p_class text, from_time timestamp with time zone, to_time timestamp with time zone, except_tenants integer[]) OWNER TO atlas_owner;

CREATE FUNCTION atlas.try_partition(root text, name text, bound_from text, bound_to text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
BEGIN
    RETURN make_partition(root, name, bound_from, bound_to);

EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN ARRAY[format('postponed %s: a transaction holds %s or its default partition', name, root)];

    WHEN check_violation THEN
        RETURN ARRAY[format('postponed %s: its rows are in the default partition', name)];

END
$$;

ALTER FUNCTION atlas.try_partition(root text, name text, bound_from text, bound_to text) OWNER TO atlas_owner;

CREATE FUNCTION atlas.uncovered_spans(from_time timestamp with time zone, to_time timestamp with time zone) RETURNS TABLE(lower_bound timestamp with time zone, upper_bound timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
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

ALTER FUNCTION atlas.uncovered_spans(from_time timestamp with time zone, to_time timestamp with time zone) OWNER TO atlas_owner;

CREATE FUNCTION atlas.united(one bigint[], other bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT CASE WHEN one IS NOT NULL AND other IS NOT NULL
        THEN (SELECT coalesce(array_agg(DISTINCT u.id ORDER BY u.id), '{}') FROM unnest(one || other) AS u (id)) END
$$;

ALTER FUNCTION atlas.united(one bigint[], other bigint[]) OWNER TO atlas_owner;

CREATE FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) RETURNS TABLE(tenant_id integer, entity_id bigint, version bigint)
    LANGUAGE plpgsql
    SET search_path TO 'atlas', 'pg_temp'
    SET enable_mergejoin TO 'off'
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
            UNION
            -- A few rows at most, of all tenants.
            SELECT u.tenant_id, u.attribute_id FROM used AS u
            JOIN projected_attributes AS t ON t.tenant_id = u.tenant_id AND t.attribute_id = u.attribute_id
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
                -- Nearly always everything is newer: then nothing has to be taken apart.
                SELECT
                    CASE WHEN late.some THEN (
                        SELECT e.attrs || jsonb_object_agg(n.key, excluded.attrs -> n.key)
                        FROM jsonb_each(excluded.attr_times) AS n
                        WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
                    ) ELSE e.attrs || excluded.attrs END,
                    CASE WHEN late.some THEN (
                        SELECT e.attr_times || jsonb_object_agg(n.key, n.value)
                        FROM jsonb_each(excluded.attr_times) AS n
                        WHERE n.value::bigint >= coalesce((e.attr_times ->> n.key)::bigint, n.value::bigint)
                    ) ELSE e.attr_times || excluded.attr_times END
                FROM (
                    SELECT EXISTS (
                        SELECT FROM jsonb_each(excluded.attr_times) AS n
                        WHERE n.value::bigint < (e.attr_times ->> n.key)::bigint
                    ) AS some OFFSET 0
                ) AS late
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

CREATE FUNCTION atlas.write_projection_batch(p_owner text, p_epoch bigint, p_tenant integer, p_job bigint, p_step text, p_limit integer, p_again bigint[], OUT scanned integer, OUT sequence bigint, OUT changed_entities bigint[], OUT changed_versions bigint[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'atlas', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
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

ALTER FUNCTION atlas.write_projection_batch(p_owner text, p_epoch bigint, p_tenant integer, p_job bigint, p_step text, p_limit integer, p_again bigint[], OUT scanned integer, OUT sequence bigint, OUT changed_entities bigint[], OUT changed_versions bigint[]) OWNER TO atlas_projector;

CREATE FUNCTION atlas.written_timeline() RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'atlas', 'pg_temp'
    AS $$
    SELECT CASE
        WHEN NOT pg_is_in_recovery()
            THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
    END
$$;

ALTER FUNCTION atlas.written_timeline() OWNER TO atlas_owner;

CREATE TABLE atlas.access_hours (
    hour timestamp with time zone NOT NULL,
    flush_count bigint NOT NULL
);

ALTER TABLE atlas.access_hours OWNER TO atlas_owner;

CREATE TABLE atlas.attribute_access (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    hour timestamp with time zone NOT NULL,
    read_count bigint DEFAULT 0 NOT NULL,
    filter_count bigint DEFAULT 0 NOT NULL,
    hot_count bigint DEFAULT 0 NOT NULL,
    refused_count bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='70');

ALTER TABLE ONLY atlas.attribute_access FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.attribute_access OWNER TO atlas_owner;

CREATE TABLE atlas.attribute_indexes (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    data_type text NOT NULL,
    state text NOT NULL,
    partitions_total integer DEFAULT 0 NOT NULL,
    partitions_done integer DEFAULT 0 NOT NULL,
    message text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT attribute_indexes_data_type_check CHECK ((data_type = ANY (ARRAY['bool'::text, 'int'::text, 'double'::text, 'decimal'::text, 'text'::text, 'time'::text, 'json'::text]))),
    CONSTRAINT attribute_indexes_state_check CHECK ((state = ANY (ARRAY['building'::text, 'ready'::text, 'dropping'::text, 'failed'::text])))
);

ALTER TABLE ONLY atlas.attribute_indexes FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.attribute_indexes OWNER TO atlas_owner;

CREATE TABLE atlas.attribute_promotion (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    pin text,
    wish text,
    streak smallint DEFAULT 0 NOT NULL,
    points_per_hour double precision DEFAULT 0 NOT NULL,
    CONSTRAINT attribute_promotion_pin_check CHECK ((pin = ANY (ARRAY['hot'::text, 'cold'::text]))),
    CONSTRAINT attribute_promotion_wish_check CHECK ((wish = ANY (ARRAY['promote'::text, 'demote'::text])))
);

ALTER TABLE ONLY atlas.attribute_promotion FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.attribute_promotion OWNER TO atlas_owner;

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

CREATE TABLE atlas.audit_log (
    tenant_id integer NOT NULL,
    entry_id bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    act uuid NOT NULL,
    event text NOT NULL,
    actor text NOT NULL,
    actor_kind text NOT NULL,
    actor_tenant text NOT NULL,
    method text NOT NULL,
    request_id text NOT NULL,
    request text DEFAULT ''::text NOT NULL,
    outcome text DEFAULT ''::text NOT NULL,
    CONSTRAINT audit_log_actor_check CHECK ((octet_length(actor) <= 1024)),
    CONSTRAINT audit_log_actor_kind_check CHECK ((actor_kind = ANY (ARRAY['user'::text, 'service'::text, 'anybody'::text]))),
    CONSTRAINT audit_log_actor_tenant_check CHECK ((octet_length(actor_tenant) <= 1024)),
    CONSTRAINT audit_log_event_check CHECK ((event = ANY (ARRAY['begun'::text, 'ended'::text]))),
    CONSTRAINT audit_log_method_check CHECK ((octet_length(method) <= 256)),
    CONSTRAINT audit_log_outcome_check CHECK ((octet_length(outcome) <= 32)),
    CONSTRAINT audit_log_request_check CHECK ((octet_length(request) <= 16384)),
    CONSTRAINT audit_log_request_id_check CHECK ((octet_length(request_id) <= 128))
);

ALTER TABLE ONLY atlas.audit_log FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.audit_log OWNER TO atlas_owner;

ALTER TABLE atlas.audit_log ALTER COLUMN entry_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME atlas.audit_log_entry_id_seq
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

CREATE TABLE atlas.maintenance_policies (
    policy_id integer NOT NULL,
    job text NOT NULL,
    is_default boolean DEFAULT false NOT NULL,
    takes_tenants boolean NOT NULL,
    tenant_ids integer[] DEFAULT '{}'::integer[] NOT NULL,
    default_interval interval,
    schedule_interval interval,
    is_scheduled boolean DEFAULT true NOT NULL,
    next_start timestamp with time zone NOT NULL,
    requested text,
    runner text DEFAULT ''::text NOT NULL,
    leased_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT maintenance_policies_check CHECK ((takes_tenants OR (tenant_ids = '{}'::integer[]))),
    CONSTRAINT maintenance_policies_job_check CHECK (((octet_length(job) >= 1) AND (octet_length(job) <= 128))),
    CONSTRAINT maintenance_policies_requested_check CHECK ((requested = ANY (ARRAY['run'::text, 'dry_run'::text]))),
    CONSTRAINT maintenance_policies_schedule_interval_check CHECK ((schedule_interval > '00:00:00'::interval))
)
WITH (fillfactor='50');

ALTER TABLE atlas.maintenance_policies OWNER TO atlas_owner;

ALTER TABLE atlas.maintenance_policies ALTER COLUMN policy_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME atlas.maintenance_policies_policy_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.maintenance_runs (
    policy_id integer NOT NULL,
    is_dry_run boolean NOT NULL,
    runner text NOT NULL,
    status text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    summary text DEFAULT ''::text NOT NULL,
    run_count bigint NOT NULL,
    failure_count bigint DEFAULT 0 NOT NULL,
    CONSTRAINT maintenance_runs_status_check CHECK ((status = ANY (ARRAY['running'::text, 'success'::text, 'unfinished'::text, 'failed'::text, 'interrupted'::text]))),
    CONSTRAINT maintenance_runs_summary_check CHECK ((octet_length(summary) <= 4096))
)
WITH (fillfactor='50');

ALTER TABLE atlas.maintenance_runs OWNER TO atlas_owner;

CREATE TABLE atlas.partition_archives (
    partition_name text NOT NULL,
    retention_class text NOT NULL,
    part integer NOT NULL,
    lower_bound timestamp with time zone NOT NULL,
    upper_bound timestamp with time zone NOT NULL,
    tenant_ids integer[] NOT NULL,
    path text NOT NULL,
    row_count bigint NOT NULL,
    byte_count bigint NOT NULL,
    checksum text NOT NULL,
    deleted_count bigint DEFAULT 0 NOT NULL,
    archived_at timestamp with time zone NOT NULL,
    CONSTRAINT partition_archives_check CHECK (((deleted_count >= 0) AND (deleted_count <= row_count)))
);

ALTER TABLE atlas.partition_archives OWNER TO atlas_owner;

CREATE TABLE atlas.partition_policy (
    id smallint DEFAULT 1 NOT NULL,
    span interval DEFAULT '1 day'::interval NOT NULL,
    CONSTRAINT partition_policy_id_check CHECK ((id = 1)),
    CONSTRAINT partition_policy_span_check CHECK ((span = ANY (ARRAY['01:00:00'::interval, '1 day'::interval])))
);

ALTER TABLE atlas.partition_policy OWNER TO atlas_owner;

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

CREATE TABLE atlas.projected_attributes (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    phase text NOT NULL,
    since timestamp with time zone NOT NULL,
    CONSTRAINT projected_attributes_phase_check CHECK ((phase = ANY (ARRAY['promoting'::text, 'demoting'::text])))
);

ALTER TABLE ONLY atlas.projected_attributes FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.projected_attributes OWNER TO atlas_owner;

ALTER TABLE atlas.projection_jobs ALTER COLUMN job_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME atlas.projection_jobs_job_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.projection_runner (
    id smallint DEFAULT 1 NOT NULL,
    owner text NOT NULL,
    leased_until timestamp with time zone NOT NULL,
    timeline text DEFAULT ''::text NOT NULL,
    CONSTRAINT projection_runner_id_check CHECK ((id = 1))
);

ALTER TABLE atlas.projection_runner OWNER TO atlas_owner;

CREATE TABLE atlas.promotion_decisions (
    tenant_id integer NOT NULL,
    decision_id bigint NOT NULL,
    decided_at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    attribute_id integer NOT NULL,
    dry_run boolean NOT NULL,
    outcome text NOT NULL,
    job_id bigint,
    why text NOT NULL,
    figures jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT promotion_decisions_action_check CHECK ((action = ANY (ARRAY['promote'::text, 'demote'::text, 'pin_hot'::text, 'pin_cold'::text, 'unpin'::text]))),
    CONSTRAINT promotion_decisions_actor_check CHECK ((actor = ANY (ARRAY['policy'::text, 'operator'::text]))),
    CONSTRAINT promotion_decisions_outcome_check CHECK ((outcome = ANY (ARRAY['started'::text, 'done'::text, 'would'::text, 'refused'::text]))),
    CONSTRAINT promotion_decisions_why_check CHECK ((octet_length(why) <= 2000))
);

ALTER TABLE ONLY atlas.promotion_decisions FORCE ROW LEVEL SECURITY;

ALTER TABLE atlas.promotion_decisions OWNER TO atlas_owner;

ALTER TABLE atlas.promotion_decisions ALTER COLUMN decision_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME atlas.promotion_decisions_decision_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE atlas.promotion_runner (
    id smallint DEFAULT 1 NOT NULL,
    owner text DEFAULT ''::text NOT NULL,
    leased_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    evaluated_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    measured_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT promotion_runner_id_check CHECK ((id = 1))
);

ALTER TABLE atlas.promotion_runner OWNER TO atlas_owner;

CREATE UNLOGGED TABLE atlas.recent_flushes (
    lane smallint NOT NULL,
    slot smallint NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    entity_count integer NOT NULL,
    changed_tenants integer[],
    changed_entities bigint[],
    changed_versions bigint[],
    CONSTRAINT recent_flushes_slot_check CHECK (((slot >= 0) AND (slot <= 63)))
)
WITH (fillfactor='50');

ALTER TABLE ONLY atlas.recent_flushes ALTER COLUMN changed_tenants SET STORAGE EXTERNAL;

ALTER TABLE ONLY atlas.recent_flushes ALTER COLUMN changed_entities SET STORAGE EXTERNAL;

ALTER TABLE ONLY atlas.recent_flushes ALTER COLUMN changed_versions SET STORAGE EXTERNAL;

ALTER TABLE atlas.recent_flushes OWNER TO atlas_owner;

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

CREATE TABLE atlas.retired_partitions (
    name text NOT NULL,
    lower_bound timestamp with time zone NOT NULL,
    upper_bound timestamp with time zone NOT NULL,
    archive_tenants integer[] NOT NULL,
    retired_at timestamp with time zone NOT NULL,
    dropped_at timestamp with time zone
);

ALTER TABLE atlas.retired_partitions OWNER TO atlas_owner;

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
    quotas jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT tenants_key_check CHECK ((key ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
    CONSTRAINT tenants_late_data_window_check CHECK ((late_data_window > '00:00:00'::interval)),
    CONSTRAINT tenants_quotas_check CHECK (((jsonb_typeof(quotas) = 'object'::text) AND (octet_length((quotas)::text) <= 4096))),
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

ALTER TABLE ONLY atlas.access_hours
    ADD CONSTRAINT access_hours_pkey PRIMARY KEY (hour);

ALTER TABLE ONLY atlas.attribute_access
    ADD CONSTRAINT attribute_access_pkey PRIMARY KEY (tenant_id, attribute_id, hour);

ALTER TABLE ONLY atlas.attribute_indexes
    ADD CONSTRAINT attribute_indexes_pkey PRIMARY KEY (tenant_id, attribute_id);

ALTER TABLE ONLY atlas.attribute_promotion
    ADD CONSTRAINT attribute_promotion_pkey PRIMARY KEY (tenant_id, attribute_id);

ALTER TABLE ONLY atlas.attributes
    ADD CONSTRAINT attributes_name_unique UNIQUE (tenant_id, name);

ALTER TABLE ONLY atlas.attributes
    ADD CONSTRAINT attributes_pkey PRIMARY KEY (tenant_id, attribute_id);

ALTER TABLE ONLY atlas.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (tenant_id, entry_id);

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

ALTER TABLE ONLY atlas.maintenance_policies
    ADD CONSTRAINT maintenance_policies_pkey PRIMARY KEY (policy_id);

ALTER TABLE ONLY atlas.maintenance_runs
    ADD CONSTRAINT maintenance_runs_pkey PRIMARY KEY (policy_id, is_dry_run);

ALTER TABLE ONLY atlas.partition_archives
    ADD CONSTRAINT partition_archives_path_unique UNIQUE (path);

ALTER TABLE ONLY atlas.partition_archives
    ADD CONSTRAINT partition_archives_pkey PRIMARY KEY (partition_name, retention_class, part);

ALTER TABLE ONLY atlas.partition_policy
    ADD CONSTRAINT partition_policy_pkey PRIMARY KEY (id);

ALTER TABLE ONLY atlas.producer_positions
    ADD CONSTRAINT producer_positions_pkey PRIMARY KEY (tenant_id, producer_id);

ALTER TABLE ONLY atlas.projected_attributes
    ADD CONSTRAINT projected_attributes_pkey PRIMARY KEY (tenant_id, attribute_id);

ALTER TABLE ONLY atlas.projection_jobs
    ADD CONSTRAINT projection_jobs_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY atlas.projection_runner
    ADD CONSTRAINT projection_runner_pkey PRIMARY KEY (id);

ALTER TABLE ONLY atlas.promotion_decisions
    ADD CONSTRAINT promotion_decisions_pkey PRIMARY KEY (tenant_id, decision_id);

ALTER TABLE ONLY atlas.promotion_runner
    ADD CONSTRAINT promotion_runner_pkey PRIMARY KEY (id);

ALTER TABLE ONLY atlas.recent_flushes
    ADD CONSTRAINT recent_flushes_pkey PRIMARY KEY (lane, slot);

ALTER TABLE ONLY atlas.replication_heartbeat
    ADD CONSTRAINT replication_heartbeat_pkey PRIMARY KEY (id);

ALTER TABLE ONLY atlas.retention_classes
    ADD CONSTRAINT retention_classes_pkey PRIMARY KEY (retention_class);

ALTER TABLE ONLY atlas.retired_partitions
    ADD CONSTRAINT retired_partitions_pkey PRIMARY KEY (name);

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

CREATE INDEX attribute_access_hour ON atlas.attribute_access USING btree (hour);

CREATE UNIQUE INDEX audit_log_act ON atlas.audit_log USING btree (tenant_id, act, event);

CREATE INDEX entity_jsonb_attrs ON atlas.entity_jsonb USING gin (attrs jsonb_path_ops);

CREATE INDEX entity_values_ts_ingested ON ONLY atlas.entity_values_ts USING brin (ingested_at);

CREATE INDEX entity_values_ts_default_ingested_at_idx ON atlas.entity_values_ts_default USING brin (ingested_at);

CREATE INDEX entity_values_ts_latest ON ONLY atlas.entity_values_ts USING btree (tenant_id, entity_id, attribute_id, event_time DESC);

CREATE INDEX entity_values_ts_default_tenant_id_entity_id_attribute_id_e_idx ON atlas.entity_values_ts_default USING btree (tenant_id, entity_id, attribute_id, event_time DESC);

CREATE UNIQUE INDEX maintenance_policies_default ON atlas.maintenance_policies USING btree (job) WHERE is_default;

CREATE INDEX projection_jobs_running ON atlas.projection_jobs USING btree (job_id) WHERE (state = 'running'::text);

CREATE INDEX promotion_decisions_age ON atlas.promotion_decisions USING btree (decided_at);

CREATE UNIQUE INDEX promotion_decisions_job ON atlas.promotion_decisions USING btree (tenant_id, job_id) WHERE (job_id IS NOT NULL);

ALTER INDEX atlas.entity_values_ts_ingested ATTACH PARTITION atlas.entity_values_ts_default_ingested_at_idx;

ALTER INDEX atlas.entity_values_ts_latest ATTACH PARTITION atlas.entity_values_ts_default_tenant_id_entity_id_attribute_id_e_idx;

ALTER INDEX atlas.write_requests_pkey ATTACH PARTITION atlas.write_requests_default_pkey;

ALTER TABLE ONLY atlas.maintenance_runs
    ADD CONSTRAINT maintenance_runs_policy_id_fkey FOREIGN KEY (policy_id) REFERENCES atlas.maintenance_policies(policy_id) ON DELETE CASCADE;

ALTER TABLE ONLY atlas.tenants
    ADD CONSTRAINT tenants_retention_class_known FOREIGN KEY (retention_class) REFERENCES atlas.retention_classes(retention_class);

CREATE POLICY append ON atlas.audit_log FOR INSERT TO atlas_hotcache, atlas_ingest, atlas_reconciler WITH CHECK ((tenant_id = COALESCE((NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer, 0)));

CREATE POLICY archive ON atlas.entity_values_ts FOR SELECT TO atlas_maintenance USING (true);

ALTER TABLE atlas.attribute_access ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.attribute_indexes ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.attribute_promotion ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.attributes ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.audit_log ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entities ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_jsonb ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_values_ts ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.entity_values_ts_default ENABLE ROW LEVEL SECURITY;

CREATE POLICY find ON atlas.entity_jsonb FOR SELECT TO atlas_finder USING (true);

CREATE POLICY find ON atlas.entity_values_ts FOR SELECT TO atlas_finder USING (true);

CREATE POLICY flush ON atlas.attributes TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.entity_jsonb TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.entity_values_ts TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.ingest_dead_letters TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.producer_positions TO atlas_flusher USING (true) WITH CHECK (true);

CREATE POLICY flush ON atlas.projected_attributes FOR SELECT TO atlas_flusher USING (true);

CREATE POLICY flush ON atlas.write_requests TO atlas_flusher USING (true) WITH CHECK (true);

ALTER TABLE atlas.ingest_dead_letters ENABLE ROW LEVEL SECURITY;

CREATE POLICY keeper ON atlas.entity_values_ts TO atlas_keeper USING (true) WITH CHECK (true);

CREATE POLICY keeper ON atlas.entity_values_ts_default FOR SELECT TO atlas_keeper USING (true);

CREATE POLICY keeper ON atlas.tenants FOR SELECT TO atlas_keeper USING (true);

CREATE POLICY meter ON atlas.attribute_access TO atlas_meter USING (true) WITH CHECK (true);

CREATE POLICY meter ON atlas.attribute_indexes FOR SELECT TO atlas_meter USING (true);

CREATE POLICY meter ON atlas.attribute_promotion TO atlas_meter USING (true) WITH CHECK (true);

CREATE POLICY meter ON atlas.attributes FOR SELECT TO atlas_meter USING (true);

CREATE POLICY meter ON atlas.entity_values_ts FOR SELECT TO atlas_meter USING (true);

CREATE POLICY meter_expires ON atlas.promotion_decisions FOR DELETE TO atlas_meter USING (true);

CREATE POLICY meter_looks ON atlas.promotion_decisions FOR SELECT TO atlas_meter USING (true);

CREATE POLICY monitor ON atlas.attribute_indexes FOR SELECT TO atlas_monitor USING (true);

CREATE POLICY monitor ON atlas.audit_log FOR SELECT TO atlas_monitor USING (true);

CREATE POLICY monitor ON atlas.ingest_dead_letters FOR SELECT TO atlas_monitor USING (true);

CREATE POLICY monitor ON atlas.producer_positions FOR SELECT TO atlas_monitor USING (true);

CREATE POLICY monitor ON atlas.projection_jobs FOR SELECT TO atlas_monitor USING (true);

CREATE POLICY monitor ON atlas.tenants FOR SELECT TO atlas_monitor USING (true);

CREATE POLICY owner_looks ON atlas.attribute_indexes FOR SELECT TO atlas_owner USING (true);

CREATE POLICY platform_only ON atlas.audit_log FOR SELECT TO atlas_ingest USING (((tenant_id = 0) AND (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text) IS NULL)));

ALTER TABLE atlas.producer_positions ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.projected_attributes ENABLE ROW LEVEL SECURITY;

ALTER TABLE atlas.projection_jobs ENABLE ROW LEVEL SECURITY;

CREATE POLICY projector ON atlas.attribute_indexes TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector ON atlas.attributes TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector ON atlas.entities TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector ON atlas.entity_jsonb TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector ON atlas.entity_values_ts TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector ON atlas.projected_attributes TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector ON atlas.projection_jobs TO atlas_projector USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY projector_looks ON atlas.attribute_indexes FOR SELECT TO atlas_projector USING (true);

CREATE POLICY projector_looks ON atlas.projection_jobs FOR SELECT TO atlas_projector USING (true);

ALTER TABLE atlas.promotion_decisions ENABLE ROW LEVEL SECURITY;

CREATE POLICY registry_change ON atlas.tenants FOR UPDATE TO atlas_ingest USING (true) WITH CHECK (true);

CREATE POLICY registry_read ON atlas.tenants FOR SELECT TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING (true);

CREATE POLICY registry_write ON atlas.tenants FOR INSERT TO atlas_ingest WITH CHECK (true);

CREATE POLICY tenant_only ON atlas.attribute_access TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.attribute_indexes TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.attribute_promotion TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.attributes TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.audit_log FOR SELECT TO atlas_ingest USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.entities TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.entity_jsonb TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.entity_values_ts TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.ingest_dead_letters TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.producer_positions TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.projected_attributes TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.projection_jobs TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.promotion_decisions TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

CREATE POLICY tenant_only ON atlas.write_requests TO atlas_hotcache, atlas_ingest, atlas_query, atlas_reconciler USING ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer)) WITH CHECK ((tenant_id = (NULLIF(current_setting('atlas.tenant_id'::text, true), ''::text))::integer));

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

GRANT USAGE ON SCHEMA atlas TO atlas_keeper;

GRANT USAGE ON SCHEMA atlas TO atlas_finder;

GRANT USAGE ON SCHEMA atlas TO atlas_projector;

GRANT USAGE ON SCHEMA atlas TO atlas_meter;

GRANT USAGE ON SCHEMA atlas TO atlas_ingest;

GRANT USAGE ON SCHEMA atlas TO atlas_hotcache;

GRANT USAGE ON SCHEMA atlas TO atlas_query;

GRANT USAGE ON SCHEMA atlas TO atlas_reconciler;

GRANT USAGE ON SCHEMA atlas TO atlas_maintenance;

GRANT USAGE ON SCHEMA atlas TO atlas_monitor;

GRANT USAGE ON SCHEMA atlas TO atlas_indexer;

GRANT USAGE ON SCHEMA retired TO atlas_keeper;

GRANT USAGE ON SCHEMA retired TO atlas_maintenance;

GRANT USAGE ON SCHEMA staging TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.access_retention() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.access_retention() TO atlas_meter;

REVOKE ALL ON FUNCTION atlas.advance_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_next text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.advance_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_next text) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.announce_seal(until timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.announce_seal(until timestamp with time zone) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.archived_tenants(p_name text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.archived_tenants(p_name text) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.attribute_index_steps() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.attribute_index_steps() TO atlas_indexer;

REVOKE ALL ON FUNCTION atlas.beat_heart(min_interval interval) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.beat_heart(min_interval interval) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.beat_heart(min_interval interval) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.begin_promotion_evaluation(p_owner text, p_lease_seconds double precision, p_interval_seconds double precision) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.begin_promotion_evaluation(p_owner text, p_lease_seconds double precision, p_interval_seconds double precision) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.blocked_sessions() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.blocked_sessions() TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.cancel_projection_job(p_tenant integer, p_job bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cancel_projection_job(p_tenant integer, p_job bigint) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.claim_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.claim_projection_lane(claim_time timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.claim_projection_lane(claim_time timestamp with time zone) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.classes_passed(upper_bound timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.classes_passed(upper_bound timestamp with time zone) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, rows_max bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, rows_max bigint) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.cold_condition(p_tenant integer, alternative jsonb) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_condition(p_tenant integer, alternative jsonb) TO atlas_finder;

REVOKE ALL ON FUNCTION atlas.cold_index_key(p_data_type text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_index_key(p_data_type text) TO atlas_finder;

GRANT ALL ON FUNCTION atlas.cold_index_key(p_data_type text) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.cold_index_name(p_tenant integer, p_attribute integer, p_partition text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_index_name(p_tenant integer, p_attribute integer, p_partition text) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.cold_index_parts(p_tenant integer, p_attribute integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_index_parts(p_tenant integer, p_attribute integer) TO atlas_projector;

GRANT ALL ON FUNCTION atlas.cold_index_parts(p_tenant integer, p_attribute integer) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.cold_index_predicate(p_tenant integer, p_attribute integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_index_predicate(p_tenant integer, p_attribute integer) TO atlas_finder;

GRANT ALL ON FUNCTION atlas.cold_index_predicate(p_tenant integer, p_attribute integer) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.cold_index_statement(p_tenant integer, p_attribute integer, p_data_type text, p_partition text, p_concurrently boolean) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_index_statement(p_tenant integer, p_attribute integer, p_data_type text, p_partition text, p_concurrently boolean) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.cold_literal(p_data_type text, value text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.cold_literal(p_data_type text, value text) TO atlas_finder;

REVOKE ALL ON FUNCTION atlas.compare_projection(p_tenant integer, p_entities bigint[], p_attributes integer[], p_whole boolean) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.compare_projection(p_tenant integer, p_entities bigint[], p_attributes integer[], p_whole boolean) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.compare_projection_batch(p_owner text, p_tenant integer, p_job bigint, p_step text, p_limit integer, OUT scanned integer, OUT batch bigint[], OUT differing bigint[], OUT difference_count bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.compare_projection_batch(p_owner text, p_tenant integer, p_job bigint, p_step text, p_limit integer, OUT scanned integer, OUT batch bigint[], OUT differing bigint[], OUT difference_count bigint) TO atlas_hotcache;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE atlas.projection_jobs TO atlas_projector;

GRANT SELECT ON TABLE atlas.projection_jobs TO atlas_hotcache;

GRANT SELECT(tenant_id) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(job_id) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(kind) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(state) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(step) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(step_since) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(entities_total) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(entities_done) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(message) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(created_at) ON TABLE atlas.projection_jobs TO atlas_monitor;

GRANT SELECT(updated_at) ON TABLE atlas.projection_jobs TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.count_projection_batch(job atlas.projection_jobs, batch bigint[], scanned integer, shown jsonb) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.count_projection_batch(job atlas.projection_jobs, batch bigint[], scanned integer, shown jsonb) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.default_rows(OUT row_count bigint, OUT oldest timestamp with time zone, OUT byte_count bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.default_rows(OUT row_count bigint, OUT oldest timestamp with time zone, OUT byte_count bigint) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.default_rows(OUT row_count bigint, OUT oldest timestamp with time zone, OUT byte_count bigint) TO atlas_maintenance;

GRANT ALL ON FUNCTION atlas.default_rows(OUT row_count bigint, OUT oldest timestamp with time zone, OUT byte_count bigint) TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.detach_partition(p_name text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.detach_partition(p_name text) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.discard_half(p_lane smallint, p_half text, p_reason text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.discard_half(p_lane smallint, p_half text, p_reason text) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.document_equalities(attrs jsonb, documents jsonb) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.document_equalities(attrs jsonb, documents jsonb) TO atlas_finder;

GRANT ALL ON FUNCTION atlas.document_equalities(attrs jsonb, documents jsonb) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.dress_partition(partition regclass, root text) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.dress_partitions() FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.drop_attribute_index(p_tenant integer, p_attribute integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.drop_attribute_index(p_tenant integer, p_attribute integer) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.drop_expired_ledger() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.drop_expired_ledger() TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.drop_expired_ledger() TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.drop_retired(p_name text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.drop_retired(p_name text) TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.drop_retired_table(p_name text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.drop_retired_table(p_name text) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.empty_half(points regclass, batches regclass) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.empty_half(points regclass, batches regclass) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.empty_lane(p_lane smallint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.empty_lane(p_lane smallint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.end_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_state text, p_message text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.end_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_state text, p_message text) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.estimate_attribute_index(p_tenant integer, p_attribute integer, OUT partition_count integer, OUT scanned_points bigint, OUT indexed_points bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.estimate_attribute_index(p_tenant integer, p_attribute integer, OUT partition_count integer, OUT scanned_points bigint, OUT indexed_points bigint) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.expire_rows(p_name text, p_class text, rows_max integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.expire_rows(p_name text, p_class text, rows_max integer) TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.filter_matches(attrs jsonb, condition jsonpath, documents jsonb) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.filter_matches(attrs jsonb, condition jsonpath, documents jsonb) TO atlas_finder;

GRANT ALL ON FUNCTION atlas.filter_matches(attrs jsonb, condition jsonpath, documents jsonb) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.find_by_index(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, after bigint, rows_max bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.find_by_index(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, after bigint, rows_max bigint) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.find_by_latest(p_tenant_id integer, condition jsonpath, hot_condition jsonpath, documents jsonb, cold integer[], ways jsonb, after bigint, page_size integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.find_by_latest(p_tenant_id integer, condition jsonpath, hot_condition jsonpath, documents jsonb, cold integer[], ways jsonb, after bigint, page_size integer) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.find_entities(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, matches_empty boolean, after bigint, page_size integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.find_entities(p_tenant_id integer, condition jsonpath, narrowing jsonpath, documents jsonb, matches_empty boolean, after bigint, page_size integer) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.finish_attribute_index(p_tenant integer, p_attribute integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.finish_attribute_index(p_tenant integer, p_attribute integer) TO atlas_indexer;

REVOKE ALL ON FUNCTION atlas.flush_lock() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_reconciler;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_query;

GRANT ALL ON FUNCTION atlas.flush_lock() TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.flushes_in_flight() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.flushes_in_flight() TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.flushes_in_flight() TO atlas_reconciler;

GRANT ALL ON FUNCTION atlas.flushes_in_flight() TO atlas_query;

GRANT ALL ON FUNCTION atlas.flushes_in_flight() TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.flushing_lanes() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.flushing_lanes() TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.flushing_lanes() TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.followed_attributes(p_tenant integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.followed_attributes(p_tenant integer) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) TO atlas_query;

GRANT ALL ON FUNCTION atlas.fresh_view(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone, OUT begun_at timestamp with time zone, OUT held_lanes smallint[], OUT held_epochs bigint[], OUT held_sequences bigint[]) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.held_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.held_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) TO atlas_projector;

GRANT ALL ON FUNCTION atlas.hot_value(value_bool boolean, value_int bigint, value_double double precision, value_decimal numeric, value_text text, value_time timestamp with time zone, value_json jsonb) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.index_new_partition(p_partition text) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.keep_projection_lease(p_owner text, p_seconds double precision) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.keep_projection_lease(p_owner text, p_seconds double precision) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.keep_promotion_lease(p_owner text, p_seconds double precision) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.keep_promotion_lease(p_owner text, p_seconds double precision) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.known_offsets(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone, skip_batches integer[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.known_requests(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, ledger_bucket date, flushed_at timestamp with time zone, skip_batches integer[]) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.known_sequences(batches regclass, p_lane smallint, p_epoch bigint, p_sequence bigint, flushed_at timestamp with time zone) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.lane_flush_class() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_flush_class() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.lane_flush_class() TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.lane_is_owned(p_lane smallint) TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.lane_leftovers(p_lane smallint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_leftovers(p_lane smallint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.lane_lock_class() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lane_lock_class() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.lane_lock_class() TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.lane_lock_class() TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.latest_point(p_tenant integer, p_entity bigint, p_attribute integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.latest_point(p_tenant integer, p_entity bigint, p_attribute integer) TO atlas_projector;

GRANT ALL ON FUNCTION atlas.latest_point(p_tenant integer, p_entity bigint, p_attribute integer) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.lease_projection(p_owner text, p_seconds double precision) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.lease_projection(p_owner text, p_seconds double precision) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.maintain_partitions(days_ahead integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.maintain_partitions(days_ahead integer) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.maintain_partitions(days_ahead integer) TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.make_by_partman(from_time timestamp with time zone, to_time timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.make_partition(root text, name text, bound_from text, bound_to text) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.make_spans_ahead(from_day date, to_day date) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.measure_attribute_writes(p_hours integer, p_pages bigint, p_older_seconds double precision) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.measure_attribute_writes(p_hours integer, p_pages bigint, p_older_seconds double precision) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.move_attribute(p_tenant integer, p_attribute integer, p_kind text, begun timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.move_attribute(p_tenant integer, p_attribute integer, p_kind text, begun timestamp with time zone) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.move_default_rows(rows_max integer, OUT moved bigint, OUT outcome text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.move_default_rows(rows_max integer, OUT moved bigint, OUT outcome text) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.move_default_rows(rows_max integer, OUT moved bigint, OUT outcome text) TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.move_rows(from_time timestamp with time zone, to_time timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.next_cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, ids_max integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.next_cold_candidates(p_tenant_id integer, alternatives jsonb, after bigint, ids_max integer) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.next_projection_entities(job atlas.projection_jobs, p_limit integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.next_projection_entities(job atlas.projection_jobs, p_limit integer) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.next_projection_position(p_epoch bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.next_projection_position(p_epoch bigint) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.note_attribute_index(p_tenant integer, p_attribute integer, p_total integer, p_done integer, p_message text, p_failed boolean) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.note_attribute_index(p_tenant integer, p_attribute integer, p_total integer, p_done integer, p_message text, p_failed boolean) TO atlas_indexer;

REVOKE ALL ON FUNCTION atlas.note_cache_differences(p_owner text, p_tenant integer, p_job bigint, p_step text, p_shown jsonb, p_found bigint, p_uncompared bigint, p_repaired bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.note_cache_differences(p_owner text, p_tenant integer, p_job bigint, p_step text, p_shown jsonb, p_found bigint, p_uncompared bigint, p_repaired bigint) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.note_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_message text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.note_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text, p_message text) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.old_lock_holder(relation regclass, older interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.orphaned_lanes() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.orphaned_lanes() TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.partition_name(from_time timestamp with time zone, to_time timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.partition_name(from_time timestamp with time zone, to_time timestamp with time zone) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.partitions_of(root regclass) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.partitions_of(root regclass) TO atlas_projector;

GRANT ALL ON FUNCTION atlas.partitions_of(root regclass) TO atlas_meter;

GRANT ALL ON FUNCTION atlas.partitions_of(root regclass) TO atlas_keeper;

GRANT ALL ON FUNCTION atlas.partitions_of(root regclass) TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_query;

GRANT ALL ON FUNCTION atlas.position_state(p_lane smallint, p_epoch bigint, p_sequence bigint) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.prepare_lane(p_lane smallint, OUT epoch bigint, OUT sequence bigint) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.project_entities(p_tenant integer, p_entities bigint[], p_set integer[], p_remove integer[], p_touch boolean) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.project_entities(p_tenant integer, p_entities bigint[], p_set integer[], p_remove integer[], p_touch boolean) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.projection_lane() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.projection_lane() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.projection_lane() TO atlas_projector;

GRANT ALL ON FUNCTION atlas.projection_lane() TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.promotion_tenants(p_after integer, p_limit integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.promotion_tenants(p_after integer, p_limit integer) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.recheck_projection(p_owner text, p_tenant integer, p_job bigint, p_step text, p_entities bigint[], p_count bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.recheck_projection(p_owner text, p_tenant integer, p_job bigint, p_step text, p_entities bigint[], p_count bigint) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.record_archive(p_name text, p_class text, p_tenants integer[], p_path text, p_rows bigint, p_bytes bigint, p_checksum text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.record_archive(p_name text, p_class text, p_tenants integer[], p_path text, p_rows bigint, p_bytes bigint, p_checksum text) TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.record_attribute_access(p_tenants integer[], p_names text[], p_reads bigint[], p_filters bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.record_attribute_access(p_tenants integer[], p_names text[], p_reads bigint[], p_filters bigint[]) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.remember_flush(p_lane smallint, p_epoch bigint, p_sequence bigint, tenants integer[], entities bigint[], versions bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.remember_flush(p_lane smallint, p_epoch bigint, p_sequence bigint, tenants integer[], entities bigint[], versions bigint[]) TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.remember_flush(p_lane smallint, p_epoch bigint, p_sequence bigint, tenants integer[], entities bigint[], versions bigint[]) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_query;

GRANT ALL ON FUNCTION atlas.require_fresh(not_before timestamp with time zone, lanes smallint[], epochs bigint[], sequences bigint[], OUT beat_id bigint, OUT beaten_at timestamp with time zone) TO atlas_reconciler;

REVOKE ALL ON FUNCTION atlas.require_tenant(p_tenant integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.require_tenant(p_tenant integer) TO atlas_projector;

REVOKE ALL ON FUNCTION atlas.retention_grace() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.retention_grace() TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.retention_plan(only_name text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.retention_plan(only_name text) TO atlas_maintenance;

GRANT ALL ON FUNCTION atlas.retention_plan(only_name text) TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.retire_partition(p_name text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.retire_partition(p_name text) TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.retired_plan(p_name text, p_relation text, p_lower timestamp with time zone, p_upper timestamp with time zone, archived integer[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.retired_plan(p_name text, p_relation text, p_lower timestamp with time zone, p_upper timestamp with time zone, archived integer[]) TO atlas_keeper;

REVOKE ALL ON PROCEDURE atlas.run_retention() FROM PUBLIC;

GRANT ALL ON PROCEDURE atlas.run_retention() TO atlas_maintenance;

REVOKE ALL ON FUNCTION atlas.running_projection_jobs(p_limit integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.running_projection_jobs(p_limit integer) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.stage_flush(p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint, OUT flushed_at timestamp with time zone, OUT point_count bigint, OUT duplicates jsonb, OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.stage_flush(p_lane smallint, p_half text, p_epoch bigint, p_sequence bigint, OUT flushed_at timestamp with time zone, OUT point_count bigint, OUT duplicates jsonb, OUT changed_tenants integer[], OUT changed_entities bigint[], OUT changed_versions bigint[]) TO atlas_ingest;

REVOKE ALL ON FUNCTION atlas.staging_status() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.staging_status() TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.staging_status() TO atlas_monitor;

REVOKE ALL ON FUNCTION atlas.start_attribute_index(p_tenant integer, p_attribute integer, p_tenant_max integer, p_max integer) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.start_attribute_index(p_tenant integer, p_attribute integer, p_tenant_max integer, p_max integer) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.start_projection_job(p_tenant integer, p_kind text, p_attribute integer, p_entities bigint[], p_sample smallint, p_dry_run boolean, p_repair boolean, p_request text, OUT job_id bigint, OUT other_job bigint) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.start_projection_job(p_tenant integer, p_kind text, p_attribute integer, p_entities bigint[], p_sample smallint, p_dry_run boolean, p_repair boolean, p_request text, OUT job_id bigint, OUT other_job bigint) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.statement_shape(query text) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.statement_shape(query text) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.tenants_with_rows(p_class text, from_time timestamp with time zone, to_time timestamp with time zone, except_tenants integer[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.tenants_with_rows(p_class text, from_time timestamp with time zone, to_time timestamp with time zone, except_tenants integer[]) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.try_partition(root text, name text, bound_from text, bound_to text) FROM PUBLIC;

REVOKE ALL ON FUNCTION atlas.uncovered_spans(from_time timestamp with time zone, to_time timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.uncovered_spans(from_time timestamp with time zone, to_time timestamp with time zone) TO atlas_keeper;

REVOKE ALL ON FUNCTION atlas.united(one bigint[], other bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.united(one bigint[], other bigint[]) TO atlas_query;

REVOKE ALL ON FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.upsert_hot_attrs(points regclass, skip_batches integer[], flushed_at timestamp with time zone) TO atlas_flusher;

REVOKE ALL ON FUNCTION atlas.write_projection_batch(p_owner text, p_epoch bigint, p_tenant integer, p_job bigint, p_step text, p_limit integer, p_again bigint[], OUT scanned integer, OUT sequence bigint, OUT changed_entities bigint[], OUT changed_versions bigint[]) FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.write_projection_batch(p_owner text, p_epoch bigint, p_tenant integer, p_job bigint, p_step text, p_limit integer, p_again bigint[], OUT scanned integer, OUT sequence bigint, OUT changed_entities bigint[], OUT changed_versions bigint[]) TO atlas_hotcache;

REVOKE ALL ON FUNCTION atlas.written_timeline() FROM PUBLIC;

GRANT ALL ON FUNCTION atlas.written_timeline() TO atlas_flusher;

GRANT ALL ON FUNCTION atlas.written_timeline() TO atlas_ingest;

GRANT ALL ON FUNCTION atlas.written_timeline() TO atlas_hotcache;

GRANT ALL ON FUNCTION atlas.written_timeline() TO atlas_query;

GRANT ALL ON FUNCTION atlas.written_timeline() TO atlas_reconciler;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE atlas.access_hours TO atlas_meter;

GRANT SELECT ON TABLE atlas.access_hours TO atlas_hotcache;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE atlas.attribute_access TO atlas_meter;

GRANT SELECT ON TABLE atlas.attribute_access TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.attribute_indexes TO atlas_ingest;

GRANT SELECT ON TABLE atlas.attribute_indexes TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.attribute_indexes TO atlas_query;

GRANT SELECT ON TABLE atlas.attribute_indexes TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.attribute_indexes TO atlas_monitor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE atlas.attribute_indexes TO atlas_projector;

GRANT SELECT(tenant_id) ON TABLE atlas.attribute_indexes TO atlas_meter;

GRANT SELECT(attribute_id) ON TABLE atlas.attribute_indexes TO atlas_meter;

GRANT SELECT(state) ON TABLE atlas.attribute_indexes TO atlas_meter;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.attribute_promotion TO atlas_meter;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.attribute_promotion TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.attributes TO atlas_flusher;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.attributes TO atlas_ingest;

GRANT SELECT ON TABLE atlas.attributes TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.attributes TO atlas_query;

GRANT SELECT ON TABLE atlas.attributes TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.attributes TO atlas_projector;

GRANT SELECT(tenant_id) ON TABLE atlas.attributes TO atlas_meter;

GRANT SELECT(attribute_id) ON TABLE atlas.attributes TO atlas_meter;

GRANT SELECT(name) ON TABLE atlas.attributes TO atlas_meter;

GRANT UPDATE(is_hot) ON TABLE atlas.attributes TO atlas_projector;

GRANT SELECT(is_hot) ON TABLE atlas.attributes TO atlas_meter;

GRANT UPDATE(updated_at) ON TABLE atlas.attributes TO atlas_projector;

GRANT SELECT ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(tenant_id) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(tenant_id) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(tenant_id) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(tenant_id) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT SELECT(entry_id) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT SELECT(recorded_at) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(act) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(act) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(act) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(act) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(event) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(event) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(event) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(event) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(actor) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(actor) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(actor) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(actor) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(actor_kind) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(actor_kind) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(actor_kind) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(actor_kind) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(actor_tenant) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(actor_tenant) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(actor_tenant) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(actor_tenant) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(method) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(method) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(method) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(method) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(request_id) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(request_id) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(request_id) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(request_id) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT INSERT(request) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(request) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(request) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT INSERT(outcome) ON TABLE atlas.audit_log TO atlas_ingest;

GRANT INSERT(outcome) ON TABLE atlas.audit_log TO atlas_hotcache;

GRANT INSERT(outcome) ON TABLE atlas.audit_log TO atlas_reconciler;

GRANT SELECT(outcome) ON TABLE atlas.audit_log TO atlas_monitor;

GRANT SELECT,INSERT ON TABLE atlas.entities TO atlas_ingest;

GRANT SELECT ON TABLE atlas.entities TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.entities TO atlas_query;

GRANT SELECT ON TABLE atlas.entities TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.entities TO atlas_projector;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.entity_jsonb TO atlas_flusher;

GRANT SELECT ON TABLE atlas.entity_jsonb TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.entity_jsonb TO atlas_query;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.entity_jsonb TO atlas_projector;

GRANT SELECT(tenant_id) ON TABLE atlas.entity_jsonb TO atlas_finder;

GRANT SELECT(entity_id) ON TABLE atlas.entity_jsonb TO atlas_finder;

GRANT SELECT(attrs) ON TABLE atlas.entity_jsonb TO atlas_finder;

GRANT INSERT ON TABLE atlas.entity_values_ts TO atlas_flusher;

GRANT SELECT ON TABLE atlas.entity_values_ts TO atlas_query;

GRANT SELECT ON TABLE atlas.entity_values_ts TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.entity_values_ts TO atlas_projector;

GRANT SELECT,INSERT,DELETE ON TABLE atlas.entity_values_ts TO atlas_keeper;

GRANT SELECT ON TABLE atlas.entity_values_ts TO atlas_maintenance;

GRANT SELECT(tenant_id) ON TABLE atlas.entity_values_ts TO atlas_meter;

GRANT SELECT(tenant_id) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(attribute_id) ON TABLE atlas.entity_values_ts TO atlas_meter;

GRANT SELECT(attribute_id) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(entity_id) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(ingested_at) ON TABLE atlas.entity_values_ts TO atlas_meter;

GRANT SELECT(value_int) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(value_double) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(value_time) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(value_bool) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(value_decimal) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(value_text) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT(value_json) ON TABLE atlas.entity_values_ts TO atlas_finder;

GRANT SELECT ON TABLE atlas.entity_values_ts_default TO atlas_keeper;

GRANT SELECT,UPDATE ON TABLE atlas.flush_control TO atlas_flusher;

GRANT SELECT ON TABLE atlas.flush_control TO atlas_monitor;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.flush_positions TO atlas_flusher;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_ingest;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_query;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_reconciler;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.flush_positions TO atlas_projector;

GRANT SELECT ON TABLE atlas.flush_positions TO atlas_monitor;

GRANT INSERT ON TABLE atlas.ingest_dead_letters TO atlas_flusher;

GRANT SELECT ON TABLE atlas.ingest_dead_letters TO atlas_ingest;

GRANT SELECT(tenant_id) ON TABLE atlas.ingest_dead_letters TO atlas_monitor;

GRANT SELECT(source) ON TABLE atlas.ingest_dead_letters TO atlas_monitor;

GRANT SELECT(topic) ON TABLE atlas.ingest_dead_letters TO atlas_monitor;

GRANT SELECT(partition) ON TABLE atlas.ingest_dead_letters TO atlas_monitor;

GRANT SELECT(reason) ON TABLE atlas.ingest_dead_letters TO atlas_monitor;

GRANT SELECT(stored_at) ON TABLE atlas.ingest_dead_letters TO atlas_monitor;

GRANT SELECT,INSERT,DELETE ON TABLE atlas.lane_epochs TO atlas_flusher;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_ingest;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_query;

GRANT SELECT ON TABLE atlas.lane_epochs TO atlas_reconciler;

GRANT SELECT,INSERT,DELETE ON TABLE atlas.lane_epochs TO atlas_projector;

GRANT SELECT,DELETE ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT SELECT ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.maintenance_policies TO atlas_monitor;

GRANT INSERT(job) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(job) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT INSERT(job) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT INSERT(is_default) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(is_default) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT INSERT(is_default) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT INSERT(takes_tenants),UPDATE(takes_tenants) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(takes_tenants),UPDATE(takes_tenants) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT INSERT(takes_tenants),UPDATE(takes_tenants) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT INSERT(tenant_ids),UPDATE(tenant_ids) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(default_interval),UPDATE(default_interval) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(default_interval),UPDATE(default_interval) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT INSERT(default_interval),UPDATE(default_interval) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT INSERT(schedule_interval),UPDATE(schedule_interval) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT UPDATE(is_scheduled) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(next_start),UPDATE(next_start) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT INSERT(next_start),UPDATE(next_start) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT INSERT(next_start),UPDATE(next_start) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT UPDATE(requested) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT UPDATE(requested) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT UPDATE(requested) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT UPDATE(runner) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT UPDATE(runner) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT UPDATE(runner) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT UPDATE(leased_until) ON TABLE atlas.maintenance_policies TO atlas_ingest;

GRANT UPDATE(leased_until) ON TABLE atlas.maintenance_policies TO atlas_hotcache;

GRANT UPDATE(leased_until) ON TABLE atlas.maintenance_policies TO atlas_reconciler;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.maintenance_runs TO atlas_ingest;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.maintenance_runs TO atlas_hotcache;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.maintenance_runs TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.maintenance_runs TO atlas_monitor;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.partition_archives TO atlas_keeper;

GRANT SELECT ON TABLE atlas.partition_archives TO atlas_maintenance;

GRANT SELECT ON TABLE atlas.partition_archives TO atlas_monitor;

GRANT SELECT ON TABLE atlas.partition_policy TO atlas_keeper;

GRANT SELECT ON TABLE atlas.partition_policy TO atlas_monitor;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.producer_positions TO atlas_flusher;

GRANT SELECT ON TABLE atlas.producer_positions TO atlas_ingest;

GRANT SELECT(tenant_id) ON TABLE atlas.producer_positions TO atlas_monitor;

GRANT SELECT(producer_id) ON TABLE atlas.producer_positions TO atlas_monitor;

GRANT SELECT(sequence) ON TABLE atlas.producer_positions TO atlas_monitor;

GRANT SELECT(stored_at) ON TABLE atlas.producer_positions TO atlas_monitor;

GRANT SELECT ON TABLE atlas.projected_attributes TO atlas_flusher;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE atlas.projected_attributes TO atlas_projector;

GRANT SELECT ON TABLE atlas.projected_attributes TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.projected_attributes TO atlas_ingest;

GRANT SELECT,UPDATE ON TABLE atlas.projection_runner TO atlas_projector;

GRANT DELETE ON TABLE atlas.promotion_decisions TO atlas_meter;

GRANT SELECT,INSERT ON TABLE atlas.promotion_decisions TO atlas_hotcache;

GRANT SELECT(decided_at) ON TABLE atlas.promotion_decisions TO atlas_meter;

GRANT SELECT,UPDATE ON TABLE atlas.promotion_runner TO atlas_meter;

GRANT SELECT ON TABLE atlas.promotion_runner TO atlas_hotcache;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.recent_flushes TO atlas_flusher;

GRANT SELECT ON TABLE atlas.recent_flushes TO atlas_hotcache;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.recent_flushes TO atlas_projector;

GRANT SELECT,UPDATE ON TABLE atlas.replication_heartbeat TO atlas_flusher;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_ingest;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_query;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.replication_heartbeat TO atlas_monitor;

GRANT SELECT ON TABLE atlas.retention_classes TO atlas_ingest;

GRANT SELECT ON TABLE atlas.retention_classes TO atlas_keeper;

GRANT SELECT ON TABLE atlas.retention_classes TO atlas_monitor;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.retired_partitions TO atlas_keeper;

GRANT SELECT ON TABLE atlas.retired_partitions TO atlas_maintenance;

GRANT SELECT ON TABLE atlas.retired_partitions TO atlas_monitor;

GRANT SELECT,INSERT,UPDATE ON TABLE atlas.source_offsets TO atlas_flusher;

GRANT SELECT ON TABLE atlas.source_offsets TO atlas_ingest;

GRANT SELECT ON TABLE atlas.source_offsets TO atlas_monitor;

GRANT SELECT,INSERT ON TABLE atlas.tenants TO atlas_ingest;

GRANT SELECT ON TABLE atlas.tenants TO atlas_hotcache;

GRANT SELECT ON TABLE atlas.tenants TO atlas_query;

GRANT SELECT ON TABLE atlas.tenants TO atlas_reconciler;

GRANT SELECT ON TABLE atlas.tenants TO atlas_keeper;

GRANT SELECT(tenant_id) ON TABLE atlas.tenants TO atlas_monitor;

GRANT SELECT(key) ON TABLE atlas.tenants TO atlas_monitor;

GRANT UPDATE(display_name) ON TABLE atlas.tenants TO atlas_ingest;

GRANT UPDATE(unknown_attribute_policy) ON TABLE atlas.tenants TO atlas_ingest;

GRANT UPDATE(retention_class) ON TABLE atlas.tenants TO atlas_ingest;

GRANT SELECT(retention_class) ON TABLE atlas.tenants TO atlas_monitor;

GRANT UPDATE(late_data_window) ON TABLE atlas.tenants TO atlas_ingest;

GRANT UPDATE(quotas) ON TABLE atlas.tenants TO atlas_ingest;

GRANT SELECT,INSERT ON TABLE atlas.write_requests TO atlas_flusher;

GRANT SELECT ON TABLE atlas.write_requests TO atlas_ingest;

