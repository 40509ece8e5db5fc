"""What writing costs when much is stored already: fills the table, then writes into it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import psycopg

from atlas_bench.ingest.direct import FIRST_TENANT_ID
from atlas_bench.ingest.jobs import arrow_job
from atlas_bench.ingest.options import GrowthStep
from atlas_bench.ingest.rig import Rig
from atlas_bench.ingest.runs import BASELINE, Runs
from atlas_bench.medians import ratio
from atlas_bench.progress import say

SPREAD, IN_ONE = "spread", "in_one"
_CONNECTIONS = 2
_ROOT = "entity_values_ts"

# The series of both sides, the platform's and those of the baseline's tenants: one's part of the
# index must not be emptier than the other's.
_SERIES = """
CREATE UNLOGGED TABLE IF NOT EXISTS bench_series AS
WITH entity AS (
    SELECT tenant_id, entity_id, dense_rank() OVER (ORDER BY tenant_id) AS tenant_no,
        row_number() OVER (PARTITION BY tenant_id ORDER BY entity_id) AS entity_no
    FROM entities WHERE tenant_id = ANY (%(tenants)s)
), attribute AS (
    SELECT tenant_id, attribute_id, data_type::text AS data_type,
        row_number() OVER (PARTITION BY tenant_id ORDER BY attribute_id) AS attribute_no
    FROM attributes WHERE tenant_id = ANY (%(tenants)s)
), known AS (
    SELECT * FROM entity JOIN attribute USING (tenant_id) WHERE entity_no %% %(every)s = 0
)
SELECT tenant_id, entity_id, attribute_id, data_type, entity_no, attribute_no FROM known
UNION ALL
SELECT %(before_first)s + tenant_no, entity_no, attribute_no, data_type, entity_no, attribute_no
FROM known
"""
_PARTITION = """
CREATE TABLE IF NOT EXISTS {name} PARTITION OF entity_values_ts
FOR VALUES FROM ('{first} 00:00:00+00') TO ('{next} 00:00:00+00')
"""
_FILL = """
INSERT INTO {name} (tenant_id, entity_id, attribute_id, event_time, ingested_at, quality,
    value_bool, value_int, value_double, value_decimal, value_text, value_time, value_json)
SELECT s.tenant_id, s.entity_id, s.attribute_id, t.at, t.at, 0,
    CASE data_type WHEN 'bool' THEN true END,
    CASE data_type WHEN 'int' THEN 17 END,
    CASE data_type WHEN 'double' THEN 20.5 + s.entity_no END,
    CASE data_type WHEN 'decimal' THEN 1234.567 END,
    CASE data_type WHEN 'text' THEN 'running' END,
    CASE data_type WHEN 'time' THEN t.at END,
    CASE data_type WHEN 'json' THEN '{{"gain": 17, "mode": "auto"}}'::jsonb END
FROM bench_series AS s
CROSS JOIN (SELECT '{first} 00:00:00+00'::timestamptz + make_interval(secs => %(round)s) AS at) AS t
WHERE s.attribute_no %% 2 = %(parity)s
ORDER BY s.tenant_id, s.entity_id, s.attribute_id
"""


def measure(rig: Rig, runs: Runs) -> dict[str, list[dict[str, Any]]]:
    """Measure each step of each curve; returns the curves."""
    options = rig.options
    curves = {SPREAD: options.growth, IN_ONE: options.growth_in_one}
    found: dict[str, list[dict[str, Any]]] = {}
    for curve, steps in curves.items():
        for step in steps:
            say(f"  filling {step.rows:,} rows into {step.partitions} partitions ({curve})")
            fill(rig, step)
            rig.audit.restart()
            for repeat in range(1, options.growth_repeats + 1):
                seconds = options.growth_seconds
                job = replace(arrow_job(options, rig.target), seconds=seconds)
                runs.beside(
                    "growth",
                    repeat,
                    partial(rig.drivers.run, job),
                    seconds=seconds,
                    curve=curve,
                    stored=step.rows,
                )
            rig.audit.check(f"growth to {step.rows:,} rows in {step.partitions} partitions")
            found.setdefault(curve, []).append(_point(runs, curve, step))
    return found


def growth_ratio(points: list[dict[str, Any]] | None, of: str = "rows_per_s") -> float | None:
    """Return a figure at the end of a curve, as a share of the one at its beginning."""
    if not points or len(points) < 2:
        return None
    return ratio(points[-1][of], points[0][of])


def fill(rig: Rig, step: GrowthStep) -> None:
    """Empty the table, and store so many rows in so many partitions, today's among them."""
    rig.settle()
    rig.admin.execute(f"TRUNCATE {_ROOT}")
    series, rows = 2 * rig.options.fleet.series, step.rows // step.partitions
    rounds, every = max(1, rows // series), max(1, series // rows)
    rig.admin.execute("DROP TABLE IF EXISTS bench_series")
    where = {"tenants": rig.tenant_ids, "before_first": FIRST_TENANT_ID - 1, "every": every}
    rig.admin.execute(_SERIES, where)
    rig.admin.execute("ANALYZE bench_series")
    days = [
        str(row[0])
        for row in rig.admin.execute(
            "SELECT (now() AT TIME ZONE 'UTC')::date - n FROM generate_series(0, %s - 1) AS n",
            [step.partitions],
        ).fetchall()
    ]
    dsn = rig.stack.endpoints.primary
    # One after another: two would wait for each other's lock on the root.
    for day in days[1:]:
        _make_partition(rig.admin, day)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        filling = [pool.submit(_fill_partition, dsn, day, rounds) for day in days]
        for each in filling:
            each.result()
    rig.admin.execute("CHECKPOINT")  # Else the first run would write what filled the table.


def _make_partition(admin: "psycopg.Connection[Any]", day: str) -> None:
    name = _name(day)
    next_day = date.fromisoformat(day) + timedelta(days=1)
    admin.execute(_PARTITION.format(name=name, first=day, next=next_day))
    # As the platform makes them; and nobody vacuums it while something is measured.
    admin.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    admin.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    admin.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
    admin.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = false)")


def _fill_partition(dsn: str, day: str, rounds: int) -> None:
    statement = _FILL.format(name=_name(day), first=day)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET work_mem = '256MB'")
        for number in range(rounds):
            # In two passes, so that the pages of the index are as full as arrivals leave them, not
            # as a sorted load does.
            for parity in (0, 1):
                connection.execute(statement, {"parity": parity, "round": number})


def _name(day: str) -> str:
    return f"{_ROOT}_{day.replace('-', '')}"


def _point(runs: Runs, curve: str, step: GrowthStep) -> dict[str, Any]:
    where: dict[str, Any] = {"curve": curve, "stored": step.rows}
    return {
        "stored_rows": step.rows,
        "partitions": step.partitions,
        "rows_per_s": runs.rate("growth", **where),
        "baseline_rows_per_s": runs.rate(f"{BASELINE}_of_growth", **where),
        "ratio": runs.ratio("growth", **where),
    }
