-- What hotcache says to the database about promoting by reads. The tenant's own rows it reads and adds itself, within the
-- tenant's transaction; what looks at all tenants is a function, which runs as atlas_meter.

-- name: begin
-- When it is due, its policy says, and not the interval that this function could keep.
SELECT begin_promotion_evaluation(%(owner)s, %(lease_seconds)s, 0)

-- name: keep
SELECT keep_promotion_lease(%(owner)s, %(seconds)s)

-- name: measure
SELECT measure_attribute_writes(%(hours)s, %(pages)s, %(older_seconds)s)

-- name: tenants
SELECT tenant_id
FROM promotion_tenants(%(after)s, %(row_limit)s)

-- name: covered_hours
-- The full hours of the window in which reads were counted; hours are numbered.
SELECT (extract(EPOCH FROM h.hour) / 3600)::bigint AS hour_number
FROM access_hours AS h
WHERE
    h.hour >= date_trunc('hour', clock_timestamp(), 'UTC') - make_interval(hours => %(hours)s)
    AND h.hour < date_trunc('hour', clock_timestamp(), 'UTC')
ORDER BY h.hour

-- name: counts
-- What was asked for in the window and in this hour, by attribute, the most wanted first; 0: whatever is hot, always there.
SELECT
    x.attribute_id, array_agg((extract(EPOCH FROM x.hour) / 3600)::bigint) AS hour_numbers, array_agg(x.read_count) AS reads,
    array_agg(x.hot_count) AS hot_reads, array_agg(x.filter_count) AS filters, array_agg(x.refused_count) AS refused
FROM attribute_access AS x
WHERE
    x.tenant_id = %(tenant_id)s
    AND x.hour >= date_trunc('hour', clock_timestamp(), 'UTC') - make_interval(hours => %(hours)s)
GROUP BY x.attribute_id
ORDER BY x.attribute_id <> 0, sum(x.read_count + x.filter_count) DESC, x.attribute_id
LIMIT %(row_limit)s

-- name: standings
-- The attributes that are hot, in transition, pinned, or among those given.
SELECT
    a.attribute_id, a.name, a.is_hot, p.pin, p.wish, coalesce(p.streak, 0) AS streak,
    coalesce(p.points_per_hour, 0) AS points_per_hour,
    extract(EPOCH FROM clock_timestamp() - greatest(a.created_at, j.changed_at))::double precision AS unchanged_seconds,
    t.attribute_id IS NOT NULL OR coalesce(j.is_running, false) AS in_transition
FROM attributes AS a
LEFT JOIN attribute_promotion AS p ON p.tenant_id = a.tenant_id AND p.attribute_id = a.attribute_id
LEFT JOIN projected_attributes AS t ON t.tenant_id = a.tenant_id AND t.attribute_id = a.attribute_id
LEFT JOIN (
    SELECT o.attribute_id, max(coalesce(o.finished_at, o.updated_at)) AS changed_at, bool_or(o.state = 'running') AS is_running
    FROM projection_jobs AS o
    WHERE o.tenant_id = %(tenant_id)s AND o.kind IN ('promote', 'demote') AND NOT o.dry_run
    GROUP BY o.attribute_id
) AS j ON j.attribute_id = a.attribute_id
WHERE
    a.tenant_id = %(tenant_id)s
    AND (a.is_hot OR t.attribute_id IS NOT NULL OR p.pin IS NOT NULL OR a.attribute_id = ANY (%(attribute_ids)s::integer []))
ORDER BY a.is_hot DESC, array_position(%(attribute_ids)s::integer [], a.attribute_id), a.attribute_id
LIMIT %(row_limit)s

-- name: hot_count
-- Hot attributes, and those that become so or have only just ceased to be.
SELECT count(*) AS attribute_count
FROM attributes AS a
WHERE
    a.tenant_id = %(tenant_id)s AND (a.is_hot OR EXISTS (
        SELECT FROM projected_attributes AS t
        WHERE t.tenant_id = a.tenant_id AND t.attribute_id = a.attribute_id
    ))

-- name: remember
-- What was wished for, of many attributes; in the order of the key, as whoever else writes here.
INSERT INTO attribute_promotion AS p (tenant_id, attribute_id, wish, streak)
SELECT %(tenant_id)s::integer, w.attribute_id, w.wish, w.streak
FROM unnest(%(attribute_ids)s::integer [], %(wishes)s::text [], %(streaks)s::smallint []) AS w (attribute_id, wish, streak)
ORDER BY w.attribute_id
ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET wish = excluded.wish, streak = excluded.streak

-- name: lock_attributes
-- As the catalog and jobs do: what is pinned does not change while a job begins.
SELECT pg_advisory_xact_lock(hashtext('atlas.attributes'), %(tenant_id)s)

-- name: pinned
SELECT count(*) AS pin_count
FROM attribute_promotion AS p
WHERE p.tenant_id = %(tenant_id)s AND p.attribute_id = %(attribute_id)s AND p.pin IS NOT NULL

-- name: pin
INSERT INTO attribute_promotion AS p (tenant_id, attribute_id, pin)
VALUES (%(tenant_id)s, %(attribute_id)s, %(pin)s)
ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET pin = excluded.pin, wish = NULL, streak = 0
RETURNING (SELECT a.is_hot FROM attributes AS a WHERE a.tenant_id = p.tenant_id AND a.attribute_id = p.attribute_id)

-- name: decide
-- Of a job one entry: the same call again is not another decision.
INSERT INTO promotion_decisions (
    tenant_id, decided_at, actor, action, attribute_id, dry_run, outcome, job_id, why, figures
)
VALUES (
    %(tenant_id)s, clock_timestamp(), %(actor)s, %(action)s, %(attribute_id)s, %(dry_run)s, %(outcome)s, %(job_id)s, %(why)s,
    %(figures)s::jsonb
)
ON CONFLICT DO NOTHING

-- name: decisions
-- A page of the tenant's decisions, the newest first.
SELECT
    d.decision_id, d.decided_at, d.actor, d.action, d.attribute_id, coalesce(a.name, '') AS name, d.dry_run, d.outcome,
    d.job_id, d.why, d.figures
FROM promotion_decisions AS d
LEFT JOIN attributes AS a ON a.tenant_id = d.tenant_id AND a.attribute_id = d.attribute_id
WHERE d.tenant_id = %(tenant_id)s AND (%(before)s = 0 OR d.decision_id < %(before)s)
ORDER BY d.decision_id DESC
LIMIT %(row_limit)s
