-- What hotcache says to the database about jobs on the projection. Whatever writes is a function, which runs as
-- atlas_projector.

-- name: running_jobs
SELECT tenant_id, job_id
FROM running_projection_jobs(%(row_limit)s)

-- name: lease
-- The epoch of the projection's lane under which we may make positions; NULL: another process does.
SELECT lease_projection(%(owner)s, %(seconds)s)

-- name: keep_lease
SELECT keep_projection_lease(%(owner)s, %(seconds)s)

-- name: job
SELECT
    job_id, kind, state, step, attribute_id, sample_percent, dry_run, repair, is_cancelled, round, last_sequence,
    extract(EPOCH FROM clock_timestamp() - step_since)::double precision AS step_seconds,
    message, created_at, updated_at, finished_at, entities_total, entities_done, entities_changed, point_count,
    byte_count, missing_count, extra_count, different_count, cache_count, repaired_count, uncompared_count, differences
FROM projection_jobs
WHERE tenant_id = %(tenant_id)s AND job_id = %(job_id)s

-- name: list_jobs
-- A page of the tenant's jobs, the newest first.
SELECT
    job_id, kind, state, step, attribute_id, sample_percent, dry_run, repair, is_cancelled, round, last_sequence,
    extract(EPOCH FROM clock_timestamp() - step_since)::double precision AS step_seconds,
    message, created_at, updated_at, finished_at, entities_total, entities_done, entities_changed, point_count,
    byte_count, missing_count, extra_count, different_count, cache_count, repaired_count, uncompared_count, '[]'::jsonb AS none
FROM projection_jobs
WHERE tenant_id = %(tenant_id)s AND (%(before)s = 0 OR job_id < %(before)s)
ORDER BY job_id DESC
LIMIT %(row_limit)s

-- name: count_running
SELECT count(*) AS job_count
FROM projection_jobs
WHERE tenant_id = %(tenant_id)s AND state = 'running'

-- name: lock_attributes
-- As the catalog does: what is hot does not change while it is counted.
SELECT pg_advisory_xact_lock(hashtext('atlas.attributes'), %(tenant_id)s)

-- name: projected_types
-- Of each type, how many attributes are projected, with this one.
SELECT a.data_type, count(*) AS attribute_count
FROM attributes AS a
WHERE
    a.tenant_id = %(tenant_id)s AND (a.is_hot OR a.attribute_id = %(attribute_id)s OR EXISTS (
        SELECT FROM projected_attributes AS t
        WHERE t.tenant_id = a.tenant_id AND t.attribute_id = a.attribute_id
    ))
GROUP BY a.data_type

-- name: start
SELECT job_id, other_job
FROM start_projection_job(
    %(tenant_id)s, %(kind)s, %(attribute_id)s, %(entity_ids)s::bigint [], %(sample_percent)s::smallint, %(dry_run)s,
    %(repair)s, %(request_id)s
)

-- name: cancel
SELECT cancel_projection_job(%(tenant_id)s, %(job_id)s)

-- name: advance
SELECT advance_projection_job(%(owner)s, %(tenant_id)s, %(job_id)s, %(step)s, %(next_step)s)

-- name: end_job
SELECT end_projection_job(%(owner)s, %(tenant_id)s, %(job_id)s, %(step)s, %(state)s, %(message)s)

-- name: note
SELECT note_projection_job(%(owner)s, %(tenant_id)s, %(job_id)s, %(step)s, %(message)s)

-- name: flushes_in_flight
SELECT flushes_in_flight()

-- name: write_batch
SELECT scanned, sequence, changed_entities, changed_versions
FROM write_projection_batch(
    %(owner)s, %(epoch)s, %(tenant_id)s, %(job_id)s, %(step)s, %(entities_max)s, %(again)s::bigint []
)

-- name: compare_batch
SELECT scanned, batch, differing, difference_count
FROM compare_projection_batch(%(owner)s, %(tenant_id)s, %(job_id)s, %(step)s, %(entities_max)s)

-- name: recheck
SELECT recheck_projection(
    %(owner)s, %(tenant_id)s, %(job_id)s, %(step)s, %(entity_ids)s::bigint [], %(difference_count)s
)

-- name: note_cache
SELECT note_cache_differences(
    %(owner)s, %(tenant_id)s, %(job_id)s, %(step)s, %(shown)s::jsonb, %(found)s, %(uncompared)s, %(repaired)s
)
