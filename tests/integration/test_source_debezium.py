"""Debezium's topic when something goes wrong: the engine, the broker, the topic itself."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from confluent_kafka import Producer
from psycopg.conninfo import conninfo_to_dict

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_cdc_reconciler.lifecycle import Actor, OrderKind
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.progress import Phase
from atlas_cdc_reconciler.scope import Scope
from atlas_cdc_reconciler.source import SourceLostError, SourcePosition
from atlas_cdc_reconciler.source.kafka import check_reaches
from atlas_cdc_reconciler.source.kafka_topic import KafkaTopic, TopicBounds
from atlas_common.errors import ServiceError
from atlas_devstack.authority import Authority
from atlas_devstack.database import Database, another
from atlas_devstack.debezium import Debezium
from atlas_devstack.dsn import with_words
from atlas_devstack.kafka import Kafka, KafkaSite
from atlas_devstack.ports import free_port
from atlas_devstack.proxy import FaultProxy
from atlas_devstack.tls_front import TlsFront
from atlas_devstack.waiting import Patience, wait_until

from .conftest import make_two_tenants
from .reconciler_rig import ACME, GLOBEX, Rig, Running, points
from .source_topic import (
    Message,
    Origin,
    capturing,
    end_of,
    messages_of,
    publish,
    reading,
    topic_name,
)

# A JVM has to start, on two cores that other tests use too.
pytestmark = pytest.mark.timeout(300)
TENANTS = (ACME, GLOBEX)
ENDS = b'"status":"END"'


@pytest.fixture(scope="module")
def engine_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engine keeps its configuration, its offsets and its log."""
    return tmp_path_factory.mktemp("dbz")


@pytest.fixture(scope="module")
def origin(database: Database, kafka: Kafka, engine_directory: Path) -> Iterator[Origin]:
    """With an engine that reaches its database by verified TLS alone."""
    authority = Authority(engine_directory / "pki")
    port = int(conninfo_to_dict(database.admin_dsn)["port"] or 0)
    words = {"sslmode": "verify-full", "sslrootcert": str(authority.ca_file)}
    with (
        another(database) as own,
        _with_a_lane(own),
        TlsFront.listen(port, authority.issue("localhost"), asks_first=True) as front,
        capturing(
            replace(
                own,
                admin_dsn=with_words(
                    own.admin_dsn, words | {"host": "localhost", "port": str(front.port)}
                ),
            ),
            kafka,
            engine_directory,
        ) as engine,
    ):
        yield Origin(own, engine, ())
        assert front.taken > 0


@contextmanager
def _with_a_lane(database: Database) -> Iterator[None]:
    """As a platform is that has no catalog yet: the first of the captured tables is empty."""
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute("INSERT INTO lane_epochs VALUES (255, 1, 1, now())")
        admin.execute("INSERT INTO flush_positions VALUES (255, 1, 0, now())")
    yield


@pytest.fixture(scope="module")
def recording(origin: Origin) -> list[Message]:
    """What the engine wrote of a first snapshot and of 10 rows of each tenant."""
    with psycopg.connect(origin.database.admin_dsn, autocommit=True) as admin:
        make_two_tenants(admin)
        write(Rig(origin.database, admin, Path()))
    messages: list[Message] = []

    def is_whole() -> bool:
        messages[:] = messages_of(origin.bootstrap_servers, origin.topic)
        ends = [at for at, (_, value) in enumerate(messages) if value and ENDS in value]
        del messages[ends[-1] + 1 if ends else 0 :]  # Heartbeats.
        return sum(b'"table":"entity_values_ts"' in (value or b"") for _, value in messages) == 20

    wait_until(is_whole, "the engine writes", patience=Patience(60))
    return messages


def test_a_change_is_keyed_by_the_tenant_it_is_of(recording: Sequence[Message]) -> None:
    """But for the history's, which have no key: the topic is one, in the order of commits."""
    seen = set()
    for key, value in recording:
        change = json.loads(value or b"{}")
        row = change.get("after") or change.get("before") or {}
        if "tenant_id" in row and change["source"]["table"] != "entity_values_ts":
            assert json.loads(key or b"{}")["tenant_id"] == row["tenant_id"], change["source"]
            seen.add((change["source"]["table"], row["tenant_id"]))
    assert {("entities", tenant.id) for tenant in TENANTS} <= seen


def test_the_engine_keeps_its_password(
    origin: Origin, recording: list[Message], engine_directory: Path
) -> None:
    """To the file that it has it from, which nobody else may read."""
    password = str(conninfo_to_dict(origin.database.admin_dsn)["password"]).encode()
    files = [file for file in engine_directory.rglob("*") if file.is_file()]
    having = [
        (file.name, file.stat().st_mode & 0o077) for file in files if password in file.read_bytes()
    ]
    assert having == [("debezium-config.json", 0)]
    assert (engine_directory / "debezium.log").stat().st_size > 0
    assert recording
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It is gone.
            assert password not in (process / "cmdline").read_bytes()


@pytest.fixture
def rig(origin: Origin, tmp_path: Path) -> Iterator[Rig]:
    with psycopg.connect(origin.database.admin_dsn, autocommit=True) as admin:
        origin.clear(admin)
        make_two_tenants(admin)
        rig = Rig(origin.database, admin, tmp_path / "warehouse.duckdb")
        rig.kafka = reading(origin.bootstrap_servers, origin.topic)
        rig.slot = rig.slot.model_copy(update={"on_lost": "stop"})
        yield rig


@pytest.fixture
def engine(origin: Origin) -> Debezium:
    assert origin.engine is not None
    return origin.engine


class Copy:
    """A topic with recorded messages, and a rig that reads it."""

    def __init__(self, rig: Rig, broker: Kafka, messages: Sequence[Message]) -> None:
        self.name = topic_name()
        self.broker = broker
        rig.kafka = reading(broker.bootstrap_servers, self.name)
        broker.create_topic(self.name)
        self.publish(messages)

    def publish(self, messages: Sequence[Message]) -> None:
        """Append more."""
        publish(self.broker.bootstrap_servers, self.name, messages)


def write(rig: Rig, rows: int = 10) -> None:
    """Rows of both tenants, in a transaction each."""
    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id, rows))


@asynccontextmanager
async def read_up(rig: Rig) -> AsyncIterator[Running]:
    """A pipeline that is where its topic ends."""
    async with rig.running() as running:
        await running.until(lambda standing: standing.phase is Phase.STREAMING)
        yield running


async def row_count(running: Running) -> int:
    ((count,),) = await running.query("SELECT count(*) FROM entity_values_ts")
    return int(count)


async def until_rows(running: Running, count: int) -> None:
    """Wait until the history has so many rows."""
    async with asyncio.timeout(100):  # An engine may have to start anew.
        version = running.progress.now.version
        while await row_count(running) != count:
            version = (await running.progress.after(version)).version


async def stopped(running: Running) -> str:
    """Why the pipeline stands still."""
    return (await running.until(lambda standing: standing.phase is Phase.STOPPED)).reason


async def test_a_broker_that_is_down_or_hangs_is_waited_for(
    rig: Rig, recording: list[Message], tmp_path: Path
) -> None:
    half = len(recording) // 2
    port = free_port(set())
    async with FaultProxy.listen(port) as proxy:
        site = KafkaSite(tmp_path, tmp_path, tmp_path, port, advertised_port=proxy.port)
        broker = Kafka(site, Patience())
        await asyncio.to_thread(broker.start)
        try:
            copy = await asyncio.to_thread(Copy, rig, broker, recording[:half])
            async with read_up(rig) as running:
                assert await row_count(running) < 20
                proxy.refuse()
                await running.until(lambda standing: "cannot be read" in standing.reason)
                proxy.resume()
                await running.until(lambda standing: standing.reason == "")
                broker.pause()
                publishing = asyncio.create_task(asyncio.to_thread(copy.publish, recording[half:]))
                broker.resume()
                await publishing
                await until_rows(running, 20)
                assert (await running.counts()).applied == 20
        finally:
            await asyncio.to_thread(broker.stop)


async def test_all_of_a_topic_again_changes_nothing(
    rig: Rig, kafka: Kafka, recording: list[Message]
) -> None:
    copy = Copy(rig, kafka, recording)
    async with read_up(rig) as running:
        await until_rows(running, 20)
        copy.publish(recording)
        async with asyncio.timeout(30):
            while (await running.counts()).skipped < 20:
                await running.progress.after(running.progress.now.version)
        counts = await running.counts()
        assert (counts.read, counts.applied, counts.skipped) == (40, 20, 20)
        assert await row_count(running) == 20
        entities = await running.query("SELECT count(*) FROM entities")
        assert entities == [(6,)]


async def test_a_topic_made_anew_under_its_name_stops_the_pipeline(
    rig: Rig, kafka: Kafka, recording: list[Message]
) -> None:
    copy = Copy(rig, kafka, recording)
    async with read_up(rig):
        pass
    kafka.delete_topic(copy.name)
    kafka.create_topic(copy.name)
    copy.publish(recording * 2)
    async with rig.running() as running:
        reason = await stopped(running)
    assert "was made anew" in reason
    assert "recover the pipeline" in reason


async def test_changes_that_are_not_in_the_topic_stop_the_pipeline(
    rig: Rig, kafka: Kafka, recording: list[Message]
) -> None:
    ends = [at for at, (_, value) in enumerate(recording) if value and ENDS in value]
    Copy(rig, kafka, recording[: ends[-3] + 1] + recording[ends[-2] + 1 :])
    async with rig.running() as running:
        reason = await stopped(running)
        assert await row_count(running) == 0
    assert "has nothing of what was committed between" in reason


async def test_a_topic_of_several_partitions_is_refused(rig: Rig, kafka: Kafka) -> None:
    topic = topic_name()
    kafka.create_topic(topic, partitions=2)
    rig.kafka = reading(kafka.bootstrap_servers, topic)
    async with rig.running() as running:
        reason = await stopped(running)
    assert "has 2 partitions" in reason


async def test_a_topic_that_is_not_there_yet_is_waited_for(
    rig: Rig, kafka: Kafka, recording: list[Message]
) -> None:
    topic = topic_name()
    rig.kafka = reading(kafka.bootstrap_servers, topic)
    async with rig.running() as running:
        await running.until(lambda standing: "cannot be read" in standing.reason)
        kafka.create_topic(topic)
        publish(kafka.bootstrap_servers, topic, recording)
        await until_rows(running, 20)


async def test_what_is_no_event_stops_the_pipeline_and_says_where(
    rig: Rig, kafka: Kafka, recording: list[Message]
) -> None:
    Copy(rig, kafka, [*recording, (None, b"hello")])
    async with rig.running() as running:
        reason = await stopped(running)
    assert f"cannot be read at offset {len(recording)}" in reason


async def test_what_an_engine_that_begins_anew_has_lost_is_made_good(
    rig: Rig, origin: Origin, kafka: Kafka, tmp_path: Path
) -> None:
    with capturing(origin.database, kafka, tmp_path) as engine:
        rig.kafka = reading(kafka.bootstrap_servers, engine.capture.topic)
        write(rig)
        async with rig.running() as running:
            await running.caught_up()
            engine.stop()
            write(rig, 5)  # Nobody captures these: the slot is about to go.
            rig.admin.execute(
                "DELETE FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 1.5"
            )
            engine.forget()
            engine.start()
            reason = await stopped(running)
        assert "began anew" in reason
        assert "atlas pipeline recover" in reason
        rig.slot = rig.slot.model_copy(update={"on_lost": "recover"})
        async with rig.running() as running:
            write(rig, 3)
            await running.caught_up()
            await running.assert_equal(rig)
            assert (await running.counts()).dead_lettered == 0
        # A warehouse that begins now takes the newer snapshot.
        rig.path = rig.path.with_name("another.duckdb")
        async with rig.running() as running:
            await running.caught_up()
            await running.assert_equal(rig)


async def test_people_pause_and_recover_a_pipeline_that_reads_a_topic(
    rig: Rig, origin: Origin
) -> None:
    actor = Actor("tester", "because")
    async with rig.running() as running:
        order = running.upkeep.lifecycle.order
        await running.caught_up()
        await order(OrderKind.PAUSE, actor)
        await running.until(lambda standing: standing.phase is Phase.PAUSED)
        write(rig)
        assert await row_count(running) == 0
        await order(OrderKind.RESUME, actor)
        await running.caught_up()
        await running.assert_equal(rig)
        # Behind the pipeline's back.
        await running.warehouse.write([("DELETE FROM entity_values_ts WHERE tenant_id = 2", {})])
        with pytest.raises(ServiceError, match="no backfill of a part"):
            await order(OrderKind.BACKFILL, actor, Scope())
        await running.until(lambda standing: standing.phase is Phase.STREAMING)
        await order(OrderKind.RECOVER, actor)
        await until_rows(running, 20)
        write(rig, 3)
        await running.caught_up()
        await running.assert_equal(rig)


async def test_a_first_copy_by_comparing_needs_no_snapshot_in_the_topic(
    rig: Rig, origin: Origin
) -> None:
    write(rig)
    rig.kafka = reading(origin.bootstrap_servers, origin.topic, first_copy="database")
    stop = threading.Event()

    def write_on() -> None:
        while not stop.is_set():
            write(rig, 2)

    writing = threading.Thread(target=write_on)
    writing.start()
    try:
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            applied = (await running.counts()).applied
            async with asyncio.timeout(60):
                while (await running.counts()).applied <= applied:
                    await running.progress.after(running.progress.now.version)
            stop.set()
            await asyncio.to_thread(writing.join)
            await running.caught_up()
            await running.assert_equal(rig)
    finally:
        stop.set()
        await asyncio.to_thread(writing.join)


async def test_an_engine_killed_in_a_transaction_loses_and_doubles_nothing(
    rig: Rig, origin: Origin, engine: Debezium
) -> None:
    async with rig.running() as running:
        await running.caught_up()
        with rig.admin.transaction():
            rig.admin.execute(
                "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
                " ingested_at, value_int) SELECT 1 + i %% 2, 7, 1, now(), now(), i"
                " FROM generate_series(1, %s) AS i",
                [6_000],
            )
            rig.admin.execute("UPDATE entities SET entity_id = entity_id + 100")
        for _ in range(2):
            begun = end_of(origin.bootstrap_servers, origin.topic)
            wait_until(
                lambda begun=begun: (  # type: ignore[misc]
                    end_of(origin.bootstrap_servers, origin.topic) > begun + 500
                ),
                "the engine writes",
                patience=Patience(60),
            )
            engine.kill()
            engine.start()
        await until_rows(running, 6_000)
        await running.caught_up()
        await running.assert_equal(rig)
        counts = await running.counts()
    assert counts.dead_lettered == 0


def test_the_service_reads_a_topic_and_comes_through_kills(rig: Rig, origin: Origin) -> None:
    dsn = rig.server.dsn("atlas_reconciler")
    port_file = rig.path.with_name("port")
    environment = {
        "ATLAS_TOKEN__KEYS": '{"1": "MDEyMzQ1Njc4OWFiY2RlZg=="}',
        "ATLAS_TOKEN__ACTIVE_KEY": "1",
        "ATLAS_IDENTITY__MODE": "insecure",
        "ATLAS_PRIMARY__DSN": dsn,
        "ATLAS_DIRECT__DSN": dsn,
        "ATLAS_WAREHOUSE__PATH": str(rig.path),
        "ATLAS_RPC__PORT_FILE": str(port_file),
        "ATLAS_SOURCE__KIND": "kafka",
        "ATLAS_KAFKA__BOOTSTRAP_SERVERS": origin.bootstrap_servers,
        "ATLAS_KAFKA__TOPIC": origin.topic,
    }
    for round_number in range(1, 3):
        port_file.unlink(missing_ok=True)
        service = subprocess.Popen(
            [sys.executable, "-m", "atlas_cdc_reconciler"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(port_file.exists, "the service serves", patience=Patience(60))
            with grpc.insecure_channel(port_file.read_text().strip()) as channel:
                stub = reconciler_service_pb2_grpc.ReconcilerServiceStub(channel)
                write(rig)

                def has_all(stub: Any = stub, rows: int = 20 * round_number) -> bool:
                    status = stub.GetPipelineStatus(pb.GetPipelineStatusRequest(), timeout=10)
                    assert status.phase != "stopped", status.reason
                    return bool(status.phase == "streaming" and status.warehouse_rows == rows)

                wait_until(has_all, "the warehouse has all", patience=Patience(60))
                for tenant in TENANTS:
                    *_, last = stub.Reconcile(
                        pb.ReconcileRequest(),
                        metadata=(("x-atlas-tenant", tenant.key),),
                        timeout=60,
                    )
                    assert last.summary.source == last.summary.warehouse
                    assert last.summary.warehouse.row_count == 10 * round_number
        finally:
            service.kill()
            service.wait()


def test_kind_kafka_without_a_topic_is_refused(rig: Rig) -> None:
    dsn = rig.server.dsn("atlas_reconciler")
    refused = subprocess.run(
        [sys.executable, "-m", "atlas_cdc_reconciler", "--check-config"],
        env={
            "ATLAS_TOKEN__KEYS": '{"1": "MDEyMzQ1Njc4OWFiY2RlZg=="}',
            "ATLAS_TOKEN__ACTIVE_KEY": "1",
            "ATLAS_PRIMARY__DSN": dsn,
            "ATLAS_DIRECT__DSN": dsn,
            "ATLAS_WAREHOUSE__PATH": str(rig.path),
            "ATLAS_SOURCE__KIND": "kafka",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert "kafka.bootstrap_servers and kafka.topic belong to it" in refused.stderr


async def read_on(reader: KafkaTopic) -> None:
    async with asyncio.timeout(30):
        while True:
            await reader.read(0.1)


async def test_an_offset_that_the_broker_does_not_have_is_a_loss() -> None:
    # librdkafka's own broker: unlike the other it refuses offsets that a topic does not have.
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    address, topic = f"{broker.host}:{broker.port}", topic_name()
    publish(address, topic, [(None, b"{}")])
    async with KafkaTopic.open(reading(address, topic)) as reader:
        await reader.seek(1_000)
        with pytest.raises(SourceLostError, match="is not in the topic"):
            await read_on(reader)
    cluster.purge()  # It lives as long as this client of it.


def test_a_topic_whose_retention_passed_the_warehouse_is_a_loss() -> None:
    bounds = TopicBounds("cluster/topic/id", oldest=50, end=90)
    position = SourcePosition("cluster/topic/id", LogPosition(50, Lsn(7)))
    check_reaches(bounds, position)
    with pytest.raises(SourceLostError, match="begins at offset 51, the warehouse stands at 50"):
        check_reaches(replace(bounds, oldest=51), position)
    with pytest.raises(SourceLostError, match="was made anew"):
        check_reaches(replace(bounds, source_id="cluster/topic/other"), position)
