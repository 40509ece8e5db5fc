-- Who waits for whom.

-- The first 120 characters of a statement, its strings and numbers replaced by `?`.
CREATE OR REPLACE FUNCTION statement_shape(query text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = atlas, pg_temp AS $$
    SELECT left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
        replace(left(query, 1000), '\''', ''),
        '\$(\w*)\$.*?(\$\1\$|$)', '?', 'g'), '''[^'']*(''|$)', '?', 'g'), '\y[0-9][0-9.]*\y', '?', 'g'),
        '\s+', ' ', 'g'), 120)
$$;

-- Sessions that wait for a lock, with one that they wait for. Statements are shown without the values in them: those
-- are some tenant's. Of this database only.
CREATE OR REPLACE FUNCTION blocked_sessions()
RETURNS TABLE (pid integer, application text, waiting_seconds double precision, wait_event text, statement text,
               blocker_pid integer, blocker_application text, blocker_state text,
               blocker_transaction_seconds double precision, blocker_statement text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    SELECT a.pid, a.application_name,
        extract(epoch FROM clock_timestamp() - coalesce(l.since, a.query_start))::double precision,
        a.wait_event, statement_shape(a.query),
        b.pid, b.application_name, b.state,
        extract(epoch FROM clock_timestamp() - b.xact_start)::double precision, statement_shape(b.query)
    FROM pg_stat_activity AS a
    CROSS JOIN LATERAL (SELECT min(w.waitstart) AS since FROM pg_locks AS w WHERE w.pid = a.pid AND NOT w.granted) AS l
    LEFT JOIN LATERAL (
        SELECT x.pid, x.application_name, x.state, x.xact_start, x.query
        FROM pg_stat_activity AS x WHERE x.pid = ANY (pg_blocking_pids(a.pid))
        ORDER BY x.xact_start LIMIT 1) AS b ON true
    WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'
    ORDER BY 3 DESC
$$;

-- The lanes that are being flushed now, and what the flush waits for; '' if for nothing that another session holds.
CREATE OR REPLACE FUNCTION flushing_lanes()
RETURNS TABLE (lane smallint, pid integer, seconds double precision, waits_for text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = atlas, pg_temp AS $$
    SELECT l.objid::bigint::smallint, a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::double precision,
        CASE
            WHEN b.pid IS NOT NULL THEN format(
                'waiting for a lock held by process %s (%s, %s, in a transaction of %s s): %s', b.blocker_pid,
                coalesce(nullif(b.blocker_application, ''), 'no name'), b.blocker_state,
                round(b.blocker_transaction_seconds), b.blocker_statement)
            WHEN a.wait_event_type = 'IO' THEN format('waiting for the disk (%s)', a.wait_event)
            ELSE ''
        END
    FROM pg_locks AS l
    JOIN pg_stat_activity AS a ON a.pid = l.pid
    LEFT JOIN blocked_sessions() AS b ON b.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid = lane_flush_class()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
