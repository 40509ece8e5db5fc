"""Replicas join and leave while the service runs: by its file, and by a name in DNS."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas.type.v1 import consistency_pb2
from atlas_devstack.credentials import Credentials
from atlas_devstack.dsn import whoever_writes
from atlas_devstack.platform import ROLES, SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.services import Service, Wiring
from atlas_devstack.waiting import Patience, wait_until

from .query_reading import (
    ACME,
    FAIL,
    GLOBEX,
    PATIENCE,
    PRESSURE,
    STRONG,
    T0,
    TOKEN_ENVIRONMENT,
    Reading,
    as_tenant,
    at_least,
    eventual,
    pressure,
    reading_stack,
    refusal,
    values,
)

ONE, TWO = "replica-1", "replica-2"
LOOKS_SELDOM = "60"
DRAIN_SECONDS = 3.0
REPLICAS_ONLY = eventual(60.0, on_unmet=FAIL)
"""Also on a machine that is busy with other tests."""
POINTS = 60_000  # More than the channel takes in before anybody reads on.


class Listed:
    """The service's file of replicas, and what it is told of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reading: Reading
        self.dsns: dict[str, str] = {}

    def write(self, *names: str) -> None:
        """By renaming, as operators should."""
        settings = {"lock_timeout_seconds": 60}  # Nothing but the drain's end ends a wait.
        entries = [{"name": name, "dsn": self.dsns[name], **settings} for name in names]
        self.write_raw(json.dumps(entries))

    def write_raw(self, text: str) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(self.path)

    def hang_up(self) -> None:
        os.kill(self.reading.stack.services["query"].pid, signal.SIGHUP)

    def replicas(self) -> set[str]:
        tiers = self.reading.tiers().values()
        return {t.endpoint for t in tiers if t.source == consistency_pb2.SOURCE_REPLICA}

    def becomes(self, *names: str) -> None:
        """The list, and soon so the service's."""
        self.write(*names)
        self.hang_up()
        wait_until(lambda: self.replicas() == set(names), f"{names}", patience=PATIENCE)
        self.reading.wait_fresh(*names)

    def complaints(self) -> int:
        return self.log().count("the list of replicas cannot be used")

    def complains(self, times: int) -> bool:
        return self.complaints() >= times

    def log(self) -> str:
        return (self.reading.stack.state.logs / "query.log").read_text()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Listed]:
    directory = tmp_path_factory.mktemp("membership")
    listed = Listed(directory / "replicas.json")
    listed.write()
    environment = {
        "ATLAS_REPLICAS": "[]",
        "ATLAS_DISCOVERY__FILE": str(listed.path),
        "ATLAS_DISCOVERY__INTERVAL_SECONDS": LOOKS_SELDOM,
        "ATLAS_DISCOVERY__DRAIN_SECONDS": str(DRAIN_SECONDS),
    }
    with reading_stack(directory, server_options, query=environment, fresh=()) as reading:
        listed.reading = reading
        listed.dsns = {
            name: database.dsn("atlas_query") for name, database in reading.stack.replicas.items()
        }
        write(reading)
        yield listed


@pytest.fixture
def listed(shared: Listed) -> Listed:
    """With both replicas in it."""
    shared.becomes(ONE, TWO)
    return shared


_written = iter(range(1, 10_000))


def write(reading: Reading) -> tuple[bytes, float]:
    """A new value in each tenant's pump-1: acme's token, and acme's value."""
    number = next(_written)
    at = T0 + number * timedelta(seconds=1)
    points = [pressure(ACME, float(number), at=at), pressure(GLOBEX, -float(number), at=at)]
    return reading.write(points), float(number)


def read(reading: Reading, consistency: Any = None, **fields: Any) -> tuple[float, str]:
    answer = reading.get("pump-1", consistency=consistency, **fields)
    return values(answer.entities[0])["pressure"], answer.metadata.endpoint


def wait_for(reading: Reading, token: bytes, **fields: Any) -> set[str]:
    request = pb.WaitForRequest(
        token=token,
        tier=consistency_pb2.SOURCE_REPLICA,
        wait_timeout=Duration(seconds=10),
        **fields,
    )
    answer = reading.query.WaitFor(request, metadata=as_tenant(ACME), timeout=15)
    return {tier.endpoint for tier in answer.tiers}


def sessions(listed: Listed, name: str) -> int:
    """Connections of the service at a replica."""
    with psycopg.connect(listed.reading.stack.replicas[name].admin_dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'atlas_query'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_replicas_join_and_leave_without_a_restart(listed: Listed) -> None:
    reading = listed.reading
    pid = reading.stack.services["query"].pid
    listed.becomes()
    token, value = write(reading)
    assert read(reading, eventual()) == (value, "primary")
    with pytest.raises(grpc.RpcError) as raised:
        wait_for(reading, token)
    assert refusal(raised.value)[1] == "DEPENDENCY_UNAVAILABLE"
    listed.becomes(TWO)
    assert read(reading, REPLICAS_ONLY)[1] == TWO
    assert read(reading, REPLICAS_ONLY, tenant=GLOBEX) == (-value, TWO)
    listed.becomes(ONE, TWO)
    assert wait_for(reading, token, all_replicas=True) == {ONE, TWO}
    route = reading.query.ExplainRoute(
        pb.ExplainRouteRequest(kind=pb.READ_KIND_HISTORY, consistency=eventual()),
        metadata=as_tenant(ACME),
        timeout=5,
    )
    assert {each.tier.endpoint for each in route.candidates} >= {"primary", ONE, TWO}
    listed.becomes(ONE)
    assert read(reading, REPLICAS_ONLY) == (value, ONE)
    assert wait_for(reading, token, all_replicas=True) == {ONE}
    wait_until(lambda: sessions(listed, TWO) == 0, "its pool is closed", patience=PATIENCE)
    assert reading.stack.services["query"].pid == pid


def test_a_broken_list_changes_nothing_and_is_loud(listed: Listed) -> None:
    reading = listed.reading
    write(reading)
    for text in ("[{", '[{"name": "replica-1"}]', json.dumps([{"name": "primary", "dsn": "x"}])):
        listed.write_raw(text)
        told = listed.complaints() + 1
        listed.hang_up()
        wait_until(partial(listed.complains, told), "it is told", patience=PATIENCE)
        assert listed.replicas() == {ONE, TWO}
        assert read(reading, REPLICAS_ONLY)[1] in {ONE, TWO}
    assert reading.stack.replicas[ONE].role_passwords["atlas_query"] not in listed.log()


def test_a_replica_that_is_not_there_yet_joins_when_it_is(listed: Listed) -> None:
    """Named and away: it is listed, not read, and read once it has proven its freshness."""
    reading, node = listed.reading, listed.reading.replica(TWO)
    listed.becomes(ONE)
    node.stop()
    try:
        listed.write(ONE, TWO)
        listed.hang_up()
        wait_until(lambda: listed.replicas() == {ONE, TWO}, "it is listed", patience=PATIENCE)
        for _ in range(10):
            assert read(reading, REPLICAS_ONLY)[1] == ONE
        assert not reading.tiers()[TWO].available
    finally:
        node.start()
    reading.wait_fresh(ONE, TWO)


def test_reads_under_way_finish_at_a_replica_that_leaves(listed: Listed) -> None:
    """Half of a long stream has been sent: the other half comes, and no new read begins there."""
    reading = listed.reading
    listed.becomes(ONE)
    reading.writer.connection.execute(
        f"INSERT INTO staging.lane_{reading.writer.lane}_a_points"
        " (batch_no, tenant_id, entity_id, attribute_id, event_time, quality, value_double)"
        " SELECT 1, %s, 2, %s, %s + n * interval '1 ms', 0, n FROM generate_series(1, %s) AS n",
        [ACME, PRESSURE, T0, POINTS],
    )
    reading.writer.flush()
    reading.stack.postgres.wait_caught_up()
    reading.wait_fresh(ONE)
    request = pb.GetHistoryRequest(entity_key="pump-2", consistency=REPLICAS_ONLY)
    call = reading.query.GetHistory(request, metadata=as_tenant(ACME), timeout=20)
    first = next(iter(call))
    assert first.metadata.endpoint == ONE
    listed.write(TWO)
    listed.hang_up()
    wait_until(lambda: listed.replicas() == {TWO}, "it left", patience=PATIENCE)
    rest = [len(message.readings) for message in call]
    assert len(first.readings) + sum(rest) == POINTS
    wait_until(lambda: sessions(listed, ONE) == 0, "its pool is closed", patience=PATIENCE)


def test_reads_that_do_not_end_are_cut_off(listed: Listed) -> None:
    """The drain is bounded: a reader that stands still does not keep a pool open for ever."""
    reading = listed.reading
    listed.becomes(ONE)
    blocked = threading.Event()
    with psycopg.connect(reading.stack.database.admin_dsn) as locker, ThreadPoolExecutor(1) as pool:
        # Replayed by replicas: reads of the points wait for it there, too.
        locker.execute("LOCK TABLE atlas.entity_values_ts IN ACCESS EXCLUSIVE MODE")
        locker.execute("SELECT pg_switch_wal()")
        reading.stack.postgres.wait_caught_up()

        def history() -> list[Any]:
            request = pb.GetHistoryRequest(entity_key="pump-1", consistency=eventual(60.0))
            blocked.set()
            return list(reading.query.GetHistory(request, metadata=as_tenant(ACME), timeout=20))

        waiting = pool.submit(history)
        blocked.wait()
        wait_until(lambda: waits_for_lock(listed, ONE), "the read waits", patience=PATIENCE)
        listed.write(TWO)
        listed.hang_up()
        wait_until(lambda: sessions(listed, ONE) == 0, "its pool is closed", patience=PATIENCE)
        locker.rollback()
        assert waiting.result(timeout=20)  # Nothing had been sent: another server answered.


def waits_for_lock(listed: Listed, name: str) -> bool:
    with psycopg.connect(listed.reading.stack.replicas[name].admin_dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE usename = 'atlas_query' AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None and row[0] > 0


def test_a_name_in_dns_leads_to_the_replicas(listed: Listed, tmp_path: Path) -> None:
    """localhost, which every machine's resolver knows: the same road as a cluster's reader name.

    The primary is told as several hosts, a replica first: whoever takes writes is it.
    """
    reading = listed.reading
    node = reading.replica(TWO)
    dsn = reading.stack.replicas[TWO].dsn("atlas_query").replace("127.0.0.1", "localhost")
    every = (reading.stack.replicas[ONE], reading.stack.database)
    primary = whoever_writes([database.dsn("atlas_query") for database in every])
    environment = {"ATLAS_DISCOVERY__DNS__DSN": dsn, "ATLAS_PRIMARY__DSN": primary}
    process = another_query(reading, tmp_path, environment)
    token, value = write(reading)
    process.start()
    name = f"127.0.0.1:{node.port}"
    try:
        with grpc.insecure_channel(process.target) as channel:
            other = Other(channel)
            wait_until(lambda: other.endpoint(at_least(token)) == name, name, patience=PATIENCE)
            assert other.value(at_least(token, on_unmet=FAIL)) == value
            assert other.value(STRONG) == value
    finally:
        process.stop()


class Other:
    """Another query process, asked as acme."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._reading: Any = Reading.__new__(Reading)
        self._reading.query = query_service_pb2_grpc.QueryServiceStub(channel)

    def value(self, consistency: Any) -> float:
        return read(self._reading, consistency)[0]

    def endpoint(self, consistency: Any) -> str:
        return read(self._reading, consistency)[1]


def another_query(reading: Reading, directory: Path, extra: dict[str, str]) -> Service:
    """One more query process on the stack's servers, not started yet."""
    stack = reading.stack
    for name in ("logs", "run"):
        (directory / name).mkdir()
    wiring = Wiring(
        database=stack.database,
        replicas={},
        valkey_url=None,
        credentials=Credentials.load_or_make(stack.state.secrets_file, ROLES),
        ports={**stack.state.ports(list(SERVICES)), "query": free_port(set())},
        warehouse=directory / "warehouse",
        log_directory=directory / "logs",
        run_directory=directory / "run",
        spans=False,
    )
    return Service(
        SERVICES["query"], wiring, {**TOKEN_ENVIRONMENT, **extra}, Patience(timeout_seconds=30)
    )


def test_a_broken_list_at_the_start_is_no_start(listed: Listed, tmp_path: Path) -> None:
    path = tmp_path / "replicas.json"
    path.write_text("[")
    process = another_query(listed.reading, tmp_path, {"ATLAS_DISCOVERY__FILE": str(path)})
    with pytest.raises(Exception, match="the replicas cannot be discovered"):
        process.start()
