-- What each lane's latest flushes changed: hotcache makes up from it for what it was not told.
SET LOCAL ROLE atlas_owner;
SET LOCAL search_path = atlas;

-- A ring of 64 flushes a lane, written by the flush itself; slot: sequence modulo 64. Entities and their versions, as in
-- the announcement to the cache, no values; NULL where they are too many to be kept. UNLOGGED: it costs no log and
-- goes to no replica. A crash empties it, a failover leaves it behind: both make another history of the primary, which
-- no cache believes what it has of.
CREATE UNLOGGED TABLE recent_flushes (
    lane smallint NOT NULL,
    slot smallint NOT NULL CHECK (slot BETWEEN 0 AND 63),
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    entity_count integer NOT NULL,
    changed_tenants integer[],
    changed_entities bigint[],
    changed_versions bigint[],
    PRIMARY KEY (lane, slot)
) WITH (fillfactor = 50);

-- Not compressed: that would take ten times as long as all the rest, within every flush, for what is soon replaced.
ALTER TABLE recent_flushes
    ALTER COLUMN changed_tenants SET STORAGE EXTERNAL,
    ALTER COLUMN changed_entities SET STORAGE EXTERNAL,
    ALTER COLUMN changed_versions SET STORAGE EXTERNAL;

RESET ROLE;
