-- Policies, as operators list and change them. Runners have their own, see atlas_common.maintenance.

-- name: list_policies
SELECT
    p.policy_id, p.job, p.is_default, p.tenant_ids,
    coalesce(p.schedule_interval, p.default_interval) AS every,
    p.schedule_interval IS NULL AS is_setting, p.is_scheduled, p.next_start,
    p.requested IS NOT NULL AS is_requested,
    r.status, r.started_at, r.ended_at, r.summary, r.runner, r.run_count, r.failure_count,
    d.status, d.started_at, d.ended_at, d.summary, d.runner, d.run_count, d.failure_count
FROM maintenance_policies AS p
LEFT JOIN maintenance_runs AS r ON r.policy_id = p.policy_id AND NOT r.is_dry_run
LEFT JOIN maintenance_runs AS d ON d.policy_id = p.policy_id AND d.is_dry_run
WHERE %(policy_id)s::integer IS NULL OR p.policy_id = %(policy_id)s::integer
ORDER BY p.job, p.is_default DESC, p.policy_id

-- name: job_takes_tenants
-- No row: there is no such job.
SELECT takes_tenants
FROM maintenance_policies
WHERE job = %(job)s AND is_default

-- name: lock_policies
-- Two that add at once: the second finds what the first has added.
SELECT pg_advisory_xact_lock(hashtext('atlas.maintenance_policies'))

-- name: count_policies
SELECT count(*)
FROM maintenance_policies

-- name: same_policy
SELECT policy_id
FROM maintenance_policies
WHERE job = %(job)s AND NOT is_default AND tenant_ids = %(tenant_ids)s::integer[]
    AND schedule_interval = make_interval(secs => %(seconds)s::double precision)

-- name: add_policy
INSERT INTO maintenance_policies (job, takes_tenants, tenant_ids, schedule_interval, next_start)
SELECT
    p.job, p.takes_tenants, %(tenant_ids)s::integer[], make_interval(secs => %(seconds)s::double precision),
    coalesce(
        %(next_start)s::timestamptz,
        clock_timestamp() + make_interval(secs => %(seconds)s::double precision))
FROM maintenance_policies AS p
WHERE p.job = %(job)s AND p.is_default
RETURNING policy_id

-- name: alter_policy
-- Without a next_start, a new interval counts from now.
UPDATE maintenance_policies AS p
SET
    schedule_interval = CASE WHEN %(sets_interval)s::boolean
        THEN make_interval(secs => %(seconds)s::double precision) ELSE p.schedule_interval END,
    is_scheduled = coalesce(%(is_scheduled)s::boolean, p.is_scheduled),
    tenant_ids = coalesce(%(tenant_ids)s::integer[], p.tenant_ids),
    next_start = coalesce(
        %(next_start)s::timestamptz,
        CASE WHEN %(sets_interval)s::boolean THEN clock_timestamp()
            + coalesce(make_interval(secs => %(seconds)s::double precision), p.default_interval, interval '0') END,
        p.next_start)
WHERE p.policy_id = %(policy_id)s
RETURNING p.policy_id

-- name: remove_policy
DELETE FROM maintenance_policies
WHERE policy_id = %(policy_id)s AND NOT is_default

-- name: request_run
-- A run that is asked for twice is one run; it is no dry run if one of them was none.
UPDATE maintenance_policies AS p
SET requested = CASE WHEN p.requested = 'run' THEN 'run' ELSE %(kind)s END
WHERE p.policy_id = %(policy_id)s
RETURNING clock_timestamp()

-- name: tenants_by_key
SELECT tenant_id, key
FROM tenants
WHERE key = ANY (%(keys)s::text[])

-- name: keys_of_tenants
SELECT tenant_id, key
FROM tenants
WHERE tenant_id = ANY (%(tenant_ids)s::integer[])
