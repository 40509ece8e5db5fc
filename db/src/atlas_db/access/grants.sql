-- Who may do what. Applied anew after every migration: first everything is taken back, then given.
REVOKE ALL ON SCHEMA atlas, staging, retired FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA atlas FROM PUBLIC, atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
REVOKE ALL ON ALL ROUTINES IN SCHEMA atlas FROM PUBLIC, atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
REVOKE ALL ON ALL TABLES IN SCHEMA atlas FROM atlas_flusher, atlas_keeper, atlas_finder, atlas_projector,
    atlas_meter, atlas_maintenance, atlas_monitor, atlas_indexer;
REVOKE ALL ON ALL ROUTINES IN SCHEMA atlas FROM atlas_maintenance, atlas_monitor, atlas_indexer;

GRANT USAGE ON SCHEMA atlas TO atlas_flusher, atlas_keeper, atlas_finder, atlas_projector, atlas_meter, atlas_ingest,
    atlas_hotcache, atlas_query,
    atlas_reconciler, atlas_maintenance, atlas_monitor, atlas_indexer;
GRANT USAGE ON SCHEMA staging TO atlas_ingest;

-- The flush, and nothing else, writes telemetry.
GRANT SELECT, INSERT, UPDATE ON atlas.flush_positions, atlas.entity_jsonb TO atlas_flusher;
GRANT SELECT, INSERT, DELETE ON atlas.lane_epochs TO atlas_flusher;
GRANT SELECT, INSERT ON atlas.write_requests TO atlas_flusher;
GRANT SELECT, INSERT, UPDATE ON atlas.source_offsets, atlas.producer_positions TO atlas_flusher;
GRANT INSERT ON atlas.ingest_dead_letters TO atlas_flusher;
GRANT INSERT ON atlas.entity_values_ts TO atlas_flusher;
GRANT SELECT, UPDATE ON atlas.flush_control, atlas.replication_heartbeat TO atlas_flusher;
GRANT SELECT ON atlas.attributes, atlas.projected_attributes TO atlas_flusher;
GRANT SELECT, INSERT, UPDATE ON atlas.recent_flushes TO atlas_flusher;
GRANT EXECUTE ON FUNCTION atlas.remember_flush(smallint, bigint, bigint, integer[], bigint[], bigint[]) TO atlas_flusher;
GRANT EXECUTE ON FUNCTION atlas.written_timeline() TO atlas_flusher; -- Whose beat_heart() is.
GRANT EXECUTE ON FUNCTION atlas.flush_lock(), atlas.lane_lock_class(), atlas.lane_flush_class(), atlas.projection_lane(),
    atlas.hot_value(boolean, bigint, double precision, numeric, text, timestamptz, jsonb),
    atlas.upsert_hot_attrs(regclass, integer[], timestamptz), atlas.lane_is_owned(smallint), atlas.empty_half(regclass, regclass),
    atlas.known_requests(regclass, smallint, bigint, bigint, date, timestamptz, integer[]),
    atlas.known_sequences(regclass, smallint, bigint, bigint, timestamptz),
    atlas.known_offsets(regclass, smallint, bigint, bigint, timestamptz) TO atlas_flusher;

-- Every service resolves tenants and judges freshness.
GRANT SELECT ON atlas.tenants, atlas.flush_positions, atlas.lane_epochs, atlas.replication_heartbeat
    TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
GRANT EXECUTE ON FUNCTION atlas.position_state(smallint, bigint, bigint),
    atlas.require_fresh(timestamptz, smallint[], bigint[], bigint[]),
    atlas.fresh_view(timestamptz, smallint[], bigint[], bigint[]), atlas.written_timeline()
    TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;
GRANT SELECT ON atlas.entities, atlas.attributes, atlas.attribute_indexes
    TO atlas_ingest, atlas_hotcache, atlas_query, atlas_reconciler;

GRANT INSERT ON atlas.tenants, atlas.entities TO atlas_ingest;
GRANT UPDATE (display_name, unknown_attribute_policy, retention_class, late_data_window, quotas) ON atlas.tenants
    TO atlas_ingest; -- Not its key, its number or whether it is in service.
GRANT INSERT, UPDATE ON atlas.attributes TO atlas_ingest;
GRANT SELECT ON atlas.write_requests, atlas.producer_positions, atlas.source_offsets, atlas.ingest_dead_letters,
    atlas.retention_classes TO atlas_ingest;
GRANT EXECUTE ON FUNCTION atlas.prepare_lane(smallint), atlas.claim_lane(smallint), atlas.lane_leftovers(smallint),
    atlas.empty_lane(smallint), atlas.discard_half(smallint, text, text),
    atlas.orphaned_lanes(), atlas.lane_is_owned(smallint), atlas.lane_lock_class(),
    atlas.stage_flush(smallint, text, bigint, bigint), atlas.staging_status(),
    atlas.maintain_partitions(integer), atlas.beat_heart(interval) TO atlas_ingest;
GRANT EXECUTE ON FUNCTION atlas.drop_expired_ledger(), atlas.default_rows(), atlas.move_default_rows(integer),
    atlas.flushing_lanes() TO atlas_ingest;

GRANT SELECT ON atlas.entity_jsonb TO atlas_hotcache, atlas_query;
GRANT SELECT ON atlas.recent_flushes TO atlas_hotcache; -- Entities by number, of all tenants; no values.
GRANT SELECT ON atlas.entity_values_ts TO atlas_query, atlas_reconciler;

-- The index of the projection is asked for a tenant's ids by a function that compares the tenant itself.
GRANT SELECT (tenant_id, entity_id, attrs) ON atlas.entity_jsonb TO atlas_finder;
GRANT EXECUTE ON FUNCTION atlas.filter_matches(jsonb, jsonpath, jsonb), atlas.document_equalities(jsonb, jsonb)
    TO atlas_finder, atlas_query;
GRANT EXECUTE ON FUNCTION atlas.find_by_index(integer, jsonpath, jsonpath, jsonb, bigint, bigint),
    atlas.find_entities(integer, jsonpath, jsonpath, jsonb, boolean, bigint, integer) TO atlas_query;

-- Jobs on the projection. Their functions work as atlas_projector within the transaction's tenant; only which jobs there
-- are is asked of all tenants at once. Points are read, never written.
GRANT SELECT ON atlas.entities, atlas.attributes, atlas.entity_values_ts TO atlas_projector;
GRANT UPDATE (is_hot, updated_at) ON atlas.attributes TO atlas_projector;
GRANT SELECT, INSERT, UPDATE ON atlas.entity_jsonb TO atlas_projector;
GRANT SELECT, INSERT, UPDATE, DELETE ON atlas.projected_attributes, atlas.projection_jobs TO atlas_projector;
GRANT SELECT, UPDATE ON atlas.projection_runner TO atlas_projector;
GRANT SELECT, INSERT, UPDATE ON atlas.flush_positions TO atlas_projector; -- The projection's own lane.
GRANT SELECT, INSERT, DELETE ON atlas.lane_epochs TO atlas_projector;
GRANT SELECT, INSERT, UPDATE ON atlas.recent_flushes TO atlas_projector;
GRANT EXECUTE ON FUNCTION atlas.remember_flush(smallint, bigint, bigint, integer[], bigint[], bigint[]) TO atlas_projector;
GRANT EXECUTE ON FUNCTION atlas.projection_lane(), atlas.require_tenant(integer),
    atlas.held_projection_job(text, integer, bigint, text), atlas.claim_projection_lane(timestamptz),
    atlas.move_attribute(integer, integer, text, timestamptz),
    atlas.hot_value(boolean, bigint, double precision, numeric, text, timestamptz, jsonb),
    atlas.latest_point(integer, bigint, integer), atlas.followed_attributes(integer),
    atlas.next_projection_entities(atlas.projection_jobs, integer),
    atlas.project_entities(integer, bigint[], integer[], integer[], boolean),
    atlas.compare_projection(integer, bigint[], integer[], boolean), atlas.next_projection_position(bigint),
    atlas.count_projection_batch(atlas.projection_jobs, bigint[], integer, jsonb),
    atlas.partitions_of(regclass) TO atlas_projector;

GRANT SELECT ON atlas.projected_attributes, atlas.projection_jobs TO atlas_hotcache;
GRANT SELECT ON atlas.projected_attributes TO atlas_ingest;
GRANT EXECUTE ON FUNCTION atlas.flushes_in_flight(), atlas.flush_lock(), atlas.projection_lane(),
    atlas.running_projection_jobs(integer), atlas.lease_projection(text, double precision),
    atlas.keep_projection_lease(text, double precision),
    atlas.start_projection_job(integer, text, integer, bigint[], smallint, boolean, boolean, text),
    atlas.advance_projection_job(text, integer, bigint, text, text),
    atlas.end_projection_job(text, integer, bigint, text, text, text),
    atlas.note_projection_job(text, integer, bigint, text, text), atlas.cancel_projection_job(integer, bigint),
    atlas.write_projection_batch(text, bigint, integer, bigint, text, integer, bigint[]),
    atlas.compare_projection_batch(text, integer, bigint, text, integer),
    atlas.recheck_projection(text, integer, bigint, text, bigint[], bigint),
    atlas.note_cache_differences(text, integer, bigint, text, jsonb, bigint, bigint, bigint) TO atlas_hotcache;

-- How attributes are read and written, and who promotes them by that. The meter sees whose a point is and when it came,
-- and no value. Query may add counts, and nothing else; hotcache decides within the transaction's tenant. The audit log
-- can be added to and, by the meter, expire.
GRANT SELECT, INSERT, UPDATE, DELETE ON atlas.attribute_access, atlas.access_hours TO atlas_meter;
GRANT SELECT, INSERT, UPDATE ON atlas.attribute_promotion TO atlas_meter;
GRANT SELECT, UPDATE ON atlas.promotion_runner TO atlas_meter;
GRANT SELECT (tenant_id, attribute_id, name, is_hot) ON atlas.attributes TO atlas_meter;
GRANT SELECT (tenant_id, attribute_id, state) ON atlas.attribute_indexes TO atlas_meter;
GRANT SELECT (tenant_id, attribute_id, ingested_at) ON atlas.entity_values_ts TO atlas_meter;
GRANT SELECT (decided_at), DELETE ON atlas.promotion_decisions TO atlas_meter;
GRANT EXECUTE ON FUNCTION atlas.access_retention(), atlas.partitions_of(regclass) TO atlas_meter;
GRANT EXECUTE ON FUNCTION atlas.record_attribute_access(integer[], text[], bigint[], bigint[]) TO atlas_query;
GRANT SELECT ON atlas.attribute_access, atlas.access_hours, atlas.promotion_runner TO atlas_hotcache;
GRANT SELECT, INSERT, UPDATE ON atlas.attribute_promotion TO atlas_hotcache;
GRANT SELECT, INSERT ON atlas.promotion_decisions TO atlas_hotcache;
GRANT EXECUTE ON FUNCTION atlas.measure_attribute_writes(integer, bigint, double precision),
    atlas.begin_promotion_evaluation(text, double precision, double precision),
    atlas.keep_promotion_lease(text, double precision), atlas.promotion_tenants(integer, integer) TO atlas_hotcache;

-- The audit log: who serves administrative calls adds to it, at the database's time; ingest shows it. Nobody is granted
-- UPDATE, DELETE or TRUNCATE.
GRANT INSERT (tenant_id, act, event, actor, actor_kind, actor_tenant, method, request_id, request, outcome)
    ON atlas.audit_log TO atlas_ingest, atlas_hotcache, atlas_reconciler;
GRANT SELECT ON atlas.audit_log TO atlas_ingest;
GRANT SELECT (tenant_id, entry_id, recorded_at, act, event, actor, actor_kind, actor_tenant, method, request_id, outcome)
    ON atlas.audit_log TO atlas_monitor; -- Not what was asked for: that names a tenant's things.

-- Policies: ingest shows and changes them, whoever has jobs runs them.
GRANT SELECT ON atlas.maintenance_policies, atlas.maintenance_runs TO atlas_ingest, atlas_hotcache, atlas_reconciler,
    atlas_monitor;
GRANT INSERT (job, is_default, takes_tenants, default_interval, next_start) ON atlas.maintenance_policies
    TO atlas_ingest, atlas_hotcache, atlas_reconciler;
GRANT UPDATE (takes_tenants, default_interval, next_start, requested, runner, leased_until) ON atlas.maintenance_policies
    TO atlas_ingest, atlas_hotcache, atlas_reconciler;
GRANT INSERT (tenant_ids, schedule_interval), UPDATE (tenant_ids, schedule_interval, is_scheduled), DELETE
    ON atlas.maintenance_policies TO atlas_ingest;
GRANT INSERT, UPDATE ON atlas.maintenance_runs TO atlas_ingest, atlas_hotcache, atlas_reconciler;

GRANT EXECUTE ON FUNCTION atlas.beat_heart(interval), atlas.announce_seal(timestamptz),
    atlas.flushes_in_flight(), atlas.flush_lock() TO atlas_reconciler;
-- Where the primary stands, for tokens of watches: asked by order, see standings.py of query.
GRANT EXECUTE ON FUNCTION atlas.flushes_in_flight(), atlas.flush_lock() TO atlas_query;

-- Partitions: what runs as atlas_keeper, the job that archives and retires, and who only looks.
GRANT USAGE ON SCHEMA retired TO atlas_keeper, atlas_maintenance;
GRANT SELECT, INSERT, DELETE ON atlas.entity_values_ts TO atlas_keeper;
GRANT SELECT ON atlas.entity_values_ts_default, atlas.tenants, atlas.retention_classes, atlas.partition_policy
    TO atlas_keeper;
GRANT SELECT, INSERT, UPDATE ON atlas.retired_partitions, atlas.partition_archives TO atlas_keeper;
GRANT EXECUTE ON FUNCTION atlas.partitions_of(regclass), atlas.partition_name(timestamptz, timestamptz),
    atlas.uncovered_spans(timestamptz, timestamptz), atlas.make_partition(text, text, text, text),
    atlas.retention_grace(), atlas.classes_passed(timestamptz), atlas.archived_tenants(text),
    atlas.tenants_with_rows(text, timestamptz, timestamptz, integer[]),
    atlas.retired_plan(text, text, timestamptz, timestamptz, integer[]),
    atlas.detach_partition(text), atlas.drop_retired_table(text),
    atlas.statement_shape(text), atlas.lane_flush_class() TO atlas_keeper;

GRANT SELECT ON atlas.entity_values_ts TO atlas_maintenance;
GRANT SELECT ON atlas.partition_archives, atlas.retired_partitions TO atlas_maintenance;
GRANT EXECUTE ON FUNCTION atlas.maintain_partitions(integer), atlas.drop_expired_ledger(), atlas.default_rows(),
    atlas.move_default_rows(integer), atlas.retention_plan(text), atlas.retire_partition(text),
    atlas.record_archive(text, text, integer[], text, bigint, bigint, text),
    atlas.expire_rows(text, text, integer), atlas.drop_retired(text) TO atlas_maintenance;
GRANT EXECUTE ON PROCEDURE atlas.run_retention() TO atlas_maintenance;

GRANT SELECT ON atlas.flush_positions, atlas.flush_control, atlas.replication_heartbeat, atlas.source_offsets,
    atlas.retention_classes, atlas.partition_policy, atlas.partition_archives, atlas.retired_partitions
    TO atlas_monitor;
GRANT SELECT (tenant_id, key, retention_class) ON atlas.tenants TO atlas_monitor;
GRANT SELECT (tenant_id, source, topic, partition, reason, stored_at) ON atlas.ingest_dead_letters TO atlas_monitor;
GRANT SELECT (tenant_id, producer_id, sequence, stored_at) ON atlas.producer_positions TO atlas_monitor;
GRANT SELECT (tenant_id, job_id, kind, state, step, step_since, entities_total, entities_done, message, created_at,
    updated_at) ON atlas.projection_jobs TO atlas_monitor;
GRANT SELECT ON atlas.attribute_indexes TO atlas_monitor;
GRANT EXECUTE ON FUNCTION atlas.staging_status(), atlas.lane_is_owned(smallint), atlas.lane_lock_class(),
    atlas.flush_lock(), atlas.flushes_in_flight(), atlas.default_rows(), atlas.partitions_of(regclass),
    atlas.retention_plan(text), atlas.blocked_sessions(), atlas.flushing_lanes() TO atlas_monitor;

-- The indexes of cold attributes are asked as that of the projection is, for entities that have or had a value. What they
-- have now is looked up as atlas_query.
GRANT SELECT (tenant_id, entity_id, attribute_id, value_bool, value_int, value_double, value_decimal, value_text,
    value_time, value_json) ON atlas.entity_values_ts TO atlas_finder;
GRANT EXECUTE ON FUNCTION atlas.cold_index_key(text), atlas.cold_literal(text, text),
    atlas.cold_condition(integer, jsonb), atlas.cold_index_predicate(integer, integer) TO atlas_finder;
GRANT EXECUTE ON FUNCTION atlas.cold_candidates(integer, jsonb, bigint, bigint),
    atlas.next_cold_candidates(integer, jsonb, bigint, integer), atlas.latest_point(integer, bigint, integer),
    atlas.united(bigint[], bigint[]),
    atlas.find_by_latest(integer, jsonpath, jsonpath, jsonb, integer[], jsonb, bigint, integer),
    atlas.hot_value(boolean, bigint, double precision, numeric, text, timestamptz, jsonb) TO atlas_query;

-- Who asks for indexes of cold attributes, and who makes them.
GRANT SELECT, INSERT, UPDATE, DELETE ON atlas.attribute_indexes TO atlas_projector;
GRANT EXECUTE ON FUNCTION atlas.cold_index_key(text), atlas.cold_index_name(integer, integer, text),
    atlas.cold_index_predicate(integer, integer), atlas.cold_index_statement(integer, integer, text, text, boolean),
    atlas.cold_index_parts(integer, integer) TO atlas_projector;
GRANT EXECUTE ON FUNCTION atlas.estimate_attribute_index(integer, integer),
    atlas.start_attribute_index(integer, integer, integer, integer), atlas.drop_attribute_index(integer, integer),
    atlas.cold_index_parts(integer, integer) TO atlas_hotcache;
GRANT EXECUTE ON FUNCTION atlas.attribute_index_steps(),
    atlas.note_attribute_index(integer, integer, integer, integer, text, boolean),
    atlas.finish_attribute_index(integer, integer) TO atlas_indexer;
