"""Partitions for rows of the past."""

from typing import Any

import psycopg

# Those that the platform would have made in time, by its own function.
_PARTITIONS = """
SELECT make_partition('entity_values_ts',
    partition_name(day, day + interval '1 day'), day::text, (day + interval '1 day')::text)
FROM (
    SELECT date_trunc('day', now(), 'UTC') - make_interval(days => n) AS day
    FROM generate_series(1, %(days)s) AS n
) AS days
WHERE EXISTS (SELECT FROM uncovered_spans(day, day + interval '1 day'))
"""


def make_past_partitions(admin: "psycopg.Connection[Any]", days: int) -> None:
    """One for each of so many days before today, unless there is one."""
    admin.execute(_PARTITIONS, {"days": days})
