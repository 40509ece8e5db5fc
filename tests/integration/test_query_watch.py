"""Watchers see every change, in order, through broken streams, and no one else's."""

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest

from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas_common.token import Position
from atlas_devstack.waiting import wait_until

from .lane_writer import LaneWriter
from .query_reading import (
    ACME,
    GLOBEX,
    PATIENCE,
    SIGNER,
    T0,
    Reading,
    as_tenant,
    pressure,
    reading_stack,
    refusal,
    text,
)

PRESSURE, STATE, SERIAL = 1, 2, 3
BOUNDS = {"ATLAS_WATCH__PENDING_BYTES_MAX": str(2**20), "ATLAS_WATCH__WATCHERS_MAX": "8"}


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    with reading_stack(tmp_path_factory.mktemp("watch"), server_options, query=BOUNDS) as reading:
        yield reading


class Watching:
    """A stream that is read in a thread, message by message."""

    def __init__(self, reading: Reading, *keys: str, tenant: int = ACME, **fields: Any) -> None:
        request = pb.WatchEntitiesRequest(entity_keys=keys, **fields)
        if not request.HasField("heartbeat_interval"):
            request.heartbeat_interval.FromMilliseconds(500)
        self.call = reading.query.WatchEntities(request, metadata=as_tenant(tenant))
        self.messages: queue.Queue[pb.WatchEntitiesResponse | grpc.RpcError] = queue.Queue()
        self.resume_token = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for message in self.call:
                self.messages.put(message)
        except grpc.RpcError as error:
            self.messages.put(error)

    def next(self, seconds: float = 20) -> pb.WatchEntitiesResponse:
        message = self.messages.get(timeout=seconds)
        if isinstance(message, grpc.RpcError):
            raise message
        self.resume_token = message.resume_token or self.resume_token
        return message

    def to_the_end(self) -> None:
        while True:
            self.next()

    def readings(self, count: int) -> list[tuple[str, str, Any]]:
        """So many changes, as (entity, attribute, value)."""
        found: list[tuple[str, str, Any]] = []
        while len(found) < count:
            found += changes(self.next())
        return found


def changes(message: pb.WatchEntitiesResponse) -> list[tuple[str, str, Any]]:
    return [
        (
            state.entity_key,
            reading.attribute,
            getattr(reading.value, str(reading.value.WhichOneof("kind"))),
        )
        for state in message.entities
        for reading in state.readings
    ]


@contextmanager
def watching(reading: Reading, *keys: str, **fields: Any) -> Iterator[Watching]:
    watch = Watching(reading, *keys, **fields)
    try:
        yield watch
    finally:
        watch.call.cancel()


def refused(reading: Reading, *keys: str, **fields: Any) -> Any:
    with watching(reading, *keys, **fields) as watch, pytest.raises(grpc.RpcError) as raised:
        watch.next()
    return refusal(raised.value)


_now = [T0]


def later(step: timedelta = timedelta(seconds=1)) -> Any:
    """An event time after all before."""
    _now[0] += step
    return _now[0]


def test_first_the_latest_values_then_each_change_hot_and_cold(reading: Reading) -> None:
    at = later()
    reading.write([pressure(ACME, 1.5, at=at), text(ACME, SERIAL, "A", at=at)])
    reading.stack.postgres.wait_caught_up()
    with watching(reading, "pump-1", attributes=["pressure", "serial"]) as watch:
        first = watch.next()
        assert first.snapshot
        assert first.snapshot_reason == ""
        assert sorted(changes(first)) == [
            ("pump-1", "pressure", 1.5),
            ("pump-1", "serial", "A"),
        ]
        reading.write([pressure(ACME, 2.5, at=later(), quality=3)])
        message = watch.next()
        while not message.entities:
            message = watch.next()
        assert changes(message) == [("pump-1", "pressure", 2.5)]
        assert not message.snapshot
        assert message.entities[0].readings[0].quality == 3
        reading.write([text(ACME, SERIAL, "B", at=later())])
        assert watch.readings(1) == [("pump-1", "serial", "B")]
        # Late, and nothing but late: no change.
        reading.write([pressure(ACME, 99.0, at=T0 - timedelta(days=1))])
        reading.write([pressure(ACME, 3.5, at=later())])
        assert watch.readings(1) == [("pump-1", "pressure", 3.5)]


def test_heartbeats_come_while_nothing_changes_and_their_token_reads(reading: Reading) -> None:
    token = reading.write([pressure(ACME, 1.0, at=later())])
    with watching(reading, "pump-1") as watch:
        seen = [watch.next() for _ in range(4)]
    assert [bool(message.entities) for message in seen[1:]] == [False] * 3
    assert all(message.resume_token and message.token for message in seen)
    times = [message.as_of.ToDatetime() for message in seen]
    assert times == sorted(times)
    assert times[-1] > times[0]
    wait_until(
        lambda: reading.get("pump-1").metadata.token == token, "it is told", patience=PATIENCE
    )


def test_other_tenants_changes_never_appear(reading: Reading) -> None:
    with (
        watching(reading, "pump-1", "pump-2", attributes=["pressure"]) as acme,
        watching(reading, "pump-1", attributes=["pressure"], tenant=GLOBEX) as globex,
    ):
        acme.next()
        globex.next()
        for number in range(20):
            at = later()
            reading.write([pressure(ACME, float(number), at=at), pressure(GLOBEX, -1.0, at=at)])
        assert {value for _, _, value in acme.readings(20)} == set(map(float, range(20)))
        assert {value for _, _, value in globex.readings(20)} == {-1.0}


class Lane:
    """A writer on a connection of its own."""

    def __init__(self, reading: Reading, lane: int, cleanup: ExitStack) -> None:
        dsn = reading.stack.database.dsn("atlas_ingest")
        connection = cleanup.enter_context(psycopg.connect(dsn, autocommit=True))
        self.writer = LaneWriter(connection, lane=lane)


FLUSHES = 120
PUMPS = {1: "pump-1", 2: "pump-2"}


def write_many(own: int, writer: LaneWriter, begin: Any) -> None:
    for number in range(FLUSHES):
        at = begin + timedelta(seconds=number)
        writer.write(
            [
                pressure(ACME, float(number), entity_id=own, at=at),
                pressure(ACME, 1000.0 * own + number, entity_id=3, at=at),
                pressure(GLOBEX, -5.0, entity_id=own, at=at),
            ]
        )


def test_two_lanes_at_once_and_every_change_is_seen_as_it_was_committed(reading: Reading) -> None:
    """Each lane has an entity of its own, whose points are all changes; both share a third."""
    begin = later() + timedelta(days=1)
    with (
        ExitStack() as cleanup,
        watching(reading, *PUMPS.values(), "pump-3", attributes=["pressure"]) as watch,
    ):
        watch.next()
        threads = [
            threading.Thread(
                target=write_many, args=(own, Lane(reading, 10 + own, cleanup).writer, begin)
            )
            for own in PUMPS
        ]
        for thread in threads:
            thread.start()
        seen: dict[str, list[float]] = {key: [] for key in (*PUMPS.values(), "pump-3")}
        while min(len(seen[key]) for key in PUMPS.values()) < FLUSHES:
            for key, _, value in changes(watch.next()):
                seen[key].append(value)
        for thread in threads:
            thread.join()
        reading.write([pressure(ACME, -1.0, entity_id=3, at=begin + timedelta(days=1))])
        while seen["pump-3"][-1] != -1.0:
            seen["pump-3"] += [value for _, _, value in changes(watch.next())]
    # All of them, once each, in the order of commits.
    for key in PUMPS.values():
        assert seen[key] == list(map(float, range(FLUSHES)))
    # Event times never go back, each is of a point that was written, the last is the last.
    shared = [value % 1000 for value in seen["pump-3"][:-1]]
    assert shared == sorted(shared)
    assert shared[-1] == FLUSHES - 1
    later(timedelta(days=3))


def test_a_flush_that_stamps_early_and_commits_late_is_seen(reading: Reading) -> None:
    """Lane 1 commits with a later stamp, and is seen, before lane 0 commits: see change.py."""
    with (
        ExitStack() as cleanup,
        watching(reading, "pump-2", "pump-3", attributes=["pressure", "serial"]) as watch,
    ):
        slow = Lane(reading, 13, cleanup).writer
        watch.next()
        at = later()
        with slow.connection.transaction():
            slow.write([pressure(ACME, 11.0, entity_id=2, at=at)])
            reading.write([pressure(ACME, 22.0, entity_id=3, at=at)])
            assert watch.readings(1) == [("pump-3", "pressure", 22.0)]
            token = watch.resume_token
            message = watch.next()
            assert not message.entities
            token = watch.resume_token
        assert watch.readings(1) == [("pump-2", "pressure", 11.0)]
        # And by one who goes on from a moment between the stamp and the commit.
        with watching(reading, "pump-2", attributes=["pressure"], resume_token=token) as resumed:
            first = resumed.next()
            assert not first.snapshot
            assert ("pump-2", "pressure", 11.0) in changes(first)


def test_who_goes_on_after_a_break_has_lost_nothing(reading: Reading) -> None:
    with watching(reading, "pump-1", attributes=["pressure"]) as watch:
        watch.next()
        reading.write([pressure(ACME, 5_000.0, at=later())])
        assert watch.readings(1)[-1][2] == 5_000.0
        token = watch.resume_token
    for number in range(5_001, 5_011):
        reading.write([pressure(ACME, float(number), at=later())])
    with watching(reading, "pump-1", attributes=["pressure"], resume_token=token) as watch:
        found: list[float] = []
        while not found or found[-1] < 5_010.0:
            message = watch.next()
            assert not message.snapshot
            found += [value for _, _, value in changes(message)]
    # What tests before have written is less, and may be told once more.
    new = [value for value in found if value > 5_000.0]
    assert new == list(map(float, range(5_001, 5_011)))


def test_a_watch_goes_on_from_the_token_of_a_write_or_of_a_read(reading: Reading) -> None:
    reading.write([pressure(ACME, 1.0, at=later())])
    token = reading.write([pressure(ACME, 2.0, at=later())])
    reading.stack.postgres.wait_caught_up()
    read = reading.get("pump-1").metadata.token
    reading.write([pressure(ACME, 3.0, at=later())])
    for start in (token, read):
        with watching(reading, "pump-1", attributes=["pressure"], resume_token=start) as watch:
            message = watch.next()
            found = changes(message)
            while not found or found[-1][2] < 3.0:
                assert not message.snapshot
                message = watch.next()
                found += changes(message)


def test_a_watch_goes_on_at_another_process(reading: Reading) -> None:
    """The token says itself from where on: a process that was just started needs no memory."""
    with watching(reading, "pump-1", attributes=["pressure"]) as watch:
        watch.next()
        token = watch.resume_token
    reading.stack.services["query"].stop()
    reading.write([pressure(ACME, 200.0, at=later())])
    reading.write([pressure(ACME, 201.0, at=later())])
    reading.stack.services["query"].start()
    reading.wait_fresh("primary")
    with watching(reading, "pump-1", attributes=["pressure"], resume_token=token) as watch:
        found: list[float] = []
        while not found or found[-1] < 201.0:
            message = watch.next()
            assert not message.snapshot
            found += [value for _, _, value in changes(message)]
    assert found[-2:] == [200.0, 201.0]


def test_a_token_that_is_too_old_begins_with_a_snapshot_that_says_so(reading: Reading) -> None:
    reading.stack.services["query"].stop()
    token = reading.write([pressure(ACME, 7.0, at=later())])
    reading.write([pressure(ACME, 8.0, at=later())])
    reading.stack.services["query"].start()
    reading.wait_fresh("primary")
    with watching(reading, "pump-1", attributes=["pressure"], resume_token=token) as watch:
        first = watch.next()
    assert first.snapshot
    assert first.snapshot_reason == "the token is older than what this process remembers"
    assert changes(first) == [("pump-1", "pressure", 8.0)]


def test_a_lost_position_and_a_strangers_token_are_refused(reading: Reading) -> None:
    token = reading.write([pressure(ACME, 7.0, at=later())])
    writer = reading.writer
    lost = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch - 1, writer.sequence)])
    answer = refused(reading, "pump-1", resume_token=lost)
    assert answer[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "POSITION_LOST")
    with watching(reading, "pump-1") as watch:
        watch.next()
        own = watch.resume_token
    for stolen in (token, own):
        assert refused(reading, "pump-1", tenant=GLOBEX, resume_token=stolen)[1] == (
            "TOKEN_WRONG_TENANT"
        )
    assert refused(reading, "pump-1", resume_token=own[:-1])[1] == "TOKEN_MALFORMED"


def test_watchers_of_lost_positions_are_told(reading: Reading) -> None:
    """A failover that lost the tail, as the database sees it: a claim at an earlier sequence."""
    with ExitStack() as cleanup, watching(reading, "pump-1") as watch:
        lane = Lane(reading, 17, cleanup).writer
        for _ in range(3):
            lane.write([pressure(ACME, 1.0, at=later())])
        while not any(
            (position.lane, position.sequence) == (17, 3)
            for position in SIGNER.open(watch.next().token, ACME)
        ):
            pass
        reading.admin.execute("UPDATE flush_positions SET sequence = 1 WHERE lane = 17")
        reading.admin.execute("SELECT claim_lane(17::smallint)")
        with pytest.raises(grpc.RpcError) as raised:
            watch.to_the_end()
        assert refusal(raised.value)[1] == "POSITION_LOST"
    with watching(reading, "pump-1") as watch:
        assert watch.next().snapshot


def test_a_slow_reader_is_sent_the_latest_and_told_what_it_missed(reading: Reading) -> None:
    long = "x" * 60_000
    request = pb.WatchEntitiesRequest(entity_keys=["pump-1"], attributes=["serial", "pressure"])
    # A window of its own: the channel's others read well.
    options = [("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(reading.stack.services["query"].target, options) as channel:
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        call = stub.WatchEntities(request, metadata=as_tenant(ACME))
        next(iter(call))
        for number in range(120):
            at = later()
            rows = [text(ACME, SERIAL, f"{number:04}{long}", at=at)]
            rows.append(pressure(ACME, float(number), at=at))
            reading.write(rows)
        found, left_out = [], 0
        for message in call:
            left_out += message.coalesced_count
            found += [value for _, name, value in changes(message) if name == "serial"]
            if found and found[-1].startswith("0119"):
                break
        call.cancel()
    numbers = [int(value[:4]) for value in found]
    assert numbers == sorted(numbers)
    assert left_out > 0
    assert len(numbers) < 120


def test_bounds_and_bad_requests_name_their_field(reading: Reading) -> None:
    entities = [f"pump-{n % 3 + 1}" for n in range(1001)]
    assert refused(reading, *entities)[1::2] == ("BATCH_TOO_LARGE", "entity_keys")
    assert refused(reading)[3] == "entity_keys"
    assert refused(reading, "pump-9")[:2] == (grpc.StatusCode.NOT_FOUND, "ENTITY_UNKNOWN")
    assert refused(reading, "pump-1", attributes=["nope"])[1] == "ATTRIBUTE_UNKNOWN"
    request = pb.WatchEntitiesRequest()
    request.heartbeat_interval.FromMilliseconds(1)
    beat = request.heartbeat_interval
    assert refused(reading, "pump-1", heartbeat_interval=beat)[3] == "heartbeat_interval"


def test_watches_are_bounded_in_number_and_a_place_that_is_left_is_free(reading: Reading) -> None:
    with ExitStack() as cleanup:
        watches = [cleanup.enter_context(watching(reading, "pump-1")) for _ in range(8)]
        for watch in watches:
            watch.next()
        answer = refused(reading, "pump-1")
        assert answer[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")

    def is_free() -> bool:
        with watching(reading, "pump-1") as watch:
            try:
                return watch.next().snapshot
            except grpc.RpcError:
                return False

    wait_until(is_free, "a place is free", patience=PATIENCE)


def test_all_watchers_of_an_attribute_are_told(reading: Reading) -> None:
    with ExitStack() as cleanup:
        watches = [
            cleanup.enter_context(watching(reading, "pump-1", attributes=["pressure"]))
            for _ in range(6)
        ]
        for watch in watches:
            watch.next()
        reading.write([pressure(ACME, 5.25, at=later())])
        assert [watch.readings(1)[-1][2] for watch in watches] == [5.25] * 6


def test_a_process_that_stops_ends_its_watches_with_a_token(reading: Reading) -> None:
    with watching(reading, "pump-1", attributes=["pressure"]) as watch:
        watch.next()
        reading.stack.services["query"].stop()
        with pytest.raises(grpc.RpcError) as raised:
            watch.to_the_end()
        code, reason, _, _ = refusal(raised.value)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    reading.stack.services["query"].start()
    reading.wait_fresh("primary")
    with watching(
        reading, "pump-1", attributes=["pressure"], resume_token=watch.resume_token
    ) as again:
        assert not again.next().snapshot
