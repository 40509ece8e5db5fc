-- Cold attributes that are indexed: which, and how far their indexes are.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- What there shall be; what there is, the server's own catalog says: one partial index of each partition of
-- entity_values_ts. building: not all of them are there yet. ready: filters may be over the attribute. dropping: they no
-- longer may, and the indexes go. failed: given up, message says why; what was built stays until it is dropped or begun
-- again. data_type: the attribute's, which it keeps for life.
CREATE TABLE attribute_indexes (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    data_type text NOT NULL CHECK (data_type IN ('bool', 'int', 'double', 'decimal', 'text', 'time', 'json')),
    state text NOT NULL CHECK (state IN ('building', 'ready', 'dropping', 'failed')),
    partitions_total integer NOT NULL DEFAULT 0,
    partitions_done integer NOT NULL DEFAULT 0,
    message text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, attribute_id)
);
ALTER TABLE attribute_indexes ENABLE ROW LEVEL SECURITY;
ALTER TABLE attribute_indexes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON attribute_indexes TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler
USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
WITH CHECK (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int);
CREATE POLICY projector ON attribute_indexes TO atlas_projector
USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
WITH CHECK (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int);
-- How many there are and what is to be done is asked of all tenants at once; new partitions get the indexes of all.
CREATE POLICY projector_looks ON attribute_indexes FOR SELECT TO atlas_projector USING (true);
CREATE POLICY owner_looks ON attribute_indexes FOR SELECT TO atlas_owner USING (true);
-- Filters over what is indexed are not refused, which is counted.
CREATE POLICY meter ON attribute_indexes FOR SELECT TO atlas_meter USING (true);
CREATE POLICY monitor ON attribute_indexes FOR SELECT TO atlas_monitor USING (true);

-- The function that asks these indexes; see 0006 and ADR 19.
CREATE POLICY find ON entity_values_ts FOR SELECT TO atlas_finder USING (true);

RESET ROLE;
