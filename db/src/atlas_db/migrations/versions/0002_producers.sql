-- Producers' positions, dead letters of ingest, what a staged batch can carry; retention classes.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- How far each producer's batches are stored, and which flush stored the last one; written by that flush.
CREATE TABLE producer_positions (
    tenant_id integer NOT NULL,
    producer_id text NOT NULL CHECK (octet_length(producer_id) BETWEEN 1 AND 128),
    sequence bigint NOT NULL,
    lane smallint NOT NULL,
    epoch bigint NOT NULL,
    flush_sequence bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, producer_id)
);

-- Writes from queues and topics that could not be stored, with their bytes as they came, put here by the flush
-- that moved the offset past them. tenant_id 0: of no tenant that is known.
CREATE TABLE ingest_dead_letters (
    tenant_id integer NOT NULL,
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL,
    topic text,
    partition integer,
    source_offset bigint,
    request_id text,
    reason text NOT NULL,
    message text NOT NULL,
    raw bytea NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, dead_letter_id)
);

DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['producer_positions', 'ingest_dead_letters'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format($policy$
            CREATE POLICY tenant_only ON %I TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler
            USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            WITH CHECK (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int)
            $policy$, tenant_table);
        EXECUTE format('CREATE POLICY flush ON %I TO atlas_flusher USING (true) WITH CHECK (true)', tenant_table);
    END LOOP;
END
$$;

-- keep: how long telemetry stays, NULL for ever; action: what becomes of it then.
CREATE TABLE retention_classes (
    retention_class text PRIMARY KEY CHECK (retention_class ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    keep interval CHECK (keep > interval '0'),
    action text NOT NULL DEFAULT 'drop' CHECK (action IN ('drop', 'archive'))
);
INSERT INTO retention_classes (retention_class) VALUES ('standard');

ALTER TABLE tenants
    ADD COLUMN retention_class text NOT NULL DEFAULT 'standard'
        -- squawk-ignore adding-foreign-key-constraint -- Tenants are few: the scan is over at once.
        CONSTRAINT tenants_retention_class_known REFERENCES retention_classes (retention_class),
    ADD COLUMN late_data_window interval CHECK (late_data_window > interval '0');

RESET ROLE;

-- Lanes that are in use get the columns now: their owners flush through the new function at once.
SET LOCAL ROLE atlas_flusher;
DO $$
DECLARE
    batches text;
BEGIN
    FOR batches IN
        SELECT format('staging.%I', relname) FROM pg_class
        WHERE relnamespace = 'staging'::regnamespace AND relkind = 'r' AND relname LIKE 'lane\_%\_batches'
    LOOP
        EXECUTE format($sql$
            ALTER TABLE %s ADD COLUMN IF NOT EXISTS sequence bigint, ADD COLUMN IF NOT EXISTS producer_id text,
                ADD COLUMN IF NOT EXISTS producer_sequence bigint, ADD COLUMN IF NOT EXISTS topic text,
                ADD COLUMN IF NOT EXISTS partition integer, ADD COLUMN IF NOT EXISTS source_offset bigint,
                ADD COLUMN IF NOT EXISTS source_follows bigint,
                ADD COLUMN IF NOT EXISTS dead_source text, ADD COLUMN IF NOT EXISTS dead_reason text,
                ADD COLUMN IF NOT EXISTS dead_message text, ADD COLUMN IF NOT EXISTS dead_raw bytea
            $sql$, batches);
    END LOOP;
END
$$;
RESET ROLE;
