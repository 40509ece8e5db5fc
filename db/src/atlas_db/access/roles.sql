-- Roles are of the whole cluster, not of one database: each statement is safe to repeat and to race.
-- atlas_owner owns every object; atlas_flusher is what the flush runs as: the one role that writes
-- telemetry, for all tenants at once. Nobody can log in as either.
-- The service roles own nothing and reach telemetry only through row-level security.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[
        'atlas_owner', 'atlas_flusher', 'atlas_ingest', 'atlas_hotcache', 'atlas_query', 'atlas_reconciler'
    ] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- Made before, or by another database of this cluster just now.
        END;
    END LOOP;
END
$$;

ALTER ROLE atlas_ingest LOGIN;
ALTER ROLE atlas_hotcache LOGIN;
ALTER ROLE atlas_query LOGIN;
ALTER ROLE atlas_reconciler LOGIN;

-- The reconciler reads the WAL through a logical slot. On RDS this is the role rds_replication.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN
        GRANT rds_replication TO atlas_reconciler;
    ELSE
        ALTER ROLE atlas_reconciler REPLICATION;
    END IF;
END
$$;

GRANT atlas_owner, atlas_flusher TO CURRENT_USER;

DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO atlas_owner', current_database());
    EXECUTE format('ALTER DATABASE %I SET search_path = atlas, public', current_database());
END
$$;
