-- Tenants may have quotas of their own.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- By name, as in atlas.catalog.v1.Quotas; what is not there is as the services' settings say. One column, and no constraint on
-- names: each service reads it with the tenant's key, and skips what only a newer release knows.
ALTER TABLE tenants
    ADD COLUMN quotas jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT tenants_quotas_check CHECK (jsonb_typeof(quotas) = 'object' AND octet_length(quotas::text) <= 4096);

RESET ROLE;
