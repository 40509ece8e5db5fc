-- The audit log: who did which administrative act, when, by which request. Rows are added, nothing else, ever.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- An act has a row before it (begun) and one after it (ended, with its outcome: the code of gRPC); one without an end was
-- cut off, and what it did is not known. tenant_id 0: the platform's, as for a call that is no tenant's. actor: the verified
-- caller; actor_tenant: whose it is, '' if nobody's. request: what was asked for, as JSON, shortened.
CREATE TABLE audit_log (
    tenant_id integer NOT NULL,
    entry_id bigint GENERATED ALWAYS AS IDENTITY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    act uuid NOT NULL,
    event text NOT NULL CHECK (event IN ('begun', 'ended')),
    actor text NOT NULL CHECK (octet_length(actor) <= 1024),
    actor_kind text NOT NULL CHECK (actor_kind IN ('user', 'service', 'anybody')),
    actor_tenant text NOT NULL CHECK (octet_length(actor_tenant) <= 1024),
    method text NOT NULL CHECK (octet_length(method) <= 256),
    request_id text NOT NULL CHECK (octet_length(request_id) <= 128),
    request text NOT NULL DEFAULT '' CHECK (octet_length(request) <= 16384),
    outcome text NOT NULL DEFAULT '' CHECK (octet_length(outcome) <= 32),
    PRIMARY KEY (tenant_id, entry_id)
);
CREATE UNIQUE INDEX audit_log_act ON audit_log (tenant_id, act, event);

ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log FORCE ROW LEVEL SECURITY;
-- There is none for UPDATE and DELETE: not even the owner's would find a row.
CREATE POLICY append ON audit_log FOR INSERT TO atlas_ingest, atlas_hotcache, atlas_reconciler
WITH CHECK (tenant_id = coalesce(nullif(current_setting('atlas.tenant_id', true), '')::int, 0));
CREATE POLICY tenant_only ON audit_log FOR SELECT TO atlas_ingest
USING (tenant_id = nullif(current_setting('atlas.tenant_id', true), '')::int);
CREATE POLICY platform_only ON audit_log FOR SELECT TO atlas_ingest
USING (tenant_id = 0 AND nullif(current_setting('atlas.tenant_id', true), '') IS NULL);
CREATE POLICY monitor ON audit_log FOR SELECT TO atlas_monitor USING (true);

RESET ROLE;
