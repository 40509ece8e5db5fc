"""Reads of the warehouse: one snapshot each, bounded, ended when nobody waits any more."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from atlas_cdc_reconciler.aggregate import Aggregator, Bounds, Demand
from atlas_cdc_reconciler.aggregate_sql import AggregateQuery, Function
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.positions import LaneProgress
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_common.errors import FatalError, ServiceError
from atlas_common.token import Position

ENDLESS = "SELECT count(*) FROM range(10_000_000_000) AS a, range(1000) AS b WHERE a.range % 7 = 3"
HUGE = "SELECT list(range || 'x') FROM range(50_000_000)"


@pytest.fixture
async def warehouse(tmp_path: Path) -> AsyncIterator[DuckDbWarehouse]:
    config = WarehouseConfig(
        path=tmp_path / "w.duckdb", memory_limit_mb=64, concurrent_reads_max=2, waiting_reads_max=1
    )
    async with DuckDbWarehouse.open(config) as warehouse:
        yield warehouse


async def test_a_deadline_interrupts_the_query(warehouse: DuckDbWarehouse) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), warehouse.reader() as reader:
            await reader.all(ENDLESS)
    assert time.monotonic() - started < 10
    async with warehouse.reader() as reader:
        assert await reader.all("SELECT 1") == [(1,)]


async def test_a_reader_sees_one_state(warehouse: DuckDbWarehouse) -> None:
    insert = "INSERT INTO flush_positions VALUES (1, 1, 1, current_timestamp)"
    async with warehouse.reader() as reader:
        assert await reader.all("SELECT count(*) FROM flush_positions") == [(0,)]
        await warehouse.write([(insert, {})])
        assert await reader.all("SELECT count(*) FROM flush_positions") == [(0,)]
    async with warehouse.reader() as reader:
        assert await reader.all("SELECT count(*) FROM flush_positions") == [(1,)]


async def test_readers_cannot_write_nor_reach_files(warehouse: DuckDbWarehouse) -> None:
    for statement in ("DELETE FROM tenants", "SELECT * FROM read_text('/etc/hostname')"):
        async with warehouse.reader() as reader:
            with pytest.raises(Exception, match=r"(?i)read-only|disabled"):
                await reader.all(statement)


async def test_too_many_readers_are_turned_away(warehouse: DuckDbWarehouse) -> None:
    async with warehouse.reader(), warehouse.reader():
        waiting = asyncio.create_task(warehouse.reader().__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(ServiceError) as refused:
            async with warehouse.reader():
                pass
        assert refused.value.reason == "OVERLOADED"
        waiting.cancel()
        await asyncio.wait({waiting})
    async with warehouse.reader() as reader:
        assert await reader.all("SELECT 1") == [(1,)]


async def test_a_query_beyond_the_memory_is_refused(warehouse: DuckDbWarehouse) -> None:
    async with warehouse.reader() as reader:
        with pytest.raises(ServiceError) as refused:
            await reader.all(HUGE)
    assert refused.value.reason == "OVERLOADED"


async def test_a_warehouse_without_its_first_copy_answers_nothing(
    warehouse: DuckDbWarehouse,
) -> None:
    aggregator = Aggregator(warehouse, Progress(), Bounds(rows_max=10))
    query = AggregateQuery(1, (1,), (), None, None, 0, (Function.COUNT,), group_by_entity=False)
    with pytest.raises(ServiceError, match="no first copy") as refused:
        async with aggregator.answer(query, Demand(wait_seconds=0.05)):
            pass
    assert refused.value.reason == "FRESHNESS_UNMET"


async def test_an_answer_with_too_many_rows_is_refused(warehouse: DuckDbWarehouse) -> None:
    await warehouse.write(
        [
            ("INSERT INTO replication_heartbeat VALUES (1, 1, current_timestamp)", {}),
            (
                "INSERT INTO entity_values_ts BY NAME SELECT 1 AS tenant_id, 1 AS attribute_id,"
                " range AS entity_id, current_timestamp AS event_time,"
                " current_timestamp AS ingested_at, 0 AS quality, 1.0 AS value_double"
                " FROM range(11)",
                {},
            ),
        ]
    )
    aggregator = Aggregator(warehouse, Progress(), Bounds(rows_max=10))
    query = AggregateQuery(1, (1,), (), None, None, 0, (Function.COUNT,), group_by_entity=True)
    with pytest.raises(ServiceError, match="more than 10 rows"):
        async with aggregator.answer(query, Demand()) as answer:
            _ = [rows async for rows in answer.pieces]
    few = replace(query, entity_ids=(1, 2))
    async with aggregator.answer(few, Demand()) as answer:
        assert [rows async for rows in answer.pieces] == [
            [(1, 1, None, None, 1.0), (2, 1, None, None, 1.0)]
        ]
    async with aggregator.answer(replace(few, tenant_id=2), Demand()) as answer:
        assert [rows async for rows in answer.pieces] == []


async def test_an_aggregate_has_its_time_and_its_points(warehouse: DuckDbWarehouse) -> None:
    await warehouse.write(
        [
            ("INSERT INTO replication_heartbeat VALUES (1, 1, current_timestamp)", {}),
            (
                "INSERT INTO entity_values_ts BY NAME SELECT 1 + range % 2 AS tenant_id,"
                " 1 AS attribute_id, range AS entity_id, current_timestamp AS event_time,"
                " current_timestamp AS ingested_at, 0 AS quality, 1.0 AS value_double"
                " FROM range(22)",
                {},
            ),
        ]
    )
    query = AggregateQuery(1, (1,), (), None, None, 0, (), group_by_entity=True, percentiles=(50,))
    few = Aggregator(warehouse, Progress(), Bounds(rows_max=100, percentile_points_max=10))
    with pytest.raises(ServiceError, match="percentiles of 11 points") as refused:
        async with few.answer(query, Demand()):
            pass
    assert (refused.value.reason, refused.value.field) == ("OVERLOADED", "percentiles")


async def test_what_takes_too_long_is_ended(warehouse: DuckDbWarehouse) -> None:
    async with warehouse.reader() as reader:
        reader.limit(0.2)
        with pytest.raises(ServiceError) as late:
            await reader.all(ENDLESS)
        assert (late.value.code, late.value.reason) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
        )
    async with warehouse.reader() as reader:
        assert await reader.all("SELECT 1") == [(1,)]


async def test_many_that_wait_for_a_token_keep_nobody_from_reading(
    warehouse: DuckDbWarehouse,
) -> None:
    beat = "INSERT INTO replication_heartbeat VALUES (1, 1, current_timestamp)"
    lane = "INSERT INTO flush_positions VALUES (3, 1, 5, current_timestamp)"
    await warehouse.write([(beat, {}), (lane, {})])
    progress = Progress()
    aggregator = Aggregator(warehouse, progress, Bounds(rows_max=10))
    query = AggregateQuery(2, (1,), (), None, None, 0, (Function.COUNT,), group_by_entity=False)
    demand = Demand((Position(3, 1, 6),), wait_seconds=30.0)

    async def ask() -> LaneProgress:
        async with aggregator.answer(query, demand) as answer:
            return answer.served.lanes

    # Two may read and one may wait to read: fifty wait for what is to come.
    asked = [asyncio.create_task(ask()) for _ in range(50)]
    for _ in range(20):
        await progress.move(reason="")
        async with warehouse.reader() as reader:
            assert await reader.all("SELECT 1") == [(1,)]
    assert not any(task.done() for task in asked)
    await warehouse.write([("UPDATE flush_positions SET sequence = 6", {})])
    await progress.move(reason="")
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert any(isinstance(lanes, LaneProgress) for lanes in done)
    # That all of them read at once is another matter: some may be told to come again.
    others = [each for each in done if not isinstance(each, LaneProgress)]
    assert {getattr(each, "reason", each) for each in others} <= {"OVERLOADED"}
    late = Demand((Position(3, 1, 7),), wait_seconds=0.05)
    with pytest.raises(ServiceError) as unmet:
        async with aggregator.answer(query, late):
            pass
    assert (unmet.value.reason, unmet.value.metadata["lane"]) == ("FRESHNESS_UNMET", "3")


async def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    config = WarehouseConfig(path=tmp_path / "new.duckdb")
    async with DuckDbWarehouse.open(config) as warehouse:
        await warehouse.write([("UPDATE cdc_schema SET version = 99", {})])
    with pytest.raises(FatalError, match="schema 99"):
        async with DuckDbWarehouse.open(config):
            pass
