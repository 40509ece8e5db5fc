-- name: list_attributes
-- The tenant's whole attribute table; row-level security chooses the tenant, the condition the index.
SELECT
    a.attribute_id, a.name, a.data_type, a.is_hot, a.unit, a.validation_regex, a.min_value, a.max_value, a.allowed_values,
    EXISTS (
        SELECT FROM attribute_indexes AS x
        WHERE x.tenant_id = a.tenant_id AND x.attribute_id = a.attribute_id AND x.state = 'ready'
    ) AS is_indexed
FROM attributes AS a
WHERE a.tenant_id = %(tenant_id)s;

-- name: find_entity_ids
SELECT key, entity_id
FROM entities
WHERE tenant_id = %(tenant_id)s AND key = ANY(%(keys)s);

-- name: find_entity_keys
SELECT entity_id, key
FROM entities
WHERE tenant_id = %(tenant_id)s AND entity_id = ANY(%(entity_ids)s);
