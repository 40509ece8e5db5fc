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
GRANT SELECT, INSERT ON atlas.write_requests TO atlas_flusher;
GRANT SELECT, INSERT, UPDATE ON atlas.source_offsets, atlas.producer_positions TO atlas_flusher;
GRANT INSERT ON atlas.ingest_dead_letters TO atlas_flusher;
GRANT INSERT ON atlas.entity_values_ts TO atlas_flusher;
GRANT SELECT, UPDATE ON atlas.flush_control, atlas.replication_heartbeat TO atlas_flusher;
GRANT SELECT ON atlas.attributes TO atlas_flusher;
GRANT EXECUTE ON FUNCTION atlas.flush_lock(), atlas.lane_lock_class(),
    atlas.hot_value(boolean, bigint, double precision, numeric, text, timestamptz, jsonb),
    atlas.upsert_hot_attrs(regclass, integer[], timestamptz), atlas.lane_is_owned(smallint),
    atlas.known_requests(regclass, smallint, bigint, bigint, date, timestamptz),
    atlas.known_sequences(regclass, smallint, bigint, bigint, timestamptz),
    atlas.known_offsets(regclass, smallint, bigint, bigint, timestamptz) TO atlas_flusher;

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
GRANT SELECT ON atlas.write_requests, atlas.producer_positions, atlas.source_offsets, atlas.ingest_dead_letters,
    atlas.retention_classes TO atlas_ingest;
GRANT EXECUTE ON FUNCTION atlas.prepare_lane(smallint), atlas.claim_lane(smallint), atlas.lane_leftovers(smallint),
    atlas.empty_lane(smallint), atlas.orphaned_lanes(), atlas.lane_is_owned(smallint), atlas.lane_lock_class(),
    atlas.stage_flush(smallint, text, bigint, bigint), atlas.staging_status(),
    atlas.maintain_partitions(integer), atlas.beat_heart(interval) TO atlas_ingest;

GRANT SELECT ON atlas.entity_jsonb TO atlas_hotcache, atlas_query;
GRANT SELECT ON atlas.entity_values_ts TO atlas_query, atlas_reconciler;

GRANT EXECUTE ON FUNCTION atlas.beat_heart(interval), atlas.announce_seal(timestamptz),
    atlas.flushes_in_flight(), atlas.flush_lock() TO atlas_reconciler;
