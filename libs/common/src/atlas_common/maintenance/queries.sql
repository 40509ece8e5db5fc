-- What runners say to the database. Who holds a policy's lease runs it; a lease runs out by the primary's clock.

-- name: register_job
-- The default policy of a job: made once, then told when the service's settings change.
INSERT INTO maintenance_policies AS p (job, is_default, takes_tenants, default_interval, next_start)
VALUES (
    %(job)s, true, %(takes_tenants)s, make_interval(secs => %(default_seconds)s::double precision),
    clock_timestamp() + make_interval(secs => %(first_seconds)s::double precision)
)
ON CONFLICT (job) WHERE is_default DO UPDATE
    SET takes_tenants = excluded.takes_tenants, default_interval = excluded.default_interval,
        next_start = least(p.next_start, excluded.next_start)
    WHERE (p.takes_tenants, p.default_interval)
        IS DISTINCT FROM (excluded.takes_tenants, excluded.default_interval)

-- name: claim_policy
-- Takes one that is due, or asked for, unless somebody holds it. Two that ask at once: the second skips the row that the
-- first has locked; if it comes a moment later, it looks at the row again, and finds the lease.
WITH due AS (
    SELECT p.policy_id, p.requested = 'dry_run' AS is_dry_run
    FROM maintenance_policies AS p
    WHERE p.job = %(job)s
        AND p.leased_until < clock_timestamp()
        AND (
            p.requested IS NOT NULL
            OR (
                p.is_scheduled AND p.next_start <= clock_timestamp()
                AND coalesce(p.schedule_interval, p.default_interval) > interval '0'
            )
        )
    ORDER BY p.requested IS NULL, p.next_start
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE maintenance_policies AS p
    SET runner = %(runner)s, requested = NULL,
        leased_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::double precision)
    FROM due
    WHERE p.policy_id = due.policy_id
    RETURNING p.policy_id, p.tenant_ids, coalesce(due.is_dry_run, false) AS is_dry_run
)
INSERT INTO maintenance_runs AS r (policy_id, is_dry_run, runner, status, started_at, run_count)
SELECT c.policy_id, c.is_dry_run, %(runner)s, 'running', clock_timestamp(), 1 FROM claimed AS c
ON CONFLICT (policy_id, is_dry_run) DO UPDATE
    SET runner = excluded.runner, status = 'running', started_at = excluded.started_at, ended_at = NULL, summary = '',
        run_count = r.run_count + 1,
        -- Whoever ran it before died of it, or at it.
        failure_count = r.failure_count + (r.status = 'running')::integer
RETURNING policy_id, is_dry_run,
    (SELECT p.tenant_ids FROM maintenance_policies AS p WHERE p.policy_id = r.policy_id) AS tenant_ids

-- name: keep_policy
-- No row: another has it by now.
UPDATE maintenance_policies AS p
SET leased_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s::double precision)
WHERE p.policy_id = %(policy_id)s AND p.runner = %(runner)s
RETURNING p.policy_id

-- name: finish_policy
-- Gives the lease back and enters what came of it; no row: another has it by now. retry_seconds: the next run comes no
-- later than that; NULL: after the interval.
WITH released AS (
    UPDATE maintenance_policies AS p
    SET leased_until = '-infinity', runner = '',
        next_start = CASE WHEN %(is_dry_run)s::boolean THEN p.next_start
            ELSE clock_timestamp() + least(
                coalesce(p.schedule_interval, p.default_interval, interval '0'),
                make_interval(secs => %(retry_seconds)s::double precision))
            END
    WHERE p.policy_id = %(policy_id)s AND p.runner = %(runner)s
    RETURNING p.policy_id
)
UPDATE maintenance_runs AS r
SET status = %(status)s, summary = %(summary)s, ended_at = clock_timestamp(),
    failure_count = r.failure_count + (%(status)s::text = 'failed')::integer
FROM released
WHERE r.policy_id = released.policy_id AND r.is_dry_run = %(is_dry_run)s::boolean
RETURNING r.policy_id

-- name: seconds_until_due
-- Null: nothing of this job is ever due by itself.
SELECT extract(EPOCH FROM min(greatest(p.next_start, p.leased_until)) - clock_timestamp())::double precision
FROM maintenance_policies AS p
WHERE p.job = %(job)s AND p.is_scheduled
    AND coalesce(p.schedule_interval, p.default_interval) > interval '0'

-- name: tenants_of
-- Those of the list, or with an empty one all.
SELECT t.tenant_id, t.key
FROM tenants AS t
WHERE t.tenant_id = ANY (%(tenant_ids)s::integer[]) OR %(tenant_ids)s::integer[] = '{}'
ORDER BY t.tenant_id
