-- The projection's administration: attributes in transition, jobs, and who runs them.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- Attributes that flushes project although reads do not take them from the projection: not yet (promoting: what was
-- stored before is being filled in), or no more (demoting: not every reader knows that yet). attributes.is_hot goes on
-- to mean what it did for earlier releases: that the projection has all of it.
CREATE TABLE projected_attributes (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    phase text NOT NULL CHECK (phase IN ('promoting', 'demoting')),
    since timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, attribute_id)
);

-- Work on the projection that outlives whoever asked for it and whoever does it. cursor_entity: all entities up to this
-- one are done in this step. entity_ids NULL: all. differences: the first ones, as JSON objects; counts tell the rest.
CREATE TABLE projection_jobs (
    tenant_id integer NOT NULL,
    job_id bigint GENERATED ALWAYS AS IDENTITY,
    request_id text CHECK (octet_length(request_id) BETWEEN 1 AND 128),
    kind text NOT NULL CHECK (kind IN ('promote', 'demote', 'rebuild', 'verify')),
    attribute_id integer,
    entity_ids bigint[] CHECK (cardinality(entity_ids) <= 10000),
    sample_percent smallint NOT NULL DEFAULT 100 CHECK (sample_percent BETWEEN 1 AND 100),
    dry_run boolean NOT NULL DEFAULT false,
    repair boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    step text NOT NULL,
    step_since timestamptz NOT NULL,
    is_cancelled boolean NOT NULL DEFAULT false,
    round smallint NOT NULL DEFAULT 0,
    cursor_entity bigint NOT NULL DEFAULT 0,
    entities_total bigint NOT NULL DEFAULT 0,
    entities_done bigint NOT NULL DEFAULT 0,
    entities_changed bigint NOT NULL DEFAULT 0,
    point_count bigint NOT NULL DEFAULT 0,
    byte_count bigint NOT NULL DEFAULT 0,
    missing_count bigint NOT NULL DEFAULT 0,
    extra_count bigint NOT NULL DEFAULT 0,
    different_count bigint NOT NULL DEFAULT 0,
    cache_count bigint NOT NULL DEFAULT 0,
    repaired_count bigint NOT NULL DEFAULT 0,
    uncompared_count bigint NOT NULL DEFAULT 0,
    differences jsonb NOT NULL DEFAULT '[]',
    last_sequence bigint NOT NULL DEFAULT 0,
    message text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, job_id),
    CHECK ((kind IN ('promote', 'demote')) = (attribute_id IS NOT NULL))
);
CREATE INDEX projection_jobs_running ON projection_jobs (job_id) WHERE state = 'running';

-- One row: the process that works on all jobs of all tenants, until when. One at a time: the projection's changes are
-- positions of one lane, and whoever makes a lane's positions tells of them in their order. timeline: of the server when
-- the lane was claimed.
CREATE TABLE projection_runner (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    owner text NOT NULL,
    leased_until timestamptz NOT NULL,
    timeline text NOT NULL DEFAULT ''
);
INSERT INTO projection_runner (owner, leased_until) VALUES ('', '-infinity');

DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['projected_attributes', 'projection_jobs'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format($policy$
            CREATE POLICY tenant_only ON %I TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler
            USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            WITH CHECK (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            $policy$, tenant_table);
    END LOOP;

    -- What works on the projection reaches, of all these, its transaction's tenant only.
    FOREACH tenant_table IN ARRAY ARRAY[
        'entities', 'attributes', 'entity_values_ts', 'entity_jsonb', 'projected_attributes', 'projection_jobs'
    ] LOOP
        EXECUTE format($policy$
            CREATE POLICY projector ON %I TO atlas_projector
            USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            WITH CHECK (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            $policy$, tenant_table);
    END LOOP;
END
$$;
-- Which jobs there are to be done is asked of all tenants at once.
CREATE POLICY projector_looks ON projection_jobs FOR SELECT TO atlas_projector USING (true);
CREATE POLICY flush ON projected_attributes FOR SELECT TO atlas_flusher USING (true);
-- Counts by kind and state; the columns granted do not tell what was compared.
CREATE POLICY monitor ON projection_jobs FOR SELECT TO atlas_monitor USING (true);

RESET ROLE;
