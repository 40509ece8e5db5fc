-- Whom functions run as. Those of the flush run as atlas_flusher, which may write telemetry of all tenants, those
-- that move and delete it as atlas_keeper, those that ask indexes as atlas_finder, those of jobs on the projection as
-- atlas_projector, those that count reads and points as atlas_meter; the others belong to the owner of the tables. A new
-- function belongs to whoever ran the migration.
-- To be given a function, a role must be able to make one.
GRANT CREATE ON SCHEMA atlas TO atlas_flusher, atlas_keeper, atlas_finder, atlas_projector, atlas_meter;

DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT p.oid FROM pg_proc AS p JOIN pg_roles AS o ON o.oid = p.proowner
        WHERE p.pronamespace = 'atlas'::regnamespace
          AND o.rolname NOT IN ('atlas_owner', 'atlas_flusher', 'atlas_keeper', 'atlas_finder', 'atlas_projector',
              'atlas_meter')
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO %s', routine,
            CASE WHEN (SELECT proname FROM pg_proc WHERE oid = routine) IN (
                'beat_heart', 'announce_seal', 'prepare_lane', 'claim_lane', 'lane_leftovers', 'empty_lane', 'discard_half',
                'orphaned_lanes', 'stage_flush', 'staging_status')
            THEN 'atlas_flusher'
            WHEN (SELECT proname FROM pg_proc WHERE oid = routine) IN (
                'default_rows', 'move_default_rows', 'move_rows', 'retention_plan', 'retire_partition',
                'old_lock_holder', 'record_archive', 'expire_rows', 'drop_retired', 'blocked_sessions',
                'flushing_lanes')
            THEN 'atlas_keeper'
            WHEN (SELECT proname FROM pg_proc WHERE oid = routine) IN (
                'find_by_index', 'cold_candidates', 'next_cold_candidates')
            THEN 'atlas_finder'
            WHEN (SELECT proname FROM pg_proc WHERE oid = routine) IN (
                'running_projection_jobs', 'lease_projection', 'keep_projection_lease', 'start_projection_job',
                'advance_projection_job', 'end_projection_job', 'note_projection_job', 'cancel_projection_job',
                'write_projection_batch', 'compare_projection_batch', 'recheck_projection', 'note_cache_differences',
                'estimate_attribute_index', 'start_attribute_index', 'drop_attribute_index', 'attribute_index_steps',
                'note_attribute_index', 'finish_attribute_index')
            THEN 'atlas_projector'
            WHEN (SELECT proname FROM pg_proc WHERE oid = routine) IN (
                'record_attribute_access', 'measure_attribute_writes', 'begin_promotion_evaluation',
                'keep_promotion_lease', 'promotion_tenants')
            THEN 'atlas_meter' ELSE 'atlas_owner' END);
    END LOOP;
END
$$;

REVOKE CREATE ON SCHEMA atlas FROM atlas_flusher, atlas_keeper, atlas_finder, atlas_projector, atlas_meter;
