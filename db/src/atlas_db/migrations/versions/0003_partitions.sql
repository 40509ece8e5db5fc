-- How partitions are cut, retired and archived; what maintenance and monitoring may see.

-- Partitions whose time has passed lie here between being detached and being dropped.
CREATE SCHEMA retired AUTHORIZATION atlas_owner;

SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- One row, not a setting of processes: whoever makes partitions must cut them alike.
CREATE TABLE partition_policy (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    span interval NOT NULL DEFAULT '1 day' CHECK (span IN ('1 hour', '1 day'))
);
INSERT INTO partition_policy (id) VALUES (1);

-- Detached partitions. archive_tenants: whose rows must be in archives before the table may be dropped,
-- decided when it was detached.
CREATE TABLE retired_partitions (
    name text PRIMARY KEY,
    lower_bound timestamptz NOT NULL,
    upper_bound timestamptz NOT NULL,
    archive_tenants integer[] NOT NULL,
    retired_at timestamptz NOT NULL,
    dropped_at timestamptz
);

-- What was written to Parquet. part: 1, 2 ... as tenants came into the class after an earlier part.
-- checksum: over the values, as archive readers compute it again. deleted_count: rows of it that were
-- deleted since from the partition while that was still attached.
CREATE TABLE partition_archives (
    partition_name text NOT NULL,
    retention_class text NOT NULL,
    part integer NOT NULL,
    lower_bound timestamptz NOT NULL,
    upper_bound timestamptz NOT NULL,
    tenant_ids integer[] NOT NULL,
    path text NOT NULL,
    row_count bigint NOT NULL,
    byte_count bigint NOT NULL,
    checksum text NOT NULL,
    deleted_count bigint NOT NULL DEFAULT 0,
    archived_at timestamptz NOT NULL,
    PRIMARY KEY (partition_name, retention_class, part),
    CONSTRAINT partition_archives_path_unique UNIQUE (path),
    CHECK (deleted_count BETWEEN 0 AND row_count)
);

-- Maintenance moves rows out of the default partition and deletes those whose time has passed, of all tenants;
-- the functions that do so are the only code that runs as atlas_keeper.
CREATE POLICY keeper ON entity_values_ts TO atlas_keeper USING (true) WITH CHECK (true);
CREATE POLICY keeper ON tenants FOR SELECT TO atlas_keeper USING (true);
-- Archives hold all tenants of a class.
CREATE POLICY archive ON entity_values_ts FOR SELECT TO atlas_maintenance USING (true);

-- Made here, not by maintain_partitions: of all partitions, this one may be read by its own name, to see and move
-- what has no other place.
CREATE TABLE IF NOT EXISTS entity_values_ts_default PARTITION OF entity_values_ts DEFAULT;
ALTER TABLE entity_values_ts_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE entity_values_ts_default FORCE ROW LEVEL SECURITY;
ALTER TABLE entity_values_ts_default REPLICA IDENTITY FULL;
CREATE POLICY keeper ON entity_values_ts_default FOR SELECT TO atlas_keeper USING (true);

-- Counts by reason; the columns granted do not tell what was written.
CREATE POLICY monitor ON ingest_dead_letters FOR SELECT TO atlas_monitor USING (true);
CREATE POLICY monitor ON producer_positions FOR SELECT TO atlas_monitor USING (true);
CREATE POLICY monitor ON tenants FOR SELECT TO atlas_monitor USING (true);

RESET ROLE;
