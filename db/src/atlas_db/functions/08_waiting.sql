-- Who waits for whom.

-- The first 120 characters of a statement, its strings and numbers replaced by `?`.
CREATE OR REPLACE FUNCTION statement_shape(query text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = atlas, pg_temp AS $$
    SELECT left(regexp_replace(regexp_replace(regexp_replace(left(query, 1000),
        '''[^'']*(''|$)', '?', 'g'), '\y[0-9][0-9.]*\y', '?', 'g'), '\s+', ' ', 'g'), 120)
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
