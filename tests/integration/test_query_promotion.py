"""Reads through query while an attribute becomes hot or cold: right on every tier."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_client.cli.root import build
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import wait_until

from .lane_writer import RawPoint
from .query_reading import (
    ACME,
    GLOBEX,
    PATIENCE,
    SERIAL,
    STRONG,
    T0,
    Reading,
    as_tenant,
    eventual,
    reading_stack,
    refusal,
    values,
)

SERIALS = {"pump-1": "a-1", "pump-2": "a-2"}
START = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    with reading_stack(tmp_path_factory.mktemp("promotion"), server_options) as reading:
        for tenant_id, prefix in ((ACME, "a"), (GLOBEX, "g")):
            reading.write(
                [RawPoint(tenant_id, e, SERIAL, T0, f"{prefix}-{e}", "value_text") for e in (1, 2)]
            )
        reading.wait_fresh("replica-1", "replica-2")
        yield reading


def switch(reading: Reading, *, hot: bool) -> None:
    """What the end of a promotion, or a demotion, leaves in acme's tables."""
    reading.admin.execute(
        "INSERT INTO entity_jsonb (tenant_id, entity_id, version, attrs, attr_times)"
        " SELECT 1, e, 1, '{}', '{}' FROM generate_series(1, 2) AS e ON CONFLICT DO NOTHING"
    )
    change = "attrs || jsonb_build_object('3', 'a-' || entity_id)" if hot else "attrs - '3'"
    times = "attr_times || '{\"3\": 5}'" if hot else "attr_times - '3'"
    reading.admin.execute(
        f"UPDATE entity_jsonb SET attrs = {change}, attr_times = {times} WHERE tenant_id = 1"
    )
    reading.admin.execute(
        "UPDATE attributes SET is_hot = %s WHERE (tenant_id, attribute_id) = (1, 3)", [hot]
    )


def serials(answer: pb.GetEntitiesResponse | pb.FindEntitiesResponse) -> dict[str, str]:
    return {state.entity_key: str(values(state).get("serial")) for state in answer.entities}


def filter_of(text: str) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute="serial", value=value_pb2.Value(text_value=text)))


def test_a_replica_that_lacks_the_switch_answers_from_the_points(reading: Reading) -> None:
    with reading.paused("replica-1", "replica-2"):
        switch(reading, hot=True)
        wait_until(
            lambda: (
                serials(reading.get(*SERIALS, attributes=["serial"], consistency=STRONG)) == SERIALS
                and is_known_hot(reading)
            ),
            "query knows that it is hot",
            patience=PATIENCE,
        )
        answer = reading.get(*SERIALS, attributes=["serial"], consistency=eventual(300))
        assert answer.metadata.source == consistency_pb2.SOURCE_REPLICA
        assert serials(answer) == SERIALS
        found = reading.find(filter_of("a-2"), consistency=eventual(300), attributes=["serial"])
        assert found.metadata.source == consistency_pb2.SOURCE_PRIMARY
        assert serials(found) == {"pump-2": "a-2"}
        everything = reading.get(*SERIALS, consistency=eventual(300))
        assert all("serial" not in values(state) for state in everything.entities)
    reading.wait_fresh("replica-1", "replica-2")
    assert serials(reading.get(*SERIALS, consistency=STRONG)) == SERIALS
    assert reading.find(filter_of("g-2"), tenant=ACME).entities == []


def is_known_hot(reading: Reading) -> bool:
    try:
        return len(reading.find(filter_of("a-1")).entities) == 1
    except grpc.RpcError as error:
        if refusal_reason(error) != "ATTRIBUTE_NOT_HOT":
            raise
        return False


def refusal_reason(error: grpc.RpcError) -> str:
    return refusal(error)[1]


def test_a_reader_that_has_not_heard_of_a_demotion_answers_from_the_points(
    reading: Reading,
) -> None:
    switch(reading, hot=True)
    wait_until(lambda: is_known_hot(reading), "query knows that it is hot", patience=PATIENCE)
    switch(reading, hot=False)  # Its catalog says "hot" for seconds to come.
    answer = reading.get(*SERIALS, attributes=["serial"], consistency=STRONG)
    assert serials(answer) == SERIALS
    with pytest.raises(grpc.RpcError) as caught:
        reading.find(filter_of("a-1"))
    assert refusal_reason(caught.value) == "ATTRIBUTE_NOT_HOT"
    assert serials(reading.get("pump-1", consistency=STRONG)) == {"pump-1": "None"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Stack]:
    soon = {
        "ATLAS_PROJECTION__CATALOG_TTL_SECONDS": "1",
        "ATLAS_PROJECTION__CATALOG_AGE_MAX_SECONDS": "2",
        "ATLAS_PROJECTION__EXPIRY_SECONDS": "3",
        "ATLAS_PROJECTION__POLL_SECONDS": "0.1",
    }
    options = StackOptions(
        servers=server_options, tenants=("acme", "globex"), environment={"hotcache": soon}
    )
    stack = Stack.start(tmp_path_factory.mktemp("promoting") / "state", options)
    try:
        yield stack
    finally:
        stack.remove()


class Reader(threading.Thread):
    """Reads all pumps' serials over and over, with one consistency, and keeps what was wrong."""

    def __init__(self, target: str, consistency: consistency_pb2.Consistency, oldest: Any) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._consistency = consistency
        self._oldest = oldest
        self.stopping = threading.Event()
        self.wrong: list[Any] = []
        self.count = 0

    def run(self) -> None:
        request = pb.GetEntitiesRequest(
            entity_keys=[f"pump-{n}" for n in range(1, 41)],
            attributes=["serial"],
            consistency=self._consistency,
        )
        with grpc.insecure_channel(self._target) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            while not self.stopping.wait(0.005):
                oldest = self._oldest()
                answer = stub.GetEntities(request, metadata=as_tenant("acme"), timeout=20)
                self.count += 1
                for state in answer.entities:
                    text = values(state).get("serial", "missing 0")
                    if int(str(text).split()[-1]) < oldest:
                        self.wrong.append((state.entity_key, text, oldest, answer.metadata))


def test_reads_are_right_while_an_attribute_becomes_hot_and_cold_again(stack: Stack) -> None:
    ingest = grpc.insecure_channel(stack.services["ingest"].target)
    arrange(ingest)
    writer = ingest_service_pb2_grpc.IngestServiceStub(ingest)
    target = stack.services["query"].target
    write(writer, 1)
    acknowledged = [1]
    readers = [
        Reader(target, STRONG, lambda: acknowledged[0]),
        Reader(target, eventual(30), lambda: 1),
    ]
    settle(stack)
    for reader in readers:
        reader.start()
    try:
        for kind in ("promote", "demote", "promote"):
            run(stack, kind, "serial", "--detach")
            while True:
                acknowledged[0] = write(writer, acknowledged[0] + 1)
                jobs = run(stack, "jobs")
                if jobs[0]["state"] != "running":
                    break
            assert (jobs[0]["kind"], jobs[0]["state"]) == (kind, "done")
            for _ in range(10):
                acknowledged[0] = write(writer, acknowledged[0] + 1)
        assert run(stack, "verify")["state"] == "done"
    finally:
        for reader in readers:
            reader.stopping.set()
        for reader in readers:
            reader.join(20)
        ingest.close()
    assert [reader.wrong for reader in readers] == [[], []]
    assert min(reader.count for reader in readers) > 20


def test_an_attribute_is_found_by_as_long_as_it_is_indexed(stack: Stack) -> None:
    with (
        grpc.insecure_channel(stack.services["ingest"].target) as ingest,
        grpc.insecure_channel(stack.services["query"].target) as channel,
    ):
        query = query_service_pb2_grpc.QueryServiceStub(channel)

        def found(tenant: str = "acme") -> list[str]:
            wanted = pb.Equals(attribute="fault", value=value_pb2.Value(int_value=7))
            request = pb.FindEntitiesRequest(filter=pb.Filter(equals=wanted), consistency=STRONG)
            answer = query.FindEntities(request, metadata=as_tenant(tenant), timeout=20)
            return sorted(state.entity_key for state in answer.entities)

        for tenant in ("acme", "globex"):
            put_faults(ingest, tenant, 1, {"pump-1": 7, "pump-2": 7, "pump-3": 8})
        # A name that was just given is known within a second.
        dry_run = ("index", "fault", "--dry-run")
        wait_until(lambda: code(stack, *dry_run) == 0, "it is defined", patience=PATIENCE)
        assert run(stack, *dry_run)["state"] == "none"
        assert run(stack, "index", "fault")["state"] == "ready"
        # Who has waited for it need not wait for what query remembers.
        wait_until(lambda: is_found(found), "the index is known", patience=PATIENCE)
        assert found() == ["pump-1", "pump-2"]
        put_faults(ingest, "acme", 2, {"pump-1": 8, "pump-4": 7})
        put_faults(ingest, "acme", 0, {"pump-3": 7})
        assert found() == ["pump-2", "pump-4"]
        assert not is_found(lambda: found("globex"))
        assert run(stack, "drop-index", "fault")["state"] == "none"
        assert not is_found(found)
        assert run(stack, "indexes") == []


def code(stack: Stack, *arguments: str) -> int:
    options = ["--hotcache", stack.services["hotcache"].target, "--tenant", "acme"]
    return CliRunner().invoke(build(), ["projection", *arguments, *options]).exit_code


def is_found(found: Callable[[], list[str]]) -> bool:
    try:
        found()
    except grpc.RpcError as error:
        if refusal_reason(error) not in {"ATTRIBUTE_NOT_HOT", "ATTRIBUTE_UNKNOWN"}:
            raise
        return False
    return True


def put_faults(ingest: grpc.Channel, tenant: str, second: int, faults: dict[str, int]) -> None:
    attribute = catalog_pb.Attribute(name="fault", data_type=value_pb2.DATA_TYPE_INT)
    catalog_service_pb2_grpc.CatalogServiceStub(ingest).BatchUpsertAttributes(
        catalog_pb.BatchUpsertAttributesRequest(attributes=[attribute]),
        metadata=as_tenant(tenant),
        timeout=20,
    )
    points = [
        value_pb2.Point(
            entity_key=key,
            attribute="fault",
            event_time_us=round((START + timedelta(seconds=second)).timestamp() * 1e6),
            int_value=fault,
        )
        for key, fault in faults.items()
    ]
    ingest_service_pb2_grpc.IngestServiceStub(ingest).Write(
        ingest_pb.WriteRequest(points=points), metadata=as_tenant(tenant), timeout=20
    )


def settle(stack: Stack) -> None:
    """Wait until all replicas have the first write: who accepts 30 s may miss it until then."""
    with grpc.insecure_channel(stack.services["query"].target) as channel:
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        request = pb.GetEntitiesRequest(
            entity_keys=["pump-40"], attributes=["serial"], consistency=eventual(30)
        )

        def is_right() -> bool:
            answers = [
                stub.GetEntities(request, metadata=as_tenant("acme"), timeout=20) for _ in range(10)
            ]
            return all(len(answer.entities[0].readings) == 1 for answer in answers)

        wait_until(is_right, "all tiers have the first write", patience=PATIENCE)


def arrange(ingest: grpc.Channel) -> None:
    catalog = catalog_service_pb2_grpc.CatalogServiceStub(ingest)
    attributes = [
        catalog_pb.Attribute(name="serial", data_type=value_pb2.DATA_TYPE_TEXT),
        catalog_pb.Attribute(name="load", data_type=value_pb2.DATA_TYPE_DOUBLE, hot=True),
    ]
    for tenant in ("acme", "globex"):
        catalog.BatchUpsertAttributes(
            catalog_pb.BatchUpsertAttributesRequest(attributes=attributes),
            metadata=as_tenant(tenant),
            timeout=20,
        )


def write(writer: ingest_service_pb2_grpc.IngestServiceStub, number: int) -> int:
    """Every pump gets this number as its serial; answered once it is stored."""
    points = [
        value_pb2.Point(
            entity_key=f"pump-{pump}",
            attribute="serial",
            event_time_us=round((START + timedelta(seconds=number)).timestamp() * 1e6),
            text_value=f"pump-{pump} {number}",
        )
        for pump in range(1, 41)
    ]
    writer.Write(ingest_pb.WriteRequest(points=points), metadata=as_tenant("acme"), timeout=20)
    return number


def run(stack: Stack, *arguments: str) -> Any:
    options = ["--hotcache", stack.services["hotcache"].target, "--tenant", "acme", "--json"]
    result = CliRunner().invoke(build(), ["projection", *arguments, *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
