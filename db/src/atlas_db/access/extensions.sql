-- pg_partman and pg_cron do what they are made for, where somebody has installed them (CREATE EXTENSION) in this
-- database. Where they are not, ingest's own job does all of it; where they are, it still runs, and finds it done.
-- Applied anew after every migration.

-- pg_partman makes whole spans (make_by_partman asks it to), by the span of partition_policy, also if its own
-- background worker gets there first; what it made is dressed by dress_partitions. It is told nothing of retention:
-- it knows no tenants.
DO $$
DECLARE
    partman record;
    span interval := (SELECT span FROM atlas.partition_policy);
BEGIN
    SELECT n.nspname, e.extversion INTO partman
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO atlas_owner', partman.nspname);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO atlas_owner', partman.nspname);
    EXECUTE format('GRANT EXECUTE ON ALL ROUTINES IN SCHEMA %I TO atlas_owner', partman.nspname);
    -- Entered by hand: create_parent would make a default partition, and there is one.
    EXECUTE format($sql$
        INSERT INTO %I.part_config (parent_table, control, partition_type, partition_interval, premake,
            infinite_time_partitions, datetime_string)
        VALUES ('atlas.entity_values_ts', 'ingested_at', $1, $2, $3, true, $4)
        ON CONFLICT (parent_table) DO UPDATE
        SET partition_interval = excluded.partition_interval, premake = excluded.premake,
            datetime_string = excluded.datetime_string
        $sql$, partman.nspname)
    USING CASE WHEN partman.extversion LIKE '4.%' THEN 'native' ELSE 'range' END, span::text,
        CASE WHEN span = '1 day' THEN 3 ELSE 72 END,
        CASE WHEN partman.extversion NOT LIKE '4.%' THEN 'YYYYMMDD' || CASE WHEN span = '1 day' THEN '' ELSE '_HH24MISS' END
            WHEN span = '1 day' THEN 'YYYY_MM_DD' ELSE 'YYYY_MM_DD_HH24MI' END;
END
$$;

-- pg_cron runs what needs no files, as atlas_maintenance. Archives stay the job's.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron') THEN
        PERFORM cron.schedule_in_database(job.name, job.schedule, job.command, current_database(), 'atlas_maintenance')
        FROM (VALUES
            ('atlas partitions', '*/10 * * * *', 'SELECT atlas.maintain_partitions()'),
            ('atlas default rows', '* * * * *', 'SELECT atlas.move_default_rows()'),
            ('atlas ledger', '5 * * * *', 'SELECT atlas.drop_expired_ledger()'),
            ('atlas retention', '15 * * * *', 'CALL atlas.run_retention()')
        ) AS job (name, schedule, command);
    END IF;
END
$$;
