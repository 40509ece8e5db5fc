-- Roles are of the whole cluster, not of one database: each statement is safe to repeat and to race.
-- atlas_owner owns every object; atlas_flusher is what the flush runs as: the one role that writes
-- telemetry, for all tenants at once; atlas_keeper is what maintenance moves and deletes telemetry as; atlas_finder is
-- what the projection's index is asked as; atlas_projector is what jobs on the projection write it as, within one
-- tenant; atlas_meter is what counts reads and points, without seeing a value. Nobody can log in as any of them.
-- atlas_indexer builds and drops indexes of cold attributes, which the owner of a table alone may, and never within a
-- function: it can log in, inherits nothing, and becomes atlas_owner for these statements (ADR 19).
-- atlas_maintenance is the job that archives and retires; atlas_monitor looks, at counts and sizes only.
-- The service roles own nothing and reach telemetry only through row-level security.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[
        'atlas_owner', 'atlas_flusher', 'atlas_keeper', 'atlas_finder', 'atlas_projector', 'atlas_meter', 'atlas_ingest',
        'atlas_hotcache', 'atlas_query', 'atlas_reconciler', 'atlas_maintenance', 'atlas_monitor', 'atlas_indexer'
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
ALTER ROLE atlas_maintenance LOGIN;
ALTER ROLE atlas_monitor LOGIN;
ALTER ROLE atlas_indexer LOGIN NOINHERIT;

-- To see who is waited for, and what the server is busy with. Neither shows a row of any table.
GRANT pg_read_all_stats TO atlas_keeper;
GRANT pg_monitor TO atlas_monitor;

-- NOINHERIT comes first: since 16 it decides when the membership begins.
GRANT atlas_owner TO atlas_indexer;

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

GRANT atlas_owner, atlas_flusher, atlas_keeper, atlas_finder, atlas_projector, atlas_meter TO CURRENT_USER;

DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO atlas_owner', current_database());
    EXECUTE format('ALTER DATABASE %I SET search_path = atlas, public', current_database());
END
$$;
