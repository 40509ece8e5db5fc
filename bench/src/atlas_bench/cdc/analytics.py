"""The average per entity and hour: asked of the warehouse, and of Postgres' rows.

Each engine is asked where its rows leave it: DuckDB in a process that owns the file as the service
does, with its memory and threads, by the service's own statement; Postgres over its socket, as the
query service's role within the tenant, by COPY, which is the cheapest way out.
"""

import statistics
import time
from typing import Any

import duckdb
import psycopg

from atlas_bench.cdc.rig import ATTRIBUTE, MEASURED, Rig, reading_dsn
from atlas_bench.errors import BenchError
from atlas_bench.progress import say
from atlas_cdc_reconciler.aggregate_sql import AggregateQuery, Function, aggregate_sql
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.sink.warehouse_file import opened

HOUR_US = 3_600_000_000
_ROWS_MAX = 10_000_000
_BATCH_ROWS = 100_000
# The same as the warehouse's, in Postgres' words.
_POSTGRES = """
SELECT entity_id, attribute_id,
    (extract(epoch FROM event_time) * 1000000)::bigint
        - mod((extract(epoch FROM event_time) * 1000000)::bigint, {hour}) AS bucket,
    avg(value_double)
FROM entity_values_ts
WHERE tenant_id = {tenant_id} AND attribute_id IN ({attribute_id})
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_PARTITIONED = """
SELECT entity_id, attribute_id, date_bin('1 hour', event_time, '1970-01-01Z') AS bucket,
    avg(value_double)
FROM entity_values_ts
WHERE tenant_id = {tenant_id} AND attribute_id IN ({attribute_id})
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
WAYS = {"arithmetic": _POSTGRES, "date_bin": _PARTITIONED}
"""Two ways to say hours to Postgres; the faster one counts."""


def measure(rig: Rig) -> list[dict[str, Any]]:
    """Ask in turn, the warehouse's service standing meanwhile. Raises BenchError."""
    tenant_id = rig.tenant_ids[MEASURED]
    row = rig.admin.execute(
        "SELECT attribute_id FROM attributes WHERE tenant_id = %s AND name = %s",
        [tenant_id, ATTRIBUTE],
    ).fetchone()
    assert row is not None
    rig.admin.execute("VACUUM (ANALYZE) entity_values_ts")
    rig.settle()
    rig.stop_reconciler()
    runs: list[dict[str, Any]] = []
    try:
        with (
            opened(WarehouseConfig(path=rig.warehouse)) as warehouse,
            psycopg.connect(reading_dsn(rig), autocommit=True) as postgres,
        ):
            _compare(warehouse, postgres, tenant_id, row[0])
            for repeat in range(1, rig.options.repeats + 1):
                runs += _turn(warehouse, postgres, tenant_id, row[0], repeat)
    finally:
        rig.reconciler.start()
    for kind in ("postgres", "warehouse"):
        seconds = [run["seconds"] for run in runs if run["kind"] == kind]
        say(f"     {kind:<10} {statistics.median(seconds):.3f} s for the averages")
    return runs


def _turn(
    warehouse: duckdb.DuckDBPyConnection,
    postgres: "psycopg.Connection[Any]",
    tenant_id: int,
    attribute_id: int,
    repeat: int,
) -> list[dict[str, Any]]:
    ways = {way: _of_postgres(postgres, tenant_id, attribute_id, way) for way in WAYS}
    seconds, rows = _of_warehouse(warehouse, tenant_id, attribute_id)
    return [
        {
            "kind": "postgres",
            "repeat": repeat,
            "seconds": min(ways.values()),
            "ways_s": ways,
        },
        {"kind": "warehouse", "repeat": repeat, "seconds": seconds, "rows": rows},
    ]


def _of_warehouse(
    warehouse: duckdb.DuckDBPyConnection, tenant_id: int, attribute_id: int
) -> tuple[float, int]:
    sql, parameters = aggregate_sql(_query(tenant_id, attribute_id), ["double"], _ROWS_MAX)
    began = time.perf_counter()
    rows = 0
    for batch in warehouse.execute(sql, parameters).to_arrow_reader(_BATCH_ROWS):
        rows += batch.num_rows
    return round(time.perf_counter() - began, 4), rows


def _of_postgres(
    postgres: "psycopg.Connection[Any]", tenant_id: int, attribute_id: int, way: str
) -> float:
    query = WAYS[way].format(tenant_id=tenant_id, attribute_id=attribute_id, hour=HOUR_US)
    began = time.perf_counter()
    with postgres.transaction(), postgres.cursor() as cursor:
        cursor.execute(f"SET LOCAL atlas.tenant_id = '{tenant_id}'")
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy:
            for _ in copy:
                pass
    return round(time.perf_counter() - began, 4)


def _compare(
    warehouse: duckdb.DuckDBPyConnection,
    postgres: "psycopg.Connection[Any]",
    tenant_id: int,
    attribute_id: int,
) -> None:
    """A fast wrong answer is none: both give the same hours. Also warms both."""
    sql, parameters = aggregate_sql(_query(tenant_id, attribute_id), ["double"], _ROWS_MAX)
    here = {
        (entity, bucket): value
        for entity, _, bucket, _, value in warehouse.execute(sql, parameters).fetchall()
    }
    query = WAYS["arithmetic"].format(tenant_id=tenant_id, attribute_id=attribute_id, hour=HOUR_US)
    with postgres.transaction(), postgres.cursor() as cursor:
        cursor.execute(f"SET LOCAL atlas.tenant_id = '{tenant_id}'")
        cursor.execute(query)
        there = {(entity, bucket): value for entity, _, bucket, value in cursor.fetchall()}
    if here.keys() != there.keys():
        raise BenchError(f"the warehouse has {len(here)} hours, Postgres {len(there)}")
    differing = [at for at, value in here.items() if abs(value - there[at]) > 1e-9 * abs(value)]
    if differing:
        raise BenchError(f"{len(differing)} averages differ, the first at {differing[0]}")


def _query(tenant_id: int, attribute_id: int) -> AggregateQuery:
    return AggregateQuery(
        tenant_id=tenant_id,
        attribute_ids=(attribute_id,),
        entity_ids=(),
        start_us=None,
        end_us=None,
        bucket_us=HOUR_US,
        functions=(Function.AVG,),
        group_by_entity=True,
    )
