-- What finds entities by their hot attributes sees the projection of all tenants: find_by_index(), and nothing else.
-- Row-level security that depends on the row would keep the GIN index from being asked.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

CREATE POLICY find ON entity_jsonb FOR SELECT TO atlas_finder USING (true);

RESET ROLE;
