-- name: hot_values
-- Hot values of entities, one row per value; one row without a value for an entity that has none left.
-- The catalog is joined in the same snapshot: an attribute that is not projected any more may have left a value,
-- which is not a current one. Attributes in transition are in: an entry of before the switch must be good after it
-- (promotion), and for readers that have not heard of it yet (demotion). JSON keeps its JSON form (quotes, null),
-- everything else comes as bare text.
SELECT e.entity_id, e.version, a.name, a.data_type,
    CASE WHEN a.data_type = 'json' THEN v.value::text ELSE v.value #>> '{}' END AS value_text,
    (e.attr_times ->> v.key)::bigint AS event_us
FROM entity_jsonb AS e
LEFT JOIN LATERAL jsonb_each(e.attrs) AS v ON true
LEFT JOIN attributes AS a
    ON a.tenant_id = e.tenant_id AND a.attribute_id = v.key::integer AND (a.is_hot OR EXISTS (
        SELECT FROM projected_attributes AS t WHERE t.tenant_id = a.tenant_id AND t.attribute_id = a.attribute_id
    ))
WHERE e.tenant_id = %(tenant_id)s AND e.entity_id = ANY (%(entity_ids)s)
ORDER BY e.entity_id, a.name

-- name: lane_positions
-- How far the lanes are in this snapshot; a time before which all that was committed is in it; and the
-- history that the server is on, as system, timeline and last crash: a promotion changes the timeline, and
-- crash recovery, which loses the newest asynchronous commits, resets statistics. (Postmaster's start time
-- would not do: it outlives the recovery after one backend's death.) Fails in recovery: that is no primary.
SELECT (extract(epoch FROM transaction_timestamp()) * 1000000)::bigint AS as_of_us,
    c.system_identifier || ':' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
        || ':' || coalesce((extract(epoch FROM b.stats_reset) * 1000000)::bigint, 0) AS source,
    f.lane, f.epoch, f.sequence
FROM pg_control_system() AS c
CROSS JOIN pg_stat_bgwriter AS b
LEFT JOIN flush_positions AS f ON true

-- name: lane_claims
-- The newest claims of each lane.
SELECT lane, epoch, first_sequence
FROM (
    SELECT lane, epoch, first_sequence,
        row_number() OVER (PARTITION BY lane ORDER BY epoch DESC) AS claim_rank
    FROM lane_epochs
) AS claims
WHERE claim_rank <= 64

-- name: missed_flushes
-- What the latest flushes after these sequences changed, lane by lane; nothing at all if that is more than so many
-- entities. A flush that is not remembered, or changed too much to be, is not among them.
WITH after AS MATERIALIZED (
    SELECT * FROM unnest(%(lanes)s::smallint[], %(sequences)s::bigint[]) AS a (lane, sequence)
), missed AS MATERIALIZED (
    SELECT r.lane, r.slot, r.epoch, r.sequence, r.entity_count
    FROM after AS a JOIN recent_flushes AS r ON r.lane = a.lane AND r.sequence > a.sequence
)
SELECT r.lane, r.epoch, r.sequence, r.changed_tenants, r.changed_entities, r.changed_versions
FROM missed AS m JOIN recent_flushes AS r ON r.lane = m.lane AND r.slot = m.slot
WHERE r.changed_tenants IS NOT NULL
  AND (SELECT sum(entity_count) FROM missed) <= %(changes_max)s::bigint
ORDER BY r.lane, r.sequence
