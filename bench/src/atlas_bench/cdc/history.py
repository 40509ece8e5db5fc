"""A week and more of readings, by SQL: only so do they lie in the partitions of their days.

Each transaction is as large as a flush, and has both tenants in it, as flushes do.
"""

from typing import Any

import psycopg

from atlas_bench.cdc.rig import ATTRIBUTE, MEASURED, NEIGHBOUR, Rig
from atlas_bench.partitions import make_past_partitions

ROWS_OF_A_FLUSH = 20_000
NEIGHBOUR_SHARE = 10
"""One entity in so many of the measured tenant's has a namesake that reports as well."""
_SERIES = """
CREATE TEMPORARY TABLE bench_series AS
SELECT e.tenant_id, e.entity_id, a.attribute_id, substring(e.key FROM '[0-9]+$')::int AS number
FROM entities AS e
JOIN attributes AS a ON a.tenant_id = e.tenant_id AND a.name = %(attribute)s
WHERE e.key LIKE 'sensor-%%' AND (e.tenant_id = %(measured)s
    OR e.tenant_id = %(neighbour)s AND substring(e.key FROM '[0-9]+$')::int %% %(share)s = 0)
ORDER BY e.tenant_id, e.entity_id
"""
_FLUSH = """
INSERT INTO entity_values_ts
    (tenant_id, entity_id, attribute_id, event_time, ingested_at, quality, value_double)
SELECT s.tenant_id, s.entity_id, s.attribute_id, t.at, %(last)s + interval '1 second', 0,
    20 + (s.number * 7919 + minute * 104729) %% 1000 / 64.0
FROM bench_series AS s
CROSS JOIN generate_series(0, %(minutes)s - 1) AS minute
CROSS JOIN LATERAL (SELECT %(first)s + make_interval(mins => minute) AS at) AS t
ORDER BY s.tenant_id, s.entity_id, t.at
"""


def fill(rig: Rig, rows: int) -> int:
    """Write so many rows of the measured tenant, and the neighbour's; returns how many in all."""
    entities = rig.options.entities
    minutes = rows // entities
    days = minutes // 1440 + 2
    admin = rig.admin
    make_past_partitions(admin, days)
    admin.execute("DROP TABLE IF EXISTS bench_series")
    admin.execute(
        _SERIES,
        {
            "attribute": ATTRIBUTE,
            "measured": rig.tenant_ids[MEASURED],
            "neighbour": rig.tenant_ids[NEIGHBOUR],
            "share": NEIGHBOUR_SHARE,
        },
    )
    admin.execute("ANALYZE bench_series")
    step = max(1, ROWS_OF_A_FLUSH // entities)
    written = 0
    for first in range(0, minutes, step):
        written += _flush(admin, minutes - first, min(step, minutes - first))
    admin.execute("DROP TABLE bench_series")
    return written


def _flush(admin: "psycopg.Connection[Any]", minutes_ago: int, minutes: int) -> int:
    row = admin.execute(
        "SELECT date_trunc('minute', now()) - make_interval(mins => %(ago)s + 60),"
        " date_trunc('minute', now()) - make_interval(mins => %(ago)s + 60 - %(minutes)s + 1)",
        {"ago": minutes_ago, "minutes": minutes},
    ).fetchone()
    assert row is not None
    done = admin.execute(_FLUSH, {"first": row[0], "last": row[1], "minutes": minutes})
    return done.rowcount
