"""What the database alone knows, as CloudWatch metrics: a line in their embedded format.

PROBE_DSN: of the primary, as atlas_monitor; its password: PGPASSWORD.
PROBE_NAMESPACE: namespace of the metrics.
PROBE_SECONDS: pause between two lines; 0: one line, and the end.
"""

import json
import os
import sys
import time

import psycopg

_QUERIES = {
    "staging_points": ("Count", "SELECT coalesce(sum(staged_points), 0) FROM staging_status()"),
    "staging_age": (
        "Seconds",
        "SELECT coalesce(max(extract(EPOCH FROM clock_timestamp() - flushed_at))"
        " FILTER (WHERE staged_points > 0), 0) FROM staging_status()",
    ),
    "default_rows": ("Count", "SELECT coalesce(sum(row_count), 0) FROM default_rows()"),
    "ingest_dead_letters": ("Count", "SELECT count(*) FROM ingest_dead_letters"),
    "slot_retained_bytes": (
        "Bytes",
        "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)"
        " FROM pg_replication_slots",
    ),
    "slots_lost": (
        "Count",
        "SELECT count(*) FROM pg_replication_slots WHERE wal_status IN ('unreserved', 'lost')",
    ),
}
_STATEMENT_TIMEOUT_MS = 10_000


def measure(connection: psycopg.Connection) -> dict[str, float]:
    """One value for each metric."""
    values = {}
    for name, (_unit, query) in _QUERIES.items():
        row = connection.execute(query).fetchone()
        assert row is not None  # Each is an aggregate.
        values[name] = float(row[0])
    return values


def line(values: dict[str, float], namespace: str, time_ms: int) -> str:
    """The values as CloudWatch Logs reads metrics out of a log line."""
    metrics = [{"Name": name, "Unit": _QUERIES[name][0]} for name in values]
    directive = {"Namespace": namespace, "Dimensions": [[]], "Metrics": metrics}
    return json.dumps({"_aws": {"Timestamp": time_ms, "CloudWatchMetrics": [directive]}, **values})


def main() -> int:
    """Measure until killed. A database that is away is measured again at the next turn."""
    dsn, namespace = os.environ["PROBE_DSN"], os.environ["PROBE_NAMESPACE"]
    seconds = float(os.environ["PROBE_SECONDS"])
    while True:
        status = 0
        try:
            # A connection each time: it finds the server that is the primary now.
            options = f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}"
            with psycopg.connect(
                dsn, autocommit=True, connect_timeout=5, options=options
            ) as connection:
                values = measure(connection)
            sys.stdout.write(line(values, namespace, int(time.time() * 1000)) + "\n")
            sys.stdout.flush()
        except psycopg.Error as error:
            sys.stderr.write(f"not measured: {error}\n")
            status = 1
        if seconds == 0:
            return status
        time.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
