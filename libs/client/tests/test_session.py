from datetime import UTC, datetime, timedelta

import pytest

from atlas.query.v1 import query_service_pb2
from atlas.type.freshness import MalformedTokenError
from atlas_client import AggregateFunction, AtlasClient, Point, analytics, eventual, strong

from .client_rig import Platform, token

POINT = Point("pump-1", "rpm", 1, datetime(2024, 1, 1, tzinfo=UTC))


async def test_reads_see_what_was_written_and_read_before(
    client: AtlasClient, platform: Platform
) -> None:
    session = client.session()
    await session.get_entities(["pump-1"])  # Nothing seen yet: the platform's default.
    assert not platform.requests[-1].HasField("consistency")
    assert session.token == token(l2=1)
    await session.write([POINT])
    await session.get_entities(["pump-1"])
    assert platform.requests[-1].consistency.at_least_as_fresh == token(l1=2, l2=1)
    assert session.token == token(l1=2, l2=3)


async def test_every_kind_of_read_carries_and_merges_tokens(
    client: AtlasClient, platform: Platform
) -> None:
    session = client.session()
    session.observe(token(l1=1000))
    platform.pages = [query_service_pb2.FindEntitiesResponse()]
    platform.history = [query_service_pb2.GetHistoryResponse()]
    assert [state async for state in session.find_entities({"on": True})] == []
    assert [reading async for reading in session.history("pump-1")] == []
    rows = session.aggregate(["rpm"], [AggregateFunction.COUNT])
    assert [row async for row in rows] == []
    find, history, aggregate = platform.requests
    assert find.consistency.at_least_as_fresh == token(l1=1000)
    assert history.consistency.at_least_as_fresh == token(l1=1000, l2=1)
    assert aggregate.consistency.analytics.token == token(l1=1000, l2=2)
    assert session.token == token(l1=1000, l2=3)


async def test_an_asked_consistency_is_kept_and_strengthened(
    client: AtlasClient, platform: Platform
) -> None:
    session = client.session()
    session.observe(token(l1=5))
    await session.get_entities(["a"], consistency=eventual(timedelta(seconds=1)))
    asked = platform.requests[-1].consistency.eventual
    assert asked.token == token(l1=5)
    assert asked.max_staleness.seconds == 1
    await session.get_entities(["a"], consistency=strong())
    assert platform.requests[-1].consistency.strong.token == token(l1=5, l2=1)  # Lost is told.
    rows = session.aggregate(
        ["a"], [AggregateFunction.COUNT], consistency=analytics(token=token(l9=1))
    )
    assert [row async for row in rows] == []
    assert platform.requests[-1].consistency.analytics.token == token(l1=5, l2=2, l9=1)


async def test_tokens_of_two_tenants_do_not_mix(client: AtlasClient) -> None:
    session = client.session()
    session.observe(token(tenant_id=1, l1=1))
    with pytest.raises(MalformedTokenError):
        session.observe(token(tenant_id=2, l1=1))
    session.forget()
    session.observe(token(tenant_id=2, l1=1))
