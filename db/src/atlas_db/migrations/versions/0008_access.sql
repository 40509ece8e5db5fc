-- How attributes are read and written, and who promotes and demotes them by that.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- attribute_access, by the hour. read_count: latest values that were asked for, one per entity; hot_count: those of them
-- that were asked for while the attribute was hot. filter_count: filters over the attribute; refused_count: those of them
-- that were refused since it was cold. attribute_id 0: values asked for as "whatever is hot", of no attribute in particular.
-- All are estimates: query counts some of the calls, and multiplies.
ALTER TABLE attribute_access
ADD COLUMN hot_count bigint NOT NULL DEFAULT 0,
ADD COLUMN refused_count bigint NOT NULL DEFAULT 0;
ALTER TABLE attribute_access SET (fillfactor = 70);
-- squawk-ignore require-concurrent-index-creation -- Nothing has written to it before this release.
CREATE INDEX attribute_access_hour ON attribute_access (hour);

-- In which hours reads were counted at all: without this no read could not be told from nobody counting.
CREATE TABLE access_hours (
    hour timestamptz PRIMARY KEY,
    flush_count bigint NOT NULL
);

-- What is known of an attribute besides. pin: an operator's word, which the policy never overrides. wish: what the last
-- evaluations would have liked to do, streak: how many of them in a row. points_per_hour: what projecting it costs or would.
CREATE TABLE attribute_promotion (
    tenant_id integer NOT NULL,
    attribute_id integer NOT NULL,
    pin text CHECK (pin IN ('hot', 'cold')),
    wish text CHECK (wish IN ('promote', 'demote')),
    streak smallint NOT NULL DEFAULT 0,
    points_per_hour double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, attribute_id)
);

-- The audit log: rows are added and expire, nothing else. outcome: started (job_id says as which job), done (what needs no
-- job), would (a dry run), refused (why says what was in the way). figures: what the decision was made on.
CREATE TABLE promotion_decisions (
    tenant_id integer NOT NULL,
    decision_id bigint GENERATED ALWAYS AS IDENTITY,
    decided_at timestamptz NOT NULL,
    actor text NOT NULL CHECK (actor IN ('policy', 'operator')),
    action text NOT NULL CHECK (action IN ('promote', 'demote', 'pin_hot', 'pin_cold', 'unpin')),
    attribute_id integer NOT NULL,
    dry_run boolean NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('started', 'done', 'would', 'refused')),
    job_id bigint,
    why text NOT NULL CHECK (octet_length(why) <= 2000),
    figures jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, decision_id)
);
CREATE UNIQUE INDEX promotion_decisions_job ON promotion_decisions (tenant_id, job_id) WHERE job_id IS NOT NULL;
CREATE INDEX promotion_decisions_age ON promotion_decisions (decided_at);

-- One row: the process that evaluates, until when; when it began last; when writes were measured last.
CREATE TABLE promotion_runner (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    owner text NOT NULL DEFAULT '',
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    evaluated_at timestamptz NOT NULL DEFAULT '-infinity',
    measured_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO promotion_runner DEFAULT VALUES;

DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['attribute_promotion', 'promotion_decisions'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format($policy$
            CREATE POLICY tenant_only ON %I TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler
            USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            WITH CHECK (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            $policy$, tenant_table);
    END LOOP;
END
$$;

-- What counts reads and points does so for all tenants at once. It sees which attribute a point is of, and no value.
CREATE POLICY meter ON attribute_access TO atlas_meter USING (true) WITH CHECK (true);
CREATE POLICY meter ON attribute_promotion TO atlas_meter USING (true) WITH CHECK (true);
CREATE POLICY meter ON attributes FOR SELECT TO atlas_meter USING (true);
CREATE POLICY meter ON entity_values_ts FOR SELECT TO atlas_meter USING (true);
CREATE POLICY meter_looks ON promotion_decisions FOR SELECT TO atlas_meter USING (true);
CREATE POLICY meter_expires ON promotion_decisions FOR DELETE TO atlas_meter USING (true);

RESET ROLE;
