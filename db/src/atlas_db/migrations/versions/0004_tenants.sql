-- Tenants can be changed by ingest, which keeps the catalog; which columns, the grants say.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

CREATE POLICY registry_change ON tenants FOR UPDATE TO atlas_ingest USING (true) WITH CHECK (true);

RESET ROLE;
