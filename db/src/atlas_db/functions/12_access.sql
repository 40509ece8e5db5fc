-- How attributes are read and written: counted for all tenants at once, as atlas_meter, which sees no value. And who
-- evaluates them: one process at a time.

-- How long counts are kept; no window of the policy is longer.
CREATE OR REPLACE FUNCTION access_retention() RETURNS interval LANGUAGE sql IMMUTABLE AS $$SELECT interval '16 days'$$;

-- Adds reads and filters to this hour, by the names of attributes; the name '' is whatever was hot. Names that no attribute
-- has are left out. One statement for all. Processes take turns: the hour's row is locked first, and counts of different
-- hours are different rows, so two of them never wait in a circle. Beside that, some of what is too old is taken away.
CREATE OR REPLACE FUNCTION record_attribute_access(
    p_tenants integer[], p_names text[], p_reads bigint[], p_filters bigint[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    this_hour timestamptz := date_trunc('hour', clock_timestamp(), 'UTC');
BEGIN
    IF cardinality(p_tenants) > 100000 THEN
        RAISE EXCEPTION 'too many counts at once' USING ERRCODE = 'program_limit_exceeded';
    END IF;
    INSERT INTO access_hours AS h (hour, flush_count) VALUES (this_hour, 1)
    ON CONFLICT (hour) DO UPDATE SET flush_count = h.flush_count + 1;
    INSERT INTO attribute_access AS x (tenant_id, attribute_id, hour, read_count, hot_count, filter_count, refused_count)
    SELECT t.tenant_id, coalesce(a.attribute_id, 0), this_hour, sum(t.reads),
        coalesce(sum(t.reads) FILTER (WHERE coalesce(a.is_hot, true)), 0), sum(t.filters),
        coalesce(sum(t.filters) FILTER (WHERE NOT a.is_hot AND i.attribute_id IS NULL), 0)
    FROM unnest(p_tenants, p_names, p_reads, p_filters) AS t (tenant_id, name, reads, filters)
    LEFT JOIN attributes AS a ON a.tenant_id = t.tenant_id AND a.name = t.name
    LEFT JOIN attribute_indexes AS i
        ON i.tenant_id = a.tenant_id AND i.attribute_id = a.attribute_id AND i.state = 'ready'
    WHERE (a.attribute_id IS NOT NULL OR t.name = '') AND t.reads >= 0 AND t.filters >= 0
    GROUP BY 1, 2
    ON CONFLICT (tenant_id, attribute_id, hour) DO UPDATE SET
        read_count = x.read_count + excluded.read_count, hot_count = x.hot_count + excluded.hot_count,
        filter_count = x.filter_count + excluded.filter_count, refused_count = x.refused_count + excluded.refused_count;

    DELETE FROM attribute_access AS x WHERE x.ctid = ANY (ARRAY(
        SELECT o.ctid FROM attribute_access AS o WHERE o.hour < this_hour - access_retention()
        LIMIT 10000 FOR UPDATE SKIP LOCKED));
    DELETE FROM access_hours AS h WHERE h.hour < this_hour - access_retention();
END
$$;

-- Estimates how many points an hour every attribute gets that is hot or was read in the last p_hours: from at most about
-- p_pages pages of the partitions of that time, taken at random, however much they hold. Points are stored together by
-- attribute, so a small part of a rare one's is not seen at all: its cost is small, too. Not more often than
-- p_older_seconds, and by one at a time; answers whether it was done.
CREATE OR REPLACE FUNCTION measure_attribute_writes(p_hours integer, p_pages bigint, p_older_seconds double precision)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    begun timestamptz := clock_timestamp();
    since timestamptz := begun - make_interval(hours => p_hours);
    page_count bigint;
    sampled_percent real;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('atlas.attribute_writes'), 0) OR EXISTS (
        SELECT FROM promotion_runner AS r WHERE r.measured_at > begun - make_interval(secs => p_older_seconds)
    ) THEN
        RETURN false;
    END IF;
    SELECT sum(pg_relation_size(p.partition)) / current_setting('block_size')::bigint INTO page_count
    FROM partitions_of('entity_values_ts') AS p WHERE p.upper_bound > since;
    sampled_percent := least(100.0, 100.0 * p_pages / greatest(page_count, 1));

    INSERT INTO attribute_promotion AS p (tenant_id, attribute_id, points_per_hour)
    WITH sampled AS MATERIALIZED (
        SELECT v.tenant_id, v.attribute_id, count(*) AS points, min(v.ingested_at) AS oldest
        FROM entity_values_ts AS v TABLESAMPLE SYSTEM (sampled_percent)
        WHERE v.ingested_at >= since
        GROUP BY v.tenant_id, v.attribute_id
    ), span AS (
        -- A platform that is younger than the window has not had all its hours.
        SELECT greatest(1, extract(EPOCH FROM begun - min(s.oldest)) / 3600) AS hours FROM sampled AS s
    ), asked AS (
        SELECT a.tenant_id, a.attribute_id FROM attributes AS a WHERE a.is_hot
        UNION
        SELECT x.tenant_id, x.attribute_id FROM attribute_access AS x WHERE x.hour >= since AND x.attribute_id > 0
    )
    SELECT k.tenant_id, k.attribute_id, coalesce(s.points * 100.0 / sampled_percent / span.hours, 0)
    FROM asked AS k CROSS JOIN span LEFT JOIN sampled AS s USING (tenant_id, attribute_id)
    ORDER BY 1, 2
    ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET points_per_hour = excluded.points_per_hour
    WHERE p.points_per_hour <> excluded.points_per_hour;
    UPDATE promotion_runner AS r SET measured_at = begun WHERE r.id = 1;
    RETURN true;
END
$$;

-- Makes p_owner the one who evaluates, if an evaluation is due and nobody is at it. Takes away decisions older than 90 days.
CREATE OR REPLACE FUNCTION begin_promotion_evaluation(
    p_owner text, p_lease_seconds double precision, p_interval_seconds double precision
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    begun timestamptz := clock_timestamp();
    was_due boolean;
BEGIN
    SELECT r.leased_until < begun AND r.evaluated_at <= begun - make_interval(secs => p_interval_seconds) INTO was_due
    FROM promotion_runner AS r WHERE r.id = 1;
    IF NOT was_due THEN
        RETURN false; -- Mostly so: without a write.
    END IF;
    UPDATE promotion_runner AS r
    SET owner = p_owner, leased_until = begun + make_interval(secs => p_lease_seconds), evaluated_at = begun
    WHERE r.id = 1 AND r.leased_until < begun AND r.evaluated_at <= begun - make_interval(secs => p_interval_seconds);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM promotion_decisions AS d WHERE d.decided_at < begun - interval '90 days';
    RETURN true;
END
$$;

-- Keeps the lease for p_seconds from now, to the end of the transaction against everybody; 0 gives it back. Raises AT003 if
-- it is another's by now: so nothing that is written in this transaction is written beside a successor.
CREATE OR REPLACE FUNCTION keep_promotion_lease(p_owner text, p_seconds double precision) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = atlas, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    UPDATE promotion_runner AS r SET leased_until = clock_timestamp() + make_interval(secs => p_seconds)
    WHERE r.id = 1 AND r.owner = p_owner AND r.leased_until >= clock_timestamp();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another process evaluates' USING ERRCODE = 'AT003';
    END IF;
END
$$;

-- The next tenants in which there is something to weigh, by number.
CREATE OR REPLACE FUNCTION promotion_tenants(p_after integer, p_limit integer) RETURNS TABLE (tenant_id integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    SELECT DISTINCT p.tenant_id FROM attribute_promotion AS p WHERE p.tenant_id > p_after ORDER BY p.tenant_id LIMIT p_limit
$$;
