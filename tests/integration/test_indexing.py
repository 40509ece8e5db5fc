"""Indexes of cold attributes are built, carried on and dropped online, whoever dies meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common.config import DatabaseConfig
from atlas_common.errors import ServiceError, from_rpc_error
from atlas_devstack.database import Database
from atlas_hotcache.config import IndexingConfig
from atlas_hotcache.indexing.builder import Builder

from .hotcache_rig import ACME, GLOBEX, T0, Rig, start_rig
from .lane_writer import RawPoint
from .partition_rig import make_day
from .projection_rig import meta
from .waiting import eventually

SERIAL = 3
BUILDING, READY = pb.ATTRIBUTE_INDEX_STATE_BUILDING, pb.ATTRIBUTE_INDEX_STATE_READY
DROPPING, FAILED = pb.ATTRIBUTE_INDEX_STATE_DROPPING, pb.ATTRIBUTE_INDEX_STATE_FAILED
INDEXES = """
    SELECT i.relname, x.indisvalid FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE i.relname LIKE 'cold\\_%' AND i.relnamespace = 'atlas'::regnamespace
"""


@dataclass
class Indexing:
    """The service, and the hands of whoever builds."""

    rig: Rig
    own: Database

    def config(self, **fields: Any) -> IndexingConfig:
        return IndexingConfig(
            builder=DatabaseConfig.model_validate({"dsn": self.own.dsn("atlas_indexer")}),
            **{"poll_seconds": 0.02, "wait_seconds_max": 20, "retry_seconds": 0.05, **fields},
        )

    def builder(self, **fields: Any) -> Builder:
        config = self.config(**fields)
        assert config.builder is not None
        return Builder(config.builder, config)

    async def ask(self, name: str = "serial", tenant: str = ACME, **fields: Any) -> Any:
        request = pb.IndexAttributeRequest(attribute=name, **fields)
        return (await self.rig.projection.IndexAttribute(request, metadata=meta(tenant))).index

    async def drop(self, name: str = "serial", tenant: str = ACME) -> Any:
        request = pb.DropAttributeIndexRequest(attribute=name)
        return (await self.rig.projection.DropAttributeIndex(request, metadata=meta(tenant))).index

    async def get(self, name: str = "serial", tenant: str = ACME) -> Any:
        request = pb.GetAttributeIndexRequest(attribute=name)
        return (await self.rig.projection.GetAttributeIndex(request, metadata=meta(tenant))).index

    async def list(self, tenant: str = ACME) -> list[tuple[str, int]]:
        request = pb.ListAttributeIndexesRequest()
        answer = await self.rig.projection.ListAttributeIndexes(request, metadata=meta(tenant))
        return [(index.attribute, index.state) for index in answer.indexes]

    def indexes(self, tenant_id: int = 1) -> dict[str, bool]:
        """Name -> whether it is valid."""
        rows = self.rig.admin.execute(INDEXES).fetchall()
        return {name: valid for name, valid in rows if name.startswith(f"cold_{tenant_id}_")}

    def partition_count(self) -> int:
        row = self.rig.admin.execute(
            "SELECT count(*) FROM partitions_of('entity_values_ts')"
        ).fetchone()
        assert row is not None
        return int(row[0])

    @contextmanager
    def old_transaction(self) -> Iterator[None]:
        """One that has written points: an index that is begun now waits for its end."""
        with psycopg.connect(self.own.admin_dsn) as connection:
            connection.execute(
                "INSERT INTO entity_values_ts (tenant_id, entity_id, attribute_id, event_time,"
                " ingested_at, value_text) VALUES (1, 2, 3, now(), now(), 'old')"
            )
            yield


@pytest.fixture
async def indexing(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Indexing]:
    async with start_rig(fresh_database, tmp_path) as rig:
        yield Indexing(rig, fresh_database)


def serials(*values: str, tenant_id: int = 1) -> list[RawPoint]:
    return [
        RawPoint(tenant_id, n, SERIAL, T0 + timedelta(seconds=n), value, "value_text")
        for n, value in enumerate(values, 1)
    ]


async def refused(call: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_an_index_is_built_carried_to_new_partitions_and_dropped(indexing: Indexing) -> None:
    rig, lane = indexing.rig, indexing.rig.lane()
    lane.write(serials("a", "b") + serials("a", "b", tenant_id=2))
    estimate = await indexing.ask(dry_run=True)
    assert (estimate.state, estimate.partition_count) == (0, indexing.partition_count())
    assert await indexing.list() == []
    begun = await indexing.ask()
    assert (begun.attribute, begun.state) == ("serial", BUILDING)
    assert indexing.indexes() == {}
    assert await indexing.builder().walk()
    ready = await indexing.get()
    assert (ready.state, ready.message) == (READY, "")
    assert ready.partitions_done == ready.partition_count == len(indexing.indexes())
    assert ready.byte_count > 0
    assert len(indexing.indexes()) == indexing.partition_count()
    assert all(indexing.indexes().values())

    made = make_day(rig.admin, 20)
    assert made.replace("entity_values_ts", "cold_1_3") in indexing.indexes()
    assert (await indexing.ask()).state == READY, "asked for again"
    assert indexing.indexes(tenant_id=2) == {}, "nobody asked for globex'"
    assert await indexing.list(GLOBEX) == []

    assert (await indexing.drop()).state == DROPPING
    assert await indexing.builder().walk()
    assert (indexing.indexes(), await indexing.list()) == ({}, [])
    assert (await refused(indexing.drop())).reason == "JOB_UNKNOWN"
    assert (await refused(indexing.get())).reason == "JOB_UNKNOWN"
    make_day(rig.admin, 21)
    assert indexing.indexes() == {}


async def test_writers_go_on_while_an_index_is_built_and_dropped(indexing: Indexing) -> None:
    lane = indexing.rig.lane()
    for ask, state in ((indexing.ask, READY), (indexing.drop, None)):
        await ask()
        with indexing.old_transaction():
            building = asyncio.create_task(indexing.builder().walk())
            await eventually(lambda: waits_for_transactions(indexing))
            # Were its lock in their way, these would run into the lane's lock_timeout.
            lane.connection.execute("SET lock_timeout = '2s'")
            for _ in range(3):
                assert lane.write(serials("x") + serials("y", tenant_id=2)).point_count == 2
            assert not building.done()
        assert await building
        assert await indexing.list() == ([("serial", state)] if state else [])
        assert set(indexing.indexes().values()) <= {True}


def waits_for_transactions(indexing: Indexing) -> bool:
    """Whether an indexer's statement waits for a transaction to end."""
    row = indexing.rig.admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'atlas indexer'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return row is not None and row[0] > 0


async def test_a_build_that_is_killed_goes_on(indexing: Indexing) -> None:
    await indexing.ask()
    with indexing.old_transaction():
        process = start_process(indexing.own.dsn("atlas_indexer"))
        try:
            await eventually(lambda: waits_for_transactions(indexing))
            assert False in indexing.indexes().values()
            assert (await indexing.get()).message.startswith("creates cold_1_3_")
            # While it lives, nobody else builds.
            assert not await indexing.builder().walk()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        # The server notices, and ends the session; half an index is left.
        await eventually(lambda: not waits_for_transactions(indexing))
        assert False in indexing.indexes().values()
    await eventually(lambda: indexing.builder().walk())
    await eventually(lambda: is_built(indexing))


def start_process(dsn: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "ATLAS_INDEXING__BUILDER__DSN": dsn}
    return subprocess.Popen(
        [sys.executable, "-m", "atlas_hotcache.indexing"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def is_built(indexing: Indexing) -> bool:
    await indexing.builder().walk()
    return (
        await indexing.list() == [("serial", READY)]
        and list(indexing.indexes().values()) == [True] * indexing.partition_count()
    )


async def test_what_waits_too_long_is_put_off_and_can_be_dropped(indexing: Indexing) -> None:
    await indexing.ask()
    with indexing.old_transaction():
        await indexing.builder(wait_seconds_max=0.2, retry_seconds=60).walk()
        index = await indexing.get()
        assert index.state == BUILDING
        assert "tries again: canceling statement due to lock timeout" in index.message
        await indexing.drop()
    await eventually(lambda: gone(indexing))


async def gone(indexing: Indexing) -> bool:
    await indexing.builder().walk()
    return indexing.indexes() == {} and await indexing.list() == []


async def test_what_fails_again_and_again_is_given_up_until_it_is_asked_for(
    indexing: Indexing,
) -> None:
    await indexing.ask()
    admin = indexing.rig.admin
    # Somebody has taken the name: no statement of ours can succeed.
    taken = f"cold_1_{SERIAL}_default"
    admin.execute(f"CREATE TABLE {taken} (x integer)")
    builder = indexing.builder(retry_seconds=0.001)
    async with asyncio.timeout(20):
        while (await indexing.get()).state != FAILED:
            await builder.walk()
    assert "gave up" in (await indexing.get()).message
    before = indexing.indexes()
    await indexing.builder().walk()
    assert indexing.indexes() == before, "left alone"
    admin.execute(f"DROP TABLE {taken}")
    assert (await indexing.ask()).state == BUILDING
    await eventually(lambda: is_built(indexing))


async def test_a_partition_made_while_an_index_is_finished_is_not_missed(
    indexing: Indexing,
) -> None:
    maker = indexing.rig.connect("admin")
    with maker.transaction():
        # Who makes a partition has read which indexes there are to be: none.
        maker.execute("SELECT index_new_partition('entity_values_ts_late')")
        await indexing.ask()
        count = indexing.partition_count()
        building = asyncio.create_task(indexing.builder().walk())
        await eventually(lambda: list(indexing.indexes().values()) == [True] * count)
        await eventually(lambda: waits_for_transactions(indexing))
        assert (await indexing.get()).state == BUILDING
        maker.execute("CREATE TABLE entity_values_ts_late (LIKE entity_values_ts INCLUDING ALL)")
        maker.execute("ALTER TABLE entity_values_ts_late OWNER TO atlas_owner")
        maker.execute(
            "ALTER TABLE entity_values_ts ATTACH PARTITION entity_values_ts_late"
            " FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
        )
    await building
    await eventually(lambda: is_built(indexing))
    assert indexing.indexes()["cold_1_3_late"]
    assert indexing.partition_count() == count + 1


async def test_bounds_and_refusals(indexing: Indexing) -> None:
    admin = indexing.rig.admin
    for tenant_id in (1, 2):
        admin.execute(
            "INSERT INTO attributes (tenant_id, attribute_id, name, data_type)"
            " SELECT %s, n, 'cold-' || n, 'int' FROM generate_series(11, 14) AS n",
            [tenant_id],
        )
    assert (await refused(indexing.ask("pressure"))).field == "attribute"
    unknown = await refused(indexing.ask("nope"))
    assert (unknown.reason, unknown.field) == ("ATTRIBUTE_UNKNOWN", "attribute")
    assert (await refused(indexing.ask(""))).field == "attribute"
    for n in range(11, 15):
        await indexing.ask(f"cold-{n}")
    full = await refused(indexing.ask("serial"))
    assert (full.reason, full.metadata["indexes_max"]) == ("BATCH_TOO_LARGE", "4")
    assert "drop one" in full.message
    assert (await indexing.ask("serial", tenant=GLOBEX)).state == BUILDING, "of its own"
    assert (await refused(indexing.get("cold-11", tenant=GLOBEX))).reason == "JOB_UNKNOWN"
    assert (await refused(indexing.drop("cold-11", tenant=GLOBEX))).reason == "JOB_UNKNOWN"
    # The database counts all tenants' itself.
    hotcache = indexing.rig.connect("atlas_hotcache")
    with hotcache.transaction():
        hotcache.execute("SET LOCAL atlas.tenant_id = 2")
        row = hotcache.execute("SELECT start_attribute_index(2, 11, 4, 5)").fetchone()
    assert row == ("full",)


async def test_the_indexer_builds_and_that_is_all(indexing: Indexing) -> None:
    indexer = indexing.rig.connect("atlas_indexer")
    for statement in (
        "SELECT * FROM entity_values_ts",
        "SELECT * FROM attribute_indexes",
        "CREATE INDEX mine ON entity_values_ts_default (value_int)",
        "DROP TABLE entities",
        "SELECT start_attribute_index(1, 3, 4, 16)",
        "SET ROLE atlas_flusher",
        "SET ROLE atlas_finder",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            indexer.execute(statement)
    await indexing.ask()
    await indexing.ask(tenant=GLOBEX)
    assert len(indexer.execute("SELECT * FROM attribute_index_steps()").fetchall()) > 2
    for role in ("atlas_hotcache", "atlas_query", "atlas_ingest", "atlas_reconciler"):
        service = indexing.rig.connect(role)
        for statement in (
            "SELECT * FROM attribute_index_steps()",
            "SELECT finish_attribute_index(1, 3)",
            "UPDATE attribute_indexes SET state = 'ready'",
            "SET ROLE atlas_indexer",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)
    with indexer.transaction(force_rollback=True):
        indexer.execute("SET LOCAL atlas.tenant_id = 2")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            indexer.execute("SELECT finish_attribute_index(1, 3)")
