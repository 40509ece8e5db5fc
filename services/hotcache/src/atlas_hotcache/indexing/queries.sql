-- What hotcache says to the database about indexes of cold attributes, for whoever asks for them.

-- name: estimate
SELECT partition_count, scanned_points, indexed_points
FROM estimate_attribute_index(%(tenant_id)s, %(attribute_id)s)

-- name: start
SELECT start_attribute_index(%(tenant_id)s, %(attribute_id)s, %(per_tenant_max)s, %(indexes_max)s)

-- name: drop
SELECT drop_attribute_index(%(tenant_id)s, %(attribute_id)s)

-- name: indexes
-- attribute_id NULL: all of the tenant.
SELECT
    x.attribute_id, x.state, x.partitions_total, x.partitions_done, x.message, x.created_at, x.updated_at,
    (SELECT coalesce(sum(p.byte_count), 0)::bigint FROM cold_index_parts(x.tenant_id, x.attribute_id) AS p) AS byte_count
FROM attribute_indexes AS x
WHERE x.tenant_id = %(tenant_id)s AND x.attribute_id = coalesce(%(attribute_id)s::integer, x.attribute_id)
ORDER BY x.attribute_id
