-- name: list_attributes
-- The tenant's whole attribute table; row-level security chooses the tenant, the condition the index.
SELECT attribute_id, name, data_type, is_hot, unit, validation_regex, min_value, max_value, allowed_values
FROM attributes
WHERE tenant_id = %(tenant_id)s;

-- name: find_entity_ids
SELECT key, entity_id
FROM entities
WHERE tenant_id = %(tenant_id)s AND key = ANY(%(keys)s);

-- name: find_entity_keys
SELECT entity_id, key
FROM entities
WHERE tenant_id = %(tenant_id)s AND entity_id = ANY(%(entity_ids)s);
