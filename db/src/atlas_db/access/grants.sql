-- Who may do what. Applied anew after every migration: first everything is taken back, then given.
REVOKE ALL ON SCHEMA atlas, staging FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA atlas FROM PUBLIC, atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA atlas FROM PUBLIC, atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
REVOKE ALL ON ALL TABLES IN SCHEMA atlas FROM atlas_flusher;

GRANT USAGE ON SCHEMA atlas TO atlas_flusher, atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
GRANT USAGE ON SCHEMA staging TO atlas_ingest;

-- The flush, and nothing else, writes telemetry.
GRANT SELECT, INSERT, UPDATE ON atlas.flush_positions, atlas.entity_jsonb TO atlas_flusher;
GRANT SELECT, INSERT, DELETE ON atlas.lane_epochs TO atlas_flusher;
GRANT SELECT, INSERT ON atlas.write_requests, atlas.source_offsets TO atlas_flusher;
GRANT INSERT ON atlas.entity_values_ts TO atlas_flusher;
GRANT SELECT, UPDATE ON atlas.flush_control, atlas.replication_heartbeat TO atlas_flusher;
GRANT SELECT ON atlas.attributes TO atlas_flusher;
GRANT EXECUTE ON FUNCTION atlas.flush_lock(), atlas.lane_lock_class(),
    atlas.hot_value(boolean, bigint, double precision, numeric, text, timestamptz, jsonb),
    atlas.upsert_hot_attrs(regclass, integer[], timestamptz) TO atlas_flusher;

-- Every service resolves tenants and judges freshness.
GRANT SELECT ON atlas.tenants, atlas.flush_positions, atlas.lane_epochs, atlas.replication_heartbeat
    TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
GRANT EXECUTE ON FUNCTION atlas.position_state(smallint, bigint, bigint),
    atlas.require_fresh(timestamptz, smallint[], bigint[], bigint[])
    TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
GRANT SELECT ON atlas.entities, atlas.attributes
    TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;

GRANT INSERT ON atlas.tenants, atlas.entities TO atlas_ingest;
GRANT INSERT, UPDATE ON atlas.attributes TO atlas_ingest;
GRANT SELECT ON atlas.write_requests TO atlas_ingest;
GRANT EXECUTE ON FUNCTION atlas.claim_lane(smallint), atlas.lane_lock_class(),
    atlas.stage_flush(smallint, text, bigint, bigint), atlas.staging_status(),
    atlas.maintain_partitions(integer), atlas.beat_heart(interval) TO atlas_ingest;

GRANT SELECT ON atlas.entity_jsonb TO atlas_hotcache, atlas_query;
GRANT SELECT ON atlas.entity_values_ts TO atlas_query, atlas_reconciler;

GRANT EXECUTE ON FUNCTION atlas.beat_heart(interval), atlas.announce_seal(timestamptz),
    atlas.flushes_in_flight(), atlas.flush_lock() TO atlas_reconciler;
