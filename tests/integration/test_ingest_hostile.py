"""Hostile values through Write: stored and read back equal, or refused for a right reason."""

import asyncio
import copy
import itertools
import secrets
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2, value_pb2
from atlas_common import errors
from atlas_devstack.database import Database

from . import hostile_values
from .hostile_values import ATTRIBUTE_TYPES, HOT, HostilePoint, canonical, read_back
from .ingest_rig import Rig, as_tenant, point, start_rig

T = TypeVar("T")
_EXAMPLES = 60
# Each try is a call to a real service: shrinking a failure takes minutes.
_PHASES = [Phase.explicit, Phase.generate]
_TEXTS = {
    type_: f"value_{type_}::text" for type_ in ("bool", "int", "double", "decimal", "text", "json")
} | {"time": "(extract(epoch FROM value_time) * 1000000)::bigint::text"}


@dataclass
class Here:
    """A rig whose loop runs in a thread: what Hypothesis calls is no coroutine."""

    rig: Rig
    loop: asyncio.AbstractEventLoop
    tenants: tuple[str, str]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its outcome."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@pytest.fixture(scope="module")
def here(database: Database) -> Iterator[Here]:
    ready: Future[Here] = Future()
    done = threading.Event()

    async def serve() -> None:
        try:
            async with start_rig(database, interval_ms=2) as rig:
                suffix = secrets.token_hex(4)
                tenants = f"hostile-{suffix}", f"victim-{suffix}"
                for tenant in tenants:
                    await rig.client.catalog.CreateTenant(
                        catalog_pb.CreateTenantRequest(key=tenant)
                    )
                    await rig.client.catalog.BatchUpsertAttributes(
                        catalog_pb.BatchUpsertAttributesRequest(
                            attributes=hostile_values.attributes()
                        ),
                        metadata=as_tenant(tenant),
                    )
                ready.set_result(Here(rig, asyncio.get_running_loop(), tenants))
                await asyncio.to_thread(done.wait)
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield ready.result(60)
    finally:
        done.set()
        thread.join(30)


_moments = itertools.count(time.time_ns() // 1_000 - 86_400_000_000)


@dataclass(frozen=True)
class Sent:
    """A batch, and the event time of each of its points that has none of its own."""

    points: list[HostilePoint]
    moments: list[int]

    @classmethod
    def of(cls, points: list[HostilePoint]) -> "Sent":
        """With moments that no other point ever has."""
        return cls(points, [next(_moments) for _ in points])

    def messages(self) -> list[value_pb2.Point]:
        """As Write takes them."""
        return [p.message(moment) for p, moment in zip(self.points, self.moments, strict=True)]

    def to_be_stored(self) -> dict[int, tuple[Any, ...]]:
        """Event time -> (key, attribute, quality, value)."""
        return {
            moment: (p.key, p.attribute, p.quality, canonical(str(p.type_), p.value))
            for p, moment in zip(self.points, self.moments, strict=True)
            if not p.problems()
        }


async def stored(rig: Rig, tenant: str, sent: Sent) -> dict[int, tuple[Any, ...]]:
    """What is in the table of the sent moments."""
    columns = ", ".join(_TEXTS.values())
    rows = await rig.query(
        f"SELECT (extract(epoch FROM event_time) * 1000000)::bigint, e.key, a.name, v.quality,"
        f" {columns} FROM entity_values_ts AS v JOIN tenants AS t USING (tenant_id)"
        " JOIN entities AS e USING (tenant_id, entity_id)"
        " JOIN attributes AS a USING (tenant_id, attribute_id)"
        " WHERE t.key = %s AND event_time BETWEEN"
        " to_timestamp(0) + make_interval(secs => %s / 1000000) + %s %% 1000000 * interval '1 us'"
        " AND to_timestamp(0) + make_interval(secs => %s / 1000000)"
        " + %s %% 1000000 * interval '1 us'",
        tenant,
        *(bound for bound in (sent.moments[0], sent.moments[-1]) for _ in range(2)),
    )
    found = {}
    for moment, key, attribute, quality, *texts in rows:
        values = {
            type_: read_back(type_, text)
            for type_, text in zip(_TEXTS, texts, strict=True)
            if text is not None
        }
        ((type_, value),) = values.items()
        assert type_ == ATTRIBUTE_TYPES[attribute]
        assert moment not in found, "stored twice"
        found[moment] = (key, attribute, quality, value)
    return found


async def projected(rig: Rig, tenant: str, keys: list[str]) -> dict[tuple[str, str], Any]:
    """(key, hot attribute) -> latest value."""
    rows = await rig.query(
        "SELECT e.key, a.name, a.data_type, j.attrs -> a.attribute_id::text #>> '{}',"
        " (j.attrs -> a.attribute_id::text)::text"
        " FROM entity_jsonb AS j JOIN tenants AS t USING (tenant_id)"
        " JOIN entities AS e USING (tenant_id, entity_id)"
        " JOIN attributes AS a ON a.tenant_id = j.tenant_id AND a.is_hot"
        " AND j.attrs ? a.attribute_id::text WHERE t.key = %s AND e.key = ANY(%s)",
        tenant,
        keys,
    )
    return {
        (key, name): read_back(type_, document if type_ == "json" else text)
        for key, name, type_, text, document in rows
    }


def latest_hot(sent: Sent) -> dict[tuple[str, str], Any]:
    """What the batch leaves in the projection: moments rise, so the last one is the latest."""
    return {
        (key, attribute): value
        for key, attribute, _, value in sent.to_be_stored().values()
        if attribute in HOT
    }


async def write_and_check(here: Here, tenant: str, sent: Sent) -> None:
    answer = await here.rig.client.write(tenant, sent.messages(), partial_success=True)
    refused = {error.index: error for error in answer.errors}
    for index, p in enumerate(sent.points):
        problems = p.problems()
        assert (index in refused) == bool(problems), (p, refused.get(index))
        if problems:
            error = refused[index]
            reason = error_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
            assert reason in problems, (p, error)
            assert 10 < len(error.message) < 400
            assert error.message.isprintable()
    assert answer.rejected_count == len(refused)
    assert answer.accepted_count == len(sent.points) - len(refused)


@settings(
    max_examples=_EXAMPLES,
    derandomize=True,
    deadline=None,
    phases=_PHASES,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(first=hostile_values.batches, second=hostile_values.batches)
def test_what_is_accepted_reads_back_equal_and_what_is_refused_had_a_reason(
    here: Here, first: list[HostilePoint], second: list[HostilePoint]
) -> None:
    async def check() -> None:
        both = [(here.tenants[0], Sent.of(first)), (here.tenants[1], Sent.of(second))]
        await asyncio.gather(*(write_and_check(here, tenant, sent) for tenant, sent in both))
        for (tenant, sent), other in zip(both, reversed(here.tenants), strict=True):
            assert await stored(here.rig, tenant, sent) == sent.to_be_stored()
            assert await stored(here.rig, other, sent) == {}
            hot = latest_hot(sent)
            found = await projected(here.rig, tenant, [key for key, _ in hot])
            for name, value in hot.items():
                assert as_projected(name[1], found[name]) == as_projected(name[1], value)

    here.run(check())


def as_projected(attribute: str, value: Any) -> Any:
    """JSON's numbers have no negative zero: the projection is equal but for its sign."""
    return "0.0" if attribute == "hot-double" and value == "-0.0" else value


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    batch=hostile_values.batches.filter(lambda batch: any(p.problems() for p in batch)),
    ack=st.sampled_from([pb.ACK_LEVEL_COMMITTED, pb.ACK_LEVEL_DURABLE]),
)
def test_without_partial_success_one_bad_point_leaves_nothing(
    here: Here, batch: list[HostilePoint], ack: pb.AckLevel
) -> None:
    async def check() -> None:
        sent = Sent.of(batch)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await here.rig.client.write(here.tenants[0], sent.messages(), ack=ack)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await stored(here.rig, here.tenants[0], sent) == {}

    here.run(check())


@pytest.mark.parametrize(
    "field", [b"\x0a", b"\x12", b"\x72", b"\x6a", b"\x82\x01"], ids=lambda tag: tag.hex()
)
@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_bytes_that_are_no_text_are_refused_and_others_go_on(
    here: Here, field: bytes, text: bytes
) -> None:
    """A lone surrogate in UTF-8 and its like: no stub sends them, anybody can."""
    good = point("cold-text", "pump", text_value="x").SerializeToString()
    bad_point = good + field + bytes([len(text)]) + text
    request = b"\x12" + bytes([len(bad_point)]) + bad_point

    async def check() -> None:
        before = await here.rig.count(here.tenants[0])
        raw = _raw(here.rig.client.ingest.Write)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(request, metadata=as_tenant(here.tenants[0]), timeout=10)
        error = errors.from_rpc_error(refused.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert "UTF-8" in error.message
        assert await here.rig.count(here.tenants[0]) == before
        fine = [point("cold-text", "pump", text_value="x")]
        assert (await here.rig.client.write(here.tenants[1], fine)).accepted_count == 1

    here.run(check())


def _raw(method: Any) -> Any:
    """The same call without a serializer: bytes go as they are."""
    raw = copy.copy(method)
    raw._request_serializer = None
    return raw
