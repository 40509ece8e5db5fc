"""Sorting the warehouse changes where rows lie, and nothing else: not by a kill -9 either."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from atlas_cdc_reconciler.compaction import (
    ROWS_MIN,
    SECOND_US,
    Compacting,
    Compactor,
    Step,
    next_step,
    sorting,
)
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.warehouse_digests import WarehouseDigests
from atlas_cdc_reconciler.windows import Span
from atlas_common.tenant import Tenant

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")
T0_US = 1_767_225_600 * SECOND_US
ROWS, SECONDS = 3 * ROWS_MIN, 30
AGE_SECONDS = 5.0
# Every flush has both tenants in it, all types, and rows that are the same twice.
FILL = """
    INSERT INTO entity_values_ts BY NAME
    SELECT 1 + n % 2 AS tenant_id, (n // 2) % 7 AS attribute_id, (n // 14) % 500 AS entity_id,
        make_timestamptz(($t0 + (n * 7919) % 86400000000)::BIGINT) AS event_time,
        make_timestamptz(($t0 + n * $seconds // $rows * 1000000)::BIGINT) AS ingested_at,
        n % 3 AS quality,
        CASE WHEN (n // 2) % 7 = 0 THEN n END AS value_int,
        CASE WHEN (n // 2) % 7 = 1 THEN n / 8.0 END AS value_double,
        CASE WHEN (n // 2) % 7 = 2 THEN make_timestamptz(n) END AS value_time,
        CASE WHEN (n // 2) % 7 = 3 THEN n % 4 = 0 END AS value_bool,
        CASE WHEN (n // 2) % 7 = 4 THEN (n::DECIMAL(38,18) / 1000)::DECIMAL(38,18) END
            AS value_decimal,
        CASE WHEN (n // 2) % 7 = 5 THEN 'ü' || n END AS value_text,
        CASE WHEN (n // 2) % 7 = 6 THEN '{"n": 1}' END AS value_json
    FROM (SELECT range AS n FROM range($rows) UNION ALL SELECT 5 FROM range(2))
"""
BEAT = "INSERT INTO replication_heartbeat VALUES (1, 1, make_timestamptz($at))"
CHILD = """
import sys
from pathlib import Path
from atlas_cdc_reconciler.compaction import Step, sorting
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.sink.warehouse_file import opened

with opened(WarehouseConfig(path=Path(sys.argv[1]))) as connection:
    connection.execute("BEGIN")
    stop, *step = map(int, sys.argv[2:])
    for number, (sql, parameters) in enumerate(sorting(Step(*step)), 1):
        connection.execute(sql, dict(parameters))
        print("did", flush=True)
        if number == stop:
            sys.stdin.read()
    print("committing", flush=True)
    connection.execute("COMMIT")
    print("committed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def config(tmp_path: Path) -> WarehouseConfig:
    return WarehouseConfig(path=tmp_path / "w.duckdb", memory_limit_mb=256)


@pytest.fixture
async def warehouse(config: WarehouseConfig) -> AsyncIterator[DuckDbWarehouse]:
    async with DuckDbWarehouse.open(config) as warehouse:
        await fill(warehouse)
        yield warehouse


async def fill(warehouse: DuckDbWarehouse, rows: int = ROWS) -> None:
    await warehouse.write(
        [
            (FILL, {"t0": T0_US, "rows": rows, "seconds": SECONDS}),
            (BEAT, {"at": T0_US + (SECONDS + int(AGE_SECONDS)) * SECOND_US}),
        ]
    )


async def query(warehouse: DuckDbWarehouse, sql: str) -> list[tuple[Any, ...]]:
    async with warehouse.reader() as reader:
        return await reader.all(sql)


async def digests(warehouse: DuckDbWarehouse) -> dict[str, dict[int, Digest]]:
    """Of every second of both tenants, as a reconciliation computes them."""
    store, span = WarehouseDigests(warehouse), Span(T0_US, T0_US + 2 * SECONDS * SECOND_US)
    return {tenant.key: await store.digests(tenant, span, SECOND_US) for tenant in (ACME, GLOBEX)}


async def mixed_groups(warehouse: DuckDbWarehouse) -> int:
    """How many row groups have rows of both tenants."""
    rows = await query(
        warehouse,
        "SELECT count(*) FROM pragma_storage_info('entity_values_ts') WHERE segment_type ="
        " 'INTEGER' AND column_name = 'tenant_id' AND stats LIKE '%Min: 1, Max: 2%'",
    )
    count: int = rows[0][0]
    return count


def compactor(warehouse: DuckDbWarehouse, rows_max: int = 2 * ROWS_MIN) -> Compactor:
    return Compactor(warehouse, lambda: 0.0, Compacting(rows_max, 60.0, AGE_SECONDS, rows_max))


@contextmanager
def child(path: Path, step: Step, statements: int = 0) -> Iterator[Iterator[str]]:
    """A process that makes a step, killed when the block ends; gives what it says.

    With `statements` it stops after so many.
    """
    arguments = [str(each) for each in (path, statements, step.start_us, step.stop_us, step.rows)]
    command = [sys.executable, "-c", CHILD, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield map(str.strip, process.stdout)
        process.kill()


async def test_sorting_changes_no_digest_and_separates_tenants(
    warehouse: DuckDbWarehouse,
) -> None:
    before, mixed = await digests(warehouse), await mixed_groups(warehouse)
    assert sum(digest.rows for digest in before["acme"].values()) == ROWS // 2
    first = await compactor(warehouse).step()
    assert first is not None
    assert first.rows >= ROWS_MIN
    assert first.start_us == T0_US
    assert await digests(warehouse) == before
    await warehouse.write([("DELETE FROM cdc_compaction", {})])
    # All of it in one step, so that the boundary between tenants lies in one row group.
    whole = compactor(warehouse, ROWS)
    done = await whole.step()
    assert done is not None
    assert done.rows == ROWS + 2
    assert await digests(warehouse) == before
    assert await mixed_groups(warehouse) <= 1 < mixed


async def test_what_is_sorted_is_not_sorted_again_and_what_is_young_not_at_all(
    warehouse: DuckDbWarehouse,
) -> None:
    compact, ends = compactor(warehouse), []
    while (step := await compact.step()) is not None:
        ends.append((step.start_us, step.stop_us))
    assert ends
    assert all(stop == start for (_, stop), (start, _) in pairwise(ends))
    assert ends[-1][1] <= T0_US + SECONDS * SECOND_US
    async with warehouse.reader() as reader:
        rest = await next_step(reader, ROWS_MIN, 0)
    assert rest is None or rest.start_us == ends[-1][1]  # Too few for a whole step.
    await warehouse.write(
        [
            ("UPDATE replication_heartbeat SET beaten_at = make_timestamptz($at)", {"at": T0_US}),
            ("DELETE FROM cdc_compaction", {}),
        ]
    )
    assert await compact.step() is None


async def test_a_reader_keeps_its_view_while_rows_are_sorted(warehouse: DuckDbWarehouse) -> None:
    count = "SELECT tenant_id, count(*) FROM entity_values_ts GROUP BY tenant_id ORDER BY ALL"
    async with warehouse.reader() as reader:
        before = await reader.all(count)
        assert await compactor(warehouse).step() is not None
        assert await reader.all(count) == before
    assert await query(warehouse, count) == before


async def test_the_space_of_unsorted_rows_is_used_again(
    warehouse: DuckDbWarehouse, config: WarehouseConfig
) -> None:
    sizes = []
    whole = compactor(warehouse, ROWS)
    for _ in range(6):
        await warehouse.write([("DELETE FROM cdc_compaction", {})])
        assert await whole.step() is not None
        sizes.append(config.path.stat().st_size)
    # The whole history was stored six times; the file has room for two or three.
    assert sizes[-1] <= 1.2 * sizes[2], sizes


async def test_a_second_with_very_many_rows_is_passed_over(config: WarehouseConfig) -> None:
    async with DuckDbWarehouse.open(config) as warehouse:
        rows = {"t0": T0_US, "rows": 5 * ROWS_MIN, "seconds": 1}
        await warehouse.write([(FILL, rows), (BEAT, {"at": T0_US + 60 * SECOND_US})])
        before = await digests(warehouse)
        compact = compactor(warehouse, ROWS_MIN)
        step = await compact.step()
        assert step is not None
        assert step.rows == 5 * ROWS_MIN + 2
        assert await compact.step() is None
        assert await digests(warehouse) == before


@pytest.mark.parametrize("count", [1, 2, 3, 6])
async def test_a_kill_in_the_middle_of_a_step_changes_nothing(
    config: WarehouseConfig, count: int
) -> None:
    async with DuckDbWarehouse.open(config) as warehouse:
        await fill(warehouse, ROWS_MIN)
        before = await digests(warehouse)
        async with warehouse.reader() as reader:
            step = await next_step(reader, ROWS_MIN, int(AGE_SECONDS * SECOND_US))
    assert step is not None
    assert count <= len(sorting(step))
    with child(config.path, step, count) as said:
        assert [next(said) for _ in range(count)] == ["did"] * count
    async with DuckDbWarehouse.open(config) as warehouse:
        assert await digests(warehouse) == before
        assert await query(warehouse, "SELECT count(*) FROM cdc_compaction") == [(0,)]
        assert await compactor(warehouse, ROWS_MIN).step() is not None
        assert await digests(warehouse) == before


@pytest.mark.parametrize("words", ["committing", "committed"])
async def test_a_kill_around_the_commit_leaves_all_or_nothing(
    config: WarehouseConfig, words: str
) -> None:
    async with DuckDbWarehouse.open(config) as warehouse:
        await fill(warehouse, ROWS_MIN)
        before = await digests(warehouse)
        async with warehouse.reader() as reader:
            step = await next_step(reader, ROWS_MIN, int(AGE_SECONDS * SECOND_US))
    assert step is not None
    with child(config.path, step) as said:
        assert words in said
    async with DuckDbWarehouse.open(config) as warehouse:
        assert await digests(warehouse) == before
        through = await query(warehouse, "SELECT through_us FROM cdc_compaction")
        assert through in ([], [(step.stop_us,)])
        assert words == "committing" or through


async def test_batches_go_before_sorting(warehouse: DuckDbWarehouse) -> None:
    """While the warehouse is behind, nothing is sorted."""
    lag = iter((60.0, float("inf")))
    looked: list[float] = []

    def behind() -> float:
        looked.append(next(lag, 0.0))
        if len(looked) > 2:
            raise _SeenError
        return looked[-1]

    compact = Compactor(warehouse, behind, Compacting(ROWS_MIN, 0.5, AGE_SECONDS))
    with pytest.raises(_SeenError):
        await compact.run(0.0)
    assert await query(warehouse, "SELECT count(*) FROM cdc_compaction") == [(0,)]


class _SeenError(Exception):
    pass
