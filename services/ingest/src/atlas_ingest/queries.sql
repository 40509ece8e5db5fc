-- What ingest says to the database, but for COPY into its lane, whose tables have the lane's number in
-- their names (see lane.py).

-- name: create_entities
-- Makes those entities that are missing. In the order of their keys: two calls with the same new keys
-- wait for each other in one direction only.
INSERT INTO entities (tenant_id, key)
SELECT %(tenant_id)s, wanted.key
FROM unnest(%(keys)s::text []) AS wanted (key)
ORDER BY wanted.key
ON CONFLICT (tenant_id, key) DO NOTHING
RETURNING entity_id, key, created_at

-- name: entities_by_key
SELECT entity_id, key, created_at
FROM entities
WHERE tenant_id = %(tenant_id)s AND key = ANY(%(keys)s)

-- name: list_entities
-- A page of the tenant's entities in the order they were made.
SELECT entity_id, key, created_at
FROM entities
WHERE tenant_id = %(tenant_id)s AND entity_id > %(after)s
ORDER BY entity_id
LIMIT %(row_limit)s

-- name: register_attributes
-- Makes attributes that points brought, cold; one that exists already stays as it is.
INSERT INTO attributes (tenant_id, name, data_type)
SELECT %(tenant_id)s, wanted.name, wanted.data_type
FROM unnest(%(names)s::text [], %(data_types)s::text []) AS wanted (name, data_type)
ORDER BY wanted.name
ON CONFLICT (tenant_id, name) DO NOTHING

-- name: upsert_attributes
-- Makes or redefines attributes. One that exists with another type or heat is left alone and not
-- returned. The definitions come as JSON because lists of lists of allowed values are no SQL array.
INSERT INTO attributes AS a
(tenant_id, name, data_type, unit, validation_regex, min_value, max_value, allowed_values, is_hot)
SELECT
    %(tenant_id)s, d.name, d.data_type, d.unit, d.validation_regex, d.min_value, d.max_value,
    d.allowed_values, d.is_hot
FROM jsonb_to_recordset(%(definitions)s::jsonb) AS d (
    name text, data_type text, unit text, validation_regex text,
    min_value numeric, max_value numeric, allowed_values text [], is_hot boolean
)
ORDER BY d.name
ON CONFLICT (tenant_id, name) DO UPDATE SET
    unit = excluded.unit, validation_regex = excluded.validation_regex,
    min_value = excluded.min_value, max_value = excluded.max_value,
    allowed_values = excluded.allowed_values, updated_at = excluded.updated_at
WHERE a.data_type = excluded.data_type AND a.is_hot = excluded.is_hot
RETURNING
    attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value,
    allowed_values, created_at, xmax = 0 AS created

-- name: attributes_by_name
SELECT
    attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value,
    allowed_values, created_at, false AS created
FROM attributes
WHERE tenant_id = %(tenant_id)s AND name = ANY(%(names)s)

-- name: list_attributes
-- A page of the tenant's attributes in the order they were made.
SELECT
    attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value,
    allowed_values, created_at, false AS created
FROM attributes
WHERE tenant_id = %(tenant_id)s AND attribute_id > %(after)s
ORDER BY attribute_id
LIMIT %(row_limit)s

-- name: count_attributes
SELECT count(*) AS attribute_count
FROM attributes
WHERE tenant_id = %(tenant_id)s

-- name: count_hot_attributes
SELECT data_type, count(*) AS attribute_count
FROM attributes
WHERE tenant_id = %(tenant_id)s AND is_hot
GROUP BY data_type

-- name: create_tenant
-- Returns nothing if the tenant exists.
INSERT INTO tenants (key, display_name, unknown_attribute_policy)
VALUES (%(key)s, %(display_name)s, %(policy)s)
ON CONFLICT (key) DO NOTHING
RETURNING tenant_id, key, display_name, unknown_attribute_policy, created_at

-- name: tenant_by_key
SELECT tenant_id, key, display_name, unknown_attribute_policy, created_at
FROM tenants
WHERE key = %(key)s

-- name: list_tenants
-- A page of the tenants in the order they were made.
SELECT tenant_id, key, display_name, unknown_attribute_policy, created_at
FROM tenants
WHERE tenant_id > %(after)s
ORDER BY tenant_id
LIMIT %(row_limit)s

-- name: unknown_attribute_policy
SELECT unknown_attribute_policy
FROM tenants
WHERE tenant_id = %(tenant_id)s

-- name: stored_request
-- What an earlier call with this request_id was answered, and where it was stored.
SELECT lane, epoch, sequence, body_hash, answer
FROM write_requests
WHERE tenant_id = %(tenant_id)s AND request_id = %(request_id)s

-- name: lock_lane
-- The session lock of a lane's owner.
SELECT pg_try_advisory_lock(lane_lock_class(), %(lane)s)

-- name: claim_lane
SELECT epoch, sequence
FROM claim_lane(%(lane)s::smallint)

-- name: stage_flush
-- The point of the write path: one half of the lane becomes telemetry, projection and position.
SELECT
    flushed_at, point_count, duplicates, changed_tenants, changed_entities, changed_versions
FROM stage_flush(%(lane)s::smallint, %(half)s, %(epoch)s, %(sequence)s)

-- name: staging_status
-- age_seconds: since the lane's last flush, by the database's clock.
SELECT
    lane, owned, epoch, sequence, flushed_at, staged_points, staged_bytes,
    extract(EPOCH FROM clock_timestamp() - flushed_at)::double precision AS age_seconds
FROM staging_status()

-- name: maintain_partitions
SELECT maintain_partitions()
