"""A tenant whose keys and values are unmistakable, searched for in all that is not its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from atlas.query.v1 import query_service_pb2
from atlas_client import AggregateFunction, AtlasClient, Attribute, DataType, Point
from atlas_client.consistency import analytics, at_least_as_fresh, strong
from atlas_client.errors import AtlasError

from .fortress import Fortress

CANARY = "kanarienvogel"
KEY = f"{CANARY}-pump"
VALUE = f"{CANARY}-value"
COUNT = 7_777_777_771
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def acme(held: Fortress) -> AsyncIterator[AtlasClient]:
    async with held.client(held.token("acme"), "acme") as client:
        await client.upsert_attributes(
            [
                Attribute(f"{CANARY}.text", DataType.TEXT, hot=True),
                Attribute("label", DataType.TEXT, hot=True),
            ]
        )
        yield client


@pytest.fixture
async def globex(held: Fortress) -> AsyncIterator[AtlasClient]:
    async with held.client(held.token("globex"), "globex") as client:
        await client.upsert_attributes([Attribute("label", DataType.TEXT, hot=True)])
        yield client


async def test_the_canary_is_heard_nowhere_in_the_other_tenants_traffic(
    held: Fortress, acme: AtlasClient, globex: AtlasClient
) -> None:
    written = await acme.write(
        [
            point
            for number in range(3)
            for point in (
                Point(f"{KEY}-{number}", "rpm", COUNT),
                Point(f"{KEY}-{number}", "label", VALUE),
                Point(f"{KEY}-{number}", f"{CANARY}.text", VALUE),
            )
        ]
    )
    own = await acme.get_entities([f"{KEY}-0"], consistency=strong())
    assert CANARY in repr(own), "the canary does not sing, so that nothing is proven"
    await acme.get_entities([f"{KEY}-0"])
    page = await acme._caller.unary(
        acme._query.FindEntities, query_service_pb2.FindEntitiesRequest(page_size=1)
    )
    assert page.next_page_token
    mine = await globex.write([Point("globex-pump", "rpm", 1), Point("globex-pump", "label", "x")])
    fresh = at_least_as_fresh(mine.token)

    # What the other tenant knows of nothing of the canary's, and hears of itself.
    heard = [
        await said(globex.write([Point("globex-pump", "rpm", 2)])),
        await said(globex.get_entities(["globex-pump"], include_cold=True, consistency=fresh)),
        await said(all_of(globex.find_entities({"label": "x"}, consistency=fresh))),
        await said(all_of(globex.history("globex-pump", consistency=fresh))),
        await said(all_of(globex.list_entities())),
        await said(all_of(globex.list_attributes())),
        await said(
            all_of(globex.aggregate(["rpm"], [AggregateFunction.MAX], consistency=analytics()))
        ),
        await said(first_of(globex.watch(["globex-pump"]))),
        await said(all_of(globex.reconcile())),
    ]
    assert all("globex" in each or "rpm" in each or "accepted" in each for each in heard[:6])
    # And what it gets by tokens of the canary's, which are refused.
    stolen = query_service_pb2.FindEntitiesRequest(page_size=1, page_token=page.next_page_token)
    refused = [
        await refusal(globex._caller.unary(globex._query.FindEntities, stolen)),
        await refusal(
            globex.get_entities(["globex-pump"], consistency=at_least_as_fresh(written.token))
        ),
        await refusal(first_of(globex.watch(["globex-pump"], resume_token=written.token))),
    ]
    for each in heard + refused:
        assert CANARY not in each
        assert str(COUNT) not in each
    # Its keys are its own: asked for by name they are not there, and said back only as asked.
    guessed = await globex.get_entities([f"{KEY}-0"], include_cold=True, consistency=strong())
    assert guessed.entities == ()
    assert guessed.not_found == (f"{KEY}-0",)
    assert await all_of(globex.find_entities({"label": VALUE}, consistency=strong())) == []

    files = [file for file in held.stack.state.logs.iterdir() if file.is_file()]
    assert {"query.log", "query.spans.jsonl", "ingest.spans.jsonl"} <= {file.name for file in files}
    for file in files:
        text = file.read_bytes()
        for secret in (VALUE, str(COUNT)):
            assert secret.encode() not in text, file.name


async def said(call: Awaitable[Any]) -> str:
    return repr(await call)


async def refusal(call: Awaitable[Any]) -> str:
    with pytest.raises(AtlasError) as refused:
        await call
    return repr(refused.value) + str(refused.value)


async def all_of(stream: Any) -> list[Any]:
    return [each async for each in stream]


async def first_of(watch: Any) -> Any:
    async with asyncio.timeout(60):
        return await anext(aiter(watch))
