-- Policies: what is to be done again and again, how often, and what came of it last.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- job: as the service that does it calls it. is_default: made by that service, of which default_interval is the setting; NULL:
-- never by itself. schedule_interval: an operator's word, which counts instead. tenant_ids: whom it is about; none: all.
-- requested: a run that somebody asked for. runner: who runs it, until leased_until; by the clock of this server alone.
CREATE TABLE maintenance_policies (
    policy_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL CHECK (octet_length(job) BETWEEN 1 AND 128),
    is_default boolean NOT NULL DEFAULT false,
    takes_tenants boolean NOT NULL,
    tenant_ids integer [] NOT NULL DEFAULT '{}' CHECK (takes_tenants OR tenant_ids = '{}'),
    default_interval interval,
    schedule_interval interval CHECK (schedule_interval > interval '0'),
    is_scheduled boolean NOT NULL DEFAULT true,
    next_start timestamptz NOT NULL,
    requested text CHECK (requested IN ('run', 'dry_run')),
    runner text NOT NULL DEFAULT '',
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX maintenance_policies_default ON maintenance_policies (job) WHERE is_default;

-- The last run of a policy, and the last of its dry runs: rows that are written again, so that there is nothing to expire.
CREATE TABLE maintenance_runs (
    policy_id integer NOT NULL REFERENCES maintenance_policies ON DELETE CASCADE,
    is_dry_run boolean NOT NULL,
    runner text NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'success', 'unfinished', 'failed', 'interrupted')),
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    summary text NOT NULL DEFAULT '' CHECK (octet_length(summary) <= 4096),
    run_count bigint NOT NULL,
    failure_count bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (policy_id, is_dry_run)
) WITH (fillfactor = 50);

RESET ROLE;
