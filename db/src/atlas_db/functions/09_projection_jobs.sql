-- Jobs on the projection: how they begin, who works on them, how they move on and end.
--
-- Everything that can be waited for is locked in one order: projection_runner, the tenant's attributes (the advisory lock
-- that the catalog takes too), the job, rows of entity_jsonb in the order of their key. No function waits for longer than its
-- lock_timeout. All of them work within the transaction's tenant only, by policy; require_tenant says so aloud.

-- The lane whose positions are the projection's changes that no flush made. Ingest takes lanes 0 to 63.
CREATE OR REPLACE FUNCTION projection_lane() RETURNS smallint LANGUAGE sql IMMUTABLE AS 'SELECT 255::smallint';

-- Raises if the transaction is not of this tenant.
CREATE OR REPLACE FUNCTION require_tenant(p_tenant integer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = atlas, pg_temp AS $$
BEGIN
    IF p_tenant IS DISTINCT FROM nullif(current_setting('atlas.tenant_id', true), '')::integer THEN
        RAISE EXCEPTION 'the transaction is not of tenant %', p_tenant USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;

-- Which jobs wait to be worked on, of all tenants, the oldest first.
CREATE OR REPLACE FUNCTION running_projection_jobs(p_limit integer) RETURNS TABLE (tenant_id integer, job_id bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    SELECT j.tenant_id, j.job_id FROM projection_jobs AS j WHERE j.state = 'running' ORDER BY j.job_id LIMIT p_limit
$$;

-- Makes p_owner the one who works on jobs, if nobody is: answers the epoch of the projection's lane under which it does,
-- NULL if somebody else is. The epoch stays what it was, unless the server was promoted since: then the lane is claimed
-- anew, so that positions which the failover lost are told from late ones. A crash loses none: they commit durably.
CREATE OR REPLACE FUNCTION lease_projection(p_owner text, p_seconds double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '500ms' AS $$
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

-- Begins a new epoch of the projection's lane, as claim_lane does of others.
CREATE OR REPLACE FUNCTION claim_projection_lane(claim_time timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
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

-- Keeps the lease for p_seconds from now; 0 gives it back. Raises AT003 if it is another's by now.
CREATE OR REPLACE FUNCTION keep_projection_lease(p_owner text, p_seconds double precision) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
    UPDATE projection_runner AS r SET leased_until = clock_timestamp() + make_interval(secs => p_seconds)
    WHERE r.id = 1 AND r.owner = p_owner AND r.leased_until >= clock_timestamp();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the projection is worked on by another process' USING ERRCODE = 'AT003';
    END IF;
END
$$;

-- The job, locked, for the owner of the lease, in the step that it believes the job to be in. The lease is locked as well: whoever
-- lost it without knowing cannot commit anything after its successor has begun. Raises AT003 without the lease, AT004
-- if the job is in another step by now or has ended.
CREATE OR REPLACE FUNCTION held_projection_job(p_owner text, p_tenant integer, p_job bigint, p_step text)
RETURNS projection_jobs LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
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

-- Begins a job, or answers the one that does the same already. other_job: one that is in the way; nothing was begun then.
-- In the transaction that begins a promotion the attribute becomes one that flushes project; in that of a demotion
-- it ceases to be hot and goes on being projected.
CREATE OR REPLACE FUNCTION start_projection_job(
    p_tenant integer, p_kind text, p_attribute integer, p_entities bigint[], p_sample smallint, p_dry_run boolean,
    p_repair boolean, p_request text, OUT job_id bigint, OUT other_job bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
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

-- The first step of a promotion or demotion, taken; 'end' if the attribute is what it shall become.
CREATE OR REPLACE FUNCTION move_attribute(p_tenant integer, p_attribute integer, p_kind text, begun timestamptz)
RETURNS text LANGUAGE plpgsql SET search_path = atlas, pg_temp AS $$
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

-- Goes on to the next step, from the first entity. Leaving 'withdraw', flushes cease to project the attribute. A
-- comparison counts from nothing; round: how often the job has filled in.
CREATE OR REPLACE FUNCTION advance_projection_job(
    p_owner text, p_tenant integer, p_job bigint, p_step text, p_next text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
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

-- Ends a job. A promotion that is done makes its attribute hot, in this very transaction.
CREATE OR REPLACE FUNCTION end_projection_job(
    p_owner text, p_tenant integer, p_job bigint, p_step text, p_state text, p_message text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
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

-- What the job waits for, or why it failed last, for people.
CREATE OR REPLACE FUNCTION note_projection_job(
    p_owner text, p_tenant integer, p_job bigint, p_step text, p_message text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    PERFORM held_projection_job(p_owner, p_tenant, p_job, p_step);
    UPDATE projection_jobs AS j SET message = left(p_message, 500), updated_at = clock_timestamp()
    WHERE j.tenant_id = p_tenant AND j.job_id = p_job AND j.message <> left(p_message, 500);
END
$$;

-- Cancels a job; answers its state, or NULL if this one cannot be: a demotion's reads are cold already, it must end. What
-- changes nothing, or only what is wrong, stops at once. A promotion is undone first, also one that failed.
CREATE OR REPLACE FUNCTION cancel_projection_job(p_tenant integer, p_job bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
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
