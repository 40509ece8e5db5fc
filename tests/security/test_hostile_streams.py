"""Streams made to last: readers that do not read, senders that dribble or fall silent."""

import asyncio
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.query.v1 import query_service_pb2 as query_pb
from atlas.type.v1 import value_pb2
from atlas_devstack.waiting import Patience, wait_until

from .dribbling import dribble
from .siege import ATTACKER, CANARIES, VICTIM, WATCHES_MAX, Siege, check_refusal

_AS_ATTACKER = (("x-atlas-tenant", ATTACKER),)
_INGEST = "/atlas.ingest.v1.IngestService"
_QUERY = "/atlas.query.v1.QueryService"
_HISTORIES = 24
_NOVELS, _TEXTS, _TEXT_BYTES = 10, 200, 65_000
"""Attributes of one entity, and their points: 13 MB, which each stream would read."""

_GROWTH_BYTES_MAX = 256 * 2**20
"""What they may take of the service's memory: four histories are let in, each with all it has as
rows, messages and bytes (40 MB), and the watches, with a message each. All would take 1 GB."""


@pytest.fixture(scope="module")
def long_history(besieged: Siege) -> str:
    """An entity of the attacker's with a long history, and much to be told at once."""
    channel: Any = besieged.channels["ingest"]
    names = [f"novel-{number}" for number in range(_NOVELS)]
    attributes = [
        catalog_pb.Attribute(name=name, data_type=value_pb2.DATA_TYPE_TEXT, hot=True)
        for name in names
    ]
    channel.unary_unary("/atlas.catalog.v1.CatalogService/BatchUpsertAttributes")(
        catalog_pb.BatchUpsertAttributesRequest(attributes=attributes).SerializeToString(),
        metadata=_AS_ATTACKER,
        timeout=60,
    )
    points = [
        value_pb2.Point(
            entity_key="author",
            attribute=names[number % _NOVELS],
            event_time_us=1_700_000_000_000_000 + number,
            text_value=f"{number:04}" * (_TEXT_BYTES // 4),
        )
        for number in range(_TEXTS)
    ]
    for some in (points[: _TEXTS // 2], points[_TEXTS // 2 :]):
        write = ingest_pb.WriteRequest(points=some).SerializeToString()
        channel.unary_unary(f"{_INGEST}/Write")(write, metadata=_AS_ATTACKER, timeout=60)
    return "author"


class Readers:
    """Streams of a connection of their own, whose window they fill."""

    def __init__(self, besieged: Siege, open_: ExitStack) -> None:
        target = besieged.stack.services["query"].target
        # Its window stays small: a large one would take all of a stream that is not read.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        self._channel: Any = open_.enter_context(grpc.insecure_channel(target, options))
        self._open = open_

    def begun(self, count: int, method: str, request: Any) -> list[Any]:
        """Calls that have been let in, of which nothing is read."""
        call = self._channel.unary_stream(f"{_QUERY}/{method}")
        calls = [
            call(request.SerializeToString(), metadata=_AS_ATTACKER, timeout=300)
            for _ in range(count)
        ]
        for each in calls:
            self._open.callback(each.cancel)
            each.initial_metadata()  # It comes with the first message.
        return calls


def test_readers_that_do_not_read_are_ended_and_hold_nobody_up(
    besieged: Siege, long_history: str
) -> None:
    history = query_pb.GetHistoryRequest(entity_key=long_history, limit=_TEXTS)
    history.consistency.strong.SetInParent()
    watch = query_pb.WatchEntitiesRequest(entity_keys=[long_history])
    before = besieged.memory("query")
    with ExitStack() as open_, besieged.others_going_on():
        readers = Readers(besieged, open_)
        unread = readers.begun(_HISTORIES, "GetHistory", history)
        unread += readers.begun(WATCHES_MAX, "WatchEntities", watch)
        assert besieged.memory("query") - before < _GROWTH_BYTES_MAX
        wait_until(
            lambda: all_watch_places_are_free(besieged),
            "the watches that nobody reads are ended",
            patience=Patience(120),
        )
        told = []
        for call in unread:  # The histories had begun before.
            with pytest.raises(grpc.RpcError) as ended:
                for _ in call:
                    pass
            check_refusal(ended.value, "a stream that was not read")
            failed: Any = ended.value
            assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            told.append(failed.details())
    # Those that were let in; the other histories were refused, so that connections were left.
    assert len([each for each in told if "nothing was read" in each]) > WATCHES_MAX


def all_watch_places_are_free(besieged: Siege) -> bool:
    """Whether the other tenant gets all of the places that watches share."""
    channel: Any = besieged.channels["query"]
    request = query_pb.WatchEntitiesRequest(entity_keys=[CANARIES[1]]).SerializeToString()
    watch, metadata = channel.unary_stream(f"{_QUERY}/WatchEntities"), (("x-atlas-tenant", VICTIM),)
    watches = [watch(request, metadata=metadata, timeout=60) for _ in range(WATCHES_MAX)]
    try:
        for each in watches:
            next(each)
    except grpc.RpcError:
        return False
    finally:
        for each in watches:
            each.cancel()
    return True


_STREAM_START = ingest_pb.WriteStreamRequest(start=ingest_pb.WriteStreamStart())
_ARROW_START = ingest_pb.WriteArrowRequest(start=ingest_pb.WriteArrowStart())


async def test_senders_that_dribble_or_fall_silent_are_ended(besieged: Siege) -> None:
    """Before their first message is there, and after it."""
    target = besieged.stack.services["ingest"].target

    async def ended(method: str, messages: list[Any], *, dribbles: bool) -> bytes:
        encoded = [message.SerializeToString() for message in messages]
        seconds = 0.25 if dribbles else None
        return await dribble(target, f"{_INGEST}/{method}", ATTACKER, encoded, seconds=seconds)

    with besieged.others_going_on():
        async with asyncio.timeout(120):
            told = await asyncio.gather(
                *(
                    ended(method, messages, dribbles=dribbles)
                    for method, start in (
                        ("WriteStream", _STREAM_START),
                        ("WriteArrow", _ARROW_START),
                    )
                    for messages in ([], [start])
                    for dribbles in (True, False)
                )
            )
    problems = [b"no start came", b"no start came", b"nothing was sent", b"nothing was sent"] * 2
    for headers, problem in zip(told, problems, strict=True):
        assert problem in headers
